//! Visual tokens left out: the fewest kept that stay within the tolerance.

use super::{Answered, Fitting};
use crate::cli::error::CliError;
use endplate_policies::{Pruning, PruningThresholds};

/// Every way, in every number that the bundle has graphs for; `None` without such graphs or where none fits.
pub(super) fn pruning(
    fitting: &Fitting<'_>,
    plain: &[Option<Answered>],
) -> Result<Option<PruningThresholds>, CliError> {
    let Some(split) = &fitting.bundle.spec().split else { return Ok(None) };
    let numbers: Vec<u32> = split.buckets.iter().skip(1).map(|bucket| bucket.tokens as u32).collect();
    let fewest = |way: fn(u32) -> Pruning| {
        let mut fewest = None;
        for &tokens in &numbers {
            let mut bundle = fitting.bundle.clone();
            bundle.set_pruning(way(tokens)).map_err(CliError::failed)?;
            let answers = fitting.answer_as(&bundle, None)?;
            let apart = fitting.apart_rad(plain, &answers);
            say!("{:<18} p99 {apart:.4} rad", way(tokens).to_string());
            if apart > fitting.tolerance_rad {
                break;
            }
            fewest = Some(tokens);
        }
        Ok::<_, CliError>(fewest)
    };
    let fitted = PruningThresholds {
        ics: fewest(|tokens| Pruning { ics: Some(tokens), ..Pruning::default() })?,
        ics_edges: fewest(|tokens| Pruning { ics: Some(tokens), edges: true, ..Pruning::default() })?,
        cache: fewest(|tokens| Pruning { cache: Some(tokens), ..Pruning::default() })?,
    };
    Ok((fitted != PruningThresholds::default()).then_some(fitted))
}
