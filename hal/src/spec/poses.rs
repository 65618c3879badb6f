//! `[poses]`: where the operator wants the arm to go, and where it is put away.

use super::{JointSpec, SpecError, Validator};
use crate::joints::JointVec;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Poses of a robot, `[D]` rad.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoseSpec {
    /// Where an episode begins.
    pub home: Option<JointVec>,
    /// Where the arm may be without torque and does not fall.
    pub park: Option<JointVec>,
    /// Share of every joint's limits of speed, acceleration and jerk at which poses are gone to, 0 to 1.
    pub speed: f64,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPoses {
    home: Option<BTreeMap<String, f64>>,
    park: Option<BTreeMap<String, f64>>,
    speed: Option<f64>,
}

/// Poses name every joint and lie inside its limits.
pub(super) fn validate_poses(check: &Validator, raw: &RawPoses, joints: &[JointSpec]) -> Result<PoseSpec, SpecError> {
    let pose = |name: &str, raw: &Option<BTreeMap<String, f64>>| {
        let Some(raw) = raw else { return Ok(None) };
        if let Some(stranger) = raw.keys().find(|name| joints.iter().all(|joint| joint.name != **name)) {
            let known: Vec<&str> = joints.iter().map(|joint| joint.name.as_str()).collect();
            let remedy = format!("the robot has no such joint: name {}", known.join(", "));
            return check.refuse(format!("poses.{name}.{stranger}"), raw[stranger], remedy);
        }
        let mut pose = JointVec::zeros(joints.len());
        for (joint, value) in joints.iter().zip(&mut *pose) {
            let key = format!("poses.{name}.{}", joint.name);
            let Some(&angle) = raw.get(&joint.name) else {
                return check.refuse(key, "missing", "write the joint's angle in rad: a pose names every joint");
            };
            *value = check.within(&key, angle, joint.limits.lower_rad, joint.limits.upper_rad)?;
        }
        Ok(Some(pose))
    };
    Ok(PoseSpec {
        home: pose("home", &raw.home)?,
        park: pose("park", &raw.park)?,
        speed: check.within("poses.speed", raw.speed.unwrap_or(DEFAULT_SPEED), 0.01, 1.0)?,
    })
}

/// A third of what the limits allow.
const DEFAULT_SPEED: f64 = 0.33;
