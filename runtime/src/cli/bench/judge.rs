//! What must hold of every command, whatever fails.

use super::kinematic::{START, WARM_UP};
use endplate_hal::{Instant, RobotSpec};
use endplate_runtime::{Rung, TickRecord};
use endplate_sim::fault::{Fault, FaultKind};

/// Checks what must hold of every command, whatever fails.
pub struct Judge<'a> {
    robot: &'a RobotSpec,
    estop: Option<Instant>,
    last: Option<TickRecord>,
    velocity: Vec<f64>,
    acceleration: Vec<f64>,
    braking_since: Option<Instant>,
    /// Commands judged.
    pub commands: u64,
    /// Of those, how many on each rung.
    pub rungs: [u64; 6],
    /// The first property that did not hold, and when.
    pub broken: Option<String>,
}

impl<'a> Judge<'a> {
    /// A judge who has seen nothing; `robot` has the limits.
    pub fn new(robot: &'a RobotSpec) -> Self {
        let joints = robot.joints.len();
        Self {
            robot,
            estop: None,
            last: None,
            velocity: vec![0.0; joints],
            acceleration: vec![0.0; joints],
            braking_since: None,
            commands: 0,
            rungs: [0; 6],
            broken: None,
        }
    }

    /// The faults that will strike.
    pub fn expect(&mut self, faults: &[Fault]) {
        // One that is let go again before activation is no business of the control loop's.
        let is_seen = |fault: &&Fault| {
            fault.kind == FaultKind::Estop && fault.duration.is_none_or(|duration| fault.start + duration > WARM_UP)
        };
        let pressed = faults.iter().filter(is_seen).map(|fault| fault.start).min();
        self.estop = pressed.map(|start| START.saturating_add(start.max(WARM_UP)));
    }

    /// Judges one command.
    pub fn watch(&mut self, record: &TickRecord) {
        self.commands += 1;
        self.rungs[record.rung as usize] += 1;
        let broken = self.motion(record).or_else(|| self.ladder(record)).or_else(|| self.age(record));
        if let (None, Some(what)) = (&self.broken, broken) {
            let at = record.now.seconds_since(START);
            self.broken = Some(format!("at {at:.2} s on {:?} because of {:?}: {what}", record.rung, record.cause));
        }
        self.last = Some(*record);
    }

    /// Finite, inside the limits, continuous to the jerk.
    fn motion(&mut self, record: &TickRecord) -> Option<String> {
        let dt = self.robot.control.period.as_secs_f64();
        let mut broken = None;
        for (joint, described) in self.robot.joints.iter().enumerate() {
            let limits = &described.limits;
            let p = record.command.position_rad()[joint];
            let before = self.last.as_ref().map_or(p, |last| last.command.position_rad()[joint]);
            let v = (p - before) / dt;
            let a = (v - self.velocity[joint]) / dt;
            let j = (a - self.acceleration[joint]) / dt;
            let checks = [
                (p.is_finite(), "is not finite", p),
                (p >= limits.lower_rad - 1e-9 && p <= limits.upper_rad + 1e-9, "is outside its limits", p),
                (v.abs() <= limits.velocity_rad_s + 1e-6, "is too fast, rad/s", v),
                (a.abs() <= limits.acceleration_rad_s2 + 1e-3, "accelerates too hard, rad/s²", a),
                (j.abs() <= limits.jerk_rad_s3 + 1.0, "jerks, rad/s³", j),
            ];
            let wrong = checks.into_iter().find(|(holds, _, _)| !holds);
            broken = broken.or_else(|| wrong.map(|(_, what, value)| format!("{} {what}: {value}", described.name)));
            (self.velocity[joint], self.acceleration[joint]) = (v, a);
        }
        broken
    }

    /// One command a period; down one way only; a stop latches, ends in time, and an e-stop is seen in its period.
    fn ladder(&mut self, record: &TickRecord) -> Option<String> {
        let plays = matches!(record.rung, Rung::Fresh | Rung::Continued);
        if plays {
            self.braking_since = None;
        } else if record.rung == Rung::Decelerated {
            let since = *self.braking_since.get_or_insert(record.now);
            if record.now.duration_since(since) > self.robot.control.stop_time {
                return Some("brakes longer than the declared stop time".to_owned());
            }
        }
        if self.estop.is_some_and(|estop| record.now >= estop) && plays {
            return Some("plays on after the e-stop".to_owned());
        }
        let last = self.last.as_ref()?;
        if record.now.duration_since(last.now) != self.robot.control.period {
            return Some("a period without a command".to_owned());
        }
        match (last.rung, record.rung) {
            (Rung::Held | Rung::Stopped, Rung::Decelerated) => Some("moves again without a chunk".to_owned()),
            (Rung::Stopped, rung) if rung != Rung::Stopped => Some("left a latched stop".to_owned()),
            (Rung::Fresh | Rung::Continued, Rung::Held | Rung::Stopped)
                if self.velocity.iter().any(|v| v.abs() > 1e-9) =>
            {
                Some("holds while moving".to_owned())
            }
            _ => None,
        }
    }

    /// What is played was seen recently enough, and the command may still be sent.
    fn age(&self, record: &TickRecord) -> Option<String> {
        if record.command.valid_until() < record.now {
            return Some("the command had expired when it was made".to_owned());
        }
        let captured = record.captured?;
        let age = record.now.duration_since(captured);
        if age > self.robot.control.max_chunk_age {
            return Some(format!("follows from a frame {age:?} old"));
        }
        let state = record.state.map(|state| record.now.duration_since(state.stamp));
        if state.is_none_or(|age| age > self.robot.control.state_max_age) {
            return Some(format!("plays on a joint state {state:?} old"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bundle::open_robot;
    use core::time::Duration;
    use endplate_hal::{CommandMode, FrameStamp, JointCommand, JointState, JointVec, SafeCommand, SafetyFilter};

    /// A robot that stands in the middle of its limits, and the filter that makes commands for it.
    struct Scene {
        robot: RobotSpec,
        filter: SafetyFilter,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let robot = open_robot(None).unwrap();
            let middle: Vec<f64> =
                robot.joints.iter().map(|joint| (joint.limits.lower_rad + joint.limits.upper_rad) / 2.0).collect();
            let filter = SafetyFilter::new(robot.safety_limits(), &middle).unwrap();
            Self { robot, filter, now: START.saturating_add(Duration::from_secs(60)) }
        }

        /// The record of a period in which the arm was asked to stand where it stands.
        fn record(&mut self, rung: Rung) -> TickRecord {
            self.now = self.now.saturating_add(self.robot.control.period);
            let target = self.filter.motion().position_rad;
            self.record_of(target, rung)
        }

        fn record_of(&mut self, target: JointVec, rung: Rung) -> TickRecord {
            let valid_until = self.now.saturating_add(Duration::from_millis(50));
            let asked = JointCommand { mode: CommandMode::Position, target, valid_until };
            let (command, _): (SafeCommand, _) = self.filter.filter(self.now, &asked);
            let state = JointState {
                stamp: self.now,
                position_rad: target,
                velocity_rad_s: JointVec::zeros(target.len()),
                effort_nm: None,
            };
            let command = command.from_frame(Some(FrameStamp::default()));
            TickRecord { now: self.now, state: Some(state), command, rung, cause: None, captured: Some(self.now) }
        }

        /// What a judge says of good periods and then of `bad`.
        fn verdict(mut self, bad: impl FnOnce(&mut Self) -> Vec<TickRecord>) -> Option<String> {
            let robot = self.robot.clone();
            let mut judge = Judge::new(&robot);
            judge.expect(&[]);
            for _ in 0..5 {
                judge.watch(&self.record(Rung::Fresh));
            }
            assert_eq!(judge.broken, None, "what is good is not blamed");
            for record in bad(&mut self) {
                judge.watch(&record);
            }
            judge.broken
        }
    }

    fn blamed(what: &str, bad: impl FnOnce(&mut Scene) -> Vec<TickRecord>) {
        let verdict = Scene::new().verdict(bad);
        assert!(verdict.as_ref().is_some_and(|verdict| verdict.contains(what)), "{what}: {verdict:?}");
    }

    #[test]
    fn a_stale_frame_and_a_stale_state_are_seen() {
        blamed("follows from a frame", |scene| {
            let mut record = scene.record(Rung::Fresh);
            record.captured = Some(scene.now.saturating_sub(scene.robot.control.max_chunk_age * 2));
            vec![record]
        });
        blamed("plays on a joint state", |scene| {
            let mut record = scene.record(Rung::Fresh);
            record.state = None;
            vec![record]
        });
    }

    #[test]
    fn a_period_without_a_command_and_an_expired_command_are_seen() {
        blamed("a period without a command", |scene| {
            scene.now = scene.now.saturating_add(scene.robot.control.period);
            vec![scene.record(Rung::Fresh)]
        });
        blamed("had expired", |scene| {
            let old = scene.record(Rung::Fresh);
            let periods = scene.robot.control.command_valid.as_nanos() / scene.robot.control.period.as_nanos() + 2;
            let mut records = vec![old];
            records.extend((0..periods).map(|_| scene.record(Rung::Fresh)));
            let newest = scene.record(Rung::Fresh);
            records.push(TickRecord { command: old.command, ..newest });
            records
        });
    }

    #[test]
    fn a_ladder_climbed_the_wrong_way_is_seen() {
        blamed("moves again without a chunk", |scene| vec![scene.record(Rung::Held), scene.record(Rung::Decelerated)]);
        blamed("left a latched stop", |scene| vec![scene.record(Rung::Stopped), scene.record(Rung::Fresh)]);
        blamed("brakes longer", |scene| {
            let periods = scene.robot.control.stop_time.as_nanos() / scene.robot.control.period.as_nanos() + 2;
            (0..periods).map(|_| scene.record(Rung::Decelerated)).collect()
        });
    }

    #[test]
    fn a_jump_and_a_hold_in_motion_are_seen() {
        // A filter with wider limits than the judge's robot lets through what ours would not.
        let leap = |scene: &mut Scene, rung| {
            let mut target = scene.filter.motion().position_rad;
            target[0] += 0.2;
            scene.filter.restart(&target).unwrap();
            scene.now = scene.now.saturating_add(scene.robot.control.period);
            scene.record_of(target, rung)
        };
        blamed("is too fast", |scene| vec![leap(scene, Rung::Fresh)]);
        blamed("is too fast", |scene| vec![leap(scene, Rung::Held)]);
    }

    #[test]
    fn playing_on_after_an_estop_is_seen() {
        let mut scene = Scene::new();
        let robot = scene.robot.clone();
        let mut judge = Judge::new(&robot);
        judge.expect(&[Fault::parse("estop@1").unwrap()]);
        judge.watch(&scene.record(Rung::Fresh));
        assert!(judge.broken.is_some_and(|broken| broken.contains("after the e-stop")));
    }
}
