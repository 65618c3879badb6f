//! A ridge regression of rows over time.

/// λ of SP-VLA.
const RIDGE: f64 = 1e-4;

/// Slope of one dimension and how far its points lie from the line.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// Units a second.
    pub(super) slope: f64,
    /// Largest distance of a point.
    pub(super) residual: f64,
}

impl Line {
    /// Fits values that lie `period_s` apart, `β = (XᵀX + λI)⁻¹XᵀY` with `X = [1, t]` about their means.
    pub(super) fn through(values: &[f64], period_s: f64) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let middle = (n - 1.0) / 2.0;
        let time = |index: usize| (index as f64 - middle) * period_s;
        let (mut squares, mut products) = (RIDGE, 0.0);
        for (index, value) in values.iter().enumerate() {
            squares += time(index) * time(index);
            products += time(index) * (value - mean);
        }
        let slope = products / squares;
        // About the means the intercept is that of the mean alone, less the ridge's pull, which is below 1e-4 of it.
        let distance = |(index, value): (usize, &f64)| (value - mean - slope * time(index)).abs();
        Self { slope, residual: values.iter().enumerate().map(distance).fold(0.0, f64::max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_is_found_less_the_pull_of_the_ridge() {
        // t = −0.15, −0.05, 0.05, 0.15: Σt² = 0.05, so the slope of 2 becomes 2·0.05/(0.05 + 1e-4) = 1.996008.
        let line = Line::through(&[1.0, 1.2, 1.4, 1.6], 0.1);
        assert!((line.slope - 1.996_008).abs() < 1e-6, "{line:?}");
        assert!((line.residual - 0.15 * (2.0 - 1.996_008)).abs() < 1e-6, "{line:?}");
    }

    #[test]
    fn a_bend_stands_in_the_residual() {
        // Least squares of 0, 0, 0, 1: slope 0.3 a step about the mean 0.25, distances 0.2, 0.1, 0.4, 0.3.
        let line = Line::through(&[0.0, 0.0, 0.0, 1.0], 1.0);
        assert!((line.slope - 0.3).abs() < 1e-4 && (line.residual - 0.4).abs() < 1e-4, "{line:?}");
    }
}
