//! The moving task: the named cube drifts, or is shoved to another place, while the arm is on its way.
//!
//! A static scene lets a policy pass that looks once and then thinks for a second. Here what it saw is no longer
//! true. Half the seeds drift: from 0.5 s on the cube creeps at 1–2 cm/s, leg after leg, until it is reached. The other
//! half shove: at some moment between 1.2 and 2.6 s, when a hand that is in time is above it, the cube slides 4–8 cm
//! within 0.4 s, and once more 3 s later. The ways stay inside the part of the table that scenes use and clear of the
//! other cubes. A cube that the hand is around, or that has left the table, moves no more. The time limit is
//! [`MOVING_TIME_LIMIT`](crate::task::MOVING_TIME_LIMIT).

use core::time::Duration;

use crate::kinematics::Tip;
use crate::model::CUBES;
use crate::physics::{CUBE_HEIGHT_M, Physics, STEP};
use crate::rng::Random;
use crate::scene::Scene;
use crate::task::MOVING_TIME_LIMIT;

const STREAM: u64 = 41;
/// The hand is around a cube whose centre is this near the tip, m.
pub const HELD_BACK_M: f64 = 0.03;
/// A cube raised by this has left the table, m.
pub const RAISED_M: f64 = 0.005;
/// Centres of cubes keep at least this distance on the way, where the scene allows it, m.
const CLEARANCE_M: f64 = 0.06;

/// A straight way at constant speed.
#[derive(Copy, Clone, Debug, PartialEq)]
struct Leg {
    start: Duration,
    end: Duration,
    velocity_m_s: [f64; 2],
}

/// How one cube moves during an episode.
#[derive(Clone, Debug, PartialEq)]
pub struct CubeMotion {
    cube: usize,
    legs: Vec<Leg>,
    is_over: bool,
}

impl CubeMotion {
    /// The motion of the cube `target` (modulo their number) in the scene of this seed; equal seeds give equal motions.
    pub fn sample(seed: u64, target: usize) -> Self {
        let cube = target % CUBES;
        let scene = Scene::sample(seed);
        let others: Vec<[f64; 2]> = (0..CUBES)
            .filter(|&other| other != cube)
            .map(|other| [scene.cubes[other].x_m, scene.cubes[other].y_m])
            .collect();
        let mut random = Random::new(seed, STREAM);
        let mut from = [scene.cubes[cube].x_m, scene.cubes[cube].y_m];
        let mut legs = Vec::new();
        if random.uniform(0.0, 1.0) < 0.5 {
            let speed_m_s = random.uniform(0.01, 0.02);
            let mut start_s = 0.5;
            while start_s < MOVING_TIME_LIMIT.as_secs_f64() {
                let to = free_place(&mut random, from, &others, (0.05, 0.09));
                let leg = leg(from, to, start_s, speed_m_s);
                start_s = leg.end.as_secs_f64();
                legs.push(leg);
                from = to;
            }
        } else {
            let mut start_s = random.uniform(1.2, 2.6);
            for _ in 0..2 {
                let to = free_place(&mut random, from, &others, (0.04, 0.08));
                legs.push(leg(from, to, start_s, distance(from, to) / 0.4));
                start_s += 3.0;
                from = to;
            }
        }
        Self { cube, legs, is_over: false }
    }

    /// The cube that moves.
    pub fn cube(&self) -> usize {
        self.cube
    }

    /// Whether the cube is shoved rather than drifting.
    pub fn is_shove(&self) -> bool {
        self.legs.first().is_some_and(|leg| leg.end - leg.start < Duration::from_millis(500))
    }

    /// When the last leg ends.
    pub fn end(&self) -> Duration {
        self.legs.last().map_or(Duration::ZERO, |leg| leg.end)
    }

    /// Slides the cube where its motion has come to, unless the hand is around it or it has left the table. Call it
    /// before every step.
    pub fn drive(&mut self, physics: &mut Physics) {
        let at = physics.cubes()[self.cube].position_m;
        let tip = Tip::of(&physics.joints().0).position_m();
        let from_tip = (0..3).map(|axis| (at[axis] - tip[axis]).powi(2)).sum::<f64>().sqrt();
        let raised = at[2] - f64::from(CUBE_HEIGHT_M);
        if let Some(velocity) = self.velocity_m_s(physics.time(), from_tip, raised) {
            physics.shift_cube(self.cube, velocity.map(|v| v * STEP.as_secs_f64()));
        }
    }

    /// The velocity the cube is to have `time` after the start of the episode, m/s; `None` while it is left alone.
    /// `from_tip_m` is its distance from the tip and `raised_m` its height above the table's: near or high enough ends the
    /// motion for good.
    fn velocity_m_s(&mut self, time: Duration, from_tip_m: f64, raised_m: f64) -> Option<[f64; 2]> {
        self.is_over |= from_tip_m < HELD_BACK_M || raised_m > RAISED_M;
        if self.is_over {
            return None;
        }
        self.legs.iter().find(|leg| (leg.start..leg.end).contains(&time)).map(|leg| leg.velocity_m_s)
    }
}

fn leg(from: [f64; 2], to: [f64; 2], start_s: f64, speed_m_s: f64) -> Leg {
    let way = distance(from, to);
    Leg {
        start: Duration::from_secs_f64(start_s),
        end: Duration::from_secs_f64(start_s + way / speed_m_s),
        velocity_m_s: [0, 1].map(|axis| (to[axis] - from[axis]) / way * speed_m_s),
    }
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// A place on the table where a cube may come to stand, some way from `from`, on a way clear of the others. A crowded
/// scene makes do with less clearance, a millimetre less every hundred draws.
fn free_place(random: &mut Random, from: [f64; 2], others: &[[f64; 2]], way_m: (f64, f64)) -> [f64; 2] {
    for draw in 0.. {
        let clearance = CLEARANCE_M - 0.001 * f64::from(draw / 100);
        let (radius, angle) = (random.uniform(0.15, 0.23), random.uniform(-0.6, 0.6));
        let to = [radius * angle.cos(), radius * angle.sin()];
        let is_clear = |share: f64| {
            let at = [0, 1].map(|axis| from[axis] + (to[axis] - from[axis]) * share);
            others.iter().all(|other| distance(at, *other) >= clearance)
        };
        let is_some_way = (way_m.0..way_m.1).contains(&distance(from, to));
        if is_some_way && (1..=10).all(|tenth| is_clear(f64::from(tenth) / 10.0)) {
            return to;
        }
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn motions_follow_from_the_seed_and_stay_on_the_table_clear_of_the_other_cubes() {
        let mut shoves = 0;
        for seed in 0..300 {
            let (scene, motion) = (Scene::sample(seed), CubeMotion::sample(seed, seed as usize));
            assert_eq!(motion, CubeMotion::sample(seed, seed as usize));
            shoves += usize::from(motion.is_shove());
            let place = &scene.cubes[motion.cube()];
            let mut at = [place.x_m, place.y_m];
            let mut way = 0.0;
            for leg in &motion.legs {
                let seconds = (leg.end - leg.start).as_secs_f64();
                way += seconds * leg.velocity_m_s[0].hypot(leg.velocity_m_s[1]);
                at = [0, 1].map(|axis| at[axis] + leg.velocity_m_s[axis] * seconds);
                let radius = at[0].hypot(at[1]);
                assert!((0.149..0.231).contains(&radius) && at[1].atan2(at[0]).abs() < 0.61, "{at:?}");
                for (index, other) in scene.cubes.iter().enumerate().filter(|(index, _)| *index != motion.cube()) {
                    assert!(distance(at, [other.x_m, other.y_m]) > 0.05, "seed {seed} cube {index}");
                }
            }
            assert!(way >= 0.04 && motion.end() < Duration::from_secs(22), "seed {seed}: {way} m");
        }
        assert!((100..200).contains(&shoves), "{shoves} of 300 shove");
    }

    #[test]
    fn a_cube_that_was_reached_is_left_alone_for_good() {
        let mut motion = CubeMotion::sample(0, 0);
        let during = motion.legs[0].start + Duration::from_millis(50);
        assert!(motion.velocity_m_s(during, 0.1, 0.0).is_some());
        assert!(motion.velocity_m_s(Duration::ZERO, 0.1, 0.0).is_none());
        assert!(motion.velocity_m_s(during, 0.02, 0.0).is_none());
        assert!(motion.velocity_m_s(during, 0.1, 0.0).is_none());
    }
}
