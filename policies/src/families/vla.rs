//! What LeRobot's flow-matching policies share: the prefix once, then a few Euler steps over its keys and values.
//!
//! `flow_prefix.onnx`: `image_i` `[1, 3, h, w]`, `tokens` i64 `[1, T]`, `token_mask` i64 `[1, T]` (1 where there is a token),
//! for a family that puts it there `state` `[1, S]` → `new_k_l`, `new_v_l` `[1, Hkv, P, hd]`.
//! `flow_denoise.onnx`: `noisy` `[1, H, W]`, `time` `[1]`, `token_mask`, perhaps `state`, `past_k_l`, `past_v_l` →
//! `velocity` `[1, H, W]`, of which the first `D` columns are the action.
//!
//! Time runs from 1 (noise) to 0 (data), as in openpi: `x += −1/steps · velocity` at `1, 1 − 1/steps, …`. Positions and
//! attention masks follow from `token_mask` inside the graphs.

use core::time::Duration;

use endplate_tokenizers::PromptTokenizer;

use super::noise::Noise;
use super::observation::{self, Inputs};
use super::prefix::kv_names;
use super::{Graphs, Inspect, Lap};
use crate::action_space::NormalisedRows;
use crate::bundle::{Bundle, PolicySpec, VlaSpec};
use crate::chunk::{ActionChunk, Stages};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::load::LoadError;
use crate::observation::{Budget, Committed, Epoch, Meter, Observation};
use crate::policy::{ObservationError, OutputFault, Policy, PolicyError, Stage, StopReason};

const PREFIX: &str = "flow_prefix.onnx";
const DENOISE: &str = "flow_denoise.onnx";
const TEXT_TOKENIZER: &str = "text/tokenizer.json";

/// Where a family puts the state.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum StateIn {
    /// Into the prefix, as a token of its own.
    Prefix,
    /// Beside the noisy actions.
    Denoise,
    /// Into the prompt.
    Prompt,
}

/// What sets one family apart from another.
pub(super) struct Convention {
    /// Where the state goes.
    pub(super) state: StateIn,
    /// The prompt of an instruction and the normalised state, `[S]`.
    pub(super) prompt: fn(&str, &[f64]) -> String,
}

struct Prefix {
    session: Box<dyn Session>,
    inputs: Inputs,
    tokens: InputSlot,
    mask: InputSlot,
    /// Two per layer.
    new: Vec<OutputSlot>,
}

struct Denoise {
    session: Box<dyn Session>,
    noisy: InputSlot,
    time: InputSlot,
    mask: InputSlot,
    state: Option<InputSlot>,
    /// As `new`.
    past: Vec<InputSlot>,
    velocity: OutputSlot,
}

/// A policy of one of the families.
pub(super) struct Vla {
    spec: PolicySpec,
    rules: VlaSpec,
    convention: Convention,
    tokenizer: PromptTokenizer,
    /// Put before every prompt.
    bos: Option<u32>,
    prefix: Prefix,
    denoise: Denoise,
    noise: Noise,
    text_ids: Vec<u32>,
    /// `[S]`, normalised.
    state: Vec<f64>,
    /// `[H, W]`, between noise and data.
    x: Vec<f32>,
    /// Velocity of the first step, `[H, W]`.
    first: Vec<f32>,
    normalised: NormalisedRows,
    fault: OutputFault,
}

impl Vla {
    /// Loads the tokenizer and the graphs.
    ///
    /// # Errors
    /// [`LoadError`] naming the file.
    pub(super) fn load(
        bundle: &Bundle,
        rules: VlaSpec,
        convention: Convention,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
    ) -> Result<Self, LoadError> {
        let spec = bundle.spec().clone();
        let bad = |message: String| LoadError::Tokenizer { file: TEXT_TOKENIZER, message };
        let tokenizer = PromptTokenizer::from_bytes(bundle.file(TEXT_TOKENIZER)?, TEXT_TOKENIZER)
            .map_err(|error| bad(error.to_string()))?;
        if tokenizer.vocab_size() > rules.vocabulary {
            let message = format!("has {} ids and the embedding table {}", tokenizer.vocab_size(), rules.vocabulary);
            return Err(bad(message));
        }
        if rules.bos.is_some_and(|id| id as usize >= rules.vocabulary) {
            return Err(bad(format!("the embedding table of {} has no id {:?}", rules.vocabulary, rules.bos)));
        }

        let (horizon, dims) = (spec.chunk.horizon, spec.actions.dims().len());
        let kv = [1, rules.kv_heads, rules.prefix, rules.head_dim];
        let mut contract = Contract::new();
        let inputs = Inputs::declare_images(&mut contract, &spec);
        let inputs = if convention.state == StateIn::Prefix { inputs.with_state(&mut contract, &spec) } else { inputs };
        let tokens = contract.input_i64("tokens", &[1, rules.max_text_tokens]);
        let mask = contract.input_i64("token_mask", &[1, rules.max_text_tokens]);
        let new = kv_names("new", rules.layers).map(|name| contract.output_f32(name, &kv)).collect();
        let prefix = Prefix { session: engine.load(graphs.source(PREFIX)?, &contract)?, inputs, tokens, mask, new };

        let mut contract = Contract::new();
        let noisy = contract.input_f32("noisy", &[1, horizon, rules.action_width]);
        let time = contract.input_f32("time", &[1]);
        let mask = contract.input_i64("token_mask", &[1, rules.max_text_tokens]);
        let state = (convention.state == StateIn::Denoise).then(|| contract.input_f32("state", &[1, spec.state.len()]));
        let past = kv_names("past", rules.layers).map(|name| contract.input_f32(name, &kv)).collect();
        let velocity = contract.output_f32("velocity", &[1, horizon, rules.action_width]);
        let session = engine.load(graphs.source(DENOISE)?, &contract)?;
        let values = horizon * rules.action_width;
        Ok(Self {
            bos: rules.bos,
            prefix,
            denoise: Denoise { session, noisy, time, mask, state, past, velocity },
            noise: Noise::new(values),
            text_ids: Vec::with_capacity(rules.max_text_tokens),
            state: vec![0.0; spec.state.len()],
            x: vec![0.0; values],
            first: vec![0.0; values],
            normalised: NormalisedRows::new(horizon, dims),
            fault: OutputFault::None,
            spec,
            rules,
            convention,
            tokenizer,
        })
    }

    /// The prompt's ids, or which word the policy does not know.
    fn prompt_ids(&self, instruction: &str, state: &[f64]) -> Result<Vec<u32>, PolicyError> {
        let mut ids = self.tokenizer.encode(&(self.convention.prompt)(instruction, state))?;
        if let Some(bos) = self.bos {
            ids.insert(0, bos);
        }
        let room = self.rules.max_text_tokens;
        if ids.len() > room { Err(PolicyError::PromptTooLong { tokens: ids.len(), room }) } else { Ok(ids) }
    }

    /// Images, prompt and state into both graphs.
    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), PolicyError> {
        for (dim, (value, position)) in self.state.iter_mut().zip(observation.state.position_rad.iter()).enumerate() {
            *value = self.spec.state_normalisation.normalise(dim, *position);
        }
        self.text_ids = self.prompt_ids(observation.instruction, &self.state)?;
        let prefix = &mut self.prefix;
        prefix.inputs.fill(&mut *prefix.session, &self.spec, observation)?;
        write_ids(prefix.session.input_i64_mut(prefix.tokens)?, self.text_ids.iter().map(|id| i64::from(*id)));
        let ones = || self.text_ids.iter().map(|_| 1);
        write_ids(prefix.session.input_i64_mut(prefix.mask)?, ones());
        write_ids(self.denoise.session.input_i64_mut(self.denoise.mask)?, ones());
        if let Some(slot) = self.denoise.state {
            for (into, value) in self.denoise.session.input_f32_mut(slot)?.iter_mut().zip(&self.state) {
                *into = *value as f32;
            }
        }
        Ok(())
    }

    /// Noise to data in `x`.
    fn integrate(&mut self, meter: &mut Meter<'_>) -> Result<(), PolicyError> {
        for (new, past) in self.prefix.new.iter().zip(&self.denoise.past) {
            let values = self.prefix.session.output_f32(*new)?;
            self.denoise.session.input_f32_mut(*past)?.copy_from_slice(values);
        }
        self.noise.take(&mut self.x);
        let denoise = &mut self.denoise;
        let step = -1.0 / self.rules.steps as f64;
        for index in 0..self.rules.steps {
            denoise.session.input_f32_mut(denoise.noisy)?.copy_from_slice(&self.x);
            denoise.session.input_f32_mut(denoise.time)?.fill((1.0 + index as f64 * step) as f32);
            denoise.session.run()?;
            let velocity = denoise.session.output_f32(denoise.velocity)?;
            if index == 0 {
                self.first.copy_from_slice(velocity);
            }
            for (x, v) in self.x.iter_mut().zip(velocity) {
                *x += step as f32 * v;
            }
            meter.charge(Stage::Decode)?;
        }
        Ok(())
    }
}

/// Writes ids and fills the rest with 0.
fn write_ids(into: &mut [i64], ids: impl ExactSizeIterator<Item = i64>) {
    let used = ids.len();
    for (slot, id) in into.iter_mut().zip(ids) {
        *slot = id;
    }
    into[used..].fill(0);
}

impl Policy for Vla {
    fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        let mut meter = Meter::new(budget, self.spec.costs);
        let mut stages = Stages::default();
        let mut lap = Lap::start();
        observation::check(&self.spec, observation, chunk)?;
        self.observe(observation)?;
        stages.preprocess = lap.take();
        self.prefix.session.run()?;
        stages.prefill = lap.take();
        meter.charge(Stage::Prefill)?;

        self.integrate(&mut meter)?;
        stages.decode = lap.take();
        stages.passes = self.rules.steps as f64;

        let dims = self.spec.actions.dims().len();
        let rows = self.normalised.values_mut().chunks_exact_mut(dims);
        for (row, x) in rows.zip(self.x.chunks_exact(self.rules.action_width)) {
            for (value, x) in row.iter_mut().zip(x) {
                *value = f64::from(*x);
            }
        }
        self.fault.strike(self.normalised.values_mut());
        self.spec.actions.to_absolute(&self.normalised, &observation.state.position_rad, chunk.rows_mut())?;
        stages.postprocess = lap.take();
        chunk.set(self.spec.chunk.row_period, observation.anchor, committed.epoch, None, stages);
        Ok(StopReason::Complete)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.prompt_ids(instruction, &vec![0.0; self.spec.state.len()]).map(drop)
    }

    fn reset(&mut self, epoch: Epoch) {
        self.noise.reset(epoch);
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        let costs = self.spec.costs;
        costs.prefill + costs.step * self.rules.steps as u32
    }

    fn set_noise(&mut self, noise: &[f64]) -> Result<(), ObservationError> {
        self.noise.give(noise)
    }
}

impl Inspect for Vla {
    fn text_ids(&self) -> &[u32] {
        &self.text_ids
    }

    fn head(&self) -> Result<&[f32], EngineError> {
        Ok(&self.first)
    }
}
