//! In steady state neither the bus thread nor the control side of a bus allocates: joints read and goals written in every
//! period, on an emulator in another process, so that every call of the allocator here is the driver's.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use endplate_hal::{Arm, Clock, CommandMode, HeldCause, JointCommand, MonotonicClock, RobotSpec, SafetyFilter, robots};
use endplate_runtime::robot::BusArm;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Counts the calls of all threads while it is on.
struct Counting;

static IS_ON: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);

fn note() {
    if IS_ON.load(Ordering::Relaxed) {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: hands every call to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn description(make: &str) -> RobotSpec {
    let text = robots::SO101_EMULATED.replace("reply_timeout_ms = 15.0", "reply_timeout_ms = 60.0");
    let text = match make {
        "feetech" => text,
        _ => text
            .replace("driver = \"feetech\"", "driver = \"dynamixel\"\nwatchdog_ms = 2000.0")
            .replace("sts3215", "xl330-m288")
            .replace("min_voltage_v = 9.0", "min_voltage_v = 4.0"),
    };
    RobotSpec::from_toml_str(&text, make).unwrap()
}

/// One test: other tests of this file would be counted as well.
#[test]
fn a_bus_in_steady_state_allocates_nothing() {
    for make in ["feetech", "dynamixel"] {
        // One answer in a hundred is damaged, so that repeats are on the way as well.
        let mut child = Command::new(env!("CARGO_BIN_EXE_endplate"))
            .args(["sim", "--bus", make, "--corrupt", "0.01", "--noise", "0.01"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut path = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut path).unwrap();
        let _emulator = Emulator(child);
        let spec = description(make);
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let mut arm =
            BusArm::open(&spec.arms[0], &spec.joints, 0.25, Path::new(path.trim()), Arc::clone(&clock)).unwrap();
        let start = arm.read(clock.now()).unwrap();
        let mut filter = SafetyFilter::new(spec.safety_limits(), &start.position_rad).unwrap();
        arm.set_torque(clock.now(), true).unwrap();
        let report = arm.reporter();
        let (mut read, mut written) = (0, 0);
        for period in 0..400 {
            if period == 100 {
                (read, written) = (0, 0);
                CALLS.store(0, Ordering::Relaxed);
                IS_ON.store(true, Ordering::Relaxed);
            }
            let now = clock.now();
            let mut target = start.position_rad;
            target[0] += 0.2 * (f64::from(period) * 0.03).sin();
            let valid_until = now.saturating_add(Duration::from_millis(500));
            let (command, _) = match period % 50 {
                0 => filter.brake(now, HeldCause::Asked),
                _ => filter.filter(now, &JointCommand { mode: CommandMode::Position, target, valid_until }),
            };
            read += u32::from(arm.read(now).is_ok());
            written += u32::from(arm.write(now, &command).is_ok());
            clock.sleep_until(now.saturating_add(Duration::from_millis(10)));
        }
        IS_ON.store(false, Ordering::Relaxed);
        let calls = CALLS.load(Ordering::Relaxed);
        let report = report();
        assert!(read > 150 && written > 150 && report.goals > 100, "{make}: {read} read, {written} written");
        assert!(report.bus.retries > 0, "{make}: nothing was asked again");
        assert_eq!(calls, 0, "{make}: calls of the allocator in 300 periods");
    }
}
