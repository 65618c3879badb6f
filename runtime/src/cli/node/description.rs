//! The robot's own description, taken where it is offered: it can only narrow what the node may command.

use crate::cli::error::CliError;
use core::fmt;
use core::time::Duration;
use endplate_hal::JointSpec;
use endplate_ros2::interface::{Message, Text, decode};
use endplate_ros2::node::{Narrowed, RobotDescription};
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::{Endpoint, Transport, TransportError};
use std::sync::{Arc, Mutex, PoisonError};

/// How long a description that is offered may take to come.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Listens for the description.
pub struct Watch {
    topic: String,
    newest: Arc<Mutex<Option<String>>>,
    _endpoint: Box<dyn Endpoint>,
}

/// One line about a joint whose limits were narrowed.
pub struct Line {
    topic: String,
    narrowed: Narrowed,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Narrowed { joint, from, to } = &self.narrowed;
        write!(
            f,
            "{}: joint {joint} may go from {:.4} to {:.4} rad at {:.3} rad/s (robot description file: {:.4} to {:.4}, {:.3})",
            self.topic,
            to.lower_rad,
            to.upper_rad,
            to.velocity_rad_s,
            from.lower_rad,
            from.upper_rad,
            from.velocity_rad_s
        )
    }
}

impl Watch {
    /// Asks for the latched description.
    pub fn start(transport: &dyn Transport, topic: &str) -> Result<Self, TransportError> {
        let newest = Arc::new(Mutex::new(None));
        let taken = Arc::clone(&newest);
        let on = Box::new(move |bytes: &[u8], _| {
            if let Ok(text) = decode::<Text>(bytes) {
                *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.data.to_owned());
            }
        });
        let endpoint = transport.subscribe(topic, Text::TYPE, Qos::LATCHED, on)?;
        Ok(Self { topic: topic.to_owned(), newest, _endpoint: endpoint })
    }

    /// Waits for a description a moment, and narrows the limits to it; nothing changes where none is offered.
    pub fn narrow(&self, joints: &mut [JointSpec]) -> Result<Vec<Line>, CliError> {
        let start = std::time::Instant::now();
        while self.text().is_none() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        let Some(text) = self.text() else { return Ok(Vec::new()) };
        let refuse = |error: &dyn fmt::Display| CliError::Input(format!("{}: {error}", self.topic));
        let description = RobotDescription::parse(&text).map_err(|error| refuse(&error))?;
        let narrowed = description.narrow(joints).map_err(|error| refuse(&error))?;
        Ok(narrowed.into_iter().map(|narrowed| Line { topic: self.topic.clone(), narrowed }).collect())
    }

    /// Whether the node may move with these limits: a description that came later must not be narrower.
    pub fn allows(&self, joints: &[JointSpec]) -> Result<(), String> {
        let Some(text) = self.text() else { return Ok(()) };
        let narrowed = RobotDescription::parse(&text).and_then(|description| description.narrow(&mut joints.to_vec()));
        match narrowed.map_err(|error| error.to_string())?.first() {
            None => Ok(()),
            Some(narrowed) => {
                let line = Line { topic: self.topic.clone(), narrowed: narrowed.clone() };
                Err(format!("{line}: it came after the limits were set; start the node again"))
            }
        }
    }

    fn text(&self) -> Option<String> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
