//! Rights of the control thread: first-in-first-out scheduling and locked memory, asked for and reported as granted.

/// What the machine granted the control thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealtimeRights {
    /// `SCHED_FIFO` with this priority, or why not.
    pub scheduling: Result<i32, String>,
    /// All memory locked, or why not.
    pub memory: Result<(), String>,
}

impl RealtimeRights {
    /// One line for a summary or for `doctor`.
    pub fn describe(&self) -> String {
        let scheduling = match &self.scheduling {
            Ok(priority) => format!("SCHED_FIFO {priority}"),
            Err(reason) => format!("ordinary scheduling ({reason})"),
        };
        let memory = match &self.memory {
            Ok(()) => "memory locked".to_owned(),
            Err(reason) => format!("memory not locked ({reason})"),
        };
        format!("{scheduling}, {memory}")
    }

    /// Whether everything was granted.
    pub fn is_granted(&self) -> bool {
        self.scheduling.is_ok() && self.memory.is_ok()
    }
}

/// The priority asked for: above ordinary interrupt threads' followers, below the kernel's own.
pub const PRIORITY: i32 = 80;

/// Asks for real-time rights for the calling thread (scheduling) and the process (memory).
#[cfg(target_os = "linux")]
pub fn request() -> RealtimeRights {
    let last_error = || std::io::Error::last_os_error().to_string();
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: plain system calls on values that live through the call; 0 is the calling thread.
    let (scheduling, memory) = unsafe {
        let scheduling = if libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) == 0 {
            Ok(PRIORITY)
        } else {
            Err(last_error())
        };
        let flags = libc::MCL_CURRENT | libc::MCL_FUTURE;
        (scheduling, if libc::mlockall(flags) == 0 { Ok(()) } else { Err(last_error()) })
    };
    RealtimeRights { scheduling, memory }
}

/// Asks for real-time rights: this platform has none to give.
#[cfg(not(target_os = "linux"))]
pub fn request() -> RealtimeRights {
    let reason = || "only Linux is supported".to_owned();
    RealtimeRights { scheduling: Err(reason()), memory: Err(reason()) }
}

/// Gives memory locking back, after a probe.
pub fn release() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes no argument and cannot fail in a way that matters here.
    unsafe {
        libc::munlockall();
    }
}
