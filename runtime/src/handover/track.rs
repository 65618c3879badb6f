//! The rows of one chunk laid along motion time.

use crate::scheduler::{MAX_ROWS, Reference};
use core::time::Duration;
use endplate_hal::{Instant, JointVec, MAX_JOINTS, MotionTime};
use endplate_policies::{ActionChunk, Interpolation};

/// `[H, D]` rows, when on motion time they are due, and from when they are. Empty after construction and `clear`.
///
/// # Real-time
/// Nothing here allocates, locks or blocks after construction.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    dims: usize,
    rows: Vec<f64>,
    horizon: usize,
    period: Duration,
    anchor: MotionTime,
    /// Rows to leave out at the anchor: the lead, or what a baseline counts off by a latency estimate.
    skipped: f64,
    captured: Instant,
}

impl Track {
    pub(crate) fn new(dims: usize) -> Self {
        Self {
            dims: dims.min(MAX_JOINTS),
            rows: vec![0.0; MAX_ROWS * MAX_JOINTS],
            horizon: 0,
            period: Duration::from_secs(1),
            anchor: MotionTime::ZERO,
            skipped: 0.0,
            captured: Instant::ZERO,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.horizon = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.horizon == 0
    }

    /// Takes a chunk over, whose shape was checked.
    pub(crate) fn load(&mut self, chunk: &ActionChunk) {
        let rows = chunk.rows();
        self.rows[..rows.len()].copy_from_slice(rows);
        (self.horizon, self.period) = (chunk.horizon(), chunk.period());
        (self.anchor, self.captured) = (chunk.anchor().motion, chunk.anchor().captured);
        self.skipped = 0.0;
    }

    /// Every row is due that much earlier.
    pub(crate) fn lead(&mut self, lead: Duration) {
        self.skipped += lead.as_secs_f64() / self.period.as_secs_f64();
    }

    /// Takes over what `other` has.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        let values = other.horizon * other.dims;
        self.rows[..values].copy_from_slice(&other.rows[..values]);
        (self.dims, self.horizon, self.period) = (other.dims, other.horizon, other.period);
        (self.anchor, self.skipped, self.captured) = (other.anchor, other.skipped, other.captured);
    }

    /// Row `row` is to be played at `motion`, whatever the anchor says.
    pub(crate) fn shift(&mut self, motion: MotionTime, row: f64) {
        (self.anchor, self.skipped) = (motion, row);
    }

    pub(crate) fn dims(&self) -> usize {
        self.dims
    }

    pub(crate) fn horizon(&self) -> usize {
        self.horizon
    }

    pub(crate) fn last_row(&self) -> f64 {
        self.horizon as f64 - 1.0
    }

    pub(crate) fn period(&self) -> Duration {
        self.period
    }

    /// The motion time of the observation.
    pub(crate) fn anchor(&self) -> MotionTime {
        self.anchor
    }

    pub(crate) fn captured(&self) -> Instant {
        self.captured
    }

    /// The row due at `motion`, fractional, negative before the first.
    pub(crate) fn row_at(&self, motion: MotionTime) -> f64 {
        motion.seconds_since(self.anchor) / self.period.as_secs_f64() + self.skipped
    }

    /// Whether a row is due at `motion`: the first has begun and the last is not past.
    pub(crate) fn covers(&self, motion: MotionTime) -> bool {
        let row = self.row_at(motion);
        self.horizon > 0 && (0.0..=self.last_row()).contains(&row)
    }

    /// One value of a row.
    pub(crate) fn value_mut(&mut self, row: usize, dim: usize) -> &mut f64 {
        &mut self.rows[row * self.dims + dim]
    }

    /// A dimension at a fractional row, on the line between the rows beside it; the ends go on.
    pub(crate) fn value(&self, row: f64, dim: usize) -> f64 {
        let row = row.clamp(0.0, self.last_row());
        let whole = (row.floor() as usize).min(self.horizon - 1);
        let next = (whole + 1).min(self.horizon - 1);
        let (a, b) = (self.rows[whole * self.dims + dim], self.rows[next * self.dims + dim]);
        a + (b - a) * (row - whole as f64)
    }

    /// Rows due at `motion`, one period later and so on, to the last, copied to `out` (`[n, D]`); how many.
    pub(crate) fn rows_from(&self, motion: MotionTime, out: &mut [f64]) -> usize {
        if self.horizon == 0 {
            return 0;
        }
        let first = self.row_at(motion);
        let mut count = 0;
        for row in out.chunks_exact_mut(self.dims) {
            let at = first + count as f64;
            if at > self.last_row() {
                break;
            }
            for (dim, value) in row.iter_mut().enumerate() {
                *value = self.value(at, dim);
            }
            count += 1;
        }
        count
    }

    /// The reference at `motion`: the first row before the anchor, `None` past the last row.
    ///
    /// Dimensions with `smooth` interpolation follow the uniform cubic B-spline whose control points are the rows: it
    /// has continuous acceleration and no lag, and its jerk is the third difference of the rows. Dimensions with `hold`
    /// take the nearest row.
    pub(crate) fn sample(&self, motion: MotionTime, interpolation: &[Interpolation]) -> Option<Reference> {
        if self.horizon == 0 {
            return None;
        }
        let row = self.row_at(motion).max(0.0);
        if row > self.last_row() {
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
        for (dim, interpolation) in interpolation.iter().enumerate().take(self.dims) {
            let point = |index: isize| self.control_point(whole as isize + index, dim);
            if *interpolation == Interpolation::Hold {
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
