//! The devices of the simulated robot as its users hold them, and the latest-value ports behind them.

use std::sync::Arc;

use endplate_hal::{
    Arm, BusError, Camera, CameraError, Clock, Frame, Instant, JointState, JointVec, SafeCommand, Sent,
};

use super::{CLOCK_STEP, Shared, lock};
use crate::fault::FaultKind;
use crate::look::Look;
use crate::model::JOINTS;
use crate::model::Model;
use crate::physics::{ENCODER_COUNTS, quantise_rad};
use crate::raster::{BodyPose, Renderer, View};

/// How far a `state_jump` is off, and at which joint.
pub(super) const JUMP: (usize, f64) = (2, 0.8);

/// What the arm's bus sees: the newest joint state and the latched goal.
pub(super) struct ArmPort {
    pub(super) origin: Instant,
    pub(super) state: JointState,
    pub(super) goal_rad: [f64; JOINTS],
    pub(super) torque_on: bool,
}

/// An image and its number among all deliveries of the camera.
pub(super) struct Delivery {
    pub(super) number: u64,
    pub(super) frame: Frame,
    /// What an image shows that is drawn when it is asked for; `None` where `frame` has its pixels.
    pub(super) negative: Option<Negative>,
}

/// What an image shows, not drawn yet.
#[derive(Clone)]
pub(super) struct Negative {
    pub(super) poses: Vec<BodyPose>,
    pub(super) look: Arc<Look>,
}

/// What a camera's driver holds: the last deliveries.
pub(super) struct CameraPort {
    pub(super) ring: Vec<Delivery>,
    /// Deliveries since the robot was made.
    pub(super) delivered: u64,
    /// Number of the first delivery of this episode.
    pub(super) first: u64,
}

impl CameraPort {
    pub(super) fn deliver(&mut self, fill: impl FnOnce(&mut Delivery)) {
        self.delivered += 1;
        let slot = (self.delivered % self.ring.len() as u64) as usize;
        self.ring[slot].number = self.delivered;
        fill(&mut self.ring[slot]);
    }

    /// Delivers the last image again; false when there is none.
    pub(super) fn deliver_again(&mut self, alter: impl FnOnce(&mut Frame)) -> bool {
        if self.delivered < self.first {
            return false;
        }
        let last = (self.delivered % self.ring.len() as u64) as usize;
        let next = (last + 1) % self.ring.len();
        let [from, to] = if last < next {
            let (low, high) = self.ring.split_at_mut(next);
            [&mut low[last], &mut high[0]]
        } else {
            let (low, high) = self.ring.split_at_mut(last);
            [&mut high[0], &mut low[next]]
        };
        self.delivered += 1;
        to.number = self.delivered;
        to.frame.copy_from(&from.frame);
        to.negative.clone_from(&from.negative);
        alter(&mut to.frame);
        true
    }
}

/// The bus of the simulated arm.
///
/// # Real-time
/// Its methods do not allocate; they wait at most while the world copies a joint state.
pub struct SimArm {
    pub(super) shared: Arc<Shared>,
}

impl Arm for SimArm {
    fn joints(&self) -> usize {
        JOINTS
    }

    fn read(&mut self, now: Instant) -> Result<JointState, BusError> {
        let (mut state, origin) = {
            let port = lock(&self.shared.arm);
            (port.state, port.origin)
        };
        let elapsed = now.duration_since(origin);
        let faulty = |kind| self.shared.faults.strikes(kind, None, elapsed);
        if faulty(FaultKind::StateLoss) {
            return Err(BusError::Timeout { servo: 0 });
        }
        if faulty(FaultKind::StateJump) {
            state.position_rad[JUMP.0] += JUMP.1;
        }
        if faulty(FaultKind::ClockStep) {
            state.stamp = state.stamp.saturating_sub(CLOCK_STEP);
        }
        Ok(state)
    }

    /// Latches the command's positions, rounded to counts, in either mode: position servos follow a velocity
    /// command by the positions that come with it.
    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError> {
        let got = command.position_rad().len();
        let wanted: [f64; JOINTS] =
            command.position_rad().try_into().map_err(|_| BusError::Joints { needed: JOINTS, got })?;
        if now > command.valid_until() {
            return Err(BusError::Expired);
        }
        let mut port = lock(&self.shared.arm);
        if self.shared.faults.strikes(FaultKind::BusError, None, now.duration_since(port.origin)) {
            return Err(BusError::Timeout { servo: 0 });
        }
        if !port.torque_on {
            return Err(BusError::Refused { servo: 0 });
        }
        let goal_rad = wanted.map(|angle| quantise_rad(angle, ENCODER_COUNTS));
        port.goal_rad = goal_rad;
        Ok(Sent { stamp: now, position_rad: JointVec::from_fn(JOINTS, |j| goal_rad[j]) })
    }

    /// Switching on latches the present position as the goal, so that the arm does not jump.
    fn set_torque(&mut self, now: Instant, on: bool) -> Result<(), BusError> {
        let mut port = lock(&self.shared.arm);
        let port = &mut *port;
        if self.shared.faults.strikes(FaultKind::BusError, None, now.duration_since(port.origin)) {
            return Err(BusError::Timeout { servo: 0 });
        }
        if on && !port.torque_on {
            for (goal, &position) in port.goal_rad.iter_mut().zip(port.state.position_rad.iter()) {
                *goal = position;
            }
        }
        port.torque_on = on;
        Ok(())
    }

    fn sets_the_pace(&self) -> bool {
        self.shared.cycle.is_some()
    }

    /// The cycles of this arm's electronics begin at whole multiples of their length.
    fn wait_for_cycle(&mut self, clock: &dyn Clock, until: Instant) -> bool {
        let Some(cycle) = self.shared.cycle.map(|cycle| cycle.as_nanos() as u64).filter(|&cycle| cycle > 0) else {
            clock.sleep_until(until);
            return false;
        };
        let next = Instant::from_nanos((clock.now().as_nanos() / cycle + 1) * cycle);
        clock.sleep_until(next.min(until));
        next <= until
    }
}

/// A camera of the simulated robot.
pub struct SimCamera {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    /// Number of the last delivery handed out.
    pub(super) delivered: u64,
    pub(super) darkroom: Darkroom,
    /// Whether pixels wait for [`Camera::develop`].
    pub(super) puts_off: bool,
}

/// Where images are drawn that were not when they were taken.
pub(super) struct Darkroom {
    pub(super) model: Arc<Model>,
    /// The camera's index in the model.
    pub(super) camera: usize,
    pub(super) renderer: Renderer,
    pub(super) negative: Negative,
}

impl Darkroom {
    /// Draws what an image shows, `[h, w, 3]`.
    pub(super) fn draw(&mut self, image: &mut [u8]) {
        let Self { model, camera, renderer, negative: Negative { poses, look } } = self;
        let view = View::new(&model.cameras[*camera], *camera, poses, look, renderer.size());
        renderer.render(&model.triangles, poses, view, look, image);
    }
}

impl Camera for SimCamera {
    fn name(&self) -> &str {
        &self.shared.cameras[self.index].0.name
    }

    fn size(&self) -> (u32, u32) {
        let options = &self.shared.cameras[self.index].0;
        (options.width, options.height)
    }

    fn capture(&mut self, now: Instant, frame: &mut Frame) -> Result<bool, CameraError> {
        let (options, port) = &self.shared.cameras[self.index];
        let (width, height) = (options.width, options.height);
        if (frame.width, frame.height) != (width, height) || frame.data.len() != (width * height * 3) as usize {
            return Err(CameraError::WrongSize { width, height });
        }
        let port = lock(port);
        let newest = port
            .ring
            .iter()
            .filter(|delivery| delivery.number >= port.first && delivery.frame.available <= now)
            .max_by_key(|delivery| delivery.number);
        let Some(newest) = newest else { return Ok(false) };
        // A healthy driver's new delivery has a new sequence; one that hands out an old image again is a
        // fault, which must reach the caller as the fault it is.
        if newest.number == self.delivered && newest.frame.sequence == frame.sequence {
            return Ok(false);
        }
        self.delivered = newest.number;
        if newest.negative.is_none() {
            frame.copy_from(&newest.frame);
            return Ok(true);
        }
        let Frame { captured, available, sequence, .. } = newest.frame;
        drop(port);
        (frame.captured, frame.available, frame.sequence) = (captured, available, sequence);
        if !self.puts_off {
            self.develop(frame);
        }
        Ok(true)
    }

    fn develop(&mut self, frame: &mut Frame) {
        {
            let port = lock(&self.shared.cameras[self.index].1);
            let shown = port.ring.iter().find(|delivery| delivery.frame.sequence == frame.sequence);
            let Some(negative) = shown.and_then(|delivery| delivery.negative.as_ref()) else { return };
            self.darkroom.negative.clone_from(negative);
        }
        self.darkroom.draw(&mut frame.data);
    }
}
