//! Quantile statistics: fit, validate, apply, invert, store.

use serde::{Deserialize, Serialize};

/// Added to the span so that a dimension that never moved does not divide by zero; the published statistics of the
/// π0-FAST family use the same number.
const EPSILON: f64 = 1e-6;

/// Why statistics cannot be fitted or used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StatisticsError {
    /// The arrays have different lengths, or none.
    #[error("q01 has {q01} entries and q99 {q99}: both need one per dimension")]
    Length {
        /// Entries of q01.
        q01: usize,
        /// Entries of q99.
        q99: usize,
    },
    /// A quantile is NaN or infinite.
    #[error("dimension {dim}: q01 = {q01}, q99 = {q99}: both must be finite")]
    NonFinite {
        /// The dimension.
        dim: usize,
        /// Lower quantile.
        q01: f64,
        /// Upper quantile.
        q99: f64,
    },
    /// The lower quantile lies above the upper.
    #[error("dimension {dim}: q01 = {q01} lies above q99 = {q99}")]
    Order {
        /// The dimension.
        dim: usize,
        /// Lower quantile.
        q01: f64,
        /// Upper quantile.
        q99: f64,
    },
    /// A sample to fit is not finite, or the number of samples is not a multiple of the dimensions.
    #[error("{rows} samples of {dims} dimensions with a first non-finite value at {non_finite:?} cannot be fitted")]
    Samples {
        /// Whole rows given.
        rows: usize,
        /// Dimensions asked for.
        dims: usize,
        /// Index of the first value that is not finite.
        non_finite: Option<usize>,
    },
    /// The file is not the JSON of these statistics.
    #[error("{file}: {message}")]
    Json {
        /// The file as the user named it.
        file: String,
        /// The parser's message.
        message: String,
    },
}

/// The 1 % and 99 % quantiles of `[D]` dimensions, in the dimensions' own units.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    q01: Vec<f64>,
    q99: Vec<f64>,
}

impl Quantiles {
    /// Statistics from their two `[D]` arrays.
    ///
    /// # Errors
    /// [`StatisticsError`] when they are not finite, ordered and of one length.
    pub fn new(q01: Vec<f64>, q99: Vec<f64>) -> Result<Self, StatisticsError> {
        if q01.len() != q99.len() || q01.is_empty() {
            return Err(StatisticsError::Length { q01: q01.len(), q99: q99.len() });
        }
        for (dim, (&q01, &q99)) in q01.iter().zip(&q99).enumerate() {
            if !(q01.is_finite() && q99.is_finite()) {
                return Err(StatisticsError::NonFinite { dim, q01, q99 });
            }
            if q01 > q99 {
                return Err(StatisticsError::Order { dim, q01, q99 });
            }
        }
        Ok(Self { q01, q99 })
    }

    /// The quantiles of `samples`, `[N, D]` row-major, interpolated linearly between order statistics (as NumPy's
    /// `quantile` does).
    ///
    /// # Errors
    /// [`StatisticsError::Samples`] for no rows, a torn row or a value that is not finite.
    pub fn fit(samples: &[f64], dims: usize) -> Result<Self, StatisticsError> {
        let rows = samples.len().checked_div(dims).unwrap_or(0);
        let non_finite = samples.iter().position(|value| !value.is_finite());
        if rows == 0 || rows * dims != samples.len() || non_finite.is_some() {
            return Err(StatisticsError::Samples { rows, dims, non_finite });
        }
        let (mut q01, mut q99) = (Vec::with_capacity(dims), Vec::with_capacity(dims));
        let mut column = Vec::with_capacity(rows);
        for dim in 0..dims {
            column.clear();
            column.extend(samples.iter().skip(dim).step_by(dims));
            column.sort_unstable_by(f64::total_cmp);
            q01.push(quantile(&column, 0.01));
            q99.push(quantile(&column, 0.99));
        }
        Self::new(q01, q99)
    }

    /// Number of dimensions.
    pub fn dims(&self) -> usize {
        self.q01.len()
    }

    /// Lower quantile of a dimension, in its unit.
    pub fn q01(&self) -> &[f64] {
        &self.q01
    }

    /// Upper quantile of a dimension, in its unit.
    pub fn q99(&self) -> &[f64] {
        &self.q99
    }

    /// `value` of dimension `dim` in normalised units: −1 at q01, about 1 at q99, not clipped.
    ///
    /// # Panics
    /// When `dim` is not below [`dims`](Self::dims).
    pub fn normalise(&self, dim: usize, value: f64) -> f64 {
        2.0 * (value - self.q01[dim]) / (self.q99[dim] - self.q01[dim] + EPSILON) - 1.0
    }

    /// The inverse of [`normalise`](Self::normalise).
    ///
    /// # Panics
    /// When `dim` is not below [`dims`](Self::dims).
    pub fn denormalise(&self, dim: usize, normalised: f64) -> f64 {
        (normalised + 1.0) / 2.0 * (self.q99[dim] - self.q01[dim] + EPSILON) + self.q01[dim]
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

impl<'de> Deserialize<'de> for Quantiles {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            q01: Vec<f64>,
            q99: Vec<f64>,
        }
        let raw = Raw::deserialize(deserializer)?;
        Self::new(raw.q01, raw.q99).map_err(serde::de::Error::custom)
    }
}

/// Statistics of a dataset: states and actions as the policy sees them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetStatistics {
    /// Measured joint positions.
    pub state: Quantiles,
    /// Actions in the action space's own representation (relative where declared).
    pub action: Quantiles,
}

impl DatasetStatistics {
    /// Parses `stats.json`; `file` is the name to use in messages.
    ///
    /// # Errors
    /// [`StatisticsError::Json`], with the reason.
    pub fn from_json(text: &str, file: &str) -> Result<Self, StatisticsError> {
        serde_json::from_str(text)
            .map_err(|error| StatisticsError::Json { file: file.into(), message: error.to_string() })
    }

    /// The JSON that [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> String {
        // Finite by construction, so that JSON can hold it.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fit_gives_numpys_quantiles_and_maps_them_to_plus_and_minus_one() {
        let samples: Vec<f64> = (0..201).flat_map(|i| [f64::from(i), -f64::from(i) / 10.0]).collect();
        let fitted = Quantiles::fit(&samples, 2).unwrap();
        assert_eq!(fitted.q01(), [2.0, -19.8]);
        assert!((fitted.normalise(0, 2.0) + 1.0).abs() < 1e-12);
        assert!((fitted.normalise(0, 198.0) - 1.0).abs() < 1e-6);
        for value in [-40.0, 0.3, 7e3] {
            assert!((fitted.denormalise(1, fitted.normalise(1, value)) - value).abs() < 1e-9);
        }
    }

    #[test]
    fn the_published_example_is_met() {
        // First dimension of the openpi example: q01 and q99 as published, value at the middle.
        let stats = Quantiles::new(vec![-0.7498090667906661], vec![1.7318426275741494]).unwrap();
        let middle = (-0.7498090667906661 + 1.7318426275741494 + 1e-6) / 2.0;
        assert!(stats.normalise(0, middle).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_fitted_or_used_is_refused_with_its_numbers() {
        assert_eq!(
            Quantiles::fit(&[1.0, f64::NAN], 1),
            Err(StatisticsError::Samples { rows: 2, dims: 1, non_finite: Some(1) })
        );
        assert!(matches!(Quantiles::fit(&[1.0, 2.0, 3.0], 2), Err(StatisticsError::Samples { .. })));
        assert!(matches!(Quantiles::fit(&[], 0), Err(StatisticsError::Samples { .. })));
        assert_eq!(Quantiles::new(vec![1.0], vec![]), Err(StatisticsError::Length { q01: 1, q99: 0 }));
        assert!(matches!(Quantiles::new(vec![2.0], vec![1.0]), Err(StatisticsError::Order { dim: 0, .. })));
    }

    #[test]
    fn the_file_round_trips_and_a_bad_one_says_why() {
        let stats = DatasetStatistics {
            state: Quantiles::new(vec![-1.0, 0.1], vec![1.0, 0.3]).unwrap(),
            action: Quantiles::new(vec![-0.5], vec![0.25]).unwrap(),
        };
        assert_eq!(DatasetStatistics::from_json(&stats.to_json(), "stats.json").unwrap(), stats);
        let error = DatasetStatistics::from_json(
            r#"{"state":{"q01":[2.0],"q99":[1.0]},"action":{"q01":[0],"q99":[1]}}"#,
            "stats.json",
        );
        assert!(error.unwrap_err().to_string().contains("q01 = 2 lies above q99 = 1"));
    }
}
