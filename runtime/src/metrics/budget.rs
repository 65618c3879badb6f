//! Budget accounting: when each command's data went through what.
//!
//! capture → available → observed → inferred → scheduled → sent. The control loop says where a command comes from
//! ([`Provenance`]), its driver adds when it woke and when the command had been sent and pushes one
//! [`CommandStamps`] into a bounded ring; whoever reads the ring keeps the account.

use super::histogram::{WINDOW, Windowed};
use super::{LadderCounts, Percentiles, Rung};
use crate::control::Tick;
use core::time::Duration;
use endplate_hal::Instant;
use endplate_policies::Trace;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a command comes from.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The frame, and when it was observed and answered.
    pub trace: Trace,
    /// When the scheduler took the answer over.
    pub scheduled: Instant,
}

/// The stamps of one control period.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct CommandStamps {
    /// When the period was meant to begin.
    pub due: Instant,
    /// When it began.
    pub woke: Instant,
    /// When its command had been sent.
    pub sent: Instant,
    /// Periods missed before it.
    pub missed: u64,
    /// The rung of its command.
    pub rung: Rung,
    /// Where its command comes from; `None` while braking, holding or stopped.
    pub provenance: Option<Provenance>,
    /// Whether it is the first command that follows from its chunk.
    pub is_first: bool,
}

impl CommandStamps {
    /// The stamps of a period that made `tick`.
    pub fn of(tick: &Tick, due: Instant, woke: Instant, sent: Instant, missed: u64) -> Self {
        let is_first = tick.camera_to_command.is_some();
        Self { due, woke, sent, missed, rung: tick.rung, provenance: tick.provenance, is_first }
    }
}

/// The control thread's end of the ring.
pub struct StampWriter {
    ring: rtrb::Producer<CommandStamps>,
    lost: Arc<AtomicU64>,
}

/// The reading end.
pub struct StampReader {
    ring: rtrb::Consumer<CommandStamps>,
    lost: Arc<AtomicU64>,
    told: u64,
}

/// A ring for the stamps of `capacity` periods.
pub fn stamp_ring(capacity: usize) -> (StampWriter, StampReader) {
    let (writer, reader) = rtrb::RingBuffer::new(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    (StampWriter { ring: writer, lost: Arc::clone(&lost) }, StampReader { ring: reader, lost, told: 0 })
}

impl StampWriter {
    /// Hands a period over; one that no longer fits is counted.
    ///
    /// # Real-time
    /// Does not allocate, lock or wait.
    pub fn push(&mut self, stamps: CommandStamps) {
        if self.ring.push(stamps).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl StampReader {
    /// The oldest period that has arrived, for a reader that keeps its own account.
    pub fn pop(&mut self) -> Option<CommandStamps> {
        self.ring.pop().ok()
    }

    /// Enters everything that has arrived into an account.
    pub fn drain(&mut self, account: &mut BudgetAccount) {
        while let Ok(stamps) = self.ring.pop() {
            account.enter(&stamps);
        }
        let lost = self.lost.load(Ordering::Relaxed);
        account.lost(lost - self.told);
        self.told = lost;
    }
}

/// Names of the stages, each from the one before (the first from the capture).
pub const BUDGET_STAGES: [&str; 5] = ["available", "observed", "inferred", "scheduled", "sent"];

/// The account of a run.
#[derive(Clone, Debug)]
pub struct BudgetAccount {
    deadline: Duration,
    stages: [Windowed; BUDGET_STAGES.len()],
    capture_to_command: Windowed,
    age: Windowed,
    lateness: Windowed,
    period: Windowed,
    ladder: LadderCounts,
    commands: u64,
    with_frame: u64,
    overruns: u64,
    deadline_misses: u64,
    beyond_deadline: u64,
    unaccounted: u64,
    newest: Option<CommandStamps>,
}

impl BudgetAccount {
    /// An empty account under a deadline from capture to command.
    pub fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            stages: std::array::from_fn(|_| Windowed::new()),
            capture_to_command: Windowed::new(),
            age: Windowed::new(),
            lateness: Windowed::new(),
            period: Windowed::new(),
            ladder: LadderCounts::default(),
            commands: 0,
            with_frame: 0,
            overruns: 0,
            deadline_misses: 0,
            beyond_deadline: 0,
            unaccounted: 0,
            newest: None,
        }
    }

    /// Enters one period.
    ///
    /// # Real-time
    /// Does not allocate.
    pub fn enter(&mut self, stamps: &CommandStamps) {
        let CommandStamps { due, woke, sent, missed, rung, provenance, is_first } = *stamps;
        self.commands += 1;
        self.overruns += missed;
        self.ladder.count(rung);
        self.lateness.record(sent, woke.duration_since(due));
        self.period.record(sent, sent.duration_since(woke));
        self.newest = Some(*stamps);
        let Some(Provenance { trace, scheduled }) = provenance else { return };
        self.with_frame += 1;
        let age = sent.duration_since(trace.frame.captured);
        self.age.record(sent, age);
        self.beyond_deadline += u64::from(age > self.deadline);
        if is_first {
            let stamps = [trace.frame.captured, trace.frame.available, trace.observed, trace.inferred, scheduled, sent];
            for (stage, pair) in self.stages.iter_mut().zip(stamps.windows(2)) {
                stage.record(sent, pair[1].duration_since(pair[0]));
            }
            self.capture_to_command.record(sent, age);
            self.deadline_misses += u64::from(age > self.deadline);
        }
    }

    /// Periods whose stamps no longer fitted the ring.
    pub fn lost(&mut self, count: u64) {
        self.unaccounted += count;
    }

    /// Stages by name, each from the one before.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, &Windowed)> {
        BUDGET_STAGES.into_iter().zip(&self.stages)
    }

    /// Capture to the first command of each chunk.
    pub fn capture_to_command(&self) -> &Windowed {
        &self.capture_to_command
    }

    /// Age of the information behind every command that follows from a frame.
    pub fn age(&self) -> &Windowed {
        &self.age
    }

    /// How late each period began.
    pub fn lateness(&self) -> &Windowed {
        &self.lateness
    }

    /// From the beginning of a period to its command sent.
    pub fn period(&self) -> &Windowed {
        &self.period
    }

    /// Periods by rung.
    pub fn ladder(&self) -> &LadderCounts {
        &self.ladder
    }

    /// The newest period.
    pub fn newest(&self) -> Option<&CommandStamps> {
        self.newest.as_ref()
    }

    /// Counters by name.
    pub fn counters(&self) -> [(&'static str, u64); 6] {
        [
            ("commands", self.commands),
            ("commands_from_a_frame", self.with_frame),
            ("overruns", self.overruns),
            ("deadline_misses", self.deadline_misses),
            ("commands_older_than_deadline", self.beyond_deadline),
            ("commands_unaccounted", self.unaccounted),
        ]
    }

    /// The account as the JSON of a run has it.
    pub fn report(&self) -> BudgetReport {
        let ms = Duration::from_millis(1);
        let us = Duration::from_micros(1);
        let spans = |of: fn(&Windowed, Duration) -> Option<Percentiles>| Spans {
            stages_ms: self.stages().filter_map(|(name, spans)| Some((name, of(spans, ms)?))).collect(),
            capture_to_command_ms: of(&self.capture_to_command, ms),
            age_ms: of(&self.age, ms),
            period_us: of(&self.period, us),
            lateness_us: of(&self.lateness, us),
        };
        BudgetReport {
            deadline_ms: self.deadline.as_secs_f64() * 1e3,
            counters: self.counters().into(),
            whole: spans(Windowed::whole),
            window_s: WINDOW.as_secs_f64(),
            window: spans(Windowed::window),
        }
    }
}

/// The account as the JSON of a run has it.
#[derive(Clone, Debug, Serialize)]
pub struct BudgetReport {
    deadline_ms: f64,
    #[serde(flatten)]
    counters: BTreeMap<&'static str, u64>,
    #[serde(flatten)]
    whole: Spans,
    window_s: f64,
    window: Spans,
}

#[derive(Clone, Debug, Serialize)]
struct Spans {
    stages_ms: BTreeMap<&'static str, Percentiles>,
    capture_to_command_ms: Option<Percentiles>,
    age_ms: Option<Percentiles>,
    period_us: Option<Percentiles>,
    lateness_us: Option<Percentiles>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use endplate_hal::FrameStamp;

    fn ms(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn stamps(at: u64, provenance: Option<Provenance>, is_first: bool) -> CommandStamps {
        let rung = if provenance.is_some() { Rung::Fresh } else { Rung::Held };
        CommandStamps { due: ms(at), woke: ms(at), sent: ms(at + 1), missed: 0, rung, provenance, is_first }
    }

    #[test]
    fn periods_that_no_longer_fit_the_ring_are_counted_once() {
        let (mut writer, mut reader) = stamp_ring(2);
        for at in 0..5 {
            writer.push(stamps(at, None, false));
        }
        let mut account = BudgetAccount::new(Duration::from_millis(95));
        reader.drain(&mut account);
        reader.drain(&mut account);
        let counters: BTreeMap<_, _> = account.counters().into();
        assert_eq!((counters["commands"], counters["commands_unaccounted"]), (2, 3));
    }

    #[test]
    fn the_stages_of_a_first_command_add_up_and_every_command_has_an_age() {
        let frame = FrameStamp { camera: 1, sequence: 7, captured: ms(100), available: ms(120) };
        let trace = Trace { frame, observed: ms(125), inferred: ms(185) };
        let provenance = Some(Provenance { trace, scheduled: ms(190) });
        let mut account = BudgetAccount::new(Duration::from_millis(95));
        account.enter(&stamps(180, None, false));
        account.enter(&stamps(190, provenance, true));
        account.enter(&stamps(200, provenance, false));
        let unit = Duration::from_millis(1);
        let stage: Vec<f64> = account.stages().map(|(_, spans)| spans.whole(unit).unwrap().max.round()).collect();
        assert_eq!(stage, [20.0, 5.0, 60.0, 5.0, 1.0]);
        assert_eq!(account.capture_to_command().len(), 1);
        assert_eq!((account.age().len(), account.age().whole(unit).unwrap().max.round()), (2, 101.0));
        let counters: BTreeMap<_, _> = account.counters().into();
        assert_eq!((counters["commands"], counters["commands_from_a_frame"]), (3, 2));
        assert_eq!((counters["deadline_misses"], counters["commands_older_than_deadline"]), (0, 1));
        let json = serde_json::to_value(account.report()).unwrap();
        assert!(json["stages_ms"]["inferred"]["p50"].as_f64().unwrap() > 59.0, "{json}");
        assert_eq!(json["commands"], 3);
    }
}
