//! The decoder in two halves, as `[decoding]` declares it.

use core::time::Duration;

use super::BundleError;
use super::family::MAX_BLOCK;
use super::raw::RawPolicy;
use super::spec::invalid;

/// More than any pass may cost.
const MAX_MS: f64 = 60_000.0;

/// Decoder graphs on both sides of `model.exit_layer`: `decode_a.onnx`, `decode_b_k1.onnx` and `decode_b_k{rows}.onnx`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SplitSpec {
    /// `K`, rows of a pass of the deep half; at least 2.
    pub rows: usize,
    /// What the cost model charges for a pass of the shallow half.
    pub shallow: Duration,
    /// For a pass of the deep half over one row.
    pub deep_one: Duration,
    /// For one over `K` rows.
    pub deep: Duration,
}

impl SplitSpec {
    /// What a pass of the deep half over `stacked` rows is charged.
    pub fn deep_cost(&self, stacked: usize) -> Duration {
        if stacked == 1 { self.deep_one } else { self.deep }
    }

    /// What a round of `most` rows costs, 0 for as many as the deep half takes.
    pub fn round(&self, most: u32) -> Duration {
        let most = if most == 0 { self.rows as u32 } else { most };
        self.shallow * most + self.deep_cost(most as usize)
    }
}

/// The split of a token family, where the bundle has one; between `exit_layer` and the last of the `layers` must be some.
///
/// # Errors
/// [`BundleError::Invalid`] naming the key.
pub(super) fn checked_split(
    raw: &RawPolicy,
    exit_layer: usize,
    layers: usize,
) -> Result<Option<SplitSpec>, BundleError> {
    let given = raw.decoding.as_ref().map_or((None, None), |decoding| (decoding.split, decoding.split_ms.as_ref()));
    let (rows, costs) = match given {
        (None, None) => return Ok(None),
        (None, Some(costs)) => {
            let value = format!("{costs:?}");
            return Err(invalid("decoding.split_ms", value, "write decoding.split too, or neither"));
        }
        (Some(rows), None) => {
            return Err(invalid("decoding.split", rows, "write decoding.split_ms too, or neither"));
        }
        (Some(rows), Some(costs)) => (rows, costs),
    };
    if !(2..=MAX_BLOCK).contains(&rows) {
        return Err(invalid("decoding.split", rows, format!("write between 2 and {MAX_BLOCK} rows")));
    }
    let &[shallow, deep_one, deep] = costs.as_slice() else {
        let remedy = "write three numbers: a pass of decode_a, of decode_b over one row, and over all";
        return Err(invalid("decoding.split_ms", format!("{costs:?}"), remedy));
    };
    if let Some(cost) = costs.iter().find(|cost| !(cost.is_finite() && (0.0..=MAX_MS).contains(*cost))) {
        return Err(invalid("decoding.split_ms", cost, format!("write milliseconds between 0 and {MAX_MS}")));
    }
    if !(1..layers).contains(&exit_layer) {
        let remedy = format!("a decoder of {layers} layers is split after one of the first {}", layers - 1);
        return Err(invalid("model.exit_layer", exit_layer, remedy));
    }
    let [shallow, deep_one, deep] = [shallow, deep_one, deep].map(|cost| Duration::from_secs_f64(cost / 1e3));
    Ok(Some(SplitSpec { rows, shallow, deep_one, deep }))
}
