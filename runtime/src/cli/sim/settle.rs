//! How the robot comes to rest at a goal that is held.
//!
//! The safety filter follows goals made for it, one a period. A goal that suddenly stays where it is cannot be met by a
//! joint that came fast: the filter overshoots, and asked for the same goal again it swings about it for ever. So a held
//! goal is not asked for again until the arm has stopped; then it is walked to, too slowly for any limit to matter.

use endplate_hal::{CommandMode, HeldCause, Instant, JointCommand, JointVec, SafeCommand, SafetyFilter, Verdict};

/// Speed of the walk, rad/s.
const EASY_RAD_S: f64 = 0.3;

/// Follows goals through the robot's own filter.
#[derive(Default)]
pub struct Follower {
    last: Option<Vec<f64>>,
    state: State,
}

#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// Every goal so far was met when it was asked for.
    #[default]
    Met,
    /// A held goal was not: the arm stops first.
    Stopping,
    /// It stands, and walks to the goal.
    Walking,
}

impl Follower {
    /// Forgets what was held.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// One period towards `goal`, `[D]` rad; `None` where it has another number of joints than the arm.
    pub fn follow(
        &mut self,
        filter: &mut SafetyFilter,
        now: Instant,
        goal: &[f64],
        valid_until: Instant,
    ) -> Option<(SafeCommand, Verdict)> {
        let mut target = JointVec::from_slice(goal)?;
        let is_held = self.last.as_deref() == Some(goal);
        if !is_held {
            self.last = Some(goal.to_vec());
            self.state = State::Met;
        }
        let motion = *filter.motion();
        if self.state == State::Stopping {
            if !motion.is_at_rest() {
                return Some(filter.brake(now, HeldCause::Asked));
            }
            self.state = State::Walking;
        }
        if self.state == State::Walking {
            let step = EASY_RAD_S * filter.limits().period.as_secs_f64();
            for (joint, target) in target.iter_mut().enumerate() {
                let at = motion.position_rad[joint];
                *target = at + (*target - at).clamp(-step, step);
            }
        }
        let asked = JointCommand { mode: CommandMode::Position, target, valid_until };
        let (command, verdict) = filter.filter(now, &asked);
        if is_held && matches!(verdict, Verdict::Limited { .. }) {
            self.state = State::Stopping;
        }
        Some((command, verdict))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use endplate_hal::{JointLimits, SafetyLimits};

    #[test]
    fn a_goal_that_stays_after_a_fast_approach_is_come_to_rest_at() {
        let period = Duration::from_millis(10);
        let joint = JointLimits {
            lower_rad: -2.0,
            upper_rad: 2.0,
            velocity_rad_s: 8.0,
            acceleration_rad_s2: 180.0,
            jerk_rad_s3: 12_000.0,
        };
        for speed in [0.5, 1.0, 1.5, 2.0, 3.0, 3.9] {
            let limits = SafetyLimits {
                period,
                command_valid: Duration::from_millis(200),
                joints: vec![joint; 2],
                workspace: None,
            };
            let mut filter = SafetyFilter::new(limits, &[0.0, 0.0]).unwrap();
            let (mut follower, mut goal) = (Follower::default(), [0.0, 0.0]);
            let mut now = Instant::from_nanos(1_000_000_000);
            for step in 0..300 {
                now = now.saturating_add(period);
                if step < 20 {
                    goal = [goal[0] + speed * 0.01, goal[1] - 0.5 * speed * 0.01];
                }
                let valid_until = now.saturating_add(Duration::from_millis(200));
                follower.follow(&mut filter, now, &goal, valid_until).unwrap();
            }
            assert_eq!(&filter.motion().position_rad[..], goal, "{speed} rad/s");
            assert!(filter.motion().is_at_rest(), "{speed} rad/s");
        }
    }
}
