//! The three inner loops of the codec, compiled twice: for the build's baseline and, where the processor has it, AVX2.
//!
//! Every loop works element by element in a fixed order and without fused multiply-add, so both builds give the
//! same bits; only their speed differs. This is the one module of the crate with `unsafe`: calling a function that
//! was compiled for a processor feature, after asking the processor for it.

use super::dct::Dct;

/// Columns of a forward block.
pub(super) const LANES: usize = 8;
/// Frequencies of a forward block.
pub(super) const ROWS: usize = 4;

/// Which build of the loops to call. Only [`Build::detect`] makes one that is wide.
#[derive(Copy, Clone, Debug)]
pub(super) struct Build {
    #[cfg(target_arch = "x86_64")]
    has_avx2: bool,
}

/// One coefficient that is not zero: where it acts and how much.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Term {
    /// Start of its frequency in [`Dct::basis`].
    pub(super) basis: u32,
    /// Start of its accumulator.
    pub(super) sum: u32,
    pub(super) value: f64,
}

/// What quantising saw besides the numbers.
#[derive(Copy, Clone, Debug)]
pub(super) struct Seen {
    /// A value so near a half that the order of the sum could decide; or one out of i32.
    pub(super) is_doubtful: bool,
    pub(super) min: i32,
    pub(super) max: i32,
}

macro_rules! twice {
    ($(#[$doc:meta])* $name:ident, $wide:ident, $body:ident, ($($arg:ident: $type:ty),*) $(-> $out:ty)?) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn $wide($($arg: $type),*) $(-> $out)? {
            $body($($arg),*)
        }

        $(#[$doc])*
        pub(super) fn $name(self, $($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            if self.has_avx2 {
                // SAFETY: `has_avx2` is private and only `detect` sets it, from what the processor says.
                return unsafe { Self::$wide($($arg),*) };
            }
            $body($($arg),*)
        }
    };
}

impl Build {
    /// The best build for this processor.
    pub(super) fn detect() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            has_avx2: std::arch::is_x86_feature_detected!("avx2"),
        }
    }

    /// The build's baseline, to compare with.
    #[cfg(test)]
    pub(super) fn baseline() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            has_avx2: false,
        }
    }

    twice!(
        /// Adds every term's half column to its sum.
        accumulate, accumulate_avx2, accumulate_body,
        (terms: &[Term], basis: &[f64], lanes: usize, sums: &mut [f64])
    );
    twice!(
        /// Folded rows to coefficients, `[H, padded D]`.
        transform, transform_avx2, transform_body,
        (dct: &Dct, folded: &[f64], columns: usize, spectrum: &mut [f64])
    );
    twice!(
        /// Sums and differences of the rows that mirror each other, `[2, half, columns]` with columns zero-padded;
        /// returns the largest |action|, as bits.
        fold, fold_avx2, fold_body,
        (dims: usize, actions: &[f64], columns: usize, folded: &mut [f64]) -> u64
    );
    twice!(
        /// Coefficients to code points, the padding left out.
        pack, pack_avx2, pack_body,
        (quantised: &[i32], columns: usize, dims: usize, min: i32, codes: &mut Vec<u32>)
    );
    twice!(
        /// Scales and rounds half to even.
        quantise, quantise_avx2, quantise_body,
        (spectrum: &[f64], scale: f64, margin: f64, out: &mut [i32]) -> Seen
    );
    twice!(
        /// Whether every `even ± odd` is within ±limit.
        within, within_avx2, within_body,
        (sums: &[f64], lanes: usize, limit: f64) -> bool
    );
}

#[inline(always)]
fn accumulate_body(terms: &[Term], basis: &[f64], lanes: usize, sums: &mut [f64]) {
    for term in terms {
        let weights = &basis[term.basis as usize..][..lanes];
        let sums = &mut sums[term.sum as usize..][..lanes];
        for (sums, weights) in sums.chunks_exact_mut(4).zip(weights.chunks_exact(4)) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += weight * term.value;
            }
        }
    }
}

#[inline(always)]
fn transform_body(dct: &Dct, folded: &[f64], columns: usize, spectrum: &mut [f64]) {
    let half = dct.half();
    for parity in 0..2 {
        let rows = &folded[parity * half * columns..][..half * columns];
        for (block, weights) in dct.packed(parity).chunks_exact(half * ROWS).enumerate() {
            for column in (0..columns).step_by(LANES) {
                let mut sums = [[0.0f64; LANES]; ROWS];
                for (row, weights) in rows.chunks_exact(columns).zip(weights.chunks_exact(ROWS)) {
                    let row = &row[column..][..LANES];
                    for (sums, weight) in sums.iter_mut().zip(weights) {
                        for (sum, value) in sums.iter_mut().zip(row) {
                            *sum += weight * value;
                        }
                    }
                }
                for (index, sums) in sums.iter().enumerate() {
                    let frequency = 2 * (block * ROWS + index) + parity;
                    if let Some(out) = spectrum.get_mut(frequency * columns + column..).and_then(|s| s.get_mut(..LANES))
                    {
                        out.copy_from_slice(sums);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn fold_body(dims: usize, actions: &[f64], columns: usize, folded: &mut [f64]) -> u64 {
    // The order of |floats| is that of their bits, infinities and NaN last.
    let mut largest = 0u64;
    for value in actions {
        largest = largest.max(value.abs().to_bits());
    }
    let horizon = actions.len() / dims;
    let half = horizon.div_ceil(2);
    let (even, odd) = folded.split_at_mut(half * columns);
    let mirrored = actions.chunks_exact(dims).zip(actions.chunks_exact(dims).rev());
    let rows = even.chunks_exact_mut(columns).zip(odd.chunks_exact_mut(columns));
    for ((first, last), (even, odd)) in mirrored.zip(rows) {
        for (((even, odd), a), b) in even.iter_mut().zip(odd).zip(first).zip(last) {
            (*even, *odd) = (a + b, a - b);
        }
    }
    if horizon % 2 == 1 {
        let at = (half - 1) * columns;
        even[at..][..dims].copy_from_slice(&actions[(half - 1) * dims..][..dims]);
        odd[at..][..dims].fill(0.0);
    }
    largest
}

#[inline(always)]
fn pack_body(quantised: &[i32], columns: usize, dims: usize, min: i32, codes: &mut Vec<u32>) {
    codes.clear();
    for row in quantised.chunks_exact(columns) {
        // In range, so the differences are in 0..=max − min.
        codes.extend(row[..dims].iter().map(|value| value.wrapping_sub(min) as u32));
    }
}

/// 1.5 · 2⁵²: adding it leaves a number's integer part, rounded half to even, in the low bits.
const ROUNDER: f64 = 6_755_399_441_055_744.0;

#[inline(always)]
fn quantise_body(spectrum: &[f64], scale: f64, margin: f64, out: &mut [i32]) -> Seen {
    let (mut is_doubtful, mut min, mut max) = (false, i32::MAX, i32::MIN);
    for (value, out) in spectrum.iter().zip(out) {
        let value = value * scale;
        let shifted = value + ROUNDER;
        let rounded = shifted - ROUNDER;
        let distance = (value - rounded).abs();
        // NaN is neither.
        let (is_clear, is_small) = (distance < 0.5 - margin, value.abs() < 1e9);
        is_doubtful |= !is_clear | !is_small;
        *out = shifted.to_bits() as i32;
        min = min.min(*out);
        max = max.max(*out);
    }
    Seen { is_doubtful, min, max }
}

#[inline(always)]
fn within_body(sums: &[f64], lanes: usize, limit: f64) -> bool {
    let mut is_within = true;
    for pair in sums.chunks_exact(2 * lanes) {
        let (even, odd) = pair.split_at(lanes);
        for (e, o) in even.iter().zip(odd) {
            is_within &= ((e + o).abs() <= limit) & ((e - o).abs() <= limit);
        }
    }
    is_within
}
