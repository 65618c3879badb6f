//! LeRobot's calibration files and units, with their quirks.
//!
//! The file is `{ "<motor>": { "id", "drive_mode", "homing_offset", "range_min", "range_max" } }`, all integers, in the
//! order of the motors and in the form Python's `json.dumps(…, indent=4)` gives it, without a newline at its end.
//! [`MotorCalibrations::to_json`] gives back, byte for byte, what LeRobot wrote.

mod units;

pub use units::{LeRobotUnits, NormMode, UnitsError};

use core::fmt::Write as _;
use endplate_hal::ServoCalibration;
use endplate_hal::servo::ServoRegisters;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

/// One servo's entry.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotorCalibration {
    /// Bus id, 0–252.
    pub id: i32,
    /// 1 where the joint is to run the other way, else 0; ignored in degrees, and by LeRobot's Dynamixel bus.
    pub drive_mode: i32,
    /// Counts. Feetech: `present = encoder − offset`; Dynamixel: `present = encoder + offset`.
    pub homing_offset: i32,
    /// Smallest present position, counts.
    pub range_min: i32,
    /// Largest present position, counts.
    pub range_max: i32,
}

/// A calibration file: motors in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MotorCalibrations {
    motors: Vec<(String, MotorCalibration)>,
}

/// Why a calibration file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MotorCalibrationError {
    /// Not JSON, an unknown, missing or repeated key, or a value that is no integer.
    #[error("{file}: {message}")]
    Parse {
        /// The file as the user named it.
        file: String,
        /// The parser's message, with line and column.
        message: String,
    },
    /// A value that cannot be.
    #[error("{file}: {motor}.{field} = {value}: {remedy}")]
    Invalid {
        /// The file as the user named it.
        file: String,
        /// The motor.
        motor: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
        /// What to do.
        remedy: String,
    },
}

impl From<&MotorCalibration> for ServoRegisters {
    fn from(motor: &MotorCalibration) -> Self {
        Self { homing_offset: motor.homing_offset, range_min: motor.range_min, range_max: motor.range_max }
    }
}

impl MotorCalibrations {
    /// A calibration of these motors.
    ///
    /// # Errors
    /// [`MotorCalibrationError::Invalid`]; `file` is the name to use in it.
    pub fn new(motors: Vec<(String, MotorCalibration)>, file: &str) -> Result<Self, MotorCalibrationError> {
        for (index, (name, motor)) in motors.iter().enumerate() {
            let refuse = |field, value, remedy: String| {
                Err(MotorCalibrationError::Invalid { file: file.into(), motor: name.clone(), field, value, remedy })
            };
            if !(0..=252).contains(&motor.id) {
                return refuse("id", motor.id, "a servo has an id from 0 to 252".into());
            }
            if let Some((other, _)) = motors[..index].iter().find(|(_, other)| other.id == motor.id) {
                return refuse(
                    "id",
                    motor.id,
                    format!("{other} has that id: give each servo its own and calibrate again"),
                );
            }
            if !(0..=1).contains(&motor.drive_mode) {
                return refuse("drive_mode", motor.drive_mode, "write 0 or 1".into());
            }
            if motor.range_min >= motor.range_max {
                let remedy = format!("must lie above range_min = {}: calibrate this joint again", motor.range_min);
                return refuse("range_max", motor.range_max, remedy);
            }
        }
        Ok(Self { motors })
    }

    /// Parses a file; `file` is the name to use in messages.
    ///
    /// # Errors
    /// [`MotorCalibrationError`], naming file, motor, field and value.
    pub fn from_json(text: &str, file: &str) -> Result<Self, MotorCalibrationError> {
        let Entries(motors) = serde_json::from_str(text)
            .map_err(|error| MotorCalibrationError::Parse { file: file.into(), message: error.to_string() })?;
        Self::new(motors, file)
    }

    /// The file as LeRobot writes it.
    pub fn to_json(&self) -> String {
        if self.motors.is_empty() {
            return "{}".into();
        }
        let entries: Vec<String> = self
            .motors
            .iter()
            .map(|(name, motor)| {
                let MotorCalibration { id, drive_mode, homing_offset, range_min, range_max } = motor;
                let fields = [
                    ("id", id),
                    ("drive_mode", drive_mode),
                    ("homing_offset", homing_offset),
                    ("range_min", range_min),
                    ("range_max", range_max),
                ];
                let fields = fields.map(|(key, value)| format!("        \"{key}\": {value}")).join(",\n");
                format!("    {}: {{\n{fields}\n    }}", ascii_json(name))
            })
            .collect();
        format!("{{\n{}\n}}", entries.join(",\n"))
    }

    /// The entry of a motor.
    pub fn get(&self, name: &str) -> Option<&MotorCalibration> {
        self.motors.iter().find(|(motor, _)| motor == name).map(|(_, calibration)| calibration)
    }

    /// What a robot description takes of the file.
    pub fn servos(&self) -> Vec<ServoCalibration> {
        self.iter()
            .filter_map(|(name, motor)| {
                // Ids were checked when the file was read.
                let id = u8::try_from(motor.id).ok()?;
                let (joint, registers) = (name.to_owned(), ServoRegisters::from(motor));
                Some(ServoCalibration { joint, id, drive_mode: motor.drive_mode != 0, registers })
            })
            .collect()
    }

    /// Names and entries, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &MotorCalibration)> {
        self.motors.iter().map(|(name, motor)| (name.as_str(), motor))
    }
}

/// A JSON string as Python writes it by default: everything beyond printable ASCII escaped.
fn ascii_json(text: &str) -> String {
    let mut out = String::from("\"");
    for unit in text.encode_utf16() {
        match char::from_u32(u32::from(unit)) {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some('\u{8}') => out.push_str("\\b"),
            Some('\u{c}') => out.push_str("\\f"),
            Some(plain @ ' '..='\u{7f}') => out.push(plain),
            // Writing to a string cannot fail.
            _ => drop(write!(out, "\\u{unit:04x}")),
        }
    }
    out.push('"');
    out
}

/// Entries in the order of the file, with the motor's name in every message.
struct Entries(Vec<(String, MotorCalibration)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMotors;
        impl<'de> Visitor<'de> for OfMotors {
            type Value = Entries;

            fn expecting(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
                f.write_str("an object with one entry per motor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut motors: Vec<(String, MotorCalibration)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if motors.iter().any(|(motor, _)| *motor == name) {
                        return Err(A::Error::custom(format!("motor {name:?} stands there twice")));
                    }
                    let motor = map.next_value().map_err(|error| A::Error::custom(format!("{name}: {error}")))?;
                    motors.push((name, motor));
                }
                Ok(Entries(motors))
            }
        }
        deserializer.deserialize_map(OfMotors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN_BY_LEROBOT: &str = include_str!("../../tests/data/lerobot_so101.json");

    #[test]
    fn a_file_of_lerobot_comes_back_byte_for_byte() {
        let read = MotorCalibrations::from_json(WRITTEN_BY_LEROBOT, "so101.json").unwrap();
        assert_eq!(read.to_json(), WRITTEN_BY_LEROBOT);
        assert_eq!(read.iter().len(), 7);
        assert_eq!(read.get("gripper").unwrap().drive_mode, 1);
        assert_eq!(MotorCalibrations::default().to_json(), "{}");
    }

    #[test]
    fn a_bad_file_is_refused_by_motor_field_and_value() {
        let error = |from: &str, to: &str| {
            let text = WRITTEN_BY_LEROBOT.replacen(from, to, 1);
            assert_ne!(text, WRITTEN_BY_LEROBOT, "{from}");
            MotorCalibrations::from_json(&text, "so101.json").unwrap_err().to_string()
        };
        for (from, to, expected) in [
            ("\"id\": 1,", "\"id\": 1, \"speed\": 3,", "shoulder_pan: unknown field `speed`"),
            ("\"id\": 1,", "", "shoulder_pan: missing field `id`"),
            ("\"id\": 1,", "\"id\": 2,", "shoulder_lift.id = 2: shoulder_pan has that id"),
            ("\"id\": 1,", "\"id\": 1.5,", "shoulder_pan: invalid type"),
            ("\"id\": 1,", "\"id\": 300,", "shoulder_pan.id = 300"),
            ("\"drive_mode\": 0", "\"drive_mode\": 2", "shoulder_pan.drive_mode = 2"),
            ("\"range_max\": 3292", "\"range_max\": 758", "range_max = 758: must lie above range_min = 758"),
            ("\"shoulder_lift\"", "\"shoulder_pan\"", "\"shoulder_pan\" stands there twice"),
        ] {
            let message = error(from, to);
            assert!(message.starts_with("so101.json: ") && message.contains(expected), "{message}");
        }
        assert!(MotorCalibrations::from_json("[]", "x").is_err());
    }
}
