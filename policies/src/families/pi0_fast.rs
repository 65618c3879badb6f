//! π0-FAST: images and a prompt make a prefix, FAST tokens follow one by one (Pertsch et al., arXiv 2501.09747, §V).
//!
//! The demonstration's prompt ends in `Action: ` and its vocabulary holds the FAST ids at its end. A checkpoint of openpi
//! or LeRobot says `Action: ` and the end itself, in PaliGemma's ids: `[answer]` in the bundle names them. Padding is
//! masked and has no position, so that openpi's (before the images), LeRobot's (behind the prompt) and this runtime's
//! (between the two) give the same numbers.

use endplate_tokenizers::{FastCodec, FastTokenizer};

use super::answer::Answer;
use super::prefix::Parts;
use super::tokens::TokenPolicy;
use super::{Graphs, Inspect};
use crate::bundle::{Bundle, POLICY_FILE, TokenSpec};
use crate::engine::Engine;
use crate::load::LoadError;
use crate::thresholds::THRESHOLDS_FILE;

const TOKENIZER: &str = "tokenizer/tokenizer.json";
const PROCESSOR: &str = "tokenizer/processor_config.json";

/// Loads the tokenizer and the graphs.
///
/// # Errors
/// [`LoadError`] naming the file.
pub(super) fn load(
    bundle: &Bundle,
    rules: TokenSpec,
    engine: &dyn Engine,
    graphs: &Graphs<'_>,
) -> Result<Box<dyn Inspect>, LoadError> {
    let vocabulary = rules.prefix.model.vocabulary;
    let fast = FastTokenizer::from_bytes(bundle.file(TOKENIZER)?, bundle.file(PROCESSOR)?, "tokenizer")
        .map_err(|error| bad(TOKENIZER, error.to_string()))?;
    if let Some(answer) = rules.answer {
        let parts = Parts::read(bundle, rules.prefix, vocabulary, "past the embedding table")?;
        if fast.vocab_size() > answer.action_zero + 1 {
            let message = format!("has {} ids, which do not fit below {}", fast.vocab_size(), answer.action_zero);
            return Err(bad(TOKENIZER, message));
        }
        let codec = codec(&fast, &parts)?;
        let answer = Answer::new(codec, answer, vocabulary as u32, rules.max_tokens);
        return Ok(Box::new(TokenPolicy::new(parts, rules, answer, vocabulary as u32, 1, engine, graphs)?));
    }
    let parts = Parts::read(bundle, rules.prefix, rules.action_offset, "the action ids")?;
    if rules.action_offset + fast.vocab_size() as usize != vocabulary {
        let message = format!(
            "has {} ids; action_offset {} and vocabulary {vocabulary} of {POLICY_FILE} leave room for {}",
            fast.vocab_size(),
            rules.action_offset,
            vocabulary - rules.action_offset
        );
        return Err(bad(TOKENIZER, message));
    }
    let codec = codec(&fast, &parts)?;
    let ids = codec.vocab_size();
    Ok(Box::new(TokenPolicy::new(parts, rules, codec, ids, 1, engine, graphs)?))
}

fn codec(fast: &FastTokenizer, parts: &Parts) -> Result<FastCodec, LoadError> {
    let spec = &parts.spec;
    let codec = fast.codec(spec.chunk.horizon, spec.actions.dims().len());
    let codec = codec.map_err(|error| bad(PROCESSOR, error.to_string()))?;
    match spec.thresholds.as_ref().and_then(|fitted| fitted.anytime.as_ref()) {
        None => Ok(codec),
        Some(anytime) => codec
            .with_coefficient_limits(&anytime.coefficient_limits)
            .map_err(|error| bad(THRESHOLDS_FILE, error.to_string())),
    }
}

fn bad(file: &'static str, message: String) -> LoadError {
    LoadError::Tokenizer { file, message }
}
