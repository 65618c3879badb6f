//! Whether a policy and a robot belong together.

use std::fmt;

use endplate_hal::RobotSpec;

use super::PolicySpec;
use crate::action_space::Unit;
use crate::bind::Wiring;
use crate::observation::MAX_OBSERVATIONS;

/// One way in which a policy and a robot do not fit. Its text says what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Trained on another embodiment.
    Embodiment {
        /// The policy's.
        policy: String,
        /// The robot's.
        robot: String,
    },
    /// Another number of joints.
    JointCount {
        /// `"state"` or `"action"`.
        list: &'static str,
        /// The policy's.
        policy: usize,
        /// The robot's.
        robot: usize,
    },
    /// A joint the robot does not have.
    NoSuchJoint {
        /// `"state"` or `"action"`.
        list: &'static str,
        /// The policy's name for it.
        joint: String,
    },
    /// A joint in another place.
    JointOrder {
        /// `"state"` or `"action"`.
        list: &'static str,
        /// The joint.
        joint: String,
        /// Its place in the policy.
        policy: usize,
        /// Its place in the robot.
        robot: usize,
    },
    /// A joint in another unit.
    JointUnit {
        /// `"state"` or `"action"`.
        list: &'static str,
        /// The joint.
        joint: String,
        /// The policy's unit; the robot's is rad.
        policy: Unit,
    },
    /// A policy that moves the tool of a robot without a described chain.
    NoChain,
    /// A joint that the policy commands and that the tool's pose moves too.
    TwiceCommanded {
        /// The joint.
        joint: String,
    },
    /// A joint that neither the tool's pose nor an action dimension moves.
    Uncommanded {
        /// The joint.
        joint: String,
    },
    /// A policy that reads more observations a row apart than a control loop keeps.
    History {
        /// Observations it reads.
        steps: usize,
    },
    /// A camera the robot does not have.
    NoSuchCamera {
        /// The policy's name for it.
        camera: String,
        /// The robot's cameras.
        robot: Vec<String>,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embodiment { policy, robot } => {
                write!(
                    f,
                    "the policy was trained on robot `{policy}` and this is `{robot}`: use a policy of this robot"
                )
            }
            Self::JointCount { list, policy, robot } => {
                write!(
                    f,
                    "the policy has {policy} {list} dimensions and the robot {robot} joints: use matching descriptions"
                )
            }
            Self::NoSuchJoint { list, joint } => {
                write!(
                    f,
                    "{list} dimension `{joint}` is no joint of the robot: name the joints alike in robot.toml and policy.toml"
                )
            }
            Self::JointOrder { list, joint, policy, robot } => {
                write!(
                    f,
                    "{list} dimension `{joint}` is number {policy} in the policy and {robot} in the robot: list the joints in one order"
                )
            }
            Self::JointUnit { list, joint, policy } => {
                write!(f, "{list} dimension `{joint}` is in {} in the policy and in rad in the robot", policy.name())
            }
            Self::NoChain => f.write_str(
                "the policy moves the tool and the robot has no [kinematics]: describe the chain in robot.toml, or name its URDF or MJCF there",
            ),
            Self::TwiceCommanded { joint } => {
                write!(f, "joint `{joint}` is in the chain to the tool and an action dimension too: take it out of one of them")
            }
            Self::Uncommanded { joint } => {
                write!(
                    f,
                    "joint `{joint}` is neither in the chain to the tool nor an action dimension: nothing would command it"
                )
            }
            Self::History { steps } => {
                write!(
                    f,
                    "the policy reads {steps} observations a row apart and the control loop keeps {MAX_OBSERVATIONS}: train with fewer n_obs_steps, or run it open loop"
                )
            }
            Self::NoSuchCamera { camera, robot } => {
                write!(
                    f,
                    "camera slot `{camera}` is no camera of the robot, which has {robot:?}: name the cameras alike"
                )
            }
        }
    }
}

/// Compares a policy with a robot: embodiment, joints by name and order, units, the chain that a policy of poses needs,
/// cameras by name. Empty when they fit.
pub fn check_robot(policy: &PolicySpec, robot: &RobotSpec) -> Vec<Mismatch> {
    let mut found = Vec::new();
    if policy.robot != robot.name {
        found.push(Mismatch::Embodiment { policy: policy.robot.clone(), robot: robot.name.clone() });
    }
    if policy.observation_steps() > MAX_OBSERVATIONS {
        found.push(Mismatch::History { steps: policy.observation_steps() });
    }
    if policy.actions.commands_joints() {
        found.extend(joints_differ(policy, robot));
    } else if let Err(differ) = Wiring::new(policy, robot) {
        found.extend(differ);
    }
    for slot in &policy.cameras {
        if !robot.cameras.iter().any(|camera| camera.name == slot.name) {
            let robot = robot.cameras.iter().map(|camera| camera.name.clone()).collect();
            found.push(Mismatch::NoSuchCamera { camera: slot.name.clone(), robot });
        }
    }
    found
}

/// The joints of a policy that commands joints, against the robot's: number, names, order, units.
fn joints_differ(policy: &PolicySpec, robot: &RobotSpec) -> Vec<Mismatch> {
    let mut found = Vec::new();
    let state: Vec<(&str, Unit)> = policy.state.iter().map(|dim| (dim.name.as_str(), dim.unit)).collect();
    let action: Vec<(&str, Unit)> = policy.actions.dims().iter().map(|dim| (dim.name.as_str(), dim.unit)).collect();
    for (list, dims) in [("state", state), ("action", action)] {
        if dims.len() != robot.joints.len() {
            found.push(Mismatch::JointCount { list, policy: dims.len(), robot: robot.joints.len() });
        }
        for (index, (name, unit)) in dims.into_iter().enumerate() {
            let joint = name.to_owned();
            match robot.joints.iter().position(|joint| joint.name == name) {
                None => found.push(Mismatch::NoSuchJoint { list, joint }),
                Some(at) if at != index => found.push(Mismatch::JointOrder { list, joint, policy: index, robot: at }),
                Some(_) if unit != Unit::Rad => found.push(Mismatch::JointUnit { list, joint, policy: unit }),
                Some(_) => {}
            }
        }
    }
    found
}
