//! A few tokens in, logits out, over keys and values that grow by as many rows as are kept: the decoder graph and its slab.
//!
//! Three graphs can do it. `decode_kK.onnx` is portable: it reads the slab and hands out K new rows, of which those kept are
//! copied behind the rows in use; masks and positions are inputs. `decode.onnx` is that for any K, and with nothing in the
//! slab it is the prefix's graph as well: a bundle has it instead where the weights are to exist once. `decode_gqa.onnx` is optional and for ONNX Runtime on the CPU
//! alone (`GroupQueryAttention`): it writes the new row into the slab itself and looks at the rows in use and no others,
//! so rows that mean nothing must not be in between. There a row's position is its place.

use super::Graphs;
use core::ops::Range;

use super::prefix::{Prefill, Prefix, kv_names};
use crate::bundle::{ModelShape, TokenSpec};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, RowContracts, Session};
use crate::kv::{KvShape, KvSlab};
use crate::load::LoadError;
use crate::policy::PolicyError;

const IN_PLACE: &str = "decode_gqa.onnx";
/// The graph of any number of rows.
pub(crate) const DYNAMIC: &str = "decode.onnx";

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

/// Keys and values that another decoder can go on from.
pub(super) trait Rows {
    /// Rows in use.
    fn len(&self) -> usize;

    /// Rows there are.
    fn capacity(&self) -> usize;

    /// Keys or values of a layer: number `2 l` and `2 l + 1`, `[Hkv, Tmax, hd]`.
    ///
    /// # Errors
    /// [`EngineError`].
    fn tensor(&mut self, index: usize) -> Result<&[f32], EngineError>;
}

/// The tensors of a portable graph; the same slots whatever `K` is.
pub(super) struct Tensors {
    pub(super) x: InputSlot,
    pub(super) positions: InputSlot,
    pub(super) mask: InputSlot,
    pub(super) logits: OutputSlot,
    /// Two per layer: keys, values.
    past: Vec<InputSlot>,
    /// As `past`.
    pub(super) new: Vec<OutputSlot>,
}

/// The contract of a portable graph of `rows` rows over a slab of `capacity`.
fn portable(m: ModelShape, rows: usize, capacity: usize) -> (Contract, Tensors) {
    let mut contract = Contract::new();
    let x = contract.input_f32("x", &[1, rows, m.width]);
    let logits = contract.output_f32("logits", &[1, rows, m.vocabulary]);
    let past = kv_names("past", m.layers)
        .map(|name| contract.input_f32(name, &[1, m.kv_heads, capacity, m.head_dim]))
        .collect();
    let positions = contract.input_i64("positions", &[1, rows]);
    let mask = contract.input_f32("mask", &[1, 1, rows, capacity + rows]);
    let new =
        kv_names("new", m.layers).map(|name| contract.output_f32(name, &[1, m.kv_heads, rows, m.head_dim])).collect();
    (contract, Tensors { x, positions, mask, logits, past, new })
}

/// The contracts of `decode.onnx` in a bundle that has it; `block` where blocks of so many rows are verified. Sessions are
/// wanted for one row, the block and the prefix, in this order.
pub(super) fn row_contracts(rules: &TokenSpec, block: Option<usize>) -> Option<RowContracts> {
    let counts = rules.row_counts();
    let (least, most) = (*counts.first()?, *counts.last()?);
    let m = rules.prefix.model;
    let of = |rows: usize| (rows, portable(m, rows, rules.slab).0);
    let growing = |rows: usize| {
        let (mut contract, tensors) = portable(m, rows, rules.slab);
        for (new, past) in tensors.new.iter().zip(&tensors.past) {
            contract.append(*new, *past);
        }
        (rows, contract)
    };
    let prefix = rules.rows.is_some_and(|rows| rows.prefix).then(|| of(m.prefix));
    let wanted = [Some(growing(1)), block.map(growing), prefix].into_iter().flatten().collect();
    Some(RowContracts::new(of(least), of(most), wanted))
}

/// What runs on `decode.onnx`.
pub(super) struct OnRows {
    pub(super) one: Decoder,
    pub(super) block: Option<Decoder>,
    /// The prefix, where it runs on it.
    pub(super) prefill: Option<Prefill>,
}

impl OnRows {
    /// Loads `decode.onnx` for one row, for `block` rows where blocks are verified, and for the prefix.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(super) fn load(
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        rules: &TokenSpec,
        block: Option<usize>,
        contracts: &RowContracts,
    ) -> Result<Self, LoadError> {
        let (m, capacity) = (rules.prefix.model, rules.slab);
        let mut sessions = engine.load_rows(graphs.source(DYNAMIC)?, contracts)?.into_iter();
        let mut next = || {
            sessions.next().ok_or_else(|| EngineError::Load {
                engine: engine.description().name,
                graph: DYNAMIC.to_owned(),
                detail: "fewer sessions than numbers of rows".to_owned(),
            })
        };
        let one = Decoder::portable(next()?, m, 1, capacity);
        let block =
            block.map(|rows| Ok::<_, EngineError>(Decoder::portable(next()?, m, rows, capacity))).transpose()?;
        let prefix = rules.rows.is_some_and(|rows| rows.prefix);
        let prefill = prefix
            .then(|| Ok::<_, EngineError>(Prefill::behind_a_slab(next()?, portable(m, m.prefix, capacity).1, capacity)))
            .transpose()?;
        Ok(Self { one, block, prefill })
    }
}

/// A decoder of `K` new tokens over a slab.
pub(super) struct Decoder {
    session: Box<dyn Session>,
    /// `K`.
    rows: usize,
    x: InputSlot,
    logits: OutputSlot,
    /// Two per layer: keys, values.
    past: Vec<InputSlot>,
    form: Form,
    slab: KvSlab,
}

impl Decoder {
    /// Loads the graph of `rows` new tokens: for one token that which writes in place, where the bundle has one and the
    /// engine can.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(super) fn load(
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        m: ModelShape,
        rows: usize,
        capacity: usize,
    ) -> Result<Self, LoadError> {
        // In place a row's position is its place, which rows left out would move.
        if rows == 1 && graphs.has(IN_PLACE) && engine.writes_in_place() && !graphs.leave_rows_out() {
            return Self::load_in_place(engine, graphs, m, capacity);
        }
        let (mut contract, tensors) = portable(m, rows, capacity);
        for (new, past) in tensors.new.iter().zip(&tensors.past) {
            contract.append(*new, *past);
        }
        let session = engine.load(graphs.source(&format!("decode_k{rows}.onnx"))?, &contract)?;
        Ok(Self::portable(session, m, rows, capacity))
    }

    fn load_in_place(
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        m: ModelShape,
        capacity: usize,
    ) -> Result<Self, LoadError> {
        let mut contract = Contract::new();
        let x = contract.input_f32("x", &[1, 1, m.width]);
        let logits = contract.output_f32("logits", &[1, 1, m.vocabulary]);
        let past: Vec<InputSlot> = kv_names("past", m.layers)
            .map(|name| contract.input_f32(name, &[1, m.kv_heads, capacity, m.head_dim]))
            .collect();
        for (name, past) in kv_names("present", m.layers).zip(&past) {
            contract.output_in_place(name, *past);
        }
        let form = Form::InPlace { rows: contract.input_i64("rows", &[1]) };
        let session = engine.load(graphs.source(IN_PLACE)?, &contract)?;
        let slab = KvSlab::new(KvShape { heads: m.kv_heads, head_dim: m.head_dim, capacity });
        Ok(Self { session, rows: 1, x, logits, past, form, slab })
    }

    /// On a session of a portable graph.
    fn portable(session: Box<dyn Session>, m: ModelShape, rows: usize, capacity: usize) -> Self {
        let Tensors { x, positions, mask, logits, past, new } = portable(m, rows, capacity).1;
        let slab = KvSlab::new(KvShape { heads: m.kv_heads, head_dim: m.head_dim, capacity });
        Self { session, rows, x, logits, past, form: Form::Portable { positions, mask, new }, slab }
    }

    /// `K`, rows of a pass.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Fills the slab with the keys and values of a prefix that has run.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when it does not fit.
    pub(super) fn take_prefix(&mut self, prefix: &Prefix) -> Result<(), PolicyError> {
        let (rows, padding) = (prefix.rows(), prefix.padding());
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
        let rows = prefix.rows();
        for (new, past) in prefix.keys_and_values().zip(&self.past) {
            self.slab.write_range(self.session.input_f32_mut(*past)?, new?, rows, part.clone())?;
        }
        Ok(self.slab.append(part.len(), dead)?)
    }

    /// Goes on where `other` is: takes its rows, of which `padding` are masked.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when they do not fit.
    pub(super) fn take_over(&mut self, other: &mut impl Rows, padding: Range<usize>) -> Result<(), PolicyError> {
        let rows = other.len();
        self.slab.crop(0);
        match self.form {
            Form::Portable { .. } => self.copy(other, 0..rows, padding),
            Form::InPlace { .. } => {
                self.copy(other, 0..padding.start, 0..0)?;
                self.copy(other, padding.end..rows, 0..0)
            }
        }
    }

    fn copy(&mut self, other: &mut impl Rows, part: Range<usize>, dead: Range<usize>) -> Result<(), PolicyError> {
        let rows = other.capacity();
        for (index, into) in self.past.iter().enumerate() {
            let from = other.tensor(index)?;
            self.slab.write_range(self.session.input_f32_mut(*into)?, from, rows, part.clone())?;
        }
        Ok(self.slab.append(part.len(), dead)?)
    }

    /// Runs one embedding a row, `K` of `[d]`, at consecutive positions from `position`. Nothing is taken into the slab.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when the slab is full, [`PolicyError::Engine`].
    pub(super) fn run<'e>(
        &mut self,
        embeddings: impl Iterator<Item = &'e [f32]>,
        position: usize,
    ) -> Result<(), PolicyError> {
        let x = self.session.input_f32_mut(self.x)?;
        let width = x.len() / self.rows;
        for (row, embedding) in x.chunks_exact_mut(width).zip(embeddings) {
            row.copy_from_slice(embedding);
        }
        match &self.form {
            Form::Portable { positions, mask, .. } => {
                for (row, at) in self.session.input_i64_mut(*positions)?.iter_mut().enumerate() {
                    *at = (position + row) as i64;
                }
                self.slab.causal_mask(self.rows, self.session.input_f32_mut(*mask)?)?;
            }
            Form::InPlace { rows } => {
                self.slab.has_room_for(1)?;
                self.session.input_i64_mut(*rows)?.fill(self.slab.len() as i64 + 1);
            }
        }
        Ok(self.session.run()?)
    }

    /// Takes the first `kept` rows of the last pass into the slab; the others are forgotten.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when the slab is full.
    pub(super) fn keep(&mut self, kept: usize) -> Result<(), PolicyError> {
        if let Form::Portable { new, .. } = &self.form
            && !self.session.append(self.slab.len(), kept)?
        {
            for (new, past) in new.iter().zip(&self.past) {
                let (rows, tensor) = self.session.output_and_input_f32(*new, *past)?;
                self.slab.write_range(tensor, rows, self.rows, 0..kept)?;
            }
        }
        Ok(self.slab.append(kept, 0..0)?)
    }

    /// Logits of the last pass, `[K, V]` row-major.
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

impl Rows for Decoder {
    fn len(&self) -> usize {
        self.slab.len()
    }

    fn capacity(&self) -> usize {
        self.slab.capacity()
    }

    fn tensor(&mut self, index: usize) -> Result<&[f32], EngineError> {
        self.session.input_f32(self.past[index])
    }
}
