//! Cameras: the pinhole model with `plumb_bob` distortion, its fit to the corners of a board, and ROS's file of it.

mod board;
mod camera_info;
mod corners;
mod fit;
mod model;
mod zhang;

pub use board::{BoardError, CharucoBoard, Detection, Dictionary, Grey};
pub use camera_info::{CameraInfo, CameraInfoError};
pub use corners::{Corner, CornerError, CornerFile, View};
pub use fit::{CameraFit, FitError, FittedView, fit_camera};
pub use model::Intrinsics;
