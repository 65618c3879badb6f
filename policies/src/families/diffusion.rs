//! Diffusion Policy: a condition once, then the network's answer once a step of the schedule (Chi et al., arXiv
//! 2303.04137).
//!
//! `condition.onnx`: `image_i` `[n, 3, h, w]`, `state` `[n, S]`, the `n` observations oldest first → `condition` `[1, G]`.
//! `epsilon.onnx`: `noisy` `[1, M, D]`, `step` i64 `[1]`, `condition` `[1, G]` → `epsilon` `[1, M, D]`, the predicted noise
//! (or data, where the bundle says so). Of the `M` rows the network makes, the first `n − 1` lie in the past and are not
//! played.

use core::time::Duration;

use super::noise::Noise;
use super::observation::{self, Inputs};
use super::schedule::Schedule;
use super::{Graphs, Inspect, Lap};
use crate::action_space::NormalisedRows;
use crate::bundle::{DiffusionSpec, PolicySpec};
use crate::chunk::{ActionChunk, Stages};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::load::LoadError;
use crate::observation::{Budget, Committed, Epoch, Meter, Observation};
use crate::policy::{ObservationError, OutputFault, Policy, PolicyError, Stage, StopReason};

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

/// The policy.
pub(crate) struct Diffusion {
    spec: PolicySpec,
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
    normalised: NormalisedRows,
    fault: OutputFault,
}

impl Diffusion {
    /// Loads the graphs.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(super) fn load(
        rules: DiffusionSpec,
        spec: PolicySpec,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
    ) -> Result<Self, LoadError> {
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
        Ok(Self {
            condition,
            denoise: Denoise { session, noisy, step, condition: given, epsilon },
            schedule: Schedule::new(&rules),
            noise: Noise::new(rules.draws() * values),
            drawn: vec![0.0; rules.draws() * values],
            x: vec![0.0; values],
            first: vec![0.0; values],
            normalised: NormalisedRows::new(spec.chunk.horizon, dims),
            fault: OutputFault::None,
            rules,
            spec,
        })
    }

    /// Noise to data in `x`.
    fn denoise(&mut self, meter: &mut Meter<'_>) -> Result<(), PolicyError> {
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
}

impl Policy for Diffusion {
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
        let condition = &mut self.condition;
        condition.inputs.fill(&mut *condition.session, &self.spec, observation)?;
        stages.preprocess = lap.take();
        condition.session.run()?;
        let values = condition.session.output_f32(condition.condition)?;
        self.denoise.session.input_f32_mut(self.denoise.condition)?.copy_from_slice(values);
        stages.prefill = lap.take();
        meter.charge(Stage::Prefill)?;

        self.denoise(&mut meter)?;
        stages.decode = lap.take();
        stages.passes = self.rules.steps as f64;

        let past = (self.rules.observation_steps - 1) * self.spec.actions.dims().len();
        for (value, x) in self.normalised.values_mut().iter_mut().zip(&self.x[past..]) {
            *value = f64::from(*x);
        }
        self.fault.strike(self.normalised.values_mut());
        self.spec.actions.to_absolute(&self.normalised, &observation.state.position_rad, chunk.rows_mut())?;
        stages.postprocess = lap.take();
        chunk.set(self.spec.chunk.row_period, observation.anchor, committed.epoch, None, stages);
        Ok(StopReason::Complete)
    }

    fn check_instruction(&self, _instruction: &str) -> Result<(), PolicyError> {
        // It knows one task and reads no instruction.
        Ok(())
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

impl Inspect for Diffusion {
    fn first(&self) -> Result<&[f32], EngineError> {
        self.condition.session.output_f32(self.condition.condition)
    }

    fn head(&self) -> Result<&[f32], EngineError> {
        Ok(&self.first)
    }
}
