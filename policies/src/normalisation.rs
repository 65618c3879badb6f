//! Between the units of a robot and the numbers a model was trained on.
//!
//! Four kinds, one per policy for its state and one for its actions:
//!
//! | kind | normalised `y` of `x` | where it comes from |
//! |---|---|---|
//! | `quantiles` | `2·(x − q01)/(q99 − q01 + 1e−6) − 1` | openpi; the default |
//! | `range` | `2·(x − low)/(high − low) − 1` | LeRobot's `MIN_MAX` (min, max), `QUANTILES` (q01, q99), `QUANTILE10` (q10, q90) |
//! | `mean_std` | `(x − mean)/(std + 1e−8)`, back `y·std + mean` | LeRobot's `MEAN_STD` |
//! | `identity` | `x` | LeRobot's `IDENTITY` |
//!
//! Nothing is clipped. The two directions of `mean_std` differ by the 1e−8, as they do in LeRobot.

use endplate_calibration::Quantiles;

/// Added to a standard deviation before dividing by it, as LeRobot's normaliser does.
const STD_EPSILON: f64 = 1e-8;

/// Statistics of `[D]` dimensions, in the dimensions' own units.
#[derive(Clone, Debug, PartialEq)]
pub enum Normalisation {
    /// 1 % and 99 % quantiles.
    Quantiles(Quantiles),
    /// −1 at `low`, 1 at `high`, `low < high`.
    Range {
        /// `[D]`.
        low: Vec<f64>,
        /// `[D]`.
        high: Vec<f64>,
    },
    /// Zero mean, unit variance; `std > 0`.
    MeanStd {
        /// `[D]`.
        mean: Vec<f64>,
        /// `[D]`.
        std: Vec<f64>,
    },
    /// The model works in the dimensions' units.
    Identity,
}

impl Normalisation {
    /// The kinds' names in `policy.toml`.
    pub const NAMES: [&'static str; 4] = ["quantiles", "range", "mean_std", "identity"];

    /// Its name in `policy.toml`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Quantiles(_) => Self::NAMES[0],
            Self::Range { .. } => Self::NAMES[1],
            Self::MeanStd { .. } => Self::NAMES[2],
            Self::Identity => Self::NAMES[3],
        }
    }

    /// The largest magnitude of a normalised action that is believed: three half-ranges, ten standard deviations
    /// (in training data the extremes of a joint often lie four or five out), no limit where the model works in the
    /// robot's own units. Joint limits are checked again, tighter, by the safety filter.
    pub const fn limit(&self) -> f64 {
        match self {
            Self::Quantiles(_) | Self::Range { .. } => 3.0,
            Self::MeanStd { .. } => 10.0,
            Self::Identity => f64::INFINITY,
        }
    }

    /// `value` of dimension `dim` in normalised units.
    ///
    /// # Panics
    /// When `dim` is not one of the statistics' dimensions.
    pub fn normalise(&self, dim: usize, value: f64) -> f64 {
        match self {
            Self::Quantiles(quantiles) => quantiles.normalise(dim, value),
            Self::Range { low, high } => 2.0 * (value - low[dim]) / (high[dim] - low[dim]) - 1.0,
            Self::MeanStd { mean, std } => (value - mean[dim]) / (std[dim] + STD_EPSILON),
            Self::Identity => value,
        }
    }

    /// A normalised value of dimension `dim` in the dimension's unit.
    ///
    /// # Panics
    /// When `dim` is not one of the statistics' dimensions.
    pub fn denormalise(&self, dim: usize, normalised: f64) -> f64 {
        match self {
            Self::Quantiles(quantiles) => quantiles.denormalise(dim, normalised),
            Self::Range { low, high } => (normalised + 1.0) / 2.0 * (high[dim] - low[dim]) + low[dim],
            Self::MeanStd { mean, std } => normalised * std[dim] + mean[dim],
            Self::Identity => normalised,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_maps_its_marks_and_comes_back() {
        let marks = [
            (Normalisation::Quantiles(Quantiles::new(vec![-1.0], vec![3.0]).unwrap()), -1.0, 3.0),
            (Normalisation::Range { low: vec![-1.0], high: vec![3.0] }, -1.0, 3.0),
            (Normalisation::MeanStd { mean: vec![1.0], std: vec![2.0] }, -1.0, 3.0),
            (Normalisation::Identity, -1.0, 1.0),
        ];
        for (statistics, low, high) in marks {
            let name = statistics.name();
            assert!((statistics.normalise(0, low) + 1.0).abs() < 1e-6, "{name}");
            assert!((statistics.normalise(0, high) - 1.0).abs() < 1e-6, "{name}");
            for value in [-2.5, -1.0, 0.3, 3.0, 4.0] {
                assert!((statistics.denormalise(0, statistics.normalise(0, value)) - value).abs() < 1e-7, "{name}");
            }
        }
    }

    #[test]
    fn the_range_has_no_epsilon_and_the_deviation_has_one_only_forwards() {
        let range = Normalisation::Range { low: vec![0.0], high: vec![1e-9] };
        assert_eq!(range.normalise(0, 1e-9), 1.0);
        let deviation = Normalisation::MeanStd { mean: vec![0.0], std: vec![1e-8] };
        assert_eq!(deviation.normalise(0, 1e-8), 0.5);
        assert_eq!(deviation.denormalise(0, 1.0), 1e-8);
    }
}
