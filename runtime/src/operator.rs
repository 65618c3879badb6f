//! What an operator may ask of a running robot, and the motion to a pose.
//!
//! Orders reach the control loop by a queue of its own and by nothing else. A robot that is paused, or goes to a pose,
//! keeps the whole failure ladder over it: a fault brakes it as it brakes a policy.

use crate::metrics::Cause;
use core::time::Duration;
use endplate_hal::{JointLimits, JointVec};

/// An order.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Order {
    /// Brake, then hold, torque on; what was being played is forgotten.
    Pause,
    /// Follow the policy again: rows of frames captured from now on.
    Resume,
    /// Come to rest, go to a pose, `[D]` rad, then hold as in a pause.
    GoTo(JointVec),
    /// Switch the torque off and write no more: taken only in a pause and at rest, best in a pose that holds itself.
    Release,
}

/// Who is in charge.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// The policy.
    #[default]
    Following,
    /// The operator: the arm holds.
    Paused,
    /// The operator: the arm goes to a pose.
    Going,
    /// Nobody: the torque is being switched off.
    Releasing,
    /// Nobody: the bus has confirmed that the torque is off.
    Released,
}

impl Operation {
    /// Why the policy is not followed; `None` while it is.
    pub fn cause(self) -> Option<Cause> {
        (self != Self::Following).then_some(Cause::Operator)
    }
}

/// From rest to rest along `10τ³ − 15τ⁴ + 6τ⁵`, all joints together, inside a share of every joint's limits.
#[derive(Copy, Clone, Debug)]
pub(crate) struct PoseMotion {
    from: JointVec,
    to: JointVec,
    periods: f64,
    passed: f64,
}

/// Peaks of the first three derivatives of the polynomial: 15/8, 10/√3, 60.
const PEAKS: [f64; 3] = [1.875, 5.773_502_691_896_258, 60.0];
/// Of the limits, so that the filter limits nothing.
const MOST: f64 = 0.9;

impl PoseMotion {
    /// The shortest such motion at `share` of the limits.
    pub(crate) fn new(from: &JointVec, to: &JointVec, limits: &[JointLimits], share: f64, period: Duration) -> Self {
        let share = share.min(MOST);
        let seconds = (0..limits.len()).map(|joint| {
            let (way, limits) = ((to[joint] - from[joint]).abs(), &limits[joint]);
            let speed = PEAKS[0] * way / (share * limits.velocity_rad_s);
            let acceleration = (PEAKS[1] * way / (share * limits.acceleration_rad_s2)).sqrt();
            let jerk = (PEAKS[2] * way / (share * limits.jerk_rad_s3)).cbrt();
            speed.max(acceleration).max(jerk)
        });
        let seconds = seconds.fold(0.0, f64::max);
        Self { from: *from, to: *to, periods: (seconds / period.as_secs_f64()).ceil().max(1.0), passed: 0.0 }
    }

    /// The position of the next period; `None` once the pose has been commanded.
    pub(crate) fn next(&mut self) -> Option<JointVec> {
        if self.passed >= self.periods {
            return None;
        }
        self.passed += 1.0;
        let share = self.passed / self.periods;
        let smooth = share * share * share * (10.0 + share * (6.0 * share - 15.0));
        Some(JointVec::from_fn(self.to.len(), |joint| {
            if share >= 1.0 { self.to[joint] } else { self.from[joint] + (self.to[joint] - self.from[joint]) * smooth }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_motion_to_a_pose_keeps_to_its_share_of_every_limit() {
        let limits = [
            JointLimits {
                lower_rad: -3.0,
                upper_rad: 3.0,
                velocity_rad_s: 2.0,
                acceleration_rad_s2: 12.0,
                jerk_rad_s3: 200.0,
            },
            JointLimits {
                lower_rad: -3.0,
                upper_rad: 3.0,
                velocity_rad_s: 0.5,
                acceleration_rad_s2: 90.0,
                jerk_rad_s3: 900.0,
            },
            JointLimits {
                lower_rad: -3.0,
                upper_rad: 3.0,
                velocity_rad_s: 50.0,
                acceleration_rad_s2: 90.0,
                jerk_rad_s3: 50.0,
            },
        ];
        let dt = Duration::from_millis(10);
        let from = JointVec::from_fn(3, |joint| 0.1 * joint as f64);
        for ways in [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [0.02, -0.3, 0.7]] {
            let to = JointVec::from_fn(3, |joint| from[joint] + ways[joint]);
            let mut motion = PoseMotion::new(&from, &to, &limits, 0.5, dt);
            let mut last = [(from, JointVec::zeros(3), JointVec::zeros(3)); 1][0];
            let mut fastest = 0.0f64;
            while let Some(position) = motion.next() {
                let s = dt.as_secs_f64();
                let velocity = JointVec::from_fn(3, |joint| (position[joint] - last.0[joint]) / s);
                let acceleration = JointVec::from_fn(3, |joint| (velocity[joint] - last.1[joint]) / s);
                for joint in 0..3 {
                    let share = velocity[joint].abs() / limits[joint].velocity_rad_s;
                    fastest = fastest.max(share).max(acceleration[joint].abs() / limits[joint].acceleration_rad_s2);
                    fastest = fastest.max((acceleration[joint] - last.2[joint]).abs() / s / limits[joint].jerk_rad_s3);
                }
                last = (position, velocity, acceleration);
            }
            assert_eq!(last.0, to);
            assert!((0.4..=0.501).contains(&fastest), "{ways:?}: {fastest}");
        }
    }

    #[test]
    fn a_pose_that_is_taken_already_takes_one_period() {
        let here = JointVec::zeros(2);
        let limit = JointLimits {
            lower_rad: -1.0,
            upper_rad: 1.0,
            velocity_rad_s: 1.0,
            acceleration_rad_s2: 1.0,
            jerk_rad_s3: 1.0,
        };
        let mut motion = PoseMotion::new(&here, &here, &[limit; 2], 1.0, Duration::from_millis(10));
        assert_eq!((motion.next(), motion.next()), (Some(here), None));
    }
}
