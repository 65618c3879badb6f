//! The map between a servo's counts and the joint's radians: the only place where the two meet.

use core::f64::consts::TAU;

/// A position in encoder counts, as a servo's registers hold it (sign already decoded). Counts never leave the
/// drivers and the calibration.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub i32);

/// Which way the joint turns when the count grows.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The joint's angle grows with the count.
    Forward,
    /// The joint's angle falls as the count grows.
    Reverse,
}

impl Direction {
    /// +1 or −1.
    pub const fn sign(self) -> f64 {
        match self {
            Self::Forward => 1.0,
            Self::Reverse => -1.0,
        }
    }
}

/// Counts ↔ rad of one servo: `rad = sign · (count − zero) · 2π / resolution`.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct ServoMap {
    zero: f64,
    direction: Direction,
    range: (Count, Count),
    resolution: u32,
}

/// Why numbers make no map.
#[derive(Copy, Clone, Debug, PartialEq, thiserror::Error)]
pub enum MapError {
    /// The first count of the range is not below the last.
    #[error("the range {min} to {max} is empty: write the smaller count first")]
    Range {
        /// First count.
        min: i32,
        /// Last count.
        max: i32,
    },
    /// The zero is not a finite number.
    #[error("the zero count is not finite")]
    Zero,
    /// No counts in a turn.
    #[error("a turn has 0 counts: write the servo's resolution, such as 4096")]
    Resolution,
}

/// An angle whose count lies outside the servo's range.
#[derive(Copy, Clone, Debug, PartialEq, thiserror::Error)]
#[error("{angle_rad:.4} rad is count {count}, outside {min} to {max}")]
pub struct OutOfRange {
    /// What was asked, rad.
    pub angle_rad: f64,
    /// Its count.
    pub count: i32,
    /// First count allowed.
    pub min: i32,
    /// Last count allowed.
    pub max: i32,
}

impl ServoMap {
    /// A map that reads `zero` (a count, possibly between two) as 0 rad, over counts `range` (inclusive), for a servo of
    /// `resolution` counts per turn.
    ///
    /// # Errors
    /// [`MapError`] for an empty range, a zero that is not finite, or no resolution.
    pub fn new(zero: f64, direction: Direction, range: (Count, Count), resolution: u32) -> Result<Self, MapError> {
        match () {
            () if range.0 >= range.1 => Err(MapError::Range { min: range.0.0, max: range.1.0 }),
            () if !zero.is_finite() => Err(MapError::Zero),
            () if resolution == 0 => Err(MapError::Resolution),
            () => Ok(Self { zero, direction, range, resolution }),
        }
    }

    /// The count that reads as 0 rad.
    pub fn zero(&self) -> f64 {
        self.zero
    }

    /// Which way the joint turns.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// First and last count the joint may reach.
    pub fn range(&self) -> (Count, Count) {
        self.range
    }

    /// Counts per turn.
    pub fn resolution(&self) -> u32 {
        self.resolution
    }

    /// The angle of a count, rad; counts outside the range map as well, so that a joint beyond its range is seen there.
    pub fn rad(&self, count: Count) -> f64 {
        self.direction.sign() * (f64::from(count.0) - self.zero) * self.rad_per_count()
    }

    /// A speed in counts/s as rad/s.
    pub fn rad_s(&self, counts_s: f64) -> f64 {
        self.direction.sign() * counts_s * self.rad_per_count()
    }

    /// The nearest count of an angle, rad.
    ///
    /// # Errors
    /// [`OutOfRange`]: a goal is never clamped in silence.
    pub fn count(&self, angle_rad: f64) -> Result<Count, OutOfRange> {
        let exact = self.zero + self.direction.sign() * angle_rad / self.rad_per_count();
        // A cast of a float saturates, and gives 0 for NaN, which the next line refuses.
        let count = exact.round() as i32;
        let (min, max) = (self.range.0.0, self.range.1.0);
        if exact.is_finite() && (min..=max).contains(&count) {
            Ok(Count(count))
        } else {
            Err(OutOfRange { angle_rad, count, min, max })
        }
    }

    /// The angles of both ends of the range, smaller first, rad.
    pub fn range_rad(&self) -> (f64, f64) {
        let (a, b) = (self.rad(self.range.0), self.rad(self.range.1));
        (a.min(b), a.max(b))
    }

    /// Size of one count, rad.
    pub fn rad_per_count(&self) -> f64 {
        TAU / f64::from(self.resolution)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(direction: Direction) -> ServoMap {
        ServoMap::new(2047.5, direction, (Count(800), Count(3300)), 4096).unwrap()
    }

    #[test]
    fn every_count_of_the_range_survives_the_round_trip() {
        for direction in [Direction::Forward, Direction::Reverse] {
            let map = map(direction);
            for count in 800..=3300 {
                assert_eq!(map.count(map.rad(Count(count))), Ok(Count(count)));
            }
        }
    }

    #[test]
    fn a_reversed_joint_turns_the_other_way() {
        let (forward, reverse) = (map(Direction::Forward), map(Direction::Reverse));
        assert!(forward.rad(Count(3000)) > 0.0 && reverse.rad(Count(3000)) < 0.0);
        assert_eq!(forward.range_rad().1, -reverse.range_rad().0);
        assert!((forward.rad_s(4096.0) - TAU).abs() < 1e-12);
    }

    #[test]
    fn an_angle_outside_the_range_is_refused_with_its_count() {
        let error = map(Direction::Forward).count(3.0).unwrap_err();
        assert_eq!((error.count, error.min, error.max), (4003, 800, 3300));
        assert!(map(Direction::Forward).count(f64::NAN).is_err());
        assert!(map(Direction::Forward).count(f64::INFINITY).is_err());
        assert!(ServoMap::new(0.0, Direction::Forward, (Count(5), Count(5)), 4096).is_err());
    }
}
