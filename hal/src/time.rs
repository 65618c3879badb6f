//! Time as a type: points on the monotonic clock, motion time, and the clocks that produce them.
//!
//! Loop bodies take `now` as an argument; only outer drivers hold a [`Clock`]. That is what lets one loop run on the
//! real clock and on simulated time, and replay bit for bit.

use core::time::Duration;
use std::sync::atomic::{AtomicU64, Ordering};

/// A point on the monotonic clock, in nanoseconds since an arbitrary origin.
///
/// Two instants cannot be added; an instant and a [`Duration`] can. Wall-clock time never has this type.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock.
    pub const ZERO: Self = Self(0);

    /// The instant `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later.
    ///
    /// Device stamps may lie in the future; where that is a fault, compare instants instead.
    pub const fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// `self + span`, held at the last representable instant.
    pub const fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(span)))
    }

    /// `self − span`, held at the origin.
    pub const fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(saturating_nanos(span)))
    }

    /// Signed seconds from `earlier` to `self`.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        if self.0 >= earlier.0 { (self.0 - earlier.0) as f64 * 1e-9 } else { -((earlier.0 - self.0) as f64 * 1e-9) }
    }
}

const fn saturating_nanos(span: Duration) -> u64 {
    let nanos = span.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

/// A point in *motion time*: time that advances only while rows of a chunk are executed.
///
/// It stands still in a hold and runs slower when a joint is limited, so a chunk aligned by it can neither skip nor
/// repeat a row.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Default)]
pub struct MotionTime(u64);

impl MotionTime {
    /// The start of motion.
    pub const ZERO: Self = Self(0);

    /// The point `nanos` nanoseconds of motion after the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds of motion since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// `self + span`, held at the last representable point.
    pub const fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(span)))
    }

    /// Signed seconds of motion from `earlier` to `self`.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        Instant(self.0).seconds_since(Instant(earlier.0))
    }
}

/// A monotonic clock that can be waited on.
pub trait Clock: Send + Sync {
    /// The present.
    ///
    /// # Real-time
    /// Does not allocate or block.
    fn now(&self) -> Instant;

    /// Returns at `deadline` or as soon after as the platform allows; at once when it has passed.
    fn sleep_until(&self, deadline: Instant);
}

/// The machine's monotonic clock, counted from the creation of the value.
#[derive(Debug)]
pub struct MonotonicClock {
    origin: std::time::Instant,
}

impl MonotonicClock {
    /// A clock whose origin lies one second back, so that small subtractions from `now` stay meaningful.
    pub fn new() -> Self {
        let now = std::time::Instant::now();
        Self { origin: now.checked_sub(Duration::from_secs(1)).unwrap_or(now) }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(saturating_nanos(self.origin.elapsed()))
    }

    fn sleep_until(&self, deadline: Instant) {
        let wait = deadline.duration_since(self.now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct SimulatedClock {
    nanos: AtomicU64,
}

impl SimulatedClock {
    /// A clock standing at `start`.
    pub const fn starting_at(start: Instant) -> Self {
        Self { nanos: AtomicU64::new(start.as_nanos()) }
    }

    /// Moves the clock to `to`; a clock never runs backwards, so an earlier instant changes nothing.
    pub fn advance_to(&self, to: Instant) {
        self.nanos.fetch_max(to.as_nanos(), Ordering::Release);
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.nanos.load(Ordering::Acquire))
    }

    /// Moves the clock to `deadline`.
    fn sleep_until(&self, deadline: Instant) {
        self.advance_to(deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_between_instants_saturate_and_keep_their_sign_in_seconds() {
        let (a, b) = (Instant::from_nanos(1_000), Instant::from_nanos(4_000));
        assert_eq!(b.duration_since(a), Duration::from_nanos(3_000));
        assert_eq!(a.duration_since(b), Duration::ZERO);
        assert_eq!(a.seconds_since(b), -3e-6);
        assert_eq!(Instant::ZERO.saturating_sub(Duration::from_secs(1)), Instant::ZERO);
        assert_eq!(Instant::from_nanos(u64::MAX).saturating_add(Duration::MAX).as_nanos(), u64::MAX);
    }

    #[test]
    fn a_simulated_clock_never_runs_backwards() {
        let clock = SimulatedClock::starting_at(Instant::from_nanos(5));
        clock.sleep_until(Instant::from_nanos(9));
        clock.advance_to(Instant::from_nanos(7));
        assert_eq!(clock.now(), Instant::from_nanos(9));
    }
}
