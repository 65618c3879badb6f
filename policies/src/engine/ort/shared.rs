//! A session of ONNX Runtime that several bindings run on: one for each number of rows, all over the same weights.

use std::sync::{Arc, Mutex, PoisonError};

use ort::session::{IoBinding, RunOptions, Session as Runtime};

/// The run option that says which recorded graph a run is.
const GRAPH_ID: &str = "gpu_graph_id";

/// One of the holders of a session.
pub(super) struct Shared {
    runtime: Arc<Mutex<Runtime>>,
    /// Where runs are recorded, which recording is this holder's.
    options: Option<RunOptions>,
}

impl Shared {
    /// The only holder.
    pub(super) fn alone(runtime: Runtime) -> Self {
        Self { runtime: Arc::new(Mutex::new(runtime)), options: None }
    }

    /// Another holder; `recording` is the number, above 0, of its own recorded runs: ONNX Runtime records one of each number
    /// and never compares shapes.
    pub(super) fn again(&self, recording: Option<usize>) -> Result<Self, ort::Error> {
        let options = match recording {
            None => None,
            Some(number) => {
                let mut options = RunOptions::new()?;
                options.set(GRAPH_ID, number.to_string())?;
                Some(options)
            }
        };
        Ok(Self { runtime: Arc::clone(&self.runtime), options })
    }

    /// Runs it. Holders are on one thread: the lock is free.
    pub(super) fn run(&self, binding: &IoBinding) -> Result<(), ort::Error> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.options {
            None => runtime.run_binding(binding).map(drop),
            Some(options) => runtime.run_binding_with_options(binding, options).map(drop),
        }
    }

    /// Calls `look` with the session.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Runtime) -> T) -> T {
        look(&self.runtime.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
