//! What the tests across crates share: a bench with the simulated robot and the real loops, driven in simulated time by
//! a chunk source instead of a network, and a log of every command that really left for the arm.
#![allow(dead_code)] // Each test target uses a part.

use core::time::Duration;
use endplate_hal::{
    Arm, BusError, Camera, Instant, JointState, JointVec, MotionTime, Robot, RobotSpec, SafeCommand, StopCategory,
    robots,
};
use endplate_policies::{
    ActionChunk, Budget, Bundle, BundleSource, Committed, Epoch, NORMALISED_LIMIT, Observation, ObservationError,
    OutputFault, Policy, PolicyError, PolicySpec, Stages, StopReason,
};
use endplate_runtime::drive::simulated::{Latency, LatencyModel, Simulated};
use endplate_runtime::drive::{CameraBank, CameraLoop, CameraWatch, Flow, camera_loops, simulated};
use endplate_runtime::{
    Cause, ControlLoop, Event, FaultPlan, FaultWindow, Inbox, InferenceLoop, PlayRules, Rung, RuntimeFault,
};
use endplate_sim::fault::{Fault, FaultKind, FaultPlan as BodyFaults};
use endplate_sim::model::Model;
use endplate_sim::robot::{SimArm, SimOptions, SimRobot};
use endplate_sim::scene::Scene;
use endplate_tokenizers::{FastCodec, FastTokenizer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// From the start of an episode to activation.
pub const WARM_UP: Duration = Duration::from_millis(150);
/// What the policy is told, and told instead after an instruction change.
pub const INSTRUCTIONS: [&str; 2] = ["sweep there", "sweep back"];

/// The demonstration bundle of the repository.
pub fn bundle_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/bundles/pick_cube_fast")
}

/// The bundle's description and its action tokenizer, read once.
pub fn demonstration() -> &'static (PolicySpec, FastTokenizer) {
    static READ: OnceLock<(PolicySpec, FastTokenizer)> = OnceLock::new();
    READ.get_or_init(|| {
        let bundle = Bundle::open(BundleSource::Directory(bundle_path())).expect("the demonstration bundle opens");
        let file = |path| bundle.file(path).expect("the bundle lists it");
        let tokenizer = FastTokenizer::from_bytes(
            file("tokenizer/tokenizer.json"),
            file("tokenizer/processor_config.json"),
            "tokenizer",
        );
        (bundle.spec().clone(), tokenizer.expect("the tokenizer loads"))
    })
}

/// One call of the policy.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When.
    pub at: Instant,
    /// Age of the oldest frame.
    pub age: Duration,
    /// Joint positions it was given.
    pub state_rad: JointVec,
    /// Epoch the answer belongs to.
    pub epoch: Epoch,
    /// Whether it answered.
    pub answered: bool,
}

/// A policy without a network: smooth sweeps about where the joints stood when it was first asked in an epoch. Rows are
/// written as action tokens and read back, so that injected faults meet the checks of a real policy.
pub struct ChunkSource {
    spec: PolicySpec,
    codec: FastCodec,
    ids: Vec<u32>,
    fault: OutputFault,
    /// Motion time and joint positions at the first call of the epoch.
    base: Option<(MotionTime, JointVec)>,
    /// Wall time taken by each call in turn.
    think: Vec<Duration>,
    calls: usize,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl ChunkSource {
    pub fn new(asked: Arc<Mutex<Vec<Asked>>>, think: Vec<Duration>) -> Self {
        let (spec, tokenizer) = demonstration();
        let codec = tokenizer.codec(spec.chunk.horizon, spec.actions.dims().len()).expect("the bundle's own shape");
        let ids = Vec::new();
        Self { spec: spec.clone(), codec, ids, fault: OutputFault::None, base: None, think, calls: 0, asked }
    }

    /// `[H, D]` absolute, rad: each joint leaves its base and returns, from rest, every four seconds.
    fn sweep(&mut self, observation: &Observation<'_>) -> Vec<f64> {
        const SWEEP_RAD: [f64; 6] = [0.35, -0.12, 0.10, 0.15, 0.30, -0.25];
        let anchor = observation.anchor.motion;
        let (start, base) = *self.base.get_or_insert((anchor, observation.state.position_rad));
        let there = if observation.instruction == INSTRUCTIONS[0] { 1.0 } else { -1.0 };
        let row_period = self.spec.chunk.row_period.as_secs_f64();
        let dims = self.spec.actions.dims().len();
        let mut rows = Vec::with_capacity(self.spec.chunk.horizon * dims);
        for row in 0..self.spec.chunk.horizon {
            let seconds = anchor.seconds_since(start) + row as f64 * row_period;
            let share = (1.0 - (seconds * core::f64::consts::TAU / 4.0).cos()) / 2.0;
            rows.extend((0..dims).map(|dim| base[dim] + there * SWEEP_RAD[dim % 6] * share));
        }
        rows
    }

    fn origin(&self, dim: usize, state: &JointVec) -> f64 {
        let relative = self.spec.actions.dims()[dim].kind == endplate_policies::ActionKind::JointRel;
        if relative { state[dim] } else { 0.0 }
    }

    /// Through tokens and back, with the injected fault, then the checks every policy makes.
    fn answer(&mut self, observation: &Observation<'_>, out: &mut [f64]) -> Result<(), PolicyError> {
        let state = &observation.state.position_rad;
        let dims = self.spec.actions.dims().len();
        let rows = self.sweep(observation);
        let quantiles = self.spec.actions.quantiles();
        let place = |index: usize| (index % dims, self.origin(index % dims, state));
        let mut normalised: Vec<f64> = rows
            .iter()
            .enumerate()
            .map(|(index, row)| {
                let (dim, origin) = place(index);
                quantiles.normalise(dim, row - origin)
            })
            .collect();
        self.codec.encode(&normalised, &mut self.ids).expect("a gentle sweep can be written as tokens");
        let ids = match self.fault {
            OutputFault::TokensGarbage => {
                let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
                let vocabulary = self.codec.vocab_size();
                std::iter::successors(Some(1u32), next).skip(1).take(48).map(|id| (id >> 8) % vocabulary).collect()
            }
            OutputFault::TokensTruncated => self.ids[..self.ids.len() / 2].to_vec(),
            _ => self.ids.clone(),
        };
        self.codec.decode(&ids, &mut normalised)?;
        let last = normalised.len() - 1;
        match self.fault {
            OutputFault::Nan => normalised[last] = f64::NAN,
            OutputFault::Inf => normalised[last] = f64::INFINITY,
            OutputFault::Huge => normalised[last] = 1e6,
            OutputFault::None | OutputFault::TokensGarbage | OutputFault::TokensTruncated => {}
        }
        for (index, (&value, slot)) in normalised.iter().zip(out).enumerate() {
            let row = index / dims;
            let dim = index % dims;
            if !value.is_finite() {
                return Err(PolicyError::NonFinite { row, dim });
            }
            if value.abs() > NORMALISED_LIMIT {
                return Err(PolicyError::OutOfRange { row, dim, value, limit: NORMALISED_LIMIT });
            }
            *slot = self.spec.actions.quantiles().denormalise(dim, value) + self.origin(dim, state);
        }
        Ok(())
    }
}

impl Policy for ChunkSource {
    fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        if observation.frames.len() != self.spec.cameras.len() {
            let (needed, got) = (self.spec.cameras.len(), observation.frames.len());
            return Err(ObservationError::Frames { needed, got }.into());
        }
        if let Some(joint) = observation.state.position_rad.iter().position(|position| !position.is_finite()) {
            return Err(ObservationError::NonFiniteState { joint }.into());
        }
        if !self.think.is_empty() {
            std::thread::sleep(self.think[self.calls % self.think.len()]);
        }
        self.calls += 1;
        let answer = self.answer(observation, chunk.rows_mut());
        self.asked.lock().unwrap().push(Asked {
            at: budget.start,
            age: budget.start.duration_since(observation.anchor.captured),
            state_rad: observation.state.position_rad,
            epoch: committed.epoch,
            answered: answer.is_ok(),
        });
        answer?;
        chunk.set(self.spec.chunk.row_period, observation.anchor, committed.epoch, None, Stages::default());
        Ok(StopReason::Complete)
    }

    fn check_instruction(&self, _: &str) -> Result<(), PolicyError> {
        Ok(())
    }

    fn reset(&mut self, _: Epoch) {
        self.base = None;
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        self.spec.costs.vision + self.spec.costs.prefill
    }

    fn tokens(&self) -> &[u32] {
        &self.ids
    }
}

/// One attempt to write to the arm.
#[derive(Copy, Clone, Debug)]
pub struct Write {
    pub at: Instant,
    pub position_rad: JointVec,
    pub valid_until: Instant,
    pub result: Result<(), BusError>,
}

/// Everything that was asked of the arm.
#[derive(Default)]
pub struct ArmLog {
    pub writes: Vec<Write>,
    pub torque: Vec<(Instant, bool)>,
}

/// The simulated arm, with a log of what really left for it.
pub struct LoggedArm {
    arm: SimArm,
    log: Arc<Mutex<ArmLog>>,
}

impl Arm for LoggedArm {
    fn joints(&self) -> usize {
        self.arm.joints()
    }

    fn read(&mut self, now: Instant) -> Result<JointState, BusError> {
        self.arm.read(now)
    }

    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<endplate_hal::Sent, BusError> {
        let result = self.arm.write(now, command);
        self.log.lock().unwrap().writes.push(Write {
            at: now,
            position_rad: JointVec::from_slice(command.position_rad()).unwrap(),
            valid_until: command.valid_until(),
            result: result.map(drop),
        });
        result
    }

    fn set_torque(&mut self, now: Instant, on: bool) -> Result<(), BusError> {
        let result = self.arm.set_torque(now, on);
        if result.is_ok() {
            self.log.lock().unwrap().torque.push((now, on));
        }
        result
    }
}

/// One control period, as it was.
#[derive(Copy, Clone, Debug)]
pub struct Period {
    pub at: Instant,
    pub rung: Rung,
    pub cause: Option<Cause>,
    pub position_rad: JointVec,
}

/// How a bench is set up.
pub struct Setup {
    /// As after `--fault`.
    pub faults: Vec<String>,
    pub seed: u64,
    pub latency: LatencyModel,
    /// Wall time of the policy's calls in turn; empty for as fast as it can.
    pub think: Vec<Duration>,
    pub stop_category: StopCategory,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            faults: Vec::new(),
            seed: 1_000_000,
            latency: LatencyModel::Fixed(Duration::from_millis(60)),
            think: Vec::new(),
            stop_category: StopCategory::Hold,
        }
    }
}

/// One robot, one chunk source, the real loops, in simulated time.
pub struct Bench {
    pub spec: RobotSpec,
    pub world: SimRobot,
    pub control: ControlLoop,
    pub inference: InferenceLoop,
    pub cameras: Vec<CameraLoop>,
    pub latency: Latency,
    pub start: Instant,
    pub periods: Vec<Period>,
    pub events: Vec<Event>,
    /// Where commands started anew from rest: the index of the period that followed, and the pose.
    pub starts: Vec<(usize, JointVec)>,
    bank: CameraBank,
    watch: CameraWatch,
    ring: rtrb::Consumer<Event>,
    faults: FaultPlan,
    log: Arc<Mutex<ArmLog>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    next: Instant,
}

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| Arc::new(Model::so101_like().expect("the model is built in"))))
}

/// The windows the runtime injects itself.
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
        let end = fault.duration.map(|duration| fault.start + duration);
        Some(FaultWindow { fault: kind, start: fault.start, end })
    });
    FaultPlan::new(windows.collect())
}

impl Bench {
    /// A bench with an active robot, warmed up.
    pub fn new(setup: Setup) -> Self {
        let faults: Vec<Fault> = setup.faults.iter().map(|text| text.parse().expect("a known fault")).collect();
        let mut spec = RobotSpec::from_toml_str(robots::SO101_SIM, "so101_sim.toml").expect("a valid description");
        spec.control.stop_category = setup.stop_category;
        let start = Instant::from_nanos(1_000_000_000);
        let options = SimOptions { faults: Arc::new(BodyFaults::new(faults.clone())), ..SimOptions::from_spec(&spec) };
        let world = SimRobot::new(model(), &Scene::sample(setup.seed), options, start).expect("a robot");
        let boxed: Vec<Box<dyn Camera>> = world.cameras().into_iter().map(|camera| Box::new(camera) as _).collect();
        let (cameras, bank, watch) = camera_loops(boxed, false);
        let (log, asked) = (Arc::<Mutex<ArmLog>>::default(), Arc::<Mutex<Vec<Asked>>>::default());
        let arm = LoggedArm { arm: world.arm(), log: Arc::clone(&log) };
        let (policy, _) = demonstration();
        let rules = PlayRules {
            interpolation: policy.actions.dims().iter().map(|dim| dim.interpolation).collect(),
            execute_rows: policy.chunk.execute_rows,
            max_age: spec.control.max_chunk_age,
        };
        let robot = Robot::new(vec![Box::new(arm)]).expect("one arm");
        let mut control = ControlLoop::new(spec.clone(), robot, rules).expect("limits fit");
        let (producer, ring) = rtrb::RingBuffer::new(4096);
        control.set_events(producer);
        control.configure(start).expect("the joints answer");
        let source = ChunkSource::new(Arc::clone(&asked), setup.think);
        let inference = InferenceLoop::new(
            Box::new(source),
            INSTRUCTIONS[0],
            spec.control.deadline,
            spec.control.state_max_age,
        );
        let mut bench = Self {
            latency: Latency::new(setup.latency),
            faults: runtime_faults(&faults),
            periods: Vec::new(),
            events: Vec::new(),
            starts: Vec::new(),
            next: start,
            world,
            control,
            inference,
            cameras,
            start,
            bank,
            watch,
            ring,
            log,
            asked,
            spec,
        };
        bench.warm_up();
        bench
    }

    fn warm_up(&mut self) {
        let period = self.spec.control.period;
        let mut now = self.start;
        while now < self.start.saturating_add(WARM_UP) {
            now = now.saturating_add(period);
            self.world.advance_to(now);
            for camera in &mut self.cameras {
                camera.step(now);
            }
            let inbox = Inbox {
                chunk: None,
                cameras: &[],
                refused_in_a_row: 0,
                epoch: self.inference.epoch(),
                estop: false,
                missed: 0,
            };
            assert!(self.control.tick(now, &inbox).is_none(), "an inactive robot is not written to");
        }
        assert!(self.log.lock().unwrap().writes.is_empty(), "an inactive robot is not written to");
        self.control.activate(now, self.inference.epoch()).expect("a robot at rest can be activated");
        self.starts.push((0, self.control.commanded().position_rad));
        self.next = now;
    }

    /// Runs on until `seconds` after the start of the episode.
    pub fn run_to(&mut self, seconds: f64) -> &mut Self {
        let period = self.spec.control.period;
        let (world, periods) = (self.world.clone(), &mut self.periods);
        let last = simulated::run(
            &mut Simulated {
                control: &mut self.control,
                inference: &mut self.inference,
                cameras: &mut self.cameras,
                bank: &mut self.bank,
                watch: &self.watch,
                plant: &mut |now| world.advance_to(now),
                latency: &mut self.latency,
                faults: &self.faults,
                instructions: &[INSTRUCTIONS[1].to_owned()],
            },
            self.start,
            self.next,
            Duration::from_secs_f64(seconds),
            period,
            |at, tick| {
                let position_rad = JointVec::from_slice(tick.command.position_rad()).unwrap();
                periods.push(Period { at, rung: tick.rung, cause: tick.cause, position_rad });
                Flow::Continue
            },
        );
        self.next = last.saturating_add(period);
        while let Ok(event) = self.ring.pop() {
            self.events.push(event);
        }
        self
    }

    /// Leaves a latched fault, as an operator's command does; whether it was left.
    pub fn clear_fault(&mut self) -> bool {
        let cleared = self.control.clear_fault(self.next).expect("the arm answers");
        if cleared {
            self.starts.push((self.periods.len(), self.control.commanded().position_rad));
        }
        cleared
    }

    /// Seconds since the start of the episode.
    pub fn seconds(&self, at: Instant) -> f64 {
        at.seconds_since(self.start)
    }

    /// How often a cause began on the control side, or refused something on the inference side.
    pub fn count(&self, cause: Cause) -> u64 {
        self.control.counts().causes.of(cause) + self.inference.counts().causes.of(cause)
    }

    /// What was asked of the policy.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Attempts to write, in order.
    pub fn writes(&self) -> Vec<Write> {
        self.log.lock().unwrap().writes.clone()
    }

    /// Torque switched, in order.
    pub fn torque(&self) -> Vec<(f64, bool)> {
        self.log.lock().unwrap().torque.iter().map(|&(at, on)| (self.seconds(at), on)).collect()
    }

    /// The rungs in order with the seconds each began, without repetitions.
    pub fn walk(&self) -> Vec<(f64, Rung)> {
        let mut walk: Vec<(f64, Rung)> = Vec::new();
        for period in &self.periods {
            if walk.last().is_none_or(|(_, rung)| *rung != period.rung) {
                walk.push((self.seconds(period.at), period.rung));
            }
        }
        walk
    }

    /// The rungs of the periods from `from` on and before `to`, in seconds.
    pub fn between(&self, from: f64, to: f64) -> impl Iterator<Item = &Period> {
        // Half a period keeps a bound on a tick from falling to rounding.
        self.periods.iter().filter(move |period| {
            let at = self.seconds(period.at) + 1e-6;
            (from..to).contains(&at)
        })
    }

    /// The first second from `from` on with this rung.
    pub fn first(&self, rung: Rung, from: f64) -> Option<f64> {
        self.between(from, f64::INFINITY).find(|period| period.rung == rung).map(|period| self.seconds(period.at))
    }

    /// What holds whatever goes wrong: one command a period; every command finite, inside the limits and following
    /// smoothly from the last; none sent after its time; no jump across writes that failed; the ladder adds up.
    pub fn check(&self) {
        let counts = self.control.counts();
        assert_eq!(counts.ladder.total(), counts.commands, "the ladder sums to the commands");
        assert_eq!(counts.commands, self.periods.len() as u64, "one command a period");
        assert_eq!(counts.periods, counts.commands, "no period of simulated time is missed");
        let period = self.spec.control.period;
        for pair in self.periods.windows(2) {
            assert_eq!(pair[1].at.duration_since(pair[0].at), period, "one command a period");
        }
        self.check_commands();
        self.check_writes();
        let told: u64 = Cause::ALL.iter().map(|&cause| counts.causes.of(cause)).sum();
        assert_eq!(self.events.len() as u64 + counts.events_dropped, told, "every counted cause is told once");
    }

    fn check_commands(&self) {
        let dt = self.spec.control.period.as_secs_f64();
        let bounds = self.starts.iter().enumerate().map(|(index, &(from, pose))| {
            let to = self.starts.get(index + 1).map_or(self.periods.len(), |&(next, _)| next);
            (from, to, pose)
        });
        for (from, to, pose) in bounds {
            for (joint, spec) in self.spec.joints.iter().enumerate() {
                let limits = &spec.limits;
                let (mut p, mut v, mut a) = (pose[joint], 0.0, 0.0);
                for period in &self.periods[from..to] {
                    let at = self.seconds(period.at);
                    let next = period.position_rad[joint];
                    let what = |kind: &str, value: f64| format!("{} at {at:.2} s: {kind} {value}", spec.name);
                    assert!(next.is_finite(), "{}", what("position", next));
                    let inside = limits.lower_rad - 1e-9 <= next && next <= limits.upper_rad + 1e-9;
                    assert!(inside, "{}", what("position", next));
                    let velocity = (next - p) / dt;
                    let acceleration = (velocity - v) / dt;
                    let jerk = (acceleration - a) / dt;
                    // Rounding of a position, seen through up to three divisions by the period.
                    let slack = 1e-14;
                    let within = |value: f64, limit: f64, power: i32| {
                        value.abs() <= limit * (1.0 + 1e-6) + slack / dt.powi(power)
                    };
                    assert!(within(velocity, limits.velocity_rad_s, 1), "{}", what("velocity", velocity));
                    assert!(
                        within(acceleration, limits.acceleration_rad_s2, 2),
                        "{}",
                        what("acceleration", acceleration)
                    );
                    assert!(within(jerk, limits.jerk_rad_s3, 3), "{}", what("jerk", jerk));
                    (p, v, a) = (next, velocity, acceleration);
                }
            }
        }
    }

    fn check_writes(&self) {
        let writes = self.writes();
        let mut attempts = writes.iter().peekable();
        let mut last: Option<(Instant, JointVec)> = None;
        let mut torque_on = true;
        let torque = self.log.lock().unwrap().torque.clone();
        for (index, period) in self.periods.iter().enumerate() {
            if self.starts.iter().any(|&(from, _)| from == index) {
                last = None;
            }
            let mut accepted = 0;
            let mut tried = 0;
            while let Some(write) = attempts.next_if(|write| write.at == period.at) {
                tried += 1;
                assert_eq!(write.position_rad, period.position_rad, "what is sent is the command of the period");
                assert!(write.at <= write.valid_until, "nothing is sent after its time");
                let sent = write.result.is_ok();
                accepted += u32::from(sent);
                if let (true, Some((at, position))) = (sent, last) {
                    let gap = write.at.seconds_since(at);
                    for (joint, spec) in self.spec.joints.iter().enumerate() {
                        let step = (write.position_rad[joint] - position[joint]).abs();
                        assert!(step <= spec.limits.velocity_rad_s * gap * (1.0 + 1e-6), "{step} rad in {gap} s");
                    }
                }
                if sent {
                    last = Some((write.at, write.position_rad));
                }
            }
            match (torque_on, tried) {
                (true, 1) => {}
                (true, 2) => assert!(accepted <= 1, "a second write in a period only follows a failed one"),
                (true, _) => panic!("{tried} writes at {:.2} s", self.seconds(period.at)),
                (false, _) => assert_eq!(tried, 0, "a limp arm is not written to"),
            }
            for (_, on) in torque.iter().filter(|(at, _)| *at >= period.at && *at < period.at.saturating_add(self.spec.control.period)) {
                torque_on = *on;
            }
        }
        assert!(attempts.next().is_none(), "nothing is written between periods");
    }

    /// Torque was switched on at activation and never off.
    pub fn check_torque_stayed_on(&self) {
        assert!(self.torque().iter().all(|(_, on)| *on), "torque stays on: {:?}", self.torque());
    }
}
