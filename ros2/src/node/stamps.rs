//! From the robot's wall clock to this process's monotonic clock.

use crate::message::Stamp;
use core::time::Duration;
use endplate_hal::Instant;

/// Differences the map remembers.
const WINDOW: usize = 256;
/// A difference this far from the others is a step of a clock, not a late message.
const STEP: Duration = Duration::from_millis(500);

/// Why a stamp is not believed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// No message has said yet how the clocks differ.
    #[error("no joint state has come yet, so the stamp cannot be placed in time")]
    Unknown,
    /// The stamp is no time.
    #[error("the stamp {0} s, {1} ns is no time")]
    NoTime(i32, u32),
    /// One of the clocks was set.
    #[error("the sender's clock stepped by {millis} ms against this machine's")]
    Stepped {
        /// By how much, forward positive.
        millis: i64,
    },
}

/// Maps stamps by the smallest difference to their arrival over a window: the quickest message had next to no delay.
/// It serves any clock that runs at the speed of time: a robot with its own wall clock, or simulated time in real time.
#[derive(Clone, Debug)]
pub struct StampMap {
    /// Arrival less stamp, ns.
    differences: Vec<i128>,
    next: usize,
}

impl Default for StampMap {
    fn default() -> Self {
        Self { differences: Vec::with_capacity(WINDOW), next: 0 }
    }
}

fn nanos(stamp: Stamp) -> Result<i128, StampError> {
    match stamp.nanoseconds < 1_000_000_000 && stamp.seconds >= 0 {
        true => Ok(i128::from(stamp.seconds) * 1_000_000_000 + i128::from(stamp.nanoseconds)),
        false => Err(StampError::NoTime(stamp.seconds, stamp.nanoseconds)),
    }
}

impl StampMap {
    /// Learns from a message that arrived at `now`, and places its stamp. A stamp of zero, which some drivers send, is
    /// the arrival itself.
    ///
    /// # Errors
    /// [`StampError::Stepped`]: the message is not to be used, and nothing is learnt from it.
    pub fn learn(&mut self, stamp: Stamp, now: Instant) -> Result<Instant, StampError> {
        if stamp == Stamp::default() {
            return Ok(now);
        }
        let difference = i128::from(now.as_nanos()) - nanos(stamp)?;
        if let Some(offset) = self.offset() {
            let by = offset - difference;
            let limit = STEP.as_nanos() as i128;
            if by.abs() > limit {
                return Err(StampError::Stepped { millis: (by / 1_000_000) as i64 });
            }
        }
        if self.differences.len() < WINDOW {
            self.differences.push(difference);
        } else {
            self.differences[self.next] = difference;
            self.next = (self.next + 1) % WINDOW;
        }
        self.place(stamp)
    }

    /// Places a stamp by what has been learnt.
    ///
    /// # Errors
    /// [`StampError`].
    pub fn place(&self, stamp: Stamp) -> Result<Instant, StampError> {
        let offset = self.offset().ok_or(StampError::Unknown)?;
        let at = nanos(stamp)? + offset;
        u64::try_from(at).map(Instant::from_nanos).map_err(|_| StampError::NoTime(stamp.seconds, stamp.nanoseconds))
    }

    fn offset(&self) -> Option<i128> {
        self.differences.iter().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> (Stamp, Instant) {
        let since = Duration::from_millis(1_700_000_000_000 + millis);
        (Stamp::since_epoch(since).unwrap(), Instant::from_nanos(millis * 1_000_000))
    }

    #[test]
    fn the_quickest_message_sets_the_offset_and_a_step_is_refused() {
        let mut map = StampMap::default();
        assert_eq!(map.place(at(0).0), Err(StampError::Unknown));
        for (sent, delay) in [(1000u64, 9u64), (1010, 2), (1020, 5)] {
            let (stamp, _) = at(sent);
            map.learn(stamp, Instant::from_nanos((sent + delay) * 1_000_000)).unwrap();
        }
        assert_eq!(map.place(at(1030).0), Ok(at(1032).1), "2 ms was the quickest");
        assert_eq!(map.learn(at(9000).0, at(1040).1), Err(StampError::Stepped { millis: 7962 }));
        assert_eq!(map.place(at(1030).0), Ok(at(1032).1), "nothing was learnt from it");
        let bad = Stamp { seconds: -1, nanoseconds: 0 };
        assert_eq!(map.place(bad), Err(StampError::NoTime(-1, 0)));
    }
}
