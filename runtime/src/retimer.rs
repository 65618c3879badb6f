//! From a reference on motion time to the next command: a jerk-limited follower.
//!
//! The reference of one chunk is smooth, but a handover between chunks steps, and so does a gripper's row. The follower
//! takes the commanded motion to the reference under velocity, acceleration and jerk limits a little inside those of
//! the safety filter, so that in nominal running the filter limits nothing. Where the reference can be met exactly it is
//! met exactly: there is no lag.
//!
//! Written here rather than taken from a time-optimal library (`rsruckig` 3.0 was read): the limits must hold for the
//! *differences of the commands sent*, not for a continuous profile sampled at ticks, and its error paths format
//! strings, which the control path may not.

use crate::scheduler::Reference;
use endplate_hal::{JointLimits, JointVec, Motion};
use endplate_policies::Interpolation;

/// The share of the filter's limits the follower uses.
const SHARE: f64 = 0.9;
/// Time constants, in control periods, of the position and velocity errors: well damped, with room for the jerk limit.
const POSITION_PERIODS: f64 = 12.0;
const VELOCITY_PERIODS: f64 = 2.0;
/// Position errors between which motion time slows from full speed to a stop, rad.
const FULL_SPEED_RAD: f64 = 0.10;
const STOPPED_RAD: f64 = 0.40;
/// Largest change of the speed of motion time in one period.
const SPEED_STEP: f64 = 0.1;

/// Follows references; holds nothing but its limits and the speed of motion time.
#[derive(Clone, Debug)]
pub struct Retimer {
    limits: Vec<JointLimits>,
    interpolation: Vec<Interpolation>,
    period_s: f64,
    speed: f64,
}

impl Retimer {
    /// A follower for joints with these limits and interpolations, one command every `period_s`.
    pub fn new(limits: &[JointLimits], interpolation: &[Interpolation], period_s: f64) -> Self {
        Self { limits: limits.to_vec(), interpolation: interpolation.to_vec(), period_s, speed: 1.0 }
    }

    /// The speed of motion time: 0 stands still, 1 is as planned.
    pub fn speed(&self) -> f64 {
        self.speed
    }

    /// Motion stands still: the next motion starts from speed 0.
    pub fn hold(&mut self) {
        self.speed = 0.0;
    }

    /// Sets how fast motion time is to advance in this period, from how far the commanded motion lags behind the
    /// reference: all joints slow down together when one cannot keep up.
    /// `top` is the fastest.
    pub fn pace(&mut self, motion: &Motion, reference: &Reference, top: f64) -> f64 {
        let lag = (0..self.limits.len())
            .filter(|&joint| self.interpolation[joint] != Interpolation::Hold)
            .map(|joint| {
                // A reference beyond its limit is followed to the limit: waiting for the rest would be for ever.
                let limits = &self.limits[joint];
                let target = reference.position_rad[joint].clamp(limits.lower_rad, limits.upper_rad);
                (target - motion.position_rad[joint]).abs()
            })
            .fold(0.0, f64::max);
        let wanted = ((STOPPED_RAD - lag) / (STOPPED_RAD - FULL_SPEED_RAD)).clamp(0.0, 1.0) * top;
        self.speed += (wanted - self.speed).clamp(-SPEED_STEP, SPEED_STEP);
        self.speed
    }

    /// The positions to command at the end of this period, `[D]` rad.
    ///
    /// # Real-time
    /// Does not allocate, lock or block.
    pub fn follow(&self, motion: &Motion, reference: &Reference) -> JointVec {
        JointVec::from_fn(self.limits.len(), |joint| {
            let limits = &self.limits[joint];
            let (p, v, a) =
                (motion.position_rad[joint], motion.velocity_rad_s[joint], motion.acceleration_rad_s2[joint]);
            let target = Target {
                p: reference.position_rad[joint].clamp(limits.lower_rad, limits.upper_rad),
                v: reference.velocity_rad_s[joint] * self.speed,
                a: reference.acceleration_rad_s2[joint] * self.speed * self.speed,
            };
            let a = acceleration(p, v, a, &target, limits, self.period_s);
            p + (v + a * self.period_s) * self.period_s
        })
    }
}

struct Target {
    p: f64,
    v: f64,
    a: f64,
}

/// The acceleration of the next period: exactly the target's where that is within reach, else a cascade of position
/// and velocity errors, each capped by the speed (or acceleration) from which the rest can still be braked.
fn acceleration(p: f64, v: f64, a: f64, target: &Target, limits: &JointLimits, dt: f64) -> f64 {
    let jerk = limits.jerk_rad_s3 * SHARE;
    let top = limits.acceleration_rad_s2 * SHARE;
    let fastest = limits.velocity_rad_s * SHARE;
    let low = (a - jerk * dt).max(-top).min(a + jerk * dt);
    let high = (a + jerk * dt).min(top).max(a - jerk * dt);
    // The target's velocity as a difference of positions, which is what `v` is.
    let target_v = target.v - target.a * dt / 2.0;
    let exact_v = (target.p - p) / dt;
    let exact = (exact_v - v) / dt;
    // Met exactly only where the next periods can follow on: otherwise a small step would be crossed at speed.
    let follows_on = (exact_v - target_v).abs() <= jerk * dt * dt / 4.0 && (exact - target.a).abs() <= jerk * dt / 2.0;
    if (low..=high).contains(&exact) && follows_on {
        return exact;
    }
    let error = target.p - p;
    // From this speed a constant deceleration of half the limit brakes within the error.
    let brakeable = (top * error.abs()).sqrt();
    let closing = (error.abs() / (POSITION_PERIODS * dt)).min(brakeable);
    let wanted_v = (target_v + error.signum() * closing).clamp(-fastest, fastest);
    let change = wanted_v - v;
    // From this acceleration a ramp at the jerk limit changes the velocity by `change`: a²/2J + a·dt/2.
    let ramp = jerk * ((dt * dt / 4.0 + 2.0 * change.abs() / jerk).sqrt() - dt / 2.0);
    let wanted_a = target.a + change.signum() * (change.abs() / (VELOCITY_PERIODS * dt)).min(ramp);
    wanted_a.clamp(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DT: f64 = 0.01;

    fn limits() -> JointLimits {
        JointLimits {
            lower_rad: -2.0,
            upper_rad: 2.0,
            velocity_rad_s: 4.0,
            acceleration_rad_s2: 30.0,
            jerk_rad_s3: 600.0,
        }
    }

    fn run(mut reference: impl FnMut(f64) -> (f64, f64, f64), seconds: f64) -> (Vec<f64>, Vec<f64>) {
        let mut retimer = Retimer::new(&[limits()], &[Interpolation::Smooth], DT);
        retimer.speed = 1.0;
        let mut motion = Motion::at_rest(JointVec::zeros(1));
        let (mut sent, mut asked) = (vec![0.0; 3], vec![]);
        for tick in 1..=(seconds / DT) as usize {
            let (p, v, a) = reference(tick as f64 * DT);
            let one = |value| JointVec::from_fn(1, |_| value);
            let reference =
                Reference { position_rad: one(p), velocity_rad_s: one(v), acceleration_rad_s2: one(a), row: 0.0 };
            let next = retimer.follow(&motion, &reference)[0];
            let velocity = (next - motion.position_rad[0]) / DT;
            motion.acceleration_rad_s2[0] = (velocity - motion.velocity_rad_s[0]) / DT;
            motion.velocity_rad_s[0] = velocity;
            motion.position_rad[0] = next;
            sent.push(next);
            asked.push(p);
        }
        (sent, asked)
    }

    fn extremes(sent: &[f64]) -> [f64; 3] {
        let d = |x: &[f64]| x.windows(2).map(|w| (w[1] - w[0]) / DT).collect::<Vec<_>>();
        let largest = |x: &[f64]| x.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let v = d(sent);
        let a = d(&v);
        [largest(&v), largest(&a), largest(&d(&a))]
    }

    #[test]
    fn a_step_is_reached_within_the_limits_without_overshoot_or_chatter() {
        for size in [0.002, 0.05, 0.125, 0.4, 1.5] {
            let (sent, _) = run(|_| (size, 0.0, 0.0), 3.0);
            let [v, a, j] = extremes(&sent);
            assert!(v <= 3.7 && a <= 27.0 + 1e-6 && j <= 540.0 + 1e-3, "{size}: {v} {a} {j}");
            let highest = sent.iter().fold(0.0f64, |m, p| m.max(*p));
            assert!(highest <= size * 1.05 + 1e-3, "{size}: overshoot to {highest}");
            assert!((sent[sent.len() - 1] - size).abs() < 1e-4, "{size}: ends at {}", sent[sent.len() - 1]);
        }
    }

    #[test]
    fn a_smooth_reference_is_met_without_lag() {
        let (sent, asked) = run(|t| (0.3 * (1.0 - t.cos()), 0.3 * t.sin(), 0.3 * t.cos()), 4.0);
        for (sent, asked) in sent[13..].iter().zip(&asked[10..]) {
            assert!((sent - asked).abs() < 1e-3, "{sent} {asked}");
        }
    }

    #[test]
    fn motion_time_slows_when_a_joint_lags_and_recovers_in_bounded_steps() {
        let mut retimer = Retimer::new(&[limits()], &[Interpolation::Smooth], DT);
        let motion = Motion::at_rest(JointVec::zeros(1));
        let at = |p: f64| Reference {
            position_rad: JointVec::from_fn(1, |_| p),
            velocity_rad_s: JointVec::zeros(1),
            acceleration_rad_s2: JointVec::zeros(1),
            row: 0.0,
        };
        for _ in 0..20 {
            retimer.pace(&motion, &at(0.5), 1.0);
        }
        assert_eq!(retimer.speed(), 0.0);
        assert!((retimer.pace(&motion, &at(0.0), 1.0) - 0.1).abs() < 1e-12);
    }
}
