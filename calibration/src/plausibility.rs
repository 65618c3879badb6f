//! Is this calibration the one of this arm? Asked before torque.
//!
//! A homing offset that is off by 17° moves the tool of a small arm by 6 cm, and nothing in the file looks wrong. What
//! gives it away: the servo holds other numbers than the file (stale, or another arm's), the joint stands outside its
//! own range, the recorded range is shorter than the joint's travel, or the joint reads another angle than it has in a
//! pose that is known (against a stop, or parked).

use crate::lerobot::{MotorCalibration, MotorCalibrations};
use core::f64::consts::TAU;
use endplate_hal::servo::{Count, ServoRegisters};
use endplate_hal::{Kinematics, RobotSpec};

/// How far things may be apart.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Tolerances {
    /// Counts beyond its range at which a joint may stand.
    pub outside_counts: i32,
    /// Share of the joint's travel by which a recorded range may be shorter, or longer.
    pub span_share: f64,
    /// How far a joint may read from its known angle, rad.
    pub reference_rad: f64,
}

impl Default for Tolerances {
    /// 5° outside; 15 % of the travel; 5° in a known pose, which a hand can hold.
    fn default() -> Self {
        Self { outside_counts: 57, span_share: 0.15, reference_rad: 5f64.to_radians() }
    }
}

/// Something that speaks against a calibration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Finding {
    /// The file lacks a joint of the robot.
    #[error("the calibration has no joint {joint:?} (it has {known}): it is another robot's; name the right file")]
    MissingJoint {
        /// The joint.
        joint: String,
        /// Joints of the file.
        known: String,
    },
    /// The file has a joint the robot lacks.
    #[error("the calibration has a joint {joint:?} that the robot description lacks: it is another robot's")]
    UnknownJoint {
        /// The joint.
        joint: String,
    },
    /// Another bus id than described.
    #[error(
        "joint {joint}: the calibration is of servo {file} and the description says servo {robot}: foreign, or ids were changed"
    )]
    ForeignId {
        /// The joint.
        joint: String,
        /// Id in the file.
        file: i32,
        /// Id in the description.
        robot: u8,
    },
    /// Most servos of an arm hold what another arm's file says.
    #[error(
        "the servos of arm {arm} hold the calibration of arm {other}: their cables are swapped; swap them back, or the \
         ports in the description (names by id below /dev/serial/by-id do not change places)"
    )]
    SwappedArms {
        /// The arm.
        arm: String,
        /// Whose calibration it holds.
        other: String,
    },
    /// A servo holds what the file says of another joint.
    #[error(
        "the servo of joint {joint} holds the calibration of joint {other}: their ids were exchanged; give them their own \
         with `endplate servo set-id`, each connected alone"
    )]
    SwappedServos {
        /// The joint.
        joint: String,
        /// Whose calibration it holds.
        other: String,
    },
    /// The joint stands where it cannot.
    #[error(
        "joint {joint} stands at count {count}, outside its range {min} to {max}: its homing offset is shifted by at least \
         {shift_deg:.0}°; calibrate it again"
    )]
    OutsideRange {
        /// The joint.
        joint: String,
        /// Where it stands.
        count: i32,
        /// Smallest count of its range.
        min: i32,
        /// Largest count of its range.
        max: i32,
        /// Least shift that explains it, degrees.
        shift_deg: f64,
    },
    /// The recorded range is not the joint's travel.
    #[error(
        "joint {joint}: the recorded range is {found_deg:.0}° and the joint travels {travel_deg:.0}°: the sweep missed a stop, \
         so the zero may be off by {shift_deg:.0}°{tool}; sweep it again to both stops"
    )]
    Span {
        /// The joint.
        joint: String,
        /// Recorded, degrees.
        found_deg: f64,
        /// Described, degrees.
        travel_deg: f64,
        /// How far the zero may be off, degrees.
        shift_deg: f64,
        /// What that is at the tool.
        tool: ToolShift,
    },
    /// The joint reads another angle than it has.
    #[error(
        "joint {joint} reads {found_deg:.1}° where it stands at {known_deg:.1}°: its homing offset is shifted by \
         {shift_deg:.1}°{tool}; do not switch torque on, calibrate it again"
    )]
    Shifted {
        /// The joint.
        joint: String,
        /// Read, degrees.
        found_deg: f64,
        /// True, degrees.
        known_deg: f64,
        /// Difference, degrees.
        shift_deg: f64,
        /// What that is at the tool.
        tool: ToolShift,
    },
}

/// How far the tool is off, m, where the robot's chain is described.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct ToolShift(pub Option<f64>);

impl core::fmt::Display for ToolShift {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.map_or(Ok(()), |metres| write!(f, " ({:.1} cm at the tool)", metres * 100.0))
    }
}

/// Whether file and robot description speak of the same joints and servos.
pub fn against_robot(file: &MotorCalibrations, robot: &RobotSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    for joint in &robot.joints {
        match (file.get(&joint.name), joint.servo_id) {
            (None, _) => {
                let known: Vec<_> = file.iter().map(|(name, _)| name).collect();
                findings.push(Finding::MissingJoint { joint: joint.name.clone(), known: known.join(", ") });
            }
            (Some(motor), Some(id)) if motor.id != i32::from(id) => {
                findings.push(Finding::ForeignId { joint: joint.name.clone(), file: motor.id, robot: id });
            }
            _ => {}
        }
    }
    for (name, _) in file.iter() {
        if !robot.joints.iter().any(|joint| joint.name == name) {
            findings.push(Finding::UnknownJoint { joint: name.to_owned() });
        }
    }
    findings
}

/// Whether a joint stands inside the range that the file gives it.
pub fn standing(joint: &str, file: &MotorCalibration, count: Count, tolerances: &Tolerances) -> Option<Finding> {
    let beyond = ServoRegisters::from(file).beyond(count);
    (beyond > tolerances.outside_counts).then(|| Finding::OutsideRange {
        joint: joint.to_owned(),
        count: count.0,
        min: file.range_min,
        max: file.range_max,
        shift_deg: f64::from(beyond) * 360.0 / 4096.0,
    })
}

/// Whether the servos hold what the files say of other joints: `held` is what each of the robot's joints holds, where
/// that is known. Equal numbers of two joints tell nothing.
pub fn swapped(robot: &RobotSpec, held: &[Option<ServoRegisters>]) -> Vec<Finding> {
    let file = |joint: usize| robot.joints[joint].servo.and_then(|servo| servo.held);
    let is_foreign = |joint: usize, of: usize| {
        let held = held.get(joint).copied().flatten();
        held.is_some() && held == file(of) && held != file(joint)
    };
    let mut findings = Vec::new();
    for arm in &robot.arms {
        let other =
            robot.arms.iter().filter(|other| other.name != arm.name && other.joints.len() == arm.joints.len()).find(
                |other| {
                    let pairs = arm.joints.clone().zip(other.joints.clone());
                    2 * pairs.filter(|&(joint, of)| is_foreign(joint, of)).count() > arm.joints.len()
                },
            );
        if let Some(other) = other {
            findings.push(Finding::SwappedArms { arm: arm.name.clone(), other: other.name.clone() });
            continue;
        }
        for joint in arm.joints.clone() {
            if let Some(of) = arm.joints.clone().find(|&of| is_foreign(joint, of)) {
                let [joint, other] = [joint, of].map(|joint| robot.joints[joint].name.clone());
                findings.push(Finding::SwappedServos { joint, other });
            }
        }
    }
    findings
}

/// Whether a recorded range is the travel of a joint: from stop to stop where that is described, else `lower_rad` to
/// `upper_rad`. A joint that turns all the way round (0 to 4095) has no stops and is not judged.
pub fn span(robot: &RobotSpec, joint: usize, file: &MotorCalibration, tolerances: &Tolerances) -> Option<Finding> {
    let limits = &robot.joints[joint].limits;
    let described = robot.joints[joint].servo.and_then(|servo| servo.travel_rad);
    range_of(robot, joint, file.into(), described.unwrap_or(limits.upper_rad - limits.lower_rad), tolerances)
}

/// Whether the ranges of the robot's calibration files are the travel of its joints, where that is described. Limits
/// alone say nothing here: they may be narrower by choice, and a range that is narrower than they has been refused.
pub fn spans(robot: &RobotSpec, tolerances: &Tolerances) -> Vec<Finding> {
    let judged = robot.joints.iter().enumerate().filter_map(|(index, joint)| {
        let servo = joint.servo?;
        range_of(robot, index, servo.held?, servo.travel_rad?, tolerances)
    });
    judged.collect()
}

fn range_of(
    robot: &RobotSpec,
    joint: usize,
    range: ServoRegisters,
    travel: f64,
    tolerances: &Tolerances,
) -> Option<Finding> {
    let found = f64::from(range.range_max - range.range_min) * TAU / 4096.0;
    let apart = found - travel;
    if (range.range_min, range.range_max) == (0, 4095) || apart.abs() <= tolerances.span_share * travel {
        return None;
    }
    let shift = apart.abs() / 2.0;
    Some(Finding::Span {
        joint: robot.joints[joint].name.clone(),
        found_deg: found.to_degrees(),
        travel_deg: travel.to_degrees(),
        shift_deg: shift.to_degrees(),
        tool: tool_shift(robot, joint, shift),
    })
}

/// Whether the joints read what they have in a pose that is known, both `[D]` rad: parked, or held against the stops.
pub fn in_known_pose(robot: &RobotSpec, read_rad: &[f64], known_rad: &[f64], tolerances: &Tolerances) -> Vec<Finding> {
    robot
        .joints
        .iter()
        .zip(read_rad.iter().zip(known_rad))
        .enumerate()
        .filter(|(_, (_, (read, known)))| {
            let apart = (*read - *known).abs();
            apart.is_nan() || apart > tolerances.reference_rad
        })
        .map(|(index, (joint, (read, known)))| Finding::Shifted {
            joint: joint.name.clone(),
            found_deg: read.to_degrees(),
            known_deg: known.to_degrees(),
            shift_deg: (read - known).to_degrees(),
            tool: tool_shift(robot, index, read - known),
        })
        .collect()
}

/// How far the tool moves when one joint is off by `shift_rad`, at most over a few stretched and bent poses.
pub fn tool_shift(robot: &RobotSpec, joint: usize, shift_rad: f64) -> ToolShift {
    let Some(chain) = &robot.chain else { return ToolShift(None) };
    let mut worst = 0.0f64;
    for share in [0.2, 0.35, 0.5, 0.65, 0.8] {
        let mut pose: Vec<f64> = robot
            .joints
            .iter()
            .map(|joint| joint.limits.lower_rad + share * (joint.limits.upper_rad - joint.limits.lower_rad))
            .collect();
        let Ok(before) = chain.forward(&pose) else { return ToolShift(None) };
        pose[joint] += shift_rad;
        let Ok(after) = chain.forward(&pose) else { return ToolShift(None) };
        worst = worst.max((after.translation.vector - before.translation.vector).norm());
    }
    ToolShift(Some(worst))
}

#[cfg(test)]
mod tests {
    use super::*;
    use endplate_hal::robots::SO101_SIM;

    fn robot() -> RobotSpec {
        RobotSpec::from_toml_str(SO101_SIM, "so101").unwrap()
    }

    /// A file whose ranges are the described travel.
    fn fitting(robot: &RobotSpec) -> MotorCalibrations {
        let motors = robot.joints.iter().enumerate().map(|(index, joint)| {
            let half = (joint.limits.upper_rad - joint.limits.lower_rad) / 2.0 * 4096.0 / TAU;
            let (min, max) = ((2047.0 - half) as i32, (2047.0 + half) as i32);
            let id = index as i32 + 1;
            (
                joint.name.clone(),
                MotorCalibration { id, drive_mode: 0, homing_offset: 40, range_min: min, range_max: max },
            )
        });
        MotorCalibrations::new(motors.collect(), "x").unwrap()
    }

    #[test]
    fn a_fitting_calibration_has_nothing_against_it() {
        let (robot, tolerances) = (robot(), Tolerances::default());
        let file = fitting(&robot);
        assert_eq!(against_robot(&file, &robot), []);
        for (index, (name, motor)) in file.iter().enumerate() {
            assert_eq!(span(&robot, index, motor, &tolerances), None);
            assert_eq!(standing(name, motor, Count(2000), &tolerances), None);
        }
    }

    #[test]
    fn a_stale_or_foreign_file_is_named() {
        let mut robot = robot();
        let file = fitting(&robot);
        robot.joints[1].servo_id = Some(9);
        robot.joints[2].name = "elbow".into();
        let found: Vec<String> = against_robot(&file, &robot).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("servo 2") && found[0].contains("servo 9"), "{found:?}");
        assert!(found[1].contains("no joint \"elbow\"") && found[2].contains("\"elbow_flex\""), "{found:?}");
    }

    #[test]
    fn a_homing_offset_shifted_by_17_degrees_is_caught_before_motion() {
        let (robot, tolerances) = (robot(), Tolerances::default());
        let file = fitting(&robot);
        let shift = 17f64.to_radians();
        let counts = (shift * 4096.0 / TAU) as i32;
        for (index, (name, motor)) in file.iter().enumerate() {
            // Held against its upper stop, it reads beyond its range.
            let at_stop = Count(motor.range_max + counts);
            let found = standing(name, motor, at_stop, &tolerances);
            assert!(matches!(found, Some(Finding::OutsideRange { .. })), "{found:?}");
            // In any known pose, it reads another angle.
            let known = vec![0.3; robot.joints.len()];
            let mut read = known.clone();
            read[index] += shift;
            let found = in_known_pose(&robot, &read, &known, &tolerances);
            assert!(matches!(&found[..], [Finding::Shifted { joint, .. }] if joint == name), "{found:?}");
        }
        // A sweep that missed a stop by twice that puts the zero off by as much.
        let mut short = *file.get("shoulder_lift").unwrap();
        short.range_max -= 2 * counts;
        let Some(Finding::Span { shift_deg, tool: ToolShift(Some(tool_m)), .. }) = span(&robot, 1, &short, &tolerances)
        else {
            panic!("not caught");
        };
        assert!((16.0..18.0).contains(&shift_deg) && tool_m > 0.06, "{shift_deg} {tool_m}");
        assert!(!in_known_pose(&robot, &[f64::NAN; 6], &[0.0; 6], &tolerances).is_empty());
    }
}
