//! `bench bus`: the whole driver on an emulated bus with a bad wire, under the control loop.
//!
//! Sine chunks run through the real control loop, filter and bus thread; the emulated servos know the truth, so that
//! every state the driver believes is compared with where the joints were.

use super::{BenchArguments, Row, rounded};
use crate::cli::error::CliError;
use core::time::Duration;
use endplate_hal::servo::Protocol;
use endplate_hal::{
    Arm, BusError, Clock, Instant, JointState, MonotonicClock, Robot, RobotSpec, SafeCommand, Sent, robots,
};
use endplate_policies::{ActionChunk, Anchor, Epoch, Interpolation, Stages};
use endplate_runtime::robot::BusArm;
use endplate_runtime::{ControlLoop, ControlSnapshot, Inbox, PlayRules, Samples};
use endplate_sim::bus::{BusFaults, BusOptions, EmulatedBus, FreeJoints, Make, Plant};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};

const JOINTS: usize = 6;
const ROWS: usize = 32;
const ROW: Duration = Duration::from_millis(50);
/// Bus and control rate.
const RATE_HZ: f64 = 200.0;

/// The joints, shared with who compares.
#[derive(Clone)]
struct Truth(Arc<Mutex<FreeJoints>>);

impl Truth {
    fn with<T>(&self, look: impl FnOnce(&mut FreeJoints) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Plant for Truth {
    fn advance(&mut self) {
        self.with(FreeJoints::advance);
    }

    fn state(&self, joint: usize) -> (f64, f64) {
        self.with(|joints| joints.state(joint))
    }

    fn set_goal(&mut self, joint: usize, goal_rad: f64) {
        self.with(|joints| joints.set_goal(joint, goal_rad));
    }

    fn set_torque(&mut self, joint: usize, on: bool) {
        self.with(|joints| joints.set_torque(joint, on));
    }
}

/// Compares every state that is believed with the truth.
struct Witness {
    arm: BusArm,
    truth: Truth,
    last: Option<JointState>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    states: u64,
    worst_rad: f64,
    /// Believed although further from the state before than the gate allows.
    outside: u64,
}

impl Arm for Witness {
    fn joints(&self) -> usize {
        self.arm.joints()
    }

    fn read(&mut self, now: Instant) -> Result<JointState, BusError> {
        let state = self.arm.read(now)?;
        if self.last.is_none_or(|last| last.stamp != state.stamp) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.states += 1;
            for joint in 0..JOINTS {
                let (truth, _) = self.truth.state(joint);
                seen.worst_rad = seen.worst_rad.max((state.position_rad[joint] - truth).abs());
                if let Some(last) = self.last {
                    let span = state.stamp.duration_since(last.stamp).as_secs_f64();
                    let step = (state.position_rad[joint] - last.position_rad[joint]).abs();
                    seen.outside += u64::from(step > 4.0 * span + 0.25);
                }
            }
            self.last = Some(state);
        }
        Ok(state)
    }

    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError> {
        self.arm.write(now, command)
    }

    fn set_torque(&mut self, now: Instant, on: bool) -> Result<(), BusError> {
        self.arm.set_torque(now, on)
    }
}

/// A row for each make.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let faults = BusFaults { corrupt: arguments.corrupt, drop: arguments.drop, ..BusFaults::default() };
    let seconds = arguments.seconds.unwrap_or(600.0);
    if !(1.0..=86_400.0).contains(&seconds) || !(0.0..=1.0).contains(&(faults.corrupt + faults.drop)) {
        return Err(CliError::Input("--seconds from 1 on; --corrupt and --drop are shares from 0 to 1".to_owned()));
    }
    let makes = [(Make::Feetech, Protocol::Feetech), (Make::Dynamixel, Protocol::Dynamixel)];
    makes.into_iter().map(|(make, protocol)| measure(make, protocol, &faults, seconds)).collect()
}

fn description(protocol: Protocol) -> Result<RobotSpec, CliError> {
    let text = robots::SO101_EMULATED
        .replace("rate_hz = 100.0", &format!("rate_hz = {RATE_HZ:.1}"))
        .replace("reply_timeout_ms = 15.0", "reply_timeout_ms = 3.0");
    let text = match protocol {
        Protocol::Feetech => text,
        // An XL330 runs on 5 V; its bus watchdog guards it.
        Protocol::Dynamixel => text
            .replace("driver = \"feetech\"", "driver = \"dynamixel\"\nwatchdog_ms = 1000.0")
            .replace("sts3215", "xl330-m288")
            .replace("min_voltage_v = 9.0", "min_voltage_v = 4.0"),
    };
    RobotSpec::from_toml_str(&text, "so101_emulated").map_err(CliError::input)
}

fn measure(make: Make, protocol: Protocol, faults: &BusFaults, seconds: f64) -> Result<Row, CliError> {
    let mut spec = description(protocol)?;
    spec.cameras.clear();
    let truth = Truth(Arc::new(Mutex::new(FreeJoints::new(JOINTS, 4.6))));
    truth.with(|joints| joints.place(2, 1.0));
    let emulator =
        EmulatedBus::start(BusOptions::new(make, JOINTS), Box::new(truth.clone())).map_err(CliError::failed)?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let margin = spec.control.implausible_margin_rad;
    let arm = BusArm::open(&spec.arms[0], &spec.joints, margin, emulator.path(), Arc::clone(&clock))
        .map_err(CliError::failed)?;
    let report = arm.reporter();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let witness = Witness { arm, truth, last: None, seen: Arc::clone(&seen) };
    let robot = Robot::new(vec![Box::new(witness)]).map_err(CliError::failed)?;
    let rules = PlayRules {
        interpolation: vec![Interpolation::Smooth; JOINTS],
        execute_rows: ROWS / 2,
        max_age: spec.control.max_chunk_age,
    };
    let period = spec.control.period;
    let mut control = ControlLoop::new(spec, robot, rules).map_err(CliError::failed)?;
    control.configure(clock.now()).map_err(CliError::failed)?;
    control.activate(clock.now(), Epoch(1)).map_err(CliError::failed)?;
    emulator.set_faults(faults.clone());
    let begin = clock.now();
    let before = report();
    let mut snapshot = ControlSnapshot::new();
    let mut chunk = ActionChunk::new(ROWS, JOINTS);
    let mut lateness = Samples::with_capacity((seconds * RATE_HZ) as usize + 1000);
    let mut deadline = begin;
    let mut fresh = false;
    while clock.now().duration_since(begin).as_secs_f64() < seconds {
        deadline = deadline.saturating_add(period);
        clock.sleep_until(deadline);
        let now = clock.now();
        let late = now.duration_since(deadline);
        lateness.record(late);
        let missed = u64::try_from(late.as_nanos() / period.as_nanos()).unwrap_or(0);
        deadline = deadline.saturating_add(period * missed as u32);
        let inbox = Inbox {
            chunk: fresh.then_some(&chunk),
            cameras: &[],
            refused_in_a_row: 0,
            epoch: Epoch(1),
            estop: false,
            missed,
        };
        control.tick(now, &inbox);
        control.snapshot(now, &mut snapshot);
        fresh = snapshot.wants_chunk;
        if fresh {
            fill(&mut chunk, &snapshot, now);
        }
    }
    let after = report();
    let bus = emulator.counts();
    let reads = after.reads.percentiles(Duration::from_micros(1));
    let wire_us = after.read_wire.as_secs_f64() * 1e6;
    let counts = control.counts();
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut row = Row::new();
    let mut put = |key: &str, value: serde_json::Value| drop(row.insert(key.to_owned(), value));
    put("what", json!(format!("{protocol:?} {JOINTS}x{RATE_HZ} Hz ")));
    put("seconds", json!(seconds));
    put("corrupt_share", json!(faults.corrupt));
    put("drop_share", json!(faults.drop));
    put("bus_periods", json!(after.periods - before.periods));
    put("answers_made", json!(bus.answers));
    put("answers_corrupted", json!(bus.corrupted));
    put("answers_dropped", json!(bus.dropped));
    put("checksum_escapes", json!(bus.escapes));
    put("driver_answers", json!(after.bus.answers));
    put("driver_damaged", json!(after.bus.damaged));
    put("driver_missing", json!(after.bus.timeouts));
    put("driver_foreign", json!(after.bus.foreign));
    put("driver_retries", json!(after.bus.retries));
    put("driver_garbage_bytes", json!(after.bus.garbage_bytes));
    put("driver_implausible", json!(after.servos.implausible));
    put("driver_watchdog_trips", json!(after.servos.watchdog_trips));
    put("driver_unhealthy", json!(after.servos.unhealthy));
    put("driver_alarms", json!(after.bus.alarms));
    put("periods_without_state", json!(after.failed_reads));
    put("states_believed", json!(seen.states));
    put("believed_outside_gate", json!(seen.outside));
    put("worst_believed_error_rad", json!(rounded(seen.worst_rad)));
    put("gate_rad", json!(0.25 + 4.0 / RATE_HZ));
    put("wire_us", json!(rounded(wire_us)));
    if let Some(reads) = reads {
        put("read_p50_us", json!(rounded(reads.p50)));
        put("read_p99_us", json!(rounded(reads.p99)));
        put("read_max_us", json!(rounded(reads.max)));
        put("read_p99_over_wire", json!(rounded(reads.p99 / wire_us)));
    }
    put("ladder", serde_json::to_value(counts.ladder).unwrap_or_default());
    put("causes", json!(counts.causes.by_name()));
    put("limited", json!(counts.limited));
    Ok(row)
}

/// Slow sines of motion time around the pose the arm starts from.
fn fill(chunk: &mut ActionChunk, snapshot: &ControlSnapshot, now: Instant) {
    let motion = snapshot.motion_at(now).unwrap_or_default();
    for (row, values) in chunk.rows_mut().chunks_exact_mut(JOINTS).enumerate() {
        let time = motion.as_nanos() as f64 * 1e-9 + row as f64 * ROW.as_secs_f64();
        for (joint, value) in values.iter_mut().enumerate() {
            let centre = if joint == 2 { 1.0 } else { 0.0 };
            *value = centre + 0.4 * (0.5 * time * (1.0 + 0.1 * joint as f64)).sin();
        }
    }
    let anchor = Anchor { motion, captured: now };
    chunk.set(ROW, anchor, Epoch(1), None, Stages::default());
}
