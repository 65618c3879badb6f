//! `[pruning]`: graphs that leave visual tokens out, and how they are used.

use core::time::Duration;
use std::collections::BTreeMap;

use super::raw::RawPruning;
use super::spec::invalid;
use super::{BundleError, FamilySpec};
use crate::pruning::{Bucket, Pruning, PruningError, SplitSpec};

/// The graph that was split.
const WHOLE: &str = "prefill.onnx";
/// More than any prefix may cost.
const MOST_MS: f64 = 60_000.0;

/// Checks the table for a family with so many cameras.
pub(super) fn checked_pruning(
    raw: &RawPruning,
    family: &FamilySpec,
    files: &BTreeMap<String, String>,
    cameras: usize,
) -> Result<(SplitSpec, Pruning), BundleError> {
    let Some(prefix) = family.prunable() else {
        let remedy =
            format!("the family {} has no prefix that tokens can be left out of: remove the table", family.name());
        return Err(invalid("[pruning]", "given", remedy));
    };
    let m = prefix.model;
    if raw.layer == 0 || raw.layer >= m.layers {
        let remedy = format!("between 1 and {} layers see everything, and others fewer", m.layers - 1);
        return Err(invalid("pruning.layer", raw.layer, remedy));
    }
    let patches = raw.grid.saturating_mul(raw.grid).saturating_mul(cameras);
    if raw.grid == 0 || patches > m.visual_tokens {
        let remedy =
            format!("{cameras} images of grid² patches each must lie in the {} visual tokens", m.visual_tokens);
        return Err(invalid("pruning.grid", raw.grid, remedy));
    }
    let is_falling = raw.keep.windows(2).all(|two| two[0] > two[1]) && raw.keep.last().is_some_and(|last| *last > 0);
    let free = m.visual_tokens - patches;
    if let Some(tokens) = raw.keep.iter().find(|tokens| **tokens <= free) {
        let remedy = format!("{free} visual tokens belong to no patch and are always kept: write more");
        return Err(invalid("pruning.keep", tokens, remedy));
    }
    if raw.keep.first() != Some(&m.visual_tokens) || raw.keep.len() < 2 || !is_falling {
        let remedy = format!("write all {} visual tokens, then fewer and fewer: endplate-prune does", m.visual_tokens);
        return Err(invalid("pruning.keep", format!("{:?}", raw.keep), remedy));
    }
    if raw.prefill_ms.len() != raw.keep.len() {
        let remedy = format!("a cost for each of the {} numbers in pruning.keep", raw.keep.len());
        return Err(invalid("pruning.prefill_ms", format!("{:?}", raw.prefill_ms), remedy));
    }
    if let Some(cost) = raw.prefill_ms.iter().find(|cost| !(0.0..=MOST_MS).contains(*cost)) {
        return Err(invalid("pruning.prefill_ms", cost, format!("write milliseconds between 0 and {MOST_MS}")));
    }
    if files.get(WHOLE) != Some(&raw.prefill) {
        let whole = files.get(WHOLE).map_or("none", String::as_str);
        let remedy =
            format!("the graphs were split from another {WHOLE}; the bundle's is {whole}: run endplate-prune again");
        return Err(invalid("pruning.prefill", &raw.prefill, remedy));
    }
    let pruning = match raw.technique.as_deref() {
        None => Pruning::default(),
        Some(name) => name.parse().map_err(|error: PruningError| error.in_bundle(name))?,
    };
    let buckets = raw.keep.iter().zip(&raw.prefill_ms);
    let buckets =
        buckets.map(|(tokens, ms)| Bucket { tokens: *tokens, cost: Duration::from_secs_f64(ms / 1e3) }).collect();
    Ok((SplitSpec { layer: raw.layer, grid: raw.grid, buckets }, pruning))
}
