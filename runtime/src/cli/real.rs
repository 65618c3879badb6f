//! A policy on hardware: arms on servo buses, cameras of this machine, until it is interrupted.

use super::bundle::bound;
use super::devices::{describe, open_arms};
use super::error::CliError;
use super::report::{RunFacts, RunReport};
use super::run::{Images, RunArguments, publish_report, refuse_foreign};
use super::supervision::{Supervision, has_stopped};
use super::view::{View, event_text};
use core::time::Duration;
use endplate_hal::{Camera, Clock, MonotonicClock, RobotSpec, camera};
use endplate_policies::{Bundle, Epoch, Loaded};
use endplate_runtime::drive::{Flow, camera_loops, realtime};
use endplate_runtime::{CameraHealth, ControlLoop, FaultPlan, Inbox, InferenceLoop, PlayRules, Samples};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How long cameras and joints may take to come alive.
const WAKE: Duration = Duration::from_secs(8);

/// Runs the policy and reports.
pub fn run(arguments: &RunArguments, robot: &RobotSpec, bundle: &Bundle, loaded: Loaded) -> Result<(), CliError> {
    let Some(instruction) = &arguments.instruction else {
        return Err(CliError::Input("--instruction: say what the arm is to do".to_owned()));
    };
    if arguments.episodes.is_some() {
        return Err(CliError::Input("--episodes: episodes are for simulated robots".to_owned()));
    }
    refuse_foreign(arguments, bundle, "a robot on hardware", true)?;
    let (engine, policy) = (loaded.engine.clone(), bound(loaded.policy, robot)?);
    policy.check_instruction(instruction).map_err(|error| CliError::Input(format!("--instruction: {error}")))?;
    let monotonic = Arc::new(MonotonicClock::new());
    let clock: Arc<dyn Clock> = Arc::clone(&monotonic) as _;
    let mut spec = robot.clone();
    spec.cameras = bundle
        .spec()
        .cameras
        .iter()
        .filter_map(|slot| robot.cameras.iter().find(|camera| camera.name == slot.name).cloned())
        .collect();
    let devices = spec
        .cameras
        .iter()
        .map(|camera| camera::open(camera, Arc::clone(&clock)))
        .collect::<Result<Vec<Box<dyn Camera>>, _>>()
        .map_err(|error| CliError::Input(format!("{}: {error}", spec.source)))?;
    let (mut cameras, mut bank, watch) = camera_loops(devices, arguments.images == Images::Black);
    let arms = open_arms(
        &spec,
        &clock,
        #[cfg(feature = "sim")]
        None,
    )?;
    let reporters = arms.reporters;
    let rules = PlayRules {
        interpolation: policy.spec().actions.dims().iter().map(|dim| dim.interpolation).collect(),
        execute_rows: bundle.spec().chunk.execute_rows,
        max_age: spec.control.max_chunk_age,
    };
    let mut control = ControlLoop::new(spec.clone(), arms.robot, rules).map_err(CliError::failed)?;
    let (producer, mut events) = rtrb::RingBuffer::new(1024);
    control.set_events(producer);
    let mut inference = InferenceLoop::new(policy, instruction, spec.control.deadline, spec.control.state_max_age);
    let epoch = Epoch(1);
    inference.instruct(instruction, epoch);
    control.configure(clock.now()).map_err(CliError::failed)?;

    // Everything must be alive before torque.
    let start = clock.now();
    let mut health = vec![CameraHealth::default(); watch.len()];
    loop {
        let now = clock.now();
        for camera in &mut cameras {
            camera.step(now);
        }
        let nothing = Inbox { chunk: None, cameras: &[], refused_in_a_row: 0, epoch, estop: false, missed: 0 };
        control.tick(now, &nothing);
        watch.read(&mut health);
        let silent = health.iter().position(|health| health.sequence == 0);
        if silent.is_none() && control.measured().is_some() {
            break;
        }
        if now.duration_since(start) > WAKE {
            let what = match silent {
                Some(index) => format!(
                    "camera {} gives no frames: is it plugged in, and does nobody else use it? On one USB 2 hub two \
uncompressed streams do not fit: choose format = \"mjpeg\"",
                    spec.cameras[index].name
                ),
                None => "the joints cannot be read".to_owned(),
            };
            return Err(CliError::Failed(what));
        }
        clock.sleep_until(now.saturating_add(Duration::from_millis(2)));
    }
    let mut supervision = Supervision::open(arguments, &spec, true, &View::plain())?;
    let stop = supervision.stop.clone();
    println!("running    {instruction:?} on {}; interrupt to stop under control", spec.name);
    control.activate(clock.now(), epoch).map_err(CliError::failed)?;
    let begin = clock.now();
    let period = spec.control.period;
    let limit = arguments.seconds.map_or(Duration::from_secs(86_400), Duration::from_secs_f64);
    let mut lateness = Samples::with_capacity(1 << 20);
    let plan = FaultPlan::new(Vec::new());
    let mut looks_at_rest = 0;
    let (stamps, heartbeat, mut onlooker) = supervision.split();
    let rights = realtime::run(
        realtime::Realtime {
            clock: &*clock,
            control: &mut control,
            inference: &mut inference,
            cameras: &mut cameras,
            bank: &mut bank,
            watch: &watch,
            plant: None,
            faults: &plan,
            instructions: &[],
            estop: stop.flag(),
            lateness: &mut lateness,
            heartbeat: &heartbeat,
            stamps,
        },
        begin,
        limit.saturating_add(spec.control.stop_time),
        &spec.control,
        |now, tick| {
            onlooker.look(&*clock, 0, tick);
            while let Ok(event) = events.pop() {
                eprintln!("{}", event_text(event.now.duration_since(begin).as_secs_f64(), &event));
            }
            if now.duration_since(begin) >= limit {
                stop.flag().store(true, Ordering::Release);
            }
            match tick {
                Some(tick) if stop.is_asked() && has_stopped(tick, &mut looks_at_rest) => Flow::Stop,
                _ => Flow::Continue,
            }
        },
    );
    supervision.rights = Some(rights);
    control.deactivate().map_err(CliError::failed)?;
    for (name, report) in &reporters {
        println!("bus        {}", describe(name, &report()));
    }
    for camera in &cameras {
        println!("camera     {}: {:?}", camera.name(), camera.counts());
    }
    let report = RunReport::new(RunFacts {
        simulated_robot: false,
        simulated_time: false,
        latency_model: "real".to_owned(),
        seed: 0,
        bundle_digest: bundle.digest(),
        episodes: Vec::new(),
        joints: &spec.joints,
        period,
        control: control.counts(),
        lateness: Some(&lateness),
        engine: &engine,
        inference: inference.counts(),
        row_period: bundle.spec().chunk.row_period,
        deadline: spec.control.deadline,
        injected: std::collections::BTreeMap::new(),
        supervision: supervision.finish(),
    });
    publish_report(arguments, &report)
}
