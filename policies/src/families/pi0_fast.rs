//! π0-FAST: images and a prompt make a prefix, FAST tokens follow one by one (Pertsch et al., arXiv 2501.09747, §V).
//!
//! Prefix of `S` rows: `Nv` visual tokens at positions 0..Nv, then padding, then the prompt, right-aligned, at
//! positions Nv... Everything real in it attends to everything real; padding is masked for everyone. Generated
//! token `t` stands in slab row `S + t` at position `Nv + T + t`. Generation is greedy over the action ids and ends
//! when the coefficients are exactly complete; no end token is needed or believed.

use core::time::Duration;
use std::time::Instant as WallInstant;

use endplate_tokenizers::{ACTION_PREFIX, FastCodec, Progress, PromptTokenizer, discretise_state, fast_prefix};

use crate::action_space::NormalisedRows;
use crate::bundle::{PolicySpec, Strategy};
use crate::chunk::{ActionChunk, Stages};
use crate::engine::{Contract, Engine, EngineError, ExternalFile, GraphSource, InputSlot, OutputSlot, Session};
use crate::image::ImageLoader;
use crate::kv::{KvShape, KvSlab, MASKED};
use crate::observation::{Budget, Committed, Epoch, Meter, Observation};
use crate::policy::{ObservationError, OutputFault, Policy, PolicyError, Stage, StopReason};

pub(crate) const NAME: &str = "pi0_fast";
/// The graphs' files.
pub(crate) const VISION: &str = "vision.onnx";
pub(crate) const PREFILL: &str = "prefill.onnx";
pub(crate) const DECODE: &str = "decode_k1.onnx";

/// What the policy needs beside its graphs.
pub(crate) struct Parts {
    pub(crate) spec: PolicySpec,
    /// `[V, d]`.
    pub(crate) embedding: Vec<f32>,
    pub(crate) prompt: PromptTokenizer,
    /// Id put before the prompt.
    pub(crate) bos: u32,
    pub(crate) codec: FastCodec,
}

/// The serialised graphs.
pub(crate) struct Graphs<'a> {
    pub(crate) vision: &'a [u8],
    pub(crate) prefill: &'a [u8],
    pub(crate) decode: &'a [u8],
    pub(crate) external: &'a [ExternalFile],
}

struct Vision {
    session: Box<dyn Session>,
    image: InputSlot,
    visual: OutputSlot,
}

struct Decoder {
    session: Box<dyn Session>,
    x: InputSlot,
    positions: InputSlot,
    mask: InputSlot,
    logits: OutputSlot,
    /// Two per layer: keys, values.
    new: Vec<OutputSlot>,
    /// As `new`; empty for the prefill graph.
    past: Vec<InputSlot>,
}

/// The policy.
pub(crate) struct Pi0Fast {
    parts: Parts,
    images: ImageLoader,
    vision: Vision,
    prefill: Decoder,
    decode: Decoder,
    slab: KvSlab,
    /// Prompt length the prefill mask was last written for.
    masked_for: Option<usize>,
    text_ids: Vec<u32>,
    tokens: Vec<u32>,
    /// Of these, those that were not the most likely.
    constrained: u32,
    normalised: NormalisedRows,
    fault: OutputFault,
}

impl Pi0Fast {
    /// Loads the three graphs.
    ///
    /// # Errors
    /// [`EngineError`] naming the graph and the tensor.
    pub(crate) fn new(parts: Parts, engine: &dyn Engine, graphs: &Graphs<'_>) -> Result<Self, EngineError> {
        let m = parts.spec.model;
        let slot = &parts.spec.cameras[0];
        let mut contract = Contract::new();
        let image =
            contract.input_f32("image", &[parts.spec.cameras.len(), 3, slot.height as usize, slot.width as usize]);
        let visual = contract.output_f32("visual", &[1, m.visual_tokens, m.width]);
        let source = |name, onnx| GraphSource { name, onnx, external: graphs.external };
        let vision = Vision { session: engine.load(source(VISION, graphs.vision), &contract)?, image, visual };
        let prefill = Decoder::load(engine, source(PREFILL, graphs.prefill), &parts.spec, m.prefix, None)?;
        let decode = Decoder::load(engine, source(DECODE, graphs.decode), &parts.spec, 1, Some(m.slab))?;
        let (horizon, dims) = (parts.spec.chunk.horizon, parts.spec.actions.dims().len());
        Ok(Self {
            images: ImageLoader::new(),
            vision,
            prefill,
            decode,
            slab: KvSlab::new(KvShape { heads: m.kv_heads, head_dim: m.head_dim, capacity: m.slab }),
            masked_for: None,
            text_ids: Vec::with_capacity(parts.spec.max_text_tokens),
            tokens: Vec::with_capacity(m.max_tokens),
            constrained: 0,
            normalised: NormalisedRows::new(horizon, dims),
            fault: OutputFault::None,
            parts,
        })
    }

    /// Visual tokens of the last inference, `[Nv, d]`.
    pub(crate) fn visual(&self) -> Result<&[f32], EngineError> {
        self.vision.session.output_f32(self.vision.visual)
    }

    /// Logits after the prefix of the last inference, `[V]`.
    pub(crate) fn prefill_logits(&self) -> Result<&[f32], EngineError> {
        self.prefill.session.output_f32(self.prefill.logits)
    }

    /// Prompt ids of the last inference.
    pub(crate) fn text_ids(&self) -> &[u32] {
        &self.text_ids
    }

    fn check(&self, observation: &Observation<'_>, chunk: &ActionChunk) -> Result<(), ObservationError> {
        let spec = &self.parts.spec;
        if observation.frames.len() != spec.cameras.len() {
            return Err(ObservationError::Frames { needed: spec.cameras.len(), got: observation.frames.len() });
        }
        let positions = &observation.state.position_rad;
        if positions.len() != spec.state.len() {
            return Err(ObservationError::Joints { needed: spec.state.len(), got: positions.len() });
        }
        if let Some(joint) = positions.iter().position(|p| !p.is_finite()) {
            return Err(ObservationError::NonFiniteState { joint });
        }
        let (needed_horizon, needed_dims) = (spec.chunk.horizon, spec.actions.dims().len());
        if (chunk.horizon(), chunk.dims()) != (needed_horizon, needed_dims) {
            return Err(ObservationError::Chunk {
                horizon: chunk.horizon(),
                dims: chunk.dims(),
                needed_horizon,
                needed_dims,
            });
        }
        Ok(())
    }

    fn load_images(&mut self, observation: &Observation<'_>) -> Result<(), PolicyError> {
        let slots = &self.parts.spec.cameras;
        let image = self.vision.session.input_f32_mut(self.vision.image)?;
        let size = image.len() / slots.len();
        for (index, ((slot, frame), into)) in
            slots.iter().zip(observation.frames).zip(image.chunks_exact_mut(size)).enumerate()
        {
            self.images.load(index, slot, frame, into)?;
        }
        Ok(())
    }

    fn encode_prompt(&mut self, observation: &Observation<'_>) -> Result<(), PolicyError> {
        let spec = &self.parts.spec;
        let positions = observation.state.position_rad.iter().enumerate();
        let bins: Vec<i32> =
            positions.map(|(dim, position)| discretise_state(spec.state_quantiles.normalise(dim, *position))).collect();
        self.text_ids = self.prompt_ids(observation.instruction, &bins)?;
        Ok(())
    }

    /// The prompt's ids, or which word the policy does not know.
    fn prompt_ids(&self, instruction: &str, bins: &[i32]) -> Result<Vec<u32>, PolicyError> {
        let text = fast_prefix(instruction, bins) + ACTION_PREFIX;
        let mut ids = self.parts.prompt.encode(&text)?;
        ids.insert(0, self.parts.bos);
        let room = self.parts.spec.max_text_tokens;
        if ids.len() > room { Err(PolicyError::PromptTooLong { tokens: ids.len(), room }) } else { Ok(ids) }
    }

    /// Runs the prefix and fills the slab with it.
    fn run_prefill(&mut self) -> Result<(), PolicyError> {
        let m = self.parts.spec.model;
        let text = self.text_ids.len();
        let padding = m.visual_tokens..m.prefix - text;

        let visual = self.vision.session.output_f32(self.vision.visual)?;
        let x = self.prefill.session.input_f32_mut(self.prefill.x)?;
        let (seen, rest) = x.split_at_mut(padding.start * m.width);
        let (empty, said) = rest.split_at_mut(padding.len() * m.width);
        seen.copy_from_slice(visual);
        empty.fill(0.0);
        for (row, id) in said.chunks_exact_mut(m.width).zip(&self.text_ids) {
            row.copy_from_slice(embedding_row(&self.parts.embedding, m.width, *id));
        }
        let positions = self.prefill.session.input_i64_mut(self.prefill.positions)?;
        for (row, position) in positions.iter_mut().enumerate() {
            let at = if row < padding.start {
                row
            } else if padding.contains(&row) {
                0
            } else {
                row - padding.len()
            };
            *position = at as i64;
        }
        if self.masked_for != Some(text) {
            let mask = self.prefill.session.input_f32_mut(self.prefill.mask)?;
            for row in mask.chunks_exact_mut(m.prefix) {
                row.fill(0.0);
                row[padding.clone()].fill(MASKED);
            }
            self.masked_for = Some(text);
        }
        self.prefill.session.run()?;

        self.slab.crop(0);
        for (new, past) in self.prefill.new.iter().zip(&self.decode.past) {
            let rows = self.prefill.session.output_f32(*new)?;
            self.slab.write(self.decode.session.input_f32_mut(*past)?, rows, m.prefix)?;
        }
        self.slab.append(m.prefix, padding)?;
        Ok(())
    }

    /// Runs generated token number `index` through the decoder and takes it into the slab.
    fn run_decode(&mut self, index: usize, token: u32) -> Result<(), PolicyError> {
        let m = self.parts.spec.model;
        let decode = &mut self.decode;
        let row = embedding_row(&self.parts.embedding, m.width, m.action_offset as u32 + token);
        decode.session.input_f32_mut(decode.x)?.copy_from_slice(row);
        decode.session.input_i64_mut(decode.positions)?.fill((m.visual_tokens + self.text_ids.len() + index) as i64);
        self.slab.causal_mask(1, decode.session.input_f32_mut(decode.mask)?)?;
        decode.session.run()?;
        for (new, past) in decode.new.iter().zip(&decode.past) {
            let (rows, tensor) = decode.session.output_and_input_f32(*new, *past)?;
            self.slab.write(tensor, rows, 1)?;
        }
        self.slab.append(1, 0..0)?;
        Ok(())
    }

    /// Generates until the coefficients are complete.
    fn generate(&mut self, meter: &mut Meter<'_>) -> Result<(), PolicyError> {
        let m = self.parts.spec.model;
        self.tokens.clear();
        self.constrained = 0;
        self.parts.codec.reset();
        loop {
            let index = self.tokens.len();
            let logits =
                if index == 0 { self.prefill_logits()? } else { self.decode.session.output_f32(self.decode.logits)? };
            let logits = &logits[m.action_offset..];
            if !logits.iter().all(|value| value.is_finite()) {
                return Err(PolicyError::NonFiniteLogits { token: index });
            }
            let first = most_likely(logits, None);
            let mut chosen = first;
            if self.parts.spec.strategy == Strategy::GreedyConstrained {
                while let Some(token) = chosen.filter(|token| !self.parts.codec.allows(*token)) {
                    chosen = most_likely(logits, Some(token));
                }
            }
            // No id at all can be taken when a character was begun that no id ends: the first is pushed and refused.
            let token = chosen.or(first).unwrap_or_default();
            self.constrained += u32::from(chosen != first);
            self.tokens.push(token);
            let progress = self.parts.codec.push(token)?;
            meter.charge(Stage::Decode)?;
            if progress == Progress::Complete || self.tokens.len() == m.max_tokens {
                // An incomplete sequence is refused when it is decoded.
                return Ok(());
            }
            self.run_decode(index, token)?;
        }
    }

    /// Tokens to absolute rows, with the injected fault where a broken model would show it.
    fn decode_rows(&mut self, observation: &Observation<'_>, rows: &mut [f64]) -> Result<(), PolicyError> {
        let faulty: Option<Vec<u32>> = match self.fault {
            OutputFault::TokensGarbage => {
                Some(garbage(self.parts.codec.vocab_size(), self.parts.spec.model.max_tokens))
            }
            OutputFault::TokensTruncated => Some(self.tokens[..self.tokens.len() / 2].to_vec()),
            OutputFault::None | OutputFault::Nan | OutputFault::Inf | OutputFault::Huge => None,
        };
        match faulty {
            Some(ids) => self.parts.codec.decode(&ids, self.normalised.values_mut())?,
            None => self.parts.codec.finish(self.normalised.values_mut())?,
        }
        let broken = match self.fault {
            OutputFault::Nan => Some(f64::NAN),
            OutputFault::Inf => Some(f64::INFINITY),
            OutputFault::Huge => Some(1e6),
            OutputFault::None | OutputFault::TokensGarbage | OutputFault::TokensTruncated => None,
        };
        if let (Some(value), Some(last)) = (broken, self.normalised.values_mut().last_mut()) {
            *last = value;
        }
        self.parts.spec.actions.to_absolute(&self.normalised, &observation.state.position_rad, rows)
    }
}

impl Decoder {
    /// Loads a graph of `rows` new tokens, with or without a slab of `past` rows.
    fn load(
        engine: &dyn Engine,
        source: GraphSource<'_>,
        spec: &PolicySpec,
        rows: usize,
        past: Option<usize>,
    ) -> Result<Self, EngineError> {
        let m = spec.model;
        let mut contract = Contract::new();
        let x = contract.input_f32("x", &[1, rows, m.width]);
        let positions = contract.input_i64("positions", &[1, rows]);
        let mask = contract.input_f32("mask", &[1, 1, rows, past.unwrap_or(0) + rows]);
        let logits = contract.output_f32("logits", &[1, 1, m.vocabulary]);
        let names = |prefix: &str| -> Vec<String> {
            (0..m.layers).flat_map(|l| [format!("{prefix}_k_{l}"), format!("{prefix}_v_{l}")]).collect()
        };
        let new = names("new")
            .into_iter()
            .map(|name| contract.output_f32(name, &[1, m.kv_heads, rows, m.head_dim]))
            .collect();
        let past = past.map_or_else(Vec::new, |slab| {
            names("past").into_iter().map(|name| contract.input_f32(name, &[1, m.kv_heads, slab, m.head_dim])).collect()
        });
        Ok(Self { session: engine.load(source, &contract)?, x, positions, mask, logits, new, past })
    }
}

impl Policy for Pi0Fast {
    fn spec(&self) -> &PolicySpec {
        &self.parts.spec
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        let mut meter = Meter::new(budget, self.parts.spec.costs);
        let mut stages = Stages::default();
        let mut lap = Lap(WallInstant::now());

        self.check(observation, chunk)?;
        self.load_images(observation)?;
        stages.preprocess = lap.take();
        self.vision.session.run()?;
        stages.vision = lap.take();
        meter.charge(Stage::Vision)?;

        self.encode_prompt(observation)?;
        self.run_prefill()?;
        stages.prefill = lap.take();
        meter.charge(Stage::Prefill)?;

        self.generate(&mut meter)?;
        stages.decode = lap.take();
        stages.tokens = self.tokens.len() as u32;
        stages.constrained = self.constrained;
        stages.passes = self.tokens.len().saturating_sub(1) as f64;

        self.decode_rows(observation, chunk.rows_mut())?;
        stages.postprocess = lap.take();
        chunk.set(self.parts.spec.chunk.row_period, observation.anchor, committed.epoch, None, stages);
        Ok(StopReason::Complete)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.prompt_ids(instruction, &vec![0; self.parts.spec.state.len()]).map(drop)
    }

    fn reset(&mut self, _epoch: Epoch) {
        // Nothing links one inference to the next; the token count behind the cost model starts over.
        self.tokens.clear();
        self.slab.crop(0);
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        let costs = self.parts.spec.costs;
        let tokens = if self.tokens.is_empty() { self.parts.spec.model.max_tokens } else { self.tokens.len() };
        costs.vision + costs.prefill + costs.token * tokens as u32
    }

    fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

struct Lap(WallInstant);

impl Lap {
    fn take(&mut self) -> Duration {
        let now = WallInstant::now();
        let lap = now - self.0;
        self.0 = now;
        lap
    }
}

/// Row `id` of the embedding table. Ids come from the prompt tokenizer and from the argmax over the vocabulary, both
/// of which were checked against the table's size at load.
fn embedding_row(table: &[f32], width: usize, id: u32) -> &[f32] {
    &table[id as usize * width..(id as usize + 1) * width]
}

/// The id with the largest logit, or of those that rank behind `after`; the smaller id ranks first of equals.
fn most_likely(logits: &[f32], after: Option<u32>) -> Option<u32> {
    let behind = |id: usize, value: f32| match after {
        None => true,
        Some(last) => {
            let limit = logits[last as usize];
            value < limit || (value == limit && id > last as usize)
        }
    };
    let mut best: Option<usize> = None;
    for (id, &value) in logits.iter().enumerate() {
        if behind(id, value) && best.is_none_or(|best| value > logits[best]) {
            best = Some(id);
        }
    }
    best.map(|id| id as u32)
}

/// A fixed sequence of ids no policy meant (a linear congruential generator, Numerical Recipes' constants).
fn garbage(vocabulary: u32, count: usize) -> Vec<u32> {
    let mut state = 1u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % vocabulary
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_ranked_by_logit_then_by_id() {
        let logits = [0.0, 3.0, -1.0, 3.0];
        let mut ranked = Vec::new();
        let mut last = None;
        while let Some(id) = most_likely(&logits, last) {
            ranked.push(id);
            last = Some(id);
        }
        assert_eq!(ranked, [1, 3, 0, 2]);
    }

    #[test]
    fn garbage_is_the_same_every_time_and_inside_the_vocabulary() {
        let ids = garbage(1024, 48);
        assert_eq!(ids, garbage(1024, 48));
        assert!(ids.iter().all(|id| *id < 1024));
    }
}
