//! The simulated body as read from its MJCF: joints, geometry for drawing, cameras.

use rapier3d::geometry::TypedShape;
use rapier3d::math::Vector;
use rapier3d_mjcf::{MjcfLoaderOptions, MjcfRobot};

use crate::mjcf_camera::{self, MountedCamera};

/// Number of joints of the simulated arm, the gripper included.
pub const JOINTS: usize = 6;
/// Number of cubes on the table.
pub const CUBES: usize = 3;
/// Joint names in the order of every `[JOINTS]` array of this crate.
pub const JOINT_NAMES: [&str; JOINTS] =
    ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"];
/// The MJCF of the embedded arm with three cubes.
pub const SO101_LIKE: &str = include_str!("../models/so101_like.xml");

const CUBE_BODIES: [&str; CUBES] = ["cube_red", "cube_green", "cube_blue"];

/// Why an MJCF cannot become a simulated robot.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file is not MJCF that the loader understands.
    #[error("MJCF does not load: {0}")]
    Mjcf(String),
    /// A body, joint or camera the demonstration needs is not in the file.
    #[error("MJCF has no {kind} named `{name}`")]
    Missing {
        /// What is missing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A `<camera>` has an attribute that is absent or not a list of numbers.
    #[error("camera `{camera}`: attribute `{attribute}` is missing or malformed")]
    Camera {
        /// The camera's name, empty when that is what is missing.
        camera: String,
        /// The attribute.
        attribute: &'static str,
    },
}

/// What a triangle belongs to; decides its colour and its label in the id buffer.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Surface {
    /// The checkered table.
    Floor,
    /// A part of the arm, with its own colour.
    Arm,
    /// Cube by index: red, green, blue.
    Cube(u8),
}

/// One triangle in the frame of its body, with its outward normal.
#[derive(Copy, Clone, Debug)]
pub struct Triangle {
    /// Corners, body frame, m, counter-clockwise seen from outside.
    pub corners: [[f32; 3]; 3],
    /// Unit normal, body frame.
    pub normal: [f32; 3],
    /// Colour before lighting, 0–1; the floor's and the cubes' come from the look.
    pub rgb: [f32; 3],
    /// Index of the body it moves with (0 is the world).
    pub body: usize,
    /// What it belongs to.
    pub surface: Surface,
}

/// A parsed robot model, shared read-only by every world made from it.
#[derive(Debug)]
pub struct Model {
    pub(crate) robot: MjcfRobot,
    pub(crate) triangles: Vec<Triangle>,
    pub(crate) cameras: Vec<MountedCamera>,
    pub(crate) cube_bodies: [usize; CUBES],
    /// Actuator index of each joint of [`JOINT_NAMES`].
    pub(crate) actuator_of: [usize; JOINTS],
}

impl Model {
    /// The embedded arm with three cubes.
    ///
    /// # Errors
    /// Only when the embedded file is broken, which a test excludes.
    pub fn so101_like() -> Result<Self, ModelError> {
        Self::from_mjcf(SO101_LIKE)
    }

    /// Reads an MJCF with the joints of [`JOINT_NAMES`], one position actuator for each, and the
    /// three bodies `cube_red`, `cube_green`, `cube_blue`.
    ///
    /// # Errors
    /// [`ModelError`] names what does not load or is missing.
    pub fn from_mjcf(text: &str) -> Result<Self, ModelError> {
        let options = MjcfLoaderOptions {
            // The default drops the floor and the cubes fall through.
            skip_plane_geoms: false,
            ..Default::default()
        };
        let (robot, source) =
            MjcfRobot::from_str(text, options, ".").map_err(|error| ModelError::Mjcf(error.to_string()))?;
        let body = |name: &str| -> Result<usize, ModelError> {
            robot
                .body_name_to_idx
                .get(name)
                .copied()
                .ok_or_else(|| ModelError::Missing { kind: "body", name: name.to_owned() })
        };
        let cube_bodies = [body(CUBE_BODIES[0])?, body(CUBE_BODIES[1])?, body(CUBE_BODIES[2])?];
        let mut actuator_of = [0; JOINTS];
        for (slot, name) in actuator_of.iter_mut().zip(JOINT_NAMES) {
            *slot = robot
                .actuators
                .iter()
                .position(|actuator| {
                    actuator.joint_index.and_then(|joint| robot.joints[joint].name.as_deref()) == Some(name)
                })
                .ok_or_else(|| ModelError::Missing { kind: "actuated joint", name: name.to_owned() })?;
        }
        let mut cameras = Vec::new();
        for camera in mjcf_camera::cameras(text)? {
            let index = match &camera.body {
                Some(name) => body(name)?,
                None => 0,
            };
            cameras.push(camera.mounted(index));
        }

        let mut triangles = Vec::new();
        for (index, part) in robot.bodies.iter().enumerate() {
            let geoms = &source.bodies[part.mjcf_body_id].body.geoms;
            let cube = cube_bodies.iter().position(|&cube| cube == index);
            for (shape_index, collider) in part.colliders.iter().enumerate() {
                let rgb = geoms
                    .get(shape_index)
                    .and_then(|geom| geom.rgba)
                    .map_or([0.85, 0.85, 0.8], |c| [c[0] as f32, c[1] as f32, c[2] as f32]);
                let (surface, vertices, indices) = match collider.shape().as_typed_shape() {
                    TypedShape::HalfSpace(_) => (
                        Surface::Floor,
                        vec![
                            Vector::new(-1.0, -1.0, 0.0),
                            Vector::new(1.0, -1.0, 0.0),
                            Vector::new(1.0, 1.0, 0.0),
                            Vector::new(-1.0, 1.0, 0.0),
                        ],
                        vec![[0, 1, 2], [0, 2, 3]],
                    ),
                    other => {
                        let (vertices, indices) = match other {
                            TypedShape::Cuboid(shape) => shape.to_trimesh(),
                            TypedShape::Cylinder(shape) => shape.to_trimesh(24),
                            TypedShape::Capsule(shape) => shape.to_trimesh(16, 8),
                            TypedShape::Ball(shape) => shape.to_trimesh(16, 8),
                            _ => {
                                return Err(ModelError::Missing {
                                    kind: "drawable shape for body",
                                    name: part.name.clone().unwrap_or_default(),
                                });
                            }
                        };
                        let surface = cube.map_or(Surface::Arm, |c| Surface::Cube(c as u8));
                        (surface, vertices, indices)
                    }
                };
                // Before insertion a collider's own pose is its pose on the body.
                let placed = *collider.position();
                for triangle in indices {
                    let corners = triangle.map(|i| {
                        let p = placed * vertices[i as usize];
                        [p.x, p.y, p.z]
                    });
                    if let Some(normal) = unit_normal(&corners) {
                        triangles.push(Triangle { corners, normal, rgb, body: index, surface });
                    }
                }
            }
        }
        Ok(Self { robot, triangles, cameras, cube_bodies, actuator_of })
    }

    /// Cameras of the model, in the file's order.
    pub fn cameras(&self) -> &[MountedCamera] {
        &self.cameras
    }

    /// Index of the camera of this name.
    ///
    /// # Errors
    /// [`ModelError::Missing`] when there is none.
    pub fn camera_index(&self, name: &str) -> Result<usize, ModelError> {
        self.cameras
            .iter()
            .position(|camera| camera.name == name)
            .ok_or_else(|| ModelError::Missing { kind: "camera", name: name.to_owned() })
    }

    /// Drawable triangles of every body.
    pub fn triangles(&self) -> &[Triangle] {
        &self.triangles
    }
}

fn unit_normal(c: &[[f32; 3]; 3]) -> Option<[f32; 3]> {
    let edge = |a: [f32; 3], b: [f32; 3]| [b[0] - a[0], b[1] - a[1], b[2] - a[2]];
    let (u, v) = (edge(c[0], c[1]), edge(c[0], c[2]));
    let n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    let length = (n[0] * n[0] + n[1] * n[1] + n[2] * n[2]).sqrt();
    (length > 1e-12).then(|| n.map(|x| x / length))
}
