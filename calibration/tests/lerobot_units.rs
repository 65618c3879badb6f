//! LeRobot's own numbers, from `calibration/scripts/lerobot_vectors.py write` (LeRobot 0.6.1, third-party).
#![allow(clippy::unwrap_used)]

use endplate_calibration::{LeRobotUnits, MotorCalibration, NormMode};
use endplate_hal::servo::Count;
use serde_json::Value;

#[test]
fn every_value_is_lerobots_to_the_last_bit() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/lerobot_units.json")).unwrap();
    assert_eq!(cases.len(), 240);
    for case in cases {
        let int = |key: &str| i32::try_from(case[key].as_i64().unwrap()).unwrap();
        let motor = MotorCalibration {
            id: 1,
            drive_mode: int("drive_mode"),
            homing_offset: 0,
            range_min: int("range_min"),
            range_max: int("range_max"),
        };
        let units = LeRobotUnits {
            mode: match case["mode"].as_str().unwrap() {
                "range_0_100" => NormMode::Range0To100,
                "range_m100_100" => NormMode::RangeM100To100,
                _ => NormMode::Degrees,
            },
            resolution: 4096,
            apply_drive_mode: case["apply_drive_mode"].as_bool().unwrap(),
        };
        let float = |key: &str| case[key].as_str().unwrap().parse::<f64>().unwrap();
        assert_eq!(units.normalise(&motor, Count(int("count"))), float("normalised"), "{case}");
        let count = units.unnormalise(&motor, float("value")).unwrap();
        assert_eq!(count, Count(int("unnormalised")), "{case}");
    }
}
