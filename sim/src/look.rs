//! How the simulated world looks: light, colours and small camera displacements. The default is the
//! demonstration's; a random one trains a policy that does not depend on any of it.

use crate::model::CUBES;
use crate::rng::Random;

/// Displacement of a camera from where the model puts it.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct CameraJitter {
    /// Shift along image right, image up and backwards, m.
    pub shift_m: [f32; 3],
    /// Rotation about image right, image up and backwards, rad.
    pub turn_rad: [f32; 3],
    /// Added to the vertical field of view, degrees.
    pub fovy_deg: f32,
}

/// Light, colours and camera displacement of a rendered world. Colours are RGB in 0–1.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Direction towards the light, base frame, unit.
    pub light_direction: [f32; 3],
    /// Light that reaches every surface, 0–1.
    pub ambient: f32,
    /// Strength of the directional light, 0–1.
    pub diffuse: f32,
    /// Strength of the light at the camera, 0–1.
    pub headlight: f32,
    /// Colours of the cubes: red, green, blue.
    pub cube_rgb: [[f32; 3]; CUBES],
    /// The two colours of the floor's squares.
    pub floor_rgb: [[f32; 3]; 2],
    /// Colour of the background at the top and bottom edge of the image.
    pub background_rgb: [[f32; 3]; 2],
    /// Factor on the arm's colours.
    pub arm_tint: [f32; 3],
    /// By camera index; cameras beyond the end are where the model puts them.
    pub cameras: Vec<CameraJitter>,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            light_direction: [0.271_607_24, 0.181_071_5, 0.945_222_6],
            ambient: 0.25,
            diffuse: 0.55,
            headlight: 0.3,
            cube_rgb: [[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.9]],
            floor_rgb: [[0.55, 0.47, 0.40], [0.45, 0.39, 0.33]],
            background_rgb: [[0.35, 0.47, 0.63], [0.55, 0.68, 0.80]],
            arm_tint: [1.0; 3],
            cameras: Vec::new(),
        }
    }
}

impl Look {
    /// A random look: hues of the cubes stay tellable apart, everything else varies. Cameras move by
    /// up to 4 mm and 1°.
    pub fn sample(seed: u64, cameras: usize) -> Self {
        const STREAM: u64 = 11;
        let mut r = Random::new(seed, STREAM);
        let nominal = Self::default();
        let azimuth = r.uniform(0.0, core::f64::consts::TAU);
        let tilt = r.uniform(0.05, 0.8);
        let light_direction = [azimuth.cos() * tilt.sin(), azimuth.sin() * tilt.sin(), tilt.cos()].map(|x| x as f32);
        let (ambient, diffuse, headlight) = (r.uniform(0.18, 0.36), r.uniform(0.40, 0.68), r.uniform(0.18, 0.40));
        // Brightness as a whole and a little stray light in each channel: the hue stays.
        let cube_rgb = nominal.cube_rgb.map(|rgb| {
            let gain = r.uniform(0.78, 1.1);
            rgb.map(|c| (f64::from(c) * gain + r.uniform(-0.05, 0.08)).clamp(0.02, 1.0) as f32)
        });
        let grey = r.uniform(0.30, 0.66);
        let contrast = r.uniform(0.72, 0.97);
        let tint: [f64; 3] = core::array::from_fn(|_| r.uniform(0.86, 1.14));
        let light_square = tint.map(|t| (grey * t).clamp(0.0, 1.0));
        let floor_rgb = [light_square.map(|c| c as f32), light_square.map(|c| (c * contrast) as f32)];
        let background_rgb =
            nominal.background_rgb.map(|rgb| rgb.map(|c| (f64::from(c) * r.uniform(0.75, 1.2)) as f32));
        let arm_tint = core::array::from_fn(|_| r.uniform(0.85, 1.12) as f32);
        let cameras = (0..cameras)
            .map(|_| CameraJitter {
                shift_m: core::array::from_fn(|_| r.uniform(-0.004, 0.004) as f32),
                turn_rad: core::array::from_fn(|_| r.uniform(-0.0175, 0.0175) as f32),
                fovy_deg: r.uniform(-0.7, 0.7) as f32,
            })
            .collect();
        Self {
            light_direction,
            ambient: ambient as f32,
            diffuse: diffuse as f32,
            headlight: headlight as f32,
            cube_rgb,
            floor_rgb,
            background_rgb,
            arm_tint,
            cameras,
        }
    }
}
