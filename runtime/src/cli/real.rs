//! A policy on hardware: arms on servo buses, cameras of this machine, until it is interrupted.

use super::devices::{describe, open_arms};
use super::error::CliError;
use super::loops::{look_at_handover, loops, with_cameras_of};
use super::operator::{Desk, Wish};
use super::report::{Episode, RunFacts, RunReport};
use super::run::{Images, RunArguments, publish_report, refuse_foreign};
use super::supervision::{Supervision, has_stopped};
use super::view::{View, event_text};
use core::time::Duration;
use endplate_hal::{Camera, Clock, MonotonicClock, RobotSpec, camera};
use endplate_policies::{Bundle, Epoch, Loaded};
use endplate_runtime::drive::orders::Orders;
use endplate_runtime::drive::{Flow, camera_loops, realtime};
use endplate_runtime::{CameraHealth, FaultPlan, Inbox, Samples};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How long cameras and joints may take to come alive.
const WAKE: Duration = Duration::from_secs(8);
/// How long parking may take at the end: longer than the desk waits for each of its steps.
const PARKING: Duration = Duration::from_secs(240);

/// Runs the policy and reports.
pub fn run(arguments: &RunArguments, robot: &RobotSpec, bundle: &Bundle, loaded: Loaded) -> Result<(), CliError> {
    let Some(instruction) = &arguments.instruction else {
        return Err(CliError::Input("--instruction: say what the arm is to do".to_owned()));
    };
    if arguments.episodes.is_some() {
        return Err(CliError::Input("--episodes: episodes are for simulated robots".to_owned()));
    }
    refuse_foreign(arguments, "a robot on hardware", true)?;
    look_at_handover(arguments, bundle)?;
    let (engine, policy) = (loaded.engine.clone(), loaded.policy);
    policy.check_instruction(instruction).map_err(|error| CliError::Input(format!("--instruction: {error}")))?;
    let monotonic = Arc::new(MonotonicClock::new());
    let clock: Arc<dyn Clock> = Arc::clone(&monotonic) as _;
    let spec = with_cameras_of(bundle, robot);
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
    let (mut control, mut inference) = loops(arguments, &spec, bundle, policy, arms.robot)?;
    let (producer, mut events) = rtrb::RingBuffer::new(1024);
    control.set_events(producer);
    let (order_producer, operator_orders) = rtrb::RingBuffer::new(8);
    control.set_operator(operator_orders);
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
    say!("running    {instruction:?} on {}; interrupt to stop under control", spec.name);
    let mut desk = Desk::open(&arguments.operator, &spec, order_producer)?;
    control.activate(clock.now(), epoch).map_err(CliError::failed)?;
    let begin = clock.now();
    let period = spec.control.period;
    let limit = arguments.seconds.map_or(Duration::from_secs(86_400), Duration::from_secs_f64);
    let mut lateness = Samples::with_capacity(1 << 20);
    let plan = FaultPlan::new(Vec::new());
    let mut looks_at_rest = 0;
    let (stamps, heartbeat, mut onlooker) = supervision.split();
    let orders = Orders::default();
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
            orders: &orders,
            lateness: &mut lateness,
            heartbeat: &heartbeat,
            stamps,
        },
        begin,
        limit.saturating_add(spec.control.stop_time).saturating_add(PARKING),
        &spec.control,
        |now, sight| {
            let tick = sight.tick.as_ref();
            onlooker.look(&*clock, 0, tick);
            if let Some(line) = onlooker.look_at_speed(now, &orders) {
                remark!("{line}");
            }
            while let Ok(event) = events.pop() {
                remark!("{}", event_text(event.now.duration_since(begin).as_secs_f64(), &event));
            }
            // A stop that was asked for goes before everything that the operator asks for.
            let mut wish = if stop.is_asked() { Wish::None } else { desk.look(now, tick) };
            if now.duration_since(begin) >= limit && !stop.is_asked() && !desk.quit() {
                wish = Wish::Stop;
            }
            match wish {
                Wish::None => {}
                // The same instruction in a new epoch: nothing of the episode before is remembered.
                Wish::Reset => orders.instruct(instruction),
                Wish::Stop => stop.flag().store(true, Ordering::Release),
                Wish::End => return Flow::Stop,
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
        say!("bus        {}", describe(name, &report()));
    }
    for camera in &cameras {
        say!("camera     {}: {:?}", camera.name(), camera.counts());
    }
    let episodes = desk
        .finish(clock.now())
        .into_iter()
        .map(|ended| Episode {
            seed: 0,
            instruction: instruction.clone(),
            target: String::new(),
            outcome: ended.outcome.to_owned(),
            duration_s: ended.lasted.as_secs_f64(),
        })
        .collect();
    let report = RunReport::new(RunFacts {
        simulated_robot: false,
        simulated_time: false,
        latency_model: "real".to_owned(),
        seed: 0,
        bundle_digest: bundle.digest(),
        episodes,
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
    publish_report(arguments, &report.with_buses(&reporters, &spec.joints))
}
