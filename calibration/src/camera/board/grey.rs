//! A grey image to sample between pixels.

/// `[h, w]` brightness, 0 to 255; the centre of the top-left pixel is (0, 0).
#[derive(Clone, Debug, PartialEq)]
pub struct Grey {
    width: usize,
    height: usize,
    data: Vec<f32>,
}

impl Grey {
    /// From `[h, w]` u8; `None` when the length is another.
    pub fn from_luma(width: usize, height: usize, data: &[u8]) -> Option<Self> {
        let data: Vec<f32> = data.iter().map(|&value| f32::from(value)).collect();
        (data.len() == width.checked_mul(height)? && !data.is_empty()).then_some(Self { width, height, data })
    }

    /// From `[h, w, 3]` RGB u8; `None` when the length is another.
    pub fn from_rgb(width: usize, height: usize, data: &[u8]) -> Option<Self> {
        if data.len() != width.checked_mul(height)?.checked_mul(3)? || data.is_empty() {
            return None;
        }
        // ITU-R BT.601 luma.
        let luma = |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
        Some(Self { width, height, data: data.chunks_exact(3).map(luma).collect() })
    }

    /// Pixels across.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pixels down.
    pub fn height(&self) -> usize {
        self.height
    }

    pub(super) fn pixel(&self, x: usize, y: usize) -> f64 {
        f64::from(self.data[y * self.width + x])
    }

    /// Between pixels, bilinear; `None` outside.
    pub(super) fn at(&self, [x, y]: [f64; 2]) -> Option<f64> {
        if !(x >= 0.0 && y >= 0.0 && x <= (self.width - 1) as f64 && y <= (self.height - 1) as f64) {
            return None;
        }
        let (left, top) = (x as usize, y as usize);
        let (right, bottom) = ((left + 1).min(self.width - 1), (top + 1).min(self.height - 1));
        let (u, v) = (x - left as f64, y - top as f64);
        let row = |y: usize| self.pixel(left, y) * (1.0 - u) + self.pixel(right, y) * u;
        Some(row(top) * (1.0 - v) + row(bottom) * v)
    }

    /// Blurred by a Gaussian of this standard deviation, pixels; edges are repeated.
    pub(super) fn blurred(&self, sigma: f64) -> Self {
        let reach = (3.0 * sigma).ceil() as isize;
        let weights: Vec<f32> =
            (-reach..=reach).map(|at| (-((at * at) as f64) / (2.0 * sigma * sigma)).exp() as f32).collect();
        let sum: f32 = weights.iter().sum();
        let pass = |data: &[f32], length: usize, stride: usize, lines: usize, step: usize| {
            let mut out = vec![0.0; data.len()];
            for line in 0..lines {
                for at in 0..length {
                    let mut value = 0.0;
                    for (offset, weight) in (-reach..).zip(&weights) {
                        let from = (at as isize + offset).clamp(0, length as isize - 1) as usize;
                        value += weight * data[line * step + from * stride];
                    }
                    out[line * step + at * stride] = value / sum;
                }
            }
            out
        };
        let across = pass(&self.data, self.width, 1, self.height, self.width);
        let data = pass(&across, self.height, self.width, self.width, 1);
        Self { width: self.width, height: self.height, data }
    }
}
