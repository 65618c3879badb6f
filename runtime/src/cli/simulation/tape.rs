//! The recording of a run.

use crate::cli::error::CliError;
use crate::cli::view::View;
use endplate_runtime::{ControlLoop, InferenceLoop};

/// A recording under way, if one was asked for. The robot goes on when it cannot be written; the run then fails at its end.
#[derive(Default)]
pub(super) struct Tape {
    #[cfg(feature = "mcap")]
    pub(super) recorder: Option<endplate_runtime::recorder::Recorder>,
    #[cfg(feature = "mcap")]
    pub(super) failed: Option<String>,
}

#[cfg(feature = "mcap")]
impl Tape {
    pub(super) fn pump(&mut self, view: &View) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.pump()
        {
            view.line(&format!("recording stopped: {error}"));
            self.failed = Some(error.to_string());
            self.recorder = None;
        }
    }

    pub(super) fn finish(
        &mut self,
        control: &mut ControlLoop,
        inference: &mut InferenceLoop,
        view: &View,
    ) -> Result<(), CliError> {
        control.set_records(None);
        inference.set_tap(None);
        if let Some(recorder) = self.recorder.take() {
            let counts = recorder.finish(control.counts().records_dropped).map_err(CliError::failed)?;
            let of = |key: &str| counts.get(key).cloned().unwrap_or_default();
            let (ticks, answers) = (of("control_periods_dropped"), of("inferences_dropped"));
            view.line(&format!("recording  {ticks} control periods and {answers} inferences dropped"));
        }
        self.failed.take().map_or(Ok(()), |message| Err(CliError::Failed(message)))
    }
}

#[cfg(not(feature = "mcap"))]
impl Tape {
    pub(super) fn pump(&mut self, _: &View) {}

    pub(super) fn finish(&mut self, _: &mut ControlLoop, _: &mut InferenceLoop, _: &View) -> Result<(), CliError> {
        Ok(())
    }
}
