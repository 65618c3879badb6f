//! A body without physics for timings: an arm that is where it was told to be, cameras whose images are decoded already.

use super::super::error::CliError;
use core::time::Duration;
use endplate_hal::{
    Arm, BusError, Camera, CameraError, Frame, Instant, JointState, JointVec, Robot, RobotSpec, SafeCommand, Sent,
};
use endplate_policies::PolicySpec;
use endplate_runtime::drive::{CameraBank, CameraLoop, CameraWatch, camera_loops};
use endplate_runtime::{ControlLoop, PlayRules};

/// An arm that is where it was told to be.
pub struct DirectArm {
    position_rad: JointVec,
}

impl Arm for DirectArm {
    fn joints(&self) -> usize {
        self.position_rad.len()
    }

    fn read(&mut self, now: Instant) -> Result<JointState, BusError> {
        let joints = self.joints();
        Ok(JointState {
            stamp: now,
            position_rad: self.position_rad,
            velocity_rad_s: JointVec::zeros(joints),
            effort_nm: None,
        })
    }

    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError> {
        if now > command.valid_until() {
            return Err(BusError::Expired);
        }
        self.position_rad = JointVec::from_fn(self.joints(), |joint| command.position_rad()[joint]);
        Ok(Sent { stamp: now, position_rad: self.position_rad })
    }

    fn set_torque(&mut self, _: Instant, _: bool) -> Result<(), BusError> {
        Ok(())
    }
}

/// A camera at a fixed rate whose image is in the buffer already: what is left is the hand-off.
struct ReadyCamera {
    name: String,
    size: (u32, u32),
    interval: Duration,
    next: Instant,
    sequence: u64,
}

impl Camera for ReadyCamera {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn capture(&mut self, now: Instant, frame: &mut Frame) -> Result<bool, CameraError> {
        if now < self.next {
            return Ok(false);
        }
        self.next = now.saturating_add(self.interval);
        self.sequence += 1;
        (frame.sequence, frame.captured, frame.available) = (self.sequence, now, now);
        // So that no two images are the same.
        let byte = self.sequence as usize * 997 % frame.data.len();
        frame.data[byte] = frame.data[byte].wrapping_add(1);
        Ok(true)
    }
}

/// The built-in robot's control loop over a [`DirectArm`] at `position_rad`, configured.
pub fn control(
    robot: &RobotSpec,
    policy: &PolicySpec,
    position_rad: JointVec,
    now: Instant,
) -> Result<ControlLoop, CliError> {
    let arms = Robot::new(vec![Box::new(DirectArm { position_rad })]).map_err(CliError::failed)?;
    let rules = PlayRules {
        interpolation: policy.actions.dims().iter().map(|dim| dim.interpolation).collect(),
        execute_rows: policy.chunk.execute_rows,
        max_age: robot.control.max_chunk_age,
    };
    let mut control = ControlLoop::new(robot.clone(), arms, rules).map_err(CliError::failed)?;
    control.configure(now).map_err(CliError::failed)?;
    Ok(control)
}

/// One camera a slot of the policy, `size` pixels, `rate_hz` frames a second.
pub fn cameras(policy: &PolicySpec, size: (u32, u32), rate_hz: f64) -> (Vec<CameraLoop>, CameraBank, CameraWatch) {
    let cameras = policy.cameras.iter().map(|slot| {
        Box::new(ReadyCamera {
            name: slot.name.clone(),
            size,
            interval: Duration::from_secs_f64(1.0 / rate_hz),
            next: Instant::ZERO,
            sequence: 0,
        }) as Box<dyn Camera>
    });
    camera_loops(cameras.collect(), false)
}
