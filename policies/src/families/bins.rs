//! Bin tokens: one token a value, time-major, in OpenVLA's bins (Kim et al., arXiv 2406.09246, §III-B), over the same
//! prefix and decoder as π0-FAST. A chunk is always `H·D` tokens.

use endplate_tokenizers::{ActionTokenizer, DecodeError, EncodeError, Encoded, Progress};

use super::Graphs;
use super::prefix::Parts;
use super::tokens::TokenPolicy;
use crate::bundle::{BIN_COUNT, TokenSpec};
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
) -> Result<TokenPolicy<OpenVlaBins>, LoadError> {
    let (horizon, dims) = (parts.spec.chunk.horizon, parts.spec.actions.dims().len());
    // Every one of the 256 ids means something; a model gone mad names ids of the text as well.
    let garbage = parts.shape.model.vocabulary as u32;
    TokenPolicy::new(parts, rules, OpenVlaBins::new(horizon, dims), garbage, engine, graphs)
}

/// 256 ids over 255 bins of −1..1.
pub(crate) struct OpenVlaBins {
    horizon: usize,
    dims: usize,
    values: Vec<f64>,
}

impl OpenVlaBins {
    fn new(horizon: usize, dims: usize) -> Self {
        Self { horizon, dims, values: Vec::with_capacity(horizon * dims) }
    }

    fn value(id: u32) -> Result<f64, DecodeError> {
        if id as usize >= BIN_COUNT {
            return Err(DecodeError::UnknownId { id, vocabulary: BIN_COUNT as u32 });
        }
        let bin = (BIN_COUNT as u32 - 1 - id).min(BIN_COUNT as u32 - 2);
        Ok(-1.0 + (f64::from(bin) + 0.5) * 2.0 / 255.0)
    }

    fn needed(&self) -> usize {
        self.horizon * self.dims
    }
}

impl ActionTokenizer for OpenVlaBins {
    fn horizon(&self) -> usize {
        self.horizon
    }
    fn dims(&self) -> usize {
        self.dims
    }
    fn vocab_size(&self) -> u32 {
        BIN_COUNT as u32
    }
    fn encode(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError> {
        ids.clear();
        if chunk.len() != self.needed() {
            return Err(EncodeError::WrongShape { needed: self.needed(), got: chunk.len() });
        }
        ids.extend(chunk.iter().map(|v| 255 - (((v.clamp(-1.0, 1.0) + 1.0) * 127.5).floor() as u32).min(255)));
        Ok(Encoded { clamped: chunk.iter().filter(|v| v.abs() > 1.0).count() })
    }
    fn decode(&mut self, ids: &[u32], out: &mut [f64]) -> Result<(), DecodeError> {
        self.reset();
        for &id in ids {
            let _ = self.push(id)?;
        }
        self.finish(out)
    }
    fn reset(&mut self) {
        self.values.clear();
    }
    fn push(&mut self, id: u32) -> Result<Progress, DecodeError> {
        let value = Self::value(id)?;
        let (needed, got) = (self.needed(), self.values.len() + 1);
        if got > needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        self.values.push(value);
        Ok(if got == needed { Progress::Complete } else { Progress::More { coefficients: got } })
    }
    fn allows(&self, id: u32) -> bool {
        (id as usize) < BIN_COUNT && self.values.len() < self.needed()
    }
    fn coefficients(&self) -> usize {
        self.values.len()
    }
    fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        if self.values.len() != self.needed() {
            return Err(DecodeError::WrongLength { needed: self.needed(), got: self.values.len() });
        }
        out.copy_from_slice(&self.values);
        Ok(())
    }
}
