//! Fits and stores what relates raw numbers to physical ones.
//!
//! - **Normalisation statistics**, per joint or action dimension, in the quantile form of openpi
//!   (`y = 2·(x − q01)/(q99 − q01 + 1e−6) − 1`, no clipping). Normalised values are a type of their own in the crate
//!   that uses them; here they are the plain output of [`Quantiles::normalise`].
//! - **Servos**: [`MotorCalibrations`], LeRobot's files and units with their quirks, and [`plausibility`], which names
//!   what is stale, foreign or shifted before torque.
//! - **Joints**: [`joints`], the interactive calibration as a state machine over a small device trait.
//! - **Cameras**: [`camera`], pinhole with `plumb_bob` distortion fitted to the corners of a board, outliers left out;
//!   ROS's `camera_info` YAML.
//! - **Hand-eye**: [`hand_eye()`], by Tsai, Park or Daniilidis, with residuals and a warning of motions that say little.
//! - **Latency**: [`latency`], how late motion follows commands and frames follow motion.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod camera;
mod hand_eye;
pub mod joints;
pub mod latency;
mod lerobot;
pub mod plausibility;
mod pose_file;
mod statistics;

pub use hand_eye::{HandEye, HandEyeError, HandEyeMethod, HandEyeResidual, MotionQuality, PosePair, hand_eye};
pub use lerobot::{LeRobotUnits, MotorCalibration, MotorCalibrationError, MotorCalibrations, NormMode, UnitsError};
pub use pose_file::{PoseFile, PoseFileError, PosePairRecord, PoseRecord};
pub use statistics::{DatasetStatistics, Quantiles, StatisticsError};
