//! A managed robot in real time: configured, activated, enabled and stopped by orders while its threads run.
//!
//! Like [`realtime`](super::realtime), with one difference: the threads outlive activation. The robot's lifecycle is
//! changed on the control thread, between two periods, and the instruction on the inference thread, so that neither
//! waits for the other and no period is lost to an order.

use super::{CameraBank, CameraLoop, CameraWatch, Flow};
use crate::control::{CameraHealth, ControlLoop, ControlSnapshot, Inbox, LifecycleError, Tick};
use crate::crossing::{Reader, Writer, triple_buffer};
use crate::inference::{InferenceLoop, StepOutcome};
use crate::metrics::Samples;
use crate::realtime::{self, RealtimeRights};
use core::time::Duration;
use endplate_hal::{Clock, ControlSpec, Instant};
use endplate_policies::{ActionChunk, Epoch};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Set in an epoch while the robot stands still: no chunk is of it, so the arm decelerates and holds.
const STANDING: u64 = 1 << 62;
/// How often the camera threads look.
const POLL: Duration = Duration::from_millis(2);
/// How often the inference thread looks whether a chunk is wanted.
const IDLE: Duration = Duration::from_millis(1);

/// A change carried out on the control thread.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Unconfigured → inactive.
    Configure = 1,
    /// Inactive → active.
    Activate = 2,
    /// Active → inactive.
    Deactivate = 3,
    /// Leave a latched stop.
    ClearFault = 4,
}

/// Orders to running threads.
#[derive(Default)]
pub struct Orders {
    change: AtomicU8,
    outcome: Mutex<Option<Result<bool, LifecycleError>>>,
    standing: AtomicBool,
    estop: AtomicBool,
    instruction: Mutex<Option<String>>,
    has_instruction: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Orders {
    /// Asks for a change and waits until the control thread has made it, at most `patience`; `None` when it has not.
    /// The flag of [`Change::ClearFault`] says whether a fault was left.
    pub fn change(&self, change: Change, patience: Duration) -> Option<Result<bool, LifecycleError>> {
        lock(&self.outcome).take();
        self.change.store(change as u8, Ordering::Release);
        let start = std::time::Instant::now();
        while start.elapsed() < patience {
            if let Some(outcome) = lock(&self.outcome).take() {
                return Some(outcome);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.change.store(0, Ordering::Release);
        None
    }

    /// Whether no chunk is to be followed: the arm decelerates under its limits and holds.
    pub fn stand(&self, standing: bool) {
        self.standing.store(standing, Ordering::Release);
    }

    /// Whether the e-stop is pressed.
    pub fn estop(&self, pressed: bool) {
        self.estop.store(pressed, Ordering::Release);
    }

    /// Another instruction; everything asked before belongs to the past.
    pub fn instruct(&self, instruction: &str) {
        *lock(&self.instruction) = Some(instruction.to_owned());
        self.has_instruction.store(true, Ordering::Release);
    }
}

/// The parts of a managed robot.
pub struct Managed<'a> {
    /// The clock of all threads.
    pub clock: &'a dyn Clock,
    /// The control loop.
    pub control: &'a mut ControlLoop,
    /// The inference loop.
    pub inference: &'a mut InferenceLoop,
    /// Camera loops.
    pub cameras: &'a mut [CameraLoop],
    /// Their frames.
    pub bank: &'a mut CameraBank,
    /// Their health.
    pub watch: &'a CameraWatch,
    /// Orders.
    pub orders: &'a Orders,
    /// Where the lateness of every active period is recorded.
    pub lateness: &'a mut Samples,
}

/// What the owner sees of the running threads.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The newest active period.
    pub tick: Option<Tick>,
    /// The motion commanded last, `[D]` rad.
    pub commanded_rad: Vec<f64>,
    /// Whether that is at rest.
    pub at_rest: bool,
    /// Whether a stop is latched.
    pub latched: bool,
    /// Measured positions, `[D]` rad; empty before the first.
    pub measured_rad: Vec<f64>,
    /// Control periods missed so far.
    pub overruns: u64,
    /// Chunks answered so far.
    pub chunks: u64,
    /// Chunks whose first command came after the deadline.
    pub deadline_misses: u64,
}

struct Shared {
    running: AtomicBool,
    epoch: AtomicU64,
    refused: AtomicU32,
    chunks: AtomicU64,
}

/// Runs the threads until `each`, called on the calling thread every period or so, ends it.
pub fn run(
    parts: Managed,
    rules: &ControlSpec,
    mut each: impl FnMut(Instant, &Sight) -> Flow,
) -> Option<RealtimeRights> {
    let period = rules.period;
    let Managed { clock, control, inference, cameras, bank, watch, orders, lateness } = parts;
    let shared = Shared {
        running: AtomicBool::new(true),
        epoch: AtomicU64::new(inference.epoch().0),
        refused: AtomicU32::new(0),
        chunks: AtomicU64::new(0),
    };
    let template = inference.chunk().clone();
    let (chunk_writer, chunk_reader) = triple_buffer(|| template.clone());
    let (snapshot_writer, snapshot_reader) = triple_buffer(ControlSnapshot::new);
    let joints = control.commanded().position_rad.len();
    let (sight_writer, mut sight_reader) = triple_buffer(|| Sight {
        commanded_rad: Vec::with_capacity(joints),
        measured_rad: Vec::with_capacity(joints),
        ..Sight::default()
    });
    let rights = Mutex::new(None);
    std::thread::scope(|scope| {
        let (shared, rights) = (&shared, &rights);
        for camera in cameras.iter_mut() {
            scope.spawn(move || {
                while shared.running.load(Ordering::Acquire) {
                    camera.step(clock.now());
                    clock.sleep_until(clock.now().saturating_add(POLL));
                }
            });
        }
        scope.spawn(move || infer(clock, inference, bank, orders, shared, snapshot_reader, chunk_writer));
        scope.spawn(move || {
            *lock(rights) = Some(realtime::request(&rules.realtime));
            let thread = ControlThread { clock, period, control, watch, orders, shared, lateness };
            thread.run(chunk_reader, snapshot_writer, sight_writer);
        });
        loop {
            clock.sleep_until(clock.now().saturating_add(period));
            sight_reader.update();
            if each(clock.now(), sight_reader.value()) == Flow::Stop {
                break;
            }
        }
        shared.running.store(false, Ordering::Release);
    });
    rights.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn infer(
    clock: &dyn Clock,
    inference: &mut InferenceLoop,
    bank: &mut CameraBank,
    orders: &Orders,
    shared: &Shared,
    mut snapshots: Reader<ControlSnapshot>,
    mut chunks: Writer<ActionChunk>,
) {
    // A snapshot older than the last answer does not know of it yet.
    let mut answered = Instant::ZERO;
    while shared.running.load(Ordering::Acquire) {
        if orders.has_instruction.swap(false, Ordering::AcqRel)
            && let Some(instruction) = lock(&orders.instruction).take()
        {
            let epoch = Epoch(inference.epoch().0 + 1);
            inference.instruct(&instruction, epoch);
            shared.epoch.store(epoch.0, Ordering::Release);
        }
        snapshots.update();
        let fresh = snapshots.value().now > answered;
        let outcome = if fresh {
            inference.step(clock.now(), snapshots.value(), bank.refresh(), Some(clock))
        } else {
            StepOutcome::Idle
        };
        if outcome == StepOutcome::Idle {
            clock.sleep_until(clock.now().saturating_add(IDLE));
            continue;
        }
        shared.refused.store(inference.refused_in_a_row(), Ordering::Release);
        if matches!(outcome, StepOutcome::Answered(_)) {
            chunks.slot().copy_from(inference.chunk());
            chunks.publish();
            shared.chunks.fetch_add(1, Ordering::Relaxed);
        }
        answered = clock.now();
    }
}

struct ControlThread<'a> {
    clock: &'a dyn Clock,
    period: Duration,
    control: &'a mut ControlLoop,
    watch: &'a CameraWatch,
    orders: &'a Orders,
    shared: &'a Shared,
    lateness: &'a mut Samples,
}

impl ControlThread<'_> {
    fn run(
        mut self,
        mut chunks: Reader<ActionChunk>,
        mut snapshots: Writer<ControlSnapshot>,
        mut sights: Writer<Sight>,
    ) {
        let Self { clock, period, watch, orders, shared, .. } = self;
        let mut health = vec![CameraHealth::default(); watch.len()];
        let mut deadline = clock.now().saturating_add(period);
        while shared.running.load(Ordering::Acquire) {
            clock.sleep_until(deadline);
            let now = clock.now();
            let late = now.duration_since(deadline);
            // A missed period is skipped, never caught up in a burst.
            let missed = u64::try_from(late.as_nanos() / period.as_nanos().max(1)).unwrap_or(u64::MAX);
            let skipped = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
            deadline = deadline.saturating_add(period.saturating_mul(skipped));
            watch.read(&mut health);
            let standing = if orders.standing.load(Ordering::Acquire) { STANDING } else { 0 };
            let epoch = Epoch(shared.epoch.load(Ordering::Acquire) | standing);
            self.change(now, epoch);
            let arrived = chunks.update();
            let inbox = Inbox {
                chunk: arrived.then(|| chunks.value()),
                cameras: &health,
                refused_in_a_row: shared.refused.load(Ordering::Acquire),
                epoch,
                estop: orders.estop.load(Ordering::Acquire),
                missed,
            };
            let tick = self.control.tick(now, &inbox);
            if tick.is_some() {
                self.lateness.record(late);
            }
            self.control.snapshot(now, snapshots.slot());
            snapshots.publish();
            self.show(tick, sights.slot());
            sights.publish();
        }
    }

    /// Carries out the change asked for, if any: the only place where this thread waits for another, and then only
    /// after its owner has asked it to.
    fn change(&mut self, now: Instant, epoch: Epoch) {
        let asked = self.orders.change.load(Ordering::Acquire);
        if asked == 0 {
            return;
        }
        self.orders.change.store(0, Ordering::Release);
        let outcome = match asked {
            1 => self.control.configure(now).map(|()| true),
            2 => self.control.activate(now, epoch).map(|()| true),
            3 => self.control.deactivate().map(|()| true),
            _ => self.control.clear_fault(now),
        };
        *lock(&self.orders.outcome) = Some(outcome);
    }

    /// Fills vectors that have room from the start.
    fn show(&self, tick: Option<Tick>, sight: &mut Sight) {
        let motion = self.control.commanded();
        sight.tick = tick;
        sight.commanded_rad.clear();
        sight.commanded_rad.extend_from_slice(&motion.position_rad);
        sight.at_rest = motion.is_at_rest();
        sight.latched = self.control.latched().is_some();
        sight.measured_rad.clear();
        sight.measured_rad.extend_from_slice(self.control.measured().map_or(&[][..], |measured| &measured[..]));
        sight.overruns = self.control.counts().overruns;
        sight.chunks = self.shared.chunks.load(Ordering::Relaxed);
        sight.deadline_misses = self.control.counts().deadline_misses;
    }
}
