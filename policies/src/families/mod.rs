//! Model families: how observations become graph inputs and graph outputs become rows.

mod bins;
mod flow;
mod pi0_fast;
pub(crate) mod prefix;
mod tokens;

use crate::bundle::{Bundle, FamilySpec};
use crate::engine::{Engine, EngineError};
use crate::load::LoadError;
use crate::policy::Policy;
use prefix::{Graphs, Parts, Prefix};

/// What golden replay looks at beside the answer.
pub(crate) trait Inspect: Policy {
    /// The prefix of the last inference.
    fn prefix(&self) -> &Prefix;

    /// What the head gave first in the last inference: logits `[V]`, or a velocity `[H, D]`.
    ///
    /// # Errors
    /// [`EngineError`].
    fn head(&self) -> Result<&[f32], EngineError>;
}

/// Loads the policy of a bundle.
///
/// # Errors
/// [`LoadError`] naming the file.
pub(crate) fn load(
    bundle: &Bundle,
    parts: Parts,
    engine: &dyn Engine,
    graphs: &Graphs<'_>,
) -> Result<Box<dyn Inspect>, LoadError> {
    Ok(match parts.spec.family {
        FamilySpec::Pi0Fast(rules) => Box::new(pi0_fast::load(bundle, rules, parts, engine, graphs)?),
        FamilySpec::Bins(rules) => Box::new(bins::load(rules, parts, engine, graphs)?),
        FamilySpec::Flow(rules) => Box::new(flow::Flow::load(rules, parts, engine, graphs)?),
    })
}
