//! Absolute deadlines: what a thread that wakes once a period does with the time it woke at.

use core::time::Duration;
use endplate_hal::Instant;

/// One awakening.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Wake {
    /// How far behind the deadline.
    pub late: Duration,
    /// Whole periods that passed meanwhile: they are counted and skipped, never caught up in a burst.
    pub missed: u64,
}

/// Deadlines one period apart. An awakening that comes late moves no later deadline.
#[derive(Clone, Debug)]
pub struct Pacer {
    period: Duration,
    deadline: Instant,
}

impl Pacer {
    /// The first deadline lies one period after `start`. A period of zero is taken as 1 ns.
    pub fn new(start: Instant, period: Duration) -> Self {
        let period = period.max(Duration::from_nanos(1));
        Self { period, deadline: start.saturating_add(period) }
    }

    /// The next deadline.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Awake at `now`, by the timer: the next deadline is the first one after `now` on the same grid.
    ///
    /// # Real-time
    /// Does not allocate, lock or block.
    pub fn woke(&mut self, now: Instant) -> Wake {
        let late = now.duration_since(self.deadline);
        let missed = u64::try_from(late.as_nanos() / self.period.as_nanos()).unwrap_or(u64::MAX);
        let skipped = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        self.deadline = self.deadline.saturating_add(self.period.saturating_mul(skipped));
        Wake { late, missed }
    }

    /// Awake at `now`, by a device that sets the pace: its next cycle is expected one period from now.
    ///
    /// # Real-time
    /// Does not allocate, lock or block.
    pub fn paced(&mut self, now: Instant) -> Wake {
        let late = now.duration_since(self.deadline);
        let missed = u64::try_from(late.as_nanos() / self.period.as_nanos()).unwrap_or(u64::MAX);
        self.deadline = now.saturating_add(self.period);
        Wake { late, missed }
    }

    /// How long a device that sets the pace is waited for: half a period beyond its cycle, then the thread goes on
    /// without it, since a command leaves every period.
    pub fn patience(&self) -> Instant {
        self.deadline.saturating_add(self.period / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_late_awakening_moves_no_deadline_and_missed_periods_are_skipped() {
        let mut pacer = Pacer::new(ms(0), Duration::from_millis(10));
        assert_eq!(pacer.deadline(), ms(10));
        assert_eq!(pacer.woke(ms(13)), Wake { late: Duration::from_millis(3), missed: 0 });
        assert_eq!(pacer.deadline(), ms(20));
        assert_eq!(pacer.woke(ms(47)), Wake { late: Duration::from_millis(27), missed: 2 });
        assert_eq!(pacer.deadline(), ms(50));
        assert_eq!(pacer.woke(ms(50)).late, Duration::ZERO);
    }

    #[test]
    fn a_device_that_sets_the_pace_moves_the_deadlines() {
        let mut pacer = Pacer::new(ms(0), Duration::from_millis(10));
        assert_eq!(pacer.patience(), ms(15));
        assert_eq!(pacer.paced(ms(12)).missed, 0);
        assert_eq!(pacer.deadline(), ms(22));
        assert_eq!(pacer.paced(ms(43)).missed, 2);
        assert_eq!(pacer.deadline(), ms(53));
    }

    #[test]
    fn nothing_overflows() {
        let mut pacer = Pacer::new(ms(0), Duration::ZERO);
        assert!(pacer.woke(Instant::from_nanos(u64::MAX)).missed > 0);
        assert!(pacer.deadline() > ms(0));
    }
}
