//! The body's vocabulary: time, joints, frames, devices, kinematics and safety.
//!
//! Everything above this crate speaks in its words: an [`Instant`] is a point on the monotonic clock, a [`JointState`]
//! is stamped when it was sampled, a [`Frame`] knows when it was captured, and the only command an [`Arm`] accepts is a
//! [`SafeCommand`], which only a [`SafetyFilter`] can make.
//!
//! Shapes: `D` joints, `h w c` image. Angles are radians, times are [`Instant`] and `Duration`, never bare numbers.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod arm;
pub mod camera;
mod frame;
mod joints;
mod kinematics;
mod safety;
pub mod servo;
mod spec;
mod time;

pub use arm::{Arm, BusError, CommandSink, HealthFault, Robot, RobotError, Sent};
pub use frame::{Camera, CameraError, Frame, FrameStamp};
pub use joints::{JointState, JointVec, MAX_JOINTS, StateRing, StateRingError};
pub use kinematics::{
    Chain, ChainLink, InverseError, InverseKinematics, InverseRules, Kinematics, KinematicsError, ModelFileError,
    ModelLink, ModelPath,
};
pub use safety::{
    CommandMode, HeldCause, JointCommand, JointLimits, Limit, Motion, SafeCommand, SafetyError, SafetyFilter,
    SafetyLimits, Verdict, WorkspaceBox,
};
pub use spec::{
    ArmSpec, BusSpec, CalibrationLoader, CameraDevice, CameraSpec, ControlSpec, EMULATED, JointSpec, OnSilence, Pacing,
    PixelFormat, PoseSpec, RealtimeSpec, RobotSpec, ServoCalibration, ServoSpec, SpecError, StopCategory,
};
pub use time::{Clock, Instant, MonotonicClock, MotionTime, SimulatedClock};

/// Robot descriptions that come with the crate.
pub mod robots {
    /// The simulated 5-joint arm with a jaw that the built-in demonstration drives.
    pub const SO101_SIM: &str = include_str!("../robots/so101_sim.toml");
    /// The same arm behind an emulated Feetech bus.
    pub const SO101_EMULATED: &str = include_str!("../robots/so101_emulated.toml");
    /// The SO-100 follower arm: copy and fill in ports, cameras and calibration.
    pub const SO100: &str = include_str!("../robots/so100.toml");
    /// The SO-101 follower arm.
    pub const SO101: &str = include_str!("../robots/so101.toml");
    /// The Koch v1.1 follower arm.
    pub const KOCH: &str = include_str!("../robots/koch.toml");
    /// The ViperX 300 S.
    pub const VIPERX: &str = include_str!("../robots/viperx.toml");
}
