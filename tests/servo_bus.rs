//! Servo buses under the control loop: two arms under one ladder, a cable that is pulled and put back, a hot servo.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use endplate_hal::{Arm, Clock, MonotonicClock, Robot, RobotSpec, robots};
use endplate_policies::{Epoch, Interpolation};
use endplate_runtime::robot::{BusArm, BusReport};
use endplate_runtime::{Cause, ControlLoop, Inbox, PlayRules, Rung, Tick};
use endplate_sim::bus::{BusFaults, BusOptions, EmulatedBus, FreeJoints, Make, Plant};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn bus() -> EmulatedBus {
    let mut joints = FreeJoints::new(6, 4.6);
    joints.place(2, 1.0);
    EmulatedBus::start(BusOptions::new(Make::Feetech, 6), Box::new(joints)).unwrap()
}

/// The emulated arm's description, with machines in mind that are busy with other tests.
fn one_arm() -> String {
    robots::SO101_EMULATED
        .replace("reply_timeout_ms = 15.0", "reply_timeout_ms = 30.0")
        .replace("state_max_age_ms = 50.0", "state_max_age_ms = 400.0")
        .replace("command_valid_ms = 50.0", "command_valid_ms = 400.0")
}

/// Two of them, with joints and arms named apart.
fn two_arms() -> RobotSpec {
    let one = one_arm();
    let (before, rest) = one.split_at(one.find("[[arms]]").unwrap());
    let arm = &rest[..rest.find("[[cameras]]").unwrap()];
    let second = arm.replace("name = \"", "name = \"right_");
    RobotSpec::from_toml_str(&format!("{before}{arm}{second}"), "two arms").unwrap()
}

struct Rig {
    control: ControlLoop,
    clock: Arc<dyn Clock>,
    reports: Vec<Box<dyn Fn() -> BusReport>>,
}

impl Rig {
    fn new(spec: RobotSpec, paths: &[&Path]) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let mut arms: Vec<Box<dyn Arm>> = Vec::new();
        let mut reports: Vec<Box<dyn Fn() -> BusReport>> = Vec::new();
        for (arm, path) in spec.arms.iter().zip(paths) {
            let joints = &spec.joints[arm.joints.clone()];
            let opened = BusArm::open(arm, joints, 0.25, path, Arc::clone(&clock)).unwrap();
            reports.push(Box::new(opened.reporter()));
            arms.push(Box::new(opened));
        }
        let mut spec = spec;
        spec.cameras.clear();
        let rules = PlayRules {
            interpolation: vec![Interpolation::Smooth; spec.joints.len()],
            execute_rows: 8,
            max_age: spec.control.max_chunk_age,
        };
        let mut control = ControlLoop::new(spec, Robot::new(arms).unwrap(), rules).unwrap();
        control.configure(clock.now()).unwrap();
        control.activate(clock.now(), Epoch(1)).unwrap();
        Self { control, clock, reports }
    }

    fn tick(&mut self) -> Tick {
        self.clock.sleep_until(self.clock.now().saturating_add(Duration::from_millis(10)));
        let inbox = Inbox { chunk: None, cameras: &[], refused_in_a_row: 0, epoch: Epoch(1), estop: false, missed: 0 };
        self.control.tick(self.clock.now(), &inbox).unwrap()
    }

    /// Ticks until it is so, at most ten seconds.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self, &Tick) -> bool) {
        for _ in 0..1000 {
            let tick = self.tick();
            if is_so(self, &tick) {
                return;
            }
        }
        panic!("not within ten seconds: {what}");
    }
}

/// A name that can be pointed at another bus, as udev's names by id are.
struct Link(PathBuf);

impl Link {
    fn new(name: &str, to: &Path) -> Self {
        let link = Self(std::env::temp_dir().join(format!("endplate-{name}-{}", std::process::id())));
        link.point(to);
        link
    }

    fn point(&self, to: &Path) {
        let _ = std::fs::remove_file(&self.0);
        std::os::unix::fs::symlink(to, &self.0).unwrap();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn two_arms_stop_together_and_a_cable_put_back_needs_a_cleared_fault() {
    let (left, right) = (bus(), bus());
    let link = Link::new("right", right.path());
    let mut rig = Rig::new(two_arms(), &[left.path(), &link.0]);
    rig.until("both hold", |_, tick| tick.rung == Rung::Held && tick.cause.is_none());
    drop(right);
    rig.until("the loss stops both", |rig, tick| {
        tick.rung == Rung::Stopped && rig.control.latched() == Some(Cause::BusLost)
    });
    assert_eq!((rig.reports[0]().unplugged, rig.reports[1]().unplugged), (0, 1));
    let replaced = bus();
    link.point(replaced.path());
    rig.until("the bus is found again", |rig, _| rig.reports[1]().replugged == 1);
    let tick = rig.tick();
    assert_eq!(tick.rung, Rung::Stopped, "a fault stays latched");
    for _ in 0..500 {
        rig.tick();
        if rig.control.clear_fault(rig.clock.now()) == Ok(true) {
            return;
        }
    }
    panic!("the fault could not be cleared");
}

#[test]
fn a_hot_servo_is_a_fault_on_the_ladder_and_passes_when_it_cools() {
    let bus = bus();
    let mut spec = RobotSpec::from_toml_str(&one_arm(), "one arm").unwrap();
    spec.cameras.clear();
    let mut rig = Rig::new(spec, &[bus.path()]);
    bus.set_supply(12.0, 66.0);
    rig.until("the heat is seen", |_, tick| tick.cause == Some(Cause::ServoFault));
    assert!(rig.control.counts().causes.of(Cause::ServoFault) > 0);
    assert!(rig.reports[0]().health[0].temperature_c > 65.0);
    bus.set_supply(12.0, 40.0);
    rig.until("it is over", |_, tick| tick.cause.is_none());
}

#[test]
fn a_bus_that_falls_silent_ages_the_state_and_holds_the_arm() {
    let bus = bus();
    let mut rig = Rig::new(RobotSpec::from_toml_str(&one_arm(), "one arm").unwrap(), &[bus.path()]);
    bus.set_faults(BusFaults { drop: 1.0, ..BusFaults::default() });
    rig.until("the state ages", |_, tick| tick.cause == Some(Cause::StateStale));
    assert!(rig.reports[0]().failed_reads > 0);
    bus.set_faults(BusFaults::default());
    rig.until("it recovers", |_, tick| tick.rung == Rung::Held && tick.cause.is_none());
}

/// Free joints that tell which have torque.
struct Watched {
    joints: FreeJoints,
    torque: Arc<Mutex<[bool; 6]>>,
}

impl Plant for Watched {
    fn advance(&mut self) {
        self.joints.advance();
    }
    fn state(&self, joint: usize) -> (f64, f64) {
        self.joints.state(joint)
    }
    fn set_goal(&mut self, joint: usize, goal_rad: f64) {
        self.joints.set_goal(joint, goal_rad);
    }
    fn set_torque(&mut self, joint: usize, on: bool) {
        self.torque.lock().unwrap()[joint] = on;
        self.joints.set_torque(joint, on);
    }
}

#[test]
fn endplate_stop_does_for_an_orphaned_arm_what_its_description_declares() {
    let torque = Arc::new(Mutex::new([false; 6]));
    let mut joints = FreeJoints::new(6, 4.6);
    joints.place(2, 1.0);
    let plant = Watched { joints, torque: Arc::clone(&torque) };
    let bus = EmulatedBus::start(BusOptions::new(Make::Feetech, 6), Box::new(plant)).unwrap();
    let described = |category: &str| {
        let text = one_arm()
            .replace("port = \"emulated\"", &format!("port = {:?}", bus.path()))
            .replace("stop_category = \"hold\"", &format!("stop_category = \"{category}\""));
        let file = std::env::temp_dir().join(format!("endplate-stop-{category}-{}.toml", std::process::id()));
        std::fs::write(&file, &text).unwrap();
        (RobotSpec::from_toml_str(&text, "orphaned arm").unwrap(), file)
    };
    let (holding, hold) = described("hold");
    let (_, torque_off) = described("torque_off");
    // A run that ends without a word: the servos keep their torque.
    let mut rig = Rig::new(holding, &[bus.path()]);
    rig.until("torque", |_, _| torque.lock().unwrap().iter().all(|on| *on));
    drop(rig);
    let stop = |file: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_endplate")).args(["stop", "--robot"]).arg(file).output().unwrap();
        (output.status.success(), format!("{output:?}"))
    };
    let (ok, said) = stop(&hold);
    assert!(ok && said.contains("hold their last goal"), "{said}");
    assert!(torque.lock().unwrap().iter().all(|on| *on), "a declared hold lets nothing fall");
    let (ok, said) = stop(&torque_off);
    assert!(ok && said.contains("torque is off"), "{said}");
    assert!(torque.lock().unwrap().iter().all(|on| !*on));
    drop(bus);
    let (ok, said) = stop(&torque_off);
    assert!(!ok && said.contains("not stopped"), "{said}");
    for file in [hold, torque_off] {
        let _ = std::fs::remove_file(file);
    }
}
