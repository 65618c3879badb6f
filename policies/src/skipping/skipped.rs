//! A policy that is not always asked.

use core::time::Duration;
use std::time::Instant as WallInstant;

use super::Skipping;
use super::gate::Gate;
use super::signals::{Seen, Signals, last_lines, pixels, recent_lines, shift};
use endplate_hal::{Frame, MotionTime};

use crate::action_space::ActionKind;
use crate::bundle::PolicySpec;
use crate::chunk::{ActionChunk, Stages};
use crate::families::check_observation;
use crate::observation::{Budget, Committed, Continuation, Epoch, Observation};
use crate::policy::{OutputFault, Policy, PolicyError, StopReason};
use crate::thresholds::{ExtrapolationThresholds, ReuseThresholds};

/// When a call is skipped.
#[derive(Copy, Clone, Debug)]
enum Rules {
    Reuse(ReuseThresholds),
    Extrapolate(ExtrapolationThresholds),
}

/// Answers for the policy inside where nothing speaks against it.
pub(crate) struct Skipped {
    inner: Box<dyn Policy>,
    rules: Rules,
    gate: Gate,
    epoch: Epoch,
    instruction: String,
    /// The last two computed answers, the newer second.
    before: Option<Seen>,
    last: Option<Seen>,
    fault: OutputFault,
    /// Whether the newest answer was skipped: it has no tokens.
    skipped: bool,
}

impl Skipped {
    /// `None` where the bundle does not ask for it, or has no thresholds for it.
    pub(crate) fn around(inner: Box<dyn Policy>) -> Box<dyn Policy> {
        let spec = inner.spec();
        let fitted = spec.thresholds.as_ref();
        let rules = match spec.skipping {
            Skipping::Off => None,
            Skipping::Reuse => fitted.and_then(|fitted| fitted.reuse).map(Rules::Reuse),
            Skipping::Extrapolate => fitted.and_then(|fitted| fitted.extrapolation).map(Rules::Extrapolate),
        };
        let Some(rules) = rules else { return inner };
        Box::new(Self {
            inner,
            rules,
            gate: Gate::default(),
            epoch: Epoch::default(),
            instruction: String::new(),
            before: None,
            last: None,
            fault: OutputFault::None,
            skipped: false,
        })
    }

    fn forget(&mut self) {
        self.gate.reset();
        self.before = None;
        self.last = None;
    }

    /// Fills `rows` and says how, if the model need not be asked.
    fn skip(&self, observation: &Observation<'_>, committed: &Committed<'_>, rows: &mut [f64]) -> Option<StopReason> {
        let is_free = matches!(committed.continuation, Continuation::Free) && self.fault == OutputFault::None;
        if !is_free || !self.gate.may_skip() {
            return None;
        }
        let is_whole = |frame: &Frame| frame.sequence > 0 && frame.data.len() == pixels(frame) * 3;
        if !observation.frames.iter().all(is_whole) {
            return None;
        }
        let (before, last) = (self.before.as_ref()?, self.last.as_ref()?);
        let (spec, motion) = (self.inner.spec(), observation.anchor.motion);
        let signals = Signals::of(spec, before, last, observation.frames, motion);
        match self.rules {
            Rules::Reuse(rules) => {
                may_reuse(&rules, &signals, spec.chunk.execute_rows).then_some(())?;
                go_on(spec, &last.chunk, motion, rows)?;
                Some(StopReason::Reused)
            }
            Rules::Extrapolate(rules) => {
                may_extrapolate(&rules, &signals).then_some(())?;
                straight_on(spec, &last.chunk, motion, rows)?;
                Some(StopReason::Extrapolated)
            }
        }
    }
}

/// FlashVLA's trigger over chunks: little turned, little seen to change, and at least half of what will be played is known.
pub fn may_reuse(rules: &ReuseThresholds, signals: &Signals, execute_rows: usize) -> bool {
    !signals.gripper_moves
        && signals.angle_rad.is_some_and(|angle| angle < rules.angle_rad)
        && signals.still_share >= rules.still_share
        && signals.rows_left >= execute_rows as f64 / 2.0
}

/// SP-VLA's gate: a motion that is neither fine nor hasty, and straight.
pub fn may_extrapolate(rules: &ExtrapolationThresholds, signals: &Signals) -> bool {
    !signals.gripper_moves
        && (rules.speed_min_rad_s..=rules.speed_max_rad_s).contains(&signals.speed_rad_s)
        && signals.residual_rad.is_some_and(|residual| residual <= rules.residual_rad)
}

/// The rows of `chunk` from `motion` on, into `[H, D]`; behind its end, straight on for the arm and still for grippers.
/// `None` for a chunk too short for a line.
pub fn go_on(spec: &PolicySpec, chunk: &ActionChunk, motion: MotionTime, rows: &mut [f64]) -> Option<()> {
    let lines = last_lines(chunk)?;
    let passed = shift(chunk, motion);
    let (dims, end) = (chunk.dims(), (chunk.horizon() - 1) as f64);
    for (index, row) in rows.chunks_exact_mut(dims).enumerate() {
        let at = index as f64 + passed;
        chunk.row_at(at.min(end), row);
        let beyond_s = (at - end).max(0.0) * chunk.period().as_secs_f64();
        for ((value, line), dim) in row.iter_mut().zip(&lines).zip(spec.actions.dims()) {
            if dim.kind != ActionKind::Gripper {
                *value += line.slope * beyond_s;
            }
        }
    }
    rows.iter().all(|value| value.is_finite()).then_some(())
}

/// From where `chunk` is at `motion` on along the line of its rows before, into `[H, D]`. `None` for too few of them.
pub fn straight_on(spec: &PolicySpec, chunk: &ActionChunk, motion: MotionTime, rows: &mut [f64]) -> Option<()> {
    let passed = shift(chunk, motion);
    let lines = recent_lines(chunk, passed)?;
    let (dims, end) = (chunk.dims(), (chunk.horizon() - 1) as f64);
    for (index, row) in rows.chunks_exact_mut(dims).enumerate() {
        chunk.row_at(passed.min(end), row);
        let ahead_s = index as f64 * chunk.period().as_secs_f64();
        for ((value, line), dim) in row.iter_mut().zip(&lines).zip(spec.actions.dims()) {
            if dim.kind != ActionKind::Gripper {
                *value += line.slope * ahead_s;
            }
        }
    }
    rows.iter().all(|value| value.is_finite()).then_some(())
}

impl Policy for Skipped {
    fn spec(&self) -> &PolicySpec {
        self.inner.spec()
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        let began = WallInstant::now();
        self.skipped = false;
        if committed.epoch != self.epoch || observation.instruction != self.instruction {
            self.forget();
            self.epoch = committed.epoch;
            observation.instruction.clone_into(&mut self.instruction);
        }
        check_observation(self.inner.spec(), observation, chunk)?;
        if let Some(stop) = self.skip(observation, committed, chunk.rows_mut()) {
            let stages = Stages { preprocess: began.elapsed(), ..Stages::default() };
            chunk.set(self.spec().chunk.row_period, observation.anchor, committed.epoch, None, stages);
            self.gate.note(true);
            self.skipped = true;
            return Ok(stop);
        }
        let result = self.inner.infer(observation, committed, budget, chunk);
        if result.is_err() {
            // What a refused answer would have said is not known: no skip leans on it.
            self.forget();
            return result;
        }
        self.gate.note(false);
        self.before = self.last.take();
        self.last = Some(Seen { chunk: chunk.clone(), frames: observation.frames.to_vec() });
        result
    }

    fn inner(&self) -> Option<&dyn Policy> {
        Some(&*self.inner)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Policy> {
        Some(&mut *self.inner)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.inner.check_instruction(instruction)
    }

    fn reset(&mut self, epoch: Epoch) {
        self.forget();
        self.inner.reset(epoch);
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
        self.inner.inject(fault);
    }

    fn modelled_cost(&self) -> Duration {
        self.inner.modelled_cost()
    }

    fn tokens(&self) -> &[u32] {
        if self.skipped { &[] } else { self.inner.tokens() }
    }
}
