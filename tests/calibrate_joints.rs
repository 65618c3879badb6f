//! `calibrate joints` on emulated servos that are moved by hand: written, read back, locked, LeRobot's file; and put back
//! when it is given up.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "common/hardware.rs"]
mod hardware;

use endplate_calibration::MotorCalibrations;
use endplate_hal::servo::{Master, Protocol, SerialPort, ServoRegisters, Timing, feetech};
use endplate_sim::bus::{BusFaults, BusOptions, EmulatedBus, Make, Plant};
use hardware::{NAMES, Robot, with_calibration};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TURN: f64 = std::f64::consts::TAU / 4096.0;

/// Joints that go where a hand puts them: no motor moves them.
#[derive(Clone, Default)]
struct Hand(Arc<Mutex<[f64; 6]>>);

impl Hand {
    fn put(&self, counts: [i32; 6]) {
        *self.0.lock().unwrap() = counts.map(|count| f64::from(count - 2048) * TURN);
        // Several polls see it there.
        std::thread::sleep(Duration::from_millis(150));
    }
}

impl Plant for Hand {
    fn advance(&mut self) {}
    fn state(&self, joint: usize) -> (f64, f64) {
        (self.0.lock().unwrap()[joint], 0.0)
    }
    fn set_goal(&mut self, _: usize, _: f64) {}
    fn set_torque(&mut self, _: usize, on: bool) {
        assert!(!on, "torque went on while a hand was in the arm");
    }
}

/// Encoder counts of the middles; two of them so near the encoder's end that their travel runs over it.
const MIDDLES: [i32; 6] = [2100, 300, 1700, 3900, 1024, 2500];
/// Counts from the middle to the stops, about the travel of the described arm.
const HALVES: [i32; 6] = [1255, 1240, 980, 1240, 1800, 500];

fn at(share: f64) -> [i32; 6] {
    std::array::from_fn(|joint| MIDDLES[joint] + (f64::from(HALVES[joint]) * share).round() as i32)
}

struct Session {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    said: String,
}

impl Session {
    fn start(robot: &Robot, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_endplate"))
            .args(["calibrate", "joints", "--robot", &robot.file()])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, said: String::new() }
    }

    fn until(&mut self, what: &str) {
        for line in self.lines.by_ref().map_while(Result::ok) {
            self.said += &format!("{line}\n");
            if line.contains(what) {
                return;
            }
        }
        let mut error = String::new();
        std::io::Read::read_to_string(self.child.stderr.as_mut().unwrap(), &mut error).unwrap();
        panic!("never {what:?}: {}{error}", self.said);
    }

    /// Presses Enter; a program that is gone says why when the next prompt does not come.
    fn enter(&mut self) {
        let _ = writeln!(self.child.stdin.as_mut().unwrap());
    }

    /// Exit code, and everything it said.
    fn end(mut self) -> (Option<i32>, String) {
        for line in self.lines.by_ref().map_while(Result::ok) {
            self.said += &format!("{line}\n");
        }
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), self.said + &String::from_utf8_lossy(&output.stderr))
    }
}

fn bus(make: Make, faults: BusFaults) -> (EmulatedBus, Hand) {
    let hand = Hand::default();
    hand.put(at(0.03));
    let mut options = BusOptions::new(make, 6);
    options.faults = faults;
    (EmulatedBus::start(options, Box::new(hand.clone())).unwrap(), hand)
}

fn master(port: &Path, protocol: Protocol) -> Master<SerialPort> {
    let timing = Timing { baud: 1_000_000, reply: Duration::from_millis(200), retries: 3 };
    Master::new(protocol, SerialPort::open(port, timing.baud).unwrap(), timing)
}

fn held(port: &Path, protocol: Protocol) -> Vec<ServoRegisters> {
    let mut master = master(port, protocol);
    (1..=6).map(|id| master.read_calibration(id).unwrap()).collect()
}

fn robot(bus: &EmulatedBus, make: Make) -> Robot {
    Robot::new(bus.path(), |text| {
        let text = with_calibration(&text, "arm.json");
        match make {
            Make::Feetech => text,
            Make::Dynamixel => text.replace("\"feetech\"", "\"dynamixel\"").replace("\"sts3215\"", "\"xl330-m288\""),
        }
    })
}

/// From stop to stop and back to the middle.
fn sweep(hand: &Hand) {
    for share in [0.3, 0.7, 1.0, 0.5, 0.0, -0.4, -0.8, -1.0, -0.5, 0.0] {
        hand.put(at(share));
    }
}

#[test]
fn an_arm_is_calibrated_by_hand_and_the_servos_hold_what_the_file_says() {
    for make in [Make::Feetech, Make::Dynamixel] {
        // Noise on the wire must not spoil a calibration.
        let noise = BusFaults { corrupt: 0.01, drop: 0.01, ..BusFaults::default() };
        let (bus, hand) = bus(make, noise);
        let robot = robot(&bus, make);
        let mut session = Session::start(&robot, &["--direction"]);
        session.until("middle");
        session.enter();
        session.until("both of its stops");
        sweep(&hand);
        session.enter();
        for (joint, name) in NAMES.iter().enumerate() {
            session.until(&format!("Move {name} by 10°"));
            let mut counts = at(0.0);
            // The elbow turns the other way.
            counts[joint] += if joint == 2 { -130 } else { 130 };
            hand.put(counts);
            session.enter();
        }
        session.until("written");
        let (code, said) = session.end();
        assert_eq!(code, Some(0), "{said}");
        bus.set_faults(BusFaults::default());
        let text = std::fs::read_to_string(robot.path("arm.json")).unwrap();
        let file = MotorCalibrations::from_json(&text, "arm.json").unwrap();
        let protocol = if make == Make::Feetech { Protocol::Feetech } else { Protocol::Dynamixel };
        for ((index, holds), (name, motor)) in held(bus.path(), protocol).iter().enumerate().zip(file.iter()) {
            assert_eq!((name, *holds), (NAMES[index], ServoRegisters::from(motor)));
            // The middle was shown 3 % aside.
            let middle = at(0.03)[index] - 2047;
            let offset = if make == Make::Feetech { middle } else { -middle };
            assert_eq!(motor.homing_offset, offset, "{make:?} {name}");
            let aside = (f64::from(HALVES[index]) * 0.03).round() as i32;
            let range = (2047 - aside - HALVES[index], 2047 - aside + HALVES[index]);
            let range = if index == 4 { (0, 4095) } else { range };
            let apart = (motor.range_min - range.0).abs().max((motor.range_max - range.1).abs());
            assert!(apart <= 1, "{make:?} {name}: {motor:?}, expected {range:?}");
            assert_eq!(motor.drive_mode, i32::from(index == 2));
        }
        if make == Make::Feetech {
            let mut master = master(bus.path(), protocol);
            assert!((1..=6).all(|id| master.read(id, feetech::register::LOCK) == Ok(1)));
            // LeRobot's drive mode wants a word of the operator's.
            let said = robot.refused(&[]);
            assert!(said.contains("elbow_flex has drive_mode 1") && said.contains("drive_mode = \"apply\""), "{said}");
        }
    }
}

#[test]
fn what_is_given_up_leaves_the_servos_as_they_were() {
    let (bus, hand) = bus(Make::Feetech, BusFaults::default());
    let before: Vec<ServoRegisters> = hardware::distinct(40);
    hardware::plant(bus.path(), &before);
    let robot = robot(&bus, Make::Feetech);
    // By a key, in the sweep.
    let mut session = Session::start(&robot, &[]);
    session.until("middle");
    session.enter();
    session.until("both of its stops");
    session.child.stdin.as_mut().unwrap().write_all(b"q\n").unwrap();
    let (code, said) = session.end();
    assert!(code == Some(1) && said.contains("the servos hold what they held before"), "{said}");
    assert_eq!(held(bus.path(), Protocol::Feetech), before);
    // By Ctrl-C.
    hand.put(at(0.0));
    let mut session = Session::start(&robot, &[]);
    session.until("middle");
    session.enter();
    session.until("both of its stops");
    let pid = session.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let (code, said) = session.end();
    assert!(code == Some(1) && said.contains("given up (SIGINT)"), "{said}");
    assert_eq!(held(bus.path(), Protocol::Feetech), before);
    // By a joint that runs over the end of its encoder: its middle was not where it was shown.
    let mut session = Session::start(&robot, &[]);
    session.until("middle");
    session.enter();
    session.until("both of its stops");
    for share in [0.5, 1.0, 1.5, 2.2] {
        hand.put(at(share));
    }
    let (code, said) = session.end();
    assert!(code == Some(1) && said.contains("runs over the encoder's end"), "{said}");
    assert_eq!(held(bus.path(), Protocol::Feetech), before);
    assert!(!robot.path("arm.json").exists());
}

#[test]
fn a_file_is_loaded_into_the_servos_and_a_missing_servo_is_named_first() {
    let (bus, _) = bus(Make::Feetech, BusFaults::default());
    let robot = robot(&bus, Make::Feetech);
    let file = robot.path("arm.json");
    std::fs::write(&file, hardware::lerobot(&hardware::distinct(40))).unwrap();
    assert!(robot.refused(&[]).contains("the calibration file says"));
    let output = robot.endplate(&["calibrate", "joints", "--load", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(held(bus.path(), Protocol::Feetech), hardware::distinct(40));
    let mut master = master(bus.path(), Protocol::Feetech);
    master.set_id(6, 9).unwrap();
    drop(master);
    let output = robot.endplate(&["calibrate", "joints", "--load", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("gripper: no servo answers to id 6"), "{said}");
}
