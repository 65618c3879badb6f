//! A simulated robot that cannot be told from hardware: physics at 500 Hz, cameras at their own
//! rate with lag, encoders, a bus that refuses late commands, and faults on demand. Beside it the
//! demonstration task, a scripted expert and the recorder of training data.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod mjcf_camera;
mod npy;
mod rng;

#[cfg(unix)]
pub mod bus;
pub mod dataset;
pub mod expert;
pub mod fault;
pub mod kinematics;
pub mod look;
pub mod model;
pub mod moving;
pub mod physics;
pub mod raster;
pub mod robot;
pub mod scene;
pub mod task;

pub use mjcf_camera::MountedCamera;
