//! From planes to pixels: triangular up-sampling of chrominance and fixed-point colour, with libjpeg's rounding.

/// Samples of one component.
#[derive(Default)]
pub(super) struct Plane {
    samples: Vec<u8>,
    stride: usize,
    /// What of it belongs to the image.
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Plane {
    pub(super) fn resize(&mut self, width: usize, height: usize) {
        self.stride = width;
        self.samples.resize(width * height, 0);
    }

    /// Puts a block of 8 × 8 samples.
    pub(super) fn put(&mut self, column: usize, row: usize, block: &[u8; 64]) {
        for (offset, line) in block.chunks_exact(8).enumerate() {
            let start = (row + offset) * self.stride + column;
            self.samples[start..start + 8].copy_from_slice(line);
        }
    }

    /// A row of the image; above and below it the nearest one.
    fn row(&self, row: isize) -> &[u8] {
        let row = row.clamp(0, self.height as isize - 1) as usize;
        &self.samples[row * self.stride..row * self.stride + self.width]
    }
}

/// Chrominance of one row of pixels, and sums on the way.
#[derive(Default)]
pub(super) struct Rows {
    cb: Vec<u8>,
    cr: Vec<u8>,
    sums: Vec<u16>,
}

/// A row twice as wide: 3/4 of the nearer sample and 1/4 of the further, rounded down on the left and up on the right.
fn twice(samples: &[u8], out: &mut [u8]) {
    let last = samples.len() - 1;
    if last < 2 {
        // Too narrow for neighbours.
        out.iter_mut().enumerate().for_each(|(x, value)| *value = samples[(x / 2).min(last)]);
        return;
    }
    for (index, pair) in out.chunks_mut(2).enumerate() {
        let here = u16::from(samples[index]);
        let left = if index == 0 { here } else { (3 * here + u16::from(samples[index - 1]) + 1) >> 2 };
        let right = if index == last { here } else { (3 * here + u16::from(samples[index + 1]) + 2) >> 2 };
        pair[0] = left as u8;
        if let Some(second) = pair.get_mut(1) {
            *second = right as u8;
        }
    }
}

/// The same in both directions: `near` is the row that is nearer.
fn twice_both(near: &[u8], far: &[u8], sums: &mut Vec<u16>, out: &mut [u8]) {
    let last = near.len() - 1;
    if last < 2 {
        out.iter_mut().enumerate().for_each(|(x, value)| *value = near[(x / 2).min(last)]);
        return;
    }
    sums.clear();
    sums.extend(near.iter().zip(far).map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
    for (index, pair) in out.chunks_mut(2).enumerate() {
        let here = sums[index];
        let left = if index == 0 { 4 * here + 8 } else { 3 * here + sums[index - 1] + 8 };
        let right = if index == last { 4 * here + 7 } else { 3 * here + sums[index + 1] + 7 };
        pair[0] = (left >> 4) as u8;
        if let Some(second) = pair.get_mut(1) {
            *second = (right >> 4) as u8;
        }
    }
}

/// Converts the planes, whose chrominance is `ratio` times coarser across and down.
pub(super) fn to_rgb(planes: &[Plane; 3], ratio: (usize, usize), width: usize, rows: &mut Rows, rgb: &mut [u8]) {
    let Rows { cb, cr, sums } = rows;
    cb.resize(width, 0);
    cr.resize(width, 0);
    for (y, out) in rgb.chunks_exact_mut(3 * width).enumerate() {
        for (plane, chrominance) in planes[1..].iter().zip([&mut *cb, &mut *cr]) {
            let coarse = (y / ratio.1) as isize;
            match ratio {
                (2, 2) => {
                    let far = if y % 2 == 0 { coarse - 1 } else { coarse + 1 };
                    twice_both(plane.row(coarse), plane.row(far), sums, chrominance);
                }
                (2, _) => twice(plane.row(coarse), chrominance),
                _ => chrominance.copy_from_slice(&plane.row(coarse)[..width]),
            }
        }
        let luma = planes[0].row(y as isize);
        for ((pixel, &y), (&cb, &cr)) in out.chunks_exact_mut(3).zip(luma).zip(cb.iter().zip(cr.iter())) {
            // 1.402, 0.71414, 0.34414 and 1.772 in 1/65536.
            let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
            let red = y + ((91_881 * cr + 32_768) >> 16);
            let green = y + ((-22_554 * cb - 46_802 * cr + 32_768) >> 16);
            let blue = y + ((116_130 * cb + 32_768) >> 16);
            pixel.copy_from_slice(&[red, green, blue].map(|channel| channel.clamp(0, 255) as u8));
        }
    }
}
