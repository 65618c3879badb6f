//! A policy on a timed engine and what it is shown: its golden observations as cameras of 640×480 would see them.

use super::BenchArguments;
use crate::cli::error::CliError;
use endplate_hal::Frame;
use endplate_policies::{
    ActionChunk, Bundle, EngineRuns, Loaded, OpenLoopInputs, PolicySpec, Resize, golden_inputs, infer_open_loop_into,
};
use std::time::{Duration, Instant as WallInstant};

/// Pixels of a camera, across and down.
pub(super) const CAMERA: (u32, u32) = (640, 480);

/// A loaded policy and observations to give it.
pub(super) struct Scene {
    pub(super) bundle: Bundle,
    pub(super) loaded: Loaded,
    pub(super) runs: EngineRuns,
    inputs: Vec<OpenLoopInputs>,
    chunk: ActionChunk,
}

/// One inference.
pub(super) struct Inference {
    pub(super) start: WallInstant,
    pub(super) wall: Duration,
    /// Whether the policy gave a chunk.
    pub(super) is_answered: bool,
}

impl Scene {
    /// Opens the bundle asked for on the engine asked for; `is_portable` leaves graphs that write in place aside.
    pub(super) fn open(arguments: &BenchArguments, is_portable: bool) -> Result<Self, CliError> {
        let (bundle, loaded, runs) = arguments.policy.load_timed(is_portable)?;
        let mut inputs = golden_inputs(&bundle).map_err(CliError::input)?;
        let mut noise = 1u32;
        for input in &mut inputs {
            let moments = input.past.iter_mut().map(|(frames, _)| frames).chain([&mut input.frames]);
            for frame in moments.flat_map(|frames| frames.iter_mut().zip(&bundle.spec().cameras)) {
                if frame.1.resize != Resize::None {
                    *frame.0 = as_camera(frame.0, &mut noise);
                }
            }
        }
        let chunk = ActionChunk::for_spec(bundle.spec());
        Ok(Self { bundle, loaded, runs, inputs, chunk })
    }

    /// What its cameras deliver, in words.
    pub(super) fn cameras(&self) -> String {
        let spec: &PolicySpec = self.bundle.spec();
        let slots = spec.cameras.iter().map(|slot| match slot.resize {
            Resize::None => format!("{0}x{1}, not resampled", slot.width, slot.height),
            _ => format!("{}x{} -> {}x{}", CAMERA.0, CAMERA.1, slot.width, slot.height),
        });
        slots.collect::<Vec<_>>().join("; ")
    }

    /// Runs inference number `index`; observations take turns.
    pub(super) fn infer(&mut self, index: usize) -> Inference {
        let input = &self.inputs[index % self.inputs.len()];
        let start = WallInstant::now();
        let result = infer_open_loop_into(&mut *self.loaded.policy, input, &mut self.chunk);
        Inference { start, wall: start.elapsed(), is_answered: result.is_ok() }
    }

    /// The chunk of the last inference that was answered.
    pub(super) fn chunk(&self) -> &ActionChunk {
        &self.chunk
    }
}

/// The picture as a larger camera would deliver it: nearest pixels and a little noise in the last bits.
fn as_camera(frame: &Frame, noise: &mut u32) -> Frame {
    let (width, height) = CAMERA;
    let mut data = Vec::with_capacity(width as usize * height as usize * 3);
    for y in 0..height {
        for x in 0..width {
            let source = (y * frame.height / height * frame.width + x * frame.width / width) as usize * 3;
            for byte in &frame.data[source..source + 3] {
                *noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                data.push(byte.saturating_add((*noise >> 30) as u8));
            }
        }
    }
    Frame { data, sequence: 1, ..Frame::new(width, height) }
}
