//! A kinematic robot for the thousands: joints that follow their goals, cameras without images, and a policy that draws
//! its chunks from a seed. The loops, the driver and the faults around them are the product's own.

use core::time::Duration;
use endplate_hal::{
    Arm, BusError, Camera, CameraError, Frame, Instant, JointState, JointVec, Robot, RobotSpec, SafeCommand,
    SafetyError, Sent,
};
use endplate_policies::{
    ActionChunk, Budget, Committed, Epoch, Observation, OutputFault, Policy, PolicyError, PolicySpec, Stages,
    StopReason,
};
use endplate_runtime::drive::simulated::{self, Latency, LatencyModel, Simulated};
use endplate_runtime::drive::{Flow, camera_loops};
use endplate_runtime::handover::{Handover, HandoverError};
use endplate_runtime::{ControlLoop, FaultPlan, Inbox, InferenceLoop, PlayRules, TickRecord};
use endplate_sim::fault::{FaultKind, FaultPlan as BodyFaults};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where the clock starts; fault windows count from here.
pub const START: Instant = Instant::from_nanos(1_000_000_000);
/// Cameras and joints come up before activation.
pub const WARM_UP: Duration = Duration::from_millis(150);
const FRAME_PERIOD: Duration = Duration::from_millis(33);
const FUTURE: Duration = Duration::from_millis(179);
const CLOCK_STEP: Duration = Duration::from_millis(500);
/// Share of the way to its goal a joint goes in a period: a servo's lag.
const FOLLOW: f64 = 0.35;

struct Joints {
    position_rad: JointVec,
    goal_rad: JointVec,
    stamp: Instant,
}

type Shared = Arc<Mutex<Joints>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Joints> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct KinematicArm {
    joints: Shared,
    faults: Arc<BodyFaults>,
}

impl KinematicArm {
    fn fails(&self, kind: FaultKind, now: Instant) -> bool {
        self.faults.strikes(kind, None, now.duration_since(START))
    }
}

impl Arm for KinematicArm {
    fn joints(&self) -> usize {
        lock(&self.joints).position_rad.len()
    }

    fn read(&mut self, now: Instant) -> Result<JointState, BusError> {
        if self.fails(FaultKind::StateLoss, now) {
            return Err(BusError::Timeout { servo: 0 });
        }
        let (mut position_rad, mut stamp) = {
            let joints = lock(&self.joints);
            (joints.position_rad, joints.stamp)
        };
        if self.fails(FaultKind::StateJump, now) {
            position_rad[2] += 0.8;
        }
        if self.fails(FaultKind::ClockStep, now) {
            stamp = stamp.saturating_sub(CLOCK_STEP);
        }
        Ok(JointState { stamp, position_rad, velocity_rad_s: JointVec::zeros(position_rad.len()), effort_nm: None })
    }

    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError> {
        if now > command.valid_until() {
            return Err(BusError::Expired);
        }
        if self.fails(FaultKind::BusError, now) {
            return Err(BusError::Timeout { servo: 0 });
        }
        let mut joints = lock(&self.joints);
        joints.goal_rad.copy_from_slice(command.position_rad());
        Ok(Sent { stamp: now, position_rad: joints.goal_rad })
    }

    fn set_torque(&mut self, _: Instant, _: bool) -> Result<(), BusError> {
        Ok(())
    }
}

struct BlindCamera {
    name: String,
    faults: Arc<BodyFaults>,
    due: Instant,
    taken: u64,
}

impl Camera for BlindCamera {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> (u32, u32) {
        (1, 1)
    }

    fn capture(&mut self, now: Instant, frame: &mut Frame) -> Result<bool, CameraError> {
        if now < self.due {
            return Ok(false);
        }
        self.due = self.due.saturating_add(FRAME_PERIOD);
        self.taken += 1;
        let elapsed = now.duration_since(START);
        let fails = |kind| self.faults.strikes(kind, Some(&self.name), elapsed);
        if fails(FaultKind::CameraDrop) {
            return Ok(false);
        }
        let mut captured = now;
        if self.faults.strikes(FaultKind::ClockStep, None, elapsed) {
            captured = captured.saturating_sub(CLOCK_STEP);
        }
        if fails(FaultKind::CameraFreeze) {
            frame.captured = captured;
            return Ok(true);
        }
        if fails(FaultKind::CameraDuplicate) && self.taken.is_multiple_of(2) {
            return Ok(true);
        }
        if fails(FaultKind::CameraFutureStamp) {
            captured = captured.saturating_add(FUTURE);
        }
        (frame.captured, frame.available, frame.sequence) = (captured, now, self.taken);
        Ok(true)
    }
}

/// Draws chunks: half-sines from the observed joints to anywhere, sometimes far beyond what a joint can follow.
struct DrawnPolicy {
    spec: PolicySpec,
    draw: Draw,
    fault: OutputFault,
}

impl Policy for DrawnPolicy {
    fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        _: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        let (horizon, dims) = (chunk.horizon(), chunk.dims());
        let wild = if self.draw.unit() < 0.1 { 4.0 } else { 0.6 };
        for dim in 0..dims {
            let from = observation.state.position_rad[dim];
            let (reach, rate) = (self.draw.between(-wild, wild), self.draw.between(0.1, 0.6));
            for row in 0..horizon {
                chunk.rows_mut()[row * dims + dim] = from + reach * (rate * row as f64).sin();
            }
        }
        let last = horizon * dims - 1;
        match self.fault {
            OutputFault::None => {}
            // A policy that notices refuses; one that does not lets it through to the scheduler.
            OutputFault::Nan if self.draw.unit() < 0.5 => return Err(PolicyError::NonFinite { row: 0, dim: 0 }),
            OutputFault::Nan => chunk.rows_mut()[last] = f64::NAN,
            OutputFault::Inf => chunk.rows_mut()[0] = f64::INFINITY,
            OutputFault::Huge => chunk.rows_mut()[last / 2] = 1e6,
            OutputFault::TokensGarbage | OutputFault::TokensTruncated => {
                return Err(PolicyError::NonFiniteLogits { token: 0 });
            }
        }
        let period = self.spec.chunk.row_period;
        chunk.set(period, observation.anchor, committed.epoch, None, Stages::default());
        Ok(StopReason::Complete)
    }

    fn check_instruction(&self, _: &str) -> Result<(), PolicyError> {
        Ok(())
    }

    fn reset(&mut self, _: Epoch) {}

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        Duration::ZERO
    }
}

/// Uniform draws that depend on the seed alone (SplitMix64).
pub struct Draw(pub u64);

impl Draw {
    /// In 0..1.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In low..high.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
}

/// Why a kinematic robot could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The limits.
    #[error(transparent)]
    Safety(#[from] SafetyError),
    /// The handover.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What is run.
pub struct Trial<'a> {
    /// The robot.
    pub robot: &'a RobotSpec,
    /// Shape of the chunks.
    pub policy: &'a PolicySpec,
    /// What the chunks are drawn from.
    pub seed: u64,
    /// How chunks are handed over.
    pub handover: Handover,
    /// How long answers take, in turn.
    pub latencies: Vec<Duration>,
    /// What goes wrong with body and sensors.
    pub body: Arc<BodyFaults>,
    /// What goes wrong behind them.
    pub inner: FaultPlan,
    /// How long it runs.
    pub length: Duration,
}

impl Trial<'_> {
    /// Runs, handing every period's record to `each`.
    pub fn run(self, mut each: impl FnMut(&TickRecord)) -> Result<(), SetUpError> {
        let period = self.robot.control.period;
        let middle = self.robot.joints.iter().map(|joint| (joint.limits.lower_rad + joint.limits.upper_rad) / 2.0);
        let position_rad = JointVec::from_slice(&middle.collect::<Vec<f64>>())
            .ok_or_else(|| SetUpError::Other("too many joints".to_owned()))?;
        let joints: Shared = Arc::new(Mutex::new(Joints { position_rad, goal_rad: position_rad, stamp: START }));
        let cameras: Vec<Box<dyn Camera>> = self
            .robot
            .cameras
            .iter()
            .enumerate()
            .map(|(index, camera)| {
                let due = START.saturating_add(Duration::from_millis(7 * index as u64));
                let faults = Arc::clone(&self.body);
                Box::new(BlindCamera { name: camera.name.clone(), faults, due, taken: 0 }) as _
            })
            .collect();
        let (mut cameras, mut bank, watch) = camera_loops(cameras, false);
        let dims = self.policy.actions.dims();
        let rules = PlayRules {
            interpolation: dims.iter().map(|dim| dim.interpolation).collect(),
            execute_rows: self.policy.chunk.execute_rows,
            max_age: self.robot.control.max_chunk_age,
        };
        let arm = KinematicArm { joints: Arc::clone(&joints), faults: Arc::clone(&self.body) };
        let robot = Robot::new(vec![Box::new(arm)]).map_err(|error| SetUpError::Other(error.to_string()))?;
        let mut control = ControlLoop::new(self.robot.clone(), robot, rules)?;
        let blending: Vec<_> = dims.iter().map(|dim| dim.blending).collect();
        control.set_handover(self.handover, &blending);
        let (producer, mut records) = rtrb::RingBuffer::new(8);
        control.set_records(Some(producer));
        let policy = DrawnPolicy { spec: self.policy.clone(), draw: Draw(self.seed), fault: OutputFault::None };
        let control_spec = &self.robot.control;
        let mut inference = InferenceLoop::new(Box::new(policy), "", control_spec.deadline, control_spec.state_max_age);
        inference.set_handover(self.handover)?;
        let other = |error: endplate_runtime::LifecycleError| SetUpError::Other(error.to_string());
        control.configure(START).map_err(other)?;
        let step = |now: Instant| {
            let mut joints = lock(&joints);
            let goal = joints.goal_rad;
            for (position, goal) in joints.position_rad.iter_mut().zip(goal.iter()) {
                *position += (goal - *position) * FOLLOW;
            }
            joints.stamp = now;
        };
        let nothing =
            Inbox { chunk: None, cameras: &[], refused_in_a_row: 0, epoch: Epoch(0), estop: false, missed: 0 };
        let mut now = START;
        while now < START.saturating_add(WARM_UP) {
            now = now.saturating_add(period);
            step(now);
            for camera in &mut cameras {
                camera.step(now);
            }
            control.tick(now, &nothing);
        }
        control.activate(now, Epoch(0)).map_err(other)?;
        simulated::run(
            &mut Simulated {
                control: &mut control,
                inference: &mut inference,
                cameras: &mut cameras,
                bank: &mut bank,
                watch: &watch,
                plant: &mut |now| step(now),
                latency: &mut Latency::new(LatencyModel::Trace(self.latencies)),
                faults: &self.inner,
                instructions: &["something else".to_owned()],
            },
            START,
            now,
            self.length,
            period,
            |_, _| {
                while let Ok(record) = records.pop() {
                    each(&record);
                }
                Flow::Continue
            },
        );
        Ok(())
    }
}
