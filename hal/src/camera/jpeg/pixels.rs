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
    // Sums of four bytes cannot overflow; said so, the loop vectorises.
    let part = |near: u8, far: u8, round: u16| {
        (3u16.wrapping_mul(u16::from(near)).wrapping_add(u16::from(far)).wrapping_add(round) >> 2) as u8
    };
    ends(out, samples[0], samples[last]);
    inner(out, |pairs| {
        for (pair, near) in pairs.chunks_exact_mut(2).zip(samples.windows(2)) {
            pair[0] = part(near[0], near[1], 2);
            pair[1] = part(near[1], near[0], 1);
        }
    });
}

/// The first and the last pixel of a row, which have one neighbour each.
fn ends(out: &mut [u8], first: u8, last: u8) {
    if let Some(pixel) = out.first_mut() {
        *pixel = first;
    }
    // A row of an odd width ends within a pair.
    if out.len().is_multiple_of(2)
        && let Some(pixel) = out.last_mut()
    {
        *pixel = last;
    }
}

/// The pairs of pixels that lie between two samples each: 1 and 2, 3 and 4, and so on.
fn inner(out: &mut [u8], fill: impl FnOnce(&mut [u8])) {
    let whole = out.len().saturating_sub(1) / 2 * 2;
    if let Some(pairs) = out.get_mut(1..1 + whole) {
        fill(pairs);
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
    let sum = |(&near, &far): (&u8, &u8)| 3u16.wrapping_mul(u16::from(near)).wrapping_add(u16::from(far));
    sums.extend(near.iter().zip(far).map(sum));
    let part =
        |near: u16, far: u16, round: u16| (3u16.wrapping_mul(near).wrapping_add(far).wrapping_add(round) >> 4) as u8;
    ends(out, part(sums[0], sums[0], 8), part(sums[last], sums[last], 7));
    inner(out, |pairs| {
        for (pair, near) in pairs.chunks_exact_mut(2).zip(sums.windows(2)) {
            pair[0] = part(near[0], near[1], 7);
            pair[1] = part(near[1], near[0], 8);
        }
    });
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
            // 1.402, 0.71414, 0.34414 and 1.772 in 1/65536; nothing here can overflow.
            let (y, cb, cr) = (i32::from(y), i32::from(cb).wrapping_sub(128), i32::from(cr).wrapping_sub(128));
            let part = |sum: i32| y.wrapping_add(sum.wrapping_add(32_768) >> 16).clamp(0, 255) as u8;
            pixel[0] = part(91_881i32.wrapping_mul(cr));
            pixel[1] = part((-22_554i32).wrapping_mul(cb).wrapping_sub(46_802i32.wrapping_mul(cr)));
            pixel[2] = part(116_130i32.wrapping_mul(cb));
        }
    }
}
