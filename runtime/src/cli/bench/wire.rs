//! `endplate bench wire`: round trips over each middleware, and how late the control thread begins its periods while the
//! network is blocked, flooded and cut.
//!
//! Round trip: a `JointState` of seven joints out of one node, a `Float64MultiArray` back from another, both in this
//! process, over loopback sockets; windows of the middlewares follow each other. Lateness: the product's control thread at
//! 1 kHz over an arm that is a topic, so that every period takes a state from the wire and hands a command to it. Windows
//! with the network as it should be and with it disturbed follow each other; commands are sent throughout, as to a robot
//! that is believed to be there.

mod network;
mod robot;

use super::jitter::{Ours, Side};
use super::{BenchArguments, Ratio, Row, Samples as Quantiles, quantile, rounded};
use crate::cli::bundle::{PolicyArguments, open_robot};
use crate::cli::error::CliError;
use core::time::Duration;
use endplate_hal::{Clock, MonotonicClock, Robot, RobotSpec};
use endplate_policies::PolicySpec;
use endplate_ros2::interface::{Float64MultiArray, Header, JointState, Message, decode, encode_into};
use endplate_ros2::node::{ArmLink, CameraTopic, NodeTime, OutputKind, TopicArm, TopicArmOptions, TopicCamera};
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::{Endpoint, Publisher, Transport, TransportError};
use endplate_runtime::drive::camera_loops;
use endplate_runtime::{ControlLoop, PlayRules};
use network::{Backend, Network};
use robot::{CAMERA, IMAGE, Wired};
use serde_json::json;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant as WallInstant;

const PERIOD: Duration = Duration::from_millis(1);
/// How long an echo is waited for before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long discovery may take.
const MEETING: Duration = Duration::from_secs(20);

/// Every row of the table.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let backends = Backend::all();
    let mut rows = round_trips(&backends, arguments)?;
    for backend in backends {
        rows.extend(lateness(backend, arguments)?);
    }
    Ok(rows)
}

fn failed(error: TransportError) -> CliError {
    CliError::Failed(error.to_string())
}

/// A node that asks and a node that echoes.
struct Echo {
    backend: Backend,
    out: Box<dyn Publisher>,
    back: Receiver<f64>,
    buffer: Vec<u8>,
    number: f64,
    windows: Vec<Vec<f64>>,
    lost: u64,
    _endpoints: [Box<dyn Endpoint>; 2],
    _nodes: [Arc<dyn Transport>; 2],
    _network: Network,
}

impl Echo {
    fn open(backend: Backend) -> Result<Self, CliError> {
        let network = Network::open(backend)?;
        let (robot, policy) = (network.robot()?, network.policy()?);
        let mut answers = policy.publisher("/bench/back", Float64MultiArray::TYPE, Qos::COMMAND).map_err(failed)?;
        let mut buffer = Vec::new();
        let there = policy
            .subscribe(
                "/bench/out",
                JointState::TYPE,
                Qos::LATEST,
                Box::new(move |bytes, _| {
                    let Ok(state) = decode::<JointState>(bytes) else { return };
                    let position: Vec<f64> = state.position.iter().collect();
                    let answer = Float64MultiArray { data: (&position).into(), ..Default::default() };
                    if let Ok(bytes) = encode_into(&answer, &mut buffer) {
                        let _ = answers.publish(bytes); // an answer that is not sent counts as lost
                    }
                }),
            )
            .map_err(failed)?;
        let (to_bench, back) = channel();
        let here = robot
            .subscribe(
                "/bench/back",
                Float64MultiArray::TYPE,
                Qos::LATEST,
                Box::new(move |bytes, _| {
                    if let Ok(answer) = decode::<Float64MultiArray>(bytes) {
                        let _ = to_bench.send(answer.data.iter().next().unwrap_or(f64::NAN)); // the bench may be over
                    }
                }),
            )
            .map_err(failed)?;
        let out = robot.publisher("/bench/out", JointState::TYPE, Qos::SYSTEM).map_err(failed)?;
        let mut echo = Self {
            backend,
            out,
            back,
            buffer: Vec::new(),
            number: 0.0,
            windows: Vec::new(),
            lost: 0,
            _endpoints: [there, here],
            _nodes: [robot, policy],
            _network: network,
        };
        let start = WallInstant::now();
        while echo.trip(Duration::from_millis(100))?.is_none() {
            if start.elapsed() > MEETING {
                return Err(CliError::Failed(format!("{}: the two nodes did not meet", backend.name())));
            }
        }
        Ok(echo)
    }

    /// One round trip, µs; `None` where no echo came in time.
    fn trip(&mut self, patience: Duration) -> Result<Option<f64>, CliError> {
        self.number += 1.0;
        let names = ["j0", "j1", "j2", "j3", "j4", "j5", "j6"];
        let position = [self.number, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
        let velocity = [0.0; 7];
        let message = JointState {
            header: Header { frame_id: "base_link", ..Default::default() },
            name: (&names).into(),
            position: (&position).into(),
            velocity: (&velocity).into(),
            ..Default::default()
        };
        let start = WallInstant::now();
        let bytes = encode_into(&message, &mut self.buffer).map_err(CliError::failed)?;
        self.out.publish(bytes).map_err(failed)?;
        while let Some(left) = patience.checked_sub(start.elapsed()) {
            match self.back.recv_timeout(left) {
                Ok(number) if number == self.number => return Ok(Some(start.elapsed().as_secs_f64() * 1e6)),
                Ok(_) => {} // of a trip given up
                Err(_) => break,
            }
        }
        Ok(None)
    }

    fn window(&mut self, calls: usize) -> Result<(), CliError> {
        let mut trips = Vec::with_capacity(calls);
        for _ in 0..calls {
            match self.trip(PATIENCE)? {
                Some(trip) => trips.push(trip),
                None => self.lost += 1,
            }
            std::thread::sleep(PERIOD);
        }
        self.windows.push(trips);
        Ok(())
    }

    fn medians(&self) -> Vec<f64> {
        self.windows.iter().map(|window| quantile(window, 0.5)).collect()
    }
}

fn round_trips(backends: &[Backend], arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let mut echoes = backends.iter().map(|backend| Echo::open(*backend)).collect::<Result<Vec<_>, _>>()?;
    for window in 0..arguments.windows {
        remark_part!("\rround trips, window {} of {}", window + 1, arguments.windows);
        for echo in &mut echoes {
            echo.window(arguments.calls)?;
        }
    }
    remark!("");
    let first = echoes[0].medians();
    let rows = echoes.iter().map(|echo| {
        let mut row = Row::new();
        row.insert("what".to_owned(), format!("round trip, {}", echo.backend.name()).into());
        row.insert("windows".to_owned(), arguments.windows.into());
        row.insert("calls_per_window".to_owned(), arguments.calls.into());
        let mut all = Quantiles::default();
        all.extend(echo.windows.iter().flatten().copied());
        all.put(&mut row, "trip", "us");
        row.insert("lost".to_owned(), echo.lost.into());
        if echo.backend != backends[0] {
            let ratio = Ratio::new(&echo.medians(), &first);
            row.insert(format!("p50_over_{}", backends[0].name()), json!(rounded(ratio.median)));
            let interval = [rounded(ratio.interval.0), rounded(ratio.interval.1)];
            row.insert(format!("p50_over_{}_95", backends[0].name()), json!(interval));
        }
        row
    });
    Ok(rows.collect())
}

/// What is done to the network.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Disturbance {
    /// The peer's socket takes nothing, and the connection stays.
    Blocked,
    /// Images and joint states as fast as they go.
    Flooded,
    /// The peer is gone.
    Cut,
}

/// The node under test: an arm and a camera that are topics.
struct Node {
    control: ControlLoop,
    arm: ArmLink,
    _camera: TopicCamera,
    transport: Arc<dyn Transport>,
}

impl Node {
    fn open(
        network: &Network,
        spec: &RobotSpec,
        policy: &PolicySpec,
        clock: &Arc<MonotonicClock>,
    ) -> Result<Self, CliError> {
        let transport = network.policy()?;
        let options = TopicArmOptions {
            joints: spec.joints.iter().map(|joint| joint.name.clone()).collect(),
            limits_rad_s: spec.safety_limits().joints.iter().map(|joint| joint.velocity_rad_s).collect(),
            state_topic: robot::STATES.to_owned(),
            output: OutputKind::ForwardPosition,
            command_topic: robot::COMMANDS.to_owned(),
            controller_joints: Vec::new(),
            period: spec.control.period,
            // Commands go on into a network that is gone.
            lost_after: Duration::from_secs(3600),
            time: NodeTime::default(),
        };
        let shared: Arc<dyn Clock> = clock.clone();
        let (arm, link) = TopicArm::connect(&*transport, options, Arc::clone(&shared)).map_err(CliError::failed)?;
        let topic = CameraTopic { name: "front".into(), topic: CAMERA.into(), is_compressed: false, size: IMAGE };
        let (camera, _) = TopicCamera::connect(&*transport, topic, shared, link.placer()).map_err(failed)?;
        let start = WallInstant::now();
        while link.counts().states < 10 {
            if start.elapsed() > MEETING {
                return Err(CliError::Failed(format!("{}: no joint state came", network.backend.name())));
            }
            std::thread::sleep(PERIOD);
        }
        let rules = PlayRules {
            interpolation: policy.actions.dims().iter().map(|dim| dim.interpolation).collect(),
            execute_rows: policy.chunk.execute_rows,
            max_age: spec.control.max_chunk_age,
        };
        let arms = Robot::new(vec![Box::new(arm)]).map_err(CliError::failed)?;
        let mut control = ControlLoop::new(spec.clone(), arms, rules).map_err(CliError::failed)?;
        control.configure(clock.now()).map_err(CliError::failed)?;
        link.open();
        Ok(Self { control, arm: link, _camera: camera, transport })
    }
}

fn lateness(backend: Backend, arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let clock = Arc::new(MonotonicClock::new());
    let (bundle, _loaded) = PolicyArguments::default().load()?;
    let mut spec = open_robot(None)?;
    spec.control.period = PERIOD;
    let length = Duration::from_secs_f64(arguments.seconds() / arguments.windows as f64);
    let mut rows = Vec::new();
    for disturbance in backend.disturbances() {
        let network = Network::open(backend)?;
        let mut wired = Some(Wired::start(network.robot()?, &spec)?);
        let Node { control, arm, transport, _camera } = Node::open(&network, &spec, bundle.spec(), &clock)?;
        let (_, _, watch) = camera_loops(Vec::new(), false);
        let mut ours = Ours::around(control, &spec.control, bundle.spec(), &clock, watch)?;
        let (mut calm, mut disturbed) = (Side::new("network as it should be"), Side::new(disturbance.name()));
        for window in 0..arguments.windows {
            remark_part!(
                "\r{}, {}, window {} of {}",
                backend.name(),
                disturbance.name(),
                window + 1,
                arguments.windows
            );
            reconnect(&network, &arm, &mut wired, &spec)?;
            ours.window(Some(&spec.control.realtime), length, &mut calm);
            match disturbance {
                Disturbance::Blocked => network.block(true),
                Disturbance::Flooded => wired.iter().for_each(|wired| wired.flood(true)),
                Disturbance::Cut if network.can_cut() => network.cut(true),
                Disturbance::Cut => drop(wired.take()),
            }
            ours.window(Some(&spec.control.realtime), length, &mut disturbed);
            network.block(false);
            network.cut(false);
            wired.iter().for_each(|wired| wired.flood(false));
        }
        remark!("");
        let counts = arm.counts();
        for (side, over) in [(&calm, None), (&disturbed, Some(&calm))] {
            let mut row = side.row_over("calm", over);
            row.insert("network".to_owned(), backend.name().into());
            row.insert("period_us".to_owned(), json!(PERIOD.as_micros() as u64));
            row.insert("window_s".to_owned(), json!(rounded(length.as_secs_f64())));
            if over.is_some() {
                row.insert("states_taken".to_owned(), counts.states.into());
                row.insert("commands_sent".to_owned(), counts.sent.into());
                row.insert("commands_superseded".to_owned(), counts.superseded.into());
                row.insert("commands_expired".to_owned(), counts.expired.into());
                row.insert("commands_failed".to_owned(), counts.failed.into());
                row.insert("ring_full".to_owned(), counts.full.into());
            }
            rows.push(row);
        }
        drop(transport);
    }
    Ok(rows)
}

impl Disturbance {
    fn name(self) -> &'static str {
        match self {
            Self::Blocked => "network blocked",
            Self::Flooded => "network flooded",
            Self::Cut => "network cut",
        }
    }
}

/// Waits until joint states come again, with a new robot where the old one was dropped.
fn reconnect(network: &Network, arm: &ArmLink, wired: &mut Option<Wired>, spec: &RobotSpec) -> Result<(), CliError> {
    if wired.is_none() {
        *wired = Some(Wired::start(network.robot()?, spec)?);
    }
    let before = arm.counts().states;
    let start = WallInstant::now();
    while arm.counts().states < before + 20 {
        if start.elapsed() > MEETING {
            return Err(CliError::Failed(format!("{}: the robot did not come back", network.backend.name())));
        }
        std::thread::sleep(PERIOD);
    }
    arm.open();
    Ok(())
}
