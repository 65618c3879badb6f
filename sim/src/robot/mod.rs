//! The simulated robot behind the hardware traits.
//!
//! A driver outside moves the world with [`SimRobot::advance_to`]: a thread following the real clock,
//! or the loop of a simulated run. What the world shows crosses to its users through small
//! latest-value ports: a read or a write waits at most for a copy of one joint state, a capture for
//! a copy of one image, and neither ever waits for physics or drawing or allocates.
//!
//! What makes it like hardware: joint positions in encoder counts with the stamp of their sampling; goals
//! rounded to counts, latched until the next one, and followed by servos that sag; cameras that run at a
//! rate and phase of their own and deliver late; commands refused after their time.

mod devices;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use endplate_hal::{Frame, Instant, JointState, JointVec, Pacing, RobotSpec};

use devices::{ArmPort, CameraPort, Darkroom, Delivery, Negative};
pub use devices::{SimArm, SimCamera};

use crate::fault::{FaultKind, FaultPlan};
use crate::look::Look;
use crate::model::{CUBES, JOINTS, Model, ModelError};
use crate::moving::CubeMotion;
use crate::physics::{CubePose, ENCODER_COUNTS, Physics, STEP, quantise_rad};
use crate::raster::Renderer;
use crate::scene::Scene;

/// How far a `camera_future_stamp` reaches.
const FUTURE_STAMP: Duration = Duration::from_millis(179);
/// How far a `clock_step` jumps back.
const CLOCK_STEP: Duration = Duration::from_millis(500);

/// A camera of the simulated robot.
#[derive(Clone, Debug, PartialEq)]
pub struct SimCameraOptions {
    /// Name of a camera in the model.
    pub name: String,
    /// Image width, pixels.
    pub width: u32,
    /// Image height, pixels.
    pub height: u32,
    /// Frames per second, above 0 and at most 500.
    pub rate_hz: f64,
    /// Time from capture to availability.
    pub lag: Duration,
    /// Time of the first capture after the start of an episode.
    pub phase: Duration,
}

/// How a simulated robot is made.
#[derive(Debug)]
pub struct SimOptions {
    /// Cameras in order.
    pub cameras: Vec<SimCameraOptions>,
    /// Light, colours, camera displacement.
    pub look: Look,
    /// Faults of body and sensors; other kinds in the plan are the runtime's business.
    pub faults: Arc<FaultPlan>,
    /// The cycle of the arm's own electronics, where they set the pace of the control loop.
    pub cycle: Option<Duration>,
    /// Images are drawn when they are asked for, not when they are taken: the same pixels, and no work for those that
    /// nobody asks for. Who asks then waits for the drawing.
    pub draws_on_demand: bool,
}

impl SimOptions {
    /// The cameras of a robot description, with phases of their own; nominal look, no faults.
    pub fn from_spec(spec: &RobotSpec) -> Self {
        let cameras = spec
            .cameras
            .iter()
            .enumerate()
            .map(|(index, camera)| SimCameraOptions {
                name: camera.name.clone(),
                width: camera.width,
                height: camera.height,
                rate_hz: camera.rate_hz,
                lag: camera.lag,
                phase: Duration::from_millis(3 + 6 * index as u64),
            })
            .collect();
        let cycle = (spec.control.pacing == Pacing::Hardware).then_some(spec.control.period);
        Self { cameras, look: Look::default(), faults: Arc::default(), cycle, draws_on_demand: false }
    }
}

/// Why a simulated robot cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The model lacks a camera that was asked for.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A rate that the world cannot serve.
    #[error("camera `{camera}`: {rate_hz} Hz is not above 0 and at most 500 Hz")]
    Rate {
        /// The camera.
        camera: String,
        /// The rate.
        rate_hz: f64,
    },
    /// A fault names a camera the robot does not have.
    #[error("fault `{fault}`: the robot's cameras are {}", known.join(", "))]
    FaultCamera {
        /// The fault.
        fault: String,
        /// The robot's cameras.
        known: Vec<String>,
    },
}

/// A camera as the world runs it.
struct Shutter {
    options: SimCameraOptions,
    darkroom: Darkroom,
    image: Vec<u8>,
    /// Captures since the start of the episode.
    captures: u64,
    /// Driver's sequence number of the last capture.
    sequence: u64,
    /// Whether the last frame of a `camera_duplicate` window was the repeated one.
    has_repeated: bool,
}

impl Shutter {
    fn due(&self) -> Duration {
        self.options.phase + Duration::from_nanos((self.captures as f64 * 1e9 / self.options.rate_hz).round() as u64)
    }
}

struct Engine {
    physics: Physics,
    origin: Instant,
    shutters: Vec<Shutter>,
    look: Arc<Look>,
    motion: Option<CubeMotion>,
    draws_on_demand: bool,
}

struct Shared {
    engine: Mutex<Engine>,
    arm: Mutex<ArmPort>,
    cameras: Vec<(SimCameraOptions, Mutex<CameraPort>)>,
    faults: Arc<FaultPlan>,
    cycle: Option<Duration>,
}

/// A panic elsewhere leaves plain numbers behind a lock, which stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle to the simulated robot; clones share one world.
#[derive(Clone)]
pub struct SimRobot {
    shared: Arc<Shared>,
}

impl SimRobot {
    /// A robot at rest in `scene` at the instant `now`, torque on.
    ///
    /// # Errors
    /// [`SimError`] for a camera the model lacks, a rate out of range, or a fault on an unknown camera.
    pub fn new(model: Arc<Model>, scene: &Scene, options: SimOptions, now: Instant) -> Result<Self, SimError> {
        let SimOptions { cameras, look, faults, cycle, draws_on_demand } = options;
        let look = Arc::new(look);
        let known = || cameras.iter().map(|camera| camera.name.clone()).collect::<Vec<_>>();
        for fault in faults.faults() {
            if fault.camera.as_ref().is_some_and(|camera| !known().contains(camera)) {
                return Err(SimError::FaultCamera { fault: fault.label(), known: known() });
            }
        }
        let mut shutters = Vec::new();
        let mut ports = Vec::new();
        for options in cameras {
            if !(options.rate_hz > 0.0 && options.rate_hz <= 500.0) {
                return Err(SimError::Rate { camera: options.name, rate_hz: options.rate_hz });
            }
            let (width, height) = (options.width, options.height);
            // Room for every image under way through the lag, the newest available one and the next.
            let room = (options.lag.as_secs_f64() * options.rate_hz).ceil() as usize + 3;
            let empty = || Delivery { number: 0, frame: Frame::new(width, height), negative: None };
            let ring = (0..room).map(|_| empty()).collect();
            ports.push((options.clone(), Mutex::new(CameraPort { ring, delivered: 0, first: 1 })));
            shutters.push(Shutter {
                darkroom: Darkroom {
                    camera: model.camera_index(&options.name)?,
                    model: Arc::clone(&model),
                    renderer: Renderer::new(width, height),
                    negative: Negative { poses: Vec::new(), look: Arc::clone(&look) },
                },
                image: vec![0; width as usize * height as usize * 3],
                options,
                captures: 0,
                sequence: 0,
                has_repeated: false,
            });
        }
        let physics = Physics::new(model, scene);
        let arm = ArmPort { origin: now, state: sample(&physics, now), goal_rad: physics.goal(), torque_on: true };
        let engine = Engine { physics, origin: now, shutters, look, motion: None, draws_on_demand };
        Ok(Self {
            shared: Arc::new(Shared {
                engine: Mutex::new(engine),
                arm: Mutex::new(arm),
                cameras: ports,
                faults,
                cycle,
            }),
        })
    }

    /// Starts an episode: the world is built anew in `scene` at the instant `now`, images of the
    /// last episode are gone, torque is on, fault windows count from here, no cube moves. Sequence numbers go on.
    pub fn reset(&self, scene: &Scene, now: Instant) {
        let mut engine = lock(&self.shared.engine);
        engine.physics.reset(scene);
        (engine.origin, engine.motion) = (now, None);
        for (shutter, (_, port)) in engine.shutters.iter_mut().zip(&self.shared.cameras) {
            (shutter.captures, shutter.has_repeated) = (0, false);
            let mut port = lock(port);
            port.first = port.delivered + 1;
        }
        *lock(&self.shared.arm) = ArmPort {
            origin: now,
            state: sample(&engine.physics, now),
            goal_rad: engine.physics.goal(),
            torque_on: true,
        };
    }

    /// Changes light, colours and camera displacement from the next image on.
    pub fn set_look(&self, look: Look) {
        lock(&self.shared.engine).look = Arc::new(look);
    }

    /// Lets a cube move in the present episode; its times count from the episode's start.
    pub fn set_motion(&self, motion: CubeMotion) {
        lock(&self.shared.engine).motion = Some(motion);
    }

    /// Moves the world to `now`, in steps of 2 ms; an earlier instant changes nothing. One step takes about
    /// 35 µs, one 96×96 image half a millisecond.
    pub fn advance_to(&self, now: Instant) {
        let mut engine = lock(&self.shared.engine);
        let engine = &mut *engine;
        loop {
            self.expose(engine);
            let next = engine.origin.saturating_add(engine.physics.time() + STEP);
            if next > now {
                return;
            }
            {
                let arm = lock(&self.shared.arm);
                engine.physics.set_goal(&arm.goal_rad);
                engine.physics.set_torque(arm.torque_on);
            }
            if let Some(motion) = &mut engine.motion {
                motion.drive(&mut engine.physics);
            }
            engine.physics.step();
            lock(&self.shared.arm).state = sample(&engine.physics, next);
        }
    }

    /// Takes the pictures that are due at the world's present.
    fn expose(&self, engine: &mut Engine) {
        let Engine { physics, origin, shutters, look, draws_on_demand, .. } = engine;
        let elapsed = physics.time();
        let now = origin.saturating_add(elapsed);
        for (shutter, (_, port)) in shutters.iter_mut().zip(&self.shared.cameras) {
            if shutter.due() > elapsed {
                continue;
            }
            shutter.captures += 1;
            let name = Some(shutter.options.name.as_str());
            let faulty = |kind, camera| self.shared.faults.strikes(kind, camera, elapsed);
            let available = now.saturating_add(shutter.options.lag);
            let mut stamp = now;
            if faulty(FaultKind::CameraFutureStamp, name) {
                stamp = stamp.saturating_add(FUTURE_STAMP);
            }
            if faulty(FaultKind::ClockStep, None) {
                stamp = stamp.saturating_sub(CLOCK_STEP);
            }
            if faulty(FaultKind::CameraDrop, name) {
                shutter.sequence += 1;
                continue;
            }
            if faulty(FaultKind::CameraFreeze, name) {
                let again = |frame: &mut Frame| (frame.captured, frame.available) = (stamp, available);
                if lock(port).deliver_again(again) {
                    continue;
                }
            }
            let is_duplicated = faulty(FaultKind::CameraDuplicate, name) && !shutter.has_repeated;
            shutter.has_repeated = is_duplicated && lock(port).deliver_again(|frame| frame.available = available);
            if shutter.has_repeated {
                continue;
            }
            shutter.sequence += 1;
            let negative = &mut shutter.darkroom.negative;
            physics.body_poses(&mut negative.poses);
            negative.look = Arc::clone(look);
            if !*draws_on_demand {
                shutter.darkroom.draw(&mut shutter.image);
            }
            // The port is held for the copy of one image only.
            lock(port).deliver(|Delivery { frame, negative, .. }| {
                if *draws_on_demand {
                    let kept = negative.get_or_insert_with(|| shutter.darkroom.negative.clone());
                    kept.clone_from(&shutter.darkroom.negative);
                } else {
                    frame.data.copy_from_slice(&shutter.image);
                }
                (frame.captured, frame.available) = (stamp, available);
                frame.sequence = shutter.sequence;
            });
        }
    }

    /// The arm's bus.
    pub fn arm(&self) -> SimArm {
        SimArm { shared: Arc::clone(&self.shared) }
    }

    /// The cameras in the order of the options; a frame has its pixels when it is captured.
    pub fn cameras(&self) -> Vec<SimCamera> {
        self.cameras_that(false)
    }

    /// As [`cameras`](Self::cameras), but where the robot [draws on demand](SimOptions::draws_on_demand), a frame has
    /// its pixels when it is [developed](endplate_hal::Camera::develop).
    pub fn cameras_that_put_off(&self) -> Vec<SimCamera> {
        self.cameras_that(true)
    }

    fn cameras_that(&self, puts_off: bool) -> Vec<SimCamera> {
        let engine = lock(&self.shared.engine);
        let camera = |(index, shutter): (usize, &Shutter)| {
            let Darkroom { model, camera, negative, .. } = &shutter.darkroom;
            let darkroom = Darkroom {
                model: Arc::clone(model),
                camera: *camera,
                renderer: Renderer::new(shutter.options.width, shutter.options.height),
                negative: negative.clone(),
            };
            SimCamera { shared: Arc::clone(&self.shared), index, delivered: 0, darkroom, puts_off }
        };
        engine.shutters.iter().enumerate().map(camera).collect()
    }

    /// The cubes as they stand, for a judge; no policy sees this.
    pub fn cubes(&self) -> [CubePose; CUBES] {
        lock(&self.shared.engine).physics.cubes()
    }

    /// Where a body of the model is: its place, base frame, m, and its rotation, row by row. For a judge, as
    /// [`cubes`](Self::cubes) is.
    ///
    /// # Errors
    /// [`ModelError::Missing`](crate::model::ModelError::Missing) for a body the model does not have.
    pub fn body(&self, name: &str) -> Result<([f64; 3], [[f64; 3]; 3]), crate::model::ModelError> {
        lock(&self.shared.engine).physics.body(name)
    }

    /// Time of the world since the start of the episode.
    pub fn elapsed(&self) -> Duration {
        lock(&self.shared.engine).physics.time()
    }

    /// Joint positions as they are, rad, without encoder or stamp: for an expert or a judge.
    pub fn joints_rad(&self) -> [f64; JOINTS] {
        lock(&self.shared.engine).physics.joints().0
    }

    /// Latched goals, rad.
    pub fn goal_rad(&self) -> [f64; JOINTS] {
        lock(&self.shared.arm).goal_rad
    }

    /// Position (rad) and velocity (rad/s) of a joint as its encoder has them, a `state_jump` included: for an emulated
    /// bus.
    pub fn measured(&self, joint: usize) -> (f64, f64) {
        let (state, elapsed) = {
            let port = lock(&self.shared.arm);
            (port.state, port.state.stamp.duration_since(port.origin))
        };
        let is_off = joint == devices::JUMP.0 && self.shared.faults.strikes(FaultKind::StateJump, None, elapsed);
        let jump = if is_off { devices::JUMP.1 } else { 0.0 };
        (state.position_rad[joint] + jump, state.velocity_rad_s[joint])
    }

    /// Latches the goal of one joint, rad.
    pub fn latch_goal(&self, joint: usize, goal_rad: f64) {
        lock(&self.shared.arm).goal_rad[joint] = goal_rad;
    }

    /// Switches the torque of all joints.
    pub fn latch_torque(&self, on: bool) {
        lock(&self.shared.arm).torque_on = on;
    }

    /// Whether a fault keeps the servos from answering at present.
    pub fn is_bus_silent(&self) -> bool {
        let elapsed = {
            let port = lock(&self.shared.arm);
            port.state.stamp.duration_since(port.origin)
        };
        [FaultKind::StateLoss, FaultKind::BusError]
            .into_iter()
            .any(|kind| self.shared.faults.strikes(kind, None, elapsed))
    }

    /// The faults and how often each struck.
    pub fn faults(&self) -> &Arc<FaultPlan> {
        &self.shared.faults
    }
}

fn sample(physics: &Physics, stamp: Instant) -> JointState {
    let (position, velocity) = physics.joints();
    JointState {
        stamp,
        position_rad: JointVec::from_fn(JOINTS, |j| quantise_rad(position[j], ENCODER_COUNTS)),
        velocity_rad_s: JointVec::from_fn(JOINTS, |j| velocity[j]),
        effort_nm: None,
    }
}
