//! What the inference side knows of the control side.

use crate::handover::track::Track;
use core::time::Duration;
use endplate_hal::{Instant, MAX_JOINTS, MotionTime, StateRing};
use endplate_policies::Epoch;

/// Ticks, and joint states, that a snapshot holds.
pub(super) const HISTORY: usize = 64;

/// What the inference side needs of the control side: published every tick, read as the latest value.
#[derive(Clone, Debug)]
pub struct ControlSnapshot {
    /// When it was taken.
    pub now: Instant,
    /// Whether a new chunk is to be asked for.
    pub wants_chunk: bool,
    /// Whether one is, or will be within 100 ms if motion goes on.
    pub wants_chunk_soon: bool,
    /// The present epoch.
    pub epoch: Epoch,
    /// The newest joint states.
    pub states: StateRing,
    /// Motion time at the newest ticks, oldest first.
    pub(crate) motion: Vec<(Instant, MotionTime)>,
    /// What will be played if no other chunk comes.
    pub(crate) plan: Track,
    /// The longest time from capture to arrival among the last answers.
    pub expected_latency: Duration,
}

impl ControlSnapshot {
    /// An empty snapshot with room for everything.
    pub fn new() -> Self {
        Self {
            now: Instant::ZERO,
            wants_chunk: false,
            wants_chunk_soon: false,
            epoch: Epoch(0),
            states: StateRing::with_capacity(HISTORY),
            motion: Vec::with_capacity(HISTORY),
            plan: Track::new(MAX_JOINTS),
            expected_latency: Duration::ZERO,
        }
    }

    /// Motion time at `instant`, interpolated; before the oldest tick held, or after the newest, the nearest is given.
    pub fn motion_at(&self, instant: Instant) -> Option<MotionTime> {
        let after = self.motion.iter().position(|(at, _)| *at >= instant);
        match after {
            None => self.motion.last().map(|&(_, motion)| motion),
            Some(0) => self.motion.first().map(|&(_, motion)| motion),
            Some(index) => {
                let ((t0, m0), (t1, m1)) = (self.motion[index - 1], self.motion[index]);
                let share = instant.seconds_since(t0) / t1.seconds_since(t0);
                let nanos = m0.as_nanos() as f64 + (m1.as_nanos() - m0.as_nanos()) as f64 * share;
                Some(MotionTime::from_nanos(nanos.round() as u64))
            }
        }
    }
}

impl Default for ControlSnapshot {
    fn default() -> Self {
        Self::new()
    }
}
