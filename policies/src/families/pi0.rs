//! π0 (Black et al., arXiv 2410.24164): the state stands beside the noisy actions, the prompt is the instruction and a
//! line feed.

use super::Graphs;
use super::frame::Frame;
use super::smolvla::line;
use super::vla::{self, Convention, StateIn, Vla};
use crate::bundle::{Bundle, VlaSpec};
use crate::engine::Engine;
use crate::load::LoadError;

/// Loads the tokenizer and the graphs.
///
/// # Errors
/// [`LoadError`] naming the file.
pub(super) fn load(
    bundle: &Bundle,
    rules: VlaSpec,
    engine: &dyn Engine,
    graphs: &Graphs<'_>,
) -> Result<Frame<Vla>, LoadError> {
    let convention = Convention { state: StateIn::Denoise, prompt: line };
    vla::load(bundle, rules, convention, engine, graphs)
}
