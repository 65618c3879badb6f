//! The observations of a recording, as a policy takes them.

use super::error::CliError;
use endplate_hal::{Frame, Instant};
use endplate_policies::{OpenLoopInputs, PolicySpec};
use endplate_runtime::recorder::{InferenceRecord, RecordedInference, read_inferences};
use std::path::Path;

/// Every inference of a recording with the inputs it had, for the cameras of a policy.
pub fn observations(recording: &Path, spec: &PolicySpec) -> Result<Vec<(OpenLoopInputs, InferenceRecord)>, CliError> {
    let cameras: Vec<String> = spec.cameras.iter().map(|slot| slot.name.clone()).collect();
    let recorded = read_inferences(recording, &cameras).map_err(CliError::input)?;
    if recorded.is_empty() {
        return Err(CliError::Input(format!("{}: holds no inference", recording.display())));
    }
    Ok(recorded.into_iter().map(inputs).collect())
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
