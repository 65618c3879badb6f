//! Orthonormal DCT-II over time and its inverse, in f64, as a table of cosines.
//!
//! FAST (arXiv 2501.09747), section on the DCT-based tokenizer: each action dimension is
//! transformed alone. With H rows,
//! `C[k, j] = s_k · Σ_i A[i, j] · cos(π (2i + 1) k / 2H)`, `s_0 = √(1/H)`, `s_k = √(2/H)`,
//! which is `scipy.fft.dct(A, axis=0, norm="ortho")`. The matrix is orthogonal, so its transpose
//! is the inverse. H is some tens of rows and most coefficients are zero, so products with half of the matrix (see
//! [`Dct`]) are as fast as a fast transform would be, and simple to bound.

use super::simd::ROWS;
use std::f64::consts::PI;

/// Tables of one horizon.
///
/// Cosines are symmetric in time: row `H − 1 − i` of frequency `k` is `(−1)^k` times row `i`. So half a column of
/// each frequency is enough, and even and odd frequencies are summed apart.
#[derive(Clone, Debug)]
pub(crate) struct Dct {
    horizon: usize,
    /// `[k, i]` row-major: frequency k, time i.
    matrix: Vec<f64>,
    /// `[k, lanes]`: the first half of each row, zero-padded, divided by the scale.
    basis: Vec<f64>,
    lanes: usize,
    /// Even and odd frequencies apart, in blocks of `ROWS`: `[block, i, ROWS]`, zero-padded.
    packed: [Vec<f64>; 2],
}

impl Dct {
    /// Tables for `horizon` rows (at least 1); the inverse divides by `scale`.
    pub(crate) fn new(horizon: usize, scale: f64) -> Self {
        let mut matrix = Vec::with_capacity(horizon * horizon);
        let first = (1.0 / horizon as f64).sqrt();
        let other = (2.0 / horizon as f64).sqrt();
        for k in 0..horizon {
            let norm = if k == 0 { first } else { other };
            for i in 0..horizon {
                matrix.push(norm * cos_pi_ratio((2 * i + 1) * k, 2 * horizon));
            }
        }
        let half = horizon.div_ceil(2);
        let lanes = half.next_multiple_of(4);
        let mut basis = vec![0.0; horizon * lanes];
        for (into, row) in basis.chunks_exact_mut(lanes).zip(matrix.chunks_exact(horizon)) {
            for (into, value) in into.iter_mut().zip(&row[..half]) {
                *into = value / scale;
            }
        }
        let packed = [0, 1].map(|parity| {
            let mut packed = Vec::new();
            let frequencies: Vec<usize> = (parity..horizon).step_by(2).collect();
            for block in frequencies.chunks(ROWS) {
                for i in 0..half {
                    packed.extend((0..ROWS).map(|at| block.get(at).map_or(0.0, |k| matrix[k * horizon + i])));
                }
            }
            packed
        });
        Self { horizon, matrix, basis, lanes, packed }
    }

    /// Entry of frequency `k` at time `i`.
    pub(crate) fn entry(&self, k: usize, i: usize) -> f64 {
        self.matrix[k * self.horizon + i]
    }

    /// Rows that differ, `⌈H / 2⌉`.
    pub(crate) fn half(&self) -> usize {
        self.horizon.div_ceil(2)
    }

    /// Length of a padded half column.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    pub(crate) fn basis(&self) -> &[f64] {
        &self.basis
    }

    pub(super) fn packed(&self, parity: usize) -> &[f64] {
        &self.packed[parity]
    }

    /// One coefficient by the plain sum in the order of time: what decides where a rounding is close.
    pub(crate) fn coefficient(&self, frequency: usize, dim: usize, dims: usize, actions: &[f64]) -> f64 {
        let weights = &self.matrix[frequency * self.horizon..][..self.horizon];
        let mut sum = 0.0;
        for (weight, row) in weights.iter().zip(actions.chunks_exact(dims)) {
            sum += weight * row[dim];
        }
        sum
    }

    /// Time to frequency by the plain sums: `[H, D]` row-major to `[H, D]`. No allocation.
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
            let dct = Dct::new(horizon, 1.0);
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
            let dct = Dct::new(horizon.parse().unwrap(), 1.0);
            for (k, row) in rows.as_array().unwrap().iter().enumerate() {
                for (i, value) in row.as_array().unwrap().iter().enumerate() {
                    let difference = dct.entry(k, i) - value.as_f64().unwrap();
                    assert!(difference.abs() < 1e-14, "H {horizon} [{k}, {i}]: {difference:e}");
                }
            }
        }
    }
}
