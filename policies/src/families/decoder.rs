//! The decoder graph of the token families: a few new rows over a slab of keys and values.

use super::prefix::kv_names;
use crate::bundle::ModelShape;
use crate::engine::{Contract, Engine, EngineError, GraphSource, InputSlot, OutputSlot, Session};
use crate::kv::KvSlab;
use crate::policy::PolicyError;

/// `decode_k{K}.onnx`.
pub(super) struct Decoder {
    session: Box<dyn Session>,
    rows: usize,
    x: InputSlot,
    positions: InputSlot,
    mask: InputSlot,
    logits: OutputSlot,
    /// Two per layer: keys, values.
    new: Vec<OutputSlot>,
    /// As `new`.
    past: Vec<InputSlot>,
}

impl Decoder {
    /// Loads a graph of `rows` new tokens over a slab of `slab` rows.
    ///
    /// # Errors
    /// [`EngineError`] naming the graph and the tensor.
    pub(super) fn load(
        engine: &dyn Engine,
        source: GraphSource<'_>,
        m: ModelShape,
        rows: usize,
        slab: usize,
    ) -> Result<Self, EngineError> {
        let mut contract = Contract::new();
        let x = contract.input_f32("x", &[1, rows, m.width]);
        let positions = contract.input_i64("positions", &[1, rows]);
        let mask = contract.input_f32("mask", &[1, 1, rows, slab + rows]);
        let logits = contract.output_f32("logits", &[1, rows, m.vocabulary]);
        let new = kv_names("new", m.layers)
            .map(|name| contract.output_f32(name, &[1, m.kv_heads, rows, m.head_dim]))
            .collect();
        let past = kv_names("past", m.layers)
            .map(|name| contract.input_f32(name, &[1, m.kv_heads, slab, m.head_dim]))
            .collect();
        Ok(Self { session: engine.load(source, &contract)?, rows, x, positions, mask, logits, new, past })
    }

    /// `K`, rows of a pass.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Takes a prefix of `rows` into the slab's tensors; `slab` is empty and stays so.
    pub(super) fn write_prefix<'k>(
        &mut self,
        prefix: impl Iterator<Item = Result<&'k [f32], EngineError>>,
        slab: &KvSlab,
        rows: usize,
    ) -> Result<(), PolicyError> {
        for (new, past) in prefix.zip(&self.past) {
            slab.write(self.session.input_f32_mut(*past)?, new?, rows)?;
        }
        Ok(())
    }

    /// Runs one embedding a row, `[K]` of `[d]`, at consecutive positions from `position`.
    pub(super) fn run<'e>(
        &mut self,
        embeddings: impl Iterator<Item = &'e [f32]>,
        position: usize,
        slab: &KvSlab,
    ) -> Result<(), PolicyError> {
        let x = self.session.input_f32_mut(self.x)?;
        let width = x.len() / self.rows;
        for (row, embedding) in x.chunks_exact_mut(width).zip(embeddings) {
            row.copy_from_slice(embedding);
        }
        for (row, at) in self.session.input_i64_mut(self.positions)?.iter_mut().enumerate() {
            *at = (position + row) as i64;
        }
        slab.causal_mask(self.rows, self.session.input_f32_mut(self.mask)?)?;
        self.session.run()?;
        Ok(())
    }

    /// Logits of the last pass, `[K, V]` row-major.
    pub(super) fn logits(&self) -> Result<&[f32], EngineError> {
        self.session.output_f32(self.logits)
    }

    /// Takes the first `kept` rows of the last pass into the slab; the others are forgotten.
    pub(super) fn keep(&mut self, kept: usize, slab: &mut KvSlab) -> Result<(), PolicyError> {
        for (new, past) in self.new.iter().zip(&self.past) {
            let (rows, tensor) = self.session.output_and_input_f32(*new, *past)?;
            slab.write_first(tensor, rows, self.rows, kept)?;
        }
        slab.append(kept, 0..0)?;
        Ok(())
    }
}
