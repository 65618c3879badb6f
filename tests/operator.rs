//! An operator at a real arm, on emulated servos: activation without a jump, pause, poses, parking before torque goes
//! off, and the same through the binary and its control socket.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "common/hardware.rs"]
mod hardware;

use endplate_hal::servo::feetech::register as r;
use endplate_hal::{Arm, Clock, JointVec, MonotonicClock, Robot as Arms, RobotSpec};
use endplate_policies::{Epoch, Interpolation};
use endplate_runtime::robot::BusArm;
use endplate_runtime::{Cause, ControlLoop, Inbox, Operation, Order, PlayRules, Rung, Tick};
use endplate_sim::bus::{BusOptions, EmulatedBus, FreeJoints, Make};
use hardware::{Robot, is_limp, master};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// An arm that was left in some pose.
const LEFT_RAD: [f64; 6] = [0.4, -0.5, 1.0, 0.3, -0.2, 0.25];

fn bus() -> EmulatedBus {
    let mut joints = FreeJoints::new(6, 4.6);
    for (joint, angle) in LEFT_RAD.into_iter().enumerate() {
        joints.place(joint, angle);
    }
    EmulatedBus::start(BusOptions::new(Make::Feetech, 6), Box::new(joints)).unwrap()
}

struct Rig {
    control: ControlLoop,
    orders: rtrb::Producer<Order>,
    clock: Arc<dyn Clock>,
    spec: RobotSpec,
}

impl Rig {
    fn new(bus: &EmulatedBus) -> Self {
        let robot = Robot::new(bus.path(), |text| text);
        let text = std::fs::read_to_string(robot.file()).unwrap();
        let spec = RobotSpec::from_toml_str(&text, "robot.toml").unwrap();
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let arm = BusArm::open(&spec.arms[0], &spec.joints, 0.25, bus.path(), Arc::clone(&clock)).unwrap();
        let arms: Vec<Box<dyn Arm>> = vec![Box::new(arm)];
        let rules = PlayRules {
            interpolation: vec![Interpolation::Smooth; 6],
            execute_rows: 8,
            max_age: spec.control.max_chunk_age,
        };
        let mut control = ControlLoop::new(spec.clone(), Arms::new(arms).unwrap(), rules).unwrap();
        let (orders, consumer) = rtrb::RingBuffer::new(8);
        control.set_operator(consumer);
        control.configure(clock.now()).unwrap();
        control.activate(clock.now(), Epoch(1)).unwrap();
        Self { control, orders, clock, spec }
    }

    fn tick(&mut self) -> Tick {
        self.clock.sleep_until(self.clock.now().saturating_add(Duration::from_millis(10)));
        // Cameras that give nothing: an operator can move the arm all the same.
        let inbox = Inbox { chunk: None, cameras: &[], refused_in_a_row: 0, epoch: Epoch(1), estop: false, missed: 0 };
        self.control.tick(self.clock.now(), &inbox).unwrap()
    }

    fn order(&mut self, order: Order) -> Tick {
        self.orders.push(order).unwrap();
        self.tick()
    }

    /// Ticks until it is so; every command on the way.
    fn until(&mut self, what: &str, is_so: impl Fn(&Tick) -> bool) -> Vec<JointVec> {
        let mut commands = Vec::new();
        for _ in 0..2000 {
            let tick = self.tick();
            commands.push(JointVec::from_fn(6, |joint| tick.command.position_rad()[joint]));
            if is_so(&tick) {
                return commands;
            }
        }
        panic!("not within twenty seconds: {what}");
    }
}

#[test]
fn the_first_command_is_the_pose_the_arm_stands_in() {
    let bus = bus();
    let mut rig = Rig::new(&bus);
    let first = rig.tick();
    let count = std::f64::consts::TAU / 4096.0;
    for (joint, (&commanded, stood)) in first.command.position_rad().iter().zip(LEFT_RAD).enumerate() {
        assert!((commanded - stood).abs() <= count / 2.0 + 1e-9, "joint {joint}: {commanded} of {stood}");
    }
    for _ in 0..20 {
        assert_eq!(*rig.tick().command.position_rad(), *first.command.position_rad());
    }
    let measured = rig.control.measured().unwrap();
    for (joint, (measured, stood)) in measured.iter().zip(LEFT_RAD).enumerate() {
        assert!((measured - stood).abs() <= count, "joint {joint} jumped to {measured}");
    }
}

#[test]
fn a_pause_holds_poses_are_gone_to_in_the_limits_and_parking_comes_before_torque_off() {
    let bus = bus();
    let mut rig = Rig::new(&bus);
    assert_eq!(rig.tick().operation, Operation::Following);
    // Torque is not let go of in the middle of a run.
    rig.order(Order::Release);
    assert_eq!((rig.tick().operation, rig.control.counts().orders_refused), (Operation::Following, 1));
    let tick = rig.order(Order::Pause);
    assert_eq!((tick.operation, tick.rung, tick.cause), (Operation::Paused, Rung::Held, Some(Cause::Operator)));
    assert_eq!(rig.control.counts().causes.of(Cause::Operator), 1);
    let home = rig.spec.poses.home.unwrap();
    rig.order(Order::GoTo(home));
    let way = rig.until("home", |tick| tick.operation == Operation::Paused && tick.rung == Rung::Held);
    assert!(way.len() > 20, "{} commands", way.len());
    let dt = rig.spec.control.period.as_secs_f64();
    for pair in way.windows(2) {
        for (joint, (to, from)) in pair[1].iter().zip(pair[0].iter()).enumerate() {
            let speed = (to - from).abs() / dt;
            let allowed = rig.spec.poses.speed * rig.spec.joints[joint].limits.velocity_rad_s;
            assert!(speed <= allowed * 1.001, "joint {joint}: {speed} rad/s of {allowed}");
        }
    }
    let ladder = rig.control.counts().ladder;
    assert!(ladder.posed > 20 && ladder.total() == rig.control.counts().commands, "{ladder:?}");
    rig.until("the arm is there", |_| true);
    let reached = *rig.control.measured().unwrap();
    for joint in 0..6 {
        assert!((reached[joint] - home[joint]).abs() < 0.02, "joint {joint}: {reached:?}");
    }
    rig.order(Order::Resume);
    assert_eq!(rig.tick().operation, Operation::Following);
    let park = rig.spec.poses.park.unwrap();
    rig.order(Order::GoTo(park));
    // Changing one's mind on the way stops the arm first.
    rig.until("under way", |tick| tick.rung == Rung::Posed);
    rig.order(Order::GoTo(home));
    rig.order(Order::GoTo(park));
    rig.until("parked", |tick| tick.operation == Operation::Paused && tick.rung == Rung::Held);
    rig.order(Order::Release);
    rig.until("limp", |tick| tick.operation == Operation::Released);
    let parked = *rig.control.measured().unwrap();
    for joint in 0..6 {
        assert!((parked[joint] - park[joint]).abs() < 0.02, "joint {joint}: {parked:?}");
    }
    rig.order(Order::Resume);
    assert_eq!((rig.tick().operation, rig.control.counts().orders_refused), (Operation::Released, 2));
    drop(rig);
    assert!(is_limp(bus.path()));
}

/// Where the six joints stand, by their servos.
fn stand(bus: &EmulatedBus) -> Vec<f64> {
    let mut master = master(bus.path());
    let angle = |count: i32| f64::from(count - 2048) * std::f64::consts::TAU / 4096.0;
    (1..=6).map(|id| angle(master.read(id, r::POSITION).unwrap())).collect()
}

#[test]
fn a_run_is_paused_continued_judged_and_parked_by_its_control_socket() {
    let bus = bus();
    let robot = Robot::new(bus.path(), |text| text);
    let socket = robot.path("control.sock");
    let report = robot.path("report.json");
    let mut run = Command::new(env!("CARGO_BIN_EXE_endplate"))
        .args(["run", "--robot", &robot.file(), "--instruction", "pick up the red cube", "--home", "--park"])
        .args(["--control", socket.to_str().unwrap(), "--json", report.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ask = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_endplate"))
            .args(["operator", "--control", socket.to_str().unwrap()])
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let until = |what: &str| {
        for _ in 0..400 {
            let (_, said) = ask(&["status"]);
            if said.contains(what) {
                return said;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("never {what}: {}", ask(&["status"]).1);
    };
    until("\"operation\":\"following\"");
    let (done, said) = ask(&["pause", "--wait"]);
    assert!(done && said.contains("ok: pausing"), "{said}");
    let status = until("\"operation\":\"paused\"");
    assert!(status.contains("\"rung\":\"held\""), "{status}");
    assert!(ask(&["resume", "--wait"]).0);
    until("\"operation\":\"following\"");
    let (_, said) = ask(&["success", "--wait"]);
    assert!(said.contains("episode 1 ended (success"), "{said}");
    assert!(until("\"episode\":2").contains("\"operation\":\"paused\""));
    assert!(ask(&["quit"]).0);
    let output = {
        for _ in 0..600 {
            if run.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        run.kill().ok();
        run.wait_with_output().unwrap()
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("at the home pose") && text.contains("at the park pose"), "{text}");
    assert!(is_limp(bus.path()), "{text}");
    for (joint, angle) in stand(&bus).into_iter().enumerate() {
        assert!(angle.abs() < 0.03, "joint {joint} parked at {angle}");
    }
    assert!(!socket.exists());
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!((&report["episodes"], &report["successes"]), (&1.into(), &1.into()), "{report}");
    assert!(report["ladder"]["posed"].as_u64().unwrap() > 50, "{report}");
    assert!(report["faults"]["operator"].as_u64().unwrap() >= 2, "{report}");
}
