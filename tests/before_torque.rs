//! What is wrong with a real arm is named, with its remedy, before torque: the binary on emulated buses with planted
//! faults.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "common/hardware.rs"]
mod hardware;

use endplate_sim::bus::{BusOptions, EmulatedBus, FreeJoints, Make};
use hardware::{Robot, distinct, is_limp, lerobot, plant, with_calibration};

fn bus_with(change: impl FnOnce(&mut BusOptions)) -> EmulatedBus {
    let mut options = BusOptions::new(Make::Feetech, 6);
    change(&mut options);
    let joints = options.ids.len();
    EmulatedBus::start(options, Box::new(FreeJoints::new(joints, 4.6))).unwrap()
}

fn bus() -> EmulatedBus {
    bus_with(|_| {})
}

/// An arm whose servos hold `held` and whose file says `file`.
fn calibrated(bus: &EmulatedBus, held: &[endplate_hal::servo::ServoRegisters], file: &str) -> Robot {
    plant(bus.path(), held);
    let robot = Robot::new(bus.path(), |text| with_calibration(&text, "arm.json"));
    std::fs::write(robot.path("arm.json"), file).unwrap();
    robot
}

#[test]
fn a_sound_arm_and_its_cameras_pass_the_doctor() {
    let bus = bus();
    let robot = calibrated(&bus, &distinct(40), &lerobot(&distinct(40)));
    let output = robot.endplate(&["doctor", "--json", "--parked"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |what: &str| -> serde_json::Value {
        let line = text.lines().find(|line| line.contains(&format!("\"check\":\"{what}\"")));
        serde_json::from_str(line.unwrap_or_else(|| panic!("no {what} in {text}"))).unwrap()
    };
    let found = line("servo bus");
    assert!(found["pass"] == true && found["found"].as_str().unwrap().contains("6 servos"), "{found}");
    assert_eq!(line("camera frames")["pass"], true, "{text}");
    assert!(is_limp(bus.path()));
}

#[test]
fn a_calibration_that_is_not_the_servos_own_is_named() {
    // Shifted by 17 degrees in one servo, as when another tool homed it anew.
    let (bus, file) = (bus(), lerobot(&distinct(40)));
    let mut held = distinct(40);
    held[1].homing_offset += 193;
    let robot = calibrated(&bus, &held, &file);
    let said = robot.refused(&[]);
    assert!(said.contains("servo 2 holds offset 240") && said.contains("says offset 47"), "{said}");
    assert!(said.contains("calibrate joints --load") && said.contains("torque stays off"), "{said}");
    assert!(is_limp(bus.path()));
    // Every servo of another arm.
    plant(bus.path(), &distinct(-60));
    let said = robot.refused(&[]);
    assert_eq!(said.matches("the calibration file says").count(), 6, "{said}");
    // Another robot's file.
    std::fs::write(robot.path("arm.json"), file.replace("elbow_flex", "elbow")).unwrap();
    let said = robot.refused(&[]);
    assert!(said.contains("has a joint \"elbow\"") && said.contains("robot.toml"), "{said}");
    std::fs::write(robot.path("arm.json"), file.replace("\"id\": 6", "\"id\": 9")).unwrap();
    let said = robot.refused(&[]);
    assert!(said.contains("gripper") && said.contains("servo 9"), "{said}");
    std::fs::remove_file(robot.path("arm.json")).unwrap();
    assert!(robot.refused(&[]).contains("lerobot/calibration"));
}

#[test]
fn a_shift_that_servo_and_file_agree_on_is_caught_in_the_park_pose() {
    let bus = bus();
    let mut held = distinct(40);
    // The zero of the lift is 17 degrees off, in the servo and in the file alike.
    held[1].range_min += 386;
    held[1].homing_offset -= 1;
    let robot = calibrated(&bus, &held, &lerobot(&held));
    // Its range has become too short for the limits as well: they are narrowed, as a trusting user would.
    let text = std::fs::read_to_string(robot.file())
        .unwrap()
        .replace("lower_rad = -1.9\nupper_rad = 1.9", "lower_rad = -1.2\nupper_rad = 1.2");
    std::fs::write(robot.file(), text).unwrap();
    let said = robot.refused(&["--parked"]);
    assert!(said.contains("shoulder_lift reads") && said.contains("shifted by -16.9°"), "{said}");
    assert!(said.contains("cm at the tool"), "{said}");
    assert!(is_limp(bus.path()));
    // A sweep that missed a stop, where the joint's travel is described.
    let text = std::fs::read_to_string(robot.file()).unwrap();
    let text = text.replacen("servo_id = 2\nservo = { ", "servo_id = 2\nservo = { travel_rad = 6.28, ", 1);
    std::fs::write(robot.file(), text).unwrap();
    let said = robot.refused(&[]);
    assert!(
        said.contains("joint shoulder_lift: the recorded range is 300°") && said.contains("missed a stop"),
        "{said}"
    );
}

#[test]
fn swapped_cables_and_exchanged_ids_are_named_once() {
    let (left, right) = (bus(), bus());
    plant(left.path(), &distinct(-60));
    plant(right.path(), &distinct(40));
    let robot = Robot::new(left.path(), |text| {
        let text = with_calibration(&text, "left.json");
        let (before, rest) = text.split_at(text.find("[[arms]]").unwrap());
        let (arm, rest) = rest.split_at(rest.find("[[cameras]]").unwrap());
        let second = arm
            .replace("left.json", "right.json")
            .replace("name = \"", "name = \"right_")
            .replace(left.path().to_str().unwrap(), right.path().to_str().unwrap());
        let cameras = &rest[..rest.find("[kinematics]").unwrap()];
        format!("{before}{arm}{second}{cameras}")
    });
    std::fs::write(robot.path("left.json"), lerobot(&distinct(40))).unwrap();
    let names = lerobot(&distinct(-60));
    let names = hardware::NAMES
        .iter()
        .fold(names, |text, name| text.replace(&format!("\"{name}\""), &format!("\"right_{name}\"")));
    std::fs::write(robot.path("right.json"), names).unwrap();
    let said = robot.refused(&[]);
    assert!(said.contains("arm arm hold the calibration of arm right_arm: their cables are swapped"), "{said}");
    assert!(said.contains("of arm right_arm hold the calibration of arm arm"), "{said}");
    assert!(!said.contains("the calibration file says"), "one cause, one line an arm: {said}");
    assert!(is_limp(left.path()) && is_limp(right.path()));

    let bus = bus();
    let mut held = distinct(40);
    held.swap(2, 3);
    let robot = calibrated(&bus, &held, &lerobot(&distinct(40)));
    let said = robot.refused(&[]);
    assert!(said.contains("joint elbow_flex holds the calibration of joint wrist_flex"), "{said}");
}

#[test]
fn ids_rates_ports_and_cameras_are_named() {
    let shared = bus_with(|options| options.ids = vec![1, 2, 3, 4, 5, 6, 3]);
    let said = Robot::new(shared.path(), |text| text).refused(&[]);
    assert!(said.contains("more than one servo answers to id 3") && said.contains("set-id"), "{said}");

    let missing = bus_with(|options| options.ids = vec![1, 2, 3, 4, 6]);
    let said = Robot::new(missing.path(), |text| text).refused(&[]);
    assert!(said.contains("servo 5 does not answer while others do"), "{said}");

    let bus = bus_with(|options| options.minds_baud = true);
    let said = Robot::new(bus.path(), |text| text.replace("port = \"/dev/pts", "baud = 500000\nport = \"/dev/pts"))
        .refused(&[]);
    assert!(said.contains("1, 2, 3, 4, 5, 6 at 1000000: write baud = 1000000"), "{said}");

    let gone = Robot::new(std::path::Path::new("/dev/serial/by-id/nobody"), |text| text).refused(&[]);
    assert!(gone.contains("nobody") && gone.contains("plugged in"), "{gone}");

    let bus = self::bus();
    let blind = Robot::new(bus.path(), |text| text.replacen("black.npy", "unplugged.npy", 1));
    let said = blind.refused(&[]);
    assert!(said.contains("camera front") && said.contains("unplugged.npy"), "{said}");
    assert!(is_limp(bus.path()));
}
