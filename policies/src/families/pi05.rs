//! π0.5 (Physical Intelligence, arXiv 2504.16054): the state is part of the prompt, as 256 bins.

use endplate_tokenizers::{ACTION_PREFIX, discretise_state};

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
    let convention = Convention { state: StateIn::Prompt, prompt };
    vla::load(bundle, rules, convention, engine, graphs)
}

/// `Task: {instruction}, State: {bins};\nAction: `, the instruction stripped, `_` and line feeds as spaces; unlike
/// π0-FAST's prompt not in lower case.
fn prompt(instruction: &str, state: &[f64]) -> String {
    let instruction = instruction.trim().replace(['_', '\n'], " ");
    let bins: Vec<String> = state.iter().map(|value| discretise_state(*value).to_string()).collect();
    format!("Task: {instruction}, State: {};\n{ACTION_PREFIX}", bins.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_lerobots() {
        assert_eq!(
            prompt(" Pick_up the\nRed cube ", &[-1.5, 0.0, 1.0]),
            "Task: Pick up the Red cube, State: -1 128 255;\nAction: "
        );
    }
}
