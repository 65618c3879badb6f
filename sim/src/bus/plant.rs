//! What the emulated servos move: joints of their own, or those of the simulated robot.

use std::time::{Duration, Instant};

use crate::robot::SimRobot;

/// Joints behind an emulated bus, by index, in rad with 0 at the servo's count 2048.
pub trait Plant: Send {
    /// Moves to the present of the real clock.
    fn advance(&mut self);
    /// Position, rad, and velocity, rad/s.
    fn state(&self, joint: usize) -> (f64, f64);
    /// Latches a goal, rad.
    fn set_goal(&mut self, joint: usize, goal_rad: f64);
    /// Switches a joint's torque.
    fn set_torque(&mut self, joint: usize, on: bool);
    /// Whether the servos are silent at present, as a fault of the robot demands.
    fn is_silent(&self) -> bool {
        false
    }
}

/// Joints that run to their goals at a constant speed and stay where they are without torque.
pub struct FreeJoints {
    joints: Vec<FreeJoint>,
    speed_rad_s: f64,
    last: Instant,
}

#[derive(Copy, Clone, Default)]
struct FreeJoint {
    position_rad: f64,
    velocity_rad_s: f64,
    goal_rad: f64,
    torque: bool,
}

impl FreeJoints {
    /// Joints at 0 rad with torque off, `speed_rad_s` fast (4.6 rad/s is an STS3215 without load).
    pub fn new(joints: usize, speed_rad_s: f64) -> Self {
        Self { joints: vec![FreeJoint::default(); joints], speed_rad_s, last: Instant::now() }
    }

    /// Puts a joint somewhere, as a hand does.
    pub fn place(&mut self, joint: usize, position_rad: f64) {
        self.joints[joint].position_rad = position_rad;
    }
}

impl Plant for FreeJoints {
    fn advance(&mut self) {
        let span = self.last.elapsed().as_secs_f64();
        self.last += Duration::from_secs_f64(span);
        for joint in &mut self.joints {
            let most = self.speed_rad_s * span;
            let step = if joint.torque { (joint.goal_rad - joint.position_rad).clamp(-most, most) } else { 0.0 };
            joint.position_rad += step;
            joint.velocity_rad_s = if span > 0.0 { step / span } else { joint.velocity_rad_s };
        }
    }

    fn state(&self, joint: usize) -> (f64, f64) {
        (self.joints[joint].position_rad, self.joints[joint].velocity_rad_s)
    }

    fn set_goal(&mut self, joint: usize, goal_rad: f64) {
        self.joints[joint].goal_rad = goal_rad;
    }

    fn set_torque(&mut self, joint: usize, on: bool) {
        self.joints[joint].torque = on;
    }
}

/// The joints of the simulated robot, which another thread moves. Its torque is one switch for all joints: it is on while
/// any servo's is, and a servo without torque follows by hand.
pub struct RobotJoints {
    robot: SimRobot,
    torque: [bool; crate::model::JOINTS],
}

impl RobotJoints {
    /// The joints of this robot.
    pub fn new(robot: SimRobot) -> Self {
        Self { robot, torque: [false; crate::model::JOINTS] }
    }
}

impl Plant for RobotJoints {
    fn advance(&mut self) {
        for joint in 0..self.torque.len() {
            if self.torque.iter().any(|&on| on) && !self.torque[joint] {
                let (position, _) = self.robot.measured(joint);
                self.robot.latch_goal(joint, position);
            }
        }
    }

    fn state(&self, joint: usize) -> (f64, f64) {
        self.robot.measured(joint)
    }

    fn set_goal(&mut self, joint: usize, goal_rad: f64) {
        self.robot.latch_goal(joint, goal_rad);
    }

    fn set_torque(&mut self, joint: usize, on: bool) {
        self.torque[joint] = on;
        self.robot.latch_torque(self.torque.iter().any(|&on| on));
    }

    fn is_silent(&self) -> bool {
        self.robot.is_bus_silent()
    }
}
