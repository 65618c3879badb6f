//! The demonstration in a test: the simulated robot behind a bus that keeps what was really sent, the trained policy
//! on tract, and the loops of the runtime in simulated time.
#![allow(dead_code)] // each target uses its part

use endplate_hal::{Arm, BusError, Camera, Instant, JointState, JointVec, Robot, RobotSpec, SafeCommand, Sent, robots};
use endplate_policies::{Bundle, BundleSource, EngineChoice, Epoch, load_policy};
use endplate_runtime::drive::simulated::{Latency, LatencyModel, Simulated};
use endplate_runtime::drive::{CameraBank, CameraLoop, CameraWatch, Flow, camera_loops, simulated};
use endplate_runtime::{
    Cause, CauseCounts, ControlCounts, ControlLoop, FaultPlan, Inbox, InferenceLoop, PlayRules, Rung,
};
use endplate_sim::fault::{Fault, FaultPlan as BodyFaults};
use endplate_sim::model::Model;
use endplate_sim::robot::{SimArm, SimOptions, SimRobot};
use endplate_sim::scene::Scene;
use endplate_sim::task;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The demonstration bundle of this checkout.
pub fn bundle_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies/bundles/pick_cube_fast")
}

/// What crossed the bus.
#[derive(Default)]
pub struct BusLog {
    /// Every command handed to the arm with its instant, and whether the arm took it.
    pub writes: Vec<(Instant, JointVec, bool)>,
    /// Every switching of the torque.
    pub torque: Vec<bool>,
}

struct LoggedArm {
    arm: SimArm,
    log: Arc<Mutex<BusLog>>,
}

impl Arm for LoggedArm {
    fn joints(&self) -> usize {
        self.arm.joints()
    }
    fn read(&mut self, now: Instant) -> Result<JointState, BusError> {
        self.arm.read(now)
    }
    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError> {
        let result = self.arm.write(now, command);
        let sent = JointVec::from_slice(command.position_rad()).unwrap();
        self.log.lock().unwrap().writes.push((now, sent, result.is_ok()));
        result
    }
    fn set_torque(&mut self, now: Instant, on: bool) -> Result<(), BusError> {
        self.log.lock().unwrap().torque.push(on);
        self.arm.set_torque(now, on)
    }
}

/// The robot, the policy and the loops.
pub struct Rig {
    pub spec: RobotSpec,
    pub control: ControlLoop,
    pub inference: InferenceLoop,
    pub cameras: Vec<CameraLoop>,
    pub bank: CameraBank,
    pub watch: CameraWatch,
    pub world: SimRobot,
    pub log: Arc<Mutex<BusLog>>,
    pub seed: u64,
}

/// What a run left behind.
pub struct Outcome {
    /// Instant since the start of the episode and rung of every period.
    pub rungs: Vec<(f64, Rung)>,
    /// Commands the arm took: seconds since the start, positions.
    pub sent: Vec<(f64, JointVec)>,
    /// Switchings of the torque after activation.
    pub torque: Vec<bool>,
    pub control: ControlCounts,
    causes: CauseCounts,
}

impl Outcome {
    /// Onsets of a cause, on either side.
    pub fn count(&self, cause: Cause) -> u64 {
        self.causes.of(cause)
    }

    /// Whether a rung was used between two instants.
    pub fn used(&self, rung: Rung, from_s: f64, to_s: f64) -> bool {
        self.rungs.iter().any(|&(at, used)| used == rung && at >= from_s && at < to_s)
    }

    /// Whether only this rung was used between two instants.
    pub fn used_only(&self, rung: Rung, from_s: f64, to_s: f64) -> bool {
        self.used(rung, from_s, to_s) && self.rungs.iter().all(|&(at, used)| used == rung || at < from_s || at >= to_s)
    }
}

const START: Instant = Instant::from_nanos(1_000_000_000);
const WARM_UP: Duration = Duration::from_millis(150);

impl Rig {
    /// A robot in the scene of `seed` whose body and sensors fail as `faults` say; `change` edits the description.
    pub fn new(seed: u64, faults: &[&str], change: impl FnOnce(&mut RobotSpec)) -> Self {
        let mut spec = RobotSpec::from_toml_str(robots::SO101_SIM, "so101_sim").unwrap();
        change(&mut spec);
        let bundle = Bundle::open(BundleSource::Directory(bundle_folder())).unwrap();
        let policy = load_policy(&bundle, EngineChoice::Tract).unwrap().policy;
        let body: Vec<Fault> = faults.iter().map(|text| Fault::parse(text).unwrap()).collect();
        let mut options = SimOptions::from_spec(&spec);
        options.faults = Arc::new(BodyFaults::new(body));
        let model = Arc::new(Model::so101_like().unwrap());
        let world = SimRobot::new(model, &Scene::sample(seed), options, START).unwrap();
        let boxed: Vec<Box<dyn Camera>> = world.cameras().into_iter().map(|camera| Box::new(camera) as _).collect();
        let (cameras, bank, watch) = camera_loops(boxed, false);
        let log = Arc::new(Mutex::new(BusLog::default()));
        let arm = LoggedArm { arm: world.arm(), log: Arc::clone(&log) };
        let rules = PlayRules {
            interpolation: bundle.spec().actions.dims().iter().map(|dim| dim.interpolation).collect(),
            execute_rows: bundle.spec().chunk.execute_rows,
            max_age: spec.control.max_chunk_age,
        };
        let robot = Robot::new(vec![Box::new(arm)]).unwrap();
        let mut control = ControlLoop::new(spec.clone(), robot, rules).unwrap();
        control.configure(START).unwrap();
        let sentence = task::instruction(seed, 0);
        let inference = InferenceLoop::new(policy, &sentence, spec.control.deadline, spec.control.state_max_age);
        Self { spec, control, inference, cameras, bank, watch, world, log, seed }
    }

    /// Lets cameras and joints come up and activates; the instant of activation.
    pub fn activate(&mut self) -> Instant {
        let mut now = START;
        let nothing =
            Inbox { chunk: None, cameras: &[], refused_in_a_row: 0, epoch: Epoch(0), estop: false, missed: 0 };
        while now < START.saturating_add(WARM_UP) {
            now = now.saturating_add(self.spec.control.period);
            self.world.advance_to(now);
            for camera in &mut self.cameras {
                camera.step(now);
            }
            assert!(self.control.tick(now, &nothing).is_none(), "an inactive robot was commanded");
        }
        assert!(self.log.lock().unwrap().writes.is_empty(), "an inactive robot was written to");
        self.control.activate(now, self.inference.epoch()).unwrap();
        self.log.lock().unwrap().torque.clear();
        now
    }

    /// Activates and runs to `seconds` after the start of the episode, with a fixed latency.
    pub fn run(&mut self, plan: &FaultPlan, seconds: f64) -> Outcome {
        let begin = self.activate();
        let world = self.world.clone();
        let mut rungs = Vec::new();
        let other = [task::instruction(self.seed, 1)];
        simulated::run(
            &mut Simulated {
                control: &mut self.control,
                inference: &mut self.inference,
                cameras: &mut self.cameras,
                bank: &mut self.bank,
                watch: &self.watch,
                plant: &mut |now| world.advance_to(now),
                latency: &mut Latency::new(LatencyModel::Fixed(Duration::from_millis(60))),
                faults: plan,
                instructions: &other,
            },
            START,
            begin,
            Duration::from_secs_f64(seconds),
            self.spec.control.period,
            |now, tick| {
                rungs.push((now.seconds_since(START), tick.rung));
                Flow::Continue
            },
        );
        let log = self.log.lock().unwrap();
        let mut sent: Vec<(f64, JointVec)> = Vec::new();
        for (at, position, taken) in &log.writes {
            if *taken {
                sent.push((at.seconds_since(START), *position));
            }
        }
        let mut causes = self.control.counts().causes;
        causes.add(&self.inference.counts().causes);
        Outcome { rungs, sent, torque: log.torque.clone(), control: self.control.counts().clone(), causes }
    }
}

/// Every command the arm took is finite, inside the limits and reachable from the one before; consecutive ones obey
/// acceleration and jerk limits too.
pub fn assert_no_jump(spec: &RobotSpec, outcome: &Outcome, what: &str) {
    let period = spec.control.period.as_secs_f64();
    for (joint, described) in spec.joints.iter().enumerate() {
        let limits = &described.limits;
        let (mut last_v, mut last_a): (Option<f64>, Option<f64>) = (Some(0.0), Some(0.0));
        for pair in outcome.sent.windows(2) {
            let ((t0, p0), (t1, p1)) = (&pair[0], &pair[1]);
            let (p0, p1, dt) = (p0[joint], p1[joint], t1 - t0);
            let name = &described.name;
            assert!(p1.is_finite(), "{what}: {name} is not finite");
            assert!(p1 >= limits.lower_rad - 1e-9 && p1 <= limits.upper_rad + 1e-9, "{what}: {name} at {p1}");
            let v = (p1 - p0) / dt;
            assert!(v.abs() <= limits.velocity_rad_s + 1e-6, "{what}: {name} jumps by {} at {t1:.2} s", p1 - p0);
            if (dt - period).abs() > 1e-6 {
                // Writes failed in between: what was not sent cannot be differenced.
                (last_v, last_a) = (None, None);
                continue;
            }
            let a = last_v.map(|last| (v - last) / dt);
            if let Some(a) = a {
                assert!(a.abs() <= limits.acceleration_rad_s2 + 1e-3, "{what}: {name} {a} rad/s² at {t1:.2} s");
            }
            if let (Some(a), Some(last)) = (a, last_a) {
                assert!(((a - last) / dt).abs() <= limits.jerk_rad_s3 + 1.0, "{what}: {name} jerk at {t1:.2} s");
            }
            (last_v, last_a) = (Some(v), a);
        }
    }
}
