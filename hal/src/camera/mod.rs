//! Cameras: V4L2, replay, and what turns their bytes into RGB.

mod decode;
mod frozen;
#[cfg(feature = "gstreamer")]
mod gst;
#[cfg(feature = "mjpeg")]
mod jpeg;
#[cfg(feature = "mjpeg")]
mod mjpeg;
mod replay;
#[cfg(all(feature = "v4l2", target_os = "linux"))]
mod v4l2;

pub use decode::{DecodeError, decode_yuyv};
pub use frozen::FrozenGuard;
#[cfg(feature = "gstreamer")]
pub use gst::GstCamera;
#[cfg(feature = "mjpeg")]
pub use mjpeg::{MjpegDecoder, jpeg_size};
pub use replay::ReplayCamera;
#[cfg(all(feature = "v4l2", target_os = "linux"))]
pub use v4l2::{V4l2Camera, V4l2Counts};

use crate::frame::Camera;
use crate::spec::CameraSpec;
use crate::time::Clock;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a camera does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The device or file cannot be used.
    #[error("camera {camera} on {}: {remedy}", path.display())]
    Device {
        /// The camera.
        camera: String,
        /// Device or file.
        path: PathBuf,
        /// What is wrong and what to do.
        remedy: String,
    },
    /// The driver is not in this build.
    #[error("camera {camera}: driver {driver:?} is not in this build: {remedy}")]
    Driver {
        /// The camera.
        camera: String,
        /// Its driver.
        driver: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// The pipeline of a Jetson's CSI sensor: NVMM memory, converted to RGB on the way to an `appsink`.
pub fn jetson_csi_pipeline(sensor: u32, width: u32, height: u32, rate_hz: f64) -> String {
    let rate = rate_hz.round().max(1.0) as u32;
    format!(
        "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width},height={height},format=NV12,\
framerate={rate}/1 ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=RGB ! appsink name=sink \
max-buffers=1 drop=true sync=false"
    )
}

/// Opens a camera of a robot description.
///
/// # Errors
/// [`OpenError`], naming camera, device and remedy.
pub fn open(spec: &CameraSpec, clock: Arc<dyn Clock>) -> Result<Box<dyn Camera>, OpenError> {
    let refuse = |remedy| OpenError::Driver { camera: spec.name.clone(), driver: spec.driver.clone(), remedy };
    #[cfg(not(any(feature = "gstreamer", all(feature = "v4l2", target_os = "linux"))))]
    let _ = clock;
    let camera: Box<dyn Camera> = match (spec.driver.as_str(), &spec.device.path, &spec.device.folder) {
        #[cfg(all(feature = "v4l2", target_os = "linux"))]
        ("v4l2", Some(path), _) => Box::new(V4l2Camera::open(spec, path, clock)?),
        #[cfg(not(all(feature = "v4l2", target_os = "linux")))]
        ("v4l2", ..) => return Err(refuse("build with the feature `v4l2` on Linux")),
        ("replay", _, Some(folder)) => Box::new(ReplayCamera::open(spec, folder)?),
        #[cfg(feature = "gstreamer")]
        ("gstreamer", ..) => Box::new(GstCamera::open(spec, clock)?),
        #[cfg(not(feature = "gstreamer"))]
        ("gstreamer", ..) => {
            return Err(refuse(
                "build with the feature `gstreamer` (it needs libgstreamer1.0-dev and libgstreamer-plugins-base1.0-dev), or use \
                 \"v4l2\", which also serves USB cameras on a Jetson",
            ));
        }
        _ => return Err(refuse("it belongs to the simulated robot")),
    };
    Ok(match spec.device.frozen_after {
        Some(after) => Box::new(FrozenGuard::new(camera, after)),
        None => camera,
    })
}
