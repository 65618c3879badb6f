//! Bilinear resampling of packed RGB, planes out, with the weights of a size worked out once.
//!
//! An output row is first blended from its source rows, then each output pixel from that blended row, in f32 throughout;
//! the one rounding is the last. Libraries that resample (`fast_image_resize` among them) work their weights out again,
//! on the heap, at every call.

use super::Resize;

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
}

impl Taps {
    fn new(resize: Resize, from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let ranges: Vec<(usize, Vec<f64>)> = (0..to)
            .map(|output| match resize {
                Resize::BilinearAntialiased => antialiased(output, scale, from),
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
        Self { first, count, weights: all }
    }

    fn of(&self, output: usize) -> (usize, &[f32]) {
        (self.first[output], &self.weights[output * self.count..(output + 1) * self.count])
    }
}

/// A triangle as wide as the sources an output covers (PIL's `precompute_coeffs` with its bilinear filter).
fn antialiased(output: usize, scale: f64, from: usize) -> (usize, Vec<f64>) {
    let (centre, reach) = ((output as f64 + 0.5) * scale, scale.max(1.0));
    let first = (centre - reach + 0.5).max(0.0) as usize;
    let end = ((centre + reach + 0.5) as usize).min(from);
    let weights: Vec<f64> =
        (first..end).map(|source| (1.0 - ((source as f64 + 0.5 - centre) / reach).abs()).max(0.0)).collect();
    let sum: f64 = weights.iter().sum();
    (first, weights.iter().map(|weight| weight / sum).collect())
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
    /// One blended row, `[w, 3]`, and a last value so that four can be read at every pixel.
    line: Vec<f32>,
    /// u8 → 0..1.
    levels: [f32; 256],
    has_avx2: bool,
}

impl Resampler {
    /// Works the weights out; sizes are not zero.
    ///
    /// # Real-time
    /// Allocates.
    pub(super) fn new(resize: Resize, from: (usize, usize), placement: Placement) -> Self {
        #[cfg(target_arch = "x86_64")]
        let has_avx2 = std::arch::is_x86_feature_detected!("avx2");
        #[cfg(not(target_arch = "x86_64"))]
        let has_avx2 = false;
        Self {
            resize,
            from,
            placement,
            columns: Taps::new(resize, from.0, placement.size.0),
            rows: Taps::new(resize, from.1, placement.size.1),
            line: vec![0.0; from.0 * 3 + 1],
            levels: std::array::from_fn(|level| level as f32 / 255.0),
            has_avx2,
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

    /// The same code, compiled for wider registers; additions keep their order, so results are the same.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2(&mut self, pixels: &[u8], planes: &mut [f32]) {
        self.run_plain(pixels, planes);
    }

    #[inline(always)]
    fn run_plain(&mut self, pixels: &[u8], planes: &mut [f32]) {
        let Placement { size, corner, slot } = self.placement;
        let (plane, stride) = (slot.0 * slot.1, self.from.0 * 3);
        let (red, rest) = planes.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        for y in 0..size.1 {
            let (first, weights) = self.rows.of(y);
            blend(&pixels[first * stride..(first + weights.len()) * stride], weights, &mut self.line[..stride]);
            let start = (corner.1 + y) * slot.0 + corner.0;
            let (red, green) = (&mut red[start..start + size.0], &mut green[start..start + size.0]);
            let blue = &mut blue[start..start + size.0];
            for x in 0..size.0 {
                let (first, weights) = self.columns.of(x);
                let window = &self.line[first * 3..(first + weights.len()) * 3 + 1];
                let level = |value: f32| self.levels[usize::from((value + 0.5) as u8)];
                let sum = gather(window, weights);
                (red[x], green[x], blue[x]) = (level(sum[0]), level(sum[1]), level(sum[2]));
            }
        }
    }
}

/// Weighted sum of rows of `line.len()` bytes.
#[inline(always)]
fn blend(rows: &[u8], weights: &[f32], line: &mut [f32]) {
    const BLOCK: usize = 32;
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

/// Weighted sum of pixels of three values; the fourth lane holds the next pixel's first value and means nothing.
#[inline(always)]
fn gather(window: &[f32], weights: &[f32]) -> [f32; 4] {
    let mut sum = [0.0f32; 4];
    for (tap, weight) in weights.iter().enumerate() {
        let Some(pixel) = window.get(tap * 3..tap * 3 + 4) else { break };
        for (sum, value) in sum.iter_mut().zip(pixel) {
            *sum += weight * value;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_output_sum_to_one_and_stay_inside() {
        for resize in [Resize::BilinearAntialiased, Resize::Bilinear] {
            for (from, to) in [(640, 96), (480, 224), (7, 32), (5, 5), (1, 9), (9, 1), (2, 3)] {
                let taps = Taps::new(resize, from, to);
                for output in 0..to {
                    let (first, weights) = taps.of(output);
                    assert!(first + weights.len() <= from, "{resize:?} {from} -> {to}, {output}");
                    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{resize:?} {from} -> {to}, {output}");
                }
            }
        }
    }

    #[test]
    fn both_builds_of_the_code_give_the_same_bits() {
        let placement = Placement { size: (53, 31), corner: (2, 3), slot: (60, 40) };
        let pixels: Vec<u8> = (0..131 * 77 * 3).map(|i| ((i * 2_654_435_761usize) >> 7) as u8).collect();
        for resize in [Resize::BilinearAntialiased, Resize::Bilinear] {
            let mut resampler = Resampler::new(resize, (131, 77), placement);
            let (mut wide, mut plain) = (vec![0.0; 7200], vec![0.0; 7200]);
            resampler.run(&pixels, &mut wide);
            resampler.run_plain(&pixels, &mut plain);
            assert_eq!(wide, plain);
        }
    }
}
