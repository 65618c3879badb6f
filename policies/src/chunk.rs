//! Action chunks: what a policy answers with.

use core::time::Duration;

use endplate_hal::{FrameStamp, Instant};

use crate::bundle::PolicySpec;
use crate::observation::{Anchor, Epoch};
use crate::planner::Plan;

/// Wall time each stage of one inference took; for metrics only, never for control.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Stages {
    /// Resize and layout of the images.
    pub preprocess: Duration,
    /// The same before the answer was asked for ([`Policy::prepare`](crate::Policy::prepare)), for the images that it is of; in
    /// no other stage.
    pub ahead: Duration,
    /// Images to visual tokens.
    pub vision: Duration,
    /// Prompt and prefix.
    pub prefill: Duration,
    /// Token by token generation.
    pub decode: Duration,
    /// Tokens to joint rows.
    pub postprocess: Duration,
    /// Visual tokens that went through all layers of the prefix; 0 for a family without such a prefix.
    pub visual_tokens: u32,
    /// Action tokens generated.
    pub tokens: u32,
    /// Of these, tokens that were not the most likely one because the tokenizer could not take that.
    pub constrained: u32,
    /// Decoder passes in full-stack equivalents (layers run ÷ layers), prefill apart.
    pub passes: f64,
    /// Passes that verified a block of guesses, or rounds of a decoder in two halves.
    pub blocks: u32,
    /// Of `passes`, those of `blocks`.
    pub passes_in_blocks: f64,
    /// Passes through the decoder's shallow half alone.
    pub shallow: u32,
    /// Passes through its deep half alone.
    pub deep: u32,
    /// Of `tokens`, those taken from the auxiliary head.
    pub exited: u32,
    /// Of `decode`, the time `blocks` took.
    pub in_blocks: Duration,
    /// What was planned; `None` for a budget without end.
    pub plan: Option<Plan>,
}

impl Stages {
    /// All stages together.
    pub fn total(&self) -> Duration {
        self.preprocess + self.vision + self.prefill + self.decode + self.postprocess
    }
}

/// Where a chunk comes from and when it went through what: whoever runs the policy writes it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Trace {
    /// The oldest frame of the observation.
    pub frame: FrameStamp,
    /// When the observation was complete.
    pub observed: Instant,
    /// When the answer was there.
    pub inferred: Instant,
}

/// `[H, D]` absolute joint rows with the point they belong to.
///
/// Preallocated and reused: [`Policy::infer`](crate::Policy::infer) fills it, and its contents are valid only after
/// `Ok`.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionChunk {
    horizon: usize,
    dims: usize,
    rows: Vec<f64>,
    period: Duration,
    anchor: Anchor,
    epoch: Epoch,
    error_bound: Option<f64>,
    stages: Stages,
    trace: Trace,
}

impl ActionChunk {
    /// A chunk of `horizon` rows of `dims` zeros.
    pub fn new(horizon: usize, dims: usize) -> Self {
        Self {
            horizon,
            dims,
            rows: vec![0.0; horizon * dims],
            period: Duration::ZERO,
            anchor: Anchor::default(),
            epoch: Epoch::default(),
            error_bound: None,
            stages: Stages::default(),
            trace: Trace::default(),
        }
    }

    /// A chunk of the size a policy fills.
    pub fn for_spec(spec: &PolicySpec) -> Self {
        Self::new(spec.chunk.horizon, spec.actions.dims().len())
    }

    /// `H`, rows.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    /// `D`, action dimensions.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// `[H, D]` row-major, absolute, rad (m for prismatic joints).
    pub fn rows(&self) -> &[f64] {
        &self.rows
    }

    /// Row `index`, `[D]`; `None` past the horizon.
    pub fn row(&self, index: usize) -> Option<&[f64]> {
        if index >= self.horizon {
            return None;
        }
        self.rows.get(index * self.dims..(index + 1) * self.dims)
    }

    /// The row at a place between rows, linearly between its neighbours, into `[D]`; at the ends the first or last row.
    pub(crate) fn row_at(&self, place: f64, into: &mut [f64]) {
        let place = place.clamp(0.0, self.horizon.saturating_sub(1) as f64);
        let (below, part) = (place.floor() as usize, place.fract());
        if let (Some(from), Some(to)) = (self.row(below), self.row(below + usize::from(part > 0.0))) {
            for ((value, from), to) in into.iter_mut().zip(from).zip(to) {
                *value = from + (to - from) * part;
            }
        }
    }

    /// `[H, D]` row-major, for a policy to fill.
    pub fn rows_mut(&mut self) -> &mut [f64] {
        &mut self.rows
    }

    /// Motion time between rows.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// What row 0 belongs to.
    pub fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// The epoch it was asked for in.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The largest error of a row in normalised units when generation stopped early; `None` for a complete chunk.
    pub fn error_bound(&self) -> Option<f64> {
        self.error_bound
    }

    /// Where the time went.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    pub(crate) fn stages_mut(&mut self) -> &mut Stages {
        &mut self.stages
    }

    /// Where it comes from.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Says where it comes from.
    pub fn set_trace(&mut self, trace: Trace) {
        self.trace = trace;
    }

    /// Everything but the rows and the trace, for a policy to fill.
    pub fn set(&mut self, period: Duration, anchor: Anchor, epoch: Epoch, error_bound: Option<f64>, stages: Stages) {
        self.period = period;
        self.anchor = anchor;
        self.epoch = epoch;
        self.error_bound = error_bound;
        self.stages = stages;
    }

    /// Copies another chunk.
    ///
    /// # Real-time
    /// Does not allocate when both have the same size.
    pub fn copy_from(&mut self, other: &Self) {
        self.horizon = other.horizon;
        self.dims = other.dims;
        self.rows.clear();
        self.rows.extend_from_slice(&other.rows);
        self.set(other.period, other.anchor, other.epoch, other.error_bound, other.stages);
        self.trace = other.trace;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_index_and_end_at_the_horizon() {
        let mut chunk = ActionChunk::new(2, 3);
        for (i, value) in chunk.rows_mut().iter_mut().enumerate() {
            *value = i as f64;
        }
        assert_eq!(chunk.row(1), Some(&[3.0, 4.0, 5.0][..]));
        assert_eq!(chunk.row(2), None);
        let mut copy = ActionChunk::new(2, 3);
        copy.copy_from(&chunk);
        assert_eq!(copy, chunk);
    }
}
