//! Flow matching: the prefix once, then a few Euler steps from noise to a chunk along a learned velocity, over the
//! prefix's keys and values (π0: Black et al., arXiv 2410.24164, §IV; SmolVLA: Shukor et al., arXiv 2506.01844).
//!
//! Time τ runs from 0 (noise) to 1 (data), one value a row, so that rows already committed can enter clean (training-
//! time real-time chunking), or pull the others (real-time chunking): see [`Steering`].

use core::time::Duration;

use super::noise::Noise;
use super::prefix::{Ask, Parts, Prefix, kv_names};
use super::{Graphs, Inspect, Lap};
use crate::action_space::{Blending, NormalisedRows};
use crate::bundle::{FlowSpec, PolicySpec};
use crate::chunk::{ActionChunk, Stages};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::kv::MASKED;
use crate::load::LoadError;
use crate::observation::{Budget, Committed, Continuation, Epoch, Meter, Observation};
use crate::planner::{Plan, Work};
use crate::policy::{ObservationError, OutputFault, Policy, PolicyError, Stage, StopReason};

const DENOISE: &str = "denoise.onnx";

struct Denoise {
    session: Box<dyn Session>,
    noisy: InputSlot,
    time: InputSlot,
    positions: InputSlot,
    mask: InputSlot,
    past: Vec<InputSlot>,
    velocity: OutputSlot,
}

/// What an integration is to continue: normalised rows `Y` and how firmly each value is held.
struct Steering {
    /// `[H, D]`, zero past the committed rows.
    rows: Vec<f32>,
    /// `[H, D]`, 0 to 1.
    weights: Vec<f32>,
    /// Rows that enter clean, at τ = 1.
    clean: usize,
    /// β; 0 without guidance.
    beta: f32,
}

impl Steering {
    fn new(values: usize) -> Self {
        Self { rows: vec![0.0; values], weights: vec![0.0; values], clean: 0, beta: 0.0 }
    }

    /// Takes over what will still be played. A gripper's rows hold firmly or not at all: pulled half-way it would stand
    /// between open and closed.
    fn set(&mut self, spec: &PolicySpec, most_clean: usize, committed: &Committed<'_>, state: &[f64]) {
        let dims = spec.actions.dims().len();
        let rows = (committed.rows.len() / dims).min(spec.chunk.horizon);
        (self.clean, self.beta) = (0, 0.0);
        self.weights.fill(0.0);
        if rows == 0 || committed.continuation == Continuation::Free {
            return;
        }
        self.rows.fill(0.0);
        for (slot, value) in self.rows.iter_mut().zip(spec.actions.normalised(&committed.rows[..rows * dims], state)) {
            *slot = value as f32;
        }
        match committed.continuation {
            Continuation::Prefix => self.clean = committed.delay_rows.min(rows).min(most_clean),
            Continuation::Guided { beta } => {
                self.beta = beta as f32;
                for (row, weights) in self.weights.chunks_exact_mut(dims).take(rows).enumerate() {
                    let weight = committed.weights.get(row).copied().unwrap_or(0.0) as f32;
                    for (slot, dim) in weights.iter_mut().zip(spec.actions.dims()) {
                        *slot = if dim.blending == Blending::Average { weight } else { weight.floor() };
                    }
                }
            }
            Continuation::Free => {}
        }
    }

    /// Puts the clean rows where they must be before every step.
    fn hold(&self, x: &mut [f32], dims: usize) {
        x[..self.clean * dims].copy_from_slice(&self.rows[..self.clean * dims]);
    }

    /// The velocity to take at `tau` instead of the model's `v`: `v + g·W·(Y − x₁)` with `x₁ = x + (1 − τ)v`. The
    /// Jacobian of the paper is left out (the identity), so no backward graph is needed.
    fn velocity(&self, index: usize, x: f32, v: f32, tau: f32) -> f32 {
        let weight = self.weights[index];
        if weight == 0.0 {
            return v;
        }
        let rest = 1.0 - tau;
        let gain = if tau > 0.0 { ((tau * tau + rest * rest) / (tau * rest)).min(self.beta) } else { self.beta };
        v + gain * weight * (self.rows[index] - (x + rest * v))
    }
}

/// The policy.
pub(crate) struct Flow {
    prefix: Prefix,
    rules: FlowSpec,
    plan: Plan,
    denoise: Denoise,
    noise: Noise,
    /// `[H, D]`, between noise and data.
    x: Vec<f32>,
    /// Velocity of the first step, `[H, D]`.
    first: Vec<f32>,
    steering: Steering,
    normalised: NormalisedRows,
    fault: OutputFault,
}

impl Flow {
    /// Loads the graphs.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(super) fn load(
        rules: FlowSpec,
        parts: Parts,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
    ) -> Result<Self, LoadError> {
        let m = parts.shape.model;
        let (horizon, dims) = (parts.spec.chunk.horizon, parts.spec.actions.dims().len());
        let prefix = Prefix::new(parts, engine, graphs, false)?;
        let mut contract = Contract::new();
        let noisy = contract.input_f32("noisy", &[1, horizon, dims]);
        let time = contract.input_f32("time", &[1, horizon]);
        let positions = contract.input_i64("positions", &[1, horizon]);
        let mask = contract.input_f32("mask", &[1, 1, horizon, m.prefix + horizon]);
        let past = kv_names("past", m.layers)
            .map(|name| contract.input_f32(name, &[1, m.kv_heads, m.prefix, m.head_dim]))
            .collect();
        let velocity = contract.output_f32("velocity", &[1, horizon, dims]);
        let session = engine.load(graphs.source(DENOISE)?, &contract)?;
        Ok(Self {
            prefix,
            rules,
            plan: Plan::UNLIMITED,
            denoise: Denoise { session, noisy, time, positions, mask, past, velocity },
            noise: Noise::new(horizon * dims),
            x: vec![0.0; horizon * dims],
            first: vec![0.0; horizon * dims],
            steering: Steering::new(horizon * dims),
            normalised: NormalisedRows::new(horizon, dims),
            fault: OutputFault::None,
        })
    }

    /// Hands the prefix to the denoising graph: keys and values, mask and positions stay for all steps.
    fn take_prefix(&mut self) -> Result<(), PolicyError> {
        let (all, rows, width) = (self.prefix.model().prefix, self.prefix.rows(), self.prefix.model().head_dim);
        let horizon = self.prefix.spec().chunk.horizon;
        let denoise = &mut self.denoise;
        for (new, past) in self.prefix.keys_and_values().zip(&denoise.past) {
            let heads = denoise.session.input_f32_mut(*past)?.chunks_exact_mut(all * width);
            for (into, from) in heads.zip(new?.chunks_exact(rows * width)) {
                into[..rows * width].copy_from_slice(from);
            }
        }
        let padding = self.prefix.padding();
        for row in denoise.session.input_f32_mut(denoise.mask)?.chunks_exact_mut(all + horizon) {
            row.fill(0.0);
            row[padding.clone()].fill(MASKED);
            row[rows..all].fill(MASKED);
        }
        let first = self.prefix.end_position();
        for (row, position) in denoise.session.input_i64_mut(denoise.positions)?.iter_mut().enumerate() {
            *position = (first + row) as i64;
        }
        Ok(())
    }

    /// Steps of this inference.
    fn steps(&self) -> usize {
        self.rules.steps.min(self.plan.steps as usize)
    }

    /// Noise to data in `x`.
    fn integrate(&mut self, meter: &mut Meter<'_>) -> Result<(), PolicyError> {
        self.noise.take(&mut self.x);
        let steps = self.steps();
        let dims = self.prefix.spec().actions.dims().len();
        for step in 0..steps {
            let tau = step as f32 / steps as f32;
            self.steering.hold(&mut self.x, dims);
            let denoise = &mut self.denoise;
            denoise.session.input_f32_mut(denoise.noisy)?.copy_from_slice(&self.x);
            let time = denoise.session.input_f32_mut(denoise.time)?;
            time.fill(tau);
            time[..self.steering.clean].fill(1.0);
            denoise.session.run()?;
            let velocity = denoise.session.output_f32(denoise.velocity)?;
            if step == 0 {
                self.first.copy_from_slice(velocity);
            }
            for (index, (x, v)) in self.x.iter_mut().zip(velocity).enumerate() {
                *x += self.steering.velocity(index, *x, *v, tau) / steps as f32;
            }
            meter.charge(Stage::Decode)?;
        }
        self.steering.hold(&mut self.x, dims);
        Ok(())
    }
}

impl Policy for Flow {
    fn spec(&self) -> &PolicySpec {
        self.prefix.spec()
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        let mut meter = Meter::new(budget, self.spec().costs);
        let mut stages = Stages::default();
        let mut lap = Lap::start();
        let ask = Ask { epoch: committed.epoch, visual: self.plan.visual };
        self.prefix.observe(observation, chunk, ask, &mut meter, &mut stages, &mut lap)?;

        self.take_prefix()?;
        self.steering.set(self.prefix.spec(), self.rules.max_prefix_rows, committed, &observation.state.position_rad);
        self.integrate(&mut meter)?;
        stages.decode = lap.take();
        stages.passes = self.steps() as f64;

        for (value, x) in self.normalised.values_mut().iter_mut().zip(&self.x) {
            *value = f64::from(*x);
        }
        self.fault.strike(self.normalised.values_mut());
        self.prefix.spec().actions.to_absolute(&self.normalised, &observation.state.position_rad, chunk.rows_mut())?;
        stages.postprocess = lap.take();
        chunk.set(self.spec().chunk.row_period, observation.anchor, committed.epoch, None, stages);
        Ok(StopReason::Complete)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.prefix.prompt_ids(instruction, &vec![0; self.spec().state.len()]).map(drop)
    }

    fn reset(&mut self, epoch: Epoch) {
        self.noise.reset(epoch);
        self.prefix.forget();
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        let costs = self.spec().costs;
        costs.vision + self.prefix.cost() + costs.step * self.steps() as u32
    }

    fn set_noise(&mut self, noise: &[f64]) -> Result<(), ObservationError> {
        self.noise.give(noise)
    }

    fn work(&self) -> Work {
        let most = self.rules.steps as u32;
        let fitted = self.spec().thresholds.as_ref().and_then(|fitted| fitted.denoising);
        Work::Steps { most, least: fitted.map_or(most, |fitted| fitted.least_steps) }
    }

    fn prepare(&mut self, observation: &Observation<'_>, _budget: Budget<'_>) {
        self.prefix.prepare(observation);
    }

    fn set_plan(&mut self, plan: Plan) {
        self.plan = plan;
    }
}

impl Inspect for Flow {
    fn text_ids(&self) -> &[u32] {
        self.prefix.text_ids()
    }

    fn first(&self) -> Result<&[f32], EngineError> {
        self.prefix.visual()
    }

    fn head(&self) -> Result<&[f32], EngineError> {
        Ok(&self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Integrates an ideal straight flow towards `target` that is pulled towards `Y = 1`.
    fn reached(steps: usize, beta: f32, target: f32) -> f32 {
        let steering = Steering { rows: vec![1.0], weights: vec![1.0], clean: 0, beta };
        let mut x = 0.3;
        for step in 0..steps {
            let tau = step as f32 / steps as f32;
            let v = (target - x) / (1.0 - tau);
            x += steering.velocity(0, x, v, tau) / steps as f32;
        }
        x
    }

    #[test]
    fn guidance_of_a_straight_flow_corrects_the_known_share_of_the_gap() {
        for (steps, beta, share) in [(5, 5.0, 0.85), (10, 10.0, 0.91), (10, 5.0, 0.50)] {
            let corrected = reached(steps, beta, -1.0) / 2.0 + 0.5;
            assert!((corrected - share).abs() < 0.02, "n {steps}, beta {beta}: {corrected}");
        }
    }

    #[test]
    fn a_value_without_weight_follows_the_model() {
        let steering = Steering { rows: vec![1.0], weights: vec![0.0], clean: 0, beta: 10.0 };
        assert_eq!(steering.velocity(0, 0.2, -0.4, 0.5), -0.4);
    }
}
