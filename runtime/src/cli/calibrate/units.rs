//! `calibrate units`: LeRobot's units, for a check against LeRobot's own code.

use crate::cli::error::CliError;
use endplate_calibration::{LeRobotUnits, MotorCalibration, NormMode};
use endplate_hal::servo::Count;
use serde::Deserialize;
use serde_json::json;
use std::io::BufRead as _;

/// One line of input; numbers with a fraction as text, so that not a bit is lost on the way.
#[derive(Deserialize)]
struct Asked {
    drive_mode: i32,
    range_min: i32,
    range_max: i32,
    mode: String,
    apply_drive_mode: bool,
    count: i32,
    value: String,
}

/// Answers every line with `{"normalised": of count, "unnormalised": of value}`.
pub fn convert() -> Result<(), CliError> {
    for (index, line) in std::io::stdin().lock().lines().enumerate() {
        let place = format!("standard input, line {}", index + 1);
        let refuse = |message: &dyn core::fmt::Display| CliError::Input(format!("{place}: {message}"));
        let line = line.map_err(|error| refuse(&error))?;
        let asked: Asked = serde_json::from_str(&line).map_err(|error| refuse(&error))?;
        let mode = match asked.mode.as_str() {
            "range_0_100" => NormMode::Range0To100,
            "range_m100_100" => NormMode::RangeM100To100,
            "degrees" => NormMode::Degrees,
            other => {
                return Err(refuse(&format!("mode = {other:?}: write range_0_100, range_m100_100 or degrees")));
            }
        };
        if asked.range_min >= asked.range_max {
            return Err(refuse(&format!("range_max = {}: must lie above range_min", asked.range_max)));
        }
        let motor = MotorCalibration {
            id: 1,
            drive_mode: asked.drive_mode,
            homing_offset: 0,
            range_min: asked.range_min,
            range_max: asked.range_max,
        };
        let units = LeRobotUnits { mode, resolution: 4096, apply_drive_mode: asked.apply_drive_mode };
        let value: f64 = asked.value.parse().map_err(|error| refuse(&format!("value: {error}")))?;
        let Count(count) = units.unnormalise(&motor, value).map_err(|error| refuse(&error))?;
        let normalised = units.normalise(&motor, Count(asked.count));
        say!("{}", json!({"normalised": format!("{normalised:?}"), "unnormalised": count}));
    }
    Ok(())
}
