//! The control thread in real time: one tick a period, at absolute deadlines or at the pace of the hardware.

use super::orders::OrdersEnd;
use super::{CameraWatch, Sight};
use crate::control::{CameraHealth, ControlLoop, ControlSnapshot, Inbox};
use crate::crossing::{Reader, Writer};
use crate::fault::FaultPlan;
use crate::metrics::{CommandStamps, Samples, StampWriter};
use crate::realtime::{Pacer, touch_stack};
use crate::watchdog::Heartbeat;
use endplate_hal::{Clock, ControlSpec, Instant, Pacing};
use endplate_policies::{ActionChunk, Epoch};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What the threads of a run tell each other beside their values: single words.
pub struct Shared {
    /// Cleared to end every thread.
    pub running: AtomicBool,
    /// The present epoch.
    pub epoch: AtomicU64,
    /// Answers refused in a row.
    pub refused: AtomicU32,
    /// Chunks answered.
    pub answered: AtomicU64,
}

impl Shared {
    /// Running, in `epoch`.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            running: AtomicBool::new(true),
            epoch: AtomicU64::new(epoch.0),
            refused: AtomicU32::new(0),
            answered: AtomicU64::new(0),
        }
    }
}

/// The control thread's ends of the crossings.
pub struct ControlLinks {
    /// Chunks from the inference thread.
    pub chunks: Reader<ActionChunk>,
    /// What the inference thread needs.
    pub snapshots: Writer<ControlSnapshot>,
    /// For whoever watches.
    pub sights: Writer<Sight>,
}

/// The parts of a control thread.
pub struct ControlThread<'a> {
    /// The clock of all threads.
    pub clock: &'a dyn Clock,
    /// Where fault windows count from.
    pub start: Instant,
    /// Period and pacing.
    pub rules: &'a ControlSpec,
    /// The control loop.
    pub control: &'a mut ControlLoop,
    /// The cameras' health.
    pub watch: &'a CameraWatch,
    /// What goes wrong.
    pub faults: &'a FaultPlan,
    /// The e-stop.
    pub estop: &'a AtomicBool,
    /// Orders of whoever owns the robot; `None` when nobody does.
    pub orders: Option<OrdersEnd<'a>>,
    /// The lateness of every active period.
    pub lateness: &'a mut Samples,
    /// Beats once a period, after the command has been sent.
    pub heartbeat: &'a Heartbeat,
    /// The stamps of every command.
    pub stamps: &'a mut StampWriter,
}

impl ControlThread<'_> {
    /// Ticks until `shared.running` is cleared. The calling thread should have its rights already.
    ///
    /// # Real-time
    /// Allocates before the first period only; blocks in the wait for a period only.
    pub fn run(self, shared: &Shared, links: &mut ControlLinks) {
        let Self { clock, start, rules, control, watch, faults, estop, lateness, heartbeat, stamps, mut orders } = self;
        let mut health = vec![CameraHealth::default(); watch.len()];
        let hardware = rules.pacing == Pacing::Hardware;
        let mut pacer = Pacer::new(clock.now(), rules.period);
        while shared.running.load(Ordering::Acquire) {
            let due = pacer.deadline();
            let (woke, wake) = if hardware {
                control.wait_for_cycle(clock, pacer.patience());
                let now = clock.now();
                (now, pacer.paced(now))
            } else {
                clock.sleep_until(due);
                let now = clock.now();
                (now, pacer.woke(now))
            };
            watch.read(&mut health);
            let mut epoch = Epoch(shared.epoch.load(Ordering::Acquire));
            if let Some(orders) = &mut orders {
                epoch = orders.epoch(epoch);
                orders.carry_out(control, woke, epoch);
            }
            let arrived = links.chunks.update();
            let inbox = Inbox {
                chunk: arrived.then(|| links.chunks.value()),
                cameras: &health,
                refused_in_a_row: shared.refused.load(Ordering::Acquire),
                epoch,
                estop: estop.load(Ordering::Acquire)
                    || orders.as_ref().is_some_and(OrdersEnd::estop)
                    || faults.estop(woke.duration_since(start)),
                missed: wake.missed,
            };
            let tick = control.tick(woke, &inbox);
            if let Some(tick) = &tick {
                lateness.record(wake.late);
                stamps.push(CommandStamps::of(tick, due, woke, clock.now(), wake.missed));
            }
            heartbeat.beat();
            links.sights.slot().take(tick, control, shared);
            links.sights.publish();
            control.snapshot(woke, links.snapshots.slot());
            links.snapshots.publish();
            touch_stack();
        }
    }
}
