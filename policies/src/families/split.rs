//! The decoder in two halves: a token through the layers up to the auxiliary head, and rows of what came out of them through
//! the layers behind it.
//!
//! Each half has the keys and values of its own layers. Rows that went through the shallow half alone wait on a stack; one
//! pass of the deep half takes them all, so that its keys and values catch up. Both slabs then end at the same row again.
//! The rows that wait may be a tree: each looks at the prefix, at the rows before it that were kept, and at its ancestors on
//! the stack alone. The rows of the path that is right are then moved together.
//!
//! The deep half has a graph of one row and one of `K`, which are given the same keys and values.

use super::Graphs;
use super::decoder::Rows;
use super::prefix::{Prefix, kv_names};
use crate::bundle::{ModelShape, SplitSpec};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::kv::{KvError, KvShape, KvSlab, MASKED};
use crate::load::LoadError;
use crate::policy::PolicyError;
use core::ops::Range;

/// The graph of the shallow half.
pub(crate) const SHALLOW: &str = "decode_a.onnx";

/// A graph over some of the layers.
struct Half {
    session: Box<dyn Session>,
    rows: usize,
    x: InputSlot,
    positions: InputSlot,
    mask: InputSlot,
    /// What the deep half is given; of the shallow half alone.
    hidden: Option<OutputSlot>,
    logits: OutputSlot,
    /// Two per layer: keys, values.
    past: Vec<InputSlot>,
    new: Vec<OutputSlot>,
}

impl Half {
    fn load(
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        name: &str,
        m: ModelShape,
        layers: Range<usize>,
        rows: usize,
        capacity: usize,
    ) -> Result<Self, LoadError> {
        let is_shallow = layers.start == 0;
        let mut contract = Contract::new();
        let x = contract.input_f32(if is_shallow { "x" } else { "hidden" }, &[1, rows, m.width]);
        let positions = contract.input_i64("positions", &[1, rows]);
        let mask = contract.input_f32("mask", &[1, 1, rows, capacity + rows]);
        let of_layers = |kind| kv_names(kind, layers.end).skip(2 * layers.start);
        let past =
            of_layers("past").map(|name| contract.input_f32(name, &[1, m.kv_heads, capacity, m.head_dim])).collect();
        let hidden = is_shallow.then(|| contract.output_f32("hidden", &[1, rows, m.width]));
        let logits = contract.output_f32("logits", &[1, rows, m.vocabulary]);
        let new = of_layers("new").map(|name| contract.output_f32(name, &[1, m.kv_heads, rows, m.head_dim])).collect();
        let session = engine.load(graphs.source(name)?, &contract)?;
        Ok(Self { session, rows, x, positions, mask, hidden, logits, past, new })
    }

    /// Runs what was written into `x`: the rows of `waiting` from `first` on behind those of `slab`, of which as many as `first`
    /// are the rows of `waiting` before it.
    fn run(&mut self, slab: &KvSlab, waiting: &[Waiting], first: usize, position: usize) -> Result<(), PolicyError> {
        let positions = self.session.input_i64_mut(self.positions)?;
        for (row, at) in positions.iter_mut().enumerate() {
            // What is behind the rows that wait is left over.
            *at = (position + waiting.get(first + row).map_or(first + row, |row| row.depth)) as i64;
        }
        let mask = self.session.input_f32_mut(self.mask)?;
        slab.causal_mask(self.rows, mask)?;
        let (begun, capacity) = (slab.len() - first, slab.capacity());
        for (row, scores) in (first..waiting.len()).zip(mask.chunks_exact_mut(capacity + self.rows)) {
            for before in (0..row).filter(|before| !looks_at(waiting, *before, row)) {
                scores[if before < first { begun + before } else { capacity + before - first }] = MASKED;
            }
        }
        Ok(self.session.run()?)
    }

    /// Copies row `row` of the last run of `from`, which is over the same layers, behind the rows of `slab`.
    fn keep_of(from: &Self, into: &mut Self, slab: &KvSlab, row: usize) -> Result<(), PolicyError> {
        for (new, past) in from.new.iter().zip(&into.past) {
            let rows = from.session.output_f32(*new)?;
            slab.write_range(into.session.input_f32_mut(*past)?, rows, from.rows, row..row + 1)?;
        }
        Ok(())
    }

    /// Copies row `row` of the last run behind the rows of `slab`.
    fn keep(&mut self, slab: &KvSlab, row: usize) -> Result<(), PolicyError> {
        for (new, past) in self.new.iter().zip(&self.past) {
            let (rows, tensor) = self.session.output_and_input_f32(*new, *past)?;
            slab.write_range(tensor, rows, self.rows, row..row + 1)?;
        }
        Ok(())
    }

    /// Moves a row of the slab.
    fn move_row(&mut self, slab: &KvSlab, from: usize, to: usize) -> Result<(), PolicyError> {
        for past in &self.past {
            slab.copy_row(self.session.input_f32_mut(*past)?, from, to)?;
        }
        Ok(())
    }
}

/// A row on the stack.
#[derive(Copy, Clone, Debug)]
struct Waiting {
    /// The row before it; its own number for the first.
    parent: usize,
    /// Rows before it on its path.
    depth: usize,
}

/// Whether row `of` looks at row `row`: its ancestors and itself.
fn looks_at(waiting: &[Waiting], row: usize, of: usize) -> bool {
    let mut at = of;
    while at > row {
        at = waiting[at].parent;
    }
    at == row
}

/// Both halves, their slabs and the stack between them.
pub(super) struct Split {
    shallow: Half,
    deep_one: Half,
    deep: Half,
    shallow_slab: KvSlab,
    deep_slab: KvSlab,
    /// `[K, d]`, what the shallow half made of the rows that wait.
    stack: Vec<f32>,
    /// Rows that wait.
    waiting: Vec<Waiting>,
    /// Rows of the last deep pass.
    ran: usize,
    /// Position of the first of them.
    position: usize,
    width: usize,
}

impl Split {
    /// Loads the three graphs, split after `exit_layer` layers.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(super) fn load(
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        m: ModelShape,
        spec: SplitSpec,
        exit_layer: usize,
        capacity: usize,
    ) -> Result<Self, LoadError> {
        let shallow = Half::load(engine, graphs, SHALLOW, m, 0..exit_layer, 1, capacity)?;
        let deep = |rows: usize| {
            let name = format!("decode_b_k{rows}.onnx");
            Half::load(engine, graphs, &name, m, exit_layer..m.layers, rows, capacity)
        };
        let (deep_one, deep) = (deep(1)?, deep(spec.rows)?);
        let slab = || KvSlab::new(KvShape { heads: m.kv_heads, head_dim: m.head_dim, capacity });
        Ok(Self {
            shallow,
            deep_one,
            deep,
            shallow_slab: slab(),
            deep_slab: slab(),
            stack: vec![0.0; spec.rows * m.width],
            waiting: Vec::with_capacity(spec.rows),
            ran: 0,
            position: 0,
            width: m.width,
        })
    }

    /// `K`, rows that the deep half takes in a pass.
    pub(super) fn rows(&self) -> usize {
        self.deep.rows
    }

    /// Rows that wait for the deep half.
    pub(super) fn stacked(&self) -> usize {
        self.waiting.len()
    }

    /// Whether one more row can be run by the shallow half.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < self.rows()
    }

    /// Fills both slabs with the keys and values of a prefix that has run.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when it does not fit.
    pub(super) fn take_prefix(&mut self, prefix: &Prefix) -> Result<(), PolicyError> {
        self.clear();
        let rows = prefix.model().prefix;
        let shallow = self.shallow.past.len();
        for (index, new) in prefix.keys_and_values().enumerate() {
            let new = new?;
            let halves = if index < shallow {
                [Some((&mut self.shallow, index)), None]
            } else {
                [Some((&mut self.deep_one, index - shallow)), Some((&mut self.deep, index - shallow))]
            };
            for (half, at) in halves.into_iter().flatten() {
                self.deep_slab.write(half.session.input_f32_mut(half.past[at])?, new, rows)?;
            }
        }
        self.shallow_slab.append(rows, prefix.padding())?;
        Ok(self.deep_slab.append(rows, prefix.padding())?)
    }

    /// Runs one token through the shallow half and puts what comes out on the stack; its keys and values are kept. It stands
    /// behind row `parent` of the stack, the first of an empty stack at `position`.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when a slab or the stack is full, [`PolicyError::Engine`].
    pub(super) fn run_shallow(&mut self, embedding: &[f32], parent: usize, position: usize) -> Result<(), PolicyError> {
        let row = self.waiting.len();
        if !self.has_room() {
            return Err(KvError::Full { len: row, capacity: self.rows(), rows: 1 }.into());
        }
        if row == 0 {
            self.position = position;
        }
        let depth = if row == 0 { 0 } else { self.waiting[parent].depth + 1 };
        self.waiting.push(Waiting { parent: if row == 0 { 0 } else { parent }, depth });
        self.shallow.session.input_f32_mut(self.shallow.x)?.copy_from_slice(embedding);
        self.shallow.run(&self.shallow_slab, &self.waiting, row, self.position)?;
        self.shallow.keep(&self.shallow_slab, 0)?;
        self.shallow_slab.append(1, 0..0)?;
        if let Some(hidden) = self.shallow.hidden {
            let row = row * self.width..(row + 1) * self.width;
            self.stack[row].copy_from_slice(self.shallow.session.output_f32(hidden)?);
        }
        Ok(())
    }

    /// Logits of the auxiliary head after the last token, `[V]`.
    ///
    /// # Errors
    /// [`EngineError`] before the first.
    pub(super) fn shallow_logits(&self) -> Result<&[f32], EngineError> {
        self.shallow.session.output_f32(self.shallow.logits)
    }

    /// Runs the stack through the deep half. Nothing is taken into its slab yet.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when the slab is full, [`PolicyError::Engine`].
    pub(super) fn run_deep(&mut self) -> Result<(), PolicyError> {
        self.ran = self.waiting.len();
        self.deep_slab.has_room_for(self.ran)?;
        let half = if self.ran == 1 { &mut self.deep_one } else { &mut self.deep };
        let waiting = self.ran * self.width;
        // What is behind them is left over, and nothing real looks at it.
        half.session.input_f32_mut(half.x)?[..waiting].copy_from_slice(&self.stack[..waiting]);
        half.run(&self.deep_slab, &self.waiting, 0, self.position)
    }

    /// Logits of a row of the last deep pass, `[V]`.
    ///
    /// # Errors
    /// [`EngineError`] before the first.
    pub(super) fn deep_logits(&self, row: usize) -> Result<&[f32], EngineError> {
        let half = if self.ran == 1 { &self.deep_one } else { &self.deep };
        let logits = half.session.output_f32(half.logits)?;
        let width = logits.len() / half.rows;
        Ok(&logits[row * width..(row + 1) * width])
    }

    /// Takes the rows of a path of the last deep pass, each the parent of the next; the others are forgotten in both halves,
    /// and the stack is empty.
    ///
    /// # Errors
    /// [`PolicyError::Memory`] when the slab is full.
    pub(super) fn keep(&mut self, path: &[usize]) -> Result<(), PolicyError> {
        let begun = self.deep_slab.len();
        let (ran, other) =
            if self.ran == 1 { (&mut self.deep_one, &mut self.deep) } else { (&mut self.deep, &mut self.deep_one) };
        for (place, row) in path.iter().enumerate() {
            ran.keep(&self.deep_slab, *row)?;
            Half::keep_of(ran, other, &self.deep_slab, *row)?;
            self.deep_slab.append(1, 0..0)?;
            if place != *row {
                self.shallow.move_row(&self.shallow_slab, begun + row, begun + place)?;
            }
        }
        self.shallow_slab.crop(self.deep_slab.len());
        self.waiting.clear();
        Ok(())
    }

    /// Forgets every row.
    pub(super) fn clear(&mut self) {
        self.shallow_slab.crop(0);
        self.deep_slab.crop(0);
        self.waiting.clear();
    }
}

impl Rows for Split {
    fn len(&self) -> usize {
        self.deep_slab.len()
    }

    fn capacity(&self) -> usize {
        self.deep_slab.capacity()
    }

    fn tensor(&mut self, index: usize) -> Result<&[f32], EngineError> {
        let shallow = self.shallow.past.len();
        let (half, at) = if index < shallow { (&mut self.shallow, index) } else { (&mut self.deep, index - shallow) };
        half.session.input_f32(half.past[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_looks_at_its_ancestors_and_itself() {
        // 0 ─ 1 ─ 3
        //   └ 2 ─ 4
        let waiting = [(0, 0), (0, 1), (0, 1), (1, 2), (2, 2)].map(|(parent, depth)| Waiting { parent, depth });
        let seen = |of: usize| (0..=of).filter(|row| looks_at(&waiting, *row, of)).collect::<Vec<_>>();
        assert_eq!([0, 1, 2, 3, 4].map(seen), [vec![0], vec![0, 1], vec![0, 2], vec![0, 1, 3], vec![0, 2, 4]]);
    }
}
