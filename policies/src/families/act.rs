//! ACT: one pass from images and state to all rows (Zhao et al., arXiv 2304.13705, §IV; at run time its latent is 0).
//!
//! `regress.onnx`: `image_i` `[1, 3, h, w]`, `state` `[1, S]` → `actions` `[1, H, D]`, normalised. What training did to
//! the images beyond dividing by 255 is part of the graph.

use core::time::Duration;

use super::observation::{self, Inputs};
use super::{Graphs, Inspect, Lap};
use crate::action_space::NormalisedRows;
use crate::bundle::PolicySpec;
use crate::chunk::{ActionChunk, Stages};
use crate::engine::{Contract, Engine, EngineError, OutputSlot, Session};
use crate::load::LoadError;
use crate::observation::{Budget, Committed, Epoch, Meter, Observation};
use crate::policy::{OutputFault, Policy, PolicyError, Stage, StopReason};

const REGRESS: &str = "regress.onnx";

/// The policy.
pub(crate) struct Act {
    spec: PolicySpec,
    session: Box<dyn Session>,
    inputs: Inputs,
    actions: OutputSlot,
    normalised: NormalisedRows,
    fault: OutputFault,
}

impl Act {
    /// Loads the graph.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(super) fn load(spec: PolicySpec, engine: &dyn Engine, graphs: &Graphs<'_>) -> Result<Self, LoadError> {
        let (horizon, dims) = (spec.chunk.horizon, spec.actions.dims().len());
        let mut contract = Contract::new();
        let inputs = Inputs::declare(&mut contract, &spec);
        let actions = contract.output_f32("actions", &[1, horizon, dims]);
        let session = engine.load(graphs.source(REGRESS)?, &contract)?;
        Ok(Self {
            spec,
            session,
            inputs,
            actions,
            normalised: NormalisedRows::new(horizon, dims),
            fault: OutputFault::None,
        })
    }
}

impl Policy for Act {
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
        self.inputs.fill(&mut *self.session, &self.spec, observation)?;
        stages.preprocess = lap.take();
        self.session.run()?;
        stages.prefill = lap.take();
        meter.charge(Stage::Prefill)?;

        let actions = self.session.output_f32(self.actions)?;
        for (value, output) in self.normalised.values_mut().iter_mut().zip(actions) {
            *value = f64::from(*output);
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

    fn reset(&mut self, _epoch: Epoch) {
        // Nothing links one inference to the next.
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        self.spec.costs.prefill
    }
}

impl Inspect for Act {
    fn head(&self) -> Result<&[f32], EngineError> {
        self.session.output_f32(self.actions)
    }
}
