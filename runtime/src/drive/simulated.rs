//! Simulated time: one thread, one clock that moves by control periods, a latency model for inference.

use super::{CameraBank, CameraLoop, CameraWatch, Flow};
use crate::control::{CameraHealth, ControlLoop, ControlSnapshot, Inbox, Tick};
use crate::fault::FaultPlan;
use crate::inference::{InferenceLoop, StepOutcome};
use core::time::Duration;
use endplate_hal::Instant;
use endplate_policies::{ActionChunk, Epoch, StopReason, Trace};

/// How long an answer takes in simulated time.
#[derive(Clone, Debug, PartialEq)]
pub enum LatencyModel {
    /// Always the same.
    Fixed(Duration),
    /// The wall time it took on this machine.
    Measured,
    /// Spans recorded earlier, one after the other, from the start again when they run out.
    Trace(Vec<Duration>),
}

/// A latency model in use: where in a trace it stands, and what it charged.
#[derive(Clone, Debug)]
pub struct Latency {
    model: LatencyModel,
    next: usize,
    charged: Vec<Duration>,
}

impl Latency {
    /// Starts a model.
    pub fn new(model: LatencyModel) -> Self {
        Self { model, next: 0, charged: Vec::new() }
    }

    /// Whether wall time is charged.
    pub fn is_measured(&self) -> bool {
        self.model == LatencyModel::Measured
    }

    fn charge(&mut self, wall: Duration) -> Duration {
        let span = match &self.model {
            LatencyModel::Fixed(span) => *span,
            LatencyModel::Measured => wall,
            LatencyModel::Trace(spans) => spans.get(self.next % spans.len().max(1)).copied().unwrap_or_default(),
        };
        self.next += 1;
        self.charged.push(span);
        span
    }

    /// Every span charged so far: a trace that replays this run.
    pub fn charged(&self) -> &[Duration] {
        &self.charged
    }
}

/// The parts of one robot in simulated time.
pub struct Simulated<'a> {
    /// The control loop, active.
    pub control: &'a mut ControlLoop,
    /// The inference loop.
    pub inference: &'a mut InferenceLoop,
    /// Camera loops.
    pub cameras: &'a mut [CameraLoop],
    /// Their frames.
    pub bank: &'a mut CameraBank,
    /// Their health.
    pub watch: &'a CameraWatch,
    /// Moves the world to an instant.
    pub plant: &'a mut dyn FnMut(Instant),
    /// How long inference takes.
    pub latency: &'a mut Latency,
    /// What goes wrong.
    pub faults: &'a FaultPlan,
    /// Other instructions, one for each instruction change of the fault plan, in turn.
    pub instructions: &'a [String],
}

/// Runs from `begin` until `limit` after `start`, calling `each` after every period; returns the instant of the last
/// period. Fault windows count from `start`.
pub fn run(
    parts: &mut Simulated,
    start: Instant,
    begin: Instant,
    limit: Duration,
    period: Duration,
    mut each: impl FnMut(Instant, &Tick) -> Flow,
) -> Instant {
    let mut health = vec![CameraHealth::default(); parts.watch.len()];
    let mut snapshot = ControlSnapshot::new();
    let mut waiting: Option<(Instant, bool)> = None;
    let mut arrived = parts.inference.chunk().clone();
    let first_epoch = parts.inference.epoch();
    let mut changes = 0;
    let mut now = begin;
    loop {
        let since = now.duration_since(start);
        (parts.plant)(now);
        for camera in parts.cameras.iter_mut() {
            camera.step(now);
        }
        while changes < parts.faults.instruction_changes(since) {
            let next = &parts.instructions[changes as usize % parts.instructions.len().max(1)];
            changes += 1;
            parts.inference.instruct(next, Epoch(first_epoch.0 + changes));
        }
        let inferred = waiting.map_or(now, |(at, _)| at);
        let due = inferred <= now && waiting.is_some();
        let chunk: Option<&ActionChunk> = if due && waiting.take().is_some_and(|(_, answered)| answered) {
            arrived.copy_from(parts.inference.chunk());
            arrived.set_trace(Trace { inferred, ..*arrived.trace() });
            Some(&arrived)
        } else {
            None
        };
        parts.watch.read(&mut health);
        let inbox = Inbox {
            chunk,
            cameras: &health,
            refused_in_a_row: parts.inference.refused_in_a_row(),
            epoch: Epoch(first_epoch.0 + changes),
            estop: parts.faults.estop(since),
            missed: 0,
        };
        if let Some(tick) = parts.control.tick(now, &inbox)
            && each(now, &tick) == Flow::Stop
        {
            return now;
        }
        if waiting.is_none() {
            parts.control.snapshot(now, &mut snapshot);
            parts.inference.inject(parts.faults.output(since));
            let wall = std::time::Instant::now();
            let frames = if parts.inference.looks(&snapshot) {
                parts.bank.refresh();
                parts.bank.develop(parts.cameras)
            } else {
                parts.bank.refresh()
            };
            let outcome = parts.inference.step(now, &snapshot, frames, None);
            if outcome != StepOutcome::Idle {
                let answered = matches!(outcome, StepOutcome::Answered(_));
                // An observation that is refused costs nothing; an answer that is refused has been thought of.
                // Nor has one been thought of that was made without the model, unless time is measured.
                let made_up = matches!(outcome, StepOutcome::Answered(StopReason::Reused | StopReason::Extrapolated));
                let is_charged = parts.inference.inferred() && (!made_up || parts.latency.is_measured());
                let span = if is_charged { parts.latency.charge(wall.elapsed()) } else { period };
                let arrival = parts.faults.arrival(since, span);
                waiting = Some((start.saturating_add(arrival), answered));
            }
        }
        if since >= limit {
            return now;
        }
        now = now.saturating_add(period);
    }
}
