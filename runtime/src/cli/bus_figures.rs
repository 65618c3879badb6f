//! What servo buses did, for `run --json`.

use core::time::Duration;
use endplate_hal::JointSpec;
use endplate_runtime::Percentiles;
use endplate_runtime::robot::BusReport;
use serde::Serialize;

/// One bus.
#[derive(Clone, Debug, Serialize)]
pub struct BusFigures {
    arm: String,
    periods: u64,
    periods_without_state: u64,
    goals: u64,
    goals_expired: u64,
    silences: u64,
    unplugged: u64,
    replugged: u64,
    /// Time of one read of all servos.
    read_us: Option<Percentiles>,
    /// What such a read needs on the wire.
    read_wire_us: f64,
    requests: u64,
    answers: u64,
    retries: u64,
    answers_missing: u64,
    checksum_errors: u64,
    answers_foreign: u64,
    answers_refused: u64,
    garbage_bytes: u64,
    alarms: u64,
    implausible: u64,
    health_faults: u64,
    watchdog_trips: u64,
    servos: Vec<ServoFigures>,
}

/// One servo: what it said last, and the extremes of what it said while the run lasted.
#[derive(Clone, Debug, Serialize)]
pub struct ServoFigures {
    joint: String,
    voltage_v: f64,
    lowest_voltage_v: f64,
    temperature_c: f64,
    highest_temperature_c: f64,
    load: f64,
    largest_load: f64,
    current_a: f64,
    alarms: u8,
}

impl BusFigures {
    /// Of one arm's bus.
    pub fn new(arm: &str, report: &BusReport, joints: &[JointSpec]) -> Self {
        let servos = report.health.iter().zip(&report.extremes).zip(joints.iter().filter(|joint| joint.arm == arm));
        Self {
            arm: arm.to_owned(),
            periods: report.periods,
            periods_without_state: report.failed_reads,
            goals: report.goals,
            goals_expired: report.expired,
            silences: report.silences,
            unplugged: report.unplugged,
            replugged: report.replugged,
            read_us: report.reads.percentiles(Duration::from_micros(1)),
            read_wire_us: report.read_wire.as_secs_f64() * 1e6,
            requests: report.bus.requests,
            answers: report.bus.answers,
            retries: report.bus.retries,
            answers_missing: report.bus.timeouts,
            checksum_errors: report.bus.damaged,
            answers_foreign: report.bus.foreign,
            answers_refused: report.bus.refused,
            garbage_bytes: report.bus.garbage_bytes,
            alarms: report.bus.alarms,
            implausible: report.servos.implausible,
            health_faults: report.servos.unhealthy,
            watchdog_trips: report.servos.watchdog_trips,
            servos: servos
                .map(|((health, extremes), joint)| ServoFigures {
                    joint: joint.name.clone(),
                    voltage_v: health.voltage_v,
                    lowest_voltage_v: extremes.lowest_voltage_v,
                    temperature_c: health.temperature_c,
                    highest_temperature_c: extremes.highest_temperature_c,
                    load: health.load,
                    largest_load: extremes.largest_load,
                    current_a: health.current_a,
                    alarms: health.alarms,
                })
                .collect(),
        }
    }
}
