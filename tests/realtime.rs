//! Real time from outside: signals, supervisors, rights, pacing. Nothing here depends on how fast the machine is.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod rig;

use endplate_hal::{Arm, BusError, Clock, Instant, JointState, MonotonicClock, Robot, SafeCommand, Sent, robots};
use endplate_policies::{ActionChunk, Epoch, Interpolation};
use endplate_runtime::drive::control_thread::{ControlLinks, ControlThread, Shared};
use endplate_runtime::drive::{Sight, camera_loops};
use endplate_runtime::watchdog::{Heartbeat, Notifier, Watchdog, WatchdogOptions};
use endplate_runtime::{ControlLoop, ControlSnapshot, FaultPlan, PlayRules, Samples, stamp_ring, triple_buffer};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What systemd would hear.
struct Supervisor {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Supervisor {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { folder, socket }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for this message; what came before it.
    fn wait_for(&self, wanted: &str) -> Vec<String> {
        let (mut before, mut buffer) = (Vec::new(), [0; 256]);
        loop {
            let length =
                self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}; {before:?}"));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.starts_with(wanted) {
                return before;
            }
            before.push(message);
        }
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        self.spawn_with(libc::SIG_DFL, arguments)
    }

    /// With `SIGHUP` as a terminal leaves it or as `nohup` does, whatever these tests were started under.
    fn spawn_with(&self, hangup: libc::sighandler_t, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_endplate"));
        // SAFETY: between fork and exec one function is called that is safe there.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGHUP, hangup);
                Ok(())
            })
        };
        command
            .args(arguments)
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("WATCHDOG_USEC", "200000")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

fn terminate(child: &Child) {
    signal(child, libc::SIGTERM);
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: a child that has not been waited for.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
}

fn robot(folder: &Path, edit: impl Fn(&str) -> String) -> String {
    let path = folder.join("robot.toml");
    std::fs::write(&path, edit(robots::SO101_SIM)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_supervised_run_is_ready_is_kicked_for_and_stops_under_control_at_the_first_signal() {
    let supervisor = Supervisor::new();
    // No machine has a core 1023: the run says so and goes on. The arm's own cycle sets the pace.
    let robot = robot(supervisor.folder.path(), |text| {
        let paced = text.replace("pacing = \"timer\"", "pacing = \"hardware\"");
        paced.replace("[[arms]]", "[control.realtime]\ncpu = 1023\n[[arms]]")
    });
    let json = supervisor.path("run.json");
    let child = supervisor.spawn(&[
        "run",
        "--robot",
        &robot,
        "--realtime",
        "--episodes",
        "3",
        "--json",
        json.to_str().unwrap(),
    ]);
    supervisor.wait_for("READY=1");
    supervisor.wait_for("STATUS=episode 1");
    supervisor.wait_for("WATCHDOG=1");
    terminate(&child);
    supervisor.wait_for("STOPPING=1");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("not pinned to core 1023") && text.contains("by SIGTERM"), "{text}");
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(report["stopped_by"], "SIGTERM");
    assert_eq!((&report["episodes"], &report["per_episode"][0]["outcome"]), (&0.into(), &"interrupted".into()));
    assert_eq!((&report["faults"]["estop"], report["ladder"]["stopped"].as_u64() > Some(0)), (&1.into(), true));
    assert_eq!(
        (&report["realtime"]["asked"]["cpu"], &report["realtime"]["granted"]["cpu"]),
        (&1023.into(), &().into())
    );
    let budget = &report["budget"];
    assert_eq!(budget["commands"], report["control"]["commands"], "every command is accounted for");
    assert!(report["startup_ms"]["first_command"].as_f64() > Some(0.0), "{report}");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let supervisor = Supervisor::new();
    let mut child = supervisor.spawn(&["run", "--realtime", "--episodes", "3"]);
    supervisor.wait_for("READY=1");
    terminate(&child);
    while child.try_wait().unwrap().is_none() {
        terminate(&child);
        std::thread::sleep(Duration::from_millis(1));
    }
    // 143 = 128 + SIGTERM, unless the controlled stop was over first.
    let code = child.wait().unwrap().code();
    assert!(matches!(code, Some(143 | 0)), "{code:?}");
}

#[test]
fn a_run_nobody_reads_goes_on_and_stops_under_control_when_its_terminal_hangs_up() {
    let supervisor = Supervisor::new();
    let json = supervisor.path("run.json");
    let mut child = supervisor.spawn(&["run", "--realtime", "--episodes", "2", "--json", json.to_str().unwrap()]);
    drop(child.stdout.take());
    supervisor.wait_for("READY=1");
    supervisor.wait_for("STATUS=episode 2");
    // A shell sends one, the kernel another.
    signal(&child, libc::SIGHUP);
    signal(&child, libc::SIGHUP);
    supervisor.wait_for("STOPPING=1");
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!((&report["stopped_by"], &report["episodes"]), (&"SIGHUP".into(), &1.into()), "{report}");
    assert_eq!(report["faults"]["estop"], 1);
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let supervisor = Supervisor::new();
    let json = supervisor.path("run.json");
    let arguments = ["run", "--realtime", "--episodes", "1", "--json", json.to_str().unwrap()];
    let mut child = supervisor.spawn_with(libc::SIG_IGN, &arguments);
    drop(child.stdout.take());
    supervisor.wait_for("READY=1");
    signal(&child, libc::SIGHUP);
    assert!(child.wait().unwrap().success());
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!((&report["stopped_by"], &report["episodes"]), (&().into(), &1.into()), "{report}");
}

#[test]
fn rights_that_are_required_and_not_granted_refuse_the_run() {
    let supervisor = Supervisor::new();
    let robot =
        robot(supervisor.folder.path(), |text| text.replace("[[arms]]", "[control.realtime]\ncpu = 1023\n[[arms]]"));
    let output = Command::new(env!("CARGO_BIN_EXE_endplate"))
        .args(["run", "--robot", &robot, "--realtime", "--episodes", "1", "--require-realtime"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("--require-realtime: not granted") && error.contains("core 1023"), "{error}");
}

#[test]
fn a_run_on_huge_pages_says_what_was_moved() {
    let supervisor = Supervisor::new();
    let robot = robot(supervisor.folder.path(), |text| {
        text.replace("[[arms]]", "[control.realtime]\nhuge_pages = true\n[[arms]]")
    });
    let file = supervisor.path("out.json");
    let output = Command::new(env!("CARGO_BIN_EXE_endplate"))
        .args(["run", "--robot", &robot, "--realtime", "--episodes", "1", "--json", file.to_str().unwrap()])
        .output()
        .unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let moved = &report["huge_pages"];
    if moved.is_null() {
        assert!(format!("{said}{error}").contains("not on huge pages: "), "{said}{error}");
        return eprintln!("this kernel moves nothing");
    }
    assert!(moved["heap_bytes"].as_u64().unwrap() + moved["text_bytes"].as_u64().unwrap() > 0, "{moved}");
    assert!(moved["heap_bytes"].as_u64() <= moved["of_heap_bytes"].as_u64(), "{moved}");
}

#[test]
fn impossible_requests_name_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let tight = robot(folder.path(), |text| text.replace("deadline_ms = 250.0", "deadline_ms = 5.0"));
    for (arguments, code, words) in [
        (vec!["run", "--episodes", "1", "--require-realtime"], 2, "add --realtime"),
        (vec!["run", "--episodes", "1", "--metrics", "0.0.0.0:0"], 2, "loopback only"),
        (
            vec!["run", "--realtime", "--episodes", "1", "--watchdog-device", "/nowhere/watchdog"],
            2,
            "/nowhere/watchdog",
        ),
        (vec!["check", "--robot", &tight], 3, "control.deadline_ms = 5: from capture to command takes at least"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_endplate")).args(&arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_endplate")).arg("stop").output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("nothing is left to stop"));
}

/// An arm whose driver hangs in one write, until it is released.
struct HangingArm {
    joints: usize,
    writes: u32,
    hang_at: u32,
    release: Arc<AtomicBool>,
}

impl Arm for HangingArm {
    fn joints(&self) -> usize {
        self.joints
    }

    fn read(&mut self, now: Instant) -> Result<JointState, BusError> {
        let zeros = endplate_hal::JointVec::zeros(self.joints);
        let position_rad = endplate_hal::JointVec::from_fn(self.joints, |_| 0.2);
        Ok(JointState { stamp: now, position_rad, velocity_rad_s: zeros, effort_nm: None })
    }

    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError> {
        self.writes += 1;
        while self.writes == self.hang_at && !self.release.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let position_rad = endplate_hal::JointVec::from_fn(self.joints, |joint| command.position_rad()[joint]);
        Ok(Sent { stamp: now, position_rad })
    }

    fn set_torque(&mut self, _: Instant, _: bool) -> Result<(), BusError> {
        Ok(())
    }
}

#[test]
fn a_control_loop_that_hangs_in_a_driver_stops_the_kicks_and_its_missed_periods_are_skipped() {
    let supervisor = Supervisor::new();
    let clock = MonotonicClock::new();
    let spec = endplate_hal::RobotSpec::from_toml_str(robots::SO101_SIM, "so101_sim").unwrap();
    let release = Arc::new(AtomicBool::new(false));
    let arm = HangingArm { joints: spec.joints.len(), writes: 0, hang_at: 30, release: Arc::clone(&release) };
    let rules = PlayRules {
        interpolation: vec![Interpolation::Smooth; spec.joints.len()],
        execute_rows: 4,
        max_age: spec.control.max_chunk_age,
    };
    let mut control = ControlLoop::new(spec.clone(), Robot::new(vec![Box::new(arm)]).unwrap(), rules).unwrap();
    control.configure(clock.now()).unwrap();
    control.activate(clock.now(), Epoch(0)).unwrap();
    let (_, _, watch) = camera_loops(Vec::new(), false);
    let heartbeat = Arc::new(Heartbeat::default());
    let options = WatchdogOptions {
        notifier: Some(Arc::new(Notifier::connect(&supervisor.path("notify").into_os_string()).unwrap())),
        interval: Some(Duration::from_millis(100)),
        device: None,
    };
    let watchdog = Watchdog::start(options, Arc::clone(&heartbeat)).unwrap();
    let shared = Shared::new(Epoch(0));
    let (_chunk_writer, chunks) = triple_buffer(|| ActionChunk::new(8, spec.joints.len()));
    let (snapshots, _snapshot_reader) = triple_buffer(ControlSnapshot::new);
    let (sights, _sight_reader) = triple_buffer(Sight::default);
    let (mut stamps, _stamp_reader) = stamp_ring(1024);
    let mut lateness = Samples::with_capacity(1 << 16);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let thread = ControlThread {
                clock: &clock,
                start: clock.now(),
                rules: &spec.control,
                control: &mut control,
                watch: &watch,
                faults: &FaultPlan::default(),
                estop: &AtomicBool::new(false),
                orders: None,
                lateness: &mut lateness,
                heartbeat: &heartbeat,
                stamps: &mut stamps,
            };
            thread.run(&shared, &mut ControlLinks { chunks, snapshots, sights });
        });
        supervisor.wait_for("WATCHDOG=1");
        while watchdog.withheld() < 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(heartbeat.beats(), 29, "the hung write is not progress");
        supervisor.socket.set_nonblocking(true).unwrap();
        while supervisor.socket.recv(&mut [0; 64]).is_ok() {}
        let hung = watchdog.withheld();
        while watchdog.withheld() < hung + 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(supervisor.socket.recv(&mut [0; 64]).is_err(), "a hung loop was kicked for");
        supervisor.socket.set_nonblocking(false).unwrap();
        release.store(true, Ordering::Release);
        supervisor.wait_for("WATCHDOG=1");
        shared.running.store(false, Ordering::Release);
    });
    let counts = control.counts();
    assert!(counts.overruns >= 10, "{} periods were missed in the hang", counts.overruns);
    assert_eq!(counts.periods, counts.commands + counts.overruns, "none was caught up");
}
