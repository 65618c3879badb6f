//! Observations of the recent past, for a policy that reads several a row period apart.
//!
//! Every look at the cameras feeds it, whether a chunk is wanted or not; an inference takes from it the observations
//! nearest to one, two, … row periods before its own. Before the first observation of an epoch there is nothing: that one
//! stands in for what came before it, as LeRobot fills its queue. A hole, because cameras stood still or the loop was busy
//! answering, is no observation: the inference is refused and asked for again.

use core::time::Duration;
use endplate_hal::{Frame, Instant, JointState, JointVec};
use endplate_policies::{MAX_OBSERVATIONS, Moment};

/// Looks kept a row period, so that one lies near every instant.
const LOOKS: u32 = 4;

/// One look.
struct Look {
    frames: Vec<Frame>,
    state: JointState,
}

/// Why the past is not known.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// How far before the present the observation should lie.
    pub(super) back: Duration,
    /// How far from there the nearest look lies.
    pub(super) off: Duration,
}

/// The looks of an epoch, newest last.
///
/// # Real-time
/// Allocates when the first frames of a camera come (and where a frame grows), not after.
pub(super) struct History {
    looks: Vec<Look>,
    /// Where the next look goes.
    next: usize,
    len: usize,
    /// Whether a look of this epoch has made way for a newer one.
    is_full: bool,
    /// Past observations that a policy reads.
    past: usize,
    period: Duration,
}

impl History {
    /// Room for a policy that reads `observations`, `period` apart; one observation needs none.
    pub(super) fn new(observations: usize, period: Duration) -> Self {
        let past = observations.saturating_sub(1).min(MAX_OBSERVATIONS - 1);
        let room = if past == 0 { 0 } else { (past + 1) * LOOKS as usize + 1 };
        let blank = JointState {
            stamp: Instant::ZERO,
            position_rad: JointVec::zeros(0),
            velocity_rad_s: JointVec::zeros(0),
            effort_nm: None,
        };
        let looks = (0..room).map(|_| Look { frames: Vec::new(), state: blank }).collect();
        Self { looks, next: 0, len: 0, is_full: false, past, period }
    }

    /// Whether looks are kept at all.
    pub(super) fn is_kept(&self) -> bool {
        self.past > 0
    }

    /// Forgets everything: a new epoch.
    pub(super) fn clear(&mut self) {
        (self.next, self.len, self.is_full) = (0, 0, false);
    }

    /// Whether a look at `instant` would be kept: later than the newest by a good part of a period.
    pub(super) fn wants(&self, instant: Instant) -> bool {
        self.is_kept()
            && self.newest().is_none_or(|look| instant.duration_since(look.state.stamp) >= self.period / LOOKS)
    }

    /// Keeps a look; `state` is the one at the instant of the frames.
    pub(super) fn push(&mut self, frames: &[Frame], state: &JointState) {
        let room = self.looks.len();
        let Some(look) = self.looks.get_mut(self.next) else { return };
        look.frames.resize_with(frames.len(), || Frame::new(0, 0));
        for (kept, frame) in look.frames.iter_mut().zip(frames) {
            kept.data.clone_from(&frame.data);
            (kept.width, kept.height, kept.sequence) = (frame.width, frame.height, frame.sequence);
            (kept.captured, kept.available) = (frame.captured, frame.available);
        }
        look.state = *state;
        self.is_full |= self.len == room;
        self.next = (self.next + 1) % room;
        self.len = (self.len + 1).min(room);
    }

    /// Where the pixels of every kept frame lie.
    #[cfg(test)]
    pub(super) fn buffers(&self) -> impl Iterator<Item = *const u8> {
        self.looks.iter().flat_map(|look| &look.frames).map(|frame| frame.data.as_ptr())
    }

    fn newest(&self) -> Option<&Look> {
        self.iter().next()
    }

    /// Looks, newest first.
    fn iter(&self) -> impl Iterator<Item = &Look> {
        let room = self.looks.len().max(1);
        (1..=self.len).map(move |back| &self.looks[(self.next + room - back) % room])
    }

    /// Writes the observations before `present`, oldest first, into `into`, and says how many they are.
    pub(super) fn before<'a>(&'a self, present: &Moment<'a>, into: &mut [Moment<'a>]) -> Result<usize, Hole> {
        for (slot, back) in into.iter_mut().zip((1..=self.past as u32).rev()) {
            *slot = self.at(present, self.period * back)?;
        }
        Ok(self.past)
    }

    /// The observation `back` before the present one.
    fn at<'a>(&'a self, present: &Moment<'a>, back: Duration) -> Result<Moment<'a>, Hole> {
        let now = present.state.stamp;
        let moment = |look: &'a Look| Moment { frames: &look.frames, state: look.state };
        let first = self.iter().last().filter(|look| look.state.stamp < now);
        let Some(first) = first else { return Ok(*present) };
        let age = |look: &Look| now.duration_since(look.state.stamp);
        if !self.is_full && age(first) <= back {
            return Ok(moment(first));
        }
        let off = |look: &&'a Look| age(look).abs_diff(back);
        match self.iter().min_by_key(off) {
            Some(look) if off(&look) <= self.period / 2 => Ok(moment(look)),
            nearest => Err(Hole { back, off: nearest.map_or(back, |look| off(&look)) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn state(millis: u64) -> JointState {
        JointState {
            stamp: at(millis),
            position_rad: JointVec::from_fn(1, |_| millis as f64),
            velocity_rad_s: JointVec::zeros(1),
            effort_nm: None,
        }
    }

    fn frames(millis: u64) -> Vec<Frame> {
        vec![Frame { data: vec![(millis / 10) as u8; 12], captured: at(millis), sequence: 1, ..Frame::new(2, 2) }]
    }

    /// The stamps, ms, of what comes before a look at `millis`, which is kept first, as the loop does.
    fn before(history: &mut History, millis: u64) -> Result<Vec<f64>, Hole> {
        if history.wants(at(millis)) {
            history.push(&frames(millis), &state(millis));
        }
        let seen = frames(millis);
        let present = Moment { frames: &seen, state: state(millis) };
        let mut past = [present; MAX_OBSERVATIONS];
        let count = history.before(&present, &mut past)?;
        for moment in &past[..count] {
            assert_eq!(
                moment.frames[0].data[0],
                (moment.state.position_rad[0] / 10.0) as u8,
                "frames and state belong"
            );
        }
        Ok(past[..count].iter().map(|moment| moment.state.position_rad[0]).collect())
    }

    #[test]
    fn observations_lie_a_period_apart_and_the_first_stands_in_for_what_was_before_it() {
        let mut history = History::new(3, PERIOD);
        assert_eq!(before(&mut history, 1000), Ok(vec![1000.0, 1000.0]), "nothing but the present");
        assert_eq!(before(&mut history, 1033), Ok(vec![1000.0, 1000.0]));
        for millis in (1066..1600).step_by(33) {
            before(&mut history, millis).unwrap();
        }
        let past = before(&mut history, 1600).unwrap();
        assert!((past[0] - 1400.0).abs() <= 17.0 && (past[1] - 1500.0).abs() <= 17.0, "{past:?}");
        assert_eq!(before(&mut history, 1601).unwrap().len(), 2);
    }

    #[test]
    fn a_hole_is_refused_until_the_past_has_been_seen_again() {
        let mut history = History::new(2, PERIOD);
        for millis in (1000..2000).step_by(25) {
            before(&mut history, millis).unwrap();
        }
        // The loop was busy for half a second.
        let hole = before(&mut history, 2500).unwrap_err();
        assert_eq!((hole.back, hole.off), (PERIOD, Duration::from_millis(100)));
        assert!(before(&mut history, 2530).is_err());
        assert_eq!(before(&mut history, 2600), Ok(vec![2500.0]));
    }

    #[test]
    fn an_epoch_begins_with_nothing_and_one_observation_keeps_nothing() {
        let mut history = History::new(2, PERIOD);
        for millis in (1000..1500).step_by(25) {
            before(&mut history, millis).unwrap();
        }
        history.clear();
        assert_eq!(before(&mut history, 1500), Ok(vec![1500.0]));
        assert_eq!(before(&mut history, 1510), Ok(vec![1500.0]));
        let mut one = History::new(1, PERIOD);
        assert!(!one.is_kept() && !one.wants(at(1)));
        one.push(&frames(1), &state(1));
        assert_eq!(before(&mut one, 2), Ok(vec![]));
    }
}
