//! What the families of continuous rows share: observe, prefill, step by step, rows, each stage measured and charged.

use core::time::Duration;

use super::observation::Inputs;
use super::{Inspect, Lap, observation};
use crate::action_space::NormalisedRows;
use crate::bundle::PolicySpec;
use crate::chunk::{ActionChunk, Stages};
use crate::engine::{EngineError, Session};
use crate::observation::{Budget, Committed, Epoch, Meter, Observation};
use crate::policy::{ObservationError, OutputFault, Policy, PolicyError, Stage, StopReason};

/// The part of a family that is its own.
pub(crate) trait Network: Send {
    /// Puts an observation that fits the policy into the graphs.
    ///
    /// # Errors
    /// [`PolicyError`].
    fn observe(&mut self, spec: &PolicySpec, observation: &Observation<'_>) -> Result<(), PolicyError>;

    /// Where images go, and in which graph.
    fn images(&mut self) -> (&mut Inputs, &mut dyn Session);

    /// Runs everything up to the first step.
    ///
    /// # Errors
    /// [`PolicyError::Engine`].
    fn prefill(&mut self) -> Result<(), PolicyError>;

    /// Steps behind the prefill; 0 for a family of one pass.
    fn steps(&self) -> usize {
        0
    }

    /// Takes all steps, charging each.
    ///
    /// # Errors
    /// [`PolicyError`].
    fn decode(&mut self, _meter: &mut Meter<'_>) -> Result<(), PolicyError> {
        Ok(())
    }

    /// Writes the rows, `[H, D]`, normalised.
    ///
    /// # Errors
    /// [`PolicyError::Engine`].
    fn rows(&self, spec: &PolicySpec, into: &mut [f64]) -> Result<(), PolicyError>;

    /// See [`Policy::check_instruction`]; a family that knows one task reads no instruction.
    ///
    /// # Errors
    /// [`PolicyError::UnknownInstruction`], [`PolicyError::PromptTooLong`].
    fn check_instruction(&self, _spec: &PolicySpec, _instruction: &str) -> Result<(), PolicyError> {
        Ok(())
    }

    /// Begins an epoch.
    fn reset(&mut self, _epoch: Epoch) {}

    /// See [`Policy::set_noise`].
    ///
    /// # Errors
    /// [`ObservationError::Noise`].
    fn set_noise(&mut self, noise: &[f64]) -> Result<(), ObservationError> {
        Err(ObservationError::Noise { needed: 0, got: noise.len() })
    }

    /// See [`Inspect::text_ids`].
    fn text_ids(&self) -> &[u32] {
        &[]
    }

    /// See [`Inspect::first`].
    ///
    /// # Errors
    /// [`EngineError`].
    fn first(&self) -> Result<&[f32], EngineError> {
        Ok(&[])
    }

    /// See [`Inspect::head`].
    ///
    /// # Errors
    /// [`EngineError`].
    fn head(&self) -> Result<&[f32], EngineError>;
}

/// A policy around a network.
pub(crate) struct Frame<N> {
    spec: PolicySpec,
    network: N,
    normalised: NormalisedRows,
    fault: OutputFault,
}

impl<N: Network> Frame<N> {
    /// A policy that `spec` describes.
    pub(crate) fn new(spec: PolicySpec, network: N) -> Self {
        let normalised = NormalisedRows::new(spec.chunk.horizon, spec.actions.dims().len());
        Self { spec, network, normalised, fault: OutputFault::None }
    }
}

impl<N: Network> Policy for Frame<N> {
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
        self.network.observe(&self.spec, observation)?;
        stages.preprocess = lap.take();
        stages.ahead = self.network.images().0.take_ahead();
        self.network.prefill()?;
        stages.prefill = lap.take();
        meter.charge(Stage::Prefill)?;

        let steps = self.network.steps();
        if steps > 0 {
            self.network.decode(&mut meter)?;
            stages.decode = lap.take();
            stages.passes = steps as f64;
        }

        self.network.rows(&self.spec, self.normalised.values_mut())?;
        self.fault.strike(self.normalised.values_mut());
        self.spec.actions.to_absolute(&self.normalised, &observation.state.position_rad, chunk.rows_mut())?;
        stages.postprocess = lap.take();
        chunk.set(self.spec.chunk.row_period, observation.anchor, committed.epoch, None, stages);
        Ok(StopReason::Complete)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.network.check_instruction(&self.spec, instruction)
    }

    fn reset(&mut self, epoch: Epoch) {
        self.network.images().0.forget();
        self.network.reset(epoch);
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        let costs = self.spec.costs;
        costs.prefill + costs.step * self.network.steps() as u32
    }

    fn set_noise(&mut self, noise: &[f64]) -> Result<(), ObservationError> {
        self.network.set_noise(noise)
    }

    fn prepare(&mut self, observation: &Observation<'_>, _budget: Budget<'_>) {
        let (inputs, session) = self.network.images();
        inputs.prepare(session, &self.spec, observation.frames);
    }
}

impl<N: Network> Inspect for Frame<N> {
    fn text_ids(&self) -> &[u32] {
        self.network.text_ids()
    }

    fn first(&self) -> Result<&[f32], EngineError> {
        self.network.first()
    }

    fn head(&self) -> Result<&[f32], EngineError> {
        self.network.head()
    }
}

/// Widens f32 into f64, as many as there is room for.
pub(super) fn widen(from: &[f32], into: &mut [f64]) {
    for (value, output) in into.iter_mut().zip(from) {
        *value = f64::from(*output);
    }
}
