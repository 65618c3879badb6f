//! The prefix with fewer visual tokens: graphs behind the first, or instead of it ([`pruning`](crate::pruning)).
//!
//! `prefill_a.onnx` sees all `S` rows and ends behind its layers; `prefill_bN.onnx` takes N visual rows and all others on
//! from there. `prefill_cN.onnx` takes as many from the beginning, over the keys and values of the prefix before.

use core::ops::Range;

use super::Graphs;
use super::prefix::{Prefill, kv_names};
use crate::bundle::{ModelShape, PolicySpec, PromptSpec};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::kv::MASKED;
use crate::load::LoadError;
use crate::observation::Epoch;
use crate::policy::PolicyError;
use crate::pruning::{CACHED_AT_MOST, Choice, Contribution, Pruning, copy_patch, edge_shares, stillness};

/// Where the visual rows stand, and which rows mean nothing.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) prompt: PromptSpec,
    /// Row of the first visual token.
    pub(super) visual: usize,
    pub(super) padding: Range<usize>,
}

impl Layout {
    /// Position of a row of the whole prefix.
    pub(super) fn position(&self, row: usize) -> i64 {
        let at = if row < self.padding.start {
            row
        } else if self.padding.contains(&row) {
            0
        } else {
            row - self.padding.len()
        };
        at as i64
    }

    /// The rows of a prefix with the visual tokens that a choice keeps.
    fn rows(&self, choice: &Choice, m: ModelShape, into: &mut Vec<usize>) {
        into.clear();
        into.extend(0..self.visual);
        into.extend(choice.tokens().map(|token| self.visual + token));
        into.extend(self.visual + m.visual_tokens..m.prefix);
    }
}

/// A graph of some of the rows.
struct Part {
    /// N, visual tokens.
    tokens: usize,
    session: Box<dyn Session>,
    x: InputSlot,
    positions: InputSlot,
    mask: InputSlot,
    past: Vec<InputSlot>,
    logits: Option<OutputSlot>,
    new: Vec<OutputSlot>,
    /// Padding the mask was last written for.
    masked_for: Option<Range<usize>>,
}

impl Part {
    /// `past`: rows of keys and values before it; `first`: its first layer.
    fn load(
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        m: ModelShape,
        (letter, tokens): (char, usize),
        (first, past): (usize, usize),
        with_logits: bool,
    ) -> Result<Self, LoadError> {
        let rows = tokens + m.prefix - m.visual_tokens;
        let mut contract = Contract::new();
        let x = contract.input_f32(if past == 0 { "hidden" } else { "x" }, &[1, rows, m.width]);
        let positions = contract.input_i64("positions", &[1, rows]);
        let mask = contract.input_f32("mask", &[1, 1, rows, past + rows]);
        let layers = if past == 0 { 0 } else { m.layers };
        let past =
            kv_names("past", layers).map(|name| contract.input_f32(name, &[1, m.kv_heads, past, m.head_dim])).collect();
        let logits = with_logits.then(|| contract.output_f32("logits", &[1, 1, m.vocabulary]));
        let new = kv_names("new", m.layers)
            .skip(2 * first)
            .map(|name| contract.output_f32(name, &[1, m.kv_heads, rows, m.head_dim]))
            .collect();
        let session = engine.load(graphs.source(&format!("prefill_{letter}{tokens}.onnx"))?, &contract)?;
        Ok(Self { tokens, session, x, positions, mask, past, logits, new, masked_for: None })
    }

    /// Puts rows of `from`, `[S, d]`, in with their positions.
    fn take_rows(&mut self, from: &[f32], rows: &[usize], layout: &Layout) -> Result<(), EngineError> {
        let x = self.session.input_f32_mut(self.x)?;
        let width = x.len() / rows.len();
        for (into, row) in x.chunks_exact_mut(width).zip(rows) {
            into.copy_from_slice(&from[row * width..(row + 1) * width]);
        }
        for (position, row) in self.session.input_i64_mut(self.positions)?.iter_mut().zip(rows) {
            *position = layout.position(*row);
        }
        Ok(())
    }

    fn logits(&self) -> Result<&[f32], EngineError> {
        self.logits.map_or(Ok(&[]), |slot| self.session.output_f32(slot))
    }
}

/// Numbers of tokens that graphs are loaded for, falling.
fn wanted(spec: &PolicySpec, least: usize, all: bool) -> Vec<usize> {
    let buckets = spec.split.iter().flat_map(|split| &split.buckets).map(|bucket| bucket.tokens);
    buckets
        .enumerate()
        .filter(|(index, tokens)| *index == 0 || *tokens == least || (all && *tokens > least))
        .map(|(_, tokens)| tokens)
        .collect()
}

/// Later layers that see fewer rows.
pub(super) struct Split {
    hidden: OutputSlot,
    attention: OutputSlot,
    contribution: Contribution,
    /// Share of edge pixels by token; empty where edges do not count.
    edges: Vec<f64>,
    grid: usize,
    /// Visual tokens that are of a patch.
    patches: usize,
    choice: Choice,
    rows: Vec<usize>,
    /// All tokens first.
    parts: Vec<Part>,
    /// The part that ran last.
    used: usize,
    /// `[Hkv, R, hd]`: keys and values of the first layers, of the rows that were kept.
    early: Vec<Vec<f32>>,
}

impl Split {
    /// Loads the later parts; `contract` is that of the first, whose outputs are added.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(super) fn load(
        spec: &PolicySpec,
        m: ModelShape,
        contract: &mut Contract,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        with_logits: bool,
    ) -> Result<Self, LoadError> {
        let Pruning { edges, planned, .. } = spec.pruning;
        let least = spec.pruning.tokens().unwrap_or(m.visual_tokens);
        let (layer, grid) = spec.split.as_ref().map_or((0, 1), |split| (split.layer, split.grid));
        let hidden = contract.output_f32("hidden", &[1, m.prefix, m.width]);
        let attention = contract.output_f32("attention", &[1, m.visual_tokens, m.width]);
        let parts = wanted(spec, least, planned)
            .into_iter()
            .map(|tokens| Part::load(engine, graphs, m, ('b', tokens), (layer, 0), with_logits))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            hidden,
            attention,
            contribution: Contribution::new(m.visual_tokens, m.width),
            edges: vec![0.0; if edges { spec.cameras.len() * grid * grid } else { 0 }],
            grid,
            patches: spec.cameras.len() * grid * grid,
            choice: Choice::new(m.visual_tokens),
            rows: Vec::with_capacity(m.prefix),
            parts,
            used: 0,
            early: vec![vec![0.0; m.kv_heads * m.prefix * m.head_dim]; 2 * layer],
        })
    }

    /// Goes on behind the first part with `tokens` visual tokens.
    pub(super) fn run(
        &mut self,
        first: &Prefill,
        tokens: usize,
        images: &[f32],
        layout: &Layout,
        (spec, m): (&PolicySpec, ModelShape),
    ) -> Result<(), PolicyError> {
        // The smallest that holds as many.
        self.used = self.parts.iter().rposition(|part| part.tokens >= tokens).unwrap_or(0);
        let part = &mut self.parts[self.used];
        if part.tokens == m.visual_tokens {
            self.choice.all();
        } else {
            let scores = self
                .contribution
                .score(first.session.output_f32(self.attention)?)
                .ok_or(PolicyError::NonFiniteAttention)?;
            by_camera(spec, images, self.grid, &mut self.edges, edge_shares);
            self.choice.by_score(scores, &self.edges, self.patches, part.tokens);
        }
        layout.rows(&self.choice, m, &mut self.rows);
        part.take_rows(first.session.output_f32(self.hidden)?, &self.rows, layout)?;
        if part.masked_for.as_ref() != Some(&layout.padding) {
            let mask = part.session.input_f32_mut(part.mask)?;
            for (query, row) in mask.chunks_exact_mut(self.rows.len()).enumerate() {
                for (key, (score, at)) in row.iter_mut().zip(&self.rows).enumerate() {
                    let is_hidden = layout.padding.contains(at) || (layout.prompt.is_causal() && key > query);
                    *score = if is_hidden { MASKED } else { 0.0 };
                }
            }
            part.masked_for = Some(layout.padding.clone());
        }
        part.session.run()?;
        if part.tokens < m.visual_tokens {
            for (slot, into) in first.new.iter().zip(&mut self.early) {
                gather(first.session.output_f32(*slot)?, &self.rows, m, into);
            }
        }
        Ok(())
    }

    /// Visual tokens that the last inference kept.
    pub(super) fn tokens(&self) -> usize {
        self.parts[self.used].tokens
    }

    pub(super) fn logits(&self) -> Result<&[f32], EngineError> {
        self.parts[self.used].logits()
    }

    /// Keys or values number `index`, `[Hkv, R, hd]`, of the rows that are left.
    pub(super) fn tensor<'a>(
        &'a self,
        first: &'a Prefill,
        index: usize,
        m: ModelShape,
    ) -> Result<&'a [f32], EngineError> {
        let part = &self.parts[self.used];
        match first.new.get(index) {
            None => part.session.output_f32(part.new[index - first.new.len()]),
            Some(slot) if part.tokens == m.visual_tokens => first.session.output_f32(*slot),
            Some(_) => Ok(&self.early[index][..m.kv_heads * self.rows.len() * m.head_dim]),
        }
    }
}

/// `[Hkv, S, hd]` to `[Hkv, R, hd]`.
fn gather(from: &[f32], rows: &[usize], m: ModelShape, into: &mut [f32]) {
    let heads = from.chunks_exact(m.prefix * m.head_dim).zip(into.chunks_exact_mut(rows.len() * m.head_dim));
    for (from, into) in heads {
        for (into, row) in into.chunks_exact_mut(m.head_dim).zip(rows) {
            into.copy_from_slice(&from[row * m.head_dim..(row + 1) * m.head_dim]);
        }
    }
}

/// Calls `of` for every camera's image, `[3, h, w]`, with its patches' part of `into`.
fn by_camera(
    spec: &PolicySpec,
    images: &[f32],
    grid: usize,
    into: &mut [f64],
    mut of: impl FnMut(&[f32], (usize, usize), usize, &mut [f64]),
) {
    let Some(slot) = spec.cameras.first() else { return };
    let size = (slot.width as usize, slot.height as usize);
    for (image, into) in images.chunks_exact(3 * size.0 * size.1).zip(into.chunks_exact_mut(grid * grid)) {
        of(image, size, grid, into);
    }
}

/// Keys and values that stay where the image does.
pub(super) struct Cached {
    /// `[Hkv, S, hd]`, two per layer: the prefix as it is now.
    memory: Vec<Vec<f32>>,
    /// What every patch was when its token was last computed, as the vision graph takes it.
    images: Vec<f32>,
    /// By token; −1 for one that is not still.
    still: Vec<f64>,
    grid: usize,
    choice: Choice,
    rows: Vec<usize>,
    /// Falling.
    parts: Vec<Part>,
    /// The part that ran last; `None` where everything was computed.
    used: Option<usize>,
    /// What the memory is of; `None` for nothing.
    of: Option<Epoch>,
    instruction: String,
    /// Inferences since everything was computed.
    in_a_row: u32,
}

impl Cached {
    /// Loads the graphs of some rows.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(super) fn load(
        spec: &PolicySpec,
        m: ModelShape,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        with_logits: bool,
    ) -> Result<Self, LoadError> {
        let least = spec.pruning.tokens().unwrap_or(m.visual_tokens);
        let grid = spec.split.as_ref().map_or(1, |split| split.grid);
        let parts = wanted(spec, least, true)
            .into_iter()
            .skip(1)
            .map(|tokens| Part::load(engine, graphs, m, ('c', tokens), (0, m.prefix), with_logits))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            memory: vec![vec![0.0; m.kv_heads * m.prefix * m.head_dim]; 2 * m.layers],
            images: Vec::new(),
            still: vec![-1.0; spec.cameras.len() * grid * grid],
            grid,
            choice: Choice::new(m.visual_tokens),
            rows: Vec::with_capacity(m.prefix),
            parts,
            used: None,
            of: None,
            instruction: String::new(),
            in_a_row: 0,
        })
    }

    /// What is remembered is of another run.
    pub(super) fn forget(&mut self) {
        self.of = None;
    }

    /// Picks the graph that leaves out most of what is still, and so what is computed; `false` where everything must be.
    fn choose(&mut self, epoch: Epoch, instruction: &str, images: &[f32], spec: &PolicySpec) -> bool {
        if self.of != Some(epoch) || self.instruction != instruction || self.in_a_row >= CACHED_AT_MOST {
            return false;
        }
        let before = &self.images;
        let mut at = 0;
        by_camera(spec, images, self.grid, &mut self.still, |now, size, grid, into| {
            stillness(&before[at..at + now.len()], now, size, grid, into);
            at += now.len();
        });
        let tokens = self.memory_tokens();
        let choice = &mut self.choice;
        let still = &self.still;
        self.used = self.parts.iter().rposition(|part| choice.but_still(still, tokens - part.tokens));
        self.used.is_some()
    }

    fn memory_tokens(&self) -> usize {
        self.choice.len()
    }

    /// Computes what is not still, of `x`, `[S, d]`; everything by `first` where too little is, or `all` is asked for.
    pub(super) fn run(
        &mut self,
        first: &mut Prefill,
        asked: (Epoch, &str, bool),
        images: &[f32],
        layout: &Layout,
        (spec, m): (&PolicySpec, ModelShape),
    ) -> Result<(), PolicyError> {
        let (epoch, instruction, all) = asked;
        self.used = None;
        let is_partial = !all && self.choose(epoch, instruction, images, spec);
        // Until it is whole again.
        self.of = None;
        if is_partial {
            self.in_a_row += 1;
            self.compute(first.session.input_f32_mut(first.x)?, layout, m)?;
        } else {
            self.in_a_row = 0;
            first.session.run()?;
            for (slot, memory) in first.new.iter().zip(&mut self.memory) {
                memory.copy_from_slice(first.session.output_f32(*slot)?);
            }
            self.choice.all();
            self.images.clear();
            self.images.extend_from_slice(images);
        }
        self.remember(images, spec);
        self.of = Some(epoch);
        instruction.clone_into(&mut self.instruction);
        Ok(())
    }

    fn compute(&mut self, x: &[f32], layout: &Layout, m: ModelShape) -> Result<(), PolicyError> {
        let Some(part) = self.used.and_then(|used| self.parts.get_mut(used)) else { return Ok(()) };
        layout.rows(&self.choice, m, &mut self.rows);
        part.take_rows(x, &self.rows, layout)?;
        let mask = part.session.input_f32_mut(part.mask)?;
        for row in mask.chunks_exact_mut(m.prefix + self.rows.len()) {
            let (past, new) = row.split_at_mut(m.prefix);
            for (at, score) in past.iter_mut().enumerate() {
                let token = at.checked_sub(layout.visual).filter(|token| *token < m.visual_tokens);
                let is_taken = token.is_some_and(|token| !self.choice.keeps(token));
                *score = if is_taken { 0.0 } else { MASKED };
            }
            for (score, at) in new.iter_mut().zip(&self.rows) {
                *score = if layout.padding.contains(at) { MASKED } else { 0.0 };
            }
        }
        for (slot, memory) in part.past.iter().zip(&self.memory) {
            part.session.input_f32_mut(*slot)?.copy_from_slice(memory);
        }
        part.session.run()?;
        for (slot, memory) in part.new.iter().zip(&mut self.memory) {
            let new = part.session.output_f32(*slot)?;
            let heads =
                new.chunks_exact(self.rows.len() * m.head_dim).zip(memory.chunks_exact_mut(m.prefix * m.head_dim));
            for (from, into) in heads {
                for (from, row) in from.chunks_exact(m.head_dim).zip(&self.rows) {
                    into[row * m.head_dim..(row + 1) * m.head_dim].copy_from_slice(from);
                }
            }
        }
        Ok(())
    }

    /// Notes what the patches that were computed look like.
    fn remember(&mut self, images: &[f32], spec: &PolicySpec) {
        let Self { images: seen, choice, grid, .. } = self;
        let Some(slot) = spec.cameras.first() else { return };
        let size = (slot.width as usize, slot.height as usize);
        let (patches, plane) = (*grid * *grid, 3 * size.0 * size.1);
        for (camera, (now, seen)) in images.chunks_exact(plane).zip(seen.chunks_exact_mut(plane)).enumerate() {
            for patch in (0..patches).filter(|patch| choice.keeps(camera * patches + patch)) {
                copy_patch(now, seen, size, *grid, patch);
            }
        }
    }

    /// Visual tokens that the last inference computed.
    pub(super) fn tokens(&self) -> usize {
        self.used.and_then(|used| self.parts.get(used)).map_or(self.memory_tokens(), |part| part.tokens)
    }

    /// `None` where the first graph has them.
    pub(super) fn logits(&self) -> Option<Result<&[f32], EngineError>> {
        Some(self.parts.get(self.used?)?.logits())
    }

    pub(super) fn tensor(&self, index: usize) -> &[f32] {
        &self.memory[index]
    }
}
