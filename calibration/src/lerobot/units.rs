//! Counts to LeRobot's normalised units and back, in LeRobot's own arithmetic.

use super::MotorCalibration;
use endplate_hal::servo::{Count, Direction, MapError, ServoMap};

/// How LeRobot expresses a joint.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NormMode {
    /// The range as 0 … 100: grippers.
    Range0To100,
    /// The range as −100 … 100.
    RangeM100To100,
    /// Degrees from the middle of the range.
    Degrees,
}

/// LeRobot's units on one kind of bus.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct LeRobotUnits {
    /// How the joint is expressed.
    pub mode: NormMode,
    /// Counts a turn, 4096 for the servos of SO-100 and SO-101.
    pub resolution: u32,
    /// Whether `drive_mode` counts: true on LeRobot's Feetech bus, false on its Dynamixel bus.
    pub apply_drive_mode: bool,
}

/// Why a value has no count.
#[derive(Copy, Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnitsError {
    /// NaN, or more than a count can hold.
    #[error("{0} cannot be a position in counts")]
    Value(f64),
}

impl LeRobotUnits {
    /// Units of a Feetech STS bus.
    pub const fn feetech(mode: NormMode) -> Self {
        Self { mode, resolution: 4096, apply_drive_mode: true }
    }

    /// A count as LeRobot would give it: clamped to the range except in degrees, which divide by `resolution − 1` and
    /// ignore the drive mode.
    pub fn normalise(&self, motor: &MotorCalibration, Count(count): Count) -> f64 {
        let (min, max) = (f64::from(motor.range_min), f64::from(motor.range_max));
        let reversed = self.apply_drive_mode && motor.drive_mode != 0;
        let bounded = f64::from(count).max(min).min(max);
        // In the order of LeRobot's operations, so that even the last bit is the same.
        match self.mode {
            NormMode::RangeM100To100 => {
                let value = (bounded - min) / (max - min) * 200.0 - 100.0;
                if reversed { -value } else { value }
            }
            NormMode::Range0To100 => {
                let value = (bounded - min) / (max - min) * 100.0;
                if reversed { 100.0 - value } else { value }
            }
            NormMode::Degrees => (f64::from(count) - self.middle(motor)) * 360.0 / self.largest(),
        }
    }

    /// The count LeRobot would send: truncated towards zero, so that a round trip may lose one count.
    ///
    /// # Errors
    /// [`UnitsError`] for a value without a count.
    pub fn unnormalise(&self, motor: &MotorCalibration, value: f64) -> Result<Count, UnitsError> {
        let (min, max) = (f64::from(motor.range_min), f64::from(motor.range_max));
        let reversed = self.apply_drive_mode && motor.drive_mode != 0;
        if !value.is_finite() {
            return Err(UnitsError::Value(value));
        }
        let exact = match self.mode {
            NormMode::RangeM100To100 => {
                let value = if reversed { -value } else { value };
                (value.clamp(-100.0, 100.0) + 100.0) / 200.0 * (max - min) + min
            }
            NormMode::Range0To100 => {
                let value = if reversed { 100.0 - value } else { value };
                value.clamp(0.0, 100.0) / 100.0 * (max - min) + min
            }
            NormMode::Degrees => value * self.largest() / 360.0 + self.middle(motor),
        };
        let count = exact.trunc();
        if f64::from(i32::MIN) <= count && count <= f64::from(i32::MAX) {
            Ok(Count(count as i32))
        } else {
            Err(UnitsError::Value(value))
        }
    }

    fn middle(&self, motor: &MotorCalibration) -> f64 {
        (f64::from(motor.range_min) + f64::from(motor.range_max)) / 2.0
    }

    fn largest(&self) -> f64 {
        f64::from(self.resolution) - 1.0
    }
}

impl MotorCalibration {
    /// The physical map of this servo: 0 rad in the middle of its range, as LeRobot's degrees have it, but 2π a turn of
    /// `resolution` counts, where LeRobot's degrees are 1/4095 too large. `drive_mode` turns it round only where the
    /// bus applies it and only outside degrees, so the direction is the robot description's to say.
    ///
    /// # Errors
    /// [`MapError`] for an empty range or no resolution.
    pub fn servo_map(&self, direction: Direction, resolution: u32) -> Result<ServoMap, MapError> {
        let zero = (f64::from(self.range_min) + f64::from(self.range_max)) / 2.0;
        ServoMap::new(zero, direction, (Count(self.range_min), Count(self.range_max)), resolution)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOTOR: MotorCalibration =
        MotorCalibration { id: 1, drive_mode: 1, homing_offset: 0, range_min: 1000, range_max: 3000 };

    #[test]
    fn lerobots_quirks_are_kept() {
        let units = LeRobotUnits::feetech;
        let all = |count| {
            [NormMode::Range0To100, NormMode::RangeM100To100, NormMode::Degrees]
                .map(|mode| units(mode).normalise(&MOTOR, Count(count)))
        };
        // Clamped, turned round, and neither.
        assert_eq!(all(3500), [0.0, -100.0, 1500.0 * 360.0 / 4095.0]);
        let dynamixel = LeRobotUnits { apply_drive_mode: false, ..units(NormMode::Range0To100) };
        assert_eq!(dynamixel.normalise(&MOTOR, Count(3500)), 100.0);
        // Truncation: 0.05 degrees are half a count.
        assert_eq!(units(NormMode::Degrees).unnormalise(&MOTOR, 0.05), Ok(Count(2000)));
        assert!(units(NormMode::Degrees).unnormalise(&MOTOR, f64::NAN).is_err());
        assert!(units(NormMode::Degrees).unnormalise(&MOTOR, 1e300).is_err());
    }

    #[test]
    fn the_physical_map_shares_lerobots_zero() {
        let map = MOTOR.servo_map(Direction::Forward, 4096).unwrap();
        assert_eq!(map.rad(Count(2000)), 0.0);
        let degrees = LeRobotUnits::feetech(NormMode::Degrees).normalise(&MOTOR, Count(3000));
        assert!((map.rad(Count(3000)).to_degrees() - degrees * 4095.0 / 4096.0).abs() < 1e-9);
    }
}
