//! Joint vectors, joint states, and the stamped ring that lets a state be read at a frame's capture time.

use crate::time::Instant;
use core::ops::{Deref, DerefMut};
use core::time::Duration;

/// The most joints one robot may have: every joint vector is this large, so that none needs the heap.
pub const MAX_JOINTS: usize = 16;

/// One number per joint, held inline.
#[derive(Copy, Clone, PartialEq)]
pub struct JointVec {
    values: [f64; MAX_JOINTS],
    len: usize,
}

impl JointVec {
    /// `joints` zeros; more than [`MAX_JOINTS`] gives [`MAX_JOINTS`] of them.
    pub const fn zeros(joints: usize) -> Self {
        let len = if joints > MAX_JOINTS { MAX_JOINTS } else { joints };
        Self { values: [0.0; MAX_JOINTS], len }
    }

    /// A copy of `values`, or `None` when there are more than [`MAX_JOINTS`].
    pub fn from_slice(values: &[f64]) -> Option<Self> {
        let mut vector = Self::zeros(values.len());
        (values.len() <= MAX_JOINTS).then(|| {
            vector.copy_from_slice(values);
            vector
        })
    }

    /// One value per joint from its index.
    pub fn from_fn(joints: usize, mut value: impl FnMut(usize) -> f64) -> Self {
        let mut vector = Self::zeros(joints);
        for (index, slot) in vector.iter_mut().enumerate() {
            *slot = value(index);
        }
        vector
    }

    /// Whether every value is finite.
    pub fn is_finite(&self) -> bool {
        self.iter().all(|value| value.is_finite())
    }
}

impl Deref for JointVec {
    type Target = [f64];
    fn deref(&self) -> &[f64] {
        &self.values[..self.len]
    }
}

impl DerefMut for JointVec {
    fn deref_mut(&mut self) -> &mut [f64] {
        &mut self.values[..self.len]
    }
}

impl core::fmt::Debug for JointVec {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(f)
    }
}

/// What the joints were doing at one instant.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct JointState {
    /// When the positions were sampled, on the monotonic clock.
    pub stamp: Instant,
    /// `[D]` rad (m for prismatic joints).
    pub position_rad: JointVec,
    /// `[D]` rad/s.
    pub velocity_rad_s: JointVec,
    /// `[D]` N·m, where the servos report it.
    pub effort_nm: Option<JointVec>,
}

/// Why no state could be given for an instant.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateRingError {
    /// Nothing has been recorded.
    #[error("no joint state has been recorded")]
    Empty,
    /// The instant lies before the oldest state still held.
    #[error("the instant lies {0:?} before the oldest recorded joint state")]
    TooOld(Duration),
    /// The instant lies after the newest state by more than the caller allows.
    #[error("the newest joint state is {0:?} older than the instant asked for")]
    TooNew(Duration),
}

/// The last joint states, by stamp, so that the state at a frame's capture can be interpolated.
///
/// # Real-time
/// Neither `push` nor `at` allocates or blocks; the capacity is fixed at construction.
#[derive(Clone, Debug)]
pub struct StateRing {
    states: Vec<JointState>,
    capacity: usize,
    next: usize,
}

impl StateRing {
    /// A ring that keeps the newest `capacity` states (at least two).
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.max(2);
        Self { states: Vec::with_capacity(capacity), capacity, next: 0 }
    }

    /// Records a state. A stamp that is not newer than the newest held is ignored and `false` returned: time in the
    /// ring only moves forward.
    pub fn push(&mut self, state: JointState) -> bool {
        if self.newest().is_some_and(|newest| state.stamp <= newest.stamp) {
            return false;
        }
        if self.states.len() < self.capacity {
            self.states.push(state);
        } else {
            self.states[self.next] = state;
        }
        self.next = (self.next + 1) % self.capacity;
        true
    }

    /// Becomes a copy of `other`; allocates only when `other` holds more than this ring has room for.
    pub fn copy_from(&mut self, other: &Self) {
        self.states.clear();
        self.states.extend_from_slice(&other.states);
        (self.capacity, self.next) = (other.capacity, other.next);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.states.clear();
        self.next = 0;
    }

    /// The newest state.
    pub fn newest(&self) -> Option<&JointState> {
        let len = self.states.len();
        (len > 0).then(|| &self.states[(self.next + len - 1) % len])
    }

    /// The state at `instant`, interpolated linearly between its neighbours. Up to `ahead` past the newest state the
    /// newest is given, with its own stamp.
    ///
    /// # Errors
    /// [`StateRingError`] when the ring does not reach the instant: a state is never extrapolated.
    pub fn at(&self, instant: Instant, ahead: Duration) -> Result<JointState, StateRingError> {
        let newest = self.newest().ok_or(StateRingError::Empty)?;
        if instant >= newest.stamp {
            let gap = instant.duration_since(newest.stamp);
            return if gap <= ahead { Ok(*newest) } else { Err(StateRingError::TooNew(gap)) };
        }
        let len = self.states.len();
        let mut later = newest;
        for back in 1..len {
            let earlier = &self.states[(self.next + 2 * len - 1 - back) % len];
            if earlier.stamp <= instant {
                return Ok(interpolate(earlier, later, instant));
            }
            later = earlier;
        }
        Err(StateRingError::TooOld(later.stamp.duration_since(instant)))
    }
}

fn interpolate(earlier: &JointState, later: &JointState, instant: Instant) -> JointState {
    let span = later.stamp.seconds_since(earlier.stamp);
    let share = if span > 0.0 { instant.seconds_since(earlier.stamp) / span } else { 0.0 };
    let mix = |a: &JointVec, b: &JointVec| JointVec::from_fn(a.len(), |j| a[j] + (b[j] - a[j]) * share);
    JointState {
        stamp: instant,
        position_rad: mix(&earlier.position_rad, &later.position_rad),
        velocity_rad_s: mix(&earlier.velocity_rad_s, &later.velocity_rad_s),
        effort_nm: match (&earlier.effort_nm, &later.effort_nm) {
            (Some(a), Some(b)) => Some(mix(a, b)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(millis: u64, position: f64) -> JointState {
        JointState {
            stamp: Instant::from_nanos(millis * 1_000_000),
            position_rad: JointVec::from_fn(2, |_| position),
            velocity_rad_s: JointVec::zeros(2),
            effort_nm: None,
        }
    }

    #[test]
    fn a_state_is_interpolated_between_its_neighbours_and_never_beyond() {
        let mut ring = StateRing::with_capacity(3);
        assert_eq!(ring.at(Instant::ZERO, Duration::ZERO), Err(StateRingError::Empty));
        for (millis, position) in [(10, 1.0), (20, 2.0), (30, 4.0), (40, 8.0)] {
            assert!(ring.push(state(millis, position)));
        }
        assert!(!ring.push(state(40, 9.0)), "a repeated stamp is not recorded");
        let at = |micros: u64| ring.at(Instant::from_nanos(micros * 1_000), Duration::from_millis(5));
        assert_eq!(at(25_000).unwrap().position_rad[0], 3.0);
        assert_eq!(at(35_000).unwrap().position_rad[1], 6.0);
        assert_eq!(at(20_000).unwrap().position_rad[1], 2.0);
        assert_eq!(at(44_000).unwrap().position_rad[0], 8.0);
        assert_eq!(at(15_000), Err(StateRingError::TooOld(Duration::from_millis(5))));
        assert_eq!(at(46_000), Err(StateRingError::TooNew(Duration::from_millis(6))));
    }

    #[test]
    fn more_joints_than_fit_are_refused() {
        assert!(JointVec::from_slice(&[0.0; MAX_JOINTS + 1]).is_none());
        assert_eq!(JointVec::from_slice(&[1.0, 2.0]).unwrap().len(), 2);
        assert!(!JointVec::from_slice(&[1.0, f64::NAN]).unwrap().is_finite());
    }
}
