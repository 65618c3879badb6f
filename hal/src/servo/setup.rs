//! What is looked at before torque: who is on the bus, whether it is who was described, and where it stands.

use super::arm::ServoArm;
use super::frame::Protocol;
use super::master::{Timing, TransactionError};
use super::port::Port;
use super::registers::ServoRegisters;
use super::{Count, dynamixel, feetech};
use core::time::Duration;

/// Counts beyond its range at which a joint may stand: a hand may push a little past a mark.
const SLACK_COUNTS: i32 = 60;

/// Wait for an answer, and repeats, while nothing is in a hurry.
const PATIENCE: Duration = Duration::from_millis(40);
const RETRIES: u8 = 3;

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
        "servo {id} stands at count {count}, outside its range {min} to {max}: its homing offset is shifted by at least {:.0}°, this is the calibration of another arm, or two cables are swapped. Calibrate again with `endplate calibrate joints`",
        degrees(*count, *min, *max)
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
    /// The servo holds another calibration than the file that the description names.
    #[error(
        "servo {id} holds {holds} and the calibration file says {file}: stale, or another arm's. Load the file into the servos with `endplate calibrate joints --load FILE`, or calibrate again"
    )]
    Calibration {
        /// The id.
        id: u8,
        /// What it holds.
        holds: ServoRegisters,
        /// What the file says.
        file: ServoRegisters,
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

/// By how many degrees a count lies outside a range.
fn degrees(count: i32, min: i32, max: i32) -> f64 {
    f64::from((min - count).max(count - max)) * 360.0 / 4096.0
}

/// What a servo says of itself before torque.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Model number.
    pub model: u16,
    /// Operating mode.
    pub mode: i32,
    /// Where it stands.
    pub count: Count,
    /// The calibration it holds.
    pub registers: ServoRegisters,
}

/// What one look at a servo found.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The id asked for.
    pub id: u8,
    /// Whole and damaged answers to each of three pings.
    pub answers: [(usize, usize); 3],
    /// What it says; `None` where nobody, or more than one, answers.
    pub known: Option<Known>,
}

impl Survey {
    fn is_silent(&self) -> bool {
        self.answers.iter().all(|&one| one == (0, 0))
    }

    /// Noise may damage one answer; two servos damage or double nearly all.
    fn is_shared(&self) -> bool {
        self.answers.iter().filter(|&&(whole, damaged)| whole > 1 || damaged > 0).count() > 1
    }
}

impl<P: Port> ServoArm<P> {
    /// Looks at every servo and writes nothing. Waits longer and asks more often than in operation: nothing is in a hurry
    /// yet, and a late answer must not look like a fault of the set-up.
    ///
    /// # Errors
    /// [`TransactionError`] of a servo that answers pings and then does not say what it is.
    pub fn survey(&mut self) -> Result<Vec<Survey>, TransactionError> {
        let timing = self.master.timing();
        let (reply, retries) = (timing.reply.max(PATIENCE), timing.retries.max(RETRIES));
        self.master.set_timing(Timing { reply, retries, ..timing });
        let surveys = self.look();
        self.master.set_timing(timing);
        surveys
    }

    fn look(&mut self) -> Result<Vec<Survey>, TransactionError> {
        let mut surveys = Vec::new();
        for &id in &self.ids {
            let mut survey = Survey { id, answers: [(0, 0); 3], known: None };
            for one in &mut survey.answers {
                *one = self.master.count_answers(id)?;
            }
            surveys.push(survey);
        }
        let mode = match self.master.protocol() {
            Protocol::Feetech => feetech::register::MODE,
            Protocol::Dynamixel => dynamixel::register::OPERATING_MODE,
        };
        for survey in surveys.iter_mut().filter(|survey| !survey.is_silent() && !survey.is_shared()) {
            let id = survey.id;
            survey.known = Some(Known {
                model: self.master.ping(id)?.model,
                mode: self.master.read(id, mode)?,
                count: self.master.read_position(id)?,
                registers: self.master.read_calibration(id)?,
            });
        }
        Ok(surveys)
    }

    /// Everything that speaks against torque in a survey: servos absent, sharing an id, of another model, not in position
    /// mode, with another calibration than the one named, or outside their range.
    pub fn judge(&self, surveys: &[Survey], baud: u32) -> Vec<SetupError> {
        let protocol = self.master.protocol();
        if surveys.iter().all(Survey::is_silent) {
            return vec![SetupError::Silent { baud }];
        }
        let (modes, address): (&[i32], _) = match protocol {
            Protocol::Feetech => (&[0], feetech::register::MODE.address),
            // Position, extended position, current-based position.
            Protocol::Dynamixel => (&[3, 4, 5], dynamixel::register::OPERATING_MODE.address),
        };
        let mut problems = Vec::new();
        for (survey, servo) in surveys.iter().zip(&self.options.servos) {
            let id = survey.id;
            let Some(known) = survey.known else {
                let is_silent = survey.is_silent();
                problems.push(if is_silent { SetupError::Missing { id } } else { SetupError::SharedId { id } });
                continue;
            };
            if let Some(wanted) = servo.model.filter(|&wanted| wanted != known.model) {
                let [found, wanted] = [known.model, wanted].map(|number| ModelName(protocol, number));
                problems.push(SetupError::Model { id, found, wanted });
            }
            if !modes.contains(&known.mode) {
                problems.push(SetupError::Mode { id, mode: known.mode, address });
            }
            if let Some(file) = servo.held.filter(|&file| file != known.registers) {
                problems.push(SetupError::Calibration { id, holds: known.registers, file });
            }
            let (Count(min), Count(max)) = servo.map.range();
            let Count(count) = known.count;
            if count < min.saturating_sub(SLACK_COUNTS) || count > max.saturating_add(SLACK_COUNTS) {
                problems.push(SetupError::Position { id, count, min, max });
            }
        }
        problems
    }

    /// Surveys and judges.
    ///
    /// # Errors
    /// The first [`SetupError`], naming servo and remedy.
    pub fn check(&mut self, baud: u32) -> Result<(), SetupError> {
        let surveys = self.survey()?;
        self.judge(&surveys, baud).into_iter().next().map_or(Ok(()), Err)
    }
}
