//! Arms, robots made of arms, and other places a safe command may go.

use crate::joints::{JointState, JointVec, MAX_JOINTS};
use crate::safety::SafeCommand;
use crate::time::{Clock, Instant};

/// What is wrong with a servo that answers.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HealthFault {
    /// Above its temperature threshold.
    #[error("too hot: let it cool, and lighten its load")]
    Temperature,
    /// Above its load threshold.
    #[error("overloaded: free the joint")]
    Load,
    /// Outside its voltage thresholds.
    #[error("the supply voltage is out of range: check supply and wiring")]
    Voltage,
    /// It raises an alarm of its own.
    #[error("it raises an alarm: read it with `endplate servo read`, and switch its power off and on")]
    Alarm,
}

/// Why a bus transaction failed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// A servo did not answer in time.
    #[error("servo {servo} did not answer in time")]
    Timeout {
        /// Index of the joint whose servo was silent.
        servo: usize,
    },
    /// An answer arrived damaged.
    #[error("the answer of servo {servo} is damaged")]
    Checksum {
        /// Index of the joint whose servo answered.
        servo: usize,
    },
    /// The device refused the request.
    #[error("servo {servo} refused the request")]
    Refused {
        /// Index of the joint whose servo refused.
        servo: usize,
    },
    /// An answer that no servo can mean: a step beyond what the joint can make. It is not taken for a state.
    #[error("servo {servo} answered with a position its joint cannot have reached")]
    Implausible {
        /// Index of the joint.
        servo: usize,
    },
    /// A servo is beyond one of its declared thresholds, or says so itself.
    #[error("servo {servo}: {what}")]
    Unhealthy {
        /// Index of the joint.
        servo: usize,
        /// What is wrong.
        what: HealthFault,
    },
    /// The device is gone.
    #[error("the bus is disconnected")]
    Disconnected,
    /// The command was past its `valid_until` and was not sent.
    #[error("the command had expired and was not sent")]
    Expired,
    /// The command is for another number of joints.
    #[error("the command has {got} joints and the arm {needed}")]
    Joints {
        /// Joints of the arm.
        needed: usize,
        /// Joints of the command.
        got: usize,
    },
}

impl BusError {
    /// The name of the kind, for counters.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Checksum { .. } => "checksum",
            Self::Refused { .. } => "refused",
            Self::Implausible { .. } => "implausible",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Disconnected => "disconnected",
            Self::Expired => "expired",
            Self::Joints { .. } => "joints",
        }
    }
}

/// What an arm really sent: after quantisation to servo counts, for example.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Sent {
    /// When it left.
    pub stamp: Instant,
    /// `[D]` rad, as sent.
    pub position_rad: JointVec,
}

/// A chain of joints behind one bus.
///
/// # Real-time
/// `read` and `write` do not allocate. A bus that blocks has a thread of its own and stands behind this trait with
/// the latest value.
pub trait Arm: Send {
    /// Number of joints, in the order of the robot description.
    fn joints(&self) -> usize;

    /// The newest joint state, stamped when it was sampled.
    ///
    /// # Errors
    /// [`BusError`]; there is no state then, and none is made up.
    fn read(&mut self, now: Instant) -> Result<JointState, BusError>;

    /// Sends a command and returns what was really sent.
    ///
    /// # Errors
    /// [`BusError::Expired`] for a command past its `valid_until`: such a command never reaches a servo.
    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError>;

    /// Switches the torque of every servo.
    ///
    /// # Errors
    /// [`BusError`] when a servo did not confirm.
    fn set_torque(&mut self, now: Instant, on: bool) -> Result<(), BusError>;

    /// Whether the device has a cycle of its own that [`wait_for_cycle`](Self::wait_for_cycle) follows.
    fn sets_the_pace(&self) -> bool {
        false
    }

    /// Waits for the device's next cycle, until `until` at the latest; whether the cycle came. The place where an arm
    /// that sets the pace may block; everything else about it still must not.
    fn wait_for_cycle(&mut self, clock: &dyn Clock, until: Instant) -> bool {
        clock.sleep_until(until);
        false
    }
}

/// A place that publishes commands without ever blocking: a ROS 2 topic, a Zenoh key.
pub trait CommandSink: Send {
    /// Hands the command over; a sink that cannot take it at once drops and counts it.
    ///
    /// # Real-time
    /// Does not allocate, lock or block.
    fn publish(&mut self, command: &SafeCommand);

    /// Commands dropped so far.
    fn dropped(&self) -> u64;
}

/// One or more arms under one ladder: they are read together, commanded together and stop together.
pub struct Robot {
    arms: Vec<Box<dyn Arm>>,
    joints: usize,
}

/// Why arms do not make a robot.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RobotError {
    /// No arm was given.
    #[error("a robot needs at least one arm")]
    NoArm,
    /// More joints than a joint vector holds.
    #[error("{0} joints are more than the {MAX_JOINTS} supported")]
    TooManyJoints(usize),
}

impl Robot {
    /// A robot of these arms; its joints are theirs, in order.
    ///
    /// # Errors
    /// [`RobotError`] for no arm or too many joints.
    pub fn new(arms: Vec<Box<dyn Arm>>) -> Result<Self, RobotError> {
        let joints = arms.iter().map(|arm| arm.joints()).sum();
        match joints {
            _ if arms.is_empty() => Err(RobotError::NoArm),
            joints if joints > MAX_JOINTS => Err(RobotError::TooManyJoints(joints)),
            joints => Ok(Self { arms, joints }),
        }
    }

    /// Number of joints of all arms.
    pub fn joints(&self) -> usize {
        self.joints
    }

    /// Whether the first arm, which sets the pace for all, has a cycle of its own.
    pub fn sets_the_pace(&self) -> bool {
        self.arms.first().is_some_and(|arm| arm.sets_the_pace())
    }

    /// Waits for the next cycle of the first arm, until `until` at the latest; whether it came.
    pub fn wait_for_cycle(&mut self, clock: &dyn Clock, until: Instant) -> bool {
        self.arms.first_mut().is_some_and(|arm| arm.wait_for_cycle(clock, until))
    }

    /// The joint state of all arms, with the **oldest** of their stamps.
    ///
    /// # Errors
    /// The first arm's [`BusError`]: half a state is no state.
    pub fn read(&mut self, now: Instant) -> Result<JointState, BusError> {
        let mut whole = JointState {
            stamp: now,
            position_rad: JointVec::zeros(self.joints),
            velocity_rad_s: JointVec::zeros(self.joints),
            effort_nm: Some(JointVec::zeros(self.joints)),
        };
        let mut at = 0;
        for (index, arm) in self.arms.iter_mut().enumerate() {
            let part = arm.read(now)?;
            let end = at + arm.joints();
            whole.stamp = if index == 0 { part.stamp } else { whole.stamp.min(part.stamp) };
            whole.position_rad[at..end].copy_from_slice(&part.position_rad);
            whole.velocity_rad_s[at..end].copy_from_slice(&part.velocity_rad_s);
            match (&mut whole.effort_nm, part.effort_nm) {
                (Some(effort), Some(of_part)) => effort[at..end].copy_from_slice(&of_part),
                (effort, _) => *effort = None,
            }
            at = end;
        }
        Ok(whole)
    }

    /// Sends each arm its part of the command.
    ///
    /// # Errors
    /// The first arm's [`BusError`]; arms after it are still written, so that one dead arm does not leave another
    /// chasing an old goal.
    pub fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError> {
        let got = command.position_rad().len();
        if got != self.joints {
            return Err(BusError::Joints { needed: self.joints, got });
        }
        let mut sent = Sent { stamp: now, position_rad: JointVec::zeros(self.joints) };
        let mut failure = None;
        let mut at = 0;
        for arm in &mut self.arms {
            let end = at + arm.joints();
            match arm.write(now, &command.part(at..end)) {
                Ok(part) => sent.position_rad[at..end].copy_from_slice(&part.position_rad),
                Err(error) => failure = failure.or(Some(error)),
            }
            at = end;
        }
        failure.map_or(Ok(sent), Err)
    }

    /// Switches the torque of every arm; all are asked even when one fails.
    ///
    /// # Errors
    /// The first arm's [`BusError`].
    pub fn set_torque(&mut self, now: Instant, on: bool) -> Result<(), BusError> {
        let mut result = Ok(());
        for arm in &mut self.arms {
            result = result.and(arm.set_torque(now, on));
        }
        result
    }
}
