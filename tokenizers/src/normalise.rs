//! Quantile normalisation: what comes before the action tokenizer and after it.

use thiserror::Error;

/// Why statistics cannot normalise.
#[derive(Copy, Clone, PartialEq, Debug, Error)]
pub enum NormaliseError {
    /// The lists have different lengths, or none.
    #[error("q01, q99 and mask have {q01}, {q99} and {mask} entries; one each per dimension, at least one, is needed")]
    Shape {
        /// Entries of q01.
        q01: usize,
        /// Entries of q99.
        q99: usize,
        /// Entries of the mask.
        mask: usize,
    },
    /// A quantile is not finite, or the upper one is below the lower.
    #[error("dim {dim}: q01 = {q01} and q99 = {q99} are not two finite numbers in order")]
    Quantiles {
        /// Dimension, 0..D.
        dim: usize,
        /// Lower quantile.
        q01: f64,
        /// Upper quantile.
        q99: f64,
    },
}

/// Whose formula: they differ in what they do at the ends.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum QuantileForm {
    /// openpi: `2 (x − q01) / (q99 − q01 + 1e-6) − 1`, nothing clipped.
    OpenPi,
    /// LeRobot's tokenizer training: clipped to the quantiles, then `2 (x − q01) / max(q99 − q01, 1e-8) − 1`.
    LeRobot,
    /// OpenVLA(-OFT): clipped to −1..=1 after `2 (x − q01) / (q99 − q01 + 1e-8) − 1`; the inverse is
    /// `½ (y + 1) (q99 − q01 + 1e-8) + q01`.
    OpenVla,
}

/// Quantiles of D dimensions, some of which may be left as they are.
///
/// The mask says `true` where a dimension is normalised; absolute grippers often are not. Masked-off dimensions pass
/// through unchanged both ways, clipping included.
#[derive(Clone, PartialEq, Debug)]
pub struct QuantileNormaliser {
    form: QuantileForm,
    q01: Vec<f64>,
    /// q99 − q01, with the form's guard against zero.
    span: Vec<f64>,
    mask: Vec<bool>,
}

impl QuantileNormaliser {
    /// Quantiles and mask of each dimension, `[D]` each.
    ///
    /// # Errors
    /// See [`NormaliseError`].
    pub fn new(form: QuantileForm, q01: &[f64], q99: &[f64], mask: &[bool]) -> Result<Self, NormaliseError> {
        if q01.is_empty() || q01.len() != q99.len() || q01.len() != mask.len() {
            return Err(NormaliseError::Shape { q01: q01.len(), q99: q99.len(), mask: mask.len() });
        }
        for (dim, (&q01, &q99)) in q01.iter().zip(q99).enumerate() {
            if !(q01.is_finite() && (q99 - q01).is_finite() && q01 <= q99) {
                return Err(NormaliseError::Quantiles { dim, q01, q99 });
            }
        }
        let span = q01.iter().zip(q99).map(|(&low, &high)| match form {
            QuantileForm::OpenPi => high - low + 1e-6,
            QuantileForm::LeRobot => (high - low).max(1e-8),
            QuantileForm::OpenVla => high - low + 1e-8,
        });
        Ok(Self { form, q01: q01.to_vec(), span: span.collect(), mask: mask.to_vec() })
    }

    /// D.
    pub fn dims(&self) -> usize {
        self.q01.len()
    }

    /// Normalises rows in place, `[H, D]` row-major. Values are finite in, finite out; a rest that is no whole row is
    /// left alone. Returns how many values were clipped (none in [`QuantileForm::OpenPi`]).
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    pub fn normalise(&self, rows: &mut [f64]) -> usize {
        let mut clipped = 0;
        for row in rows.chunks_exact_mut(self.dims()) {
            for (dim, value) in row.iter_mut().enumerate().filter(|(dim, _)| self.mask[*dim]) {
                let normalised = 2.0 * (*value - self.q01[dim]) / self.span[dim] - 1.0;
                // q99 itself maps to 1 or, with a guard in the span, just below.
                let limited = match self.form {
                    QuantileForm::OpenPi => normalised,
                    QuantileForm::LeRobot | QuantileForm::OpenVla => normalised.clamp(-1.0, 1.0),
                };
                clipped += usize::from(limited != normalised);
                *value = limited;
            }
        }
        clipped
    }

    /// The inverse, in place, `[H, D]` row-major; nothing is clipped.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    pub fn denormalise(&self, rows: &mut [f64]) {
        for row in rows.chunks_exact_mut(self.dims()) {
            for (dim, value) in row.iter_mut().enumerate().filter(|(dim, _)| self.mask[*dim]) {
                *value = 0.5 * (*value + 1.0) * self.span[dim] + self.q01[dim];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openpi_s_form_equals_the_reference() {
        let misc: serde_json::Value = serde_json::from_str(include_str!("../tests/data/misc.json")).unwrap();
        let case = &misc["quantile_normalise"];
        let list = |name: &str| -> Vec<f64> { serde_json::from_value(case[name].clone()).unwrap() };
        let rows = |name: &str| -> Vec<Vec<f64>> { serde_json::from_value(case[name].clone()).unwrap() };
        let (q01, q99) = (list("q01"), list("q99"));
        let normaliser = QuantileNormaliser::new(QuantileForm::OpenPi, &q01, &q99, &vec![true; q01.len()]).unwrap();
        let mut values = rows("x").concat();
        assert_eq!(normaliser.normalise(&mut values), 0);
        for (a, b) in values.iter().zip(rows("y").concat()) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
        normaliser.denormalise(&mut values);
        for (a, b) in values.iter().zip(rows("x_back").concat()) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
    }

    #[test]
    fn lerobot_clips_first_and_a_mask_passes_through() {
        let make = |form| QuantileNormaliser::new(form, &[-1.0, 0.0], &[3.0, 1.0], &[true, false]).unwrap();
        let rows = [-2.0, -2.0, 1.0, 0.5, 4.0, 4.0];
        let mut values = rows;
        assert_eq!(make(QuantileForm::LeRobot).normalise(&mut values), 2);
        assert_eq!(values, [-1.0, -2.0, 0.0, 0.5, 1.0, 4.0]);
        make(QuantileForm::LeRobot).denormalise(&mut values);
        assert_eq!(values, [-1.0, -2.0, 1.0, 0.5, 3.0, 4.0]);
        let mut values = rows;
        assert_eq!(make(QuantileForm::OpenPi).normalise(&mut values), 0);
        assert!(values[0] < -1.49 && values[4] > 1.49 && values[5] == 4.0);
    }

    #[test]
    fn oft_s_inverse_adds_its_small_term() {
        let normaliser = QuantileNormaliser::new(QuantileForm::OpenVla, &[0.0], &[0.0], &[true]).unwrap();
        let mut values = [1.0, -1.0];
        normaliser.denormalise(&mut values);
        assert_eq!(values, [1e-8, 0.0]);
    }

    #[test]
    fn statistics_that_cannot_normalise_are_named() {
        let refuse = |q01: &[f64], q99: &[f64], mask: &[bool]| {
            QuantileNormaliser::new(QuantileForm::OpenPi, q01, q99, mask).unwrap_err()
        };
        assert_eq!(refuse(&[], &[], &[]), NormaliseError::Shape { q01: 0, q99: 0, mask: 0 });
        assert_eq!(refuse(&[0.0], &[1.0], &[]), NormaliseError::Shape { q01: 1, q99: 1, mask: 0 });
        assert!(matches!(refuse(&[0.0, 1.0], &[1.0, 0.0], &[true; 2]), NormaliseError::Quantiles { dim: 1, .. }));
        assert!(matches!(refuse(&[f64::NAN], &[1.0], &[true]), NormaliseError::Quantiles { dim: 0, .. }));
        assert!(matches!(refuse(&[f64::MIN], &[f64::MAX], &[true]), NormaliseError::Quantiles { .. }));
    }
}
