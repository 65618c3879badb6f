//! ACT: one pass from images and state to all rows (Zhao et al., arXiv 2304.13705, §IV; at run time its latent is 0).
//!
//! `regress.onnx`: `image_i` `[1, 3, h, w]`, `state` `[1, S]` → `actions` `[1, H, D]`, normalised. What training did to
//! the images beyond dividing by 255 is part of the graph.

use super::Graphs;
use super::frame::{Frame, Network, widen};
use super::observation::Inputs;
use crate::bundle::PolicySpec;
use crate::engine::{Contract, Engine, EngineError, OutputSlot, Session};
use crate::load::LoadError;
use crate::observation::Observation;
use crate::policy::PolicyError;

pub(super) const REGRESS: &str = "regress.onnx";

/// The network.
pub(crate) struct Act {
    session: Box<dyn Session>,
    inputs: Inputs,
    actions: OutputSlot,
}

/// Loads the graph.
///
/// # Errors
/// [`LoadError`] naming the graph and the tensor.
pub(super) fn load(spec: PolicySpec, engine: &dyn Engine, graphs: &Graphs<'_>) -> Result<Frame<Act>, LoadError> {
    let mut contract = Contract::new();
    let inputs = Inputs::declare(&mut contract, &spec);
    let actions = contract.output_f32("actions", &[1, spec.chunk.horizon, spec.actions.dims().len()]);
    let session = engine.load(graphs.source(REGRESS)?, &contract)?;
    Ok(Frame::new(spec, Act { session, inputs, actions }))
}

impl Network for Act {
    fn observe(&mut self, spec: &PolicySpec, observation: &Observation<'_>) -> Result<(), PolicyError> {
        self.inputs.fill(&mut *self.session, spec, observation)
    }

    fn images(&mut self) -> (&mut Inputs, &mut dyn Session) {
        (&mut self.inputs, &mut *self.session)
    }

    fn prefill(&mut self) -> Result<(), PolicyError> {
        Ok(self.session.run()?)
    }

    fn rows(&self, _spec: &PolicySpec, into: &mut [f64]) -> Result<(), PolicyError> {
        widen(self.session.output_f32(self.actions)?, into);
        Ok(())
    }

    fn head(&self) -> Result<&[f32], EngineError> {
        self.session.output_f32(self.actions)
    }
}
