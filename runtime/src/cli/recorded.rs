//! The observations of a recording, as a policy takes them.

use super::error::CliError;
use endplate_hal::{Frame, Instant};
use endplate_policies::{OpenLoopInputs, PolicySpec};
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
        println!(
            "the policy reads {} observations: earlier inferences stand in for those a row period before",
            past + 1
        );
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
