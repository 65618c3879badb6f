//! Episodes on the simulated robot, in simulated time or on the real clock.

use super::error::{CliError, read_text, write};
use super::report::{Episode, RunFacts, RunReport};
use super::run::{DEFAULT_LATENCY, Images, RunArguments, parse_span};
use super::view::View;
use core::time::Duration;
use endplate_hal::{Camera, Clock, Frame, Instant, MonotonicClock, Robot, RobotSpec};
use endplate_policies::{Bundle, EngineInfo, Epoch, Loaded, OutputFault};
use endplate_runtime::drive::simulated::{Latency, LatencyModel, Simulated};
use endplate_runtime::drive::{CameraBank, CameraLoop, CameraWatch, Flow, camera_loops, realtime, simulated};
use endplate_runtime::{
    ControlLoop, Event, FaultPlan, FaultWindow, Inbox, InferenceLoop, PlayRules, RuntimeFault, Samples, Tick,
};
use endplate_sim::fault::{Fault, FaultKind, FaultPlan as BodyFaults};
use endplate_sim::look::Look;
use endplate_sim::model::Model;
use endplate_sim::robot::{SimCamera, SimOptions, SimRobot};
use endplate_sim::scene::Scene;
use endplate_sim::task::{self, COLOURS, Judge, Outcome, TIME_LIMIT};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// From the start of an episode to activation: every camera has given a frame by then.
const WARM_UP: Duration = Duration::from_millis(150);
/// Between saved frames.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// Events between two looks of the logging thread.
const EVENT_ROOM: usize = 1024;

/// One policy on one simulated robot, for as many episodes as asked.
struct Bench<'a> {
    arguments: &'a RunArguments,
    period: Duration,
    world: SimRobot,
    control: ControlLoop,
    inference: InferenceLoop,
    cameras: Vec<CameraLoop>,
    bank: CameraBank,
    watch: CameraWatch,
    events: rtrb::Consumer<Event>,
    faults: FaultPlan,
    latency: Latency,
    lateness: Samples,
    saver: Option<FrameSaver>,
    view: View,
}

/// Runs the episodes and reports.
pub fn run(
    arguments: &RunArguments,
    robot: &RobotSpec,
    bundle: &Bundle,
    loaded: Loaded,
) -> Result<RunReport, CliError> {
    let episodes = arguments.episodes.unwrap_or(COLOURS.len() as u64);
    let on_real_clock = arguments.realtime || arguments.episodes.is_none();
    let Loaded { policy, engine, golden } = loaded;
    if let Some(instruction) = &arguments.instruction {
        policy.check_instruction(instruction).map_err(|error| CliError::Input(format!("--instruction: {error}")))?;
    }
    let faults = parse_faults(&arguments.fault)?;
    let body_faults = Arc::new(BodyFaults::new(faults.clone()));
    let view = View::new(episodes);
    announce(&view, bundle, &engine, golden.action_rad, on_real_clock, episodes);

    let mut spec = robot.clone();
    spec.cameras = bundle
        .spec()
        .cameras
        .iter()
        .filter_map(|slot| robot.cameras.iter().find(|camera| camera.name == slot.name).cloned())
        .collect();
    let mut options = SimOptions::from_spec(&spec);
    options.faults = Arc::clone(&body_faults);
    let model = Arc::new(Model::so101_like().map_err(CliError::failed)?);
    let start = Instant::from_nanos(1_000_000_000);
    let world = SimRobot::new(model, &Scene::sample(arguments.seed.0), options, start).map_err(CliError::input)?;
    let boxed: Vec<Box<dyn Camera>> = world.cameras().into_iter().map(|camera| Box::new(camera) as _).collect();
    let (cameras, bank, watch) = camera_loops(boxed, arguments.images == Images::Black);
    let rules = PlayRules {
        interpolation: bundle.spec().actions.dims().iter().map(|dim| dim.interpolation).collect(),
        execute_rows: bundle.spec().chunk.execute_rows,
        max_age: spec.control.max_chunk_age,
    };
    let arms = Robot::new(vec![Box::new(world.arm())]).map_err(CliError::failed)?;
    let mut control = ControlLoop::new(spec.clone(), arms, rules).map_err(CliError::failed)?;
    let (producer, events) = rtrb::RingBuffer::new(EVENT_ROOM);
    control.set_events(producer);
    control.configure(start).map_err(CliError::failed)?;
    let clock = Arc::new(MonotonicClock::new());
    publish(arguments, &spec, on_real_clock.then(|| Arc::clone(&clock)), &mut control, &view)?;
    let mut bench = Bench {
        arguments,
        period: spec.control.period,
        inference: InferenceLoop::new(policy, "", spec.control.deadline, spec.control.state_max_age),
        saver: arguments.save_frames.as_deref().map(|folder| FrameSaver::new(folder, &world)).transpose()?,
        latency: Latency::new(latency_model(arguments)?),
        lateness: Samples::with_capacity(1 << 20),
        faults: runtime_faults(&faults),
        world,
        control,
        cameras,
        bank,
        watch,
        events,
        view,
    };
    let per_episode =
        if on_real_clock { bench.on_real_clock(&clock, episodes)? } else { bench.in_simulated_time(episodes)? };
    bench.view.finish();
    let beside = arguments.json.as_ref().filter(|_| bench.latency.is_measured() && !on_real_clock);
    if let Some(path) = arguments.write_trace.clone().or_else(|| beside.map(|json| json.with_extension("trace"))) {
        let lines: Vec<String> =
            bench.latency.charged().iter().map(|span| format!("{:.6}\n", span.as_secs_f64() * 1e3)).collect();
        write(&path, lines.concat())?;
    }
    Ok(RunReport::new(RunFacts {
        simulated_robot: true,
        simulated_time: !on_real_clock,
        latency_model: if on_real_clock { "real".to_owned() } else { latency_text(arguments).to_owned() },
        seed: arguments.seed.0,
        bundle_digest: bundle.digest(),
        episodes: per_episode,
        joints: &spec.joints,
        period: bench.period,
        control: bench.control.counts(),
        lateness: on_real_clock.then_some(&bench.lateness),
        engine: &engine,
        inference: bench.inference.counts(),
        row_period: bundle.spec().chunk.row_period,
        deadline: spec.control.deadline,
        injected: body_faults.counts().into_iter().filter(|(_, count)| *count > 0).collect(),
    }))
}

fn announce(view: &View, bundle: &Bundle, engine: &EngineInfo, golden_rad: f64, real: bool, episodes: u64) {
    let spec = bundle.spec();
    view.line(&format!("policy     {} ({}), family {}", spec.name, &bundle.digest()[..12], spec.family));
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

/// The windows this crate injects itself; the simulator has the others.
fn runtime_faults(faults: &[Fault]) -> FaultPlan {
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

impl Bench<'_> {
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

    /// Builds the scene at `now`; activation follows after the warm-up.
    fn prepare(&mut self, plan: &Plan, index: u64, now: Instant) {
        self.world.set_look(if self.arguments.randomise {
            Look::sample(plan.seed, self.cameras.len())
        } else {
            Look::default()
        });
        self.world.reset(&Scene::sample(plan.seed), now);
        for camera in &mut self.cameras {
            camera.restart();
        }
        let epoch = Epoch(self.inference.epoch().0 + 1);
        self.inference.instruct(&plan.instruction, epoch);
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

    fn activate(&mut self, now: Instant) -> Result<(), CliError> {
        self.control.activate(now, self.inference.epoch()).map_err(CliError::failed)
    }

    fn in_simulated_time(&mut self, episodes: u64) -> Result<Vec<Episode>, CliError> {
        let mut now = Instant::from_nanos(1_000_000_000);
        let mut done: Vec<Episode> = Vec::new();
        for index in 0..episodes {
            let plan = self.plan(index);
            let start = now;
            self.prepare(&plan, index, start);
            while now < start.saturating_add(WARM_UP) {
                now = now.saturating_add(self.period);
                self.warm_up(now);
            }
            self.activate(now)?;
            let mut watcher = Watcher::new(&plan, &self.world, now);
            let world = self.world.clone();
            let successes = done.iter().filter(|episode| episode.outcome == Outcome::Success.name()).count();
            let (view, events, saver) = (&self.view, &mut self.events, &mut self.saver);
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
                self.period,
                |now, tick| watcher.look(now, start, tick, successes, &world, view, events, saver.as_mut(), index),
            );
            self.end(&mut done, &plan, &watcher, begin, now)?;
            now = now.saturating_add(self.period);
        }
        Ok(done)
    }

    fn on_real_clock(&mut self, clock: &MonotonicClock, episodes: u64) -> Result<Vec<Episode>, CliError> {
        let stop = AtomicBool::new(false);
        let mut done: Vec<Episode> = Vec::new();
        for index in 0..episodes {
            let plan = self.plan(index);
            let start = clock.now();
            self.prepare(&plan, index, start);
            while clock.now() < start.saturating_add(WARM_UP) {
                let now = clock.now();
                self.warm_up(now);
                clock.sleep_until(now.saturating_add(self.period));
            }
            let begin = clock.now();
            self.world.advance_to(begin);
            self.activate(begin)?;
            let mut watcher = Watcher::new(&plan, &self.world, begin);
            let world = self.world.clone();
            let successes = done.iter().filter(|episode| episode.outcome == Outcome::Success.name()).count();
            let (view, events, saver) = (&self.view, &mut self.events, &mut self.saver);
            let mut plant = |now| world.advance_to(now);
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
                    estop: &stop,
                    lateness: &mut self.lateness,
                },
                start,
                TIME_LIMIT + WARM_UP + Duration::from_secs(1),
                self.period,
                |now, tick| match tick {
                    Some(tick) => {
                        watcher.look(now, start, tick, successes, &self.world, view, events, saver.as_mut(), index)
                    }
                    None => Flow::Continue,
                },
            );
            if index == 0 {
                self.view.line(&format!("control    {}", rights.describe()));
            }
            self.end(&mut done, &plan, &watcher, begin, clock.now())?;
        }
        Ok(done)
    }

    fn end(
        &mut self,
        done: &mut Vec<Episode>,
        plan: &Plan,
        watcher: &Watcher,
        begin: Instant,
        now: Instant,
    ) -> Result<(), CliError> {
        self.control.deactivate().map_err(CliError::failed)?;
        let outcome = watcher.outcome.unwrap_or(Outcome::Failure);
        let duration_s = now.duration_since(begin).as_secs_f64();
        let episode = Episode {
            seed: plan.seed,
            instruction: plan.instruction.clone(),
            target: COLOURS[watcher.target].to_owned(),
            outcome: outcome.name().to_owned(),
            duration_s,
        };
        let number = done.len() + 1;
        self.view.line(&format!(
            "episode {number:>4}  seed {}  {:<28} {:<10} {duration_s:5.1} s",
            plan.seed, plan.instruction, episode.outcome
        ));
        done.push(episode);
        Ok(())
    }
}

/// Judges one episode and shows what happens.
struct Watcher {
    judge: Judge,
    target: usize,
    begin: Instant,
    outcome: Option<Outcome>,
}

impl Watcher {
    fn new(plan: &Plan, world: &SimRobot, begin: Instant) -> Self {
        Self { judge: Judge::new(plan.target, &world.cubes()), target: plan.target, begin, outcome: None }
    }

    #[allow(clippy::too_many_arguments)]
    fn look(
        &mut self,
        now: Instant,
        start: Instant,
        tick: &Tick,
        successes: usize,
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
        view.show(seconds, &tick.ladder, Some(tick), successes);
        if let Some(saver) = saver {
            saver.save(episode, now, view);
        }
        self.outcome = self.judge.watch(now.duration_since(self.begin), &world.cubes());
        if self.outcome.is_some() { Flow::Stop } else { Flow::Continue }
    }
}

/// Saves what the cameras see, through camera handles of its own.
struct FrameSaver {
    folder: PathBuf,
    cameras: Vec<(SimCamera, Frame)>,
    next: Instant,
    saved: u64,
}

impl FrameSaver {
    fn new(folder: &Path, world: &SimRobot) -> Result<Self, CliError> {
        std::fs::create_dir_all(folder).map_err(|error| CliError::Input(format!("{}: {error}", folder.display())))?;
        let frame = |camera: SimCamera| {
            let (width, height) = camera.size();
            (camera, Frame::new(width, height))
        };
        let cameras = world.cameras().into_iter().map(frame).collect();
        Ok(Self { folder: folder.to_owned(), cameras, next: Instant::ZERO, saved: 0 })
    }

    fn save(&mut self, episode: u64, now: Instant, view: &View) {
        if now < self.next {
            return;
        }
        self.next = now.saturating_add(SAVE_EVERY);
        self.saved += 1;
        for (camera, frame) in &mut self.cameras {
            if !matches!(camera.capture(now, frame), Ok(true)) {
                continue;
            }
            let name = format!("episode{episode:03}_{:05}_{}.png", self.saved, camera.name());
            if let Err(error) = write_png(&self.folder.join(&name), frame) {
                view.line(&format!("{name} was not saved: {error}"));
            }
        }
    }
}

fn write_png(path: &Path, frame: &Frame) -> Result<(), png::EncodingError> {
    let file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut encoder = png::Encoder::new(file, frame.width, frame.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&frame.data)
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
