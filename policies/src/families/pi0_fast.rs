//! π0-FAST: images and a prompt make a prefix, FAST tokens follow one by one (Pertsch et al., arXiv 2501.09747, §V).

use endplate_tokenizers::{FastCodec, FastTokenizer};

use super::Graphs;
use super::prefix::Parts;
use super::tokens::TokenPolicy;
use crate::bundle::{Bundle, POLICY_FILE, TokenSpec};
use crate::engine::Engine;
use crate::load::LoadError;

const TOKENIZER: &str = "tokenizer/tokenizer.json";
const PROCESSOR: &str = "tokenizer/processor_config.json";

/// Loads the tokenizer and the graphs.
///
/// # Errors
/// [`LoadError`] naming the file.
pub(super) fn load(
    bundle: &Bundle,
    rules: TokenSpec,
    parts: Parts,
    engine: &dyn Engine,
    graphs: &Graphs<'_>,
) -> Result<TokenPolicy<FastCodec>, LoadError> {
    let (vocabulary, spec) = (parts.shape.model.vocabulary, &parts.spec);
    let bad = |file: &'static str, message: String| LoadError::Tokenizer { file, message };
    let fast = FastTokenizer::from_bytes(bundle.file(TOKENIZER)?, bundle.file(PROCESSOR)?, "tokenizer")
        .map_err(|error| bad(TOKENIZER, error.to_string()))?;
    if rules.action_offset + fast.vocab_size() as usize != vocabulary {
        let message = format!(
            "has {} ids; action_offset {} and vocabulary {vocabulary} of {POLICY_FILE} leave room for {}",
            fast.vocab_size(),
            rules.action_offset,
            vocabulary - rules.action_offset
        );
        return Err(bad(TOKENIZER, message));
    }
    let codec =
        fast.codec(spec.chunk.horizon, spec.actions.dims().len()).map_err(|error| bad(PROCESSOR, error.to_string()))?;
    let ids = codec.vocab_size();
    TokenPolicy::new(parts, rules, codec, ids, 1, engine, graphs)
}
