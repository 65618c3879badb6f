//! The demonstration arm's own kinematics in cylindrical task coordinates, for the expert.
//!
//! Two links and a tool that points straight down (plus a small pitch error), so the inverse is
//! the law of cosines. The runtime's general kinematics live in the hardware layer.

use core::f64::consts::PI;

use crate::model::JOINTS;

/// Upper arm, m.
const UPPER_M: f64 = 0.12;
/// Forearm, m.
const FORE_M: f64 = 0.135;
/// From the wrist joint to between the finger tips, m.
const TOOL_M: f64 = 0.13;
/// Height of the shoulder, m.
const SHOULDER_M: f64 = 0.12;

/// Gripper angle at which the jaws are open, rad.
pub const OPEN_RAD: f64 = 0.5;
/// Gripper goal at which the jaws squeeze a cube, rad.
pub const CLOSED_RAD: f64 = -0.5;

/// Tip of the gripper in cylindrical coordinates of the base.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Tip {
    /// Angle about the vertical, rad.
    pub yaw_rad: f64,
    /// Distance from the base axis, m.
    pub radius_m: f64,
    /// Height above the table, m.
    pub height_m: f64,
    /// Rotation of the wrist, rad.
    pub roll_rad: f64,
    /// How far the tool leans from straight down, rad.
    pub pitch_error_rad: f64,
}

impl Tip {
    /// Tip of the arm at these joint angles, rad (the gripper's angle does not matter).
    pub fn of(joints_rad: &[f64; JOINTS]) -> Self {
        let [yaw, lift, elbow, flex, roll, _] = *joints_rad;
        Self {
            yaw_rad: yaw,
            radius_m: UPPER_M * lift.sin() + FORE_M * (lift + elbow).sin(),
            height_m: UPPER_M * lift.cos() + FORE_M * (lift + elbow).cos() - TOOL_M + SHOULDER_M,
            roll_rad: roll,
            pitch_error_rad: lift + elbow + flex - PI,
        }
    }

    /// The tip's place in the base frame, m.
    pub fn position_m(&self) -> [f64; 3] {
        [self.radius_m * self.yaw_rad.cos(), self.radius_m * self.yaw_rad.sin(), self.height_m]
    }
}

/// Joint angles, rad, that put the tip there with the jaw at `gripper_rad`; a tip out of reach
/// gives the stretched arm that points at it.
pub fn inverse(tip: &Tip, gripper_rad: f64) -> [f64; JOINTS] {
    let height = tip.height_m + TOOL_M - SHOULDER_M;
    let reach = tip.radius_m.hypot(height);
    let cosine = (reach * reach - UPPER_M * UPPER_M - FORE_M * FORE_M) / (2.0 * UPPER_M * FORE_M);
    let elbow = cosine.clamp(-1.0, 1.0).acos();
    let lift = tip.radius_m.atan2(height) - (FORE_M * elbow.sin()).atan2(UPPER_M + FORE_M * elbow.cos());
    let flex = PI - lift - elbow + tip.pitch_error_rad;
    [tip.yaw_rad, lift, elbow, flex, tip.roll_rad, gripper_rad]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_and_forward_agree() {
        let tip = Tip { yaw_rad: 0.3, radius_m: 0.19, height_m: 0.05, roll_rad: -0.1, pitch_error_rad: 0.04 };
        let back = Tip::of(&inverse(&tip, 0.2));
        assert!((back.radius_m - tip.radius_m).abs() < 1e-12);
        assert!((back.height_m - tip.height_m).abs() < 1e-12);
        assert!((back.pitch_error_rad - tip.pitch_error_rad).abs() < 1e-12);
        assert_eq!(back.yaw_rad, tip.yaw_rad);
    }
}
