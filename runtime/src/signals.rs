//! The signals that ask a run to end: the first one for a controlled stop, the second one at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether this process was asked to stop.
#[derive(Clone, Debug, Default)]
pub struct StopRequest {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl StopRequest {
    /// Listens to `SIGINT` and `SIGTERM`. The first asks for a stop; one more of either ends the process at once with
    /// exit code 128 + its number, and whatever the arm was sent last stays its goal.
    ///
    /// # Errors
    /// The handlers could not be installed.
    pub fn listen() -> std::io::Result<Self> {
        let request = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag set by the first.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&request.asked))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&request.signal), signal as usize)?;
            signal_hook::flag::register(signal, Arc::clone(&request.asked))?;
        }
        Ok(request)
    }

    /// The flag, for the control loop: its e-stop.
    pub fn flag(&self) -> &AtomicBool {
        &self.asked
    }

    /// Whether a stop was asked for.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// The signal that asked.
    pub fn signal(&self) -> Option<&'static str> {
        match i32::try_from(self.signal.load(Ordering::Acquire)) {
            Ok(SIGINT) => Some("SIGINT"),
            Ok(SIGTERM) => Some("SIGTERM"),
            _ => None,
        }
    }
}
