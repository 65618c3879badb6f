//! Episodes on the simulated robot, in simulated time or on the real clock.

use super::error::{CliError, read_text, write};
use super::frames::FrameSaver;
use super::loops::{look_at_handover, loops, with_cameras_of};
use super::report::{Episode, INTERRUPTED, RunFacts, RunReport};
use super::run::{DEFAULT_LATENCY, Images, RunArguments, Task, parse_span};
use super::startup;
use super::supervision::{Supervision, has_stopped};
use super::view::View;
use core::time::Duration;
use endplate_hal::{Camera, Clock, Instant, MonotonicClock, Robot, RobotSpec};
use endplate_policies::{Bundle, EngineInfo, Epoch, Loaded, OutputFault};
use endplate_runtime::drive::orders::Orders;
use endplate_runtime::drive::simulated::{Latency, LatencyModel, Simulated};
use endplate_runtime::drive::{CameraBank, CameraLoop, CameraWatch, Flow, camera_loops, realtime, simulated};
use endplate_runtime::{
    CameraHealth, ControlCounts, ControlLoop, Event, FaultPlan, FaultWindow, Inbox, InferenceCounts, InferenceLoop,
    RuntimeFault, Samples, Tick,
};
use endplate_sim::fault::{Fault, FaultKind, FaultPlan as BodyFaults};
use endplate_sim::look::Look;
use endplate_sim::model::Model;
use endplate_sim::moving::CubeMotion;
use endplate_sim::robot::{SimOptions, SimRobot};
use endplate_sim::scene::Scene;
use endplate_sim::task::{self, COLOURS, Judge, MOVING_TIME_LIMIT, Outcome, TIME_LIMIT};
use std::path::PathBuf;
use std::sync::Arc;

/// From the start of an episode to activation: every camera has given a frame by then.
const WARM_UP: Duration = Duration::from_millis(150);
/// Events between two looks of the logging thread.
const EVENT_ROOM: usize = 1024;
/// Where simulated clocks start.
const START: Instant = Instant::from_nanos(1_000_000_000);
/// Epochs an episode may use: one, and one more for every change of the instruction.
const EPOCHS: u64 = 1000;
/// Seeds that give different epochs.
const SEEDS: u64 = 1_000_000_000_000;

/// One policy on one simulated robot, for as many episodes as asked.
pub struct Bench<'a> {
    arguments: &'a RunArguments,
    spec: RobotSpec,
    world: SimRobot,
    control: ControlLoop,
    inference: InferenceLoop,
    cameras: Vec<CameraLoop>,
    bank: CameraBank,
    watch: CameraWatch,
    events: rtrb::Consumer<Event>,
    faults: FaultPlan,
    body_faults: Arc<BodyFaults>,
    latency: Latency,
    lateness: Samples,
    saver: Option<FrameSaver>,
    recorder: Tape,
    view: View,
    supervision: Supervision,
    /// Emulated buses between control and world; after `control`, which speaks to them until it ends.
    buses: Buses,
    /// The clock of episodes in real time.
    clock: Arc<MonotonicClock>,
    /// The present of simulated time.
    now: Instant,
    successes: usize,
}

/// The emulated buses of a run, if its robot description has any.
#[derive(Default)]
struct Buses {
    #[cfg(feature = "serial")]
    open: Vec<endplate_sim::bus::EmulatedBus>,
    #[cfg(feature = "serial")]
    reporters: super::devices::Reporters,
}

impl Buses {
    /// The arms of the robot: behind their emulated buses, or the simulated arm itself.
    #[cfg(feature = "serial")]
    fn open(
        spec: &RobotSpec,
        world: &SimRobot,
        clock: &Arc<MonotonicClock>,
        on_real_clock: bool,
    ) -> Result<(Robot, Self), CliError> {
        use super::devices::{has_buses, open_arms};
        if !has_buses(spec) {
            return Self::none(world);
        }
        if !on_real_clock {
            return Err(CliError::Input(format!("{}: a bus runs on the real clock: add --realtime", spec.source)));
        }
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        let arms = open_arms(spec, &clock, Some(world))?;
        Ok((arms.robot, Self { open: arms.emulated, reporters: arms.reporters }))
    }

    #[cfg(not(feature = "serial"))]
    fn open(_: &RobotSpec, world: &SimRobot, _: &Arc<MonotonicClock>, _: bool) -> Result<(Robot, Self), CliError> {
        Self::none(world)
    }

    fn none(world: &SimRobot) -> Result<(Robot, Self), CliError> {
        Ok((Robot::new(vec![Box::new(world.arm())]).map_err(CliError::failed)?, Self::default()))
    }

    #[cfg(feature = "serial")]
    fn report(&self, view: &View) {
        for (name, report) in &self.reporters {
            view.line(&format!("bus        {}", super::devices::describe(name, &report())));
        }
        for bus in &self.open {
            view.line(&format!("emulator   {:?}", bus.counts()));
        }
    }

    #[cfg(not(feature = "serial"))]
    fn report(&self, _: &View) {}

    /// Whether there is a bus between control and world.
    fn stand_between(&self) -> bool {
        #[cfg(feature = "serial")]
        return !self.open.is_empty();
        #[cfg(not(feature = "serial"))]
        false
    }
}

/// Runs the episodes and reports.
pub fn run(
    arguments: &RunArguments,
    robot: &RobotSpec,
    bundle: &Bundle,
    loaded: Loaded,
) -> Result<RunReport, CliError> {
    look_at_handover(arguments, bundle)?;
    let episodes = arguments.episodes.unwrap_or(COLOURS.len() as u64);
    let on_real_clock = arguments.realtime || arguments.episodes.is_none();
    let view = View::new(episodes);
    announce(&view, bundle, &loaded.engine, loaded.golden.action_rad, on_real_clock, episodes);
    let engine = loaded.engine.clone();
    let mut bench = Bench::new(arguments, robot, bundle, loaded, view)?;
    let clock = Arc::clone(&bench.clock);
    let publish_clock = on_real_clock.then(|| Arc::clone(&clock));
    publish(arguments, &bench.spec, publish_clock, &mut bench.control, &bench.view)?;
    bench.record(bundle, on_real_clock.then_some(&*clock))?;
    bench.supervision = Supervision::open(arguments, &bench.spec, on_real_clock, &bench.view)?;
    let mut per_episode = Vec::new();
    for index in 0..episodes {
        let (episode, _) =
            if on_real_clock { bench.real_episode(&clock, index)? } else { bench.simulated_episode(index)? };
        let number = index + 1;
        bench.view.line(&format!(
            "episode {number:>4}  seed {}  {:<28} {:<10} {:5.1} s",
            episode.seed, episode.instruction, episode.outcome, episode.duration_s
        ));
        per_episode.push(episode);
        if bench.supervision.stop.is_asked() {
            break;
        }
    }
    bench.recorder.finish(&mut bench.control, &mut bench.inference, &bench.view)?;
    bench.buses.report(&bench.view);
    bench.view.finish();
    let beside = arguments.json.as_ref().filter(|_| bench.latency.is_measured() && !on_real_clock);
    if let Some(path) = arguments.write_trace.clone().or_else(|| beside.map(|json| json.with_extension("trace"))) {
        let lines: Vec<String> =
            bench.latency.charged().iter().map(|span| format!("{:.6}\n", span.as_secs_f64() * 1e3)).collect();
        write(&path, lines.concat())?;
    }
    let nobody = Supervision::quiet(&bench.spec.control);
    let supervision = std::mem::replace(&mut bench.supervision, nobody).finish();
    let report = RunReport::new(RunFacts {
        supervision,
        simulated_robot: true,
        simulated_time: !on_real_clock,
        latency_model: if on_real_clock { "real".to_owned() } else { latency_text(arguments).to_owned() },
        seed: arguments.seed.0,
        bundle_digest: bundle.digest(),
        episodes: per_episode,
        joints: &bench.spec.joints,
        period: bench.spec.control.period,
        control: bench.control.counts(),
        lateness: on_real_clock.then_some(&bench.lateness),
        engine: &engine,
        inference: bench.inference.counts(),
        row_period: bundle.spec().chunk.row_period,
        deadline: bench.spec.control.deadline,
        injected: bench.body_faults.counts().into_iter().filter(|(_, count)| *count > 0).collect(),
    });
    #[cfg(feature = "serial")]
    let report = report.with_buses(&bench.buses.reporters, &bench.spec.joints);
    Ok(report)
}

fn announce(view: &View, bundle: &Bundle, engine: &EngineInfo, golden_rad: f64, real: bool, episodes: u64) {
    let spec = bundle.spec();
    view.line(&format!("policy     {} ({}), family {}", spec.name, &bundle.digest()[..12], spec.family.name()));
    let library = if engine.library.is_empty() { String::new() } else { format!(", library {}", engine.library) };
    view.line(&format!(
        "engine     {} {} ({}){library}; golden samples met within {golden_rad:.1e} rad",
        engine.name, engine.version, engine.precision
    ));
    let clock = if real { "on the real clock" } else { "in simulated time" };
    view.line(&format!("run        {episodes} episodes of the simulated robot, {clock}"));
}

/// Publishes every command over Zenoh where asked; commands are in the time of `clock`.
#[cfg(feature = "zenoh")]
fn publish(
    arguments: &RunArguments,
    spec: &RobotSpec,
    clock: Option<Arc<MonotonicClock>>,
    control: &mut ControlLoop,
    view: &View,
) -> Result<(), CliError> {
    use endplate_ros2::{ZenohCommandSink, ZenohOptions};
    let Some(endpoint) = &arguments.zenoh else { return Ok(()) };
    let Some(clock) = clock else {
        return Err(CliError::Input(
            "--zenoh: commands are published on the real clock only: add --realtime".to_owned(),
        ));
    };
    let mut options = ZenohOptions::for_joints(spec.joints.iter().map(|joint| joint.name.as_str()));
    options.connect = vec![endpoint.clone()];
    let topic = options.topic.clone();
    let sink = ZenohCommandSink::open(options, clock)
        .map_err(|error| CliError::Input(format!("--zenoh {endpoint}: {error}")))?;
    view.line(&format!("zenoh      commands on /{topic} through {endpoint}"));
    control.add_sink(Box::new(sink));
    Ok(())
}

#[cfg(not(feature = "zenoh"))]
fn publish(
    _: &RunArguments,
    _: &RobotSpec,
    _: Option<Arc<MonotonicClock>>,
    _: &mut ControlLoop,
    _: &View,
) -> Result<(), CliError> {
    Ok(())
}

fn latency_text(arguments: &RunArguments) -> &str {
    arguments.latency.as_deref().unwrap_or(DEFAULT_LATENCY)
}

fn latency_model(arguments: &RunArguments) -> Result<LatencyModel, CliError> {
    let text = latency_text(arguments);
    if text == "measured" {
        return Ok(LatencyModel::Measured);
    }
    if let Some(file) = text.strip_prefix("trace:") {
        let spans: Option<Vec<Duration>> =
            read_text(&PathBuf::from(file))?.lines().map(|line| parse_span(&format!("{}ms", line.trim()))).collect();
        return match spans {
            Some(spans) if !spans.is_empty() => Ok(LatencyModel::Trace(spans)),
            _ => Err(CliError::Input(format!("--latency: {file}: write one latency a line, in ms"))),
        };
    }
    parse_span(text).map(LatencyModel::Fixed).ok_or_else(|| {
        CliError::Input(format!("--latency {text}: write a span such as 60ms, or measured, or trace:FILE"))
    })
}

fn parse_faults(texts: &[String]) -> Result<Vec<Fault>, CliError> {
    texts
        .iter()
        .map(|text| Fault::parse(text).map_err(|error| CliError::Input(format!("--fault {text}: {error}"))))
        .collect()
}

/// The faults of `--fault-plan`; drawn ones are of kinds that the policy can have.
fn fault_plan(arguments: &RunArguments, robot: &RobotSpec, bundle: &Bundle) -> Result<Vec<Fault>, CliError> {
    let Some(plan) = &arguments.fault_plan else { return Ok(Vec::new()) };
    if let Some(seed) = plan.strip_prefix("random:") {
        let seed = seed.parse().map_err(|_| {
            CliError::Input(format!("--fault-plan {plan}: write a whole number after random:, such as random:7"))
        })?;
        let cameras: Vec<&str> = robot.cameras.iter().map(|camera| camera.name.as_str()).collect();
        let mut faults = Fault::sample(seed, &cameras, Duration::from_secs(8));
        faults.retain(|fault| refuse_foreign_faults(core::slice::from_ref(fault), bundle).is_ok());
        return Ok(faults);
    }
    let text = read_text(&PathBuf::from(plan)).map_err(|error| match Fault::parse(plan) {
        Ok(_) => {
            CliError::Input(format!("--fault-plan {plan}: this is one fault, not a file of them: use --fault {plan}"))
        }
        Err(_) => CliError::Input(format!("--fault-plan {error}: name a file of faults, or write random:SEED")),
    })?;
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let number = number + 1;
            let fault = Fault::parse(line)
                .map_err(|error| CliError::Input(format!("--fault-plan {plan}: line {number}: {error}")))?;
            faults.push(fault);
        }
    }
    Ok(faults)
}

/// Faults of tokens need a policy that speaks in tokens.
fn refuse_foreign_faults(faults: &[Fault], bundle: &Bundle) -> Result<(), CliError> {
    let of_tokens = |fault: &&Fault| matches!(fault.kind, FaultKind::TokensGarbage | FaultKind::TokensTruncated);
    let spec = bundle.spec();
    match faults.iter().find(of_tokens) {
        Some(fault) if !spec.family.has_tokens() => Err(CliError::Input(format!(
            "--fault {}: {} is a policy of the family {}, which has no tokens to break; use output_nan, output_inf or output_huge",
            fault.label(),
            spec.name,
            spec.family.name()
        ))),
        _ => Ok(()),
    }
}

/// The windows this crate injects itself; the simulator has the others.
pub fn runtime_faults(faults: &[Fault]) -> FaultPlan {
    let windows = faults.iter().filter_map(|fault| {
        let kind = match fault.kind {
            FaultKind::InferenceStall => RuntimeFault::InferenceStall,
            FaultKind::LatencyDrift => RuntimeFault::LatencyDrift,
            FaultKind::OutputNan => RuntimeFault::Output(OutputFault::Nan),
            FaultKind::OutputInf => RuntimeFault::Output(OutputFault::Inf),
            FaultKind::OutputHuge => RuntimeFault::Output(OutputFault::Huge),
            FaultKind::TokensGarbage => RuntimeFault::Output(OutputFault::TokensGarbage),
            FaultKind::TokensTruncated => RuntimeFault::Output(OutputFault::TokensTruncated),
            FaultKind::InstructionChange => RuntimeFault::InstructionChange,
            FaultKind::Estop => RuntimeFault::Estop,
            _ => return None,
        };
        Some(FaultWindow {
            fault: kind,
            start: fault.start,
            end: fault.duration.map(|duration| fault.start + duration),
        })
    });
    FaultPlan::new(windows.collect())
}

/// What one episode is about.
struct Plan {
    seed: u64,
    target: usize,
    instruction: String,
    /// For an instruction change: the sentence about the next colour.
    changed: String,
}

impl<'a> Bench<'a> {
    /// Sets everything up; nothing moves yet.
    pub fn new(
        arguments: &'a RunArguments,
        robot: &RobotSpec,
        bundle: &Bundle,
        loaded: Loaded,
        view: View,
    ) -> Result<Self, CliError> {
        let policy = loaded.policy;
        if let Some(instruction) = &arguments.instruction {
            policy
                .check_instruction(instruction)
                .map_err(|error| CliError::Input(format!("--instruction: {error}")))?;
        }
        let mut faults = parse_faults(&arguments.fault)?;
        faults.extend(fault_plan(arguments, robot, bundle)?);
        refuse_foreign_faults(&faults, bundle)?;
        let body_faults = Arc::new(BodyFaults::new(faults.clone()));
        let spec = with_cameras_of(bundle, robot);
        let mut options = SimOptions::from_spec(&spec);
        options.faults = Arc::clone(&body_faults);
        let on_real_clock = arguments.realtime || arguments.episodes.is_none();
        options.draws_on_demand = !on_real_clock;
        let model = Arc::new(Model::so101_like().map_err(CliError::failed)?);
        let world = SimRobot::new(model, &Scene::sample(arguments.seed.0), options, START).map_err(CliError::input)?;
        let boxed: Vec<Box<dyn Camera>> =
            world.cameras_that_put_off().into_iter().map(|camera| Box::new(camera) as _).collect();
        let (cameras, bank, watch) = camera_loops(boxed, arguments.images == Images::Black);
        let clock = Arc::new(MonotonicClock::new());
        let (arms, buses) = Buses::open(&spec, &world, &clock, on_real_clock)?;
        let (mut control, inference) = loops(arguments, &spec, bundle, policy, arms)?;
        let (producer, events) = rtrb::RingBuffer::new(EVENT_ROOM);
        control.set_events(producer);
        control.configure(START).map_err(CliError::failed)?;
        let supervision = Supervision::quiet(&spec.control);
        Ok(Self {
            arguments,
            inference,
            saver: arguments.save_frames.as_deref().map(|folder| FrameSaver::files(folder, &world)).transpose()?,
            latency: Latency::new(latency_model(arguments)?),
            lateness: Samples::with_capacity(1 << 20),
            faults: runtime_faults(&faults),
            recorder: Tape::default(),
            body_faults,
            spec,
            world,
            control,
            cameras,
            bank,
            watch,
            events,
            view,
            supervision,
            buses,
            clock,
            now: START,
            successes: 0,
        })
    }

    /// The world, for a look at it.
    pub fn world(&self) -> &SimRobot {
        &self.world
    }

    /// Who keeps frames from now on.
    pub fn set_saver(&mut self, saver: Option<FrameSaver>) -> Option<FrameSaver> {
        std::mem::replace(&mut self.saver, saver)
    }

    /// What goes wrong in every episode.
    pub fn planned_faults(&self) -> Vec<Fault> {
        self.body_faults.faults().cloned().collect()
    }

    /// Every period's record from now on, with room for so many.
    pub fn watch_records(&mut self, room: usize) -> rtrb::Consumer<endplate_runtime::TickRecord> {
        let (producer, records) = rtrb::RingBuffer::new(room);
        self.control.set_records(Some(producer));
        records
    }

    /// The control counters so far.
    pub fn control_counts(&self) -> &ControlCounts {
        self.control.counts()
    }

    /// The inference counters since the last call.
    pub fn take_inference_counts(&mut self) -> InferenceCounts {
        self.inference.take_counts()
    }

    /// Starts the recording that was asked for.
    #[cfg(feature = "mcap")]
    fn record(&mut self, bundle: &Bundle, clock: Option<&MonotonicClock>) -> Result<(), CliError> {
        use endplate_runtime::recorder::{Recorder, RecorderOptions};
        let Some(path) = &self.arguments.record else { return Ok(()) };
        // The Unix time of instant 0; simulated time stays as it is.
        let epoch = clock.map_or(Duration::ZERO, |clock| {
            let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            unix.saturating_sub(Duration::from_nanos(clock.now().as_nanos()))
        });
        let metadata = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("bundle", bundle.spec().name.clone()),
            ("bundle_digest", bundle.digest().to_owned()),
            ("robot", self.spec.name.clone()),
            ("clock", if clock.is_some() { "real" } else { "simulated" }.to_owned()),
            ("seed", self.arguments.seed.0.to_string()),
        ];
        let (recorder, ends) = Recorder::create(RecorderOptions {
            path: path.clone(),
            joints: self.spec.joints.iter().map(|joint| joint.name.clone()).collect(),
            cameras: bundle.spec().cameras.iter().map(|slot| slot.name.clone()).collect(),
            epoch,
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
        })
        .map_err(CliError::input)?;
        self.control.set_records(Some(ends.ticks));
        self.inference.set_tap(Some(ends.tap));
        self.recorder = Tape { recorder: Some(recorder), failed: None };
        Ok(())
    }

    #[cfg(not(feature = "mcap"))]
    fn record(&mut self, _: &Bundle, _: Option<&MonotonicClock>) -> Result<(), CliError> {
        Ok(())
    }

    fn plan(&self, index: u64) -> Plan {
        let seed = self.arguments.seed.0 + index;
        let by_turn = (task::target_of(index) + self.arguments.shift_colour as usize) % COLOURS.len();
        let (target, instruction) = match &self.arguments.instruction {
            None => (by_turn, task::instruction(seed, by_turn)),
            Some(instruction) => {
                let named = COLOURS.iter().position(|colour| instruction.to_lowercase().contains(colour));
                (named.unwrap_or(by_turn), instruction.clone())
            }
        };
        Plan { seed, target, instruction, changed: task::instruction(seed, (target + 1) % COLOURS.len()) }
    }

    /// Builds the scene at `now`; activation follows after the warm-up. The epoch, and with it a policy's noise,
    /// follows from the seed, so an episode is the same whichever came before it.
    fn prepare(&mut self, plan: &Plan, index: u64, now: Instant) {
        self.world.set_look(if self.arguments.randomise {
            Look::sample(plan.seed, self.cameras.len())
        } else {
            Look::default()
        });
        self.world.reset(&Scene::sample(plan.seed), now);
        if self.arguments.task == Task::Moving {
            self.world.set_motion(CubeMotion::sample(plan.seed, plan.target));
        }
        for camera in &mut self.cameras {
            camera.restart();
        }
        self.inference.instruct(&plan.instruction, Epoch(1 + plan.seed % SEEDS * EPOCHS));
        self.view.begin(index, &plan.instruction);
    }

    /// One period before activation: cameras start, joints are read.
    fn warm_up(&mut self, now: Instant) {
        self.world.advance_to(now);
        for camera in &mut self.cameras {
            camera.step(now);
        }
        let nothing = Inbox {
            chunk: None,
            cameras: &[],
            refused_in_a_row: 0,
            epoch: self.inference.epoch(),
            estop: false,
            missed: 0,
        };
        self.control.tick(now, &nothing);
    }

    /// A driver on a bus takes its time to believe that the arm stands elsewhere in a new scene.
    fn bus_lags(&self, since: Duration) -> bool {
        let is_behind = || {
            let truth = self.world.joints_rad();
            self.control.measured().is_none_or(|measured| {
                measured.iter().zip(truth).any(|(measured, truth)| (measured - truth).abs() > 0.02)
            })
        };
        self.buses.stand_between() && since < Duration::from_secs(4) && is_behind()
    }

    fn time_limit(&self) -> Duration {
        match self.arguments.task {
            Task::Static => TIME_LIMIT,
            Task::Moving => MOVING_TIME_LIMIT,
        }
    }

    fn activate(&mut self, now: Instant) -> Result<(), CliError> {
        self.control.activate(now, self.inference.epoch()).map_err(CliError::failed)
    }

    /// Episode number `index` in simulated time, and the colour of the cube that was lifted.
    pub fn simulated_episode(&mut self, index: u64) -> Result<(Episode, Option<usize>), CliError> {
        let period = self.spec.control.period;
        let plan = self.plan(index);
        let start = self.now;
        self.prepare(&plan, index, start);
        let mut now = start;
        while now < start.saturating_add(WARM_UP) {
            now = now.saturating_add(period);
            self.warm_up(now);
        }
        self.activate(now)?;
        let mut watcher = Watcher::new(&plan, self.time_limit(), &self.world, now, self.successes);
        let world = self.world.clone();
        let (view, events, saver) = (&self.view, &mut self.events, &mut self.saver);
        let tape = &mut self.recorder;
        let supervision = &self.supervision;
        let begin = now;
        now = simulated::run(
            &mut Simulated {
                control: &mut self.control,
                inference: &mut self.inference,
                cameras: &mut self.cameras,
                bank: &mut self.bank,
                watch: &self.watch,
                plant: &mut |now| world.advance_to(now),
                latency: &mut self.latency,
                faults: &self.faults,
                instructions: std::slice::from_ref(&plan.changed),
            },
            start,
            begin,
            TIME_LIMIT + WARM_UP + Duration::from_secs(1),
            period,
            |now, tick| {
                tape.pump(view);
                supervision.enter_simulated(now, tick);
                let flow = watcher.look(now, start, tick, &world, view, events, saver.as_mut(), index);
                if supervision.stop.is_asked() { Flow::Stop } else { flow }
            },
        );
        self.now = now.saturating_add(period);
        self.end(&plan, &watcher, begin, now)
    }

    fn real_episode(&mut self, clock: &MonotonicClock, index: u64) -> Result<(Episode, Option<usize>), CliError> {
        let period = self.spec.control.period;
        let stop = self.supervision.stop.clone();
        let mut looks_at_rest = 0;
        let plan = self.plan(index);
        let start = clock.now();
        self.prepare(&plan, index, start);
        // Until every camera has given a frame of this episode, and an emulated bus an answer.
        let mut health = vec![CameraHealth::default(); self.watch.len()];
        while (clock.now() < start.saturating_add(WARM_UP)
            && !health.iter().all(|camera| camera.sequence > 0 && camera.captured >= start))
            || self.bus_lags(clock.now().duration_since(start))
        {
            let now = clock.now();
            self.warm_up(now);
            self.watch.read(&mut health);
            self.supervision.heartbeat.beat();
            clock.sleep_until(now.saturating_add(period));
        }
        let begin = clock.now();
        self.world.advance_to(begin);
        self.activate(begin)?;
        startup::mark("activated");
        let mut watcher = Watcher::new(&plan, self.time_limit(), &self.world, begin, self.successes);
        let world = self.world.clone();
        let (view, events, saver) = (&self.view, &mut self.events, &mut self.saver);
        let tape = &mut self.recorder;
        let mut plant = |now| world.advance_to(now);
        let (stamps, heartbeat, mut onlooker) = self.supervision.split();
        let orders = Orders::default();
        let rights = realtime::run(
            realtime::Realtime {
                clock,
                control: &mut self.control,
                inference: &mut self.inference,
                cameras: &mut self.cameras,
                bank: &mut self.bank,
                watch: &self.watch,
                plant: Some(&mut plant),
                faults: &self.faults,
                instructions: std::slice::from_ref(&plan.changed),
                estop: stop.flag(),
                orders: &orders,
                lateness: &mut self.lateness,
                heartbeat: &heartbeat,
                stamps,
            },
            start,
            TIME_LIMIT + WARM_UP + Duration::from_secs(1),
            &self.spec.control,
            |now, sight| {
                let tick = sight.tick.as_ref();
                onlooker.look(clock, index, tick);
                if let Some(line) = onlooker.look_at_speed(now, &orders) {
                    view.line(&line);
                }
                let Some(tick) = tick.inspect(|_| tape.pump(view)) else { return Flow::Continue };
                let flow = watcher.look(now, start, tick, &self.world, view, events, saver.as_mut(), index);
                match stop.is_asked() {
                    false => flow,
                    true if has_stopped(tick, &mut looks_at_rest) => Flow::Stop,
                    // The controlled stop goes on, whatever has become of the cubes.
                    true => Flow::Continue,
                }
            },
        );
        if self.supervision.rights.as_ref().is_some_and(|probed| *probed != rights) {
            self.view.line(&format!("control    {}", rights.describe()));
        }
        self.supervision.rights = Some(rights);
        self.end(&plan, &watcher, begin, clock.now())
    }

    fn end(
        &mut self,
        plan: &Plan,
        watcher: &Watcher,
        begin: Instant,
        now: Instant,
    ) -> Result<(Episode, Option<usize>), CliError> {
        self.control.deactivate().map_err(CliError::failed)?;
        let interrupted = watcher.outcome.is_none() && self.supervision.stop.is_asked();
        let outcome = watcher.outcome.unwrap_or(Outcome::Failure);
        self.successes += usize::from(outcome == Outcome::Success);
        let episode = Episode {
            seed: plan.seed,
            instruction: plan.instruction.clone(),
            target: COLOURS[watcher.judge.target()].to_owned(),
            outcome: if interrupted { INTERRUPTED } else { outcome.name() }.to_owned(),
            duration_s: now.duration_since(begin).as_secs_f64(),
        };
        Ok((episode, watcher.judge.lifted()))
    }
}

/// A recording under way, if one was asked for. The robot goes on when it cannot be written; the run then fails at its end.
#[derive(Default)]
struct Tape {
    #[cfg(feature = "mcap")]
    recorder: Option<endplate_runtime::recorder::Recorder>,
    #[cfg(feature = "mcap")]
    failed: Option<String>,
}

#[cfg(feature = "mcap")]
impl Tape {
    fn pump(&mut self, view: &View) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.pump()
        {
            view.line(&format!("recording stopped: {error}"));
            self.failed = Some(error.to_string());
            self.recorder = None;
        }
    }

    fn finish(
        &mut self,
        control: &mut ControlLoop,
        inference: &mut InferenceLoop,
        view: &View,
    ) -> Result<(), CliError> {
        control.set_records(None);
        inference.set_tap(None);
        if let Some(recorder) = self.recorder.take() {
            let counts = recorder.finish(control.counts().records_dropped).map_err(CliError::failed)?;
            let of = |key: &str| counts.get(key).cloned().unwrap_or_default();
            let (ticks, answers) = (of("control_periods_dropped"), of("inferences_dropped"));
            view.line(&format!("recording  {ticks} control periods and {answers} inferences dropped"));
        }
        self.failed.take().map_or(Ok(()), |message| Err(CliError::Failed(message)))
    }
}

#[cfg(not(feature = "mcap"))]
impl Tape {
    fn pump(&mut self, _: &View) {}

    fn finish(&mut self, _: &mut ControlLoop, _: &mut InferenceLoop, _: &View) -> Result<(), CliError> {
        Ok(())
    }
}

/// Judges one episode and shows what happens.
struct Watcher {
    judge: Judge,
    begin: Instant,
    outcome: Option<Outcome>,
    /// Of the episodes before.
    successes: usize,
}

impl Watcher {
    fn new(plan: &Plan, limit: Duration, world: &SimRobot, begin: Instant, successes: usize) -> Self {
        Self { judge: Judge::with_limit(plan.target, &world.cubes(), limit), begin, outcome: None, successes }
    }

    #[allow(clippy::too_many_arguments)]
    fn look(
        &mut self,
        now: Instant,
        start: Instant,
        tick: &Tick,
        world: &SimRobot,
        view: &View,
        events: &mut rtrb::Consumer<Event>,
        saver: Option<&mut FrameSaver>,
        episode: u64,
    ) -> Flow {
        let seconds = now.duration_since(start).as_secs_f64();
        while let Ok(event) = events.pop() {
            view.event(event.now.duration_since(start).as_secs_f64(), &event);
        }
        view.show(seconds, &tick.ladder, Some(tick), self.successes);
        if let Some(saver) = saver {
            for failure in saver.save(episode, now) {
                view.line(&failure);
            }
        }
        self.outcome = self.judge.watch(now.duration_since(self.begin), &world.cubes());
        if self.outcome.is_some() { Flow::Stop } else { Flow::Continue }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bundle::EngineName;
    use super::*;

    #[test]
    fn every_fault_belongs_to_the_simulator_or_to_the_runtime() {
        for kind in FaultKind::ALL {
            let fault = Fault { kind, camera: None, start: Duration::ZERO, duration: None };
            let here = !runtime_faults(&[fault]).is_empty();
            assert_ne!(here, kind.is_of_simulator(), "{}", kind.name());
        }
    }

    #[test]
    fn the_default_arguments_are_the_demonstration() {
        let arguments = RunArguments::default();
        assert_eq!(arguments.policy.engine, EngineName::Tract);
        assert_eq!(arguments.seed.0, 1_000_000);
        assert!(arguments.episodes.is_none());
        assert_eq!(latency_model(&arguments).unwrap(), LatencyModel::Fixed(Duration::from_millis(60)));
    }
}
