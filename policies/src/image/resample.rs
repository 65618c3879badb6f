//! Resampling of packed RGB, planes out, with the weights of a size worked out once.
//!
//! An output row is first blended from its source rows, then each output pixel from that blended row, in f32 or, where
//! no weight is negative, in 256ths of a level; the one rounding to levels is the last. PIL's bicubic filter goes the other way and cuts to whole levels in between: it
//! overshoots at edges, so where the cut comes is seen. Libraries that resample (`fast_image_resize` among them) work their weights out again,
//! on the heap, at every call.

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::Resize;

use core::ops::Range;

/// Values of a row that are weighed at once: two pixels and two lanes that weigh nothing.
const LANES: usize = 8;

/// The brightest level.
const WHITE: f32 = 255.0;

/// A slot's target: where in which planes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// Pixels across and down of the scaled image.
    pub(super) size: (usize, usize),
    /// Its left and top pixel in the slot.
    pub(super) corner: (usize, usize),
    /// Pixels across and down of the slot.
    pub(super) slot: (usize, usize),
}

/// Weights of every output along one axis.
#[derive(Clone, Debug)]
struct Taps {
    /// The first source of each output.
    first: Vec<usize>,
    /// Sources of an output, the same for all; some weights are 0.
    count: usize,
    /// `[outputs, count]`.
    weights: Vec<f32>,
    /// The same in 65536ths; empty where a weight is negative.
    shares: Vec<u16>,
    /// The same for two sources at a time, `[outputs, pairs]`: three lanes of the first, three of the second, two of 0.
    doubled: Vec<[f32; LANES]>,
}

impl Taps {
    fn new(resize: Resize, from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let ranges: Vec<(usize, Vec<f64>)> = (0..to)
            .map(|output| match resize {
                Resize::BilinearAntialiased => antialiased(output, scale, from, 1.0, triangle),
                Resize::BicubicAntialiased => antialiased(output, scale, from, 2.0, cubic),
                Resize::Lanczos3Antialiased => antialiased(output, scale, from, 3.0, lanczos3),
                Resize::Bilinear | Resize::None => interpolated(output, scale, from),
            })
            .collect();
        let count = ranges.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        let mut first = Vec::with_capacity(to);
        let mut all = vec![0.0; to * count];
        for ((start, weights), into) in ranges.iter().zip(all.chunks_exact_mut(count.max(1))) {
            // Moved back where the last ones would be read past the end.
            let moved = (*start).min(from - count);
            first.push(moved);
            for (into, weight) in into[start - moved..].iter_mut().zip(weights) {
                *into = *weight as f32;
            }
        }
        let is_positive = all.iter().all(|weight| *weight >= 0.0);
        let shares = all.iter().filter(|_| is_positive).map(|weight| share(*weight)).collect();
        let doubled = all.chunks_exact(count.max(1)).flat_map(|weights| weights.chunks(2).map(doubled)).collect();
        Self { first, count, weights: all, shares, doubled }
    }

    /// The sources of an output.
    fn sources(&self, output: usize) -> Range<usize> {
        self.first[output]..self.first[output] + self.count
    }

    /// Where an output's weights lie.
    fn at(&self, output: usize) -> Range<usize> {
        output * self.count..(output + 1) * self.count
    }

    /// Each output's first source and doubled weights.
    #[inline(always)]
    fn pairs(&self) -> impl Iterator<Item = (usize, &[[f32; LANES]])> {
        self.first.iter().copied().zip(self.doubled.chunks_exact(self.count.div_ceil(2).max(1)))
    }
}

/// A weight of 0..=1 in 65536ths; a whole one loses one of them.
fn share(weight: f32) -> u16 {
    (f64::from(weight) * 65536.0).round().min(f64::from(u16::MAX)) as u16
}

/// One or two weights, a lane for each channel.
fn doubled(weights: &[f32]) -> [f32; LANES] {
    let (first, second) = (weights[0], weights.get(1).copied().unwrap_or(0.0));
    [first, first, first, second, second, second, 0.0, 0.0]
}

/// A filter of this half-width, made as wide as the sources an output covers (PIL's `precompute_coeffs`).
fn antialiased(output: usize, scale: f64, from: usize, half: f64, filter: fn(f64) -> f64) -> (usize, Vec<f64>) {
    let (centre, stretch) = ((output as f64 + 0.5) * scale, scale.max(1.0));
    let reach = half * stretch;
    let first = (centre - reach + 0.5).max(0.0) as usize;
    let end = ((centre + reach + 0.5) as usize).min(from);
    let weights: Vec<f64> = (first..end).map(|source| filter((source as f64 + 0.5 - centre) / stretch)).collect();
    let sum: f64 = weights.iter().sum();
    (first, weights.iter().map(|weight| weight / sum).collect())
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic with a = −½, as PIL and torchvision's antialiased bicubic have it.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Lanczos of order 3, as TensorFlow and JAX have it.
fn lanczos3(x: f64) -> f64 {
    let turn = core::f64::consts::PI * x;
    if x.abs() >= 3.0 {
        0.0
    } else if x.abs() < 1e-9 {
        1.0
    } else {
        3.0 * turn.sin() * (turn / 3.0).sin() / (turn * turn)
    }
}

/// Between the two nearest sources, the edge ones held (OpenCV's `INTER_LINEAR`).
fn interpolated(output: usize, scale: f64, from: usize) -> (usize, Vec<f64>) {
    let at = ((output as f64 + 0.5) * scale - 0.5).clamp(0.0, (from - 1) as f64);
    let first = at as usize;
    let part = at - first as f64;
    if part == 0.0 { (first, vec![1.0]) } else { (first, vec![1.0 - part, part]) }
}

/// Resamples frames of one size into one placement.
#[derive(Clone, Debug)]
pub(super) struct Resampler {
    resize: Resize,
    from: (usize, usize),
    placement: Placement,
    columns: Taps,
    rows: Taps,
    /// One source or blended row, `[w, 3]`, and what the last lanes read past it.
    line: Vec<f32>,
    /// One finished row, `[w]` of the target; the fourth lane means nothing.
    done: Vec<[f32; 4]>,
    /// For the filter that goes across first: all source rows, `[h of the source, w of the target]`, in whole levels.
    across: Vec<[f32; 4]>,
    has_avx2: bool,
}

impl Resampler {
    /// Works the weights out; sizes are not zero.
    ///
    /// # Real-time
    /// Allocates.
    pub(super) fn new(resize: Resize, from: (usize, usize), placement: Placement) -> Self {
        Self {
            resize,
            from,
            placement,
            columns: Taps::new(resize, from.0, placement.size.0),
            rows: Taps::new(resize, from.1, placement.size.1),
            line: vec![0.0; from.0 * 3 + LANES],
            done: vec![[0.0; 4]; placement.size.0],
            across: vec![[0.0; 4]; if resize == Resize::BicubicAntialiased { from.1 * placement.size.0 } else { 0 }],
            has_avx2: has_avx2(),
        }
    }

    /// Whether it was made for this.
    pub(super) fn fits(&self, resize: Resize, from: (usize, usize), placement: Placement) -> bool {
        (self.resize, self.from, self.placement) == (resize, from, placement)
    }

    /// Writes `pixels`, packed RGB of the size it was made for, into the planes of the slot; what lies outside the
    /// placement is left as it is.
    ///
    /// # Real-time
    /// Does not allocate.
    pub(super) fn run(&mut self, pixels: &[u8], planes: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.has_avx2 {
            // SAFETY: the processor has AVX2, asked when this was made.
            unsafe { self.run_avx2(pixels, planes) };
            return;
        }
        self.run_plain(pixels, planes);
    }

    /// The same sums in the same order, by AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2(&mut self, pixels: &[u8], planes: &mut [f32]) {
        let blend = |rows: &[u8], shares: &[u16], line: &mut [f32], next: &[u8]| {
            avx2::blend_shares(rows, shares, line, next);
        };
        self.run_with(pixels, planes, blend, |row, columns, done| avx2::gather(row, columns, done));
    }

    fn run_plain(&mut self, pixels: &[u8], planes: &mut [f32]) {
        self.run_with(pixels, planes, blend_shares, gather);
    }

    #[inline(always)]
    fn run_with(
        &mut self,
        pixels: &[u8],
        planes: &mut [f32],
        blend_shares: impl Fn(&[u8], &[u16], &mut [f32], &[u8]),
        gather: impl Fn(&[f32], &Taps, &mut [[f32; 4]]),
    ) {
        if self.resize == Resize::BicubicAntialiased {
            self.across_first(pixels, planes, gather);
        } else {
            self.down_first(pixels, planes, blend_shares, gather);
        }
    }

    /// Across, cut to whole levels, then down, as PIL does it.
    #[inline(always)]
    fn across_first(&mut self, pixels: &[u8], planes: &mut [f32], gather: impl Fn(&[f32], &Taps, &mut [[f32; 4]])) {
        let Placement { size, .. } = self.placement;
        for (row, into) in pixels.chunks_exact(self.from.0 * 3).zip(self.across.chunks_exact_mut(size.0)) {
            for (value, byte) in self.line.iter_mut().zip(row) {
                *value = f32::from(*byte);
            }
            gather(&self.line, &self.columns, into);
            for value in into.as_flattened_mut() {
                *value = whole_up(*value);
            }
        }
        for y in 0..size.1 {
            let weights = &self.rows.weights[self.rows.at(y)];
            self.done.fill([0.0; 4]);
            for (row, weight) in self.across[self.rows.first[y] * size.0..].chunks_exact(size.0).zip(weights) {
                for (sum, value) in self.done.as_flattened_mut().iter_mut().zip(row.as_flattened()) {
                    *sum += weight * value;
                }
            }
            for value in self.done.as_flattened_mut() {
                *value = whole_up(*value) / WHITE;
            }
            self.write(y, planes);
        }
    }

    /// Down, then across, with one rounding.
    #[inline(always)]
    fn down_first(
        &mut self,
        pixels: &[u8],
        planes: &mut [f32],
        blend_shares: impl Fn(&[u8], &[u16], &mut [f32], &[u8]),
        gather: impl Fn(&[f32], &Taps, &mut [[f32; 4]]),
    ) {
        let (height, stride) = (self.placement.size.1, self.from.0 * 3);
        let rows = |sources: Range<usize>| &pixels[sources.start * stride..sources.end * stride];
        for y in 0..height {
            let (sources, weights) = (self.rows.sources(y), self.rows.at(y));
            let next = if y + 1 < height { rows(sources.end..self.rows.sources(y + 1).end) } else { &[] };
            let line = &mut self.line[..stride];
            if self.rows.shares.is_empty() {
                touch(next);
                blend(rows(sources), &self.rows.weights[weights], line);
            } else {
                blend_shares(rows(sources), &self.rows.shares[weights], line, next);
            }
            gather(&self.line, &self.columns, &mut self.done);
            for value in self.done.as_flattened_mut() {
                *value = level(*value);
            }
            self.write(y, planes);
        }
    }

    /// Writes the finished row into the planes.
    #[inline(always)]
    fn write(&self, y: usize, planes: &mut [f32]) {
        let Placement { size, corner, slot } = self.placement;
        let start = (corner.1 + y) * slot.0 + corner.0;
        for (channel, values) in planes.chunks_exact_mut(slot.0 * slot.1).enumerate().take(3) {
            for (value, done) in values[start..start + size.0].iter_mut().zip(&self.done) {
                *value = done[channel];
            }
        }
    }
}

/// Reads one byte of every cache line, in order: a frame lies in memory or in another core's caches, and a blend over
/// several rows asks for its lines in an order that is not fetched ahead.
#[inline(always)]
fn touch(bytes: &[u8]) {
    core::hint::black_box(bytes.iter().step_by(64).fold(0, |all, byte| all ^ byte));
}

/// A value as a whole level, brought to 0..1.
#[inline(always)]
fn level(value: f32) -> f32 {
    rounded(value).clamp(0.0, WHITE) / WHITE
}

/// The whole level of a value, halves up, as PIL has them; a half is what f32 arithmetic leaves of one.
#[inline(always)]
fn whole_up(value: f32) -> f32 {
    rounded(value + 1e-4).clamp(0.0, WHITE)
}

/// The nearest whole number of a value between ±2²²: adding 1.5 · 2²³ leaves no bits behind the point.
#[inline(always)]
fn rounded(value: f32) -> f32 {
    const WHOLE: f32 = 12_582_912.0;
    (value + WHOLE) - WHOLE
}

/// Weighted sum of rows of `line.len()` bytes.
#[inline(always)]
fn blend(rows: &[u8], weights: &[f32], line: &mut [f32]) {
    const BLOCK: usize = 64;
    let stride = line.len();
    let mut blocks = line.chunks_exact_mut(BLOCK);
    let mut at = 0;
    for block in &mut blocks {
        let mut sum = [0.0f32; BLOCK];
        for (row, weight) in rows.chunks_exact(stride).zip(weights) {
            for (sum, byte) in sum.iter_mut().zip(&row[at..at + BLOCK]) {
                *sum += weight * f32::from(*byte);
            }
        }
        block.copy_from_slice(&sum);
        at += BLOCK;
    }
    for value in blocks.into_remainder() {
        *value = rows.chunks_exact(stride).zip(weights).map(|(row, weight)| weight * f32::from(row[at])).sum();
        at += 1;
    }
}

/// As [`blend`], each product cut to 256ths of a level: off the true sum by at most a tenth of a level for ten rows.
/// `next` is what the row after this one reads and this one does not.
fn blend_shares(rows: &[u8], shares: &[u16], line: &mut [f32], next: &[u8]) {
    touch(next);
    blend_shares_from(0, rows, shares, line);
}

/// From this value of the line on.
#[inline(always)]
fn blend_shares_from(from: usize, rows: &[u8], shares: &[u16], line: &mut [f32]) {
    const BLOCK: usize = 32;
    let stride = line.len();
    let mut at = from;
    for block in line[from..].chunks_mut(BLOCK) {
        let mut sum = [half_of(shares); BLOCK];
        for (row, share) in rows.chunks_exact(stride).zip(shares) {
            for (sum, byte) in sum.iter_mut().zip(&row[at..at + block.len()]) {
                *sum += ((u32::from(*byte) << 8) * u32::from(*share)) >> 16;
            }
        }
        for (value, sum) in block.iter_mut().zip(sum) {
            *value = sum as f32 * SHARE_LEVELS;
        }
        at += block.len();
    }
}

/// A 256th, in levels.
const SHARE_LEVELS: f32 = 1.0 / 256.0;

/// What cutting takes from a sum in the mean, 256ths of a level.
#[inline(always)]
fn half_of(shares: &[u16]) -> u32 {
    shares.len() as u32 / 2
}

/// Weighted sums of the pixels of a row, two at a time.
fn gather(row: &[f32], columns: &Taps, done: &mut [[f32; 4]]) {
    for (done, (first, weights)) in done.iter_mut().zip(columns.pairs()) {
        let mut sum = [0.0f32; LANES];
        let mut rest = &row[first * 3..];
        for weight in weights {
            let Some(values) = rest.first_chunk::<LANES>() else { break };
            sum = std::array::from_fn(|lane| sum[lane] + weight[lane] * values[lane]);
            rest = &rest[6..];
        }
        *done = [sum[0] + sum[3], sum[1] + sum[4], sum[2] + sum[5], sum[3] + sum[6]];
    }
}

/// Writes packed pixels, `[h, w, 3]`, as three planes of the same size.
///
/// # Real-time
/// Does not allocate.
pub(super) fn split(pixels: &[u8], planes: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has AVX2, asked just now (the answer is kept by the standard library).
        unsafe { split_avx2(pixels, planes) };
        return;
    }
    split_plain(pixels, planes);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn split_avx2(pixels: &[u8], planes: &mut [f32]) {
    split_plain(pixels, planes);
}

#[inline(always)]
fn split_plain(pixels: &[u8], planes: &mut [f32]) {
    let plane = pixels.len() / 3;
    let (red, rest) = planes.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    let values = red.iter_mut().zip(green).zip(blue).zip(pixels.chunks_exact(3));
    for (((red, green), blue), pixel) in values {
        *red = f32::from(pixel[0]) / WHITE;
        *green = f32::from(pixel[1]) / WHITE;
        *blue = f32::from(pixel[2]) / WHITE;
    }
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Resize; 4] =
        [Resize::BilinearAntialiased, Resize::Bilinear, Resize::BicubicAntialiased, Resize::Lanczos3Antialiased];

    #[test]
    fn weights_of_every_output_sum_to_one_and_stay_inside() {
        for resize in ALL {
            for (from, to) in [(640, 96), (480, 224), (7, 32), (5, 5), (1, 9), (9, 1), (2, 3)] {
                let taps = Taps::new(resize, from, to);
                for output in 0..to {
                    let weights = &taps.weights[taps.at(output)];
                    assert!(taps.sources(output).end <= from, "{resize:?} {from} -> {to}, {output}");
                    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{resize:?} {from} -> {to}, {output}");
                    // White stays white within what a sum is cut by, and no sum passes 16 bits.
                    let shares = taps.shares.get(taps.at(output)).unwrap_or_default();
                    let white: u32 = shares.iter().map(|share| (WHITE as u32 * 256 * u32::from(*share)) >> 16).sum();
                    let sum = half_of(shares) + white;
                    assert!(shares.is_empty() || (65_270..=65_535).contains(&sum), "{resize:?} {from} -> {to}: {sum}");
                }
            }
        }
    }

    #[test]
    fn both_builds_of_the_code_give_the_same_bits() {
        let placement = Placement { size: (53, 31), corner: (2, 3), slot: (60, 40) };
        let pixels: Vec<u8> = (0..131 * 77 * 3).map(|i| ((i * 2_654_435_761usize) >> 7) as u8).collect();
        for resize in ALL {
            let mut resampler = Resampler::new(resize, (131, 77), placement);
            let (mut wide, mut plain) = (vec![0.0; 7200], vec![0.0; 7200]);
            resampler.run(&pixels, &mut wide);
            resampler.run_plain(&pixels, &mut plain);
            assert_eq!(wide, plain);
        }
    }
}
