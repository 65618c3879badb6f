//! What a servo holds of its calibration over power-off.

use super::master::{Master, TransactionError};
use super::port::Port;
use super::table::Register;
use super::{Count, Protocol, dynamixel, feetech};

/// The calibration in a servo's own memory, in its counts.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ServoRegisters {
    /// Homing offset. Feetech: `present = encoder − offset`, −2047 to 2047; Dynamixel: `present = encoder + offset`.
    pub homing_offset: i32,
    /// Smallest position it accepts.
    pub range_min: i32,
    /// Largest position it accepts.
    pub range_max: i32,
}

impl ServoRegisters {
    /// Counts by which a position lies outside the range; 0 or less inside.
    pub fn beyond(&self, Count(count): Count) -> i32 {
        self.range_min.saturating_sub(count).max(count.saturating_sub(self.range_max))
    }
}

impl core::fmt::Display for ServoRegisters {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "offset {}, range {} to {}", self.homing_offset, self.range_min, self.range_max)
    }
}

/// Offset, smallest and largest position, torque.
const fn registers(protocol: Protocol) -> [Register; 3] {
    match protocol {
        Protocol::Feetech => {
            use feetech::register as r;
            [r::HOMING_OFFSET, r::MIN_POSITION, r::MAX_POSITION]
        }
        Protocol::Dynamixel => {
            use dynamixel::register as r;
            [r::HOMING_OFFSET, r::MIN_POSITION, r::MAX_POSITION]
        }
    }
}

impl<P: Port> Master<P> {
    /// What a servo holds.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn read_calibration(&mut self, id: u8) -> Result<ServoRegisters, TransactionError> {
        let [offset, min, max] = registers(self.protocol());
        Ok(ServoRegisters {
            homing_offset: self.read(id, offset)?,
            range_min: self.read(id, min)?,
            range_max: self.read(id, max)?,
        })
    }

    /// Makes a servo hold a calibration: torque off, unlock, write, read back, lock.
    ///
    /// # Errors
    /// [`TransactionError`]; what was written before the failure is in the servo.
    pub fn write_calibration(&mut self, id: u8, values: &ServoRegisters) -> Result<(), TransactionError> {
        let [offset, min, max] = registers(self.protocol());
        self.write_eeprom(id, &[(offset, values.homing_offset), (min, values.range_min), (max, values.range_max)])
    }

    /// A servo's present position.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn read_position(&mut self, id: u8) -> Result<Count, TransactionError> {
        let register = match self.protocol() {
            Protocol::Feetech => feetech::register::POSITION,
            Protocol::Dynamixel => dynamixel::register::POSITION,
        };
        self.read(id, register).map(Count)
    }

    /// Switches one servo's torque off, and reads it back.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn torque_off(&mut self, id: u8) -> Result<(), TransactionError> {
        let register = match self.protocol() {
            Protocol::Feetech => feetech::register::TORQUE,
            Protocol::Dynamixel => dynamixel::register::TORQUE,
        };
        self.write_checked(id, register, 0)
    }
}
