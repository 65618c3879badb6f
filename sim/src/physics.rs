//! The simulated world: one arm with position servos and three cubes, stepped at 500 Hz.
//!
//! Two worlds of the same model, scene and goals stay equal bit for bit: a reset builds the physics
//! anew, and nothing depends on time of day, threads or addresses.

use std::f32::consts::TAU;
use std::sync::Arc;
use std::time::Duration;

use rapier3d::prelude::*;
use rapier3d_mjcf::{MjcfMultibodyOptions, MjcfRobotHandles};

use crate::model::{CUBES, JOINTS, Model, ModelError};
use crate::raster::BodyPose;
use crate::scene::Scene;

/// Length of one physics step.
pub const STEP: Duration = Duration::from_millis(2);
/// Steps given to servos and cubes to come to rest after a reset (0.3 s, before the world's time 0).
const SETTLE_STEPS: u64 = 150;
/// Height at which cubes are put down, m: half an edge and 0.1 mm.
pub(crate) const CUBE_HEIGHT_M: f32 = 0.0151;

type Handles = MjcfRobotHandles<Option<MultibodyJointHandle>>;

/// Pose of a cube in the base frame.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct CubePose {
    /// Centre, m.
    pub position_m: [f64; 3],
    /// Rotation about the vertical, rad, in (−π, π].
    pub yaw_rad: f64,
}

/// The world. Stepping allocates and takes about 35 µs: it belongs to the driver of the
/// simulation, never to a control thread.
pub struct Physics {
    model: Arc<Model>,
    handles: Handles,
    bodies: RigidBodySet,
    colliders: ColliderSet,
    impulse_joints: ImpulseJointSet,
    multibody_joints: MultibodyJointSet,
    soft: SoftBodySet,
    pipeline: PhysicsPipeline,
    parameters: IntegrationParameters,
    islands: IslandManager,
    broad_phase: DefaultBroadPhase,
    narrow_phase: NarrowPhase,
    ccd: CCDSolver,
    /// By actuator index.
    goal: [f32; JOINTS],
    torque_on: bool,
    steps: u64,
}

impl Physics {
    /// A world at rest in `scene`, torque on, goals at the scene's start pose, time 0.
    pub fn new(model: Arc<Model>, scene: &Scene) -> Self {
        let mut bodies = RigidBodySet::new();
        let mut colliders = ColliderSet::new();
        let mut impulse_joints = ImpulseJointSet::new();
        let mut multibody_joints = MultibodyJointSet::new();
        let handles = model.robot.clone().insert_using_multibody_joints(
            &mut bodies,
            &mut colliders,
            &mut multibody_joints,
            &mut impulse_joints,
            MjcfMultibodyOptions::DISABLE_SELF_CONTACTS,
        );
        let mut world = Self {
            model,
            handles,
            bodies,
            colliders,
            impulse_joints,
            multibody_joints,
            soft: SoftBodySet::new(),
            pipeline: PhysicsPipeline::new(),
            parameters: IntegrationParameters {
                dt: STEP.as_secs_f32(),
                num_solver_iterations: 4,
                ..Default::default()
            },
            islands: IslandManager::new(),
            broad_phase: DefaultBroadPhase::new(),
            narrow_phase: NarrowPhase::new(),
            ccd: CCDSolver::new(),
            goal: [0.0; JOINTS],
            torque_on: true,
            steps: 0,
        };
        world.place(scene);
        for _ in 0..SETTLE_STEPS {
            world.step();
        }
        world.steps = 0;
        world
    }

    /// Starts over in another scene, as [`Physics::new`].
    pub fn reset(&mut self, scene: &Scene) {
        *self = Self::new(Arc::clone(&self.model), scene);
    }

    fn place(&mut self, scene: &Scene) {
        for (cube, &body) in scene.cubes.iter().zip(&self.model.cube_bodies) {
            if let Some(handle) = &self.handles.bodies[body] {
                self.bodies[handle.body].set_position(
                    Pose::from_parts(
                        Vector::new(cube.x_m as f32, cube.y_m as f32, CUBE_HEIGHT_M),
                        Rotation::from_rotation_z(cube.yaw_rad as f32),
                    ),
                    true,
                );
            }
        }
        // Insertion leaves every joint at 0: displace each to its start.
        for (joint, &start) in scene.start_rad.iter().enumerate() {
            let actuator = self.model.actuator_of[joint];
            self.goal[actuator] = start as f32;
            let Some(Some(handle)) = self.handles.actuators[actuator].joint else { continue };
            let Some((multibody, link)) = self.multibody_joints.get_mut(handle) else { continue };
            let mut displacement = vec![0.0; multibody.ndofs()];
            let dof = multibody.link(link).map_or(0, |link| link.assembly_id());
            displacement[dof] = start as f32;
            multibody.apply_displacements(&displacement);
            multibody.forward_kinematics(&self.bodies, false);
            multibody.update_rigid_bodies(&mut self.bodies, true);
        }
    }

    /// Advances by [`STEP`] with the goals that stand.
    pub fn step(&mut self) {
        let strength = if self.torque_on { 1.0 } else { 0.0 };
        self.handles.apply_controls_multibody_scaled(
            &mut self.bodies,
            &mut self.multibody_joints,
            &self.goal,
            strength,
        );
        self.pipeline.step(
            Vector::new(0.0, 0.0, -9.81),
            &self.parameters,
            &mut self.islands,
            &mut self.broad_phase,
            &mut self.narrow_phase,
            &mut self.bodies,
            &mut self.colliders,
            &mut self.impulse_joints,
            &mut self.multibody_joints,
            &mut self.soft,
            &mut self.ccd,
            &(),
            &(),
        );
        self.steps += 1;
    }

    /// Time since the last reset.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(STEP.as_nanos() as u64 * self.steps)
    }

    /// Latches position goals, rad, in the order of [`crate::model::JOINT_NAMES`]; the servos follow
    /// from the next step on, and sag under load as servos do.
    pub fn set_goal(&mut self, goal_rad: &[f64; JOINTS]) {
        for (&goal, &actuator) in goal_rad.iter().zip(&self.model.actuator_of) {
            self.goal[actuator] = goal as f32;
        }
    }

    /// Latched goals, rad.
    pub fn goal(&self) -> [f64; JOINTS] {
        self.model.actuator_of.map(|actuator| f64::from(self.goal[actuator]))
    }

    /// Servo torque on or off; without it the arm falls, damped by its joints.
    pub fn set_torque(&mut self, on: bool) {
        self.torque_on = on;
    }

    /// Joint positions (rad) and velocities (rad/s) as they are, without encoder quantisation.
    pub fn joints(&self) -> ([f64; JOINTS], [f64; JOINTS]) {
        let (mut position, mut velocity) = ([0.0; JOINTS], [0.0; JOINTS]);
        for joint in 0..JOINTS {
            let actuator = &self.handles.actuators[self.model.actuator_of[joint]];
            let Some(Some(handle)) = actuator.joint else { continue };
            let Some((multibody, id)) = self.multibody_joints.get(handle) else { continue };
            let Some(link) = multibody.link(id) else { continue };
            // A hinge turns about the x axis of its joint frame.
            position[joint] = f64::from(link.joint().coords()[3]);
            velocity[joint] = f64::from(multibody.joint_velocity(link)[0]);
        }
        (position, velocity)
    }

    /// Joint positions as a 12-bit encoder reports them, rad: what the arm measures.
    pub fn measured_rad(&self) -> [f64; JOINTS] {
        self.joints().0.map(|position| quantise_rad(position, ENCODER_COUNTS))
    }

    /// Cubes in the order red, green, blue.
    pub fn cubes(&self) -> [CubePose; CUBES] {
        self.model.cube_bodies.map(|body| {
            let pose = self.body_pose(body);
            let yaw = pose.rotation[1][0].atan2(pose.rotation[0][0]);
            CubePose {
                position_m: pose.translation.map(f64::from),
                yaw_rad: f64::from(if yaw <= -TAU / 2.0 { yaw + TAU } else { yaw }),
            }
        })
    }

    /// Moves a cube (by its number) across the table, m, as a hand beneath it would: friction does not hold it back, and
    /// its fall and its rotation stay its own.
    pub fn shift_cube(&mut self, cube: usize, by_m: [f64; 2]) {
        let Some(handle) = &self.handles.bodies[self.model.cube_bodies[cube % CUBES]] else { return };
        let body = &mut self.bodies[handle.body];
        let at = body.translation();
        let to = Vector::new(at.x + by_m[0] as f32, at.y + by_m[1] as f32, at.z);
        body.set_translation(to, true);
    }

    /// Poses of all bodies for drawing, into `out`, which is made as long as needed.
    pub fn body_poses(&self, out: &mut Vec<BodyPose>) {
        out.clear();
        out.extend((0..self.handles.bodies.len()).map(|body| self.body_pose(body)));
    }

    fn body_pose(&self, body: usize) -> BodyPose {
        let Some(handle) = &self.handles.bodies[body] else { return BodyPose::IDENTITY };
        let pose = self.bodies[handle.body].position();
        let column = |axis: Vector| pose.rotation * axis;
        let (x, y, z) = (column(Vector::X), column(Vector::Y), column(Vector::Z));
        BodyPose {
            rotation: [[x.x, y.x, z.x], [x.y, y.y, z.y], [x.z, y.z, z.z]],
            translation: [pose.translation.x, pose.translation.y, pose.translation.z],
        }
    }

    /// Place, m, and rotation, row by row, of the body of this name.
    ///
    /// # Errors
    /// [`ModelError::Missing`].
    pub fn body(&self, name: &str) -> Result<([f64; 3], [[f64; 3]; 3]), ModelError> {
        let index = self.model.robot.body_name_to_idx.get(name);
        let index = index.ok_or_else(|| ModelError::Missing { kind: "body", name: name.to_owned() })?;
        let pose = self.body_pose(*index);
        Ok((pose.translation.map(f64::from), pose.rotation.map(|row| row.map(f64::from))))
    }

    /// The model this world was made from.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }
}

/// Counts per turn of the simulated servos' encoders.
pub const ENCODER_COUNTS: u32 = 4096;

/// The nearest angle a servo with `counts` per turn can name, rad.
pub fn quantise_rad(angle_rad: f64, counts: u32) -> f64 {
    let per_count = core::f64::consts::TAU / f64::from(counts);
    (angle_rad / per_count).round() * per_count
}
