//! Joint states by name: mapped once, refused by name.

use crate::cdr::CdrError;
use crate::interface::{JointState as JointStateMessage, decode};
use crate::message::Stamp;
use endplate_hal::JointVec;

/// Why a joint state is not used; nothing else is disturbed by it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StateError {
    /// The bytes.
    #[error("not a sensor_msgs/msg/JointState: {0}")]
    Bytes(#[from] CdrError),
    /// A joint of the robot description is not among the names.
    #[error("joint {joint:?} of the robot description is missing; the message has {names}")]
    Missing {
        /// The joint.
        joint: String,
        /// The names the message has.
        names: String,
    },
    /// A joint of the robot description stands twice.
    #[error("joint {joint:?} stands twice among the names")]
    Duplicate {
        /// The joint.
        joint: String,
    },
    /// An array is not as long as the names.
    #[error("{field} has {got} values for {names} names")]
    Length {
        /// The array.
        field: &'static str,
        /// Names.
        names: usize,
        /// Values.
        got: usize,
    },
    /// A value is not finite.
    #[error("{field} of joint {joint:?} is {value}: the driver has no reading of it")]
    NonFinite {
        /// The array.
        field: &'static str,
        /// The joint.
        joint: String,
        /// The value.
        value: f64,
    },
    /// The stamp.
    #[error("the stamp of the joint state: {0}")]
    Stamp(#[from] super::StampError),
}

/// Reads joint states into the order of the robot description.
#[derive(Clone, Debug)]
pub struct StateReader {
    joints: Vec<String>,
    /// For each joint its place in the message, found when the names were last looked at.
    places: Vec<usize>,
    /// The names in that message.
    names: Vec<String>,
}

/// `[D]` in the order of the robot description.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct JointValues {
    /// Wall-clock time of the values.
    pub stamp: Stamp,
    /// rad.
    pub position_rad: JointVec,
    /// rad/s; zero where the message has none.
    pub velocity_rad_s: JointVec,
    /// N·m, where the message has it.
    pub effort_nm: Option<JointVec>,
}

impl StateReader {
    /// A reader for these joints.
    pub fn new(joints: Vec<String>) -> Self {
        Self { joints, places: Vec::new(), names: Vec::new() }
    }

    /// Reads one message. Names are looked at again only when they differ from the last message's.
    ///
    /// # Errors
    /// [`StateError`], naming joint and value.
    pub fn read(&mut self, bytes: &[u8]) -> Result<JointValues, StateError> {
        let message: JointStateMessage = decode(bytes)?;
        if !message.name.iter().eq(self.names.iter().map(String::as_str)) {
            self.map(&message)?;
        }
        let names = self.names.len();
        let arrays = [("position", message.position), ("velocity", message.velocity), ("effort", message.effort)];
        let mut values = [None; 3];
        for ((field, array), slot) in arrays.into_iter().zip(&mut values) {
            let got = array.len();
            if got != names && (got != 0 || field == "position") {
                return Err(StateError::Length { field, names, got });
            }
            if got == 0 {
                continue;
            }
            let mut ordered = JointVec::zeros(self.joints.len());
            for (place, value) in array.iter().enumerate() {
                let Some(joint) = self.places.iter().position(|at| *at == place) else { continue };
                // Effort may be unknown joint by joint; position and velocity must be there.
                if !value.is_finite() && field != "effort" {
                    return Err(StateError::NonFinite { field, joint: self.joints[joint].clone(), value });
                }
                ordered[joint] = value;
            }
            *slot = ordered.is_finite().then_some(ordered);
        }
        let zeros = JointVec::zeros(self.joints.len());
        let [position, velocity, effort_nm] = values;
        Ok(JointValues {
            stamp: message.header.stamp,
            position_rad: position.unwrap_or(zeros),
            velocity_rad_s: velocity.unwrap_or(zeros),
            effort_nm,
        })
    }

    fn map(&mut self, message: &JointStateMessage) -> Result<(), StateError> {
        let names: Vec<String> = message.name.iter().map(str::to_owned).collect();
        let mut places = Vec::with_capacity(self.joints.len());
        for joint in &self.joints {
            let mut found = names.iter().enumerate().filter(|(_, name)| *name == joint);
            match (found.next(), found.next()) {
                (Some((place, _)), None) => places.push(place),
                (Some(_), Some(_)) => return Err(StateError::Duplicate { joint: joint.clone() }),
                (None, _) => {
                    return Err(StateError::Missing { joint: joint.clone(), names: names.join(", ") });
                }
            }
        }
        (self.places, self.names) = (places, names);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::{Seq, encode};

    fn message(names: &[&str], position: &[f64], velocity: &[f64]) -> Vec<u8> {
        let mut buffer = vec![0; 1024];
        let message = JointStateMessage {
            name: names.into(),
            position: position.into(),
            velocity: velocity.into(),
            effort: Seq::default(),
            ..Default::default()
        };
        let written = encode(&message, &mut buffer).unwrap();
        buffer.truncate(written);
        buffer
    }

    #[test]
    fn joints_are_mapped_by_name_and_every_bad_state_is_refused_by_name() {
        let mut reader = StateReader::new(vec!["pan".into(), "lift".into()]);
        let values = reader.read(&message(&["lift", "wheel", "pan"], &[1.0, f64::NAN, 2.0], &[])).unwrap();
        assert_eq!(&values.position_rad[..], [2.0, 1.0], "another joint's NaN does not matter");
        assert_eq!(&values.velocity_rad_s[..], [0.0, 0.0]);
        let values = reader.read(&message(&["pan", "lift"], &[3.0, 4.0], &[0.5, 0.25])).unwrap();
        assert_eq!((&values.position_rad[..], &values.velocity_rad_s[..]), (&[3.0, 4.0][..], &[0.5, 0.25][..]));
        let mut refusal = |names: &[&str], position: &[f64], velocity: &[f64]| {
            reader.read(&message(names, position, velocity)).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(&["pan"], &[0.0], &[]),
            "joint \"lift\" of the robot description is missing; the message has pan"
        );
        assert_eq!(refusal(&["pan", "lift", "pan"], &[0.0; 3], &[]), "joint \"pan\" stands twice among the names");
        assert_eq!(
            refusal(&["pan", "lift"], &[0.0, f64::NAN], &[]),
            "position of joint \"lift\" is NaN: the driver has no reading of it"
        );
        assert_eq!(refusal(&["pan", "lift"], &[0.0], &[]), "position has 1 values for 2 names");
        assert_eq!(refusal(&["pan", "lift"], &[], &[]), "position has 0 values for 2 names");
        assert_eq!(refusal(&["pan", "lift"], &[0.0; 2], &[0.0]), "velocity has 1 values for 2 names");
        assert!(reader.read(&[0, 1, 0, 0, 7]).unwrap_err().to_string().starts_with("not a sensor_msgs/msg/JointState"));
    }
}
