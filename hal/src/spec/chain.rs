//! `[kinematics]`: the chain to the tool, written out or read from a URDF or MJCF beside the description, and what counts as
//! reached.

use std::collections::BTreeMap;

use nalgebra::Isometry3;
use serde::Deserialize;

use super::{JointSpec, SpecError, Validator};
use crate::kinematics::{Chain, ChainLink, InverseRules, ModelLink, ModelPath};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKinematics {
    #[serde(default)]
    links: Vec<RawLink>,
    tool_m: Option<[f64; 3]>,
    #[serde(default)]
    tool_rpy_rad: [f64; 3],
    /// A URDF or MJCF, in the place of `links`.
    model: Option<String>,
    base: Option<String>,
    tip: Option<String>,
    /// The robot's name of a joint → the model's.
    #[serde(default)]
    model_joints: BTreeMap<String, String>,
    #[serde(default)]
    inverse: RawInverse,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    joint: String,
    origin_m: [f64; 3],
    #[serde(default)]
    rpy_rad: [f64; 3],
    axis: [f64; 3],
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInverse {
    position_tolerance_m: Option<f64>,
    rotation_tolerance_rad: Option<f64>,
    orientation_weight_m: Option<[f64; 3]>,
    max_step_rad: Option<f64>,
    iterations: Option<u32>,
}

pub(super) fn validate_chain(
    check: &Validator,
    raw: &RawKinematics,
    joints: &[JointSpec],
    read: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<(Chain, InverseRules), SpecError> {
    let rules = validate_inverse(check, &raw.inverse)?;
    let tool = crate::kinematics::pose(raw.tool_m.unwrap_or_default(), raw.tool_rpy_rad);
    let chain = match &raw.model {
        Some(model) => from_model(check, raw, model, joints, read, tool)?,
        None => from_links(check, raw, joints)?,
    };
    let mut seen = Vec::new();
    for joint in chain.joints() {
        if seen.contains(&joint) {
            let name = format!("{:?}", joints[joint].name);
            return check.refuse("kinematics.links.joint", name, "a chain runs through each joint once");
        }
        seen.push(joint);
    }
    Ok((chain, rules))
}

fn from_links(check: &Validator, raw: &RawKinematics, joints: &[JointSpec]) -> Result<Chain, SpecError> {
    for (key, is_given) in
        [("base", raw.base.is_some()), ("tip", raw.tip.is_some()), ("model_joints", !raw.model_joints.is_empty())]
    {
        if is_given {
            let remedy = "is about kinematics.model, which is not given: remove it, or name the URDF or MJCF";
            return check.refuse(format!("kinematics.{key}"), "given", remedy);
        }
    }
    let Some(tool_m) = raw.tool_m else {
        return check.refuse("kinematics.tool_m", "missing", "write the tool's place in the last joint's frame, m");
    };
    if raw.links.is_empty() {
        let remedy = "describe the joints from the base to the tool, or name a URDF or MJCF in kinematics.model";
        return check.refuse("kinematics.links", "[]", remedy);
    }
    let mut links = Vec::new();
    for link in &raw.links {
        let joint = joint_named(check, "kinematics.links.joint", &link.joint, joints)?;
        links.push(ChainLink { joint, origin_m: link.origin_m, rpy_rad: link.rpy_rad, axis: link.axis });
    }
    let numbers = links.iter().flat_map(|link| link.origin_m.iter().chain(&link.rpy_rad).chain(&link.axis));
    if !numbers.chain(&tool_m).chain(&raw.tool_rpy_rad).all(|value| value.is_finite()) {
        return check.refuse(
            "kinematics",
            "a number that is not finite",
            "write finite lengths in m and angles in rad",
        );
    }
    Chain::with_tool(&links, tool_m, raw.tool_rpy_rad)
        .or_else(|error| check.refuse("kinematics.links.axis", error, "write a direction such as [0, 0, 1]"))
}

/// The chain of a model file; `tool` is put behind the file's own tip.
fn from_model(
    check: &Validator,
    raw: &RawKinematics,
    model: &str,
    joints: &[JointSpec],
    read: &dyn Fn(&str) -> std::io::Result<String>,
    tool: Isometry3<f64>,
) -> Result<Chain, SpecError> {
    if !raw.links.is_empty() {
        return check.refuse("kinematics.links", "given", "is read from kinematics.model: remove one of them");
    }
    let Some(tip) = &raw.tip else {
        return check.refuse("kinematics.tip", "missing", "name the link (URDF) or site (MJCF) that is the tool");
    };
    if !raw.tool_m.iter().flatten().chain(&raw.tool_rpy_rad).all(|value| value.is_finite()) {
        return check.refuse(
            "kinematics.tool_m",
            "a number that is not finite",
            "write finite lengths in m and angles in rad",
        );
    }
    let text = read(model)
        .or_else(|error| check.refuse("kinematics.model", format!("{model:?}"), format!("cannot be read: {error}")))?;
    let path = ModelPath::read(&text, raw.base.as_deref(), tip)
        .or_else(|error| check.refuse("kinematics.model", format!("{model:?}"), error.to_string()))?;
    let mut links = Vec::new();
    for ModelLink { joint, origin, axis } in path.links {
        let ours = raw.model_joints.iter().find(|(_, theirs)| **theirs == joint).map_or(&joint, |(ours, _)| ours);
        let index = joint_named(check, "kinematics.model_joints", ours, joints)?;
        let (roll, pitch, yaw) = origin.rotation.euler_angles();
        let origin_m = origin.translation.vector.into();
        links.push(ChainLink { joint: index, origin_m, rpy_rad: [roll, pitch, yaw], axis });
    }
    let tool = path.tool * tool;
    let (roll, pitch, yaw) = tool.rotation.euler_angles();
    Chain::with_tool(&links, tool.translation.vector.into(), [roll, pitch, yaw])
        .or_else(|error| check.refuse("kinematics.model", format!("{model:?}"), error.to_string()))
}

fn joint_named(check: &Validator, key: &str, name: &str, joints: &[JointSpec]) -> Result<usize, SpecError> {
    joints.iter().position(|joint| joint.name == name).map_or_else(
        || {
            let known: Vec<_> = joints.iter().map(|joint| joint.name.as_str()).collect();
            check.refuse(key, format!("{name:?}"), format!("name one of {}", known.join(", ")))
        },
        Ok,
    )
}

fn validate_inverse(check: &Validator, raw: &RawInverse) -> Result<InverseRules, SpecError> {
    let default = InverseRules::default();
    let key = |name: &str| format!("kinematics.inverse.{name}");
    let within = |name: &str, value: Option<f64>, or: f64, low: f64, high: f64| {
        value.map_or(Ok(or), |value| check.within(&key(name), value, low, high))
    };
    let mut orientation_weight_m = default.orientation_weight_m;
    if let Some(weights) = raw.orientation_weight_m {
        for (slot, weight) in orientation_weight_m.iter_mut().zip(weights) {
            *slot = check.within(&key("orientation_weight_m"), weight, 0.0, 1.0)?;
        }
    }
    let iterations = raw.iterations.unwrap_or(default.iterations);
    if !(1..=10_000).contains(&iterations) {
        return check.refuse(key("iterations"), iterations, "write a number from 1 to 10000");
    }
    Ok(InverseRules {
        position_tolerance_m: within(
            "position_tolerance_m",
            raw.position_tolerance_m,
            default.position_tolerance_m,
            1e-6,
            0.1,
        )?,
        rotation_tolerance_rad: within(
            "rotation_tolerance_rad",
            raw.rotation_tolerance_rad,
            default.rotation_tolerance_rad,
            1e-6,
            3.2,
        )?,
        orientation_weight_m,
        max_step_rad: within("max_step_rad", raw.max_step_rad, default.max_step_rad, 1e-3, 6.3)?,
        iterations,
    })
}

#[cfg(test)]
mod tests {
    use crate::kinematics::Kinematics;
    use crate::robots::SO101_SIM;
    use crate::spec::RobotSpec;

    const MJCF: &str = r#"<mujoco><compiler angle="radian"/><worldbody>
      <body pos="0 0 .06"><joint name="pan" axis="0 0 1"/>
       <body pos="0 0 .06"><joint name="shoulder_lift" axis="0 1 0"/>
        <body pos="0 0 .12"><joint name="elbow_flex" axis="0 1 0"/>
         <body pos="0 0 .135"><joint name="wrist_flex" axis="0 1 0"/>
          <body pos="0 0 .05"><joint name="wrist_roll" axis="0 0 1"/><site name="tool"/></body></body></body></body></body>
      </worldbody></mujoco>"#;

    fn described(kinematics: &str) -> String {
        let (before, rest) = SO101_SIM.split_once("[kinematics]").unwrap();
        let (_, workspace) = rest.split_once("[workspace]").unwrap();
        format!("{before}[kinematics]\n{kinematics}\n[workspace]{workspace}")
    }

    fn open(kinematics: &str) -> Result<RobotSpec, String> {
        let read =
            |path: &str| if path == "arm.xml" { Ok(MJCF.into()) } else { Err(std::io::Error::other("no such file")) };
        RobotSpec::from_toml_str_with(&described(kinematics), "robot.toml", &read).map_err(|error| error.to_string())
    }

    #[test]
    fn a_chain_from_a_model_file_is_the_chain_written_out() {
        let read =
            "model = \"arm.xml\"\ntip = \"tool\"\ntool_m = [0, 0, 0.08]\nmodel_joints = { shoulder_pan = \"pan\" }";
        let (model, written) = (open(read).unwrap(), RobotSpec::from_toml_str(SO101_SIM, "").unwrap());
        for joints in [[0.0; 6], [0.3, -0.4, 1.1, 0.7, -1.2, 0.2]] {
            let pose = |robot: &RobotSpec| robot.chain.as_ref().unwrap().forward(&joints).unwrap();
            let apart = pose(&model).inverse() * pose(&written);
            assert!(apart.translation.vector.norm() < 1e-12 && apart.rotation.angle() < 1e-7);
        }
    }

    #[test]
    fn what_is_wrong_with_a_chain_is_named() {
        let model = "model = \"arm.xml\"\n";
        for (text, words) in [
            ("tool_m = [0, 0, 0]", "kinematics.links = []"),
            (model, "kinematics.tip = missing"),
            ("model = \"gone.xml\"\ntip = \"tool\"", "cannot be read: no such file"),
            ("model = \"arm.xml\"\ntip = \"claw\"", "\"claw\""),
            ("model = \"arm.xml\"\ntip = \"tool\"", "name one of shoulder_pan"),
            ("tip = \"tool\"\ntool_m = [0, 0, 0]", "kinematics.tip = given"),
            ("tool_m = [0, 0, 0]\n[kinematics.inverse]\nmax_step_rad = 0", "kinematics.inverse.max_step_rad = 0"),
            (
                "tool_m = [0, 0, 0]\n[kinematics.inverse]\norientation_weight_m = [0, 0, -1]",
                "orientation_weight_m = -1",
            ),
        ] {
            let error = open(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
