//! Bin tokens: one token a value, time-major, in OpenVLA's bins (Kim et al., arXiv 2406.09246, §III-B), over the same
//! prefix and decoder as π0-FAST. A chunk is always `H·D` tokens.

use endplate_tokenizers::BinCodec;

use super::Graphs;
use super::prefix::Parts;
use super::tokens::TokenPolicy;
use crate::bundle::{BIN_COUNT, BundleError, POLICY_FILE, TokenSpec};
use crate::engine::Engine;
use crate::load::LoadError;

/// Loads the graphs.
///
/// # Errors
/// [`LoadError`] naming the graph and the tensor.
pub(super) fn load(
    rules: TokenSpec,
    parts: Parts,
    engine: &dyn Engine,
    graphs: &Graphs<'_>,
) -> Result<TokenPolicy<BinCodec>, LoadError> {
    let (horizon, dims) = (parts.spec.chunk.horizon, parts.spec.actions.dims().len());
    let codec = BinCodec::open_vla(BIN_COUNT as u32, horizon, dims).map_err(|error| BundleError::Invalid {
        file: POLICY_FILE.to_owned(),
        key: "chunk.horizon".to_owned(),
        value: horizon.to_string(),
        remedy: error.to_string(),
    })?;
    // Every one of the 256 ids means something; a model gone mad names ids of the text as well.
    let garbage = parts.shape.model.vocabulary as u32;
    TokenPolicy::new(parts, rules, codec, garbage, dims, engine, graphs)
}
