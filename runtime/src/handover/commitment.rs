//! What an inference is told about the rows that will be played while it thinks.

use super::rtc;
use super::track::Track;
use crate::scheduler::MAX_ROWS;
use core::time::Duration;
use endplate_hal::{MAX_JOINTS, MotionTime};
use endplate_policies::{Committed, Continuation, Epoch};

/// Rows still to be played, laid so that row 0 belongs to the observation, as row 0 of the answer will.
pub(crate) struct Commitment {
    /// `[n, D]`.
    rows: Vec<f64>,
    values: usize,
    delay_rows: usize,
    /// `[n]`.
    weights: Vec<f64>,
}

impl Default for Commitment {
    fn default() -> Self {
        Self { rows: vec![0.0; MAX_ROWS * MAX_JOINTS], values: 0, delay_rows: 0, weights: Vec::with_capacity(MAX_ROWS) }
    }
}

impl Commitment {
    /// Reads the plan from `motion` on, for an answer expected `latency` after its capture.
    pub(crate) fn take(&mut self, plan: &Track, motion: MotionTime, latency: Duration) {
        let room = MAX_ROWS * plan.dims();
        let count = plan.rows_from(motion, &mut self.rows[..room]);
        self.values = count * plan.dims();
        let delay = (latency.as_secs_f64() / plan.period().as_secs_f64()).ceil() as usize;
        self.delay_rows = delay.min(count);
        self.weights.clear();
        self.weights.extend((0..count).map(|row| rtc::weight(row, self.delay_rows, count)));
    }

    /// As a policy is given it.
    pub(crate) fn committed(&self, continuation: Continuation, epoch: Epoch) -> Committed<'_> {
        Committed {
            rows: &self.rows[..self.values],
            delay_rows: self.delay_rows,
            weights: &self.weights,
            continuation,
            epoch,
        }
    }
}
