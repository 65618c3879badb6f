//! One token in, logits out, over keys and values that grow by a row: the decoder graph and its slab.
//!
//! Two graphs can do it. `decode_k1.onnx` is portable: it reads the slab and hands out the new row, which is copied
//! behind the rows in use; masks and positions are inputs. `decode_gqa.onnx` is optional and for ONNX Runtime on the CPU
//! alone (`GroupQueryAttention`): it writes the new row into the slab itself and looks at the rows in use and no others,
//! so rows that mean nothing must not be in between. There a row's position is its place.

use super::Graphs;
use core::ops::Range;

use super::prefix::{Prefix, kv_names};
use crate::bundle::ModelShape;
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::kv::{KvShape, KvSlab};
use crate::load::LoadError;
use crate::policy::PolicyError;

const PORTABLE: &str = "decode_k1.onnx";
const IN_PLACE: &str = "decode_gqa.onnx";

enum Form {
    Portable {
        positions: InputSlot,
        mask: InputSlot,
        /// Two per layer: keys, values.
        new: Vec<OutputSlot>,
    },
    InPlace {
        /// Rows in use, the new one included.
        rows: InputSlot,
    },
}

/// A decoder of one new token over a slab.
pub(super) struct Decoder {
    session: Box<dyn Session>,
    x: InputSlot,
    logits: OutputSlot,
    /// Two per layer: keys, values.
    past: Vec<InputSlot>,
    form: Form,
    slab: KvSlab,
}

impl Decoder {
    /// Loads the graph that writes in place where the bundle has one and the engine can, else the portable one.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(super) fn load(
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        m: ModelShape,
        capacity: usize,
    ) -> Result<Self, LoadError> {
        let is_in_place = graphs.has(IN_PLACE) && engine.writes_in_place();
        let mut contract = Contract::new();
        let x = contract.input_f32("x", &[1, 1, m.width]);
        let logits = contract.output_f32("logits", &[1, 1, m.vocabulary]);
        let past: Vec<InputSlot> = kv_names("past", m.layers)
            .map(|name| contract.input_f32(name, &[1, m.kv_heads, capacity, m.head_dim]))
            .collect();
        let form = if is_in_place {
            for (name, past) in kv_names("present", m.layers).zip(&past) {
                contract.output_in_place(name, *past);
            }
            Form::InPlace { rows: contract.input_i64("rows", &[1]) }
        } else {
            Form::Portable {
                positions: contract.input_i64("positions", &[1, 1]),
                mask: contract.input_f32("mask", &[1, 1, 1, capacity + 1]),
                new: kv_names("new", m.layers)
                    .map(|name| contract.output_f32(name, &[1, m.kv_heads, 1, m.head_dim]))
                    .collect(),
            }
        };
        let session = engine.load(graphs.source(if is_in_place { IN_PLACE } else { PORTABLE })?, &contract)?;
        let slab = KvSlab::new(KvShape { heads: m.kv_heads, head_dim: m.head_dim, capacity });
        Ok(Self { session, x, logits, past, form, slab })
    }

    /// Fills the slab with the keys and values of a prefix that has run.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when it does not fit.
    pub(super) fn take_prefix(&mut self, prefix: &Prefix) -> Result<(), PolicyError> {
        let (rows, padding) = (prefix.model().prefix, prefix.padding());
        self.slab.crop(0);
        match self.form {
            Form::Portable { .. } => self.take(prefix, 0..rows, padding),
            Form::InPlace { .. } => {
                self.take(prefix, 0..padding.start, 0..0)?;
                self.take(prefix, padding.end..rows, 0..0)
            }
        }
    }

    /// Takes some rows of the prefix, `dead` of them masked.
    fn take(&mut self, prefix: &Prefix, part: Range<usize>, dead: Range<usize>) -> Result<(), PolicyError> {
        let rows = prefix.model().prefix;
        for (new, past) in prefix.keys_and_values().zip(&self.past) {
            self.slab.write_range(self.session.input_f32_mut(*past)?, new?, rows, part.clone())?;
        }
        Ok(self.slab.append(part.len(), dead)?)
    }

    /// Runs one embedded token, `[d]`, at `position` and takes its row into the slab.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when the slab is full, [`PolicyError::Engine`].
    pub(super) fn step(&mut self, embedded: &[f32], position: usize) -> Result<(), PolicyError> {
        self.session.input_f32_mut(self.x)?.copy_from_slice(embedded);
        match &self.form {
            Form::Portable { positions, mask, new } => {
                self.session.input_i64_mut(*positions)?.fill(position as i64);
                self.slab.causal_mask(1, self.session.input_f32_mut(*mask)?)?;
                self.session.run()?;
                for (new, past) in new.iter().zip(&self.past) {
                    let (rows, tensor) = self.session.output_and_input_f32(*new, *past)?;
                    self.slab.write(tensor, rows, 1)?;
                }
            }
            Form::InPlace { rows } => {
                self.slab.has_room_for(1)?;
                self.session.input_i64_mut(*rows)?.fill(self.slab.len() as i64 + 1);
                self.session.run()?;
            }
        }
        self.slab.append(1, 0..0)?;
        Ok(())
    }

    /// Logits of the last step, `[V]`.
    ///
    /// # Errors
    /// [`EngineError`] before the first.
    pub(super) fn logits(&self) -> Result<&[f32], EngineError> {
        self.session.output_f32(self.logits)
    }

    /// Forgets every row.
    pub(super) fn clear(&mut self) {
        self.slab.crop(0);
    }
}
