//! What every family does with an observation: refuse one that does not fit, and put images and the normalised state
//! into the inputs of a graph.

use crate::bundle::PolicySpec;
use crate::chunk::ActionChunk;
use crate::engine::{Contract, InputSlot, Session};
use crate::image::ImageLoader;
use crate::observation::Observation;
use crate::policy::{ObservationError, PolicyError};

/// Refuses an observation, or a chunk to fill, of another size than the policy's.
///
/// # Errors
/// [`ObservationError`] by what is wrong.
pub(super) fn check(
    spec: &PolicySpec,
    observation: &Observation<'_>,
    chunk: &ActionChunk,
) -> Result<(), ObservationError> {
    if observation.frames.len() != spec.cameras.len() {
        return Err(ObservationError::Frames { needed: spec.cameras.len(), got: observation.frames.len() });
    }
    let positions = &observation.state.position_rad;
    if positions.len() != spec.state.len() {
        return Err(ObservationError::Joints { needed: spec.state.len(), got: positions.len() });
    }
    if let Some(joint) = positions.iter().position(|p| !p.is_finite()) {
        return Err(ObservationError::NonFiniteState { joint });
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

/// The inputs of a graph that reads an observation: `image_0`, `image_1`, … `[1, 3, h, w]`, values 0..1, one per camera
/// slot, each of its own size; `state` `[1, S]`, normalised.
pub(super) struct Inputs {
    images: Vec<InputSlot>,
    state: InputSlot,
    loader: ImageLoader,
}

impl Inputs {
    /// Adds them to a contract.
    pub(super) fn declare(contract: &mut Contract, spec: &PolicySpec) -> Self {
        let images = spec
            .cameras
            .iter()
            .enumerate()
            .map(|(i, slot)| {
                contract.input_f32(format!("image_{i}"), &[1, 3, slot.height as usize, slot.width as usize])
            })
            .collect();
        Self { images, state: contract.input_f32("state", &[1, spec.state.len()]), loader: ImageLoader::new() }
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
        for (index, (slot, (camera, frame))) in
            self.images.iter().zip(spec.cameras.iter().zip(observation.frames)).enumerate()
        {
            self.loader.load(index, camera, frame, session.input_f32_mut(*slot)?)?;
        }
        let positions = observation.state.position_rad.iter();
        for (dim, (value, position)) in session.input_f32_mut(self.state)?.iter_mut().zip(positions).enumerate() {
            *value = spec.state_normalisation.normalise(dim, *position) as f32;
        }
        Ok(())
    }
}
