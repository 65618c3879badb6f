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
    let prompt = if rules.clean_instruction { clean_line } else { line };
    let convention = Convention { state: StateIn::Denoise, prompt };
    vla::load(bundle, rules, convention, engine, graphs)
}

/// openpi's form: the instruction stripped, `_` and line feeds as spaces, and a line feed.
fn clean_line(instruction: &str, _state: &[f64]) -> String {
    format!("{}\n", instruction.trim().replace(['_', '\n'], " "))
}
