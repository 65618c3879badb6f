//! Playing the rows of a chunk on motion time.
//!
//! The row to play is `(motion_now − anchor) / period`. That one rule covers a cold start (motion has not advanced:
//! nothing is skipped), a late chunk (rows already executed are skipped, none twice) and starvation (motion stands
//! still, the next chunk goes on from there).

use crate::handover::ensemble::Ensemble;
use crate::handover::track::Track;
use crate::handover::{Handover, Mode, blend, naive, rtc};
use core::time::Duration;
use endplate_hal::{Instant, JointVec, MAX_JOINTS, MotionTime};
use endplate_policies::{ActionChunk, Blending, Epoch, Interpolation};

/// The most rows a chunk may have.
pub const MAX_ROWS: usize = 128;

/// Why a chunk was not taken.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkRefusal {
    /// Asked before a reset.
    #[error("the chunk was asked before a reset")]
    Epoch,
    /// Its capture lies too far back.
    #[error("the chunk's capture lies {age:?} back")]
    Stale {
        /// Age of the capture.
        age: Duration,
    },
    /// Every row has been executed already.
    #[error("every row of the chunk has been executed already")]
    Spent,
    /// It starts further from the rows being played than a joint can follow.
    #[error("joint {joint} would have to leave the rows being played faster than its limit")]
    Jump {
        /// The joint.
        joint: usize,
    },
    /// Its shape or values cannot be played.
    #[error("the chunk is not [H, D] finite rows for this robot")]
    Malformed,
}

/// Where the joints are to be at one point of motion time, and how they move there.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Reference {
    /// `[D]` rad.
    pub position_rad: JointVec,
    /// `[D]` rad per second of motion.
    pub velocity_rad_s: JointVec,
    /// `[D]` rad per second of motion, squared.
    pub acceleration_rad_s2: JointVec,
    /// Rows of the chunk before this point, fractional.
    pub row: f64,
}

/// What a policy's chunks look like, and how they are played.
#[derive(Clone, Debug)]
pub struct PlayRules {
    /// How each dimension is interpolated between rows.
    pub interpolation: Vec<Interpolation>,
    /// Rows executed before the next chunk is asked for.
    pub execute_rows: usize,
    /// A chunk whose capture lies further back is refused, and dropped if it is being played.
    pub max_age: Duration,
}

/// How far behind the motion is when it is made up for as fast as allowed, s; less, slower.
const FULLY_BEHIND_S: f64 = 0.2;

/// Latencies of the last answers, so that a spike is forgotten.
const LATENCIES: usize = 10;

/// Holds the chunk being played and decides which row is due.
///
/// # Real-time
/// Nothing here allocates, locks or blocks after construction.
#[derive(Clone, Debug)]
pub struct ChunkScheduler {
    rules: PlayRules,
    handover: Handover,
    blending: Vec<Blending>,
    velocity_rad_s: JointVec,
    dims: usize,
    current: Track,
    /// A chunk that starts later, or one being joined.
    next: Track,
    ensemble: Ensemble,
    asked: Option<Instant>,
    latencies: [Duration; LATENCIES],
    latency_count: usize,
    sequence: u64,
    epoch: Epoch,
}

impl ChunkScheduler {
    /// A scheduler without a chunk, for `[H, D]` chunks with one dimension per rule, that switches from chunk to chunk.
    pub fn new(rules: PlayRules) -> Self {
        let dims = rules.interpolation.len().min(MAX_JOINTS);
        Self {
            dims,
            handover: Handover::default(),
            blending: vec![Blending::Latch; dims],
            velocity_rad_s: JointVec::from_fn(dims, |_| f64::INFINITY),
            current: Track::new(dims),
            next: Track::new(dims),
            ensemble: Ensemble::default(),
            asked: None,
            latencies: [Duration::ZERO; LATENCIES],
            latency_count: 0,
            sequence: 0,
            epoch: Epoch(0),
            rules,
        }
    }

    /// Hands over in another way: `blending` by dimension, and how fast each joint may be asked to go.
    pub fn set_handover(&mut self, handover: Handover, blending: &[Blending], velocity_rad_s: JointVec) {
        self.ensemble = match handover.mode {
            Mode::Ensemble { .. } => Ensemble::new(self.dims),
            _ => Ensemble::default(),
        };
        self.handover = handover;
        self.blending = blending.to_vec();
        self.velocity_rad_s = velocity_rad_s;
    }

    /// Forgets the chunk; only chunks of `epoch` or later are taken from now on.
    pub fn reset(&mut self, epoch: Epoch) {
        self.current.clear();
        self.next.clear();
        self.ensemble.clear();
        self.asked = None;
        self.epoch = epoch;
    }

    /// Takes over a chunk.
    ///
    /// # Errors
    /// [`ChunkRefusal`]; the old chunk goes on.
    pub fn offer(&mut self, now: Instant, motion: MotionTime, chunk: &ActionChunk) -> Result<(), ChunkRefusal> {
        let anchor = chunk.anchor();
        let asked = self.asked.take();
        if chunk.epoch() < self.epoch {
            return Err(ChunkRefusal::Epoch);
        }
        let age = now.duration_since(anchor.captured);
        if age > self.rules.max_age {
            return Err(ChunkRefusal::Stale { age });
        }
        self.latencies[self.latency_count % LATENCIES] = age;
        self.latency_count = self.latency_count.wrapping_add(1);
        let (horizon, dims, rows) = (chunk.horizon(), chunk.dims(), chunk.rows());
        let shaped = dims == self.dims && (2..=MAX_ROWS).contains(&horizon) && rows.len() == horizon * dims;
        if !shaped || chunk.period().is_zero() || !rows.iter().all(|value| value.is_finite()) {
            return Err(ChunkRefusal::Malformed);
        }
        self.next.load(chunk);
        self.next.lead(self.handover.lead);
        if self.handover.mode == Mode::NaiveAsynchronous {
            naive::drop_rows(&mut self.next, motion, asked.map_or(Duration::ZERO, |asked| now.duration_since(asked)));
        }
        let joined = if self.next.row_at(motion) >= self.next.last_row() {
            Err(ChunkRefusal::Spent)
        } else if self.current.covers(motion) && !self.is_too_old(now) {
            self.join(motion)
        } else {
            Ok(())
        };
        if joined.is_err() {
            self.next.clear();
        }
        self.settle(now, motion);
        joined
    }

    /// Joins the next chunk to the one being played.
    fn join(&mut self, motion: MotionTime) -> Result<(), ChunkRefusal> {
        match self.handover.mode {
            Mode::Blend { old_share } => {
                blend::join(&self.current, &mut self.next, motion, old_share, &self.blending);
                Ok(())
            }
            Mode::Rtc { .. } => rtc::join(&self.current, &mut self.next, motion, &self.velocity_rad_s, &self.blending),
            Mode::Switch | Mode::Ensemble { .. } | Mode::Prefix => Ok(()),
            Mode::NaiveSynchronous | Mode::NaiveAsynchronous => Ok(()),
        }
    }

    /// Lets the next chunk take over once its first row is due, or when there is nothing else to play. Call it every
    /// period.
    pub fn settle(&mut self, now: Instant, motion: MotionTime) {
        let goes_on = self.current.covers(motion) && !self.is_too_old(now);
        if self.next.is_empty() || (self.next.row_at(motion) < 0.0 && goes_on) {
            return;
        }
        if !self.current.is_empty() {
            self.ensemble.push(&self.current);
        }
        core::mem::swap(&mut self.current, &mut self.next);
        self.next.clear();
        self.sequence += 1;
    }

    /// Whether a chunk was taken whose first row is not due yet.
    pub fn is_waiting(&self) -> bool {
        !self.next.is_empty()
    }

    /// Notes when a chunk began to be wanted. Call it every period.
    pub fn note_wish(&mut self, now: Instant, motion: MotionTime) {
        if self.asked.is_none() && self.wants_chunk(now, motion) {
            self.asked = Some(now);
        }
    }

    /// Counts the chunks taken over.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The capture instant of the chunk being played.
    pub fn captured(&self) -> Option<Instant> {
        (!self.current.is_empty()).then(|| self.current.captured())
    }

    /// The epoch chunks must have.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The longest time from capture to arrival among the last answers; zero before the first.
    pub fn expected_latency(&self) -> Duration {
        self.latencies.iter().copied().max().unwrap_or_default()
    }

    /// Whether the next chunk is to be asked for: there is none, the trigger says so, or it has grown too old in a hold.
    pub fn wants_chunk(&self, now: Instant, motion: MotionTime) -> bool {
        let due = || self.handover.trigger.is_due(&self.current, self.rules.execute_rows, motion);
        self.current.is_empty() || self.is_too_old(now) || (self.next.is_empty() && due())
    }

    fn is_too_old(&self, now: Instant) -> bool {
        now.duration_since(self.current.captured()) > self.rules.max_age
    }

    /// The rows executed beyond the planned share, as a span of motion time.
    pub fn overdue(&self, motion: MotionTime) -> Duration {
        if self.current.is_empty() {
            return Duration::ZERO;
        }
        let rows = self.current.row_at(motion) - self.rules.execute_rows as f64;
        Duration::from_secs_f64((rows * self.current.period().as_secs_f64()).max(0.0))
    }

    /// The fastest motion time may run: 1, and more while it is behind the clock of the observation that is being
    /// played, by `catch_up` at most. Nothing is skipped: rows are played in less time until the motion stands where the
    /// policy planned it for.
    pub fn top_speed(&self, now: Instant, motion: MotionTime) -> f64 {
        if self.handover.catch_up == 0.0 || self.current.is_empty() {
            return 1.0;
        }
        let elapsed = now.duration_since(self.current.captured()).as_secs_f64();
        let behind = elapsed - motion.seconds_since(self.current.anchor());
        1.0 + self.handover.catch_up * (behind / FULLY_BEHIND_S).clamp(0.0, 1.0)
    }

    /// Copies what will still be played if no other chunk comes.
    pub(crate) fn plan(&self, out: &mut Track) {
        out.copy_from(&self.current);
    }

    /// The reference at `motion`, or `None` when there is no chunk, it is out of rows or too old.
    pub fn sample(&self, now: Instant, motion: MotionTime) -> Option<Reference> {
        if self.current.is_empty() || self.is_too_old(now) {
            return None;
        }
        let reference = self.current.sample(motion, &self.rules.interpolation)?;
        match self.handover.mode {
            Mode::NaiveSynchronous if reference.row > self.rules.execute_rows as f64 => None,
            Mode::Ensemble { decay } => {
                let interpolation = &self.rules.interpolation;
                Some(self.ensemble.average(&reference, motion, decay, interpolation, &self.blending))
            }
            _ => Some(reference),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use endplate_policies::{Anchor, Stages};

    fn motion(millis: u64) -> MotionTime {
        MotionTime::from_nanos(millis * 1_000_000)
    }

    fn instant(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn scheduler() -> ChunkScheduler {
        ChunkScheduler::new(PlayRules {
            interpolation: vec![Interpolation::Smooth, Interpolation::Hold],
            execute_rows: 4,
            max_age: Duration::from_secs(2),
        })
    }

    /// Rows `0, 1, 2, …` in both dimensions, 100 ms apart.
    fn chunk(anchor_motion: u64, captured: u64, epoch: u64) -> ActionChunk {
        let rows: Vec<f64> = (0..8).flat_map(|row| [f64::from(row); 2]).collect();
        let mut chunk = ActionChunk::new(8, 2);
        let anchor = Anchor { motion: motion(anchor_motion), captured: instant(captured) };
        chunk.rows_mut().copy_from_slice(&rows);
        chunk.set(Duration::from_millis(100), anchor, Epoch(epoch), None, Stages::default());
        chunk
    }

    #[test]
    fn the_row_is_a_matter_of_motion_time_alone() {
        let mut scheduler = scheduler();
        assert!(scheduler.sample(instant(0), motion(0)).is_none());
        scheduler.offer(instant(300), motion(0), &chunk(0, 100, 0)).unwrap();
        let row = |at: u64| scheduler.sample(instant(300), motion(at)).unwrap().row;
        assert_eq!(row(0), 0.0, "a cold start skips nothing, however late the chunk came");
        assert_eq!(row(250), 2.5);
        assert!(scheduler.sample(instant(300), motion(701)).is_none(), "no rows left");
        let wants = |now: u64, at: u64| scheduler.wants_chunk(instant(now), motion(at));
        assert!(!wants(300, 399) && wants(300, 400));
        assert!(wants(2_101, 0), "a chunk that grew too old in a hold is replaced");
    }

    #[test]
    fn smooth_dimensions_follow_a_line_exactly_and_hold_dimensions_take_the_nearest_row() {
        let mut scheduler = scheduler();
        scheduler.offer(instant(0), motion(0), &chunk(0, 0, 0)).unwrap();
        for at in [0, 30, 99, 100, 355, 699, 700] {
            let reference = scheduler.sample(instant(0), motion(at)).unwrap();
            assert!((reference.position_rad[0] - at as f64 / 100.0).abs() < 1e-12);
            assert!((reference.velocity_rad_s[0] - 10.0).abs() < 1e-9);
            assert!(reference.acceleration_rad_s2[0].abs() < 1e-9);
            assert_eq!(reference.position_rad[1], (at as f64 / 100.0).round());
        }
    }

    #[test]
    fn velocity_and_acceleration_are_the_derivatives_of_position() {
        let mut scheduler = scheduler();
        let mut bent = chunk(0, 0, 0);
        let rows: Vec<f64> = (0..8).flat_map(|row: i32| [f64::from(row * row) * 0.1, 0.0]).collect();
        bent.rows_mut().copy_from_slice(&rows);
        scheduler.offer(instant(0), motion(0), &bent).unwrap();
        let h = 1e-4;
        let at = |seconds: f64| scheduler.sample(instant(0), MotionTime::from_nanos((seconds * 1e9) as u64)).unwrap();
        for seconds in [0.05, 0.21, 0.333, 0.61] {
            let (before, here, after) = (at(seconds - h), at(seconds), at(seconds + h));
            let d = (after.position_rad[0] - before.position_rad[0]) / (2.0 * h);
            let dd = (after.velocity_rad_s[0] - before.velocity_rad_s[0]) / (2.0 * h);
            assert!((d - here.velocity_rad_s[0]).abs() < 1e-4);
            assert!((dd - here.acceleration_rad_s2[0]).abs() < 1e-2);
        }
    }

    #[test]
    fn chunks_from_before_a_reset_stale_spent_and_malformed_ones_are_refused_and_the_old_one_goes_on() {
        let mut scheduler = scheduler();
        scheduler.offer(instant(0), motion(0), &chunk(0, 0, 0)).unwrap();
        fn refusal(to: &mut ChunkScheduler, now: Instant, at: MotionTime, chunk: &ActionChunk) -> ChunkRefusal {
            to.offer(now, at, chunk).unwrap_err()
        }
        assert_eq!(
            refusal(&mut scheduler, instant(2_500), motion(100), &chunk(0, 100, 0)),
            ChunkRefusal::Stale { age: Duration::from_millis(2_400) }
        );
        assert_eq!(refusal(&mut scheduler, instant(10), motion(700), &chunk(0, 0, 0)), ChunkRefusal::Spent);
        let mut nan = chunk(0, 0, 0);
        nan.rows_mut()[3] = f64::NAN;
        assert_eq!(refusal(&mut scheduler, instant(10), motion(0), &nan), ChunkRefusal::Malformed);
        assert_eq!(scheduler.sample(instant(10), motion(100)).unwrap().row, 1.0);
        scheduler.reset(Epoch(1));
        assert_eq!(refusal(&mut scheduler, instant(10), motion(0), &chunk(0, 0, 0)), ChunkRefusal::Epoch);
        assert!(scheduler.sample(instant(10), motion(100)).is_none());
        scheduler.offer(instant(10), motion(100), &chunk(100, 0, 1)).unwrap();
        assert!(scheduler.sample(instant(2_001), motion(100)).is_none(), "a chunk grows too old in a long hold");
    }

    #[test]
    fn the_plan_is_read_from_any_point_of_motion_time() {
        let mut scheduler = scheduler();
        let (mut plan, mut out) = (Track::new(2), [0.0; 6]);
        scheduler.plan(&mut plan);
        assert_eq!(plan.rows_from(motion(0), &mut out), 0);
        scheduler.offer(instant(0), motion(0), &chunk(0, 0, 0)).unwrap();
        scheduler.plan(&mut plan);
        assert_eq!(plan.rows_from(motion(450), &mut out), 3);
        assert_eq!(out, [4.5, 4.5, 5.5, 5.5, 6.5, 6.5]);
        assert_eq!(plan.rows_from(motion(690), &mut out), 1);
    }

    fn handing_over(text: &str) -> ChunkScheduler {
        let mut scheduler = scheduler();
        let velocity = JointVec::from_fn(2, |_| 100.0);
        scheduler.set_handover(Handover::parse(text).unwrap(), &[Blending::Average, Blending::Latch], velocity);
        scheduler.offer(instant(0), motion(0), &chunk(0, 0, 0)).unwrap();
        scheduler
    }

    /// As `chunk`, `by` higher.
    fn raised(anchor_motion: u64, by: f64) -> ActionChunk {
        let mut raised = chunk(anchor_motion, anchor_motion, 0);
        raised.rows_mut().iter_mut().for_each(|value| *value += by);
        raised
    }

    #[test]
    fn a_blend_averages_the_rows_both_chunks_have_and_latches_the_gripper() {
        let mut scheduler = handing_over("blend:old=0.5");
        // Row 0 of the new chunk is row 4 of the old one, which has the value 4.
        scheduler.offer(instant(400), motion(400), &raised(400, 2.0)).unwrap();
        let at = |at: u64| scheduler.sample(instant(400), motion(at)).unwrap().position_rad;
        assert!((at(500)[0] - (0.5 * 5.0 + 0.5 * 3.0)).abs() < 1e-9, "{:?}", at(500));
        assert_eq!(at(500)[1], 3.0, "a gripper comes from one chunk");
        assert!((at(1000)[0] - 8.0).abs() < 1e-9, "past the old rows the new ones stand alone");
    }

    #[test]
    fn a_lead_makes_every_row_due_earlier_and_does_not_grow() {
        let mut scheduler = handing_over("switch:lead=50ms");
        let row = |scheduler: &ChunkScheduler, at: u64| scheduler.sample(instant(at), motion(at)).unwrap().row;
        assert!((row(&scheduler, 200) - 2.5).abs() < 1e-9);
        assert!(scheduler.wants_chunk(instant(350), motion(350)), "executed 50 ms earlier, asked for 50 ms earlier");
        scheduler.offer(instant(400), motion(400), &raised(350, 0.0)).unwrap();
        assert!((row(&scheduler, 400) - 1.0).abs() < 1e-9);
        scheduler.offer(instant(500), motion(500), &raised(400, 0.0)).unwrap();
        assert!((row(&scheduler, 500) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn motion_that_fell_behind_may_run_faster_until_it_has_caught_up() {
        let caught = handing_over("switch:catch_up=0.25");
        let top = |scheduler: &ChunkScheduler, now: u64, at: u64| scheduler.top_speed(instant(now), motion(at));
        assert_eq!(top(&caught, 300, 300), 1.0, "nothing was lost");
        assert_eq!(top(&caught, 300, 400), 1.0);
        assert!((top(&caught, 400, 300) - 1.125).abs() < 1e-9, "half of it for 100 ms");
        assert!((top(&caught, 1_900, 300) - 1.25).abs() < 1e-9, "and never more than that");
        assert_eq!(top(&handing_over("switch"), 1_900, 300), 1.0);
    }

    #[test]
    fn soft_weights_hold_the_row_being_played_and_refuse_a_jump() {
        let mut scheduler = handing_over("rtc");
        scheduler.offer(instant(400), motion(400), &raised(400, 4.4)).unwrap();
        let at =
            |scheduler: &ChunkScheduler, at: u64| scheduler.sample(instant(400), motion(at)).unwrap().position_rad[0];
        // The old chunk says 4 here, the new one 4.4.
        assert!((at(&scheduler, 400) - 4.0).abs() < 0.2, "{}", at(&scheduler, 400));
        assert!((at(&scheduler, 1_050) - (6.5 + 4.4)).abs() < 1e-9);
        let refused = scheduler.offer(instant(500), motion(500), &raised(500, 40.0));
        assert_eq!(refused, Err(ChunkRefusal::Jump { joint: 0 }));
        assert!((at(&scheduler, 1_050) - (6.5 + 4.4)).abs() < 1e-9, "the old chunk goes on");
    }

    #[test]
    fn an_ensemble_weighs_the_oldest_first() {
        let mut scheduler = handing_over("ensemble:decay=1");
        scheduler.offer(instant(100), motion(100), &raised(100, 3.0)).unwrap();
        let position = scheduler.sample(instant(100), motion(200)).unwrap().position_rad;
        let share = (-1.0f64).exp() / (1.0 + (-1.0f64).exp());
        assert!((position[0] - (2.0 * (1.0 - share) + 4.0 * share)).abs() < 1e-9, "{position:?}");
        assert_eq!(position[1], 4.0, "a gripper follows the newest");
    }

    #[test]
    fn an_ensemble_is_of_a_chunk_a_row_and_of_all_that_have_a_row() {
        let mut scheduler = handing_over("ensemble:decay=0");
        let wants = |scheduler: &ChunkScheduler, at: u64| scheduler.wants_chunk(instant(at), motion(at));
        assert!(!wants(&scheduler, 99) && wants(&scheduler, 100));
        let horizon = 60;
        for k in 0..horizon as u64 {
            let mut long = ActionChunk::new(horizon, 2);
            long.rows_mut().fill(k as f64);
            let anchor = Anchor { motion: motion(100 * k), captured: instant(100 * k) };
            long.set(Duration::from_millis(100), anchor, Epoch(0), None, Stages::default());
            scheduler.offer(instant(100 * k), motion(100 * k), &long).unwrap();
        }
        let mean = |at: u64| scheduler.sample(instant(5_900), motion(at)).unwrap().position_rad[0];
        assert!((mean(5_900) - 29.5).abs() < 1e-9, "all sixty, at the last row of the first: {}", mean(5_900));
        assert!((mean(5_950) - 30.0).abs() < 1e-9, "{}", mean(5_950));
        assert!(wants(&scheduler, 6_300), "an answer that took long is followed by the next question at once");
    }

    #[test]
    fn a_chunk_from_a_projected_state_waits_for_its_first_row() {
        let mut scheduler = handing_over("switch:project");
        scheduler.offer(instant(100), motion(100), &raised(300, 50.0)).unwrap();
        assert!(!scheduler.wants_chunk(instant(100), motion(650)), "one is waiting");
        scheduler.settle(instant(100), motion(299));
        assert!((scheduler.sample(instant(100), motion(299)).unwrap().position_rad[0] - 2.99).abs() < 1e-9);
        scheduler.settle(instant(100), motion(300));
        assert!((scheduler.sample(instant(100), motion(300)).unwrap().position_rad[0] - 50.0).abs() < 1e-9);
    }

    #[test]
    fn the_baseline_that_counts_rows_off_skips_rows_nobody_played() {
        let mut scheduler = scheduler();
        scheduler.set_handover(Handover::parse("naive_asynchronous").unwrap(), &[], JointVec::zeros(2));
        scheduler.note_wish(instant(0), motion(0));
        scheduler.offer(instant(290), motion(0), &chunk(0, 0, 0)).unwrap();
        assert_eq!(scheduler.sample(instant(290), motion(0)).unwrap().row, 3.0, "the arm stood still all the while");
    }
}
