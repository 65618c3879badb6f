//! What a run measures: latency samples, ladder counts, fault counts, the digest of every command.

mod budget;
mod histogram;

pub use budget::{
    BUDGET_STAGES, BudgetAccount, BudgetReport, CommandStamps, Provenance, StampReader, StampWriter, stamp_ring,
};
pub use histogram::{WINDOW, Windowed};

use core::time::Duration;
use endplate_hal::{Instant, SafeCommand};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The rung of the failure ladder a control period was spent on.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// A chunk's rows inside its planned share.
    Fresh,
    /// An old chunk's rows because the next chunk is late.
    Continued,
    /// Braking under the jerk and acceleration limits.
    Decelerated,
    /// At rest, torque on.
    Held,
    /// At rest behind a latched fault or an e-stop.
    Stopped,
    /// Beside the ladder: going to a pose the operator asked for, with every step down the ladder open.
    Posed,
}

/// Control periods spent on each rung; sums to the commands sent.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LadderCounts {
    /// See [`Rung::Fresh`].
    pub fresh: u64,
    /// See [`Rung::Continued`].
    pub continued: u64,
    /// See [`Rung::Posed`].
    pub posed: u64,
    /// See [`Rung::Decelerated`].
    pub decelerated: u64,
    /// See [`Rung::Held`].
    pub held: u64,
    /// See [`Rung::Stopped`].
    pub stopped: u64,
}

impl LadderCounts {
    /// Counts one period.
    pub fn count(&mut self, rung: Rung) {
        *match rung {
            Rung::Fresh => &mut self.fresh,
            Rung::Continued => &mut self.continued,
            Rung::Posed => &mut self.posed,
            Rung::Decelerated => &mut self.decelerated,
            Rung::Held => &mut self.held,
            Rung::Stopped => &mut self.stopped,
        } += 1;
    }

    /// All periods counted.
    pub fn total(&self) -> u64 {
        self.fresh + self.continued + self.posed + self.decelerated + self.held + self.stopped
    }
}

/// Why a step down the ladder was taken, or a chunk refused. The names are those of the JSON and of the log.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The next chunk did not arrive inside the deadline.
    ChunkLate,
    /// The chunk ran out of rows before the next arrived.
    NoRows,
    /// A camera's newest frame is older than its `max_age`, or the camera gives no frames.
    CameraStale,
    /// A camera stamped its frame into the future.
    CameraFutureStamp,
    /// The cameras' frames lie further apart than the policy allows.
    CameraSkew,
    /// The policy's output was refused: not finite, out of range or undecodable.
    OutputRefused,
    /// The policy could not finish inside its budget.
    BudgetExceeded,
    /// The policy failed otherwise.
    PolicyFailed,
    /// A chunk asked before a reset.
    ChunkEpoch,
    /// A chunk whose capture lies too far back.
    ChunkStale,
    /// Reading the joints failed.
    StateRead,
    /// The joint state is older than `state_max_age`.
    StateStale,
    /// A measured step that no joint can make.
    StateImplausible,
    /// Commanded and measured positions too far apart.
    TrackingError,
    /// A write failed.
    WriteFailed,
    /// Writes failed `write_failures` periods in a row: latched.
    BusLost,
    /// The control loop woke late by a whole period or more.
    Overrun,
    /// The instruction changed.
    InstructionChange,
    /// E-stop.
    Estop,
    /// The joint state could not be found at a frame's capture time.
    StateHistory,
    /// A device's stamps stepped: into the future, or back.
    ClockStep,
    /// A servo is beyond a declared threshold of temperature, load or voltage, or raises an alarm.
    ServoFault,
    /// The operator is in charge: paused, going to a pose, or released.
    Operator,
}

impl Cause {
    /// Every cause, in the order of their numbers.
    pub const ALL: [Self; 23] = [
        Self::ChunkLate,
        Self::NoRows,
        Self::CameraStale,
        Self::CameraFutureStamp,
        Self::CameraSkew,
        Self::OutputRefused,
        Self::BudgetExceeded,
        Self::PolicyFailed,
        Self::ChunkEpoch,
        Self::ChunkStale,
        Self::StateRead,
        Self::StateStale,
        Self::StateImplausible,
        Self::TrackingError,
        Self::WriteFailed,
        Self::BusLost,
        Self::Overrun,
        Self::InstructionChange,
        Self::Estop,
        Self::StateHistory,
        Self::ClockStep,
        Self::ServoFault,
        Self::Operator,
    ];

    /// The name used in JSON and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChunkLate => "chunk_late",
            Self::NoRows => "no_rows",
            Self::CameraStale => "camera_stale",
            Self::CameraFutureStamp => "camera_future_stamp",
            Self::CameraSkew => "camera_skew",
            Self::OutputRefused => "output_refused",
            Self::BudgetExceeded => "budget_exceeded",
            Self::PolicyFailed => "policy_failed",
            Self::ChunkEpoch => "chunk_epoch",
            Self::ChunkStale => "chunk_stale",
            Self::StateRead => "state_read",
            Self::StateStale => "state_stale",
            Self::StateImplausible => "state_implausible",
            Self::TrackingError => "tracking_error",
            Self::WriteFailed => "write_failed",
            Self::BusLost => "bus_lost",
            Self::Overrun => "overrun",
            Self::InstructionChange => "instruction_change",
            Self::Estop => "estop",
            Self::StateHistory => "state_history",
            Self::ClockStep => "clock_step",
            Self::ServoFault => "servo_fault",
            Self::Operator => "operator",
        }
    }
}

/// How often each cause occurred.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct CauseCounts([u64; Cause::ALL.len()]);

impl CauseCounts {
    /// Counts one occurrence.
    pub fn count(&mut self, cause: Cause) {
        self.0[cause as usize] += 1;
    }

    /// Occurrences of a cause.
    pub fn of(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }

    /// Occurrences of all causes.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// The causes that occurred, by name.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        Cause::ALL.iter().filter(|&&cause| self.of(cause) > 0).map(|&cause| (cause.name(), self.of(cause))).collect()
    }
}

/// Quantiles of a set of spans.
#[derive(Copy, Clone, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 99 % quantile.
    pub p99: f64,
    /// 99.9 % quantile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

/// Spans, kept whole in preallocated room so that quantiles are exact; what no longer fits is counted.
#[derive(Clone, Debug)]
pub struct Samples {
    nanos: Vec<u64>,
    dropped: u64,
}

impl Samples {
    /// Room for `capacity` spans.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { nanos: Vec::with_capacity(capacity), dropped: 0 }
    }

    /// Records a span.
    ///
    /// # Real-time
    /// Does not allocate.
    pub fn record(&mut self, span: Duration) {
        if self.nanos.len() < self.nanos.capacity() {
            self.nanos.push(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        } else {
            self.dropped += 1;
        }
    }

    /// Spans recorded.
    pub fn len(&self) -> usize {
        self.nanos.len()
    }

    /// Whether nothing has been recorded.
    pub fn is_empty(&self) -> bool {
        self.nanos.is_empty()
    }

    /// Spans that no longer fitted.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Every span in units of `unit`, in the order of recording.
    pub fn spans(&self, unit: Duration) -> impl Iterator<Item = f64> {
        self.nanos.iter().map(move |nanos| *nanos as f64 / unit.as_nanos() as f64)
    }

    /// Sum of all spans.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos.iter().sum())
    }

    /// Quantiles in units of `unit` (nearest rank), or `None` when nothing was recorded.
    pub fn percentiles(&self, unit: Duration) -> Option<Percentiles> {
        let mut sorted = self.nanos.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let scale = unit.as_nanos() as f64;
        let at = |share: f64| sorted[((last as f64 * share).round() as usize).min(last)] as f64 / scale;
        Some(Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) })
    }

    /// Appends the samples of another.
    pub fn extend(&mut self, other: &Self) {
        self.nanos.extend_from_slice(&other.nanos);
        self.dropped += other.dropped;
    }
}

/// SHA-256 over every command sent: the tick's instant as u64 little-endian nanoseconds, then D × f64 positions.
#[derive(Clone)]
pub struct CommandDigest(Sha256);

impl Default for CommandDigest {
    fn default() -> Self {
        Self(Sha256::new())
    }
}

impl CommandDigest {
    /// Adds a command sent at `now`.
    ///
    /// # Real-time
    /// Does not allocate.
    pub fn add(&mut self, now: Instant, command: &SafeCommand) {
        self.0.update(now.as_nanos().to_le_bytes());
        for position in command.position_rad() {
            self.0.update(position.to_le_bytes());
        }
    }

    /// The digest so far, in hexadecimal.
    pub fn hex(&self) -> String {
        self.0.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_and_overflow_is_counted() {
        let mut samples = Samples::with_capacity(100);
        assert_eq!(samples.percentiles(Duration::from_micros(1)), None);
        for micros in 1..=101 {
            samples.record(Duration::from_micros(micros));
        }
        let p = samples.percentiles(Duration::from_micros(1)).unwrap();
        assert_eq!((p.p50, p.max, samples.dropped()), (51.0, 100.0, 1));
    }

    #[test]
    fn causes_are_numbered_as_listed_and_named_once() {
        for (number, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, number);
        }
        let names: std::collections::BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
    }
}
