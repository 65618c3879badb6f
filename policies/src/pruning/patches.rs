//! What the image itself says of its patches: how many edges one has, and whether it is as it was.

/// Sobel magnitude, grey levels 0..1, from which a pixel lies on an edge: Canny's upper threshold of SP-VLA, 200 of 255,
/// without its thinning and hysteresis.
const EDGE: f32 = 200.0 / 255.0;
/// A patch is still when the cosine with what it was is at least this (VLA-Cache, arXiv 2502.02175),
const STILL_COSINE: f64 = 0.996;
/// and its mean within so much of the range: the cosine does not see a change of brightness.
const STILL_LEVELS: f64 = 8.0 / 255.0;

/// The share of pixels on an edge of every patch of one image, `[3, h, w]` in 0..1, into `[grid²]` row-major. Pixels at the
/// rim have no gradient.
pub(crate) fn edge_shares(image: &[f32], (width, height): (usize, usize), grid: usize, into: &mut [f64]) {
    into.fill(0.0);
    let plane = width * height;
    let (Some(red), Some(green), Some(blue)) =
        (image.get(..plane), image.get(plane..2 * plane), image.get(2 * plane..3 * plane))
    else {
        return;
    };
    let pixels = (plane / (grid * grid).max(1)).max(1) as f64;
    // ITU-R BT.601.
    let grey = |at: usize| 0.299 * red[at] + 0.587 * green[at] + 0.114 * blue[at];
    for y in 1..height.saturating_sub(1) {
        // Columns left of, at and right of the pixel, weighted down and differenced down, each computed once.
        let column = |x: usize| {
            let (above, here, below) = (grey((y - 1) * width + x), grey(y * width + x), grey((y + 1) * width + x));
            (above + 2.0 * here + below, below - above)
        };
        if width < 3 {
            return;
        }
        let (mut left, mut middle) = (column(0), column(1));
        for x in 1..width - 1 {
            let right = column(x + 1);
            let (across, down) = (right.0 - left.0, left.1 + 2.0 * middle.1 + right.1);
            if across.abs() + down.abs() >= EDGE {
                into[patch_of(x, width, grid) + grid * patch_of(y, height, grid)] += 1.0 / pixels;
            }
            (left, middle) = (middle, right);
        }
    }
}

/// How alike every patch of one image is to what it was, `[grid²]`: the cosine, or −1 for one that is not still.
pub(crate) fn stillness(before: &[f32], now: &[f32], (width, height): (usize, usize), grid: usize, into: &mut [f64]) {
    for (patch, value) in into.iter_mut().enumerate() {
        let (mut aa, mut bb, mut ab, mut apart, mut count) = (0.0, 0.0, 0.0, 0.0, 0.0_f64);
        for_each_row(patch, (width, height), grid, |row| {
            for (a, b) in before[row.clone()].iter().zip(&now[row]) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                aa += a * a;
                bb += b * b;
                ab += a * b;
                apart += b - a;
                count += 1.0;
            }
        });
        // Two black patches have no direction and are alike.
        let cosine = if aa == 0.0 && bb == 0.0 { 1.0 } else { ab / (aa.sqrt() * bb.sqrt()).max(1e-12) };
        let is_still = cosine >= STILL_COSINE && (apart / count.max(1.0)).abs() <= STILL_LEVELS;
        *value = if is_still { cosine } else { -1.0 };
    }
}

/// Copies one patch of an image, `[3, h, w]`.
pub(crate) fn copy_patch(from: &[f32], into: &mut [f32], size: (usize, usize), grid: usize, patch: usize) {
    for_each_row(patch, size, grid, |row| into[row.clone()].copy_from_slice(&from[row]));
}

/// The rows of a patch in all three planes.
fn for_each_row(
    patch: usize,
    (width, height): (usize, usize),
    grid: usize,
    mut each: impl FnMut(core::ops::Range<usize>),
) {
    let edge = |index: usize, size: usize| (index * size).div_ceil(grid);
    let (column, line) = (patch % grid, patch / grid);
    for plane in 0..3 {
        for y in edge(line, height)..edge(line + 1, height) {
            let start = (plane * height + y) * width;
            each(start + edge(column, width)..start + edge(column + 1, width));
        }
    }
}

fn patch_of(at: usize, size: usize, grid: usize) -> usize {
    at * grid / size
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (8, 8);

    /// Grey levels by column and row.
    fn image(level: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        (0..3 * 64).map(|at| level(at % 8, at % 64 / 8)).collect()
    }

    #[test]
    fn a_step_lies_on_the_patches_it_crosses() {
        // White from column 3 on: pixels 2 and 3 of every row but the rim see a gradient of 4.
        let mut shares = [0.0; 4];
        edge_shares(&image(|x, _| f32::from(u8::from(x >= 3))), SIZE, 2, &mut shares);
        // Two pixels of rows 1 to 3, of the sixteen of a patch.
        assert_eq!(shares, [6.0 / 16.0, 0.0, 6.0 / 16.0, 0.0]);
        edge_shares(&image(|_, _| 0.5), SIZE, 2, &mut shares);
        assert_eq!(shares, [0.0; 4]);
        // A slope of a tenth a pixel is 0.8 by Sobel, just an edge; of a twentieth is none.
        edge_shares(&image(|x, _| x as f32 / 20.0), SIZE, 2, &mut shares);
        assert_eq!(shares, [0.0; 4]);
        edge_shares(&image(|x, _| x as f32 / 10.0), SIZE, 2, &mut shares);
        assert_eq!(shares, [9.0 / 16.0; 4]);
    }

    #[test]
    fn patches_are_still_until_pattern_or_brightness_change() {
        let before = image(|x, y| 0.3 + 0.05 * ((x + y) % 3) as f32);
        let mut still = [0.0; 4];
        stillness(&before, &before, SIZE, 2, &mut still);
        assert!(still.iter().all(|cosine| *cosine > 0.999));
        let mut now = before.clone();
        copy_patch(&image(|x, _| (x % 2) as f32), &mut now, SIZE, 2, 1);
        stillness(&before, &now, SIZE, 2, &mut still);
        assert_eq!(still.map(|cosine| cosine > 0.0), [true, false, true, true]);
        let brighter = image(|x, y| 0.34 + 0.05 * ((x + y) % 3) as f32);
        stillness(&before, &brighter, SIZE, 2, &mut still);
        assert_eq!(still, [-1.0; 4]);
        stillness(&image(|_, _| 0.0), &image(|_, _| 0.0), SIZE, 2, &mut still);
        assert_eq!(still, [1.0; 4]);
    }
}
