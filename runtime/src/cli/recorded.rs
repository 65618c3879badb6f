//! The observations of a recording, as a policy takes them.

use super::error::CliError;
use endplate_hal::{Frame, Instant, JointState, JointVec, MotionTime};
use endplate_policies::{Anchor, Epoch, Observation, OpenLoopInputs, PolicySpec};
use endplate_runtime::recorder::{InferenceRecord, RecordedInference, read_inferences};
use std::path::Path;

/// Every inference of a recording with the inputs it had, for the cameras of a policy. A recording holds the present of each
/// inference alone: for a policy that reads several observations, those of the inferences before stand in for the ones a row
/// period before, the first one for what was before it. Good for comparing and calibrating, where only being like the real
/// ones counts; [`exact`] refuses it.
pub fn observations(recording: &Path, spec: &PolicySpec) -> Result<Vec<(OpenLoopInputs, InferenceRecord)>, CliError> {
    let cameras: Vec<String> = spec.cameras.iter().map(|slot| slot.name.clone()).collect();
    let recorded = read_inferences(recording, &cameras).map_err(CliError::input)?;
    if recorded.is_empty() {
        return Err(CliError::Input(format!("{}: holds no inference", recording.display())));
    }
    let mut found: Vec<(OpenLoopInputs, InferenceRecord)> = recorded.into_iter().map(inputs).collect();
    let past = spec.observation_steps() - 1;
    if past > 0 {
        say!("the policy reads {} observations: earlier inferences stand in for those a row period before", past + 1);
        for index in (0..found.len()).rev() {
            let before = (1..=past).rev().map(|back| &found[index.saturating_sub(back)].0);
            found[index].0.past = before.map(|inputs| (inputs.frames.clone(), inputs.state.clone())).collect();
        }
    }
    Ok(found)
}

/// [`observations`] for what must be the very inputs of then.
pub fn exact(recording: &Path, spec: &PolicySpec) -> Result<Vec<(OpenLoopInputs, InferenceRecord)>, CliError> {
    if spec.observation_steps() > 1 {
        return Err(CliError::Input(format!(
            "{}: the policy reads {} observations and a recording holds the present one: it cannot be replayed",
            recording.display(),
            spec.observation_steps()
        )));
    }
    observations(recording, spec)
}

fn inputs(RecordedInference { record, images }: RecordedInference) -> (OpenLoopInputs, InferenceRecord) {
    let frame = |image: endplate_runtime::recorder::RecordedImage| Frame {
        width: image.width,
        height: image.height,
        data: image.data,
        captured: Instant::ZERO,
        available: Instant::ZERO,
        sequence: 1,
    };
    let inputs = OpenLoopInputs {
        frames: images.into_iter().map(frame).collect(),
        state: record.state_rad.clone(),
        past: Vec::new(),
        instruction: record.instruction.clone(),
        noise: None,
    };
    (inputs, record)
}

/// A recorded inference with its motion time, so that what links one inference to the next is as it was.
pub struct Replayed {
    pub frames: Vec<Frame>,
    pub record: InferenceRecord,
    /// Another one where another episode begins: where the instruction changes or motion time starts over.
    pub epoch: Epoch,
    position_rad: JointVec,
}

impl Replayed {
    /// The observation as the policy was given it.
    pub fn observation(&self) -> Observation<'_> {
        Observation {
            frames: &self.frames,
            state: JointState {
                stamp: Instant::ZERO,
                position_rad: self.position_rad,
                velocity_rad_s: JointVec::zeros(self.position_rad.len()),
                effort_nm: None,
            },
            past: &[],
            instruction: &self.record.instruction,
            anchor: Anchor {
                motion: MotionTime::from_nanos(self.record.motion_ns),
                captured: Instant::from_nanos(self.record.captured_ns),
            },
        }
    }
}

/// Every inference of a recording in its order, at most `most`.
pub fn replayed(recording: &Path, spec: &PolicySpec, most: usize) -> Result<Vec<Replayed>, CliError> {
    let mut all = Vec::new();
    let mut epoch = Epoch(1);
    let mut before: Option<(String, u64)> = None;
    for (inputs, record) in observations(recording, spec)?.into_iter().take(most) {
        if before.is_some_and(|(told, motion_ns)| told != record.instruction || motion_ns > record.motion_ns) {
            epoch.0 += 1;
        }
        before = Some((record.instruction.clone(), record.motion_ns));
        let joints = record.state_rad.len();
        let position_rad = JointVec::from_slice(&record.state_rad).ok_or_else(|| {
            CliError::Input(format!("{}: {joints} joints: more than a robot may have", recording.display()))
        })?;
        all.push(Replayed { frames: inputs.frames, record, epoch, position_rad });
    }
    Ok(all)
}
