//! The control loop: one safe command a period, whatever happens elsewhere.
//!
//! [`ControlLoop::tick`] is a function of `now`: it reads the joints, walks the failure ladder, samples the chunk,
//! filters and writes. It never allocates, locks, blocks, formats or logs once active; what is worth telling goes into
//! a preallocated ring of [`Event`]s that another thread reads.

mod exchange;
mod snapshot;

use crate::handover::Handover;
use crate::metrics::{Cause, Provenance, Rung};
use crate::operator::{Operation, Order, PoseMotion};
use crate::record::TickRecord;
use crate::retimer::Retimer;
use crate::scheduler::{ChunkRefusal, ChunkScheduler, PlayRules};
use core::time::Duration;
use endplate_hal::{
    BusError, Clock, CommandMode, CommandSink, HeldCause, Instant, JointCommand, JointState, JointVec, MAX_JOINTS,
    MotionTime, Robot, RobotSpec, SafeCommand, SafetyError, SafetyFilter, StateRing, StopCategory, Verdict,
};
use endplate_policies::{Blending, Epoch};
pub use exchange::{CameraHealth, ControlCounts, Event, Inbox, Lifecycle, LifecycleError, Tick};
pub use snapshot::ControlSnapshot;
use snapshot::HISTORY;

/// How long ahead the inference side knows that a chunk will be wanted: a few frames.
const SOON: Duration = Duration::from_millis(100);
/// As near as this the pose has been commanded, rad.
const ARRIVED_RAD: f64 = 1e-3;

/// The control loop of one robot.
pub struct ControlLoop {
    spec: RobotSpec,
    robot: Robot,
    filter: SafetyFilter,
    scheduler: ChunkScheduler,
    retimer: Retimer,
    lifecycle: Lifecycle,
    motion: MotionTime,
    states: StateRing,
    history: Vec<(Instant, MotionTime)>,
    active_causes: u32,
    latched: Option<Cause>,
    failed_writes: u32,
    /// Chunks in a row that the scheduler refused for what is in them.
    refused_offers: u32,
    torque_off_done: bool,
    newest_used: u64,
    provenance: Option<Provenance>,
    /// That of a chunk whose first row is not due yet.
    waiting: Option<Provenance>,
    counts: ControlCounts,
    events: Option<rtrb::Producer<Event>>,
    records: Option<rtrb::Producer<TickRecord>>,
    sinks: Vec<Box<dyn CommandSink>>,
    orders: Option<rtrb::Consumer<Order>>,
    operation: Operation,
    /// Where to go, and the way there once the arm has come to rest.
    pose: Option<(JointVec, Option<PoseMotion>)>,
    /// Only frames captured since are followed.
    follows_from: Instant,
}

impl ControlLoop {
    /// A loop over a robot, unconfigured.
    ///
    /// # Errors
    /// [`SafetyError`] when the limits are not those of the robot.
    pub fn new(spec: RobotSpec, robot: Robot, rules: PlayRules) -> Result<Self, SafetyError> {
        let limits = spec.safety_limits();
        let needed = limits.joints.len();
        if robot.joints() != needed || rules.interpolation.len() != needed {
            return Err(SafetyError::Joints { needed, got: robot.joints() });
        }
        let middle: Vec<f64> = limits.joints.iter().map(|joint| (joint.lower_rad + joint.upper_rad) / 2.0).collect();
        let retimer = Retimer::new(&limits.joints, &rules.interpolation, limits.period.as_secs_f64());
        Ok(Self {
            filter: SafetyFilter::new(limits, &middle)?,
            scheduler: ChunkScheduler::new(rules),
            retimer,
            lifecycle: Lifecycle::Unconfigured,
            motion: MotionTime::ZERO,
            states: StateRing::with_capacity(HISTORY),
            history: Vec::with_capacity(HISTORY),
            active_causes: 0,
            latched: None,
            failed_writes: 0,
            refused_offers: 0,
            torque_off_done: false,
            newest_used: 0,
            provenance: None,
            waiting: None,
            counts: ControlCounts::new(),
            events: None,
            records: None,
            sinks: Vec::new(),
            orders: None,
            operation: Operation::Following,
            pose: None,
            follows_from: Instant::ZERO,
            spec,
            robot,
        })
    }

    /// Hands over from chunk to chunk in another way than by switching; `blending` has one entry per joint.
    pub fn set_handover(&mut self, handover: Handover, blending: &[Blending]) {
        let joints = &self.filter.limits().joints;
        let velocity = JointVec::from_fn(joints.len(), |joint| joints[joint].velocity_rad_s);
        self.scheduler.set_handover(handover, blending, velocity);
    }

    /// Where events go; without a ring they are counted only.
    pub fn set_events(&mut self, events: rtrb::Producer<Event>) {
        self.events = Some(events);
    }

    /// Where every period is recorded; what no longer fits is counted.
    pub fn set_records(&mut self, records: Option<rtrb::Producer<TickRecord>>) {
        self.records = records;
    }

    /// Where the operator's orders come from.
    pub fn set_operator(&mut self, orders: rtrb::Consumer<Order>) {
        self.orders = Some(orders);
    }

    /// Adds a place where every command is published.
    pub fn add_sink(&mut self, sink: Box<dyn CommandSink>) {
        self.sinks.push(sink);
    }

    /// The present state of the lifecycle.
    pub fn lifecycle(&self) -> Lifecycle {
        self.lifecycle
    }

    /// The counters so far.
    pub fn counts(&self) -> &ControlCounts {
        &self.counts
    }

    /// The motion commanded last.
    pub fn commanded(&self) -> &endplate_hal::Motion {
        self.filter.motion()
    }

    /// The cause of a latched stop.
    pub fn latched(&self) -> Option<Cause> {
        self.latched
    }

    /// Unconfigured → inactive: the joints answer.
    ///
    /// # Errors
    /// [`LifecycleError`]; the state is left as it was.
    pub fn configure(&mut self, now: Instant) -> Result<(), LifecycleError> {
        self.expect(Lifecycle::Unconfigured)?;
        self.robot.read(now).map_err(LifecycleError::Read)?;
        self.lifecycle = Lifecycle::Inactive;
        Ok(())
    }

    /// Inactive → active: commands start from where the joints stand, at rest, torque on; chunks of `epoch` or later
    /// are taken.
    ///
    /// # Errors
    /// [`LifecycleError`]; the robot stays inactive.
    pub fn activate(&mut self, now: Instant, epoch: Epoch) -> Result<(), LifecycleError> {
        self.expect(Lifecycle::Inactive)?;
        let state = self.robot.read(now).map_err(LifecycleError::Read)?;
        self.filter.restart(&state.position_rad).map_err(LifecycleError::Start)?;
        self.robot.set_torque(now, true).map_err(LifecycleError::Torque)?;
        self.states.push(state);
        self.remember(now);
        self.scheduler.reset(epoch);
        self.retimer.hold();
        (self.active_causes, self.latched, self.torque_off_done) = (0, None, false);
        (self.failed_writes, self.refused_offers) = (0, 0);
        (self.operation, self.pose, self.follows_from) = (Operation::Following, None, Instant::ZERO);
        self.lifecycle = Lifecycle::Active;
        Ok(())
    }

    /// Active → inactive: nothing is written any more; the arm keeps its last goal with torque on.
    ///
    /// # Errors
    /// [`LifecycleError::Order`].
    pub fn deactivate(&mut self) -> Result<(), LifecycleError> {
        self.expect(Lifecycle::Active)?;
        self.lifecycle = Lifecycle::Inactive;
        self.states.clear();
        self.history.clear();
        Ok(())
    }

    /// The end of the lifecycle, from any state; hands the robot back.
    pub fn finalize(mut self) -> Robot {
        self.lifecycle = Lifecycle::Finalized;
        self.robot
    }

    /// Leaves a latched stop, on an explicit command only and only at rest; whether one was left. What was being played
    /// is forgotten. Where the stop had switched the torque off, it is switched on again and commands start from where
    /// the joints stand then.
    ///
    /// # Errors
    /// [`LifecycleError`]; the stop stays latched.
    pub fn clear_fault(&mut self, now: Instant) -> Result<bool, LifecycleError> {
        if self.latched.is_none() || !self.filter.motion().is_at_rest() {
            return Ok(false);
        }
        // A bus that was lost and found has its torque off.
        if self.torque_off_done || self.latched == Some(Cause::BusLost) {
            let state = self.robot.read(now).map_err(LifecycleError::Read)?;
            self.filter.restart(&state.position_rad).map_err(LifecycleError::Start)?;
            self.robot.set_torque(now, true).map_err(LifecycleError::Torque)?;
        }
        self.scheduler.reset(self.scheduler.epoch());
        (self.latched, self.torque_off_done) = (None, false);
        (self.failed_writes, self.refused_offers) = (0, 0);
        Ok(true)
    }

    fn expect(&self, state: Lifecycle) -> Result<(), LifecycleError> {
        if self.lifecycle == state { Ok(()) } else { Err(LifecycleError::Order(self.lifecycle)) }
    }

    /// One period of an inactive robot: the joints are read, so that a frame captured before activation has its state.
    fn observe(&mut self, now: Instant) {
        if let Ok(state) = self.robot.read(now) {
            self.states.push(state);
        }
        self.remember(now);
    }

    fn remember(&mut self, now: Instant) {
        if self.history.len() == HISTORY {
            self.history.copy_within(1.., 0);
            self.history.truncate(HISTORY - 1);
        }
        self.history.push((now, self.motion));
    }

    /// One control period. `None` unless active: an inactive robot is read and not written to.
    ///
    /// # Real-time
    /// Does not allocate, lock, block, format or log.
    pub fn tick(&mut self, now: Instant, inbox: &Inbox) -> Option<Tick> {
        match self.lifecycle {
            Lifecycle::Active => {}
            Lifecycle::Inactive => {
                self.observe(now);
                return None;
            }
            Lifecycle::Unconfigured | Lifecycle::Finalized => return None,
        }
        let mut causes = Causes::default();
        self.counts.periods += 1 + inbox.missed;
        if inbox.missed > 0 {
            self.counts.overruns += inbox.missed;
            causes.note(Cause::Overrun, None);
        }
        if inbox.epoch != self.scheduler.epoch() {
            self.scheduler.reset(inbox.epoch);
            self.refused_offers = 0;
            causes.note(Cause::InstructionChange, None);
        }
        self.take_orders(now);
        self.read_state(now, &mut causes);
        self.take_chunk(now, inbox, &mut causes);
        self.scheduler.settle(now, self.motion);
        if !self.scheduler.is_waiting() {
            self.provenance = self.waiting.take().or(self.provenance);
        }
        if inbox.estop {
            self.latched.get_or_insert(Cause::Estop);
        }
        if self.failed_writes >= self.spec.control.write_failures {
            self.latched.get_or_insert(Cause::BusLost);
        }
        let stop = self.reason_to_stop(now, inbox, &mut causes);
        let (command, verdict, rung) = self.command(now, stop, &mut causes);
        let command = command.from_frame(self.provenance_on(rung).map(|provenance| provenance.trace.frame));
        self.write(now, &command, &mut causes);
        self.scheduler.note_wish(now, self.motion);
        self.finish(now, command, verdict, rung, stop, &causes)
    }

    fn read_state(&mut self, now: Instant, causes: &mut Causes) {
        match self.robot.read(now) {
            Err(BusError::Implausible { servo }) => causes.note(Cause::StateImplausible, Some(servo)),
            Err(BusError::Unhealthy { servo, .. }) => causes.note(Cause::ServoFault, Some(servo)),
            Err(_) => causes.note(Cause::StateRead, None),
            Ok(state) => self.judge_state(now, &state, causes),
        }
    }

    fn judge_state(&mut self, now: Instant, state: &JointState, causes: &mut Causes) {
        let control = &self.spec.control;
        let newest = self.states.newest();
        if state.stamp > now || newest.is_some_and(|newest| state.stamp < newest.stamp) {
            return causes.note(Cause::ClockStep, None);
        }
        if !state.position_rad.is_finite() {
            return causes.note(Cause::StateImplausible, None);
        }
        if let Some(newest) = newest {
            let span = state.stamp.duration_since(newest.stamp);
            if let Some(joint) = self.spec.implausible_step(&newest.position_rad, &state.position_rad, span) {
                return causes.note(Cause::StateImplausible, Some(joint));
            }
        }
        self.states.push(*state);
        if now.duration_since(state.stamp) > control.state_max_age {
            return;
        }
        let commanded = &self.filter.motion().position_rad;
        let apart = self
            .spec
            .joints
            .iter()
            .zip(commanded.iter().zip(state.position_rad.iter()))
            .position(|(joint, (commanded, measured))| (commanded - measured).abs() > joint.max_tracking_error_rad);
        if apart.is_some() {
            causes.note(Cause::TrackingError, apart);
        }
    }

    fn take_chunk(&mut self, now: Instant, inbox: &Inbox, causes: &mut Causes) {
        let Some(chunk) = inbox.chunk else { return };
        if self.operation != Operation::Following || chunk.anchor().captured < self.follows_from {
            return causes.note(Cause::ChunkStale, None);
        }
        match self.scheduler.offer(now, self.motion, chunk) {
            Ok(()) => {
                self.waiting = Some(Provenance { trace: *chunk.trace(), scheduled: now });
                self.refused_offers = 0;
            }
            Err(ChunkRefusal::Epoch) => causes.note(Cause::ChunkEpoch, None),
            Err(ChunkRefusal::Stale { .. } | ChunkRefusal::Spent) => causes.note(Cause::ChunkStale, None),
            Err(ChunkRefusal::Jump { joint }) => self.refuse_offer(causes, Some(joint)),
            Err(ChunkRefusal::Malformed) => self.refuse_offer(causes, None),
        }
    }

    /// The policy took its answer for good, and it is not: as bad as one refused by the policy itself.
    fn refuse_offer(&mut self, causes: &mut Causes, joint: Option<usize>) {
        self.refused_offers = self.refused_offers.saturating_add(1);
        causes.note(Cause::OutputRefused, joint);
    }

    /// The first reason not to follow a chunk in this period, in the order of the ladder.
    fn reason_to_stop(&self, now: Instant, inbox: &Inbox, causes: &mut Causes) -> Option<Cause> {
        if let Some(cause) = self.latched {
            causes.note(cause, None);
            return Some(cause);
        }
        let control = &self.spec.control;
        if causes.has(Cause::ServoFault) {
            return Some(Cause::ServoFault);
        }
        let age = self.states.newest().map_or(Duration::MAX, |state| now.duration_since(state.stamp));
        if age > control.state_max_age {
            causes.note(Cause::StateStale, None);
            return Some(Cause::StateStale);
        }
        for cause in [Cause::ClockStep, Cause::StateImplausible, Cause::TrackingError] {
            if causes.has(cause) {
                return Some(cause);
            }
        }
        if let Some(cause) = self.operation.cause() {
            causes.note(cause, None);
            let is_going = self.operation == Operation::Going && self.failed_writes == 0;
            return (!is_going).then_some(cause);
        }
        for (camera, health) in self.spec.cameras.iter().zip(inbox.cameras) {
            if health.captured > now {
                causes.note(Cause::CameraFutureStamp, None);
                return Some(Cause::CameraFutureStamp);
            }
            if health.sequence == 0 || now.duration_since(health.captured) > camera.max_age {
                causes.note(Cause::CameraStale, None);
                return Some(Cause::CameraStale);
            }
        }
        if inbox.refused_in_a_row.saturating_add(self.refused_offers) >= control.refused_chunks {
            return Some(Cause::OutputRefused);
        }
        // After a failed write the arm may still chase an older goal: brake until a write gets through again.
        (self.failed_writes > 0).then_some(Cause::WriteFailed)
    }

    fn command(&mut self, now: Instant, stop: Option<Cause>, causes: &mut Causes) -> (SafeCommand, Verdict, Rung) {
        let period = self.filter.limits().period;
        if stop.is_none() && self.operation == Operation::Going {
            if let Some((command, verdict)) = self.go(now) {
                return (command, verdict, Rung::Posed);
            }
        } else if stop.is_none() {
            let speed = self.retimer.speed();
            let ahead = self.motion.saturating_add(period.mul_f64(speed));
            if let Some(reference) = self.scheduler.sample(now, ahead) {
                let speed = self.retimer.pace(self.filter.motion(), &reference, self.scheduler.top_speed(now, ahead));
                let target = self.retimer.follow(self.filter.motion(), &reference);
                let valid_until = now.saturating_add(self.spec.control.command_valid);
                let asked = JointCommand { mode: CommandMode::Position, target, valid_until };
                let (command, verdict) = self.filter.filter(now, &asked);
                self.motion = self.motion.saturating_add(period.mul_f64(speed));
                self.counts.motion_s += period.as_secs_f64() * speed;
                let late = self.scheduler.overdue(self.motion) > self.spec.control.deadline;
                if late {
                    causes.note(Cause::ChunkLate, None);
                }
                return (command, verdict, if late { Rung::Continued } else { Rung::Fresh });
            }
            if self.scheduler.captured().is_some() {
                causes.note(Cause::NoRows, None);
            }
        }
        self.retimer.hold();
        if let Some((_, way)) = &mut self.pose {
            // Whatever stopped the arm, its way begins anew from where it comes to rest.
            *way = None;
        }
        let (command, verdict) = self.filter.brake(now, HeldCause::Asked);
        let rung = match verdict {
            Verdict::Stopped(_) if self.latched.is_some() => Rung::Stopped,
            Verdict::Stopped(_) => Rung::Held,
            _ => Rung::Decelerated,
        };
        (command, verdict, rung)
    }

    /// The next command on the way to a pose; `None` while the arm has to come to rest first, or has arrived.
    fn go(&mut self, now: Instant) -> Option<(SafeCommand, Verdict)> {
        let (to, way) = self.pose.as_mut()?;
        let motion = self.filter.motion();
        if way.is_none() && !motion.is_at_rest() {
            return None;
        }
        let (joints, period) = (&self.filter.limits().joints, self.filter.limits().period);
        let way =
            way.get_or_insert_with(|| PoseMotion::new(&motion.position_rad, to, joints, self.spec.poses.speed, period));
        let Some(target) = way.next() else {
            // Where the filter held the arm back, it has not arrived: once more, from where it comes to rest.
            let left = to.iter().zip(motion.position_rad.iter()).map(|(to, at)| (to - at).abs()).fold(0.0, f64::max);
            if left < ARRIVED_RAD {
                (self.operation, self.pose) = (Operation::Paused, None);
            } else {
                self.pose = Some((*to, None));
            }
            return None;
        };
        let valid_until = now.saturating_add(self.spec.control.command_valid);
        let asked = JointCommand { mode: CommandMode::Position, target, valid_until };
        Some(self.filter.filter(now, &asked))
    }

    /// Takes what the operator asked for since the last period.
    fn take_orders(&mut self, now: Instant) {
        while let Some(Ok(order)) = self.orders.as_mut().map(rtrb::Consumer::pop) {
            self.counts.orders += 1;
            let is_at_rest = self.filter.motion().is_at_rest();
            let operation = match (order, self.operation) {
                // Torque goes on only before a robot is active.
                (_, Operation::Releasing | Operation::Released) => None,
                (Order::Pause, _) => Some((Operation::Paused, None)),
                (Order::Resume, _) => Some((Operation::Following, None)),
                (Order::GoTo(pose), _) if pose.len() == self.spec.joints.len() && pose.is_finite() => {
                    Some((Operation::Going, Some((pose, None))))
                }
                (Order::Release, Operation::Paused) if is_at_rest => Some((Operation::Releasing, None)),
                (Order::GoTo(_) | Order::Release, _) => None,
            };
            let Some((operation, pose)) = operation else {
                self.counts.orders_refused += 1;
                continue;
            };
            if order == Order::Resume && self.operation != Operation::Following {
                self.follows_from = now;
            }
            if operation != self.operation {
                self.scheduler.reset(self.scheduler.epoch());
            }
            (self.operation, self.pose) = (operation, pose);
        }
    }

    /// Where a command of this rung comes from: only rows of a chunk come from a frame.
    fn provenance_on(&self, rung: Rung) -> Option<Provenance> {
        self.provenance.filter(|_| matches!(rung, Rung::Fresh | Rung::Continued))
    }

    fn write(&mut self, now: Instant, command: &SafeCommand, causes: &mut Causes) {
        for sink in &mut self.sinks {
            sink.publish(command);
        }
        let at_rest = self.filter.motion().is_at_rest();
        if self.torque_off_done {
            return;
        }
        // One retry inside the period.
        match self.robot.write(now, command).or_else(|_| self.robot.write(now, command)) {
            Ok(_) => self.failed_writes = 0,
            Err(_) => {
                self.failed_writes = self.failed_writes.saturating_add(1);
                causes.note(Cause::WriteFailed, None);
            }
        }
        let limp = self.operation == Operation::Releasing
            || self.latched == Some(Cause::Estop) && self.spec.control.stop_category == StopCategory::TorqueOff;
        if limp && at_rest {
            self.torque_off_done = self.robot.set_torque(now, false).is_ok();
            if self.torque_off_done && self.operation == Operation::Releasing {
                self.operation = Operation::Released;
            }
        }
    }

    fn finish(
        &mut self,
        now: Instant,
        command: SafeCommand,
        verdict: Verdict,
        rung: Rung,
        stop: Option<Cause>,
        causes: &Causes,
    ) -> Option<Tick> {
        self.counts.commands += 1;
        self.counts.ladder.count(rung);
        if let Verdict::Limited { joint, limit } = verdict {
            self.counts.limited += 1;
            match joint {
                Some(joint) => self.counts.limited_by[joint.min(MAX_JOINTS - 1)][limit as usize] += 1,
                None => self.counts.limited_by_workspace += 1,
            }
        }
        self.counts.digest.add(now, &command);
        for cause in Cause::ALL {
            let bit = 1 << cause as u32;
            if causes.has(cause) && self.active_causes & bit == 0 {
                self.counts.causes.count(cause);
                let joint = causes.joint.and_then(|joint| u8::try_from(joint).ok());
                self.tell(Event { now, cause, rung, joint });
            }
        }
        self.active_causes = causes.bits;
        self.remember(now);
        let mut camera_to_command = None;
        if matches!(rung, Rung::Fresh | Rung::Continued) && self.newest_used != self.scheduler.sequence() {
            self.newest_used = self.scheduler.sequence();
            camera_to_command = self.scheduler.captured().map(|captured| now.duration_since(captured));
        }
        if let Some(span) = camera_to_command {
            self.counts.camera_to_command.record(span);
            self.counts.deadline_misses += u64::from(span > self.spec.control.deadline);
        }
        let cause = stop.or_else(|| Cause::ALL.into_iter().find(|&cause| causes.has(cause)));
        if let Some(records) = &mut self.records {
            let plays = matches!(rung, Rung::Fresh | Rung::Continued);
            let captured = self.scheduler.captured().filter(|_| plays);
            let state = self.states.newest().copied();
            let kept = records.push(TickRecord { now, state, command, rung, cause, captured }).is_ok();
            self.counts.records_dropped += u64::from(!kept);
        }
        let provenance = self.provenance_on(rung);
        let (ladder, operation, orders) = (self.counts.ladder, self.operation, self.counts.orders);
        Some(Tick { command, rung, verdict, cause, camera_to_command, provenance, ladder, operation, orders })
    }

    fn tell(&mut self, event: Event) {
        let told = self.events.as_mut().is_some_and(|events| events.push(event).is_ok());
        self.counts.events_dropped += u64::from(!told && self.events.is_some());
    }

    /// Writes what the inference side needs into a snapshot that has room for it.
    ///
    /// # Real-time
    /// Does not allocate when `snapshot` came from [`ControlSnapshot::new`].
    pub fn snapshot(&self, now: Instant, snapshot: &mut ControlSnapshot) {
        snapshot.now = now;
        let follows =
            self.lifecycle == Lifecycle::Active && self.latched.is_none() && self.operation == Operation::Following;
        let wants =
            |ahead| follows && self.scheduler.wants_chunk(now.saturating_add(ahead), self.motion.saturating_add(ahead));
        snapshot.wants_chunk = wants(Duration::ZERO);
        snapshot.wants_chunk_soon = wants(SOON);
        snapshot.epoch = self.scheduler.epoch();
        snapshot.states.copy_from(&self.states);
        snapshot.motion.clear();
        snapshot.motion.extend_from_slice(&self.history);
        self.scheduler.plan(&mut snapshot.plan);
        snapshot.expected_latency = self.scheduler.expected_latency();
    }

    /// Whether the robot has a cycle that can set the pace.
    pub fn robot_sets_the_pace(&self) -> bool {
        self.robot.sets_the_pace()
    }

    /// Waits for the robot's next cycle, until `until` at the latest; whether it came.
    pub fn wait_for_cycle(&mut self, clock: &dyn Clock, until: Instant) -> bool {
        self.robot.wait_for_cycle(clock, until)
    }

    /// Measured joint positions, `[D]` rad, at the newest state.
    pub fn measured(&self) -> Option<&JointVec> {
        self.states.newest().map(|state| &state.position_rad)
    }
}

/// The causes present in one period.
#[derive(Default)]
struct Causes {
    bits: u32,
    joint: Option<usize>,
}

impl Causes {
    fn note(&mut self, cause: Cause, joint: Option<usize>) {
        self.bits |= 1 << cause as u32;
        self.joint = self.joint.or(joint);
    }

    fn has(&self, cause: Cause) -> bool {
        self.bits & (1 << cause as u32) != 0
    }
}
