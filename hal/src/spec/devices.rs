//! The device sections of `robot.toml`: buses of arms, servos of joints, devices behind cameras.

use super::{SpecError, Validator};
use crate::servo::{Count, Direction, Protocol, ServoMap, dynamixel, feetech, model_number};
use core::ops::Range;
use core::time::Duration;
use serde::Deserialize;
use std::path::PathBuf;

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

/// The bus of an arm.
#[derive(Clone, Debug, PartialEq)]
pub struct BusSpec {
    /// Its language.
    pub protocol: Protocol,
    /// Device, or [`EMULATED`].
    pub port: String,
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
    zero_count: f64,
    #[serde(default)]
    reverse: bool,
    min_count: i32,
    max_count: i32,
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
    let low = check.within(&key("min_voltage_v"), raw.min_voltage_v, 1.0, 48.0)?;
    Ok(BusSpec {
        protocol,
        port: raw.port.clone(),
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

/// The servo of a joint whose position limits are `limits_rad`.
pub(super) fn validate_servo(
    check: &Validator,
    joint: &str,
    id: u8,
    protocol: Option<Protocol>,
    raw: &RawServo,
    limits_rad: (f64, f64),
) -> Result<ServoSpec, SpecError> {
    let key = |name: &str| format!("arms.joints[{joint}].servo.{name}");
    let direction = if raw.reverse { Direction::Reverse } else { Direction::Forward };
    let range = (Count(raw.min_count), Count(raw.max_count));
    let map = ServoMap::new(raw.zero_count, direction, range, raw.counts_per_turn)
        .or_else(|error| check.refuse(key("min_count"), raw.min_count, error.to_string()))?;
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
    let model = match (protocol, &raw.model) {
        (Some(protocol), Some(name)) => match model_number(protocol, name) {
            Some(number) => Some(number),
            None => return check.refuse(key("model"), format!("{name:?}"), "this model is not known: remove the key"),
        },
        _ => None,
    };
    Ok(ServoSpec { id, model, map })
}
