//! Episodes on the simulated robot, in simulated time or on the real clock.

mod buses;
mod faults;
mod tape;
mod watcher;

use crate::cli::error::{CliError, read_text, write};
use crate::cli::frames::FrameSaver;
use crate::cli::loops::{look_at_handover, loops, with_cameras_of};
use crate::cli::report::{Episode, INTERRUPTED, RunFacts, RunReport};
use crate::cli::run::{DEFAULT_LATENCY, Images, RunArguments, Task, parse_span};
use crate::cli::startup;
use crate::cli::supervision::{Supervision, has_stopped};
use crate::cli::view::View;
use buses::Buses;
use core::time::Duration;
use endplate_hal::{Camera, Clock, Instant, MonotonicClock, RobotSpec};
use endplate_policies::{Bundle, EngineInfo, Epoch, Loaded};
use endplate_runtime::drive::orders::Orders;
use endplate_runtime::drive::simulated::{Latency, LatencyModel, Simulated};
use endplate_runtime::drive::{CameraBank, CameraLoop, CameraWatch, Flow, camera_loops, realtime, simulated};
use endplate_runtime::{
    CameraHealth, ControlCounts, ControlLoop, Event, FaultPlan, Inbox, InferenceCounts, InferenceLoop, Samples,
};
use endplate_sim::fault::{Fault, FaultPlan as BodyFaults};
use endplate_sim::look::Look;
use endplate_sim::model::Model;
use endplate_sim::moving::CubeMotion;
use endplate_sim::robot::{SimOptions, SimRobot};
use endplate_sim::scene::Scene;
use endplate_sim::task::{self, COLOURS, MOVING_TIME_LIMIT, Outcome, TIME_LIMIT};
pub use faults::runtime_faults;
use faults::{fault_plan, parse_faults, refuse_foreign_faults};
use std::path::PathBuf;
use std::sync::Arc;
use tape::Tape;
use watcher::Watcher;

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
        let mut watcher = Watcher::new(plan.target, self.time_limit(), &self.world, now, self.successes);
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
        let mut watcher = Watcher::new(plan.target, self.time_limit(), &self.world, begin, self.successes);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bundle::EngineName;

    #[test]
    fn the_default_arguments_are_the_demonstration() {
        let arguments = RunArguments::default();
        assert_eq!(arguments.policy.engine, EngineName::Tract);
        assert_eq!(arguments.seed.0, 1_000_000);
        assert!(arguments.episodes.is_none());
        assert_eq!(latency_model(&arguments).unwrap(), LatencyModel::Fixed(Duration::from_millis(60)));
    }
}
