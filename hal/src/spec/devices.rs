//! The device sections of `robot.toml`: buses of arms, servos of joints, devices behind cameras.

use super::{SpecError, Validator};
use crate::servo::{Count, Direction, Protocol, ServoMap, ServoRegisters, dynamixel, feetech, model_number};
use core::ops::Range;
use core::time::Duration;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The port of a bus that is emulated over the simulated robot instead of opened.
pub const EMULATED: &str = "emulated";

/// What the servos of an arm do when no valid command arrives for a while, or the program ends. A Feetech has no
/// watchdog: it is the bus thread that acts, and nothing acts when the whole process dies.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSilence {
    /// Keep the last goal, torque on.
    Hold,
    /// Torque off: only for arms that cannot fall.
    TorqueOff,
}

/// What becomes of `drive_mode = 1` in a calibration file. LeRobot's Feetech bus turns the joint round in its range
/// units (−100 to 100, 0 to 100) and ignores it in degrees; its Dynamixel bus always ignores it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriveMode {
    /// As LeRobot in degrees.
    Ignore,
    /// As LeRobot in range units.
    Apply,
}

/// What a calibration file says of one servo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServoCalibration {
    /// The joint, as the file names it.
    pub joint: String,
    /// Id on the bus.
    pub id: u8,
    /// Whether `drive_mode` is set.
    pub drive_mode: bool,
    /// What the servo should hold.
    pub registers: ServoRegisters,
}

/// Reads a calibration file, named as the description names it; an error says what is wrong with it. `None` where the
/// arm is yet to be calibrated: its joints then have the whole turn, and must not be given torque.
pub type CalibrationLoader<'a> = &'a mut dyn FnMut(&Path) -> Result<Option<Vec<ServoCalibration>>, String>;

/// The bus of an arm.
#[derive(Clone, Debug, PartialEq)]
pub struct BusSpec {
    /// Its language.
    pub protocol: Protocol,
    /// Device, or [`EMULATED`].
    pub port: String,
    /// LeRobot's calibration file, as the description names it.
    pub calibration: Option<PathBuf>,
    /// Whether the file's `drive_mode` turns a joint round, where it is said.
    pub drive_mode: Option<DriveMode>,
    /// Baud rate.
    pub baud: u32,
    /// Bus period: one read and one write in each.
    pub period: Duration,
    /// Wait for an answer beyond its time on the wire.
    pub reply_timeout: Duration,
    /// Repeats of a failed read inside a period.
    pub retries: u8,
    /// No valid command for so long is silence.
    pub silence: Duration,
    /// What is done then, and when the program ends.
    pub on_silence: OnSilence,
    /// Dynamixel's bus watchdog.
    pub watchdog: Option<Duration>,
    /// Highest temperature, °C.
    pub max_temperature_c: f64,
    /// Highest load: a share of the PWM duty (Feetech), A (Dynamixel).
    pub max_load: f64,
    /// Lowest and highest supply voltage, V.
    pub voltage_v: (f64, f64),
}

/// The servo of a joint.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct ServoSpec {
    /// Id on the bus.
    pub id: u8,
    /// Model number, where the description names the model.
    pub model: Option<u16>,
    /// Counts ↔ rad.
    pub map: ServoMap,
    /// What it must hold, where the arm names a calibration.
    pub held: Option<ServoRegisters>,
    /// From stop to stop, rad, where it is known.
    pub travel_rad: Option<f64>,
}

/// An arm: some of the robot's joints, and their bus where they have one.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmSpec {
    /// Name.
    pub name: String,
    /// Its joints among the robot's.
    pub joints: Range<usize>,
    /// Its bus.
    pub bus: Option<BusSpec>,
}

/// Pixel format asked of a camera.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelFormat {
    /// Motion JPEG.
    #[default]
    Mjpeg,
    /// YUYV 4:2:2.
    Yuyv,
}

/// The device behind a camera.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CameraDevice {
    /// Device file of a V4L2 camera; best the stable name under `/dev/v4l/by-id/`.
    pub path: Option<PathBuf>,
    /// Folder of images for the replay camera.
    pub folder: Option<PathBuf>,
    /// GStreamer pipeline ending in `appsink name=sink`; without it, the Jetson's CSI sensor.
    pub pipeline: Option<String>,
    /// CSI sensor number.
    pub sensor: u32,
    /// Pixel format.
    pub format: PixelFormat,
    /// Exposure time in the driver's units (UVC: 100 µs), locked; without it automatic.
    pub exposure: Option<i64>,
    /// White balance, K, locked; without it automatic.
    pub white_balance_k: Option<i64>,
    /// Frames of equal content in a row after which the camera counts as frozen; without it content is not looked at.
    pub frozen_after: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBus {
    driver: String,
    port: String,
    calibration: Option<PathBuf>,
    drive_mode: Option<DriveMode>,
    #[serde(default = "baud")]
    baud: u32,
    #[serde(default = "bus_rate")]
    rate_hz: f64,
    #[serde(default = "reply_timeout")]
    reply_timeout_ms: f64,
    #[serde(default = "retries")]
    retries: u8,
    #[serde(default = "silence")]
    silence_ms: f64,
    on_silence: OnSilence,
    watchdog_ms: Option<f64>,
    max_temperature_c: f64,
    max_load: f64,
    min_voltage_v: f64,
    max_voltage_v: f64,
}

const fn baud() -> u32 {
    1_000_000
}

const fn bus_rate() -> f64 {
    200.0
}

const fn reply_timeout() -> f64 {
    3.0
}

const fn retries() -> u8 {
    1
}

const fn silence() -> f64 {
    200.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServo {
    model: Option<String>,
    zero_count: Option<f64>,
    #[serde(default)]
    reverse: bool,
    min_count: Option<i32>,
    max_count: Option<i32>,
    travel_rad: Option<f64>,
    #[serde(default = "resolution")]
    counts_per_turn: u32,
}

const fn resolution() -> u32 {
    4096
}

pub(super) fn validate_bus(check: &Validator, arm: &str, raw: &RawBus) -> Result<BusSpec, SpecError> {
    let key = |name: &str| format!("arms[{arm}].bus.{name}");
    let (protocol, rates): (_, &[u32]) = match raw.driver.as_str() {
        "feetech" => (Protocol::Feetech, &feetech::BAUD_RATES),
        "dynamixel" => (Protocol::Dynamixel, &dynamixel::BAUD_RATES),
        other => return check.refuse(key("driver"), format!("{other:?}"), "write \"feetech\" or \"dynamixel\""),
    };
    if !rates.contains(&raw.baud) {
        return check.refuse(key("baud"), raw.baud, format!("write one of {rates:?}"));
    }
    if raw.port.trim().is_empty() {
        return check.refuse(key("port"), "\"\"", "name the device, such as \"/dev/serial/by-id/…\", or \"emulated\"");
    }
    if raw.retries > 5 {
        return check.refuse(key("retries"), raw.retries, "write 0 to 5: repeats must fit the period");
    }
    let rate_hz = check.within(&key("rate_hz"), raw.rate_hz, 1.0, 1000.0)?;
    let watchdog = match (protocol, raw.watchdog_ms) {
        (Protocol::Dynamixel, Some(ms)) => Some(check.span(&key("watchdog_ms"), ms, 20.0, 2540.0)?),
        (_, None) => None,
        (Protocol::Feetech, Some(ms)) => {
            return check.refuse(
                key("watchdog_ms"),
                ms,
                "a Feetech servo has no bus watchdog: remove the key, and provide a power switch within reach",
            );
        }
    };
    if let Some(mode) = raw.drive_mode {
        let remedy = match (&raw.calibration, protocol, mode) {
            (None, ..) => {
                Some("it says what becomes of the calibration file's drive_mode: name the file, or remove the key")
            }
            (_, Protocol::Dynamixel, DriveMode::Apply) => Some(
                "LeRobot's Dynamixel bus ignores it: write \"ignore\", and `reverse = true` at the joint that turns round",
            ),
            _ => None,
        };
        if let Some(remedy) = remedy {
            return check.refuse(key("drive_mode"), format!("{mode:?}").to_lowercase(), remedy);
        }
    }
    let low = check.within(&key("min_voltage_v"), raw.min_voltage_v, 1.0, 48.0)?;
    Ok(BusSpec {
        protocol,
        port: raw.port.clone(),
        calibration: raw.calibration.clone(),
        drive_mode: raw.drive_mode,
        baud: raw.baud,
        period: Duration::from_secs_f64(1.0 / rate_hz),
        reply_timeout: check.span(&key("reply_timeout_ms"), raw.reply_timeout_ms, 0.5, 200.0)?,
        retries: raw.retries,
        silence: check.span(&key("silence_ms"), raw.silence_ms, 1e3 / rate_hz, 10_000.0)?,
        on_silence: raw.on_silence,
        watchdog,
        max_temperature_c: check.within(&key("max_temperature_c"), raw.max_temperature_c, 20.0, 100.0)?,
        max_load: check.within(&key("max_load"), raw.max_load, 0.01, 50.0)?,
        voltage_v: (low, check.within(&key("max_voltage_v"), raw.max_voltage_v, low, 48.0)?),
    })
}

/// The entries of an arm's calibration file in the order of its joints; none where it names no file.
pub(super) fn load_calibration(
    check: &Validator,
    arm: &str,
    bus: Option<&BusSpec>,
    joints: &[&str],
    load: CalibrationLoader<'_>,
) -> Result<Vec<ServoCalibration>, SpecError> {
    let Some((bus, path)) = bus.and_then(|bus| Some((bus, bus.calibration.as_ref()?))) else { return Ok(Vec::new()) };
    let key = format!("arms[{arm}].bus.calibration");
    let value = path.display().to_string();
    let value = value.as_str();
    let entries = load(path).or_else(|error| check.refuse(key.as_str(), value, error))?;
    let Some(entries) = entries else { return Ok(Vec::new()) };
    let known: Vec<&str> = entries.iter().map(|entry| entry.joint.as_str()).collect();
    if let Some(stranger) = known.iter().find(|name| !joints.contains(name)) {
        let remedy =
            format!("it has a joint {stranger:?} and the arm has not: it is another robot's; name the right file");
        return check.refuse(key, value, remedy);
    }
    joints
        .iter()
        .map(|&joint| match entries.iter().find(|entry| entry.joint == joint) {
            None => {
                let known = known.join(", ");
                let remedy = format!("it has no joint {joint:?} (it has {known}): it is another robot's; name the right file");
                check.refuse(key.as_str(), value, remedy)
            }
            Some(entry) if entry.drive_mode && bus.protocol == Protocol::Feetech && bus.drive_mode.is_none() => {
                let remedy = format!(
                    "joint {joint} has drive_mode 1, which LeRobot applies in range units and ignores in degrees: write \
drive_mode = \"apply\" or \"ignore\" beside it, as the policy's data were recorded"
                );
                check.refuse(key.as_str(), value, remedy)
            }
            Some(entry) => Ok(entry.clone()),
        })
        .collect()
}

/// Zero, first and last count: of the calibration where there is one, else as described.
fn counts(
    check: &Validator,
    key: &dyn Fn(&str) -> String,
    raw: &RawServo,
    bus: Option<&BusSpec>,
    calibration: Option<&ServoCalibration>,
) -> Result<(f64, i32, i32), SpecError> {
    let given = [("min_count", raw.min_count), ("max_count", raw.max_count)];
    if let Some(calibration) = calibration {
        if let Some((name, Some(value))) = given.into_iter().find(|(_, value)| value.is_some()) {
            return check.refuse(key(name), value, "the arm's calibration file says it: remove the key");
        }
        let ServoRegisters { range_min, range_max, .. } = calibration.registers;
        // LeRobot's degrees are 0 in the middle of the range.
        let middle = (f64::from(range_min) + f64::from(range_max)) / 2.0;
        return Ok((raw.zero_count.unwrap_or(middle), range_min, range_max));
    }
    if bus.is_some_and(|bus| bus.calibration.is_some()) {
        return Ok((raw.zero_count.unwrap_or(2047.5), 0, 4095));
    }
    let missing = given.into_iter().find(|(_, value)| value.is_none()).map(|(name, _)| name);
    match (raw.zero_count, raw.min_count, raw.max_count) {
        (Some(zero), Some(min), Some(max)) => Ok((zero, min, max)),
        _ => {
            let remedy = "write the count, or name LeRobot's file in the arm's bus: calibration = \"my_arm.json\"";
            check.refuse(key(missing.unwrap_or("zero_count")), "missing", remedy)
        }
    }
}

/// The servo of a joint whose position limits are `limits_rad`.
pub(super) fn validate_servo(
    check: &Validator,
    joint: &str,
    id: u8,
    bus: Option<&BusSpec>,
    raw: &RawServo,
    calibration: Option<&ServoCalibration>,
    limits_rad: (f64, f64),
) -> Result<ServoSpec, SpecError> {
    let key = |name: &str| format!("arms.joints[{joint}].servo.{name}");
    if let Some(foreign) = calibration.filter(|calibration| calibration.id != id) {
        let remedy = format!(
            "the calibration file is of servo {}: it is another arm's, or ids were changed since; calibrate again",
            foreign.id
        );
        return check.refuse(format!("arms.joints[{joint}].servo_id"), id, remedy);
    }
    let is_applied = bus.is_some_and(|bus| bus.drive_mode == Some(DriveMode::Apply));
    let turns_round = is_applied && calibration.is_some_and(|calibration| calibration.drive_mode);
    let direction = if raw.reverse != turns_round { Direction::Reverse } else { Direction::Forward };
    let (zero, min, max) = counts(check, &key, raw, bus, calibration)?;
    let map = ServoMap::new(zero, direction, (Count(min), Count(max)), raw.counts_per_turn)
        .or_else(|error| check.refuse(key("min_count"), min, error.to_string()))?;
    let (low, high) = map.range_rad();
    if limits_rad.0 < low || limits_rad.1 > high {
        return check.refuse(
            format!("arms.joints[{joint}].lower_rad, upper_rad"),
            format!("{} to {}", limits_rad.0, limits_rad.1),
            format!(
                "its counts reach from {low:.4} to {high:.4} rad only: narrow the limits, or calibrate the joint anew"
            ),
        );
    }
    let model = match (bus, &raw.model) {
        (Some(bus), Some(name)) => match model_number(bus.protocol, name) {
            Some(number) => Some(number),
            None => return check.refuse(key("model"), format!("{name:?}"), "this model is not known: remove the key"),
        },
        _ => None,
    };
    let travel_rad = raw.travel_rad.map(|travel| check.within(&key("travel_rad"), travel, 0.1, 100.0)).transpose()?;
    Ok(ServoSpec { id, model, map, held: calibration.map(|calibration| calibration.registers), travel_rad })
}
