//! Safe commands in the form a controller takes them.

use crate::interface::{Duration as DurationMessage, Float64MultiArray, Header, JointJog, JointTrajectory};
use crate::interface::{JointTrajectoryPoint, Message, encode_into};
use crate::message::{MessageType, Stamp};
use core::str::FromStr;
use core::time::Duration;
use endplate_hal::SafeCommand;

/// Which controller takes the commands.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// `position_controllers` / `forward_command_controller` on positions: holds the last command for ever.
    ForwardPosition,
    /// The same on velocities: the stop is zeros.
    ForwardVelocity,
    /// `joint_trajectory_controller`: one point a command, positions only, reached one period later.
    JointTrajectory,
    /// MoveIt Servo: joint velocities; it stops by itself when they cease.
    JointJog,
}

impl OutputKind {
    /// The type on the topic.
    pub const fn message_type(self) -> MessageType {
        match self {
            Self::ForwardPosition | Self::ForwardVelocity => Float64MultiArray::TYPE,
            Self::JointTrajectory => JointTrajectory::TYPE,
            Self::JointJog => JointJog::TYPE,
        }
    }

    /// The usual topic.
    pub const fn topic(self) -> &'static str {
        match self {
            Self::ForwardPosition => "/position_controller/commands",
            Self::ForwardVelocity => "/velocity_controller/commands",
            Self::JointTrajectory => "/joint_trajectory_controller/joint_trajectory",
            Self::JointJog => "/servo_node/delta_joint_cmds",
        }
    }
}

impl FromStr for OutputKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forward_position" => Ok(Self::ForwardPosition),
            "forward_velocity" => Ok(Self::ForwardVelocity),
            "joint_trajectory" => Ok(Self::JointTrajectory),
            "joint_jog" => Ok(Self::JointJog),
            _ => Err("write forward_position, forward_velocity, joint_trajectory or joint_jog".to_owned()),
        }
    }
}

/// Encodes commands for one controller.
#[derive(Clone, Debug)]
pub struct OutputForm {
    kind: OutputKind,
    /// `[D]` in the order of the commands.
    joints: Vec<String>,
    /// For each of the controller's joints, its place in a command.
    order: Vec<usize>,
    period: Duration,
    buffer: Vec<u8>,
}

impl OutputForm {
    /// Commands for `joints`, sent in the order `controller_joints` (a permutation of them, checked by the caller).
    pub fn new(kind: OutputKind, joints: Vec<String>, order: Vec<usize>, period: Duration) -> Self {
        Self { kind, joints, order, period, buffer: Vec::new() }
    }

    /// The bytes of a command.
    pub fn command(&mut self, command: &SafeCommand, stamp: Stamp) -> Result<&[u8], crate::cdr::CdrError> {
        self.encode(command.position_rad(), command.velocity_rad_s(), stamp)
    }

    /// The bytes of the stop: the pose to hold, and no velocity.
    pub fn stop(&mut self, hold_rad: &[f64], stamp: Stamp) -> Result<&[u8], crate::cdr::CdrError> {
        self.encode(hold_rad, &vec![0.0; hold_rad.len()], stamp)
    }

    fn encode(
        &mut self,
        position_rad: &[f64],
        velocity_rad_s: &[f64],
        stamp: Stamp,
    ) -> Result<&[u8], crate::cdr::CdrError> {
        let in_order = |values: &[f64]| -> Vec<f64> {
            self.order.iter().filter_map(|&place| values.get(place).copied()).collect()
        };
        let (positions, velocities) = (in_order(position_rad), in_order(velocity_rad_s));
        let names: Vec<&str> = self.order.iter().filter_map(|&place| Some(self.joints.get(place)?.as_str())).collect();
        let header = Header { stamp, frame_id: "" };
        match self.kind {
            OutputKind::ForwardPosition => {
                encode_into(&Float64MultiArray { data: (&positions).into(), ..Default::default() }, &mut self.buffer)
            }
            OutputKind::ForwardVelocity => {
                encode_into(&Float64MultiArray { data: (&velocities).into(), ..Default::default() }, &mut self.buffer)
            }
            OutputKind::JointTrajectory => {
                let points = [JointTrajectoryPoint {
                    positions: (&positions).into(),
                    time_from_start: DurationMessage::from_span(self.period),
                    ..Default::default()
                }];
                // A stamp of zero starts now: a clock that differs cannot make a point late.
                let header = Header::default();
                let message = JointTrajectory { header, joint_names: (&names).into(), points: (&points).into() };
                encode_into(&message, &mut self.buffer)
            }
            OutputKind::JointJog => {
                let message = JointJog {
                    header,
                    joint_names: (&names).into(),
                    velocities: (&velocities).into(),
                    duration: self.period.as_secs_f64(),
                    ..Default::default()
                };
                encode_into(&message, &mut self.buffer)
            }
        }
    }
}
