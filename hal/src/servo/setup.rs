//! What is looked at before torque: who is on the bus, whether it is who was described, and where it stands.

use super::arm::ServoArm;
use super::frame::Protocol;
use super::master::TransactionError;
use super::port::Port;
use super::{Count, dynamixel, feetech};

/// Counts beyond its range at which a joint may stand: a hand may push a little past a mark.
const SLACK_COUNTS: i32 = 60;

/// Why an arm may not be switched on. The text says what to do.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Nobody answers at all.
    #[error(
        "no servo answers at {baud} baud: is the supply on, the cable in, the baud rate right? `endplate servo scan` tries them all"
    )]
    Silent {
        /// The baud rate.
        baud: u32,
    },
    /// One servo does not answer while others do.
    #[error(
        "servo {id} does not answer while others do: is its cable in, and does it have that id? Set one with `endplate servo set-id`, connected alone"
    )]
    Missing {
        /// The id.
        id: u8,
    },
    /// Two servos have one id.
    #[error(
        "more than one servo answers to id {id}: connect one of them alone and give it another id with `endplate servo set-id`"
    )]
    SharedId {
        /// The id.
        id: u8,
    },
    /// Another model than described.
    #[error(
        "servo {id} is a {found} and the description says {wanted}: are the cables of two arms swapped, or the ids of two servos?"
    )]
    Model {
        /// The id.
        id: u8,
        /// Name or number found.
        found: ModelName,
        /// Name or number described.
        wanted: ModelName,
    },
    /// Not in position mode.
    #[error("servo {id} is in mode {mode} and not in position mode: write register {address} with torque off")]
    Mode {
        /// The id.
        id: u8,
        /// The mode.
        mode: i32,
        /// The mode register.
        address: u16,
    },
    /// Stands where its calibration says it cannot.
    #[error(
        "servo {id} stands at count {count}, outside its range {min} to {max}: is this the calibration of another arm, or are two cables swapped? Calibrate again with `endplate calibrate joints`"
    )]
    Position {
        /// The id.
        id: u8,
        /// Where it stands.
        count: i32,
        /// First count of its range.
        min: i32,
        /// Last count of its range.
        max: i32,
    },
    /// The transaction failed.
    #[error(transparent)]
    Bus(#[from] TransactionError),
}

/// A model by name where it is known, else by number.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ModelName(pub Protocol, pub u16);

impl core::fmt::Display for ModelName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match model_name(self.0, self.1) {
            Some(name) => write!(f, "{name}"),
            None => write!(f, "model {}", self.1),
        }
    }
}

/// Models by protocol: name as LeRobot writes it, and number.
const MODELS: [(Protocol, &str, u16); 9] = [
    (Protocol::Feetech, "sts3215", 777),
    (Protocol::Feetech, "sts3250", 2825),
    (Protocol::Dynamixel, "xl330-m077", 1190),
    (Protocol::Dynamixel, "xl330-m288", 1200),
    (Protocol::Dynamixel, "xl430-w250", 1060),
    (Protocol::Dynamixel, "xm430-w350", 1020),
    (Protocol::Dynamixel, "xm430-w210", 1030),
    (Protocol::Dynamixel, "xm540-w270", 1120),
    (Protocol::Dynamixel, "xc430-w150", 1070),
];

/// The name of a model number.
pub fn model_name(protocol: Protocol, number: u16) -> Option<&'static str> {
    MODELS.iter().find(|(of, _, known)| *of == protocol && *known == number).map(|(_, name, _)| *name)
}

/// The number of a model's name.
pub fn model_number(protocol: Protocol, name: &str) -> Option<u16> {
    MODELS.iter().find(|(of, known, _)| *of == protocol && *known == name).map(|(_, _, number)| *number)
}

impl<P: Port> ServoArm<P> {
    /// Looks at every servo before torque: present, alone with its id, of the model described, in position mode, and
    /// standing inside its range. Writes nothing.
    ///
    /// # Errors
    /// [`SetupError`], naming servo and remedy.
    pub fn check(&mut self, baud: u32) -> Result<(), SetupError> {
        let protocol = self.master.protocol();
        let mut answers = Vec::new();
        for &id in &self.ids {
            // Noise may damage one answer; two servos damage or double nearly all.
            let mut tries = [(0, 0); 3];
            for one in &mut tries {
                *one = self.master.count_answers(id)?;
            }
            answers.push((id, tries));
        }
        let is_silent = |tries: &[(usize, usize); 3]| tries.iter().all(|&one| one == (0, 0));
        if answers.iter().all(|(_, tries)| is_silent(tries)) {
            return Err(SetupError::Silent { baud });
        }
        for (id, tries) in answers {
            if is_silent(&tries) {
                return Err(SetupError::Missing { id });
            }
            if tries.iter().filter(|&&(whole, damaged)| whole > 1 || damaged > 0).count() > 1 {
                return Err(SetupError::SharedId { id });
            }
        }
        for index in 0..self.ids.len() {
            let (id, servo) = (self.ids[index], self.options.servos[index]);
            let found = self.master.ping(id)?.model;
            if let Some(wanted) = servo.model.filter(|&wanted| wanted != found) {
                let [found, wanted] = [found, wanted].map(|number| ModelName(protocol, number));
                return Err(SetupError::Model { id, found, wanted });
            }
            let (register, modes, position): (_, &[i32], _) = match protocol {
                Protocol::Feetech => (feetech::register::MODE, &[0], feetech::register::POSITION),
                // Position, extended position, current-based position.
                Protocol::Dynamixel => (dynamixel::register::OPERATING_MODE, &[3, 4, 5], dynamixel::register::POSITION),
            };
            let mode = self.master.read(id, register)?;
            if !modes.contains(&mode) {
                return Err(SetupError::Mode { id, mode, address: register.address });
            }
            let count = self.master.read(id, position)?;
            let (Count(min), Count(max)) = servo.map.range();
            if count < min.saturating_sub(SLACK_COUNTS) || count > max.saturating_add(SLACK_COUNTS) {
                return Err(SetupError::Position { id, count, min, max });
            }
        }
        Ok(())
    }
}
