//! SmolVLA (Shukor et al., arXiv 2506.01844): the state is a token behind the prompt, the prompt is the instruction and
//! a line feed.

use super::Graphs;
use super::frame::Frame;
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
    let convention = Convention { state: StateIn::Prefix, prompt: line };
    vla::load(bundle, rules, convention, engine, graphs)
}

/// The instruction as it is, ended by exactly one line feed where it has none.
pub(super) fn line(instruction: &str, _state: &[f64]) -> String {
    if instruction.ends_with('\n') { instruction.to_owned() } else { format!("{instruction}\n") }
}
