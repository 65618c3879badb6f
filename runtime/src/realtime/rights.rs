//! What the control thread asks of the machine, and what it was granted.

use core::mem::MaybeUninit;
use endplate_hal::RealtimeSpec;
use serde::Serialize;

/// Stack touched in advance, so that the control loop never waits for a page of its own stack.
const PREFAULTED_STACK: usize = 256 * 1024;
/// Of which so much is kept at hand.
const WAITING_STACK: usize = 64 * 1024;
/// How exactly the kernel ends a wait, ns; the default is 50,000. It counts under ordinary scheduling only.
const TIMER_SLACK_NS: u64 = 1;

/// What the machine granted the control thread, beside what was asked. A reason stands where it was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealtimeRights {
    /// What was asked.
    pub asked: RealtimeSpec,
    /// `SCHED_FIFO` with this priority, as read back, or why not.
    pub scheduling: Result<i32, String>,
    /// All memory locked, or why not; `None` when it was not asked for.
    pub memory: Option<Result<(), String>>,
    /// The core pinned to, as read back, or why not; `None` when it was not asked for.
    pub cpu: Option<Result<u16, String>>,
    /// Timer slack in ns, or why it is not what was asked.
    pub timer_slack_ns: Result<u64, String>,
}

impl RealtimeRights {
    /// Nothing granted, for this reason.
    pub fn refused(asked: &RealtimeSpec, reason: &str) -> Self {
        Self {
            asked: *asked,
            scheduling: Err(reason.to_owned()),
            memory: asked.lock_memory.then(|| Err(reason.to_owned())),
            cpu: asked.cpu.map(|_| Err(reason.to_owned())),
            timer_slack_ns: Err(reason.to_owned()),
        }
    }

    /// One line for a summary or for `doctor`.
    pub fn describe(&self) -> String {
        let mut parts = vec![match &self.scheduling {
            Ok(priority) => format!("SCHED_FIFO {priority}"),
            Err(reason) => format!("ordinary scheduling, not SCHED_FIFO {} ({reason})", self.asked.priority),
        }];
        parts.push(match &self.memory {
            Some(Ok(())) => "memory locked".to_owned(),
            Some(Err(reason)) => format!("memory not locked ({reason})"),
            None => "memory not locked (not asked for)".to_owned(),
        });
        match (&self.cpu, self.asked.cpu) {
            (Some(Ok(cpu)), _) => parts.push(format!("on core {cpu}")),
            (Some(Err(reason)), Some(cpu)) => parts.push(format!("not pinned to core {cpu} ({reason})")),
            _ => parts.push("on any core".to_owned()),
        }
        match &self.timer_slack_ns {
            Ok(slack) => parts.push(format!("timer slack {slack} ns")),
            Err(reason) => parts.push(format!("timer slack as it was ({reason})")),
        }
        parts.join(", ")
    }

    /// Whether everything that was asked was granted. Timer slack does not count: it has no effect under `SCHED_FIFO`.
    pub fn is_granted(&self) -> bool {
        let granted = |part: Option<bool>| part.unwrap_or(true);
        self.scheduling.is_ok()
            && granted(self.memory.as_ref().map(Result::is_ok))
            && granted(self.cpu.as_ref().map(Result::is_ok))
    }

    /// Asked and granted, for the JSON of a run.
    pub fn report(&self) -> RightsReport {
        RightsReport {
            asked: Asked {
                policy: "SCHED_FIFO",
                priority: self.asked.priority,
                cpu: self.asked.cpu,
                lock_memory: self.asked.lock_memory,
                timer_slack_ns: TIMER_SLACK_NS,
            },
            granted: Granted {
                policy: if self.scheduling.is_ok() { "SCHED_FIFO" } else { "SCHED_OTHER" },
                priority: self.scheduling.as_ref().ok().copied(),
                cpu: self.cpu.as_ref().and_then(|cpu| cpu.as_ref().ok().copied()),
                memory_locked: matches!(self.memory, Some(Ok(()))),
                timer_slack_ns: self.timer_slack_ns.as_ref().ok().copied(),
            },
            all_granted: self.is_granted(),
            description: self.describe(),
        }
    }
}

/// Asked and granted, as the JSON of a run has it.
#[derive(Clone, Debug, Serialize)]
pub struct RightsReport {
    asked: Asked,
    granted: Granted,
    all_granted: bool,
    description: String,
}

#[derive(Clone, Debug, Serialize)]
struct Asked {
    policy: &'static str,
    priority: u8,
    cpu: Option<u16>,
    lock_memory: bool,
    timer_slack_ns: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Granted {
    policy: &'static str,
    priority: Option<i32>,
    cpu: Option<u16>,
    memory_locked: bool,
    timer_slack_ns: Option<u64>,
}

/// Asks for the calling thread (scheduling, core, timer slack, its stack) and the process (memory). Whatever is not
/// granted is left as it was.
pub fn request(asked: &RealtimeSpec) -> RealtimeRights {
    let rights = machine::request(asked);
    prefault_stack();
    rights
}

/// Asks on a thread of its own, to know before anything moves. Memory stays locked, as it will be.
pub fn probe(asked: &RealtimeSpec) -> RealtimeRights {
    std::thread::scope(|scope| scope.spawn(|| machine::request(asked)).join())
        .unwrap_or_else(|_| RealtimeRights::refused(asked, "the probe did not run"))
}

/// Touches every page of the stack the control loop may use.
fn prefault_stack() {
    touch::<PREFAULTED_STACK>();
}

/// Touches the stack that a thread which waits will go down to: its pages are at hand when it has something to do.
///
/// # Real-time
/// Does not allocate, lock or block.
pub fn touch_stack() {
    touch::<WAITING_STACK>();
}

#[inline(never)]
fn touch<const BYTES: usize>() {
    let mut stack = [const { MaybeUninit::<u8>::uninit() }; BYTES];
    for byte in stack.iter_mut().step_by(4096) {
        // SAFETY: writes through a valid exclusive reference; volatile so that the write stays.
        unsafe { core::ptr::write_volatile(byte.as_mut_ptr(), 1) };
    }
}

#[cfg(target_os = "linux")]
mod machine {
    use super::{RealtimeRights, RealtimeSpec, TIMER_SLACK_NS};
    use crate::realtime::pages::keep_memory;
    use std::io::Error;

    pub fn request(asked: &RealtimeSpec) -> RealtimeRights {
        RealtimeRights {
            asked: *asked,
            scheduling: fifo(i32::from(asked.priority)),
            memory: asked.lock_memory.then(lock_memory),
            cpu: asked.cpu.map(pin),
            timer_slack_ns: timer_slack(),
        }
    }

    fn check(result: libc::c_int) -> Result<libc::c_int, String> {
        if result < 0 { Err(Error::last_os_error().to_string()) } else { Ok(result) }
    }

    fn fifo(priority: i32) -> Result<i32, String> {
        let parameters = libc::sched_param { sched_priority: priority };
        let mut held = libc::sched_param { sched_priority: 0 };
        // SAFETY: plain system calls on values that live through the calls; 0 is the calling thread.
        unsafe {
            check(libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters))?;
            check(libc::sched_getparam(0, &mut held))?;
            match libc::sched_getscheduler(0) {
                libc::SCHED_FIFO => Ok(held.sched_priority),
                other => Err(format!("the kernel says scheduling policy {other} after granting SCHED_FIFO")),
            }
        }
    }

    fn lock_memory() -> Result<(), String> {
        // SAFETY: takes flags only.
        check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) })?;
        keep_memory();
        Ok(())
    }

    fn pin(cpu: u16) -> Result<u16, String> {
        // SAFETY: a zeroed set is an empty one; the index is checked against its size; 0 is the calling thread.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if usize::from(cpu) >= 8 * size_of::<libc::cpu_set_t>() {
                return Err("there is no such core".to_owned());
            }
            libc::CPU_SET(usize::from(cpu), &mut set);
            check(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set))?;
            let mut held: libc::cpu_set_t = std::mem::zeroed();
            check(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut held))?;
            if libc::CPU_COUNT(&held) == 1 && libc::CPU_ISSET(usize::from(cpu), &held) {
                Ok(cpu)
            } else {
                Err("the kernel holds another set of cores".to_owned())
            }
        }
    }

    fn timer_slack() -> Result<u64, String> {
        // SAFETY: takes numbers only.
        unsafe {
            check(libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK_NS as libc::c_ulong))?;
            check(libc::prctl(libc::PR_GET_TIMERSLACK)).map(|slack| slack as u64)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod machine {
    use super::{RealtimeRights, RealtimeSpec};

    pub fn request(asked: &RealtimeSpec) -> RealtimeRights {
        RealtimeRights::refused(asked, "only Linux is supported")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_granted_is_named_with_its_reason_and_leaves_the_rest() {
        let asked = RealtimeSpec { cpu: Some(1023), lock_memory: false, ..RealtimeSpec::default() };
        let rights = std::thread::spawn(move || request(&asked)).join().unwrap();
        assert!(matches!(&rights.cpu, Some(Err(_))), "core 1023 was granted: {rights:?}");
        assert!(!rights.is_granted());
        let words = rights.describe();
        assert!(words.contains("not pinned to core 1023") && words.contains("not asked for"), "{words}");
        let json = serde_json::to_value(rights.report()).unwrap();
        assert_eq!(json["asked"]["cpu"], 1023);
        assert!(json["granted"]["cpu"].is_null());
    }

    #[test]
    fn a_granted_core_is_read_back() {
        let rights = probe(&RealtimeSpec { cpu: Some(0), lock_memory: false, ..RealtimeSpec::default() });
        match &rights.cpu {
            Some(Ok(cpu)) => assert_eq!(*cpu, 0),
            other => eprintln!("core 0 is not ours to pin to: {other:?}"),
        }
    }
}
