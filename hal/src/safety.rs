//! The safety filter: the only maker of commands an arm accepts.
//!
//! It is a guard, not a planner: a command inside every limit passes unchanged; any other is limited, or the joints are
//! braked, and the verdict says which joint and which limit. The filter keeps an invariant by induction: **from the
//! state it commanded last, every joint can brake to rest inside its position limits without exceeding its
//! acceleration and jerk limits.** A command is accepted only when the state it leads to still has that property;
//! otherwise the braking step, which has it by construction, is taken instead.
//!
//! Everything here is arithmetic on inline arrays: no allocation, no lock, no formatting.

use crate::frame::FrameStamp;
use crate::joints::{JointVec, MAX_JOINTS};
use crate::kinematics::Chain;
use crate::time::Instant;
use core::ops::Range;
use core::time::Duration;

/// How an arm is to follow a command. Effort is refused by having no variant.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum CommandMode {
    /// Follow positions.
    Position,
    /// Follow velocities; a hold is velocity 0.
    Velocity,
}

/// What somebody wants the joints to do during the next control period.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct JointCommand {
    /// How `target` is meant.
    pub mode: CommandMode,
    /// `[D]` rad in position mode, rad/s in velocity mode.
    pub target: JointVec,
    /// The last instant at which the command may be sent.
    pub valid_until: Instant,
}

/// A command that obeys every limit of the robot. Only [`SafetyFilter`] makes one.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct SafeCommand {
    mode: CommandMode,
    position_rad: JointVec,
    velocity_rad_s: JointVec,
    stamp: Instant,
    valid_until: Instant,
    source: Option<FrameStamp>,
}

impl SafeCommand {
    /// How the arm is to follow it.
    pub fn mode(&self) -> CommandMode {
        self.mode
    }

    /// `[D]` rad: where the joints are to be at the end of the period.
    pub fn position_rad(&self) -> &[f64] {
        &self.position_rad
    }

    /// `[D]` rad/s: the commanded velocity over the period.
    pub fn velocity_rad_s(&self) -> &[f64] {
        &self.velocity_rad_s
    }

    /// When the filter made it.
    pub fn stamp(&self) -> Instant {
        self.stamp
    }

    /// The last instant at which it may be sent.
    pub fn valid_until(&self) -> Instant {
        self.valid_until
    }

    /// The frame it follows from; `None` for one that follows from no frame: braking, holding, stopped.
    pub fn source(&self) -> Option<FrameStamp> {
        self.source
    }

    /// The same command with the name of the frame it follows from.
    pub fn from_frame(self, source: Option<FrameStamp>) -> Self {
        Self { source, ..self }
    }

    /// The part for one arm of several.
    pub(crate) fn part(&self, joints: Range<usize>) -> Self {
        let cut = |whole: &JointVec| JointVec::from_fn(joints.len(), |j| whole[joints.start + j]);
        Self { position_rad: cut(&self.position_rad), velocity_rad_s: cut(&self.velocity_rad_s), ..*self }
    }
}

/// Limits of one joint.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct JointLimits {
    /// Smallest position, rad.
    pub lower_rad: f64,
    /// Largest position, rad.
    pub upper_rad: f64,
    /// Largest speed, rad/s.
    pub velocity_rad_s: f64,
    /// Largest acceleration, rad/s².
    pub acceleration_rad_s2: f64,
    /// Largest jerk, rad/s³.
    pub jerk_rad_s3: f64,
}

/// An axis-aligned box, in the base frame, that the tool may not leave.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct WorkspaceBox {
    /// Smallest corner, m.
    pub min_m: [f64; 3],
    /// Largest corner, m.
    pub max_m: [f64; 3],
}

impl WorkspaceBox {
    /// How far outside the box a point lies, m; 0 inside.
    fn excess_m(&self, point: &[f64; 3]) -> f64 {
        (0..3).map(|i| (self.min_m[i] - point[i]).max(point[i] - self.max_m[i]).max(0.0)).fold(0.0, f64::max)
    }
}

/// Everything the filter guards.
#[derive(Clone, Debug)]
pub struct SafetyLimits {
    /// Control period: the time from one command to the next.
    pub period: Duration,
    /// How long a command made by the filter may be sent.
    pub command_valid: Duration,
    /// One entry per joint.
    pub joints: Vec<JointLimits>,
    /// The tool's box and the chain that says where the tool is, where declared.
    pub workspace: Option<(WorkspaceBox, Chain)>,
}

/// The limit that was met.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Position: going on would make a stop before the joint's end impossible.
    Position,
    /// Velocity.
    Velocity,
    /// Acceleration.
    Acceleration,
    /// Jerk.
    Jerk,
    /// The tool's box.
    Workspace,
}

impl Limit {
    /// Every limit, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Position, Self::Velocity, Self::Acceleration, Self::Jerk, Self::Workspace];

    /// The name used in counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Position => "position",
            Self::Velocity => "velocity",
            Self::Acceleration => "acceleration",
            Self::Jerk => "jerk",
            Self::Workspace => "workspace",
        }
    }
}

/// Why the joints were braked instead of following.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum HeldCause {
    /// The target was not finite, or for another number of joints.
    Malformed,
    /// The command was past its `valid_until`.
    Stale,
    /// The caller asked for a stop.
    Asked,
}

/// What the filter did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The command left as it came.
    Passed,
    /// The command was changed to obey a limit.
    Limited {
        /// The first joint that met it; none for the tool's box.
        joint: Option<usize>,
        /// The limit.
        limit: Limit,
    },
    /// The joints are braking.
    Held(HeldCause),
    /// The joints are at rest and stay there.
    Stopped(HeldCause),
}

/// The commanded motion of all joints at one tick.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Motion {
    /// `[D]` rad.
    pub position_rad: JointVec,
    /// `[D]` rad/s.
    pub velocity_rad_s: JointVec,
    /// `[D]` rad/s².
    pub acceleration_rad_s2: JointVec,
}

impl Motion {
    /// At rest at `position_rad`.
    pub fn at_rest(position_rad: JointVec) -> Self {
        let zeros = JointVec::zeros(position_rad.len());
        Self { position_rad, velocity_rad_s: zeros, acceleration_rad_s2: zeros }
    }

    /// Whether no joint moves.
    pub fn is_at_rest(&self) -> bool {
        self.velocity_rad_s.iter().chain(self.acceleration_rad_s2.iter()).all(|&value| value == 0.0)
    }
}

/// Why a filter cannot be made or moved.
#[derive(Copy, Clone, Debug, PartialEq, thiserror::Error)]
pub enum SafetyError {
    /// The start has another number of joints than the limits, or is not finite.
    #[error("the start position has {got} finite joints and the limits are for {needed}")]
    Joints {
        /// Joints of the limits.
        needed: usize,
        /// Finite joints given.
        got: usize,
    },
    /// The start lies outside a joint's limits.
    #[error("joint {joint} stands at {position_rad} rad, outside its limits: move it inside by hand")]
    Outside {
        /// The joint.
        joint: usize,
        /// Where it stands, rad.
        position_rad: f64,
    },
}

/// One joint's commanded motion: positions at ticks, velocity and acceleration as their differences.
#[derive(Copy, Clone)]
struct Tick {
    p: f64,
    v: f64,
    a: f64,
}

/// Slack for rounding, relative to a limit.
const SLACK: f64 = 1e-9;
/// A braking joint comes to rest within this many periods or the limits are not usable.
const MAX_BRAKE_TICKS: usize = 4096;

impl Tick {
    fn step(self, a: f64, dt: f64) -> Self {
        let v = self.v + a * dt;
        Self { p: self.p + v * dt, v, a }
    }

    /// One period of braking: the largest deceleration from which the acceleration can still be brought to zero
    /// together with the velocity. A ramp `a, a − J·dt, …, 0` changes the velocity by `a²/2J + a·dt/2`; solved for
    /// `a`, and capped where the last step would overshoot.
    fn brake(self, limits: &JointLimits, dt: f64) -> Self {
        let jerk = limits.jerk_rad_s3;
        let speed = self.v.abs();
        let ramp = jerk * ((dt * dt / 4.0 + 2.0 * speed / jerk).sqrt() - dt / 2.0);
        let wanted = -self.v.signum() * ramp.min(speed / dt).min(limits.acceleration_rad_s2);
        let mut next = self.step(wanted.clamp(self.a - jerk * dt, self.a + jerk * dt), dt);
        if next.v.abs() < 1e-12 && next.a.abs() <= jerk * dt {
            next.v = 0.0;
        }
        if next.v == 0.0 && self.v == 0.0 && next.a.abs() < 1e-12 {
            next = Self { p: self.p, v: 0.0, a: 0.0 };
        }
        next
    }

    /// Where braking from here ends, or `None` when it would leave the limits on the way.
    fn stop(self, limits: &JointLimits, dt: f64) -> Option<f64> {
        let speed = limits.velocity_rad_s * (1.0 + SLACK) + 1e-12;
        let (lower, upper) = (limits.lower_rad - 1e-9, limits.upper_rad + 1e-9);
        let mut tick = self;
        for _ in 0..MAX_BRAKE_TICKS {
            if tick.v.abs() > speed || tick.p < lower || tick.p > upper {
                return None;
            }
            if tick.v == 0.0 && tick.a == 0.0 {
                return Some(tick.p);
            }
            tick = tick.brake(limits, dt);
        }
        None
    }
}

/// The guard between everything that wants motion and every arm. See the module's documentation for its invariant.
#[derive(Clone, Debug)]
pub struct SafetyFilter {
    limits: SafetyLimits,
    motion: Motion,
}

impl SafetyFilter {
    /// A filter whose joints rest at `start_rad`.
    ///
    /// # Errors
    /// [`SafetyError`] when the start is not a pose inside the limits.
    pub fn new(limits: SafetyLimits, start_rad: &[f64]) -> Result<Self, SafetyError> {
        let needed = limits.joints.len();
        let mut filter = Self { motion: Motion::at_rest(JointVec::zeros(needed)), limits };
        filter.restart(start_rad)?;
        Ok(filter)
    }

    /// Puts the commanded motion at rest at `start_rad`: for activation and for leaving a latched fault, never during
    /// motion. A start up to 0.02 rad outside a limit (sag, encoder noise) is taken as the limit itself.
    ///
    /// # Errors
    /// [`SafetyError`] when the start is not a pose inside the limits; the motion is left as it was.
    pub fn restart(&mut self, start_rad: &[f64]) -> Result<(), SafetyError> {
        let needed = self.limits.joints.len();
        let got = start_rad.iter().filter(|value| value.is_finite()).count();
        if got != needed || start_rad.len() != needed || needed > MAX_JOINTS {
            return Err(SafetyError::Joints { needed, got });
        }
        let mut start = JointVec::zeros(needed);
        for (joint, (&position_rad, limits)) in start_rad.iter().zip(&self.limits.joints).enumerate() {
            let inside = position_rad.clamp(limits.lower_rad, limits.upper_rad);
            if (inside - position_rad).abs() > 0.02 {
                return Err(SafetyError::Outside { joint, position_rad });
            }
            start[joint] = inside;
        }
        self.motion = Motion::at_rest(start);
        Ok(())
    }

    /// The motion commanded last.
    pub fn motion(&self) -> &Motion {
        &self.motion
    }

    /// The limits being guarded.
    pub fn limits(&self) -> &SafetyLimits {
        &self.limits
    }

    /// One period: the command if it obeys every limit, else the nearest one that does. Always yields a command.
    ///
    /// # Real-time
    /// Does not allocate, lock or block. A passing command costs one braking simulation a joint only near its
    /// limits.
    pub fn filter(&mut self, now: Instant, command: &JointCommand) -> (SafeCommand, Verdict) {
        let joints = self.limits.joints.len();
        if command.target.len() != joints || !command.target.is_finite() {
            return self.brake(now, HeldCause::Malformed);
        }
        if now > command.valid_until {
            return self.brake(now, HeldCause::Stale);
        }
        let dt = self.limits.period.as_secs_f64();
        let mut verdict = Verdict::Passed;
        let mut next = self.motion;
        let mut stops = JointVec::zeros(joints);
        for joint in 0..joints {
            let limits = &self.limits.joints[joint];
            let tick = self.tick(joint);
            let wanted = match command.mode {
                CommandMode::Position => ((command.target[joint] - tick.p) / dt - tick.v) / dt,
                CommandMode::Velocity => (command.target[joint] - tick.v) / dt,
            };
            let (taken, stop, met) = admit(tick, wanted, limits, dt);
            if let (Some(limit), Verdict::Passed) = (met, verdict) {
                verdict = Verdict::Limited { joint: Some(joint), limit };
            }
            stops[joint] = stop;
            next.position_rad[joint] = match (met, command.mode) {
                (None, CommandMode::Position) => command.target[joint],
                _ => taken.p,
            };
            next.velocity_rad_s[joint] = taken.v;
            next.acceleration_rad_s2[joint] = taken.a;
        }
        if let Some((allowed, chain)) = &self.limits.workspace {
            let excess =
                |positions: &JointVec| chain.tool_m(positions).map_or(f64::INFINITY, |at| allowed.excess_m(&at));
            let beyond = excess(&stops);
            if beyond > 0.0 && beyond >= excess(&self.motion.position_rad) {
                let (command, _) = self.brake(now, HeldCause::Asked);
                return (command, Verdict::Limited { joint: None, limit: Limit::Workspace });
            }
        }
        self.motion = next;
        (self.command(now, command.mode), verdict)
    }

    /// One period of stopping: every joint brakes under its jerk and acceleration limits, then holds.
    ///
    /// # Real-time
    /// Does not allocate, lock or block.
    pub fn brake(&mut self, now: Instant, cause: HeldCause) -> (SafeCommand, Verdict) {
        let dt = self.limits.period.as_secs_f64();
        for joint in 0..self.limits.joints.len() {
            let next = self.tick(joint).brake(&self.limits.joints[joint], dt);
            self.motion.position_rad[joint] = next.p.clamp(
                self.limits.joints[joint].lower_rad.min(self.motion.position_rad[joint]),
                self.limits.joints[joint].upper_rad.max(self.motion.position_rad[joint]),
            );
            self.motion.velocity_rad_s[joint] = next.v;
            self.motion.acceleration_rad_s2[joint] = next.a;
        }
        let verdict = if self.motion.is_at_rest() { Verdict::Stopped(cause) } else { Verdict::Held(cause) };
        (self.command(now, CommandMode::Position), verdict)
    }

    fn tick(&self, joint: usize) -> Tick {
        Tick {
            p: self.motion.position_rad[joint],
            v: self.motion.velocity_rad_s[joint],
            a: self.motion.acceleration_rad_s2[joint],
        }
    }

    fn command(&self, now: Instant, mode: CommandMode) -> SafeCommand {
        SafeCommand {
            mode,
            position_rad: self.motion.position_rad,
            velocity_rad_s: self.motion.velocity_rad_s,
            stamp: now,
            valid_until: now.saturating_add(self.limits.command_valid),
            source: None,
        }
    }
}

/// The acceleration nearest to `wanted` that keeps the joint stoppable: the state it leads to, where braking from
/// there would end, and the limit that was met.
fn admit(tick: Tick, wanted: f64, limits: &JointLimits, dt: f64) -> (Tick, f64, Option<Limit>) {
    let jerk = limits.jerk_rad_s3 * dt;
    let top = limits.acceleration_rad_s2;
    // Rounding of a position difference, seen through two divisions by the period.
    let slack = 4.0 * f64::EPSILON * (1.0 + tick.p.abs()) / (dt * dt) + SLACK * top;
    let mut met = None;
    let mut a = wanted;
    if (a - tick.a).abs() > jerk + slack {
        met = Some(Limit::Jerk);
        a = a.clamp(tick.a - jerk, tick.a + jerk);
    }
    if a.abs() > top + slack {
        met = Some(Limit::Acceleration);
        a = a.clamp(-top, top).clamp(tick.a - jerk, tick.a + jerk);
    }
    let candidate = tick.step(a, dt);
    if let Some(stop) = candidate.stop(limits, dt) {
        return (candidate, stop, met);
    }
    let met = if fastest(candidate, limits, dt) > limits.velocity_rad_s { Limit::Velocity } else { Limit::Position };
    // Between braking, which is admissible by the invariant, and the candidate, which is not: the most that is.
    let safe = tick.brake(limits, dt);
    let (mut low, mut high) = (0.0, 1.0);
    let mut best = (safe, safe.stop(limits, dt).unwrap_or(safe.p));
    for _ in 0..12 {
        let share = (low + high) / 2.0;
        let trial = tick.step(safe.a + (a - safe.a) * share, dt);
        match trial.stop(limits, dt) {
            Some(stop) => {
                best = (trial, stop);
                low = share;
            }
            None => high = share,
        }
    }
    (best.0, best.1, Some(met))
}

/// The highest speed met while braking from `tick`.
fn fastest(tick: Tick, limits: &JointLimits, dt: f64) -> f64 {
    let mut tick = tick;
    let mut speed = tick.v.abs();
    for _ in 0..MAX_BRAKE_TICKS {
        if tick.v == 0.0 && tick.a == 0.0 {
            break;
        }
        tick = tick.brake(limits, dt);
        speed = speed.max(tick.v.abs());
    }
    speed
}

#[cfg(test)]
mod tests {
    use super::*;

    const DT: f64 = 0.01;

    fn limits() -> SafetyLimits {
        let joint = JointLimits {
            lower_rad: -1.0,
            upper_rad: 1.0,
            velocity_rad_s: 2.0,
            acceleration_rad_s2: 10.0,
            jerk_rad_s3: 200.0,
        };
        SafetyLimits {
            period: Duration::from_millis(10),
            command_valid: Duration::from_millis(50),
            joints: vec![joint; 2],
            workspace: None,
        }
    }

    fn at(tick: u64) -> Instant {
        Instant::from_nanos(tick * 10_000_000)
    }

    fn to(now: Instant, target: [f64; 2]) -> JointCommand {
        JointCommand {
            mode: CommandMode::Position,
            target: JointVec::from_slice(&target).unwrap(),
            valid_until: now.saturating_add(Duration::from_millis(20)),
        }
    }

    /// Replays positions and asserts every limit on what was commanded.
    fn assert_inside(positions: &[f64]) {
        let d = |x: &[f64]| x.windows(2).map(|w| (w[1] - w[0]) / DT).collect::<Vec<_>>();
        let v = d(positions);
        let a = d(&v);
        let j = d(&a);
        assert!(positions.iter().all(|p| p.abs() <= 1.0 + 1e-9));
        assert!(v.iter().all(|v| v.abs() <= 2.0 + 1e-6), "{:?}", v.iter().fold(0.0f64, |m, v| m.max(v.abs())));
        assert!(a.iter().all(|a| a.abs() <= 10.0 + 1e-4), "{:?}", a.iter().fold(0.0f64, |m, v| m.max(v.abs())));
        assert!(j.iter().all(|j| j.abs() <= 200.0 + 1e-2), "{:?}", j.iter().fold(0.0f64, |m, v| m.max(v.abs())));
    }

    #[test]
    fn whatever_is_asked_every_limit_holds_and_the_joint_stops_before_its_end() {
        let mut seed = 7u64;
        let mut random = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as f64 / (1u64 << 31) as f64 * 2.0 - 1.0
        };
        for case in 0..40 {
            let mut filter = SafetyFilter::new(limits(), &[0.0, 0.0]).unwrap();
            let mut positions = vec![0.0; 4];
            let mut target = [0.0, 0.0];
            for tick in 0..400 {
                if tick % (1 + case % 37) == 0 {
                    target = [random() * 3.0, random() * 3.0];
                }
                let now = at(tick);
                let (command, _) = if case % 5 == 4 && tick % 90 > 60 {
                    filter.brake(now, HeldCause::Asked)
                } else {
                    filter.filter(now, &to(now, target))
                };
                positions.push(command.position_rad()[0]);
            }
            assert_inside(&positions);
        }
    }

    #[test]
    fn a_command_inside_the_limits_leaves_unchanged() {
        let mut filter = SafetyFilter::new(limits(), &[0.0, 0.0]).unwrap();
        for tick in 0..300u64 {
            let target = 0.3 * (1.0 - (tick as f64 * DT * 2.0).cos()) * (1.0 - (-(tick as f64) * DT).exp());
            let now = at(tick);
            let (command, verdict) = filter.filter(now, &to(now, [target, -target]));
            assert_eq!(verdict, Verdict::Passed, "tick {tick}");
            assert_eq!(command.position_rad()[0], target);
        }
    }

    #[test]
    fn a_malformed_or_stale_command_brakes_to_a_hold_without_a_jump() {
        for bad in [f64::NAN, f64::INFINITY] {
            let mut filter = SafetyFilter::new(limits(), &[0.0, 0.0]).unwrap();
            let mut positions = vec![0.0; 4];
            for tick in 0..30 {
                positions.push(filter.filter(at(tick), &to(at(tick), [1.0, 0.0])).0.position_rad()[0]);
            }
            assert!(filter.motion().velocity_rad_s[0] > 0.5, "the joint is moving");
            let mut verdict = Verdict::Passed;
            for tick in 30..120 {
                let (command, now_verdict) = filter.filter(at(tick), &to(at(tick), [bad, 0.0]));
                positions.push(command.position_rad()[0]);
                verdict = now_verdict;
            }
            assert_eq!(verdict, Verdict::Stopped(HeldCause::Malformed));
            assert_inside(&positions);
            assert_eq!(positions[positions.len() - 1], positions[positions.len() - 2]);
        }
        let mut filter = SafetyFilter::new(limits(), &[0.0, 0.0]).unwrap();
        let stale = to(at(0), [0.5, 0.5]);
        assert_eq!(filter.filter(at(3), &stale).1, Verdict::Stopped(HeldCause::Stale));
    }

    #[test]
    fn a_start_outside_the_limits_is_refused_by_joint() {
        assert_eq!(
            SafetyFilter::new(limits(), &[0.0, 1.2]).err(),
            Some(SafetyError::Outside { joint: 1, position_rad: 1.2 })
        );
        assert!(matches!(
            SafetyFilter::new(limits(), &[f64::NAN, 0.0]),
            Err(SafetyError::Joints { needed: 2, got: 1 })
        ));
        assert_eq!(SafetyFilter::new(limits(), &[1.01, 0.0]).unwrap().motion().position_rad[0], 1.0);
    }

    #[test]
    fn a_velocity_command_of_zero_holds() {
        let mut filter = SafetyFilter::new(limits(), &[0.2, 0.0]).unwrap();
        for tick in 0..100 {
            let now = at(tick);
            let command =
                JointCommand { mode: CommandMode::Velocity, ..to(now, [if tick < 40 { 0.5 } else { 0.0 }, 0.0]) };
            let (safe, _) = filter.filter(now, &command);
            assert_eq!(safe.mode(), CommandMode::Velocity);
        }
        assert_eq!(filter.motion().velocity_rad_s[0], 0.0);
    }
}
