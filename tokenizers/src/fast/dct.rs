//! Orthonormal DCT-II over time and its inverse, in f64, as a table of cosines.
//!
//! FAST (arXiv 2501.09747), section on the DCT-based tokenizer: each action dimension is
//! transformed alone. With H rows,
//! `C[k, j] = s_k · Σ_i A[i, j] · cos(π (2i + 1) k / 2H)`, `s_0 = √(1/H)`, `s_k = √(2/H)`,
//! which is `scipy.fft.dct(A, axis=0, norm="ortho")`. The matrix is orthogonal, so its transpose
//! is the inverse. H is some tens of rows: a plain product is exact to the last bits and takes
//! microseconds, where a fast transform would only add rounding paths.

use std::f64::consts::PI;

/// The `[H, H]` matrix of one horizon.
#[derive(Clone, Debug)]
pub(crate) struct Dct {
    horizon: usize,
    /// `[k, i]` row-major: frequency k, time i.
    matrix: Vec<f64>,
}

impl Dct {
    /// Table for `horizon` rows (at least 1).
    pub(crate) fn new(horizon: usize) -> Self {
        let mut matrix = Vec::with_capacity(horizon * horizon);
        let first = (1.0 / horizon as f64).sqrt();
        let other = (2.0 / horizon as f64).sqrt();
        for k in 0..horizon {
            let scale = if k == 0 { first } else { other };
            for i in 0..horizon {
                matrix.push(scale * cos_pi_ratio((2 * i + 1) * k, 2 * horizon));
            }
        }
        Self { horizon, matrix }
    }

    /// Entry of frequency `k` at time `i`.
    #[cfg(test)]
    pub(crate) fn entry(&self, k: usize, i: usize) -> f64 {
        self.matrix[k * self.horizon + i]
    }

    /// Time to frequency: `[H, D]` row-major to `[H, D]`. No allocation.
    pub(crate) fn forward(&self, dims: usize, actions: &[f64], coefficients: &mut [f64]) {
        for (k, out) in coefficients.chunks_exact_mut(dims).enumerate() {
            out.fill(0.0);
            let weights = &self.matrix[k * self.horizon..][..self.horizon];
            for (weight, row) in weights.iter().zip(actions.chunks_exact(dims)) {
                for (sum, value) in out.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
        }
    }

    /// Frequency to time: the transpose of [`forward`](Self::forward). No allocation.
    pub(crate) fn inverse(&self, dims: usize, coefficients: &[f64], actions: &mut [f64]) {
        for (i, out) in actions.chunks_exact_mut(dims).enumerate() {
            out.fill(0.0);
            for (k, row) in coefficients.chunks_exact(dims).enumerate() {
                let weight = self.matrix[k * self.horizon + i];
                for (sum, value) in out.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
        }
    }
}

/// `cos(π · numerator / denominator)`, the angle first reduced to `[0, π/2]` in integers, so that
/// symmetric entries are equal to the bit and the zeros are exact.
fn cos_pi_ratio(numerator: usize, denominator: usize) -> f64 {
    let turn = numerator % (2 * denominator);
    // cos(2π − x) = cos(x)
    let half = if turn > denominator { 2 * denominator - turn } else { turn };
    // cos(π − x) = −cos(x)
    let (quarter, sign) = if 2 * half > denominator { (denominator - half, -1.0) } else { (half, 1.0) };
    if 2 * quarter == denominator {
        return 0.0;
    }
    sign * (PI * quarter as f64 / denominator as f64).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_is_orthogonal() {
        for horizon in [1, 2, 3, 5, 8, 16, 50, 100] {
            let dct = Dct::new(horizon);
            for a in 0..horizon {
                for b in 0..horizon {
                    let dot: f64 = (0..horizon).map(|i| dct.entry(a, i) * dct.entry(b, i)).sum();
                    let wanted = if a == b { 1.0 } else { 0.0 };
                    assert!((dot - wanted).abs() < 1e-13, "H {horizon}, rows {a} and {b}: {dot}");
                }
            }
        }
    }

    #[test]
    fn matrices_equal_the_reference() {
        let misc: serde_json::Value = serde_json::from_str(include_str!("../../tests/data/misc.json")).unwrap();
        for (horizon, rows) in misc["dct_matrix"].as_object().unwrap() {
            let dct = Dct::new(horizon.parse().unwrap());
            for (k, row) in rows.as_array().unwrap().iter().enumerate() {
                for (i, value) in row.as_array().unwrap().iter().enumerate() {
                    let difference = dct.entry(k, i) - value.as_f64().unwrap();
                    assert!(difference.abs() < 1e-14, "H {horizon} [{k}, {i}]: {difference:e}");
                }
            }
        }
    }

    #[test]
    fn inverse_undoes_forward() {
        let (horizon, dims) = (16, 3);
        let dct = Dct::new(horizon);
        let actions: Vec<f64> = (0..horizon * dims).map(|n| ((n * 37 % 101) as f64) / 50.0 - 1.0).collect();
        let (mut there, mut back) = (vec![0.0; actions.len()], vec![0.0; actions.len()]);
        dct.forward(dims, &actions, &mut there);
        dct.inverse(dims, &there, &mut back);
        for (a, b) in actions.iter().zip(&back) {
            assert!((a - b).abs() < 1e-14);
        }
    }
}
