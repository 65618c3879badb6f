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
///
/// On Linux it is `CLOCK_MONOTONIC`, and a wait is a wait for an absolute deadline (`clock_nanosleep` with
/// `TIMER_ABSTIME`): time spent between looking at the clock and going to sleep does not add up.
#[derive(Debug)]
pub struct MonotonicClock {
    origin_nanos: u64,
}

impl MonotonicClock {
    /// A clock whose origin lies one second back, so that small subtractions from `now` stay meaningful.
    pub fn new() -> Self {
        Self { origin_nanos: machine::now_nanos().saturating_sub(1_000_000_000) }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(machine::now_nanos().saturating_sub(self.origin_nanos))
    }

    fn sleep_until(&self, deadline: Instant) {
        machine::sleep_until_nanos(self.origin_nanos.saturating_add(deadline.as_nanos()));
    }
}

#[cfg(target_os = "linux")]
mod machine {
    /// `CLOCK_MONOTONIC`, ns.
    pub fn now_nanos() -> u64 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes one timespec that lives through the call; this clock exists on every Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
        (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
    }

    /// Returns when `CLOCK_MONOTONIC` has reached `nanos`; at once when it has.
    pub fn sleep_until_nanos(nanos: u64) {
        let deadline = libc::timespec {
            tv_sec: libc::time_t::try_from(nanos / 1_000_000_000).unwrap_or(libc::time_t::MAX),
            tv_nsec: (nanos % 1_000_000_000) as _, // below 10⁹: fits
        };
        // A signal handler that ran ends the wait early: wait on.
        // SAFETY: reads one timespec that lives through the call; no remainder is written for absolute waits.
        while unsafe {
            libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &deadline, core::ptr::null_mut())
        } == libc::EINTR
        {}
    }
}

#[cfg(not(target_os = "linux"))]
mod machine {
    use core::time::Duration;
    use std::sync::OnceLock;
    use std::time::Instant;

    /// Nanoseconds since the first call, and an hour.
    pub fn now_nanos() -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        super::saturating_nanos(START.get_or_init(Instant::now).elapsed() + Duration::from_secs(3600))
    }

    /// Returns when the clock has reached `nanos`; at once when it has.
    pub fn sleep_until_nanos(nanos: u64) {
        let wait = nanos.saturating_sub(now_nanos());
        if wait > 0 {
            std::thread::sleep(Duration::from_nanos(wait));
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

    #[test]
    fn the_monotonic_clock_waits_for_the_instant_and_not_at_all_for_the_past() {
        let clock = MonotonicClock::new();
        let start = clock.now();
        assert!(start >= Instant::from_nanos(1_000_000_000));
        clock.sleep_until(Instant::ZERO);
        let deadline = start.saturating_add(Duration::from_millis(5));
        clock.sleep_until(deadline);
        assert!(clock.now() >= deadline);
    }
}
