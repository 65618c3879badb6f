//! The robot at the other end: joint states at 100 Hz, an image stream when it floods, and somebody who takes commands.

use super::failed;
use crate::cli::error::CliError;
use core::time::Duration;
use endplate_hal::RobotSpec;
use endplate_ros2::interface::{Float64MultiArray, Header, Image, JointState, Message, encode_into};
use endplate_ros2::message::Stamp;
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::{Endpoint, Publisher, Transport};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

/// Its topics.
pub const STATES: &str = "/joint_states";
pub const COMMANDS: &str = "/position_controller/commands";
pub const CAMERA: &str = "/front/image_raw";
/// Width and height of its images, pixels.
pub const IMAGE: (u32, u32) = (640, 480);
/// Joint states of a robot that behaves.
const STATE_PERIOD: Duration = Duration::from_millis(10);
/// Joint states behind each image of a flood.
const STATES_AN_IMAGE: usize = 50;

/// A robot that publishes.
pub struct Wired {
    running: Arc<AtomicBool>,
    flooding: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _commands: Box<dyn Endpoint>,
    _transport: Arc<dyn Transport>,
}

struct Publishers {
    states: Box<dyn Publisher>,
    images: Box<dyn Publisher>,
    names: Vec<String>,
    buffer: Vec<u8>,
    pixels: Vec<u8>,
}

fn stamp() -> Stamp {
    Stamp::since_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()).unwrap_or_default()
}

impl Publishers {
    /// What the network does not take is lost, as it would be.
    fn state(&mut self) {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let zeros = vec![0.0; names.len()];
        let message = JointState {
            header: Header { stamp: stamp(), frame_id: "" },
            name: (&names).into(),
            position: (&zeros).into(),
            velocity: (&zeros).into(),
            ..Default::default()
        };
        if let Ok(bytes) = encode_into(&message, &mut self.buffer) {
            let _ = self.states.publish(bytes);
        }
    }

    fn image(&mut self) {
        let (width, height) = IMAGE;
        let header = Header { stamp: stamp(), frame_id: "front" };
        let image =
            Image { header, height, width, encoding: "rgb8", is_bigendian: 0, step: width * 3, data: &self.pixels };
        if let Ok(bytes) = encode_into(&image, &mut self.buffer) {
            let _ = self.images.publish(bytes);
        }
    }
}

impl Wired {
    pub fn start(transport: Arc<dyn Transport>, spec: &RobotSpec) -> Result<Self, CliError> {
        let mut publishers = Publishers {
            states: transport.publisher(STATES, JointState::TYPE, Qos::SYSTEM).map_err(failed)?,
            images: transport.publisher(CAMERA, Image::TYPE, Qos::SENSOR).map_err(failed)?,
            names: spec.joints.iter().map(|joint| joint.name.clone()).collect(),
            buffer: Vec::new(),
            pixels: vec![127; (IMAGE.0 * IMAGE.1 * 3) as usize],
        };
        let commands =
            transport.subscribe(COMMANDS, Float64MultiArray::TYPE, Qos::SYSTEM, Box::new(|_, _| {})).map_err(failed)?;
        let (running, flooding) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (is_running, is_flooding) = (Arc::clone(&running), Arc::clone(&flooding));
        let run = move || {
            while is_running.load(Ordering::Relaxed) {
                if is_flooding.load(Ordering::Relaxed) {
                    publishers.image();
                    (0..STATES_AN_IMAGE).for_each(|_| publishers.state());
                } else {
                    publishers.state();
                    std::thread::sleep(STATE_PERIOD);
                }
            }
        };
        let thread = std::thread::Builder::new().name("bench-robot".into()).spawn(run).map_err(CliError::failed)?;
        Ok(Self { running, flooding, thread: Some(thread), _commands: commands, _transport: transport })
    }

    /// Begins or ends a flood.
    pub fn flood(&self, on: bool) {
        self.flooding.store(on, Ordering::Relaxed);
    }
}

impl Drop for Wired {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has been printed
        }
    }
}
