//! `endplate run --transport`: the policy as a managed ROS 2 node that drives a robot over topics.

mod description;
pub mod episodes;
mod owner;
pub mod signalled;

use super::bundle::require_fit;
use super::error::CliError;
use super::loops::{look_at_handover, loops, with_cameras_of};
use super::report::{Episode, RunFacts, RunReport};
use super::run::{RunArguments, publish_report, refuse_foreign};
use super::wire::{Opened, RosArguments};
use clap::Args;
use core::time::Duration;
use endplate_hal::{Camera, Clock, MonotonicClock, Robot, RobotSpec};
use endplate_policies::{Bundle, Epoch, Loaded};
use endplate_ros2::SessionMode;
use endplate_ros2::node::{
    ArmLink, CameraLink, CameraTopic, DESCRIPTION_TOPIC, NodeServer, NodeTime, OutputKind, Parameter, ParameterStore,
    TopicArm, TopicArmOptions, TopicCamera, Value,
};
use endplate_ros2::transport::Transport;
use endplate_runtime::drive::camera_loops;
use endplate_runtime::drive::orders::Orders;
use endplate_runtime::drive::realtime::{self, Realtime};
use endplate_runtime::{FaultPlan, Samples};
use episodes::Episodes;
use owner::Owner;
use std::sync::Arc;

/// Arguments of a robot over topics.
#[derive(Args, Clone, Default)]
pub struct NodeArguments {
    #[command(flatten)]
    pub wire: super::wire::WireArguments,
    /// Which controller takes the commands: forward_position, forward_velocity, joint_trajectory or joint_jog.
    #[arg(long, value_name = "KIND")]
    pub controller: Option<OutputKind>,
    /// The controller's topic; without it, the usual one of that controller.
    #[arg(long, value_name = "TOPIC")]
    pub command_topic: Option<String>,
    /// The controller's joints in its configured order; without it, that of the robot description.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub controller_joints: Vec<String>,
    /// Where joint states come from; without it /joint_states.
    #[arg(long, value_name = "TOPIC")]
    pub state_topic: Option<String>,
    /// Where a camera's images come from, CAMERA=TOPIC; without it /CAMERA/image_raw.
    #[arg(long, value_name = "CAMERA=TOPIC")]
    pub camera_topic: Vec<String>,
    /// Images are sensor_msgs/msg/CompressedImage, on .../compressed.
    #[arg(long)]
    pub compressed: bool,
    /// Configure, activate and follow the instruction at once, without waiting for `~/enable`.
    #[arg(long)]
    pub enable: bool,
    /// Where the robot offers its URDF, whose joint limits narrow those of the robot description file;
    /// without it /robot_description.
    #[arg(long, value_name = "TOPIC")]
    pub description_topic: Option<String>,
    /// End after this many seconds; without it, on a signal or on `shutdown`.
    #[arg(long)]
    pub seconds: Option<f64>,
}

/// A joint state must have come within this time before the robot is configured or activated.
const FRESH: Duration = Duration::from_millis(250);
/// Without a joint state for this long the robot is lost.
const LOST: Duration = Duration::from_millis(500);

/// Links to everything that is on the network.
struct Links {
    server: NodeServer,
    time: NodeTime,
    description: description::Watch,
    arm: ArmLink,
    cameras: Vec<CameraLink>,
    transport: Arc<dyn Transport>,
}

/// Runs the node until it is shut down.
pub fn run(arguments: &RunArguments, robot: &RobotSpec, bundle: &Bundle, loaded: Loaded) -> Result<(), CliError> {
    signalled::install()?;
    require_fit(bundle, robot)?;
    refuse_foreign(arguments, "a robot over --transport", false)?;
    look_at_handover(arguments, bundle)?;
    let mut spec = with_cameras_of(bundle, robot);
    let node = &arguments.node;
    let Opened { transport, ros, .. } = node.wire.open("endplate", SessionMode::Peer)?;
    let clock: Arc<MonotonicClock> = Arc::new(MonotonicClock::new());
    let instruction = starting_instruction(arguments, &ros)?;
    let (engine, policy) = (loaded.engine, loaded.policy);
    if !instruction.is_empty() {
        policy.check_instruction(&instruction).map_err(|error| CliError::Input(format!("--instruction: {error}")))?;
    }
    let description_topic = node.description_topic.as_deref().unwrap_or(DESCRIPTION_TOPIC);
    let description = description::Watch::start(&*transport, description_topic).map_err(CliError::failed)?;
    for narrowed in description.narrow(&mut spec.joints)? {
        remark!("node       {narrowed}");
    }
    let simulated = simulated_time(&ros)?;
    let time = NodeTime::default();
    time.follow(simulated, &*transport).map_err(CliError::failed)?;
    let parameters = parameters(bundle, &spec, &instruction, simulated);
    let (server, inbox) = NodeServer::start(&*transport, parameters, time.clone()).map_err(CliError::failed)?;
    let kind = node.controller.unwrap_or(OutputKind::ForwardPosition);
    let options = TopicArmOptions {
        joints: spec.joints.iter().map(|joint| joint.name.clone()).collect(),
        limits_rad_s: spec.safety_limits().joints.iter().map(|joint| joint.velocity_rad_s).collect(),
        state_topic: node.state_topic.clone().unwrap_or_else(|| "/joint_states".to_owned()),
        output: kind,
        command_topic: node.command_topic.clone().unwrap_or_else(|| kind.topic().to_owned()),
        controller_joints: node.controller_joints.clone(),
        period: spec.control.period,
        lost_after: LOST,
        time: time.clone(),
    };
    let shared_clock: Arc<dyn Clock> = clock.clone();
    let (arm, arm_link) =
        TopicArm::connect(&*transport, options, Arc::clone(&shared_clock)).map_err(CliError::input)?;
    let (cameras, camera_links) = connect_cameras(&*transport, node, &spec, &arm_link, &shared_clock)?;
    let (mut camera_threads, mut bank, watch) = camera_loops(cameras, false);
    let arms = Robot::new(vec![Box::new(arm)]).map_err(CliError::failed)?;
    let (mut control, mut inference) = loops(arguments, &spec, bundle, policy, arms)?;
    inference.instruct(&instruction, Epoch(1));
    let orders = Orders::default();
    let mut lateness = Samples::with_capacity(1 << 20);
    let links = Links { server, time, description, arm: arm_link, cameras: camera_links, transport };
    remark!("node       {} over {}, instruction {instruction:?}", links.server.node(), spec.name);
    let episodes = arguments
        .episodes
        .map(|count| Episodes::start(&*links.transport, count))
        .transpose()
        .map_err(CliError::failed)?;
    let mut owner = Owner::new(&spec, links, inbox, &orders, instruction, node.seconds, episodes);
    if node.enable {
        owner.enable_at_once();
    }
    let period = spec.control.period;
    let mut supervision = super::supervision::Supervision::quiet(&spec.control);
    let stop = supervision.stop.clone();
    let (stamps, heartbeat, mut onlooker) = supervision.split();
    let rights = realtime::run(
        Realtime {
            clock: &*clock,
            control: &mut control,
            inference: &mut inference,
            cameras: &mut camera_threads,
            bank: &mut bank,
            watch: &watch,
            plant: None,
            faults: &FaultPlan::new(Vec::new()),
            instructions: &[],
            estop: stop.flag(),
            orders: &orders,
            lateness: &mut lateness,
            heartbeat: &heartbeat,
            stamps,
        },
        clock.now(),
        Duration::MAX,
        &spec.control,
        |now, sight| {
            onlooker.look(&*clock, 0, sight.tick.as_ref());
            if let Some(line) = onlooker.look_at_speed(now, &orders) {
                remark!("{line}");
            }
            owner.look(now, sight)
        },
    );
    remark!("control    {}", rights.describe());
    let per_episode: Vec<Episode> = owner.finish();
    supervision.rights = Some(rights);
    let report = RunReport::new(RunFacts {
        simulated_robot: arguments.episodes.is_some(),
        simulated_time: false,
        latency_model: "real".to_owned(),
        seed: per_episode.first().map_or(0, |episode| episode.seed),
        bundle_digest: bundle.digest(),
        episodes: per_episode,
        joints: &spec.joints,
        period,
        control: control.counts(),
        lateness: Some(&lateness),
        engine: &engine,
        inference: inference.counts(),
        row_period: bundle.spec().chunk.row_period,
        deadline: spec.control.deadline,
        supervision: supervision.finish(),
        injected: Default::default(),
    });
    publish_report(arguments, &report)
}

/// `--instruction`, else the parameter of `--ros-args -p instruction:=…`; other parameters are refused by name.
fn starting_instruction(arguments: &RunArguments, ros: &RosArguments) -> Result<String, CliError> {
    let mut instruction = arguments.instruction.clone().unwrap_or_default();
    for (name, value) in &ros.parameters {
        match name.as_str() {
            "instruction" => instruction.clone_from(value),
            "use_sim_time" => {} // read by simulated_time
            _ => return Err(CliError::Input(format!("--ros-args -p {name}: no parameter of this node"))),
        }
    }
    Ok(instruction)
}

/// `--ros-args -p use_sim_time:=…`.
fn simulated_time(ros: &RosArguments) -> Result<bool, CliError> {
    match ros.parameters.iter().rev().find(|(name, _)| name == "use_sim_time").map(|(_, value)| value.as_str()) {
        None | Some("false" | "False") => Ok(false),
        Some("true" | "True") => Ok(true),
        Some(value) => Err(CliError::Input(format!("--ros-args -p use_sim_time:={value}: write true or false"))),
    }
}

fn parameters(bundle: &Bundle, spec: &RobotSpec, instruction: &str, simulated: bool) -> ParameterStore {
    let frozen = |name, about, value| Parameter { name, about, value, is_live: false, is_read_only: true };
    ParameterStore::new(vec![
        Parameter {
            name: "instruction",
            about: "what the policy is told",
            value: Value::Text(instruction.to_owned()),
            is_live: true,
            is_read_only: false,
        },
        Parameter {
            name: "diagnostics_hz",
            about: "how often /diagnostics is published, 0.1 to 50",
            value: Value::Double(1.0),
            is_live: false,
            is_read_only: false,
        },
        Parameter {
            name: "use_sim_time",
            about: "what goes out is stamped with the time of /clock; stamps that come in are placed by their arrival",
            value: Value::Bool(simulated),
            is_live: false,
            is_read_only: false,
        },
        frozen("bundle", "name of the policy bundle", Value::Text(bundle.spec().name.clone())),
        frozen("bundle_digest", "digest of the policy bundle", Value::Text(bundle.digest().to_owned())),
        frozen("robot", "name of the robot description", Value::Text(spec.name.clone())),
        frozen("control_hz", "control rate", Value::Double(1.0 / spec.control.period.as_secs_f64())),
        frozen(
            "joints",
            "joints in the order of the commands",
            Value::Texts(spec.joints.iter().map(|joint| joint.name.clone()).collect()),
        ),
    ])
}

type Cameras = (Vec<Box<dyn Camera>>, Vec<CameraLink>);

fn connect_cameras(
    transport: &dyn Transport,
    node: &NodeArguments,
    spec: &RobotSpec,
    arm: &ArmLink,
    clock: &Arc<dyn Clock>,
) -> Result<Cameras, CliError> {
    let mut named = Vec::new();
    for pair in &node.camera_topic {
        let known = || spec.cameras.iter().map(|camera| camera.name.as_str()).collect::<Vec<_>>().join(", ");
        match pair.split_once('=') {
            Some((name, topic)) if spec.cameras.iter().any(|camera| camera.name == name) => {
                named.push((name.to_owned(), topic.to_owned()));
            }
            _ => {
                return Err(CliError::Input(format!(
                    "--camera-topic {pair}: write CAMERA=TOPIC, CAMERA one of {}",
                    known()
                )));
            }
        }
    }
    let (mut cameras, mut links): Cameras = (Vec::new(), Vec::new());
    for camera in &spec.cameras {
        let suffix = if node.compressed { "/compressed" } else { "" };
        let given = named.iter().find(|(name, _)| *name == camera.name).map(|(_, topic)| topic.clone());
        let topic = CameraTopic {
            name: camera.name.clone(),
            topic: given.unwrap_or_else(|| format!("/{}/image_raw{suffix}", camera.name)),
            is_compressed: node.compressed,
            size: (camera.width, camera.height),
        };
        let (camera, link) =
            TopicCamera::connect(transport, topic, Arc::clone(clock), arm.placer()).map_err(CliError::input)?;
        cameras.push(Box::new(camera));
        links.push(link);
    }
    Ok((cameras, links))
}
