//! The two sums of a resampling by AVX2: the same operations in the same order as the plain ones, so the same bits.
//! Compilers do not find them: products of which the upper half is kept, and two pixels of three channels in eight lanes.

use super::{LANES, SHARE_LEVELS, Taps, blend_shares_from, half_of};
use core::arch::x86_64::*;

/// Values blended at once.
const BLOCK: usize = 64;
/// Bytes fetched at once.
const CACHE_LINE: usize = 64;

/// [`super::blend_shares`]; what the next row reads is fetched meanwhile, some lines a block, in order: a frame lies in
/// memory or in another core's caches, and a blend over several rows asks for its lines in an order that is not fetched
/// ahead.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn blend_shares(rows: &[u8], shares: &[u16], line: &mut [f32], next: &[u8]) {
    let stride = line.len();
    assert!(rows.len() >= stride * shares.len(), "a row for each weight");
    let whole = stride - stride % BLOCK;
    let (zero, scale) = (_mm256_setzero_si256(), _mm256_set1_ps(SHARE_LEVELS));
    let half = _mm256_set1_epi16(half_of(shares) as i16);
    let mut ahead = next.chunks(CACHE_LINE);
    let lines_a_block = ahead.len().div_ceil((stride / BLOCK).max(1));
    for at in (0..whole).step_by(BLOCK) {
        for line in ahead.by_ref().take(lines_a_block) {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
        let mut sums = [half; 4];
        let mut from = rows.as_ptr().wrapping_add(at);
        for share in shares {
            // SAFETY: 64 bytes from `at + i * stride` on, within the row that the assertion counts.
            let (low, high) =
                unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(BLOCK / 2).cast())) };
            from = from.wrapping_add(stride);
            let share = _mm256_set1_epi16(share.cast_signed());
            // A byte above a zero byte: 256 times its value.
            let parts = [
                _mm256_unpacklo_epi8(zero, low),
                _mm256_unpackhi_epi8(zero, low),
                _mm256_unpacklo_epi8(zero, high),
                _mm256_unpackhi_epi8(zero, high),
            ];
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = _mm256_add_epi16(*sum, _mm256_mulhi_epu16(part, share));
            }
        }
        // Unpacking goes by halves of a register: values 0..8 and 16..24 in the first, 8..16 and 24..32 in the second.
        let [a, b, c, d] = sums;
        let eights = [
            _mm256_castsi256_si128(a),
            _mm256_castsi256_si128(b),
            _mm256_extracti128_si256::<1>(a),
            _mm256_extracti128_si256::<1>(b),
            _mm256_castsi256_si128(c),
            _mm256_castsi256_si128(d),
            _mm256_extracti128_si256::<1>(c),
            _mm256_extracti128_si256::<1>(d),
        ];
        for (eight, into) in eights.into_iter().zip(line[at..at + BLOCK].as_chunks_mut::<LANES>().0) {
            let values = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(eight)), scale);
            // SAFETY: `into` holds eight values.
            unsafe { _mm256_storeu_ps(into.as_mut_ptr(), values) };
        }
    }
    blend_shares_from(whole, rows, shares, line);
}

/// [`super::gather`], with the loop over a pixel's pairs unrolled for the usual numbers of them.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn gather(row: &[f32], columns: &Taps, done: &mut [[f32; 4]]) {
    match columns.count.div_ceil(2) {
        1 => gather_of::<1>(row, columns, done),
        2 => gather_of::<2>(row, columns, done),
        3 => gather_of::<3>(row, columns, done),
        4 => gather_of::<4>(row, columns, done),
        5 => gather_of::<5>(row, columns, done),
        6 => gather_of::<6>(row, columns, done),
        7 => gather_of::<7>(row, columns, done),
        8 => gather_of::<8>(row, columns, done),
        _ => {
            for (done, (first, weights)) in done.iter_mut().zip(columns.pairs()) {
                gather_one(row, first, weights, done);
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn gather_of<const PAIRS: usize>(row: &[f32], columns: &Taps, done: &mut [[f32; 4]]) {
    let weights = columns.doubled.as_chunks::<PAIRS>().0;
    for (done, (first, weights)) in done.iter_mut().zip(columns.first.iter().zip(weights)) {
        gather_one(row, *first, weights, done);
    }
}

/// One output pixel.
#[target_feature(enable = "avx2")]
#[inline]
fn gather_one(row: &[f32], first: usize, weights: &[[f32; LANES]], done: &mut [f32; 4]) {
    let read = &row[first * 3..][..weights.len() * 6 + LANES - 6];
    let mut sum = _mm256_setzero_ps();
    for (pair, weight) in weights.iter().enumerate() {
        // SAFETY: pair `i` reads eight values from `6 i` on, and `read` is `6 n + 2` long.
        let values = unsafe { _mm256_loadu_ps(read.as_ptr().add(pair * 6)) };
        // SAFETY: eight weights.
        let weight = unsafe { _mm256_loadu_ps(weight.as_ptr()) };
        sum = _mm256_add_ps(sum, _mm256_mul_ps(weight, values));
    }
    let (low, high) = (_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let second = _mm_alignr_epi8::<12>(_mm_castps_si128(high), _mm_castps_si128(low));
    // SAFETY: `done` holds four values.
    unsafe { _mm_storeu_ps(done.as_mut_ptr(), _mm_add_ps(low, _mm_castsi128_ps(second))) };
}
