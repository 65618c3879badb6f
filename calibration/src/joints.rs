//! The interactive calibration of an arm's joints: middle, range, direction, then written and read back.
//!
//! [`JointCalibration`] is a state machine: the caller shows [`JointCalibration::prompt`], calls
//! [`poll`](JointCalibration::poll) while the user moves the arm by hand, and [`confirm`](JointCalibration::confirm) when
//! the user says so. Torque is off throughout. What the servos held before is put back by
//! [`abort`](JointCalibration::abort), and by every step that fails.
//!
//! The procedure is LeRobot's for Feetech servos (`present = encoder − homing_offset`, modulo the resolution), so that the
//! file is one LeRobot reads and the servos hold what LeRobot would have written.

use crate::lerobot::{MotorCalibration, MotorCalibrations};
use endplate_hal::servo::{Count, Master, Port, Protocol, ServoRegisters};

/// What the calibration needs of a bus.
pub trait CalibrationBus {
    /// Switches a servo's torque off.
    ///
    /// # Errors
    /// A message that names the servo.
    fn torque_off(&mut self, id: u8) -> Result<(), String>;

    /// A servo's present position, counts.
    ///
    /// # Errors
    /// A message that names the servo.
    fn position(&mut self, id: u8) -> Result<Count, String>;

    /// What a servo holds over power-off.
    ///
    /// # Errors
    /// A message that names the servo.
    fn registers(&mut self, id: u8) -> Result<ServoRegisters, String>;

    /// Writes what a servo holds over power-off: torque off, unlock, write, lock. A servo may confirm a write that it
    /// drops; the calibration reads back.
    ///
    /// # Errors
    /// A message that names the servo.
    fn write_registers(&mut self, id: u8, registers: ServoRegisters) -> Result<(), String>;

    /// The offset that makes a position, read with offset 0, read as 2047. Feetech: `present = encoder − offset`.
    fn homing_offset(&self, Count(position): Count) -> i32 {
        // The servo holds no larger one; a middle on the last count of the encoder then reads 2048.
        (position - (TURN - 1) / 2).clamp(-FEETECH_MOST, FEETECH_MOST)
    }
}

/// Largest homing offset of a Feetech: eleven bits and a sign.
const FEETECH_MOST: i32 = 2047;

/// A real bus: Feetech's and Dynamixel's arithmetic, EEPROM unlocked, written, read back and locked again.
impl<P: Port> CalibrationBus for Master<P> {
    fn torque_off(&mut self, id: u8) -> Result<(), String> {
        Master::torque_off(self, id).map_err(|error| error.to_string())
    }

    fn position(&mut self, id: u8) -> Result<Count, String> {
        self.read_position(id).map_err(|error| error.to_string())
    }

    fn registers(&mut self, id: u8) -> Result<ServoRegisters, String> {
        self.read_calibration(id).map_err(|error| error.to_string())
    }

    fn write_registers(&mut self, id: u8, registers: ServoRegisters) -> Result<(), String> {
        self.write_calibration(id, &registers).map_err(|error| error.to_string())
    }

    fn homing_offset(&self, Count(position): Count) -> i32 {
        let feetech = (position - (TURN - 1) / 2).clamp(-FEETECH_MOST, FEETECH_MOST);
        // Dynamixel: `present = encoder + offset`.
        if self.protocol() == Protocol::Feetech { feetech } else { (TURN - 1) / 2 - position }
    }
}

/// One joint to calibrate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JointPlan {
    /// Name, as file and robot description have it.
    pub name: String,
    /// Its servo.
    pub id: u8,
    /// It turns all the way round and has no stops: its range is a whole turn.
    pub is_full_turn: bool,
}

/// Where the calibration stands.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The user puts every joint in the middle of its travel.
    Middle,
    /// The user moves every joint to both stops.
    Sweep,
    /// The user moves one joint in its positive direction.
    Direction {
        /// Which joint.
        joint: usize,
    },
    /// Written and read back.
    Done,
}

/// Why the calibration stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JointCalibrationError {
    /// The bus failed.
    #[error("{joint}: {message}")]
    Bus {
        /// The joint.
        joint: String,
        /// What the bus said.
        message: String,
    },
    /// A servo does not hold what was written.
    #[error(
        "{joint}: wrote {wrote:?} and the servo holds {holds:?}: is its EEPROM locked? Nothing is to be trusted; try again"
    )]
    ReadBack {
        /// The joint.
        joint: String,
        /// What was written.
        wrote: ServoRegisters,
        /// What is there.
        holds: ServoRegisters,
    },
    /// A servo holds its offset and does not go by it.
    #[error(
        "{joint}: with offset {offset} its middle reads {reads} and not 2047: the servo does not apply it (a Dynamixel in position \
         mode takes −1024 to 1024): turn its horn by a quarter, or write operating mode 4, then start again"
    )]
    OffsetIgnored {
        /// The joint.
        joint: String,
        /// What it holds.
        offset: i32,
        /// What it reads.
        reads: i32,
    },
    /// A joint was hardly moved.
    #[error(
        "{joint} was moved over {counts} counts only ({degrees}°): move it to both of its stops, then confirm again"
    )]
    HardlyMoved {
        /// The joint.
        joint: String,
        /// Counts between its ends.
        counts: i32,
        /// The same in degrees.
        degrees: i32,
    },
    /// The middle was none.
    #[error(
        "{joint}: the middle lies {share} % into its range: it was not put in the middle at first, or a stop was missed; \
         start again"
    )]
    NotTheMiddle {
        /// The joint.
        joint: String,
        /// Where it lies.
        share: i32,
    },
    /// A joint ran over the end of its encoder.
    #[error(
        "{joint} jumped from count {from} to {to}: its range runs over the encoder's end; start again nearer to its middle"
    )]
    Wrapped {
        /// The joint.
        joint: String,
        /// Before.
        from: i32,
        /// After.
        to: i32,
    },
    /// A step out of turn.
    #[error("the calibration is over: start another")]
    Over,
}

/// Counts of a turn.
const TURN: i32 = 4096;
/// A range smaller than this was no sweep: 20°.
const LEAST_RANGE: i32 = 228;
/// A step between two polls larger than this is no motion of a hand.
const JUMP: i32 = TURN / 2;
/// Counts that a joint must move to show its direction: 5°.
const SHOWN: i32 = 57;
/// The middle must lie between these shares of the range, %.
const MIDDLE: core::ops::RangeInclusive<i32> = 15..=85;

/// The calibration of one arm.
pub struct JointCalibration<B: CalibrationBus> {
    bus: B,
    joints: Vec<JointPlan>,
    /// What the servos held before.
    before: Vec<ServoRegisters>,
    phase: Phase,
    offsets: Vec<i32>,
    /// Smallest and largest count seen.
    ranges: Vec<(i32, i32)>,
    newest: Vec<i32>,
    /// Where a joint stood when its direction was asked for.
    from: i32,
    reversed: Vec<bool>,
    ask_direction: bool,
}

impl<B: CalibrationBus> JointCalibration<B> {
    /// Starts: torque off, what the servos hold is kept. With `ask_direction` the user is asked to move every joint in its
    /// positive direction, which sets `drive_mode`.
    ///
    /// # Errors
    /// [`JointCalibrationError::Bus`].
    pub fn start(mut bus: B, joints: Vec<JointPlan>, ask_direction: bool) -> Result<Self, JointCalibrationError> {
        let mut before = Vec::new();
        for joint in &joints {
            let fail = |message| JointCalibrationError::Bus { joint: joint.name.clone(), message };
            bus.torque_off(joint.id).map_err(fail)?;
            before.push(bus.registers(joint.id).map_err(fail)?);
        }
        let count = joints.len();
        Ok(Self {
            bus,
            joints,
            before,
            phase: Phase::Middle,
            offsets: vec![0; count],
            ranges: vec![(i32::MAX, i32::MIN); count],
            newest: vec![0; count],
            from: 0,
            reversed: vec![false; count],
            ask_direction,
        })
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What to ask the user for.
    pub fn prompt(&self) -> String {
        match self.phase {
            Phase::Middle => "Put every joint in the middle of its travel by hand, then confirm.".into(),
            Phase::Sweep => {
                let full: Vec<_> =
                    self.joints.iter().filter(|joint| joint.is_full_turn).map(|joint| joint.name.as_str()).collect();
                let but = if full.is_empty() { String::new() } else { format!(" (but {})", full.join(", ")) };
                format!("Move every joint{but} to both of its stops by hand, then confirm.")
            }
            Phase::Direction { joint } => {
                format!("Move {} by 10° or more in its positive direction, then confirm.", self.joints[joint].name)
            }
            Phase::Done => "Calibrated: written and read back.".into(),
        }
    }

    /// The bus, for a simulated hand.
    pub fn bus_mut(&mut self) -> &mut B {
        &mut self.bus
    }

    /// Smallest, present and largest count of every joint so far, for the screen.
    pub fn seen(&self) -> impl Iterator<Item = (&str, i32, i32, i32)> {
        self.joints
            .iter()
            .zip(self.newest.iter().zip(&self.ranges))
            .map(|(joint, (newest, (low, high)))| (joint.name.as_str(), *low, *newest, *high))
    }

    /// Reads every joint once, in the sweep.
    ///
    /// # Errors
    /// [`JointCalibrationError::Bus`], or [`JointCalibrationError::Wrapped`], after which the servos are put back.
    pub fn poll(&mut self) -> Result<(), JointCalibrationError> {
        if self.phase != Phase::Sweep {
            return Ok(());
        }
        for index in 0..self.joints.len() {
            let count = self.read(index)?;
            let first = self.ranges[index].1 < self.ranges[index].0;
            let from = self.newest[index];
            if !first && !self.joints[index].is_full_turn && (count - from).abs() > JUMP {
                let joint = self.joints[index].name.clone();
                return self.fail(JointCalibrationError::Wrapped { joint, from, to: count });
            }
            self.newest[index] = count;
            let (low, high) = self.ranges[index];
            self.ranges[index] = (low.min(count), high.max(count));
        }
        Ok(())
    }

    /// The user has done what was asked for; the next phase.
    ///
    /// # Errors
    /// [`JointCalibrationError::HardlyMoved`] leaves everything as it is, so that the user can go on; every other error
    /// puts the servos back.
    pub fn confirm(&mut self) -> Result<Phase, JointCalibrationError> {
        match self.phase {
            Phase::Middle => self.set_middle()?,
            Phase::Sweep => self.judge_sweep()?,
            Phase::Direction { joint } => self.judge_direction(joint)?,
            Phase::Done => return Err(JointCalibrationError::Over),
        }
        Ok(self.phase)
    }

    /// Puts back what the servos held before.
    ///
    /// # Errors
    /// [`JointCalibrationError`] of the first servo that could not be put back; the others are.
    pub fn abort(&mut self) -> Result<(), JointCalibrationError> {
        let mut result = Ok(());
        for index in 0..self.joints.len() {
            result = result.and(self.write(index, self.before[index]));
        }
        self.phase = Phase::Done;
        result
    }

    /// The calibration, once [`Phase::Done`].
    pub fn file(&self) -> MotorCalibrations {
        let motors = self.joints.iter().enumerate().map(|(index, joint)| {
            let (range_min, range_max) = self.ranges[index];
            let entry = MotorCalibration {
                id: i32::from(joint.id),
                drive_mode: i32::from(self.reversed[index]),
                homing_offset: self.offsets[index],
                range_min,
                range_max,
            };
            (joint.name.clone(), entry)
        });
        // Ids and ranges were checked on the way; a plan with one id twice gives no calibration.
        MotorCalibrations::new(motors.collect(), "calibration").unwrap_or_default()
    }

    /// Joints and what their servos held before: what to write down where it cannot be put back.
    pub fn before(&self) -> impl Iterator<Item = (&str, ServoRegisters)> {
        self.joints.iter().zip(&self.before).map(|(joint, before)| (joint.name.as_str(), *before))
    }

    fn set_middle(&mut self) -> Result<(), JointCalibrationError> {
        let open = ServoRegisters { homing_offset: 0, range_min: 0, range_max: TURN - 1 };
        for index in 0..self.joints.len() {
            self.write(index, open).or_else(|error| self.fail(error))?;
            let position = self.read(index).or_else(|error| self.fail(error))?;
            // As LeRobot: the middle reads 2047.
            let offset = self.bus.homing_offset(Count(position));
            self.write(index, ServoRegisters { homing_offset: offset, ..open }).or_else(|error| self.fail(error))?;
            self.offsets[index] = offset;
            let reads = self.read(index).or_else(|error| self.fail(error))?;
            if (reads - (TURN - 1) / 2).abs() > SHOWN {
                let joint = self.joints[index].name.clone();
                return self.fail(JointCalibrationError::OffsetIgnored { joint, offset, reads });
            }
        }
        self.phase = Phase::Sweep;
        self.poll()
    }

    fn judge_sweep(&mut self) -> Result<(), JointCalibrationError> {
        self.poll()?;
        for (joint, range) in self.joints.iter().zip(&mut self.ranges) {
            if joint.is_full_turn {
                *range = (0, TURN - 1);
                continue;
            }
            let counts = range.1 - range.0;
            if counts < LEAST_RANGE {
                let (joint, degrees) = (joint.name.clone(), counts * 360 / TURN);
                return Err(JointCalibrationError::HardlyMoved { joint, counts, degrees });
            }
        }
        for index in 0..self.joints.len() {
            let (low, high) = self.ranges[index];
            let share = ((TURN - 1) / 2 - low) * 100 / (high - low);
            if !MIDDLE.contains(&share) {
                let joint = self.joints[index].name.clone();
                return self.fail(JointCalibrationError::NotTheMiddle { joint, share });
            }
        }
        if self.ask_direction { self.ask(0) } else { self.write_all() }
    }

    fn ask(&mut self, joint: usize) -> Result<(), JointCalibrationError> {
        self.from = self.read(joint)?;
        self.phase = Phase::Direction { joint };
        Ok(())
    }

    fn judge_direction(&mut self, joint: usize) -> Result<(), JointCalibrationError> {
        let moved = self.read(joint)? - self.from;
        // The short way round.
        let moved = (moved + TURN / 2).rem_euclid(TURN) - TURN / 2;
        if moved.abs() < SHOWN {
            let (joint, degrees) = (self.joints[joint].name.clone(), moved * 360 / TURN);
            return Err(JointCalibrationError::HardlyMoved { joint, counts: moved.abs(), degrees: degrees.abs() });
        }
        self.reversed[joint] = moved < 0;
        if joint + 1 < self.joints.len() { self.ask(joint + 1) } else { self.write_all() }
    }

    fn write_all(&mut self) -> Result<(), JointCalibrationError> {
        for index in 0..self.joints.len() {
            let (range_min, range_max) = self.ranges[index];
            let registers = ServoRegisters { homing_offset: self.offsets[index], range_min, range_max };
            self.write(index, registers).or_else(|error| self.fail(error))?;
        }
        self.phase = Phase::Done;
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<i32, JointCalibrationError> {
        let joint = &self.joints[index];
        let Count(count) = self
            .bus
            .position(joint.id)
            .map_err(|message| JointCalibrationError::Bus { joint: joint.name.clone(), message })?;
        Ok(count)
    }

    /// Writes and reads back.
    fn write(&mut self, index: usize, registers: ServoRegisters) -> Result<(), JointCalibrationError> {
        let joint = &self.joints[index];
        let fail = |message| JointCalibrationError::Bus { joint: joint.name.clone(), message };
        self.bus.write_registers(joint.id, registers).map_err(fail)?;
        let holds = self.bus.registers(joint.id).map_err(fail)?;
        if holds == registers {
            Ok(())
        } else {
            Err(JointCalibrationError::ReadBack { joint: joint.name.clone(), wrote: registers, holds })
        }
    }

    /// Puts the servos back; the first error is the one that counts.
    fn fail<T>(&mut self, error: JointCalibrationError) -> Result<T, JointCalibrationError> {
        // What cannot be put back is found by the check before torque: servo and file then differ.
        let _ = self.abort();
        Err(error)
    }
}

/// Writes a calibration into the servos, torque off, and reads it back; where one fails, all are put back.
///
/// # Errors
/// [`JointCalibrationError`] of the first servo that failed.
pub fn load(bus: &mut impl CalibrationBus, file: &MotorCalibrations) -> Result<(), JointCalibrationError> {
    let mut before = Vec::new();
    for (name, motor) in file.iter() {
        let fail = |message| JointCalibrationError::Bus { joint: name.to_owned(), message };
        let id = u8::try_from(motor.id).map_err(|error| fail(error.to_string()))?;
        bus.torque_off(id).map_err(fail)?;
        before.push((id, bus.registers(id).map_err(fail)?));
    }
    let result = file.iter().zip(&before).try_for_each(|((name, motor), &(id, _))| {
        let fail = |message| JointCalibrationError::Bus { joint: name.to_owned(), message };
        let wrote = ServoRegisters::from(motor);
        bus.write_registers(id, wrote).map_err(fail)?;
        let holds = bus.registers(id).map_err(fail)?;
        if holds == wrote {
            return Ok(());
        }
        Err(JointCalibrationError::ReadBack { joint: name.to_owned(), wrote, holds })
    });
    if result.is_err() {
        for (id, held) in before {
            // What cannot be put back is found by the check before torque: servo and file then differ.
            let _ = bus.write_registers(id, held);
        }
    }
    result
}

/// A simulated arm: joints of known travel, moved as a hand would, Feetech's arithmetic.
#[derive(Clone, Debug)]
pub struct SimulatedBus {
    /// Encoder counts, by servo id − 1.
    pub encoders: Vec<i32>,
    /// What each holds.
    pub held: Vec<ServoRegisters>,
    /// A servo that confirms writes and drops them, as one with a locked EEPROM does.
    pub locked: Option<u8>,
}

impl SimulatedBus {
    /// An arm of servos that have never been calibrated.
    pub fn new(encoders: Vec<i32>) -> Self {
        let fresh = ServoRegisters { homing_offset: 0, range_min: 0, range_max: TURN - 1 };
        Self { held: vec![fresh; encoders.len()], encoders, locked: None }
    }

    fn index(&self, id: u8) -> Result<usize, String> {
        let index = usize::from(id).wrapping_sub(1);
        if index < self.held.len() { Ok(index) } else { Err(format!("servo {id} did not answer in time")) }
    }
}

impl CalibrationBus for SimulatedBus {
    fn torque_off(&mut self, id: u8) -> Result<(), String> {
        self.index(id).map(drop)
    }

    fn position(&mut self, id: u8) -> Result<Count, String> {
        let index = self.index(id)?;
        Ok(Count((self.encoders[index] - self.held[index].homing_offset).rem_euclid(TURN)))
    }

    fn registers(&mut self, id: u8) -> Result<ServoRegisters, String> {
        self.index(id).map(|index| self.held[index])
    }

    fn write_registers(&mut self, id: u8, registers: ServoRegisters) -> Result<(), String> {
        let index = self.index(id)?;
        if self.locked != Some(id) {
            self.held[index] = registers;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(full_turn: bool) -> Vec<JointPlan> {
        [("pan", false), ("roll", full_turn)]
            .iter()
            .zip(1..)
            .map(|((name, is_full_turn), id)| JointPlan { name: (*name).into(), id, is_full_turn: *is_full_turn })
            .collect()
    }

    fn sweep(calibration: &mut JointCalibration<SimulatedBus>, half: i32) -> Result<(), JointCalibrationError> {
        let middle = calibration.bus.encoders.clone();
        for offset in (0..=half).chain((-half..=half).rev()).chain(-half..=0).step_by(50).chain([half, -half, 0]) {
            for (encoder, middle) in calibration.bus.encoders.iter_mut().zip(&middle) {
                *encoder = (middle + offset).rem_euclid(TURN);
            }
            calibration.poll()?;
        }
        Ok(())
    }

    #[test]
    fn an_arm_is_calibrated_as_lerobot_does_it() {
        // One joint whose travel runs over the encoder's end, and one without stops.
        let bus = SimulatedBus::new(vec![100, 3000]);
        let mut calibration = JointCalibration::start(bus, plan(true), true).unwrap();
        assert_eq!(calibration.confirm().unwrap(), Phase::Sweep);
        sweep(&mut calibration, 1000).unwrap();
        assert_eq!(calibration.confirm().unwrap(), Phase::Direction { joint: 0 });
        assert!(calibration.prompt().contains("pan"));
        let unmoved = calibration.confirm().unwrap_err();
        assert!(matches!(unmoved, JointCalibrationError::HardlyMoved { .. }), "{unmoved}");
        calibration.bus.encoders[0] += 120;
        assert_eq!(calibration.confirm().unwrap(), Phase::Direction { joint: 1 });
        calibration.bus.encoders[1] -= 120;
        assert_eq!(calibration.confirm().unwrap(), Phase::Done);
        assert_eq!(calibration.confirm(), Err(JointCalibrationError::Over));
        let (file, bus) = (calibration.file(), &calibration.bus);
        let pan = *file.get("pan").unwrap();
        assert_eq!((pan.homing_offset, pan.range_min, pan.range_max, pan.drive_mode), (100 - 2047, 1047, 3047, 0));
        let roll = *file.get("roll").unwrap();
        assert_eq!((roll.homing_offset, roll.range_min, roll.range_max, roll.drive_mode), (953, 0, 4095, 1));
        assert_eq!(bus.held, [ServoRegisters::from(&pan), ServoRegisters::from(&roll)]);
    }

    #[test]
    fn what_goes_wrong_is_named_and_the_servos_are_put_back() {
        let old = ServoRegisters { homing_offset: 7, range_min: 500, range_max: 3500 };
        let start = |locked| {
            let mut bus = SimulatedBus::new(vec![2000, 2100]);
            bus.held = vec![old; 2];
            bus.locked = locked;
            JointCalibration::start(bus, plan(false), false).unwrap()
        };
        let mut locked = start(Some(2));
        assert!(locked.confirm().unwrap_err().to_string().contains("EEPROM locked"));
        assert_eq!(locked.bus.held, [old; 2]);

        let mut hardly = start(None);
        hardly.confirm().unwrap();
        sweep(&mut hardly, 60).unwrap();
        assert!(hardly.confirm().unwrap_err().to_string().contains("pan was moved over 120 counts only (10°)"));
        assert_eq!(hardly.phase(), Phase::Sweep);
        sweep(&mut hardly, 900).unwrap();
        assert_eq!(hardly.confirm().unwrap(), Phase::Done);

        let mut aside = start(None);
        aside.confirm().unwrap();
        for encoder in [2000, 2300, 2800, 3300] {
            aside.bus.encoders[0] = encoder;
            aside.bus.encoders[1] = encoder;
            aside.poll().unwrap();
        }
        assert!(matches!(aside.confirm(), Err(JointCalibrationError::NotTheMiddle { share: 0, .. })));
        assert_eq!(aside.bus.held, [old; 2]);

        let mut wrapped = start(None);
        wrapped.confirm().unwrap();
        for encoder in [2000, 3000, 4000] {
            wrapped.bus.encoders[0] = encoder;
            wrapped.poll().unwrap();
        }
        wrapped.bus.encoders[0] = 4090;
        let error = wrapped.poll().unwrap_err();
        assert!(matches!(error, JointCalibrationError::Wrapped { .. }), "{error}");
        assert_eq!(wrapped.bus.held, [old; 2]);

        let missing = JointCalibration::start(SimulatedBus::new(vec![0]), plan(false), false);
        assert!(missing.err().unwrap().to_string().contains("roll: servo 2 did not answer"));
    }
}
