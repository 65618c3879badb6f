//! OpenVLA: bin tokens at the end of LLaMA's vocabulary, one by one (Kim et al., arXiv 2406.09246, §III).
//!
//! The prefix is the first id, the images, then the rest of the prompt, each row seeing itself and those before it. A
//! token that is no bin refuses the chunk, where the published code would take the nearest bin.

use endplate_tokenizers::BinCodec;

use super::Graphs;
use super::prefix::Parts;
use super::tokens::TokenPolicy;
use crate::bundle::{Bundle, BundleError, POLICY_FILE, TokenSpec};
use crate::engine::Engine;
use crate::load::LoadError;

/// Loads the graphs.
///
/// # Errors
/// [`LoadError`] naming the graph and the tensor.
pub(super) fn load(
    bundle: &Bundle,
    rules: TokenSpec,
    engine: &dyn Engine,
    graphs: &Graphs<'_>,
) -> Result<TokenPolicy<BinCodec>, LoadError> {
    let vocabulary = rules.prefix.model.vocabulary;
    let parts = Parts::read(bundle, rules.prefix, vocabulary, "past the embedding table")?;
    let (horizon, dims) = (parts.spec.chunk.horizon, parts.spec.actions.dims().len());
    let end = rules.answer.map_or(0, |answer| answer.action_zero + 1);
    let codec = BinCodec::open_vla(end, horizon, dims).map_err(|error| BundleError::Invalid {
        file: POLICY_FILE.to_owned(),
        key: "answer.action_zero".to_owned(),
        value: end.to_string(),
        remedy: error.to_string(),
    })?;
    TokenPolicy::new(parts, rules, codec, vocabulary as u32, 1, engine, graphs)
}
