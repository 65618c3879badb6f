//! The robot's own description: URDF on a latched topic, of which the joints' limits are taken.

use endplate_hal::{JointLimits, JointSpec};
use roxmltree::{Document, Node, ParsingOptions};

/// Where robots offer it.
pub const DESCRIPTION_TOPIC: &str = "/robot_description";
/// Elements a description may have.
const MOST_NODES: u32 = 200_000;

/// Why a description is not used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DescriptionError {
    /// Not XML.
    #[error("the robot description is not URDF: {0}")]
    Xml(String),
    /// Another document.
    #[error("the robot description has no <robot> at its root but <{0}>")]
    Root(String),
    /// A limit that is no number.
    #[error("joint {joint:?} of the robot description: {field} {value:?} is not a finite number")]
    Number {
        /// The joint.
        joint: String,
        /// Which limit.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// Nothing is left between the limits.
    #[error(
        "joint {joint:?}: robot.toml allows {described:?} rad and /robot_description {offered:?} rad, which have nothing in \
         common: correct one of them"
    )]
    Disjoint {
        /// The joint.
        joint: String,
        /// Lower and upper of the robot description file.
        described: (f64, f64),
        /// Lower and upper offered.
        offered: (f64, f64),
    },
}

/// The limits of one joint, as far as they are given.
#[derive(Clone, Debug, Default, PartialEq)]
struct Offered {
    name: String,
    lower_rad: Option<f64>,
    upper_rad: Option<f64>,
    velocity_rad_s: Option<f64>,
}

/// Joint limits out of a URDF.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RobotDescription {
    joints: Vec<Offered>,
}

/// A joint's limits that were made narrower.
#[derive(Clone, Debug, PartialEq)]
pub struct Narrowed {
    /// The joint.
    pub joint: String,
    /// Before.
    pub from: JointLimits,
    /// After.
    pub to: JointLimits,
}

impl RobotDescription {
    /// Reads a URDF. A revolute or prismatic joint has lower and upper limits; a continuous one has none; a velocity of 0,
    /// which some exporters write for "unknown", is not taken.
    ///
    /// # Errors
    /// [`DescriptionError`]; total on any text.
    pub fn parse(urdf: &str) -> Result<Self, DescriptionError> {
        let options = ParsingOptions { nodes_limit: MOST_NODES, ..ParsingOptions::default() };
        let document =
            Document::parse_with_options(urdf, options).map_err(|error| DescriptionError::Xml(error.to_string()))?;
        let root = document.root_element();
        if root.tag_name().name() != "robot" {
            return Err(DescriptionError::Root(root.tag_name().name().to_owned()));
        }
        let is_joint = |node: &Node| node.tag_name().name() == "joint" && node.attribute("type").is_some();
        let joints = root.children().filter(is_joint).map(read_joint).collect::<Result<_, _>>()?;
        Ok(Self { joints })
    }

    /// Narrows limits to what the description allows; never widens one. Joints it does not have stay as they are.
    ///
    /// # Errors
    /// [`DescriptionError::Disjoint`]; nothing is changed then.
    pub fn narrow(&self, joints: &mut [JointSpec]) -> Result<Vec<Narrowed>, DescriptionError> {
        let mut narrowed = Vec::new();
        for joint in joints.iter() {
            let Some(offered) = self.joints.iter().find(|offered| offered.name == joint.name) else { continue };
            let from = joint.limits;
            let to = JointLimits {
                lower_rad: offered.lower_rad.map_or(from.lower_rad, |lower| lower.max(from.lower_rad)),
                upper_rad: offered.upper_rad.map_or(from.upper_rad, |upper| upper.min(from.upper_rad)),
                velocity_rad_s: offered
                    .velocity_rad_s
                    .map_or(from.velocity_rad_s, |most| most.min(from.velocity_rad_s)),
                ..from
            };
            if to.lower_rad >= to.upper_rad {
                let ends = |offered: Option<f64>, own| offered.unwrap_or(own);
                return Err(DescriptionError::Disjoint {
                    joint: joint.name.clone(),
                    described: (from.lower_rad, from.upper_rad),
                    offered: (ends(offered.lower_rad, from.lower_rad), ends(offered.upper_rad, from.upper_rad)),
                });
            }
            if to != from {
                narrowed.push(Narrowed { joint: joint.name.clone(), from, to });
            }
        }
        for change in &narrowed {
            for joint in joints.iter_mut().filter(|joint| joint.name == change.joint) {
                joint.limits = change.to;
            }
        }
        Ok(narrowed)
    }
}

fn read_joint(joint: Node) -> Result<Offered, DescriptionError> {
    let name = joint.attribute("name").unwrap_or_default().to_owned();
    let limit = joint.children().find(|child| child.tag_name().name() == "limit");
    let number = |field: &'static str| match limit.and_then(|limit| limit.attribute(field)) {
        None => Ok(None),
        Some(text) => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(DescriptionError::Number { joint: name.clone(), field, value: text.to_owned() }),
        },
    };
    let is_bounded = joint.attribute("type") != Some("continuous");
    Ok(Offered {
        lower_rad: number("lower")?.filter(|_| is_bounded),
        upper_rad: number("upper")?.filter(|_| is_bounded),
        velocity_rad_s: number("velocity")?.filter(|velocity| *velocity > 0.0),
        name,
    })
}

/// A URDF of joints in a row, for a robot that has no better one.
pub fn describe(robot: &str, joints: &[JointSpec]) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let mut urdf =
        format!("<?xml version=\"1.0\"?>\n<robot name=\"{}\">\n  <link name=\"base_link\"/>\n", escaped(robot));
    let mut parent = "base_link".to_owned();
    for joint in joints {
        let name = escaped(&joint.name);
        let JointLimits { lower_rad, upper_rad, velocity_rad_s, .. } = joint.limits;
        urdf.push_str(&format!(
            "  <link name=\"{name}_link\"/>\n  <joint name=\"{name}\" type=\"revolute\">\n    <parent link=\"{parent}\"/>\n    \
             <child link=\"{name}_link\"/>\n    <axis xyz=\"0 0 1\"/>\n    <limit lower=\"{lower_rad}\" upper=\"{upper_rad}\" \
             velocity=\"{velocity_rad_s}\" effort=\"0\"/>\n  </joint>\n"
        ));
        parent = format!("{name}_link");
    }
    urdf.push_str("</robot>\n");
    urdf
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint(name: &str) -> JointSpec {
        JointSpec {
            name: name.into(),
            arm: "arm".into(),
            limits: JointLimits {
                lower_rad: -2.0,
                upper_rad: 2.0,
                velocity_rad_s: 3.0,
                acceleration_rad_s2: 30.0,
                jerk_rad_s3: 3000.0,
            },
            max_tracking_error_rad: 0.5,
            servo_id: None,
            servo: None,
        }
    }

    #[test]
    fn limits_are_narrowed_never_widened_and_unknown_joints_stay() {
        let urdf = r#"<robot name="r"><link name="l"/>
            <joint name="pan" type="revolute"><limit lower="-1" upper="9" velocity="0" effort="1"/></joint>
            <joint name="lift" type="continuous"><limit lower="-0.1" upper="0.1" velocity="1.5"/></joint>
            <ros2_control><joint name="pan"><command_interface name="position"/></joint></ros2_control></robot>"#;
        let mut joints = [joint("pan"), joint("lift"), joint("gripper")];
        let narrowed = RobotDescription::parse(urdf).unwrap().narrow(&mut joints).unwrap();
        assert_eq!(narrowed.iter().map(|one| one.joint.as_str()).collect::<Vec<_>>(), ["pan", "lift"]);
        assert_eq!((joints[0].limits.lower_rad, joints[0].limits.upper_rad), (-1.0, 2.0));
        assert_eq!((joints[0].limits.velocity_rad_s, joints[1].limits.velocity_rad_s), (3.0, 1.5));
        assert_eq!(joints[1].limits.lower_rad, -2.0, "a continuous joint has no ends");
        assert_eq!(joints[2], joint("gripper"));
    }

    #[test]
    fn what_is_no_description_is_refused_by_name() {
        let error = |urdf: &str| RobotDescription::parse(urdf).unwrap_err().to_string();
        assert!(error("").contains("not URDF"));
        assert!(error("<mujoco/>").contains("<mujoco>"));
        let joint_with =
            |limit: &str| format!("<robot><joint name=\"a\" type=\"revolute\"><limit {limit}/></joint></robot>");
        assert!(error(&joint_with("lower=\"NaN\"")).contains("joint \"a\" of the robot description: lower \"NaN\""));
        assert!(error(&joint_with("velocity=\"fast\"")).contains("velocity \"fast\""));
        let mut joints = [joint("a")];
        let apart = RobotDescription::parse(&joint_with("lower=\"3\" upper=\"4\"")).unwrap();
        assert!(apart.narrow(&mut joints).unwrap_err().to_string().contains("nothing in common"));
        assert_eq!(joints, [joint("a")]);
        let dtd = "<!DOCTYPE r [<!ENTITY a \"b\">]><robot/>";
        assert!(error(dtd).contains("not URDF"), "{}", error(dtd));
    }

    #[test]
    fn our_own_description_says_what_it_was_made_of() {
        let joints = [joint("pan"), joint("a<b")];
        let read = RobotDescription::parse(&describe("my \"arm\"", &joints)).unwrap();
        assert_eq!(read.narrow(&mut joints.clone()), Ok(vec![]));
        assert_eq!(read.joints.len(), 2);
    }
}
