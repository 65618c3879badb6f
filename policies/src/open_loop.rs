//! One inference on recorded arrays, outside any loop: `.npz` in, `.npz` out.

use std::io::{Error, Seek, Write};

use endplate_hal::{Frame, Instant, JointState, JointVec};
use npyz::WriterBuilder as _;
use npyz::npz::NpzWriter;

use crate::bundle::{Arrays, BundleError, GoldenSample, PolicySpec, RecordedMoment};
use crate::chunk::ActionChunk;
use crate::observation::{Anchor, Budget, Committed, Epoch, Moment, Observation};
use crate::policy::{Policy, PolicyError};

/// One observation given as arrays.
#[derive(Clone, Debug)]
pub struct OpenLoopInputs {
    /// One frame per camera slot, in the bundle's order.
    pub frames: Vec<Frame>,
    /// `[S]`, in the state's order and units.
    pub state: Vec<f64>,
    /// Frames and state of earlier moments, oldest first, one row period apart, for a policy that reads several.
    pub past: Vec<(Vec<Frame>, Vec<f64>)>,
    /// What to do.
    pub instruction: String,
    /// Noise, normalised units, for a policy that takes some; see [`PolicySpec::noise_shape`].
    pub noise: Option<Vec<f64>>,
}

impl OpenLoopInputs {
    /// Takes the inputs from recorded arrays: one u8 `[h, w, 3]` array per camera, by the camera's name; `state`,
    /// `[S]`; both with a leading axis of moments, oldest first, for a policy that reads several; `instruction`, UTF-8
    /// bytes, for a family that reads one; for a family that takes some, where it is given, `noise` (see
    /// [`PolicySpec::noise_shape`]).
    ///
    /// # Errors
    /// [`BundleError::Array`] naming the array.
    pub fn from_arrays(arrays: &Arrays, spec: &PolicySpec) -> Result<Self, BundleError> {
        let steps = spec.observation_steps();
        let mut moments = vec![Vec::with_capacity(spec.cameras.len()); steps];
        for slot in &spec.cameras {
            let (height, width) = arrays.image_size(&slot.name, steps)?;
            let pixels = arrays.bytes(&slot.name, None)?;
            for (frames, pixels) in moments.iter_mut().zip(pixels.chunks_exact((pixels.len() / steps).max(1))) {
                frames.push(frame(width, height, pixels.to_vec()));
            }
        }
        let states = arrays.get("state", Some(&[steps, spec.state.len()]))?;
        let mut past: Vec<(Vec<Frame>, Vec<f64>)> =
            moments.into_iter().zip(states.chunks_exact(spec.state.len()).map(<[f64]>::to_vec)).collect();
        let (frames, state) = past.pop().unwrap_or_default();
        Ok(Self {
            frames,
            state,
            past,
            instruction: if spec.family.reads_instruction() { arrays.text("instruction")? } else { String::new() },
            noise: match spec.noise_shape() {
                Some(shape) if arrays.contains("noise") => Some(arrays.get("noise", Some(&shape))?.to_vec()),
                _ => None,
            },
        })
    }

    pub(crate) fn from_golden(golden: &GoldenSample, spec: &PolicySpec) -> Self {
        let moment = |(images, state): &RecordedMoment| {
            let slots = spec.cameras.iter().zip(images);
            let frames = slots.map(|(slot, pixels)| frame(slot.width, slot.height, pixels.clone())).collect();
            (frames, state.clone())
        };
        let mut past: Vec<(Vec<Frame>, Vec<f64>)> = golden.moments.iter().map(moment).collect();
        let (frames, state) = past.pop().unwrap_or_default();
        Self { frames, state, past, instruction: golden.instruction.clone(), noise: golden.noise.clone() }
    }
}

fn frame(width: u32, height: u32, data: Vec<u8>) -> Frame {
    Frame { width, height, data, captured: Instant::ZERO, available: Instant::ZERO, sequence: 1 }
}

/// The answer to [`OpenLoopInputs`].
#[derive(Clone, Debug, PartialEq)]
pub struct OpenLoopOutput {
    /// The rows and where the time went.
    pub chunk: ActionChunk,
    /// Action token ids; empty for a policy without tokens.
    pub tokens: Vec<u32>,
}

impl OpenLoopOutput {
    /// Writes `actions` (f64 `[H, D]`, absolute) and, where there are any, `tokens` (i64 `[T]`) as an `.npz` file.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_npz(&self, writer: impl Write + Seek) -> Result<(), Error> {
        let options = npyz::zip::write::FileOptions::default().compression_method(npyz::zip::CompressionMethod::Stored);
        let mut npz = NpzWriter::new(writer);
        let shape = [self.chunk.horizon() as u64, self.chunk.dims() as u64];
        let mut actions = npz.array("actions", options)?.default_dtype().shape(&shape).begin_nd()?;
        actions.extend(self.chunk.rows().iter().copied())?;
        actions.finish()?;
        if !self.tokens.is_empty() {
            let mut tokens =
                npz.array("tokens", options)?.default_dtype().shape(&[self.tokens.len() as u64]).begin_nd()?;
            tokens.extend(self.tokens.iter().map(|id| i64::from(*id)))?;
            tokens.finish()?;
        }
        npz.zip_writer().finish().map_err(|error| Error::other(error.to_string()))?.flush()
    }
}

/// Runs a policy once on given arrays, without a deadline and without anything committed.
///
/// # Errors
/// [`PolicyError`], as [`Policy::infer`].
pub fn infer_open_loop(policy: &mut dyn Policy, inputs: &OpenLoopInputs) -> Result<OpenLoopOutput, PolicyError> {
    let mut chunk = ActionChunk::for_spec(policy.spec());
    infer_open_loop_into(policy, inputs, &mut chunk)?;
    Ok(OpenLoopOutput { tokens: policy.tokens().to_vec(), chunk })
}

/// [`infer_open_loop`] into a chunk that is there already.
///
/// # Errors
/// [`PolicyError`], as [`Policy::infer`]; the chunk is then not to be used.
pub fn infer_open_loop_into(
    policy: &mut dyn Policy,
    inputs: &OpenLoopInputs,
    chunk: &mut ActionChunk,
) -> Result<(), PolicyError> {
    if let Some(noise) = &inputs.noise {
        policy.set_noise(noise)?;
    }
    let state = |positions: &[f64]| JointState {
        stamp: Instant::ZERO,
        // More joints than a vector holds become a shorter one, which the policy refuses.
        position_rad: JointVec::from_slice(positions).unwrap_or(JointVec::zeros(0)),
        velocity_rad_s: JointVec::zeros(positions.len()),
        effort_nm: None,
    };
    let past: Vec<Moment<'_>> =
        inputs.past.iter().map(|(frames, positions)| Moment { frames, state: state(positions) }).collect();
    let observation = Observation {
        frames: &inputs.frames,
        state: state(&inputs.state),
        past: &past,
        instruction: &inputs.instruction,
        anchor: Anchor::default(),
    };
    let (committed, budget) = (Committed::none(Epoch::default()), Budget::unlimited(Instant::ZERO));
    policy.infer(&observation, &committed, budget, chunk).map(drop)
}
