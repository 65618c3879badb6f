//! `endplate sim` and `endplate run` as two processes on one network: the main job, controllers, image forms, keys of other
//! distributions, processes that are killed. In real time, so not run without being asked for:
//!
//! ```text
//! cargo test --release -p endplate-runtime --test ros2_stack -- --ignored --test-threads 1 --nocapture
//! ```
//!
//! The tests with third-party operators need Python packages as ros2/tests/peers.rs says.
#![allow(clippy::unwrap_used)]

use endplate_ros2::interface::*;
use endplate_ros2::rmw::{Hashes, Qos};
use endplate_ros2::transport::{Endpoint, Transport};
use endplate_ros2::{SessionMode, SessionOptions, ZenohTransport};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process that does not outlive the test.
struct Process(Child);

impl Process {
    fn start(words: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_endplate"));
        command.args(words).stdout(Stdio::null()).stderr(Stdio::inherit());
        Self(command.spawn().unwrap())
    }

    /// SIGKILL: nothing is said or sent any more.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn end(mut self) -> std::process::ExitStatus {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Seen = Arc<Mutex<Vec<(Instant, Vec<f64>)>>>;

/// The router of the network, which sees what passes and operates the node.
struct Observer {
    transport: Arc<ZenohTransport>,
    router: String,
    /// Measured positions in the order of `names`, rad.
    states: Seen,
    /// Commands of a forward controller, rad.
    commands: Seen,
    names: Arc<Mutex<Vec<String>>>,
    _endpoints: Vec<Box<dyn Endpoint>>,
}

impl Observer {
    fn new(hashes: Hashes) -> Self {
        let router = format!("tcp/127.0.0.1:{}", free_port());
        let options = SessionOptions {
            mode: SessionMode::Router,
            listen: vec![router.clone()],
            connect: Vec::new(),
            node: "observer".into(),
            hashes,
            ..SessionOptions::default()
        };
        let transport = Arc::new(ZenohTransport::open(&options).unwrap());
        let (states, commands) = (Seen::default(), Seen::default());
        let names = Arc::<Mutex<Vec<String>>>::default();
        let (of_states, of_names, of_commands) = (Arc::clone(&states), Arc::clone(&names), Arc::clone(&commands));
        let on_state = Box::new(move |bytes: &[u8], _| {
            let state: JointState = decode(bytes).unwrap();
            *of_names.lock().unwrap() = state.name.iter().map(str::to_owned).collect();
            of_states.lock().unwrap().push((Instant::now(), state.position.iter().collect()));
        });
        let on_command = Box::new(move |bytes: &[u8], _| {
            let command: Float64MultiArray = decode(bytes).unwrap();
            of_commands.lock().unwrap().push((Instant::now(), command.data.iter().collect()));
        });
        let endpoints = vec![
            transport.subscribe("/joint_states", JointState::TYPE, Qos::LATEST, on_state).unwrap(),
            transport
                .subscribe("/position_controller/commands", Float64MultiArray::TYPE, Qos::SYSTEM, on_command)
                .unwrap(),
        ];
        Self { transport, router, states, commands, names, _endpoints: endpoints }
    }

    fn sim(&self, more: &[&str]) -> Process {
        Process::start(&[&["sim", "--transport", "zenoh", "--router", &self.router], more].concat())
    }

    fn run(&self, more: &[&str]) -> Process {
        let words = ["run", "--transport", "zenoh", "--router", &self.router, "--instruction", "pick up the red cube"];
        Process::start(&[&words, more].concat())
    }

    fn ask<S: Service>(&self, name: &str, request: &[u8]) -> Option<Vec<u8>> {
        self.transport.client(name, S::TYPE).unwrap().call(request, Duration::from_secs(2)).ok()
    }

    /// The node's lifecycle state, where it answers.
    fn state(&self) -> Option<u8> {
        let answer = self.ask::<GetState>("/endplate/get_state", &bytes(&Empty))?;
        Some(decode::<GetStateResponse>(&answer).unwrap().current_state.id)
    }

    fn enable(&self, data: bool) -> Result<(), String> {
        let answer = self.ask::<SetBool>("/endplate/enable", &bytes(&SetBoolRequest { data })).ok_or("no answer")?;
        let Outcome { success, message } = decode(&answer).unwrap();
        if success { Ok(()) } else { Err(message.to_owned()) }
    }

    fn since(seen: &Seen, since: Instant) -> Vec<(Instant, Vec<f64>)> {
        seen.lock().unwrap().iter().filter(|(at, _)| *at >= since).cloned().collect()
    }

    /// How far each joint went since an instant, rad.
    fn travels(&self, since: Instant) -> Vec<(String, f64)> {
        let seen = Self::since(&self.states, since);
        let span = |joint: usize| {
            let values = || seen.iter().map(|(_, position)| position[joint]);
            values().fold(f64::MIN, f64::max) - values().fold(f64::MAX, f64::min)
        };
        let names = self.names.lock().unwrap().clone();
        let joints = seen.first().map_or(0, |(_, first)| first.len());
        names.into_iter().take(joints).enumerate().map(|(joint, name)| (name, span(joint))).collect()
    }

    /// How far any joint went since an instant, rad; not the jaw, which closes by itself when what it holds slips.
    fn travel(&self, since: Instant) -> f64 {
        let travels = self.travels(since);
        travels.iter().filter(|(name, _)| name != "gripper").map(|(_, span)| *span).fold(0.0, f64::max)
    }

    fn moves(&self) -> Instant {
        let since = Instant::now();
        eventually("motion", || self.travel(since) > 0.02);
        since
    }
}

fn bytes<'a>(message: &impl Wire<'a>) -> Vec<u8> {
    let mut buffer = Vec::new();
    encode_into(message, &mut buffer).unwrap().to_vec()
}

/// A small generator: which moment, which process.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The distance of the first command after an enable to where the arm was measured, rad.
fn first_jump(observer: &Observer, enabled: Instant) -> f64 {
    let command = Observer::since(&observer.commands, enabled).into_iter().next().unwrap();
    let states = observer.states.lock().unwrap();
    let (_, measured) = states.iter().rev().find(|(at, _)| *at <= command.0).unwrap();
    // States come in alphabetical order, commands in that of the robot description.
    let names = observer.names.lock().unwrap();
    let order = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"];
    let of = |joint: &str| names.iter().position(|name| name == joint).map(|place| measured[place]).unwrap();
    order.iter().zip(&command.1).map(|(joint, value)| (of(joint) - value).abs()).fold(0.0, f64::max)
}

/// The largest step from one command to the next since an instant, rad.
fn largest_step(observer: &Observer, since: Instant) -> f64 {
    let seen = Observer::since(&observer.commands, since);
    let step =
        |pair: &[(Instant, Vec<f64>)]| pair[0].1.iter().zip(&pair[1].1).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    seen.windows(2).map(step).fold(0.0, f64::max)
}

#[test]
#[ignore = "a minute or two in real time"]
fn a_process_killed_at_a_random_moment_comes_back_without_a_jump_and_without_motion() {
    const ROUNDS: u64 = 20;
    let observer = Observer::new(Hashes::Rihs01);
    let mut random = Random(11);
    let (mut sim, mut run) = (observer.sim(&[]), observer.run(&[]));
    let (mut worst_first, mut worst_step, mut killed) = (0.0f64, 0.0f64, [0u64; 2]);
    for round in 0..ROUNDS {
        eventually("the node", || observer.state().is_some());
        // The arm comes to rest at what its controller holds, and then nothing moves by itself.
        eventually("rest", || {
            std::thread::sleep(Duration::from_millis(500));
            let since = Instant::now() - Duration::from_millis(500);
            Observer::since(&observer.states, since).len() > 10 && observer.travel(since) < 2e-3
        });
        let quiet = Instant::now();
        std::thread::sleep(Duration::from_millis(800));
        assert_ne!(observer.state(), Some(3), "round {round}: active without an enable");
        let commands = Observer::since(&observer.commands, quiet).len();
        assert_eq!(commands, 0, "round {round}: {commands} commands without an enable");
        let drift = observer.travel(quiet);
        assert!(drift < 5e-3, "round {round}: moved without an enable: {:?}", observer.travels(quiet));

        let enabled = Instant::now();
        eventually("the enable", || observer.enable(true).is_ok());
        observer.moves();
        worst_first = worst_first.max(first_jump(&observer, enabled));
        std::thread::sleep(Duration::from_millis(random.below(1500)));
        worst_step = worst_step.max(largest_step(&observer, enabled));
        if random.below(2) == 0 {
            killed[0] += 1;
            run.kill();
            run = observer.run(&[]);
        } else {
            killed[1] += 1;
            sim.kill();
            eventually("the node to leave active", || observer.state() != Some(3));
            sim = observer.sim(&[]);
        }
        observer.states.lock().unwrap().clear();
    }
    println!(
        "{ROUNDS} kills ({} of the node, {} of the robot): first command after an enable at most {worst_first:.4} rad from the \
         measured pose, largest step between commands {worst_step:.4} rad, no command without an enable",
        killed[0], killed[1]
    );
    assert!(worst_first < 0.03, "{worst_first} rad");
    eventually("the node", || observer.state().is_some());
    assert!(run.end().success());
    assert!(sim.end().success());
}

/// Episodes over the wire with these words; successes of how many. That it is done at all is tested; in real time a busy
/// machine loses some, and how many is a measurement (`ros2/README.md`).
fn episodes(observer: &Observer, count: u64, of_sim: &[&str], of_run: &[&str]) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let sim = observer.sim(of_sim);
    let count_text = count.to_string();
    let words: [&[&str]; 3] = [
        &["run", "--transport", "zenoh", "--router", &observer.router, "--episodes", &count_text],
        &["--json", report.to_str().unwrap()],
        of_run,
    ];
    let mut run = Process::start(&words.concat());
    assert!(run.0.wait().unwrap().success());
    assert!(sim.end().success());
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
    assert_eq!(report["episodes"].as_u64(), Some(count));
    report["successes"].as_u64().unwrap()
}

#[test]
#[ignore = "real time"]
fn a_trajectory_controller_does_the_main_job() {
    let observer = Observer::new(Hashes::Rihs01);
    let words = ["--controller", "joint_trajectory"];
    let successes = episodes(&observer, 4, &words, &words);
    println!("joint_trajectory: {successes} of 4");
    assert!(successes >= 1);
}

#[test]
#[ignore = "real time"]
fn controllers_of_velocities_do_the_main_job() {
    for kind in ["forward_velocity", "joint_jog"] {
        let observer = Observer::new(Hashes::Rihs01);
        let successes = episodes(&observer, 4, &["--controller", kind], &["--controller", kind]);
        println!("{kind}: {successes} of 4");
        assert!(successes >= 1);
    }
}

#[test]
#[ignore = "real time"]
fn compressed_images_do_the_main_job() {
    let observer = Observer::new(Hashes::Rihs01);
    let successes = episodes(&observer, 4, &["--compressed-only"], &["--compressed"]);
    println!("compressed: {successes} of 4");
    assert!(successes >= 1);
}

#[test]
#[ignore = "real time"]
fn humbles_keys_do_the_main_job() {
    let observer = Observer::new(Hashes::Humble);
    let successes = episodes(&observer, 4, &["--humble"], &["--humble"]);
    println!("humble: {successes} of 4");
    assert!(successes >= 1);
}

fn python(variable: &str, usual: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let python = std::env::var_os(variable).map_or_else(|| root.join(usual), PathBuf::from);
    assert!(python.exists(), "{}: no such interpreter; ros2/tests/peers.rs says how to make it", python.display());
    python
}

/// What an operator's script ends with where its robot got no time to run.
const MACHINE_TOO_BUSY: i32 = 75;

/// An operator nobody here wrote the middleware of, in a network of its own where this machine allows that.
fn operated_by(python: &Path, script: &str, words: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("ros2/tests/peers").join(script);
    let allowed = Command::new("unshare").args(["-rn", "true"]).status().is_ok_and(|status| status.success());
    let mut command = match allowed {
        false => Command::new(python),
        true => {
            let mut command = Command::new("unshare");
            command.args(["-rn", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(python);
            command
        }
    };
    command.arg(&script).arg(env!("CARGO_BIN_EXE_endplate")).args(words);
    let mut status = command.status().unwrap();
    for _ in 0..2 {
        if status.code() != Some(MACHINE_TOO_BUSY) {
            break;
        }
        println!("{}: the machine was too busy; again", script.display());
        status = command.status().unwrap();
    }
    assert!(status.success(), "{}: {status}", script.display());
}

#[test]
#[cfg(feature = "dds")]
#[ignore = "needs rclpy"]
fn rclpy_operates_the_node_over_dds() {
    operated_by(&python("ENDPLATE_ROS_PEERS", "target/ros-peers/bin/python"), "lifecycle_rclpy.py", &["dds"]);
}

#[test]
#[cfg(feature = "r2r")]
#[ignore = "needs rclpy, and the environment of ros2/tests/r2r/run.sh"]
fn rclpy_operates_the_node_over_r2r() {
    operated_by(&python("ENDPLATE_ROS_PEERS", "target/ros-peers/bin/python"), "lifecycle_rclpy.py", &["r2r"]);
}

#[test]
#[ignore = "needs eclipse-zenoh"]
fn eclipse_zenoh_operates_the_node_over_plain_keys() {
    operated_by(&python("ENDPLATE_PEERS", "target/peers/bin/python"), "plain_zenoh.py", &[]);
}
