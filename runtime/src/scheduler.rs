//! Playing the rows of a chunk on motion time.
//!
//! The row to play is `(motion_now − anchor) / period`. That one rule covers a cold start (motion has not advanced:
//! nothing is skipped), a late chunk (rows already executed are skipped, none twice) and starvation (motion stands
//! still, the next chunk goes on from there).

use core::time::Duration;
use endplate_hal::{Instant, JointVec, MAX_JOINTS, MotionTime};
use endplate_policies::{ActionChunk, Epoch, Interpolation};

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

/// Holds the chunk being played and decides which row is due.
///
/// # Real-time
/// Nothing here allocates, locks or blocks after construction.
#[derive(Clone, Debug)]
pub struct ChunkScheduler {
    rules: PlayRules,
    dims: usize,
    rows: Vec<f64>,
    horizon: usize,
    period: Duration,
    anchor: MotionTime,
    captured: Instant,
    sequence: u64,
    epoch: Epoch,
}

impl ChunkScheduler {
    /// A scheduler without a chunk, for `[H, D]` chunks with one dimension per rule.
    pub fn new(rules: PlayRules) -> Self {
        Self {
            dims: rules.interpolation.len().min(MAX_JOINTS),
            rows: vec![0.0; MAX_ROWS * MAX_JOINTS],
            horizon: 0,
            period: Duration::ZERO,
            anchor: MotionTime::ZERO,
            captured: Instant::ZERO,
            sequence: 0,
            epoch: Epoch(0),
            rules,
        }
    }

    /// Forgets the chunk; only chunks of `epoch` or later are taken from now on.
    pub fn reset(&mut self, epoch: Epoch) {
        self.horizon = 0;
        self.epoch = epoch;
    }

    /// Takes over a chunk.
    ///
    /// # Errors
    /// [`ChunkRefusal`]; the old chunk goes on.
    pub fn offer(&mut self, now: Instant, motion: MotionTime, chunk: &ActionChunk) -> Result<(), ChunkRefusal> {
        let anchor = chunk.anchor();
        if chunk.epoch() < self.epoch {
            return Err(ChunkRefusal::Epoch);
        }
        let age = now.duration_since(anchor.captured);
        if age > self.rules.max_age {
            return Err(ChunkRefusal::Stale { age });
        }
        let (horizon, dims, rows) = (chunk.horizon(), chunk.dims(), chunk.rows());
        let shaped = dims == self.dims && (2..=MAX_ROWS).contains(&horizon) && rows.len() == horizon * dims;
        if !shaped || chunk.period().is_zero() || !rows.iter().all(|value| value.is_finite()) {
            return Err(ChunkRefusal::Malformed);
        }
        if row_at(motion, anchor.motion, chunk.period()) >= (horizon - 1) as f64 {
            return Err(ChunkRefusal::Spent);
        }
        self.rows[..rows.len()].copy_from_slice(rows);
        (self.horizon, self.period) = (horizon, chunk.period());
        (self.anchor, self.captured) = (anchor.motion, anchor.captured);
        self.sequence += 1;
        Ok(())
    }

    /// Counts the chunks taken over.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The capture instant of the chunk being played.
    pub fn captured(&self) -> Option<Instant> {
        (self.horizon > 0).then_some(self.captured)
    }

    /// The epoch chunks must have.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the next chunk is to be asked for: there is none, the planned rows of this one have been executed, or it
    /// has grown too old in a hold.
    pub fn wants_chunk(&self, now: Instant, motion: MotionTime) -> bool {
        self.horizon == 0
            || self.is_too_old(now)
            || row_at(motion, self.anchor, self.period) >= self.rules.execute_rows as f64
    }

    fn is_too_old(&self, now: Instant) -> bool {
        now.duration_since(self.captured) > self.rules.max_age
    }

    /// The rows executed beyond the planned share, as a span of motion time.
    pub fn overdue(&self, motion: MotionTime) -> Duration {
        if self.horizon == 0 {
            return Duration::ZERO;
        }
        let rows = row_at(motion, self.anchor, self.period) - self.rules.execute_rows as f64;
        Duration::from_secs_f64((rows * self.period.as_secs_f64()).max(0.0))
    }

    /// The absolute rows still to be played from `motion` on, copied to `out` (`[n, D]`); the number of rows.
    pub fn remaining(&self, motion: MotionTime, out: &mut [f64]) -> usize {
        if self.horizon == 0 {
            return 0;
        }
        let first = (row_at(motion, self.anchor, self.period).max(0.0).floor() as usize).min(self.horizon);
        let rows = (self.horizon - first).min(out.len() / self.dims.max(1));
        out[..rows * self.dims].copy_from_slice(&self.rows[first * self.dims..(first + rows) * self.dims]);
        rows
    }

    /// The reference at `motion`, or `None` when there is no chunk, it is out of rows or too old.
    ///
    /// Dimensions with `smooth` interpolation follow the uniform cubic B-spline whose control points are the rows: it
    /// has continuous acceleration and no lag, and its jerk is the third difference of the rows. Dimensions with `hold`
    /// take the nearest row.
    pub fn sample(&self, now: Instant, motion: MotionTime) -> Option<Reference> {
        if self.horizon == 0 || self.is_too_old(now) {
            return None;
        }
        let row = row_at(motion, self.anchor, self.period).max(0.0);
        if row > (self.horizon - 1) as f64 {
            return None;
        }
        let mut reference = Reference {
            position_rad: JointVec::zeros(self.dims),
            velocity_rad_s: JointVec::zeros(self.dims),
            acceleration_rad_s2: JointVec::zeros(self.dims),
            row,
        };
        let whole = (row.floor() as usize).min(self.horizon - 2);
        let u = row - whole as f64;
        let period = self.period.as_secs_f64();
        for dim in 0..self.dims {
            let point = |index: isize| self.control_point(whole as isize + index, dim);
            if self.rules.interpolation[dim] == Interpolation::Hold {
                reference.position_rad[dim] = point(u.round() as isize);
                continue;
            }
            let (p0, p1, p2, p3) = (point(-1), point(0), point(1), point(2));
            let w = 1.0 - u;
            reference.position_rad[dim] = (w * w * w * p0
                + (3.0 * u * u * u - 6.0 * u * u + 4.0) * p1
                + (-3.0 * u * u * u + 3.0 * u * u + 3.0 * u + 1.0) * p2
                + u * u * u * p3)
                / 6.0;
            reference.velocity_rad_s[dim] =
                (-w * w * p0 + (3.0 * u * u - 4.0 * u) * p1 + (-3.0 * u * u + 2.0 * u + 1.0) * p2 + u * u * p3)
                    / (2.0 * period);
            reference.acceleration_rad_s2[dim] =
                (w * p0 + (3.0 * u - 2.0) * p1 + (1.0 - 3.0 * u) * p2 + u * p3) / (period * period);
        }
        Some(reference)
    }

    /// Row `index` of a dimension; rows before the first and after the last continue the end segments in a straight
    /// line, so that the spline passes through both ends.
    fn control_point(&self, index: isize, dim: usize) -> f64 {
        let last = self.horizon as isize - 1;
        let row = |index: isize| self.rows[index as usize * self.dims + dim];
        if index < 0 {
            2.0 * row(0) - row((-index).min(last))
        } else if index > last {
            2.0 * row(last) - row((2 * last - index).max(0))
        } else {
            row(index)
        }
    }
}

fn row_at(motion: MotionTime, anchor: MotionTime, period: Duration) -> f64 {
    motion.seconds_since(anchor) / period.as_secs_f64()
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
    fn the_rows_still_to_be_played_start_at_the_row_being_played() {
        let mut scheduler = scheduler();
        let mut out = [0.0; 6];
        assert_eq!(scheduler.remaining(motion(0), &mut out), 0);
        scheduler.offer(instant(0), motion(0), &chunk(0, 0, 0)).unwrap();
        assert_eq!(scheduler.remaining(motion(450), &mut out), 3);
        assert_eq!(out, [4.0, 4.0, 5.0, 5.0, 6.0, 6.0]);
        assert_eq!(scheduler.remaining(motion(690), &mut out), 2);
    }
}
