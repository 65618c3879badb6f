//! Fits and stores what relates raw numbers to physical ones.
//!
//! - **Normalisation statistics**, per joint or action dimension, in the quantile form of openpi
//!   (`y = 2·(x − q01)/(q99 − q01 + 1e−6) − 1`, no clipping). Normalised values are a type of their own in the crate
//!   that uses them; here they are the plain output of [`Quantiles::normalise`].
//! - **Servos**: [`MotorCalibrations`], LeRobot's files and units with their quirks, and [`plausibility`], which names
//!   what is stale, foreign or shifted before torque.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod lerobot;
pub mod plausibility;
mod statistics;

pub use lerobot::{LeRobotUnits, MotorCalibration, MotorCalibrationError, MotorCalibrations, NormMode, UnitsError};
pub use statistics::{DatasetStatistics, Quantiles, StatisticsError};
