//! `endplate bench jitter`: how late the control thread begins its periods, beside a bare loop on the same machine.
//!
//! 1 kHz, with the demonstration policy inferring and two busy loops running throughout. Windows of the sides follow
//! each other: bare, ours, each under `SCHED_FIFO` and under ordinary scheduling, and LeRobot's loop (`--peer`). The bare
//! loop is `clock_nanosleep` to an absolute deadline and nothing else; ours is the product's control thread with its
//! whole period: joints, ladder, chunk, safety filter, write, snapshot.

use super::{BenchArguments, Ratio, Row, Samples as Quantiles, body, quantile, rounded};
use crate::cli::bundle::{PolicyArguments, open_robot};
use crate::cli::error::CliError;
use core::time::Duration;
use endplate_hal::{
    Arm, Camera, Clock, ControlSpec, Frame, Instant, JointState, JointVec, MonotonicClock, RealtimeSpec, RobotSpec,
};
use endplate_policies::{ActionChunk, Anchor, Budget, Bundle, Committed, Epoch, Observation, Policy, PolicySpec};
use endplate_runtime::drive::control_thread::{ControlLinks, ControlThread, Shared};
use endplate_runtime::drive::{CameraWatch, Sight};
use endplate_runtime::realtime::{RealtimeRights, request};
use endplate_runtime::watchdog::Heartbeat;
use endplate_runtime::{
    BudgetAccount, ControlLoop, ControlSnapshot, FaultPlan, Reader, Samples, Writer, stamp_ring, triple_buffer,
};
use endplate_sim::model::{JOINTS, Model};
use endplate_sim::robot::{SimOptions, SimRobot};
use endplate_sim::scene::Scene;
use serde::Deserialize;
use serde_json::json;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PERIOD: Duration = Duration::from_millis(1);
const BUSY_LOOPS: usize = 2;
const PEER: &str = include_str!("../../../bench/rollout_peer.py");

/// One window of one side.
pub struct Window {
    late_us: Vec<f64>,
    missed: u64,
}

/// All windows of one side.
pub struct Side {
    name: &'static str,
    windows: Vec<Window>,
    rights: Option<RealtimeRights>,
}

impl Side {
    pub fn new(name: &'static str) -> Self {
        Self { name, windows: Vec::new(), rights: None }
    }

    fn p99(&self) -> Vec<f64> {
        self.windows.iter().map(|window| quantile(&window.late_us, 0.99)).collect()
    }

    fn missed(&self) -> u64 {
        self.windows.iter().map(|window| window.missed).sum()
    }

    /// A row, with the ratio to the bare loop under the same scheduling where this is not that loop.
    fn row(&self, bare: Option<&Self>) -> Row {
        self.row_over("bare", bare)
    }

    /// A row, with the ratio to another side under that side's name.
    pub fn row_over(&self, name: &str, bare: Option<&Self>) -> Row {
        let mut row = Row::new();
        let mut all = Quantiles::default();
        all.extend(self.windows.iter().flat_map(|window| window.late_us.iter().copied()));
        let periods: usize = self.windows.iter().map(|window| window.late_us.len()).sum();
        row.insert("what".to_owned(), self.name.into());
        row.insert("windows".to_owned(), self.windows.len().into());
        row.insert("periods".to_owned(), periods.into());
        all.put(&mut row, "late", "us");
        row.insert("overruns".to_owned(), self.missed().into());
        if let Some(bare) = bare {
            let ratio = Ratio::new(&self.p99(), &bare.p99());
            row.insert(format!("p99_over_{name}"), json!(rounded(ratio.median)));
            let interval = [rounded(ratio.interval.0), rounded(ratio.interval.1)];
            row.insert(format!("p99_over_{name}_95"), json!(interval));
            if bare.missed() > 0 {
                let overruns = self.missed() as f64 / bare.missed() as f64;
                row.insert(format!("overruns_over_{name}"), json!(rounded(overruns)));
            }
        }
        if let Some(rights) = &self.rights {
            row.insert("granted".to_owned(), rights.describe().into());
        }
        row
    }
}

/// Every row of the table.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let clock = MonotonicClock::new();
    let policy_arguments = PolicyArguments::default();
    let (bundle, loaded) = policy_arguments.load()?;
    let mut robot = open_robot(None)?;
    robot.control.period = PERIOD;
    let mut peer = arguments.peer.as_deref().map(Peer::start).transpose()?;
    let length = Duration::from_secs_f64(arguments.seconds() / arguments.windows as f64);
    let (scene, state) = scene(&robot)?;
    let mut load = Load { clock: &clock, policy: loaded.policy, frames: scene, state };
    let (mut cameras, _, watch) = body::cameras(bundle.spec(), (640, 480), 30.0);
    let mut ours = Ours::new(&robot, &bundle, state.position_rad, &clock, watch)?;
    let (chunk_writer, snapshot_reader) = ours.ends.take().ok_or_else(|| CliError::failed("no crossings"))?;
    let names = ["bare, SCHED_FIFO", "ours, SCHED_FIFO", "bare, ordinary", "ours, ordinary"];
    let [mut bare_fifo, mut ours_fifo, mut bare_other, mut ours_other] = names.map(Side::new);
    let mut python = Side::new("LeRobot loop (third-party)");
    let running = AtomicBool::new(true);
    let inferences = AtomicU64::new(0);
    let asked = robot.control.realtime;
    let result = std::thread::scope(|scope| -> Result<(), CliError> {
        let _end = EndOnDrop(&running);
        for _ in 0..BUSY_LOOPS {
            scope.spawn(|| {
                let mut number = 1u64;
                while running.load(Ordering::Relaxed) {
                    for _ in 0..10_000 {
                        number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                    }
                }
            });
        }
        for camera in &mut cameras {
            scope.spawn(|| {
                while running.load(Ordering::Relaxed) {
                    camera.step(clock.now());
                    clock.sleep_until(clock.now().saturating_add(Duration::from_millis(2)));
                }
            });
        }
        scope.spawn(|| load.run(&running, &inferences, chunk_writer, snapshot_reader));
        for window in 0..arguments.windows {
            remark_part!("\rwindow {} of {}", window + 1, arguments.windows);
            bare_window(&clock, Some(&asked), length, &mut bare_fifo);
            ours.window(Some(&asked), length, &mut ours_fifo);
            bare_window(&clock, None, length, &mut bare_other);
            ours.window(None, length, &mut ours_other);
            if let Some(peer) = &mut peer {
                python.windows.push(peer.window(length)?);
            }
        }
        remark!("");
        Ok(())
    });
    result?;
    let mut rows = vec![
        bare_fifo.row(None),
        ours_fifo.row(Some(&bare_fifo)),
        bare_other.row(None),
        ours_other.row(Some(&bare_other)),
    ];
    if let Some(peer) = &peer {
        let mut row = python.row(Some(&bare_other));
        row.insert("peer".to_owned(), peer.version.clone().into());
        let due = length.as_secs_f64() / PERIOD.as_secs_f64() * arguments.windows as f64;
        row.insert("share_of_periods_made".to_owned(), json!(rounded(row["periods"].as_f64().unwrap_or(0.0) / due)));
        rows.push(row);
    } else {
        remark!("SKIPPED: LeRobot's loop is not measured without --peer PYTHON");
    }
    let seconds = length.as_secs_f64();
    for row in &mut rows {
        row.insert("period_us".to_owned(), json!(PERIOD.as_micros() as u64));
        row.insert("window_s".to_owned(), json!(rounded(seconds)));
        row.insert("busy_loops".to_owned(), BUSY_LOOPS.into());
        row.insert("inferences_meanwhile".to_owned(), inferences.load(Ordering::Relaxed).into());
    }
    Ok(rows)
}

/// Clears a flag when the scope ends, whichever way.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What the policy looks at: images and joints of the simulated robot at the start of an episode.
fn scene(robot: &RobotSpec) -> Result<(Vec<Frame>, JointState), CliError> {
    let start = Instant::from_nanos(1_000_000_000);
    let model = Arc::new(Model::so101_like().map_err(CliError::failed)?);
    let world = SimRobot::new(model, &Scene::sample(1_000_000), SimOptions::from_spec(robot), start)
        .map_err(CliError::failed)?;
    let later = start.saturating_add(Duration::from_millis(150));
    world.advance_to(later);
    let mut frames = Vec::new();
    for mut camera in world.cameras() {
        let (width, height) = camera.size();
        let mut frame = Frame::new(width, height);
        camera.capture(later, &mut frame).map_err(CliError::failed)?;
        frames.push(frame);
    }
    let state = world.arm().read(later).map_err(CliError::failed)?;
    Ok((frames, state))
}

/// The policy, answering one observation after the other as fast as it can.
struct Load<'a> {
    clock: &'a MonotonicClock,
    policy: Box<dyn Policy>,
    frames: Vec<Frame>,
    state: JointState,
}

impl Load<'_> {
    fn run(
        &mut self,
        running: &AtomicBool,
        inferences: &AtomicU64,
        mut chunks: Writer<ActionChunk>,
        mut snapshots: Reader<ControlSnapshot>,
    ) {
        let mut chunk = ActionChunk::for_spec(self.policy.spec());
        while running.load(Ordering::Relaxed) {
            let now = self.clock.now();
            snapshots.update();
            let motion = snapshots.value().motion_at(now).unwrap_or_default();
            let observation = Observation {
                frames: &self.frames,
                state: self.state,
                past: &[],
                instruction: "lift the red block",
                anchor: Anchor { motion, captured: now },
            };
            let (committed, budget) = (Committed::none(Epoch(0)), Budget::unlimited(now));
            if self.policy.infer(&observation, &committed, budget, &mut chunk).is_ok() {
                inferences.fetch_add(1, Ordering::Relaxed);
                chunks.slot().copy_from(&chunk);
                chunks.publish();
            }
        }
    }
}

/// The product's control thread, with everything it holds.
pub struct Ours<'a> {
    clock: &'a MonotonicClock,
    rules: ControlSpec,
    control: ControlLoop,
    watch: CameraWatch,
    links: ControlLinks,
    ends: Option<(Writer<ActionChunk>, Reader<ControlSnapshot>)>,
    _sights: Reader<Sight>,
}

impl<'a> Ours<'a> {
    fn new(
        robot: &RobotSpec,
        bundle: &Bundle,
        position_rad: JointVec,
        clock: &'a MonotonicClock,
        watch: CameraWatch,
    ) -> Result<Self, CliError> {
        if position_rad.len() != JOINTS {
            return Err(CliError::failed("the demonstration's arm has six joints"));
        }
        let control = body::control(robot, bundle.spec(), position_rad, clock.now())?;
        Self::around(control, &robot.control, bundle.spec(), clock, watch)
    }

    /// The thread around a configured control loop.
    pub fn around(
        mut control: ControlLoop,
        rules: &ControlSpec,
        policy: &PolicySpec,
        clock: &'a MonotonicClock,
        watch: CameraWatch,
    ) -> Result<Self, CliError> {
        control.activate(clock.now(), Epoch(0)).map_err(CliError::failed)?;
        let (chunk_writer, chunks) = triple_buffer(|| ActionChunk::for_spec(policy));
        let (snapshots, snapshot_reader) = triple_buffer(ControlSnapshot::new);
        let (sights, sight_reader) = triple_buffer(Sight::default);
        Ok(Self {
            clock,
            rules: rules.clone(),
            control,
            watch,
            links: ControlLinks { chunks, snapshots, sights },
            ends: Some((chunk_writer, snapshot_reader)),
            _sights: sight_reader,
        })
    }

    /// One window on a thread of its own.
    pub fn window(&mut self, asked: Option<&RealtimeSpec>, length: Duration, side: &mut Side) {
        let shared = Shared::new(Epoch(0));
        let (estop, faults, heartbeat) = (AtomicBool::new(false), FaultPlan::default(), Heartbeat::default());
        let (mut stamps, mut reader) = stamp_ring(4096);
        let mut lateness = Samples::with_capacity(length.as_micros() as usize / PERIOD.as_micros() as usize + 1000);
        let before = self.control.counts().overruns;
        let Self { clock, rules, control, watch, links, .. } = self;
        let rights = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let rights = asked.map(request);
                let thread = ControlThread {
                    clock: *clock,
                    start: clock.now(),
                    rules,
                    control,
                    watch,
                    faults: &faults,
                    estop: &estop,
                    orders: None,
                    lateness: &mut lateness,
                    heartbeat: &heartbeat,
                    stamps: &mut stamps,
                };
                thread.run(&shared, links);
                rights
            });
            let end = clock.now().saturating_add(length);
            let mut account = BudgetAccount::new(rules.deadline);
            while clock.now() < end {
                // Someone reads the ring, as in a run.
                reader.drain(&mut account);
                clock.sleep_until(end.min(clock.now().saturating_add(Duration::from_millis(100))));
            }
            shared.running.store(false, Ordering::Release);
            thread.join().unwrap_or_default()
        });
        side.rights = rights.or(side.rights.take());
        let late_us = lateness.spans(Duration::from_micros(1)).collect();
        side.windows.push(Window { late_us, missed: self.control.counts().overruns - before });
    }
}

/// One window of the bare loop on a thread of its own.
fn bare_window(clock: &MonotonicClock, asked: Option<&RealtimeSpec>, length: Duration, side: &mut Side) {
    let periods = length.as_micros() as usize / PERIOD.as_micros() as usize;
    let (window, rights) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let rights = asked.map(request);
            let mut late_us = vec![0.0; periods];
            let (mut made, mut missed) = (0, 0);
            let mut deadline = clock.now();
            let end = deadline.saturating_add(length);
            while made < periods && deadline < end {
                deadline = deadline.saturating_add(PERIOD);
                clock.sleep_until(deadline);
                let late = clock.now().duration_since(deadline);
                late_us[made] = late.as_secs_f64() * 1e6;
                made += 1;
                while clock.now() >= deadline.saturating_add(PERIOD) {
                    deadline = deadline.saturating_add(PERIOD);
                    missed += 1;
                }
            }
            late_us.truncate(made);
            (Window { late_us, missed }, rights)
        });
        thread.join().unwrap_or((Window { late_us: Vec::new(), missed: 0 }, None))
    });
    side.rights = rights.or(side.rights.take());
    side.windows.push(window);
}

/// The peer's process.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    python: String,
    version: String,
}

#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    version: Option<String>,
    late_us: Option<Vec<f64>>,
}

impl Peer {
    fn start(python: &Path) -> Result<Self, CliError> {
        let name = python.display().to_string();
        let refuse =
            |error: String| CliError::Input(format!("--peer {name}: {error}; name a Python with lerobot 0.6.1"));
        let mut child = Command::new(python)
            .args(["-u", "-c", PEER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| refuse(error.to_string()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(refuse("its pipes could not be opened".to_owned()));
        };
        let output = BufReader::new(output);
        let mut peer = Self { child, input, output, python: name.clone(), version: String::new() };
        peer.version = peer.read()?.version.unwrap_or_default();
        Ok(peer)
    }

    fn read(&mut self) -> Result<Answer, CliError> {
        let refuse = |reason: String| CliError::Input(format!("--peer {}: {reason}", self.python));
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|error| refuse(error.to_string()))?;
        let answer: Answer = serde_json::from_str(&line)
            .map_err(|_| refuse(format!("it ended or answered {line:?}; its own error stands above")))?;
        match answer.error {
            Some(error) => Err(refuse(error)),
            None => Ok(answer),
        }
    }

    fn window(&mut self, length: Duration) -> Result<Window, CliError> {
        let request = json!({"seconds": length.as_secs_f64(), "rate_hz": 1.0 / PERIOD.as_secs_f64()});
        // A peer that ended has said why on its output, which is read all the same.
        let _ = writeln!(self.input, "{request}").and_then(|()| self.input.flush());
        let late_us = self.read()?.late_us.unwrap_or_default();
        let period_us = PERIOD.as_secs_f64() * 1e6;
        let missed = late_us.iter().map(|late| (late / period_us) as u64).sum();
        Ok(Window { late_us, missed })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
