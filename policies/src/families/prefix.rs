//! What every family shares: images and a prompt become the keys and values of a prefix.
//!
//! Prefix of `S` rows: `Nv` visual tokens at positions 0..Nv, then padding, then the prompt, right-aligned, at
//! positions Nv... Everything real in it attends to everything real; padding is masked for everyone. What follows the
//! prefix stands at position `Nv + T` and on.

use core::ops::Range;
use core::time::Duration;

use endplate_tokenizers::{ACTION_PREFIX, PromptForm, PromptTokenizer, discretise_state, fast_prefix, openvla_prompt};

use super::decoder::Tensors;
use super::pruned::{Cached, Layout, Split};
use super::{Graphs, Lap, observation};
use crate::bundle::safetensors::read_f32;
use crate::bundle::{Bundle, BundleError, ModelShape, PolicySpec, PrefixSpec, PromptText};
use crate::chunk::{ActionChunk, Stages};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::image::ImageLoader;
use crate::kv::MASKED;
use crate::load::LoadError;
use crate::observation::{Epoch, Meter, Observation};
use crate::policy::{PolicyError, Stage};

const VISION: &str = "vision.onnx";
const PREFILL: &str = "prefill.onnx";
const FIRST_PART: &str = "prefill_a.onnx";
const WEIGHTS: &str = "weights.safetensors";
const TEXT_TOKENIZER: &str = "text/tokenizer.json";
const BOS: &str = "<bos>";

/// What the prefix needs beside its graphs.
pub(crate) struct Parts {
    pub(crate) spec: PolicySpec,
    pub(crate) shape: PrefixSpec,
    /// `[V, d]`.
    embedding: Vec<f32>,
    prompt: PromptTokenizer,
    /// Id put before the prompt.
    bos: u32,
}

impl Parts {
    /// Reads the embedding table and the prompt's tokenizer, whose ids must lie below `room`, where `end` begins.
    ///
    /// # Errors
    /// [`LoadError`] naming the file.
    pub(super) fn read(bundle: &Bundle, shape: PrefixSpec, room: usize, end: &str) -> Result<Self, LoadError> {
        let m = shape.model;
        let embedding = read_f32(bundle.file(WEIGHTS)?, "embedding", &[m.vocabulary, m.width])
            .map_err(|error| BundleError::Weights { file: WEIGHTS.to_owned(), error })?;
        let bad = |message: String| LoadError::Tokenizer { file: TEXT_TOKENIZER, message };
        let prompt = PromptTokenizer::from_bytes(bundle.file(TEXT_TOKENIZER)?, TEXT_TOKENIZER)
            .map_err(|error| bad(error.to_string()))?;
        if prompt.ids_end() > room {
            return Err(bad(format!("has ids up to {}, which reach into {end} from {room}", prompt.ids_end())));
        }
        let bos = shape.prompt.bos.or(prompt.id_of(BOS)).ok_or_else(|| bad(format!("has no token {BOS}")))?;
        Ok(Self { spec: bundle.spec().clone(), shape, embedding, prompt, bos })
    }
}

struct Vision {
    session: Box<dyn Session>,
    image: InputSlot,
    visual: OutputSlot,
}

impl Vision {
    fn load(parts: &Parts, engine: &dyn Engine, graphs: &Graphs<'_>) -> Result<Self, LoadError> {
        let (m, slot) = (parts.shape.model, &parts.spec.cameras[0]);
        let mut contract = Contract::new();
        let image =
            contract.input_f32("image", &[parts.spec.cameras.len(), 3, slot.height as usize, slot.width as usize]);
        let visual = contract.output_f32("visual", &[1, m.visual_tokens, m.width]);
        Ok(Self { session: engine.load(graphs.source(VISION)?, &contract)?, image, visual })
    }
}

/// The graph that the prefix runs on, or its first layers do.
pub(super) struct Prefill {
    pub(super) session: Box<dyn Session>,
    pub(super) x: InputSlot,
    positions: InputSlot,
    mask: InputSlot,
    /// Only where a token follows: of the last row, or of every row.
    logits: Option<OutputSlot>,
    /// Two per layer: keys, values, `[1, Hkv, S, hd]` each.
    pub(super) new: Vec<OutputSlot>,
    /// Rows of a slab without anything in it that the mask has before those of the prefix.
    before: usize,
}

impl Prefill {
    /// Loads `prefill.onnx`, or what stands for it where visual tokens are left out; `with_logits` where it also predicts
    /// the first token.
    fn load(
        spec: &PolicySpec,
        m: ModelShape,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        with_logits: bool,
    ) -> Result<(Self, Rest), LoadError> {
        let rows = m.prefix;
        let mut contract = Contract::new();
        let x = contract.input_f32("x", &[1, rows, m.width]);
        let positions = contract.input_i64("positions", &[1, rows]);
        let mask = contract.input_f32("mask", &[1, 1, rows, rows]);
        let rest = if spec.pruning.ics.is_some() {
            Rest::Split(Split::load(spec, m, &mut contract, engine, graphs, with_logits)?)
        } else if spec.pruning.cache.is_some() {
            Rest::Cached(Cached::load(spec, m, engine, graphs, with_logits)?)
        } else {
            Rest::Nothing
        };
        let (name, layers) = match (&rest, &spec.split) {
            (Rest::Split(_), Some(split)) => (FIRST_PART, split.layer),
            _ => (PREFILL, m.layers),
        };
        let logits = (with_logits && name == PREFILL).then(|| contract.output_f32("logits", &[1, 1, m.vocabulary]));
        let new =
            kv_names("new", layers).map(|name| contract.output_f32(name, &[1, m.kv_heads, rows, m.head_dim])).collect();
        let session = engine.load(graphs.source(name)?, &contract)?;
        Ok((Self { session, x, positions, mask, logits, new, before: 0 }, rest))
    }

    /// On a session of the decoder's graph with as many rows as the prefix has: `before` rows of slab, none of them live.
    pub(super) fn behind_a_slab(session: Box<dyn Session>, tensors: Tensors, before: usize) -> Self {
        let Tensors { x, positions, mask, logits, new, .. } = tensors;
        Self { session, x, positions, mask, logits: Some(logits), new, before }
    }
}

/// What follows the first graph of the prefix, or stands in for it.
enum Rest {
    Nothing,
    Split(Split),
    Cached(Cached),
}

/// What one inference asks of the prefix beside its observation.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) epoch: Epoch,
    /// Visual tokens to keep, where some may be left out; without it, as the bundle says.
    pub(crate) visual: Option<u32>,
}

/// The prefix of one policy.
pub(crate) struct Prefix {
    parts: Parts,
    images: ImageLoader,
    vision: Vision,
    /// The whole prefix, or its first layers.
    prefill: Prefill,
    rest: Rest,
    /// Prompt length the prefill mask was last written for.
    masked_for: Option<usize>,
    text_ids: Vec<u32>,
}

/// Names of the keys and values of every layer: `new_k_0`, `new_v_0`, `new_k_1`, …
pub(crate) fn kv_names(kind: &str, layers: usize) -> impl Iterator<Item = String> {
    (0..layers).flat_map(move |l| [format!("{kind}_k_{l}"), format!("{kind}_v_{l}")])
}

impl Prefix {
    /// Loads the two graphs; `with_logits` where the prefill graph also predicts the first token.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(crate) fn new(
        parts: Parts,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        with_logits: bool,
    ) -> Result<Self, LoadError> {
        let (model, vision) = (parts.shape.model, Vision::load(&parts, engine, graphs)?);
        let (prefill, rest) = Prefill::load(&parts.spec, model, engine, graphs, with_logits)?;
        Ok(Self::of(parts, vision, prefill, rest))
    }

    /// Loads the vision graph, with the prefix on another graph's session.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn on(
        parts: Parts,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
        prefill: Prefill,
    ) -> Result<Self, LoadError> {
        let vision = Vision::load(&parts, engine, graphs)?;
        Ok(Self::of(parts, vision, prefill, Rest::Nothing))
    }

    fn of(parts: Parts, vision: Vision, prefill: Prefill, rest: Rest) -> Self {
        Self {
            images: ImageLoader::new(),
            vision,
            prefill,
            rest,
            masked_for: None,
            text_ids: Vec::with_capacity(parts.shape.max_text_tokens),
            parts,
        }
    }

    pub(crate) fn spec(&self) -> &PolicySpec {
        &self.parts.spec
    }

    pub(crate) fn model(&self) -> ModelShape {
        self.parts.shape.model
    }

    /// Visual tokens of the last inference, `[Nv, d]`.
    pub(crate) fn visual(&self) -> Result<&[f32], EngineError> {
        self.vision.session.output_f32(self.vision.visual)
    }

    /// Logits after the prefix of the last inference, `[V]`; empty for a family without.
    pub(crate) fn logits(&self) -> Result<&[f32], EngineError> {
        let whole = || {
            let Some(slot) = self.prefill.logits else { return Ok(&[][..]) };
            let logits = self.prefill.session.output_f32(slot)?;
            // Where every row has some, those of the last are the answer.
            Ok(&logits[logits.len().saturating_sub(self.model().vocabulary)..])
        };
        match &self.rest {
            Rest::Nothing => whole(),
            Rest::Split(split) => split.logits(),
            Rest::Cached(cached) => cached.logits().unwrap_or_else(whole),
        }
    }

    /// Keys and values of the last inference, two per layer, `[1, Hkv, R, hd]` each, of the [`rows`](Self::rows) it has.
    pub(crate) fn keys_and_values(&self) -> impl Iterator<Item = Result<&[f32], EngineError>> {
        let (first, m) = (&self.prefill, self.model());
        (0..2 * m.layers).map(move |index| match &self.rest {
            Rest::Nothing => first.session.output_f32(first.new[index]),
            Rest::Split(split) => split.tensor(first, index, m),
            Rest::Cached(cached) => Ok(cached.tensor(index)),
        })
    }

    /// R, rows of the last inference: `S`, less the visual tokens that were left out.
    pub(crate) fn rows(&self) -> usize {
        self.model().prefix - self.left_out()
    }

    fn left_out(&self) -> usize {
        match &self.rest {
            Rest::Split(split) => self.model().visual_tokens - split.tokens(),
            Rest::Nothing | Rest::Cached(_) => 0,
        }
    }

    /// Visual tokens that went through all layers in the last inference.
    pub(crate) fn visual_tokens(&self) -> usize {
        match &self.rest {
            Rest::Nothing => self.model().visual_tokens,
            Rest::Split(split) => split.tokens(),
            Rest::Cached(cached) => cached.tokens(),
        }
    }

    /// What the cost model charges for a prefix like the last.
    pub(crate) fn cost(&self) -> Duration {
        let spec = self.spec();
        spec.split.as_ref().and_then(|split| split.cost(self.visual_tokens())).unwrap_or(spec.costs.prefill)
    }

    /// What links one inference to the next is of another run.
    pub(crate) fn forget(&mut self) {
        self.images.forget();
        if let Rest::Cached(cached) = &mut self.rest {
            cached.forget();
        }
    }

    /// Prompt ids of the last inference.
    pub(crate) fn text_ids(&self) -> &[u32] {
        &self.text_ids
    }

    /// Rows of the last inference's prefix that hold nothing.
    pub(crate) fn padding(&self) -> Range<usize> {
        let (whole, left_out) = (self.whole_padding(), self.left_out());
        whole.start - left_out..whole.end - left_out
    }

    /// Of all `S` rows, those that hold nothing.
    fn whole_padding(&self) -> Range<usize> {
        let m = self.model();
        let before = self.parts.shape.prompt.ids_before_images();
        m.visual_tokens + before..m.prefix - (self.text_ids.len() - before)
    }

    /// Position of the first thing behind the prefix.
    pub(crate) fn end_position(&self) -> usize {
        self.model().visual_tokens + self.text_ids.len() + self.parts.shape.prompt.position_gap
    }

    /// Row `id` of the embedding table. Ids come from the prompt tokenizer and from the argmax over the vocabulary,
    /// both of which were checked against the table's size at load.
    pub(crate) fn embedding(&self, id: u32) -> &[f32] {
        embedding_row(&self.parts.embedding, self.model().width, id)
    }

    /// Checks an observation and runs it through vision and prefill, charging both.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub(crate) fn observe(
        &mut self,
        observation: &Observation<'_>,
        chunk: &ActionChunk,
        ask: Ask,
        meter: &mut Meter<'_>,
        stages: &mut Stages,
        lap: &mut Lap,
    ) -> Result<(), PolicyError> {
        observation::check(self.spec(), observation, chunk)?;
        self.load_images(observation)?;
        stages.preprocess = lap.take();
        stages.ahead = self.images.take_ahead();
        self.vision.session.run()?;
        stages.vision = lap.take();
        meter.charge(Stage::Vision)?;
        self.encode_prompt(observation)?;
        self.run(observation.instruction, ask)?;
        stages.prefill = lap.take();
        stages.visual_tokens = self.visual_tokens() as u32;
        meter.charge_prefill(self.cost())
    }

    /// See [`Policy::prepare`](crate::Policy::prepare).
    pub(crate) fn prepare(&mut self, observation: &Observation<'_>) {
        if observation.state.position_rad.len() == self.spec().state.len() {
            // What it cannot say is said when it is asked.
            drop(self.encode_prompt(observation));
        }
        let slots = &self.parts.spec.cameras;
        let Ok(image) = self.vision.session.input_f32_mut(self.vision.image) else { return };
        let size = image.len() / slots.len();
        for (index, ((slot, frame), into)) in
            slots.iter().zip(observation.frames).zip(image.chunks_exact_mut(size)).enumerate()
        {
            self.images.prepare(index, slot, frame, into);
        }
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
        let bins: Vec<i32> = positions
            .map(|(dim, position)| discretise_state(spec.state_normalisation.normalise(dim, *position)))
            .collect();
        self.text_ids = self.prompt_ids(observation.instruction, &bins)?;
        Ok(())
    }

    /// The prompt's ids, or which word the policy does not know.
    pub(crate) fn prompt_ids(&self, instruction: &str, bins: &[i32]) -> Result<Vec<u32>, PolicyError> {
        let prompt = &self.parts.shape.prompt;
        let text = match prompt.text {
            PromptText::Demonstration => fast_prefix(instruction, bins) + ACTION_PREFIX,
            PromptText::OpenPi => PromptForm::OpenPiFast.prompt(instruction, bins),
            PromptText::LeRobot => PromptForm::LeRobotFast.prompt(instruction, bins),
            PromptText::OpenVla => openvla_prompt(instruction),
        };
        let mut ids = self.parts.prompt.encode(&text)?;
        ids.insert(0, self.parts.bos);
        ids.extend_from_slice(prompt.suffix.as_slice());
        let room = self.parts.shape.max_text_tokens;
        if ids.len() > room { Err(PolicyError::PromptTooLong { tokens: ids.len(), room }) } else { Ok(ids) }
    }

    fn run(&mut self, instruction: &str, ask: Ask) -> Result<(), PolicyError> {
        let m = self.model();
        let text = self.text_ids.len();
        let padding = self.whole_padding();
        let prompt = self.parts.shape.prompt;
        let layout = Layout { prompt, visual: prompt.ids_before_images(), padding: padding.clone() };
        let (before, behind) = self.text_ids.split_at(prompt.ids_before_images());

        let visual = self.vision.session.output_f32(self.vision.visual)?;
        let x = self.prefill.session.input_f32_mut(self.prefill.x)?;
        let (seen, rest) = x.split_at_mut(padding.start * m.width);
        let (empty, said) = rest.split_at_mut(padding.len() * m.width);
        let (first, images) = seen.split_at_mut(before.len() * m.width);
        images.copy_from_slice(visual);
        empty.fill(0.0);
        let rows = first.chunks_exact_mut(m.width).chain(said.chunks_exact_mut(m.width));
        for (row, id) in rows.zip(before.iter().chain(behind)) {
            row.copy_from_slice(embedding_row(&self.parts.embedding, m.width, *id));
        }
        let positions = self.prefill.session.input_i64_mut(self.prefill.positions)?;
        for (row, position) in positions.iter_mut().enumerate() {
            *position = layout.position(row);
        }
        if self.masked_for != Some(text) {
            let before = self.prefill.before;
            let mask = self.prefill.session.input_f32_mut(self.prefill.mask)?;
            for (query, row) in mask.chunks_exact_mut(before + m.prefix).enumerate() {
                let (slab, row) = row.split_at_mut(before);
                slab.fill(MASKED);
                row.fill(0.0);
                row[padding.clone()].fill(MASKED);
                if prompt.is_causal() {
                    row[query + 1..].fill(MASKED);
                }
            }
            self.masked_for = Some(text);
        }
        let images = self.vision.session.input_f32_mut(self.vision.image)?;
        let (spec, first) = (&self.parts.spec, &mut self.prefill);
        match &mut self.rest {
            Rest::Nothing => first.session.run()?,
            Rest::Split(split) => {
                first.session.run()?;
                let tokens = ask.visual.map(|tokens| tokens as usize).or(spec.pruning.tokens());
                let tokens = tokens.unwrap_or(m.visual_tokens);
                split.run(first, tokens, images, &layout, (spec, m))?;
            }
            Rest::Cached(cached) => {
                let all = ask.visual.is_some_and(|tokens| tokens as usize >= m.visual_tokens);
                cached.run(first, (ask.epoch, instruction, all), images, &layout, (spec, m))?;
            }
        }
        Ok(())
    }
}

fn embedding_row(table: &[f32], width: usize, id: u32) -> &[f32] {
    &table[id as usize * width..(id as usize + 1) * width]
}
