//! Diffusion Policy: a condition once, then the network's answer once a step of the schedule (Chi et al., arXiv
//! 2303.04137).
//!
//! `condition.onnx`: `image_i` `[n, 3, h, w]`, `state` `[n, S]`, the `n` observations oldest first → `condition` `[1, G]`.
//! `epsilon.onnx`: `noisy` `[1, M, D]`, `step` i64 `[1]`, `condition` `[1, G]` → `epsilon` `[1, M, D]`, the predicted noise
//! (or data, where the bundle says so). Of the `M` rows the network makes, the first `n − 1` lie in the past and are not
//! played.

use super::Graphs;
use super::frame::{Frame, Network, widen};
use super::noise::Noise;
use super::observation::Inputs;
use super::schedule::Schedule;
use crate::bundle::{DiffusionSpec, PolicySpec};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::load::LoadError;
use crate::observation::{Epoch, Meter, Observation};
use crate::policy::{ObservationError, PolicyError, Stage};

const CONDITION: &str = "condition.onnx";
const EPSILON: &str = "epsilon.onnx";

struct Condition {
    session: Box<dyn Session>,
    inputs: Inputs,
    condition: OutputSlot,
}

struct Denoise {
    session: Box<dyn Session>,
    noisy: InputSlot,
    step: InputSlot,
    condition: InputSlot,
    epsilon: OutputSlot,
}

/// The network.
pub(crate) struct Diffusion {
    rules: DiffusionSpec,
    condition: Condition,
    denoise: Denoise,
    schedule: Schedule,
    noise: Noise,
    /// All noise of one inference: `[M, D]` to start from, then as much per step that adds some.
    drawn: Vec<f32>,
    /// `[M, D]`, between noise and data.
    x: Vec<f32>,
    /// Answer of the first step, `[M, D]`.
    first: Vec<f32>,
}

/// Loads the graphs.
///
/// # Errors
/// [`LoadError`] naming the graph and the tensor.
pub(super) fn load(
    rules: DiffusionSpec,
    spec: PolicySpec,
    engine: &dyn Engine,
    graphs: &Graphs<'_>,
) -> Result<Frame<Diffusion>, LoadError> {
    let dims = spec.actions.dims().len();
    let mut contract = Contract::new();
    let inputs = Inputs::declare(&mut contract, &spec);
    let condition = contract.output_f32("condition", &[1, rules.condition]);
    let condition = Condition { session: engine.load(graphs.source(CONDITION)?, &contract)?, inputs, condition };
    let mut contract = Contract::new();
    let noisy = contract.input_f32("noisy", &[1, rules.horizon, dims]);
    let step = contract.input_i64("step", &[1]);
    let given = contract.input_f32("condition", &[1, rules.condition]);
    let epsilon = contract.output_f32("epsilon", &[1, rules.horizon, dims]);
    let session = engine.load(graphs.source(EPSILON)?, &contract)?;
    let values = rules.horizon * dims;
    let network = Diffusion {
        condition,
        denoise: Denoise { session, noisy, step, condition: given, epsilon },
        schedule: Schedule::new(&rules),
        noise: Noise::new(rules.draws() * values),
        drawn: vec![0.0; rules.draws() * values],
        x: vec![0.0; values],
        first: vec![0.0; values],
        rules,
    };
    Ok(Frame::new(spec, network))
}

impl Network for Diffusion {
    fn observe(&mut self, spec: &PolicySpec, observation: &Observation<'_>) -> Result<(), PolicyError> {
        self.condition.inputs.fill(&mut *self.condition.session, spec, observation)
    }

    fn images(&mut self) -> (&mut Inputs, &mut dyn Session) {
        (&mut self.condition.inputs, &mut *self.condition.session)
    }

    fn prefill(&mut self) -> Result<(), PolicyError> {
        let condition = &mut self.condition;
        condition.session.run()?;
        let values = condition.session.output_f32(condition.condition)?;
        self.denoise.session.input_f32_mut(self.denoise.condition)?.copy_from_slice(values);
        Ok(())
    }

    fn steps(&self) -> usize {
        self.rules.steps
    }

    /// Noise to data in `x`.
    fn decode(&mut self, meter: &mut Meter<'_>) -> Result<(), PolicyError> {
        self.noise.take(&mut self.drawn);
        let values = self.x.len();
        let (start, mut added) = self.drawn.split_at(values);
        self.x.copy_from_slice(start);
        let denoise = &mut self.denoise;
        for (index, time) in self.schedule.times().enumerate() {
            denoise.session.input_f32_mut(denoise.noisy)?.copy_from_slice(&self.x);
            denoise.session.input_i64_mut(denoise.step)?.fill(time);
            denoise.session.run()?;
            let output = denoise.session.output_f32(denoise.epsilon)?;
            if index == 0 {
                self.first.copy_from_slice(output);
            }
            self.schedule.advance(index, &mut self.x, output, added);
            added = added.get(values..).unwrap_or_default();
            meter.charge(Stage::Decode)?;
        }
        Ok(())
    }

    fn rows(&self, spec: &PolicySpec, into: &mut [f64]) -> Result<(), PolicyError> {
        let past = (self.rules.observation_steps - 1) * spec.actions.dims().len();
        widen(&self.x[past..], into);
        Ok(())
    }

    fn reset(&mut self, epoch: Epoch) {
        self.noise.reset(epoch);
    }

    fn set_noise(&mut self, noise: &[f64]) -> Result<(), ObservationError> {
        self.noise.give(noise)
    }

    fn first(&self) -> Result<&[f32], EngineError> {
        self.condition.session.output_f32(self.condition.condition)
    }

    fn head(&self) -> Result<&[f32], EngineError> {
        Ok(&self.first)
    }
}
