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

/// As written, with `_` or `-`.
impl FromStr for OutputKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.replace('-', "_").as_str() {
            "forward_position" => Ok(Self::ForwardPosition),
            "forward_velocity" => Ok(Self::ForwardVelocity),
            "joint_trajectory" => Ok(Self::JointTrajectory),
            "joint_jog" => Ok(Self::JointJog),
            _ => Err("write forward_position, forward_velocity, joint_trajectory or joint_jog".to_owned()),
        }
    }
}

/// How fast a controller of velocities is told to make up for a position that is off, 1/s. What velocities sum up to
/// drifts from where the joints should be with every message that comes late or not at all. Half a second is slow beside
/// a servo's own lag, so the correction does not swing.
const CORRECTION_PER_S: f64 = 2.0;

/// Encodes commands for one controller.
#[derive(Clone, Debug)]
pub struct OutputForm {
    kind: OutputKind,
    /// `[D]` in the order of the commands.
    joints: Vec<String>,
    /// `[D]`: no velocity that is sent is larger, rad/s.
    limits_rad_s: Vec<f64>,
    /// For each of the controller's joints, its place in a command.
    order: Vec<usize>,
    period: Duration,
    buffer: Vec<u8>,
}

impl OutputForm {
    /// Commands for `joints`, sent in the order `controller_joints` (a permutation of them, checked by the caller).
    /// `limits_rad_s` are the joints' velocity limits.
    pub fn new(
        kind: OutputKind,
        joints: Vec<String>,
        limits_rad_s: Vec<f64>,
        order: Vec<usize>,
        period: Duration,
    ) -> Self {
        Self { kind, joints, limits_rad_s, order, period, buffer: Vec::new() }
    }

    /// The bytes of a command. To a controller of velocities goes the command's velocity and, so that the joints come to
    /// its positions, a share of what `measured_rad` is off them, within the joint's limit.
    pub fn command(
        &mut self,
        command: &SafeCommand,
        measured_rad: Option<&[f64]>,
        stamp: Stamp,
    ) -> Result<&[u8], crate::cdr::CdrError> {
        let wanted = command.position_rad();
        let measured = measured_rad.unwrap_or(wanted);
        let corrected: Vec<f64> = command
            .velocity_rad_s()
            .iter()
            .zip(wanted.iter().zip(measured))
            .zip(&self.limits_rad_s)
            .map(|((velocity, (wanted, measured)), limit)| {
                (velocity + (wanted - measured) * CORRECTION_PER_S).clamp(-limit, *limit)
            })
            .collect();
        self.encode(wanted, &corrected, stamp)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::decode;
    use endplate_hal::{CommandMode, Instant, JointCommand, JointVec, SafetyFilter, SafetyLimits, robots};

    /// A command that moves, made by the only thing that can make one.
    fn moving(limits: SafetyLimits) -> SafeCommand {
        let start = JointVec::from_fn(limits.joints.len(), |_| 0.0);
        let mut filter = SafetyFilter::new(limits, &start).unwrap();
        let target = JointVec::from_fn(start.len(), |_| 0.05);
        let at = |tick: u64| Instant::from_nanos(tick * 10_000_000);
        let command = |tick| JointCommand { mode: CommandMode::Position, target, valid_until: at(tick + 5) };
        (0..6).map(|tick| filter.filter(at(tick), &command(tick)).0).last().unwrap()
    }

    #[test]
    fn a_controller_of_velocities_is_told_to_make_up_for_what_the_joints_are_off_within_their_limits() {
        let spec = endplate_hal::RobotSpec::from_toml_str(robots::SO101_SIM, "so101_sim.toml").unwrap();
        let limits = spec.safety_limits();
        let command = moving(limits.clone());
        let names: Vec<String> = spec.joints.iter().map(|joint| joint.name.clone()).collect();
        let rates: Vec<f64> = limits.joints.iter().map(|joint| joint.velocity_rad_s).collect();
        let order = (0..names.len()).rev().collect();
        let mut form =
            OutputForm::new(OutputKind::ForwardVelocity, names, rates.clone(), order, Duration::from_millis(10));
        let mut sent = |measured: Option<&[f64]>| -> Vec<f64> {
            let bytes = form.command(&command, measured, Stamp::default()).unwrap();
            let mut values: Vec<f64> = decode::<Float64MultiArray>(bytes).unwrap().data.iter().collect();
            values.reverse();
            values
        };
        assert_eq!(sent(None), command.velocity_rad_s());
        assert!(command.velocity_rad_s()[0] > 0.0);
        let mut off = command.position_rad().to_vec();
        off[0] -= 0.1;
        off[1] += 100.0;
        let corrected = sent(Some(&off));
        assert!((corrected[0] - command.velocity_rad_s()[0] - 0.1 * CORRECTION_PER_S).abs() < 1e-12);
        assert_eq!(corrected[1], -rates[1]);
        assert_eq!(corrected[2..], command.velocity_rad_s()[2..]);
        let stop: Vec<f64> = {
            let bytes = form.stop(&off, Stamp::default()).unwrap();
            decode::<Float64MultiArray>(bytes).unwrap().data.iter().collect()
        };
        assert!(stop.iter().all(|rate| *rate == 0.0), "whatever is off, a stop stands");
    }
}
