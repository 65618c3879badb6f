//! Real time: camera, inference and control threads on the machine's clock.

use super::control_thread::{ControlLinks, ControlThread, Shared};
use super::orders::Orders;
use super::{CameraBank, CameraLoop, CameraWatch, Flow, Sight};
use crate::control::{ControlLoop, ControlSnapshot};
use crate::crossing::{Reader, Writer, triple_buffer};
use crate::fault::FaultPlan;
use crate::inference::{InferenceLoop, StepOutcome};
use crate::metrics::{Samples, StampWriter};
use crate::realtime::{self, RealtimeRights};
use crate::watchdog::Heartbeat;
use core::time::Duration;
use endplate_hal::{Clock, ControlSpec, Instant};
use endplate_policies::{ActionChunk, Epoch};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// The parts of one robot in real time.
pub struct Realtime<'a> {
    /// The clock of all threads.
    pub clock: &'a dyn Clock,
    /// The control loop: active, or activated by an order.
    pub control: &'a mut ControlLoop,
    /// The inference loop.
    pub inference: &'a mut InferenceLoop,
    /// Camera loops.
    pub cameras: &'a mut [CameraLoop],
    /// Their frames.
    pub bank: &'a mut CameraBank,
    /// Their health.
    pub watch: &'a CameraWatch,
    /// Moves a simulated world to an instant, on a thread of its own; `None` for hardware, which moves by itself.
    pub plant: Option<&'a mut (dyn FnMut(Instant) + Send)>,
    /// What goes wrong.
    pub faults: &'a FaultPlan,
    /// Other instructions, one for each instruction change of the fault plan, in turn.
    pub instructions: &'a [String],
    /// Set by a signal or another thread: the e-stop.
    pub estop: &'a AtomicBool,
    /// Orders of whoever owns the robot.
    pub orders: &'a Orders,
    /// Where the lateness of every active period is recorded.
    pub lateness: &'a mut Samples,
    /// Beats once a period, after the command has been sent.
    pub heartbeat: &'a Heartbeat,
    /// Where the stamps of every command go.
    pub stamps: &'a mut StampWriter,
}

/// How often the camera and plant threads look.
const POLL: Duration = Duration::from_millis(2);
/// How often the inference thread looks whether a chunk is wanted.
const IDLE: Duration = Duration::from_millis(1);
/// The same when one will be wanted soon: a frame that comes just before is then still prepared.
const IDLE_BEFORE_A_CHUNK: Duration = Duration::from_micros(250);

/// When an inference thread that has nothing to do looks again.
pub fn next_look(now: Instant, snapshot: &ControlSnapshot) -> Instant {
    now.saturating_add(if snapshot.wants_chunk_soon { IDLE_BEFORE_A_CHUNK } else { IDLE })
}

/// Runs until `each`, called on the calling thread every period or so, ends it or `limit` has passed since `start`.
/// Fault windows count from `start`. Returns what the machine granted the control thread.
pub fn run(
    parts: Realtime,
    start: Instant,
    limit: Duration,
    rules: &ControlSpec,
    mut each: impl FnMut(Instant, &Sight) -> Flow,
) -> RealtimeRights {
    let Realtime { clock, control, inference, cameras, bank, watch, plant, faults, instructions, estop, .. } = parts;
    let Realtime { orders, lateness, heartbeat, stamps, .. } = parts;
    let period = rules.period;
    let shared = Shared::new(inference.epoch());
    let template = inference.chunk().clone();
    let (chunk_writer, chunk_reader) = triple_buffer(|| template.clone());
    let (snapshot_writer, snapshot_reader) = triple_buffer(ControlSnapshot::new);
    let (sight_writer, mut sight_reader) = triple_buffer(Sight::new);
    let Some(orders_end) = orders.end() else {
        return RealtimeRights::refused(&rules.realtime, "these orders belong to another run");
    };
    let (rights_sender, rights) = mpsc::channel();
    std::thread::scope(|scope| {
        let shared = &shared;
        if let Some(plant) = plant {
            scope.spawn(move || {
                while shared.running.load(Ordering::Acquire) {
                    plant(clock.now());
                    clock.sleep_until(clock.now().saturating_add(POLL));
                }
            });
        }
        for camera in cameras.iter_mut() {
            scope.spawn(move || {
                while shared.running.load(Ordering::Acquire) {
                    camera.step(clock.now());
                    clock.sleep_until(clock.now().saturating_add(POLL));
                }
            });
        }
        scope.spawn(move || {
            let thread = InferenceThread { clock, start, inference, bank, faults, instructions, orders, shared };
            thread.run(snapshot_reader, chunk_writer);
        });
        scope.spawn(move || {
            // The receiver lives as long as this scope.
            let _ = rights_sender.send(realtime::request(&rules.realtime));
            let thread = ControlThread {
                clock,
                start,
                rules,
                control,
                watch,
                faults,
                estop,
                orders: Some(orders_end),
                lateness,
                heartbeat,
                stamps,
            };
            thread.run(
                shared,
                &mut ControlLinks { chunks: chunk_reader, snapshots: snapshot_writer, sights: sight_writer },
            );
        });
        loop {
            clock.sleep_until(clock.now().saturating_add(period));
            let now = clock.now();
            sight_reader.update();
            let over = now.duration_since(start) >= limit;
            if each(now, sight_reader.value()) == Flow::Stop || over {
                break;
            }
        }
        shared.running.store(false, Ordering::Release);
    });
    rights.recv().unwrap_or_else(|_| RealtimeRights::refused(&rules.realtime, "the control thread did not start"))
}

struct InferenceThread<'a> {
    clock: &'a dyn Clock,
    start: Instant,
    inference: &'a mut InferenceLoop,
    bank: &'a mut CameraBank,
    faults: &'a FaultPlan,
    instructions: &'a [String],
    orders: &'a Orders,
    shared: &'a Shared,
}

impl InferenceThread<'_> {
    fn run(self, mut snapshots: Reader<ControlSnapshot>, mut chunks: Writer<ActionChunk>) {
        let Self { clock, start, inference, bank, faults, instructions, orders, shared } = self;
        let mut changes = 0;
        // A snapshot older than the last answer does not know of it yet.
        let mut answered = Instant::ZERO;
        while shared.running.load(Ordering::Acquire) {
            let since = clock.now().duration_since(start);
            while changes < faults.instruction_changes(since) {
                let next = &instructions[changes as usize % instructions.len().max(1)];
                changes += 1;
                instruct(inference, next, shared);
            }
            if let Some(factor) = orders.take_slowdown() {
                inference.rescale_costs(factor);
            }
            if let Some(instruction) = orders.take_instruction() {
                instruct(inference, &instruction, shared);
            }
            snapshots.update();
            inference.inject(faults.output(since));
            let fresh = snapshots.value().now > answered;
            let outcome = if fresh {
                inference.ask(clock.now(), snapshots.value(), bank.refresh(), Some(clock))
            } else {
                StepOutcome::Idle
            };
            if outcome == StepOutcome::Idle {
                if fresh {
                    inference.prepare(clock.now(), snapshots.value(), bank.refresh(), clock);
                }
                realtime::touch_stack();
                clock.sleep_until(next_look(clock.now(), snapshots.value()));
                continue;
            }
            shared.refused.store(inference.refused_in_a_row(), Ordering::Release);
            let took = clock.now().duration_since(start) - since;
            let arrival = faults.arrival(since, took);
            while clock.now().duration_since(start) < arrival && shared.running.load(Ordering::Acquire) {
                clock.sleep_until(clock.now().saturating_add(IDLE));
            }
            if matches!(outcome, StepOutcome::Answered(_)) {
                chunks.slot().copy_from(inference.chunk());
                chunks.publish();
                shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            inference.account();
            // Let the control loop take it over before asking again.
            answered = clock.now();
        }
    }
}

/// Everything asked before belongs to the past, on both threads.
fn instruct(inference: &mut InferenceLoop, instruction: &str, shared: &Shared) {
    let epoch = Epoch(inference.epoch().0 + 1);
    inference.instruct(instruction, epoch);
    shared.epoch.store(epoch.0, Ordering::Release);
}
