//! Flow matching: the prefix once, then a few Euler steps from noise to a chunk along a learned velocity, over the
//! prefix's keys and values (π0: Black et al., arXiv 2410.24164, §IV; SmolVLA: Shukor et al., arXiv 2506.01844).
//!
//! Time τ runs from 0 (noise) to 1 (data), one value a row, so that rows already committed can enter clean (training-
//! time real-time chunking).

use core::time::Duration;

use super::noise::Noise;
use super::prefix::{Parts, Prefix, kv_names};
use super::{Graphs, Inspect, Lap};
use crate::action_space::NormalisedRows;
use crate::bundle::{FlowSpec, PolicySpec};
use crate::chunk::{ActionChunk, Stages};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::kv::MASKED;
use crate::load::LoadError;
use crate::observation::{Budget, Committed, Epoch, Meter, Observation};
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

/// The policy.
pub(crate) struct Flow {
    prefix: Prefix,
    rules: FlowSpec,
    denoise: Denoise,
    noise: Noise,
    /// `[H, D]`, between noise and data.
    x: Vec<f32>,
    /// Velocity of the first step, `[H, D]`.
    first: Vec<f32>,
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
            denoise: Denoise { session, noisy, time, positions, mask, past, velocity },
            noise: Noise::new(horizon * dims),
            x: vec![0.0; horizon * dims],
            first: vec![0.0; horizon * dims],
            normalised: NormalisedRows::new(horizon, dims),
            fault: OutputFault::None,
        })
    }

    /// Hands the prefix to the denoising graph: keys and values, mask and positions stay for all steps.
    fn take_prefix(&mut self) -> Result<(), PolicyError> {
        let rows = self.prefix.model().prefix;
        let horizon = self.prefix.spec().chunk.horizon;
        let denoise = &mut self.denoise;
        for (new, past) in self.prefix.keys_and_values().zip(&denoise.past) {
            denoise.session.input_f32_mut(*past)?.copy_from_slice(new?);
        }
        let padding = self.prefix.padding();
        for row in denoise.session.input_f32_mut(denoise.mask)?.chunks_exact_mut(rows + horizon) {
            row.fill(0.0);
            row[padding.clone()].fill(MASKED);
        }
        let first = self.prefix.end_position();
        for (row, position) in denoise.session.input_i64_mut(denoise.positions)?.iter_mut().enumerate() {
            *position = (first + row) as i64;
        }
        Ok(())
    }

    /// Noise to data in `x`.
    fn integrate(&mut self, meter: &mut Meter<'_>) -> Result<(), PolicyError> {
        self.noise.take(&mut self.x);
        let steps = self.rules.steps;
        for step in 0..steps {
            let denoise = &mut self.denoise;
            denoise.session.input_f32_mut(denoise.noisy)?.copy_from_slice(&self.x);
            denoise.session.input_f32_mut(denoise.time)?.fill(step as f32 / steps as f32);
            denoise.session.run()?;
            let velocity = denoise.session.output_f32(denoise.velocity)?;
            if step == 0 {
                self.first.copy_from_slice(velocity);
            }
            for (x, v) in self.x.iter_mut().zip(velocity) {
                *x += v / steps as f32;
            }
            meter.charge(Stage::Decode)?;
        }
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
        self.prefix.observe(observation, chunk, &mut meter, &mut stages, &mut lap)?;

        self.take_prefix()?;
        self.integrate(&mut meter)?;
        stages.decode = lap.take();
        stages.passes = self.rules.steps as f64;

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
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        let costs = self.spec().costs;
        costs.vision + costs.prefill + costs.step * self.rules.steps as u32
    }

    fn set_noise(&mut self, noise: &[f64]) -> Result<(), ObservationError> {
        self.noise.give(noise)
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
