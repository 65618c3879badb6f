//! What stands on the table: three cubes and the arm's start pose, drawn from one seed.

use crate::kinematics::{OPEN_RAD, Tip, inverse};
use crate::model::{CUBES, JOINTS};
use crate::rng::Random;

const STREAM_CUBES: u64 = 1;
const STREAM_START: u64 = 2;

/// Where a cube is put down.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct CubePlace {
    /// Centre, base frame, m.
    pub x_m: f64,
    /// Centre, base frame, m.
    pub y_m: f64,
    /// Rotation about the vertical, rad.
    pub yaw_rad: f64,
}

/// Cubes (red, green, blue) and the arm's start pose.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Scene {
    /// The cubes, at least 7 cm apart, 0.15–0.23 m from the base axis, within ±0.6 rad.
    pub cubes: [CubePlace; CUBES],
    /// Start pose of the arm, rad; the gripper is open and above the table.
    pub start_rad: [f64; JOINTS],
}

impl Scene {
    /// The scene of this seed; equal seeds give equal scenes.
    pub fn sample(seed: u64) -> Self {
        Self { cubes: sample_cubes(seed), start_rad: Self::sample_start(seed, 0) }
    }

    /// The same cubes with start pose number `variant` of this seed (0 is [`Scene::sample`]'s).
    pub fn sample_variant(seed: u64, variant: u64) -> Self {
        Self { cubes: sample_cubes(seed), start_rad: Self::sample_start(seed, variant) }
    }

    fn sample_start(seed: u64, variant: u64) -> [f64; JOINTS] {
        let mut random = Random::new(seed, STREAM_START + (variant << 8));
        let tip = Tip {
            yaw_rad: random.uniform(-0.6, 0.6),
            radius_m: random.uniform(0.13, 0.20),
            height_m: random.uniform(0.09, 0.14),
            roll_rad: random.uniform(-0.2, 0.2),
            pitch_error_rad: 0.0,
        };
        inverse(&tip, OPEN_RAD)
    }
}

fn sample_cubes(seed: u64) -> [CubePlace; CUBES] {
    let mut random = Random::new(seed, STREAM_CUBES);
    loop {
        let cubes: [CubePlace; CUBES] = core::array::from_fn(|_| {
            let radius = random.uniform(0.15, 0.23);
            let angle = random.uniform(-0.6, 0.6);
            CubePlace {
                x_m: radius * angle.cos(),
                y_m: radius * angle.sin(),
                yaw_rad: random.uniform(-core::f64::consts::PI, core::f64::consts::PI),
            }
        });
        let apart = |a: usize, b: usize| (cubes[a].x_m - cubes[b].x_m).hypot(cubes[a].y_m - cubes[b].y_m) >= 0.07;
        if apart(0, 1) && apart(0, 2) && apart(1, 2) {
            return cubes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_scenes_and_cubes_keep_their_distance() {
        for seed in 0..200 {
            let scene = Scene::sample(seed);
            assert_eq!(scene, Scene::sample(seed));
            for i in 0..CUBES {
                let radius = scene.cubes[i].x_m.hypot(scene.cubes[i].y_m);
                assert!((0.15..0.23).contains(&radius));
            }
        }
        assert_ne!(Scene::sample(1).cubes, Scene::sample(2).cubes);
        let (a, b) = (Scene::sample_variant(7, 1), Scene::sample_variant(7, 2));
        assert_eq!(a.cubes, b.cubes);
        assert_ne!(a.start_rad, b.start_rad);
    }
}
