//! The signals that ask a run to end: the first one for a controlled stop, the second one at once; a terminal that hangs
//! up for a controlled stop.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
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
    /// `SIGHUP` asks for a stop too, as a terminal that hangs up would end the process without one; any number of them,
    /// since a shell sends one and the kernel another. Where it is ignored already (`nohup`) it stays ignored.
    ///
    /// # Errors
    /// The handlers could not be installed.
    pub fn listen() -> std::io::Result<Self> {
        let request = Self::default();
        let once = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag set by the first.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&once))?;
            signal_hook::flag::register(signal, Arc::clone(&once))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&request.signal), signal as usize)?;
            signal_hook::flag::register(signal, Arc::clone(&request.asked))?;
        }
        if !is_ignored(SIGHUP)? {
            signal_hook::flag::register_usize(SIGHUP, Arc::clone(&request.signal), SIGHUP as usize)?;
            signal_hook::flag::register(SIGHUP, Arc::clone(&request.asked))?;
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
            Ok(SIGHUP) => Some("SIGHUP"),
            _ => None,
        }
    }
}

/// Whether this process was started with the signal ignored.
fn is_ignored(signal: core::ffi::c_int) -> std::io::Result<bool> {
    let mut action = core::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no action is set; the present one is written to memory that is ours and of its type.
    if unsafe { libc::sigaction(signal, core::ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: zeroed before, and written by the call.
    Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN)
}
