//! What LeRobot's flow-matching policies share: the prefix once, then a few Euler steps over its keys and values.
//!
//! `flow_prefix.onnx`: `image_i` `[1, 3, h, w]`, `tokens` i64 `[1, T]`, `token_mask` i64 `[1, T]` (1 where there is a token),
//! for a family that puts it there `state` `[1, S]` → `new_k_l`, `new_v_l` `[1, Hkv, P, hd]`.
//! `flow_denoise.onnx`: `noisy` `[1, H, W]`, `time` `[1]`, `token_mask`, perhaps `state`, `past_k_l`, `past_v_l` →
//! `velocity` `[1, H, W]`, of which the first `D` columns are the action.
//!
//! Time runs from 1 (noise) to 0 (data), as in openpi: `x += −1/steps · velocity` at `1, 1 − 1/steps, …`. Positions and
//! attention masks follow from `token_mask` inside the graphs.

use super::Graphs;
use super::frame::{Frame, Network, widen};
use super::noise::Noise;
use super::observation::Inputs;
use super::prefix::kv_names;
use super::text::Prompt;
use crate::bundle::{Bundle, PolicySpec, VlaSpec};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::load::LoadError;
use crate::observation::{Epoch, Meter, Observation};
use crate::policy::{ObservationError, PolicyError, Stage};

const PREFIX: &str = "flow_prefix.onnx";
const DENOISE: &str = "flow_denoise.onnx";

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

/// The network of one of the families.
pub(crate) struct Vla {
    rules: VlaSpec,
    convention: Convention,
    prompt: Prompt,
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
}

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
) -> Result<Frame<Vla>, LoadError> {
    let spec = bundle.spec().clone();
    let prompt = Prompt::load(bundle, rules.vocabulary, rules.bos, &[], rules.max_text_tokens)?;
    let kv = [1, rules.kv_heads, rules.prefix, rules.head_dim];
    let mut contract = Contract::new();
    let inputs = Inputs::declare_images(&mut contract, &spec);
    let inputs = if convention.state == StateIn::Prefix { inputs.with_state(&mut contract, &spec) } else { inputs };
    let tokens = contract.input_i64("tokens", &[1, rules.max_text_tokens]);
    let mask = contract.input_i64("token_mask", &[1, rules.max_text_tokens]);
    let new = kv_names("new", rules.layers).map(|name| contract.output_f32(name, &kv)).collect();
    let prefix = Prefix { session: engine.load(graphs.source(PREFIX)?, &contract)?, inputs, tokens, mask, new };

    let mut contract = Contract::new();
    let noisy = contract.input_f32("noisy", &[1, spec.chunk.horizon, rules.action_width]);
    let time = contract.input_f32("time", &[1]);
    let mask = contract.input_i64("token_mask", &[1, rules.max_text_tokens]);
    let state = (convention.state == StateIn::Denoise).then(|| contract.input_f32("state", &[1, spec.state.len()]));
    let past = kv_names("past", rules.layers).map(|name| contract.input_f32(name, &kv)).collect();
    let velocity = contract.output_f32("velocity", &[1, spec.chunk.horizon, rules.action_width]);
    let session = engine.load(graphs.source(DENOISE)?, &contract)?;
    let values = spec.chunk.horizon * rules.action_width;
    let network = Vla {
        prefix,
        denoise: Denoise { session, noisy, time, mask, state, past, velocity },
        noise: Noise::new(values),
        text_ids: Vec::with_capacity(rules.max_text_tokens),
        state: vec![0.0; spec.state.len()],
        x: vec![0.0; values],
        first: vec![0.0; values],
        rules,
        convention,
        prompt,
    };
    Ok(Frame::new(spec, network))
}

/// Writes ids and fills the rest with 0.
fn write_ids(into: &mut [i64], ids: impl ExactSizeIterator<Item = i64>) {
    let used = ids.len();
    for (slot, id) in into.iter_mut().zip(ids) {
        *slot = id;
    }
    into[used..].fill(0);
}

impl Network for Vla {
    fn observe(&mut self, spec: &PolicySpec, observation: &Observation<'_>) -> Result<(), PolicyError> {
        for (dim, (value, position)) in self.state.iter_mut().zip(observation.state.position_rad.iter()).enumerate() {
            *value = spec.state_normalisation.normalise(dim, *position);
        }
        self.text_ids = self.prompt.ids(&(self.convention.prompt)(observation.instruction, &self.state))?;
        let prefix = &mut self.prefix;
        prefix.inputs.fill(&mut *prefix.session, spec, observation)?;
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

    fn images(&mut self) -> (&mut Inputs, &mut dyn Session) {
        (&mut self.prefix.inputs, &mut *self.prefix.session)
    }

    fn prefill(&mut self) -> Result<(), PolicyError> {
        Ok(self.prefix.session.run()?)
    }

    fn steps(&self) -> usize {
        self.rules.steps
    }

    /// Noise to data in `x`.
    fn decode(&mut self, meter: &mut Meter<'_>) -> Result<(), PolicyError> {
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

    fn rows(&self, spec: &PolicySpec, into: &mut [f64]) -> Result<(), PolicyError> {
        let rows = into.chunks_exact_mut(spec.actions.dims().len());
        for (row, x) in rows.zip(self.x.chunks_exact(self.rules.action_width)) {
            widen(x, row);
        }
        Ok(())
    }

    fn check_instruction(&self, spec: &PolicySpec, instruction: &str) -> Result<(), PolicyError> {
        let text = (self.convention.prompt)(instruction, &vec![0.0; spec.state.len()]);
        self.prompt.ids(&text).map(drop)
    }

    fn reset(&mut self, epoch: Epoch) {
        self.noise.reset(epoch);
    }

    fn set_noise(&mut self, noise: &[f64]) -> Result<(), ObservationError> {
        self.noise.give(noise)
    }

    fn text_ids(&self) -> &[u32] {
        &self.text_ids
    }

    fn head(&self) -> Result<&[f32], EngineError> {
        Ok(&self.first)
    }
}
