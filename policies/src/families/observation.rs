//! What every family does with an observation: refuse one that does not fit, and put images and the normalised state
//! into the inputs of a graph.

use core::time::Duration;

use endplate_hal::Frame;

use crate::bundle::PolicySpec;
use crate::chunk::ActionChunk;
use crate::engine::{Contract, InputSlot, Session};
use crate::image::ImageLoader;
use crate::observation::{Moment, Observation};
use crate::policy::{ObservationError, PolicyError};

/// Refuses an observation, or a chunk to fill, of another size than the policy's.
///
/// # Errors
/// [`ObservationError`] by what is wrong.
pub(crate) fn check(
    spec: &PolicySpec,
    observation: &Observation<'_>,
    chunk: &ActionChunk,
) -> Result<(), ObservationError> {
    let needed = spec.observation_steps() - 1;
    if observation.past.len() != needed {
        return Err(ObservationError::History { needed, got: observation.past.len() });
    }
    for Moment { frames, state } in moments(observation) {
        if frames.len() != spec.cameras.len() {
            return Err(ObservationError::Frames { needed: spec.cameras.len(), got: frames.len() });
        }
        let positions = &state.position_rad;
        if positions.len() != spec.state.len() {
            return Err(ObservationError::Joints { needed: spec.state.len(), got: positions.len() });
        }
        if let Some(joint) = positions.iter().position(|p| !p.is_finite()) {
            return Err(ObservationError::NonFiniteState { joint });
        }
    }
    let (needed_horizon, needed_dims) = (spec.chunk.horizon, spec.actions.dims().len());
    if (chunk.horizon(), chunk.dims()) != (needed_horizon, needed_dims) {
        return Err(ObservationError::Chunk {
            horizon: chunk.horizon(),
            dims: chunk.dims(),
            needed_horizon,
            needed_dims,
        });
    }
    Ok(())
}

/// All moments of an observation, oldest first.
fn moments<'a>(observation: &'a Observation<'a>) -> impl Iterator<Item = Moment<'a>> {
    let present = Moment { frames: observation.frames, state: observation.state };
    observation.past.iter().copied().chain([present])
}

/// The inputs of a graph that reads an observation of `n` moments: `image_0`, `image_1`, … `[n, 3, h, w]`, values 0..1,
/// one per camera slot, each of its own size; `state` `[n, S]`, normalised.
pub(super) struct Inputs {
    images: Vec<InputSlot>,
    state: Option<InputSlot>,
    loader: ImageLoader,
}

impl Inputs {
    /// Adds images and state to a contract.
    pub(super) fn declare(contract: &mut Contract, spec: &PolicySpec) -> Self {
        Self::declare_images(contract, spec).with_state(contract, spec)
    }

    /// Adds the images alone.
    pub(super) fn declare_images(contract: &mut Contract, spec: &PolicySpec) -> Self {
        let steps = spec.observation_steps();
        let images = spec
            .cameras
            .iter()
            .enumerate()
            .map(|(i, slot)| {
                contract.input_f32(format!("image_{i}"), &[steps, 3, slot.height as usize, slot.width as usize])
            })
            .collect();
        Self { images, state: None, loader: ImageLoader::new() }
    }

    /// Adds the state.
    pub(super) fn with_state(self, contract: &mut Contract, spec: &PolicySpec) -> Self {
        let state = contract.input_f32("state", &[spec.observation_steps(), spec.state.len()]);
        Self { state: Some(state), ..self }
    }

    /// Puts frames that may be the present ones of the next observation where [`fill`](Self::fill) would.
    pub(super) fn prepare(&mut self, session: &mut dyn Session, spec: &PolicySpec, frames: &[Frame]) {
        // The past is filled from copies of these frames, by the same loader: it would not know the present from them.
        if spec.observation_steps() > 1 {
            return;
        }
        for (index, ((slot, camera), frame)) in self.images.iter().zip(&spec.cameras).zip(frames).enumerate() {
            if let Ok(image) = session.input_f32_mut(*slot) {
                self.loader.prepare(index, camera, frame, image);
            }
        }
    }

    /// Nothing lies in the inputs ahead.
    pub(super) fn forget(&mut self) {
        self.loader.forget();
    }

    /// The time spent ahead on the images of the last observation.
    pub(super) fn take_ahead(&mut self) -> Duration {
        self.loader.take_ahead()
    }

    /// Writes an observation that [`check`] has let pass.
    ///
    /// # Errors
    /// [`PolicyError::Observation`] for a torn frame.
    pub(super) fn fill(
        &mut self,
        session: &mut dyn Session,
        spec: &PolicySpec,
        observation: &Observation<'_>,
    ) -> Result<(), PolicyError> {
        for (index, (slot, camera)) in self.images.iter().zip(&spec.cameras).enumerate() {
            let image = session.input_f32_mut(*slot)?;
            let size = image.len() / spec.observation_steps();
            for (moment, into) in moments(observation).zip(image.chunks_exact_mut(size)) {
                self.loader.load(index, camera, &moment.frames[index], into)?;
            }
        }
        let Some(state) = self.state else { return Ok(()) };
        let rows = session.input_f32_mut(state)?.chunks_exact_mut(spec.state.len());
        for (moment, row) in moments(observation).zip(rows) {
            for (dim, (value, position)) in row.iter_mut().zip(moment.state.position_rad.iter()).enumerate() {
                *value = spec.state_normalisation.normalise(dim, *position) as f32;
            }
        }
        Ok(())
    }
}
