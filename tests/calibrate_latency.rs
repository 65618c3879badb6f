//! `calibrate latency` on a servo bus: one joint is moved, delays are found, and the arm is left at rest.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "common/hardware.rs"]
mod hardware;

use endplate_sim::bus::{BusOptions, EmulatedBus, FreeJoints, Make};
use hardware::Robot;
use std::process::Command;

fn latency(robot: &Robot, more: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_endplate"))
        .args(["calibrate", "latency", "--seconds", "4", "--robot"])
        .arg(robot.file())
        .args(more)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), said.concat())
}

#[test]
fn a_joint_on_a_bus_is_moved_and_its_delay_found() {
    let mut joints = FreeJoints::new(6, 4.6);
    joints.place(2, 1.0);
    let bus = EmulatedBus::start(BusOptions::new(Make::Feetech, 6), Box::new(joints)).unwrap();
    let robot = Robot::new(bus.path(), |text| text);
    let (done, said) = latency(&robot, &["--joint", "elbow_flex"]);
    assert!(done, "{said}");
    let motion = said.lines().find(|line| line.starts_with("command → motion")).unwrap();
    let figures: Vec<f64> = motion.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [delay_ms, correlation] = figures[..] else { panic!("{said}") };
    assert!((0.0..1000.0).contains(&delay_ms) && correlation > 0.8, "{said}");
    // The cameras replay black images: nothing is made up for them.
    let frames: Vec<&str> = said.lines().filter(|line| line.starts_with("motion → ")).collect();
    assert!(frames.len() == 2 && frames.iter().all(|line| line.contains("correlate")), "{said}");
    let (done, said) = latency(&robot, &["--joint", "elbow_flex", "--swing-rad", "0.9"]);
    assert!(!done && said.contains("--swing-rad 0.9"), "{said}");
    drop(bus);
    let (done, said) = latency(&robot, &["--joint", "elbow_flex"]);
    assert!(!done && said.contains("torque stays off"), "{said}");
}
