//! FlashVLA's Information Contribution Score (arXiv 2505.21200) of visual rows.

use super::eigen::Symmetric;

/// Share of Σσ that the directions counted hold: the paper's rule for the effective rank was not found.
const HELD: f64 = 0.9;

/// Scores the rows of a matrix of fixed size.
///
/// For `X = UΣVᵀ`, `[N, d]`, and the smallest `r` whose first `r` singular values hold [`HELD`] of all, a row's score is
/// `Σ_{i ≤ r} |u_{x,i} σ_i|`. `U` and `σ = √λ` are of `XXᵀ`.
///
/// # Real-time
/// Allocates at construction only.
#[derive(Clone, Debug)]
pub struct Contribution {
    /// `d`.
    width: usize,
    gram: Symmetric,
    /// Eigenvalues' places, largest first.
    order: Vec<usize>,
    scores: Vec<f64>,
}

impl Contribution {
    /// For `rows` rows of `width` values.
    pub fn new(rows: usize, width: usize) -> Self {
        Self { width, gram: Symmetric::new(rows), order: (0..rows).collect(), scores: vec![0.0; rows] }
    }

    /// Scores of `x`, `[N, d]`; `None` where it holds a number that is not finite.
    pub fn score(&mut self, x: &[f32]) -> Option<&[f64]> {
        let n = self.scores.len();
        let gram = self.gram.matrix_mut();
        for (i, a) in x.chunks_exact(self.width).enumerate().take(n) {
            for (j, b) in x.chunks_exact(self.width).enumerate().take(i + 1) {
                let product = product(a, b);
                gram[i * n + j] = product;
                gram[j * n + i] = product;
            }
        }
        self.gram.solve()?;
        // What is below zero is zero that was rounded.
        let sigma = |value: f64| value.max(0.0).sqrt();
        let values = self.gram.values();
        self.order.sort_unstable_by(|a, b| values[*b].total_cmp(&values[*a]));
        let wanted = HELD * values.iter().map(|value| sigma(*value)).sum::<f64>();
        self.scores.fill(0.0);
        let mut held = 0.0;
        for &index in &self.order {
            if held >= wanted {
                break;
            }
            let sigma = sigma(values[index]);
            held += sigma;
            for (score, u) in self.scores.iter_mut().zip(self.gram.vector(index)) {
                *score += (u * sigma).abs();
            }
        }
        Some(&self.scores)
    }
}

/// Of two rows; eight sums, so that the compiler may add them side by side.
fn product(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0_f64; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in a.by_ref().zip(b.by_ref()) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    let rest = a.remainder().iter().zip(b.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(x: &[f32], rows: usize) -> Vec<f64> {
        Contribution::new(rows, x.len() / rows).score(x).unwrap().to_vec()
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {expected:?}");
    }

    #[test]
    fn scores_by_hand() {
        // Columns are orthogonal: σ = √10 and 2, u₁σ₁ = (3, 0, 0, 1), u₂σ₂ = (0, 2, 0, 0). σ₁ alone holds 0.61 of Σσ = 5.16,
        // so both count.
        assert_close(&scores(&[3.0, 0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0], 4), &[3.0, 2.0, 0.0, 1.0]);
        // The same turned by 45°: scores are of the rows, not of the axes.
        let (h, rows) = (0.5_f32.sqrt(), [[3.0, 0.0], [0.0, 2.0], [0.0, 0.0], [1.0, 0.0]]);
        let turned: Vec<f32> = rows.iter().flat_map(|[a, b]| [h * (a - b), h * (a + b)]).collect();
        assert_close(&scores(&turned, 4), &[3.0, 2.0, 0.0, 1.0]);
    }

    #[test]
    fn directions_behind_nine_tenths_do_not_count() {
        // σ = 9, 0.9, 0.1: the first holds 0.9 exactly of 10, so the row that lies in the others alone counts nothing.
        let x = [9.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.1];
        let got = scores(&x, 3);
        assert!((got[0] - 9.0).abs() < 1e-6);
        // 9/10 in binary lies on either side: the second may count, the third never does.
        assert_close(&got[2..], &[0.0]);
        // σ = 8, 1, 1: 0.8 is not enough and one of the two others is.
        let got = scores(&[8.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], 3);
        assert!((got[0] - 8.0).abs() < 1e-6 && (got[1] + got[2] - 1.0).abs() < 1e-6, "{got:?}");
    }

    #[test]
    fn rows_that_say_the_same_share_a_direction_and_each_counts() {
        // Rank one: σ = √(1 + 4 + 4) = 3, u = (1, 2, 2)/3.
        assert_close(&scores(&[1.0, 0.0, 2.0, 0.0, 2.0, 0.0], 3), &[1.0, 2.0, 2.0]);
    }

    #[test]
    fn nothing_is_scored_by_what_is_not_finite() {
        assert_eq!(Contribution::new(2, 1).score(&[1.0, f32::INFINITY]), None);
        assert_close(&scores(&[0.0; 6], 3), &[0.0; 3]);
    }
}
