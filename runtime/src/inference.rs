//! The inference loop: when the control loop wants a chunk, observe, infer, and account for every refusal.
//!
//! [`InferenceLoop::step`] is a function of `now` and of values handed to it; it runs on a thread of its own (or at its
//! instant of simulated time) and nothing it does can delay a control period.

mod history;
#[cfg(all(test, feature = "tract"))]
mod tests;

use crate::control::ControlSnapshot;
use crate::handover::commitment::Commitment;
use crate::handover::{Handover, HandoverError, projected};
use crate::metrics::{Cause, CauseCounts, Samples};
use crate::record::{InferenceTap, Inferred};
use core::time::Duration;
use endplate_hal::{Clock, Frame, FrameStamp, Instant, JointState, MotionTime};
use endplate_policies::planner::Work;
use endplate_policies::{
    ActionChunk, Anchor, Budget, Epoch, MAX_OBSERVATIONS, Moment, Observation, OutputFault, Policy, PolicyError,
    PolicySpec, Stages, StopReason, Trace,
};
use history::{History, Hole};
use serde::Serialize;
use std::collections::BTreeMap;

/// Counters of an inference loop.
#[derive(Clone)]
pub struct InferenceCounts {
    /// Chunks answered.
    pub chunks: u64,
    /// Wall time of each answer.
    pub latency: Samples,
    /// Wall time of each stage, in the order of [`STAGES`].
    pub stages: [Samples; STAGES.len()],
    /// Visual tokens of all chunks that went through all layers.
    pub visual_tokens: u64,
    /// Tokens of all chunks.
    pub tokens: u64,
    /// Of these, tokens that were not the most likely one because the tokenizer could not take that.
    pub constrained: u64,
    /// Of these, tokens taken from the auxiliary head.
    pub exited: u64,
    /// Decoder passes of all chunks, in full-stack equivalents.
    pub passes: f64,
    /// Of these, passes that verified a block of guesses.
    pub blocks: u64,
    /// Times the machine changed its speed and costs were taken to change with it.
    pub replanned: u64,
    /// What was planned.
    pub plans: PlanCounts,
    /// The largest error bound of an answer that was cut off, normalised units.
    pub error_bound: f64,
    /// Answers by stop reason.
    pub stop_reasons: BTreeMap<String, u64>,
    /// Refusals by cause.
    pub causes: CauseCounts,
    /// The message of the newest refusal, for the log.
    pub last_refusal: Option<String>,
}

/// What the planner chose, in answered inferences.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanCounts {
    /// Inferences planned.
    pub planned: u64,
    /// Of these, with blocks of guesses.
    pub drafted: u64,
    /// With fewer denoising steps than the policy's own number.
    pub shortened: u64,
    /// Which did not fit their budget at worst, by the costs they were planned with.
    pub unfit: u64,
}

/// Names of the measured stages.
pub const STAGES: [&str; 6] = ["ahead", "preprocess", "vision", "prefill", "decode", "postprocess"];

/// The wall time of each stage, in the order of [`STAGES`].
pub(crate) fn stage_spans(of: &Stages) -> [Duration; STAGES.len()] {
    [of.ahead, of.preprocess, of.vision, of.prefill, of.decode, of.postprocess]
}

impl InferenceCounts {
    fn new() -> Self {
        Self {
            chunks: 0,
            latency: Samples::with_capacity(65_536),
            stages: std::array::from_fn(|_| Samples::with_capacity(65_536)),
            visual_tokens: 0,
            tokens: 0,
            constrained: 0,
            exited: 0,
            passes: 0.0,
            blocks: 0,
            replanned: 0,
            plans: PlanCounts::default(),
            error_bound: 0.0,
            stop_reasons: BTreeMap::new(),
            causes: CauseCounts::default(),
            last_refusal: None,
        }
    }
}

/// What a step did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// No chunk is wanted.
    Idle,
    /// [`InferenceLoop::chunk`] is new.
    Answered(StopReason),
    /// The observation or the answer was refused.
    Refused(Cause),
}

/// Observes and infers for one policy.
pub struct InferenceLoop {
    policy: Box<dyn Policy>,
    chunk: ActionChunk,
    instruction: String,
    epoch: Epoch,
    budget: Duration,
    state_ahead: Duration,
    refused_in_a_row: u32,
    inferred: bool,
    /// The sequence numbers of the frames prepared last, added up.
    prepared: u64,
    /// The newest answer's end and wall time, until they are counted.
    unaccounted: Option<(StopReason, Duration)>,
    tap: Option<Box<dyn InferenceTap>>,
    handover: Handover,
    commitment: Commitment,
    history: History,
    counts: InferenceCounts,
}

impl InferenceLoop {
    /// A loop around a policy; each answer may take `budget`.
    pub fn new(policy: Box<dyn Policy>, instruction: &str, budget: Duration, state_ahead: Duration) -> Self {
        let spec = policy.spec();
        Self {
            chunk: ActionChunk::for_spec(spec),
            instruction: instruction.to_owned(),
            epoch: Epoch(0),
            budget,
            state_ahead,
            refused_in_a_row: 0,
            inferred: false,
            prepared: 0,
            unaccounted: None,
            tap: None,
            handover: Handover::default(),
            commitment: Commitment::default(),
            history: History::new(spec.observation_steps(), spec.chunk.row_period),
            counts: InferenceCounts::new(),
            policy,
        }
    }

    /// The policy's description.
    pub fn spec(&self) -> &PolicySpec {
        self.policy.spec()
    }

    /// Another instruction: everything asked before belongs to the past.
    pub fn instruct(&mut self, instruction: &str, epoch: Epoch) {
        instruction.clone_into(&mut self.instruction);
        self.epoch = epoch;
        self.refused_in_a_row = 0;
        self.history.clear();
        self.policy.reset(epoch);
    }

    /// The machine takes `factor` times as long as before; the next inferences are planned accordingly.
    pub fn rescale_costs(&mut self, factor: f64) {
        self.counts.replanned += 1;
        self.policy.rescale_costs(factor);
    }

    /// How answers continue the chunk being played.
    ///
    /// # Errors
    /// [`HandoverError::Pairing`] when the policy cannot; the handover stays as it was.
    pub fn set_handover(&mut self, handover: Handover) -> Result<(), HandoverError> {
        handover.check(self.policy.spec())?;
        self.handover = handover;
        Ok(())
    }

    /// The present epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The instruction being followed.
    pub fn instruction(&self) -> &str {
        &self.instruction
    }

    /// Who is shown every inference.
    pub fn set_tap(&mut self, tap: Option<Box<dyn InferenceTap>>) {
        self.tap = tap;
    }

    /// Corrupts the next answers where a broken model would; they must come out as refusals.
    pub fn inject(&mut self, fault: OutputFault) {
        self.policy.inject(fault);
    }

    /// The newest chunk.
    pub fn chunk(&self) -> &ActionChunk {
        &self.chunk
    }

    /// Answers refused in a row.
    pub fn refused_in_a_row(&self) -> u32 {
        self.refused_in_a_row
    }

    /// Whether the last step that was not idle ran the policy, whatever became of its answer.
    pub fn inferred(&self) -> bool {
        self.inferred
    }

    /// The counters so far.
    pub fn counts(&self) -> &InferenceCounts {
        &self.counts
    }

    /// Counters are taken over and start anew.
    pub fn take_counts(&mut self) -> InferenceCounts {
        std::mem::replace(&mut self.counts, InferenceCounts::new())
    }

    /// One step. `frames` are the newest frames in the order of the bundle's camera slots; a policy that reads several
    /// observations needs a step several times a row period, whether a chunk is wanted or not. With a `clock` the budget
    /// is charged in real time, without one from the bundle's cost model.
    pub fn step(
        &mut self,
        now: Instant,
        snapshot: &ControlSnapshot,
        frames: &[Frame],
        clock: Option<&dyn Clock>,
    ) -> StepOutcome {
        let outcome = self.ask(now, snapshot, frames, clock);
        self.account();
        outcome
    }

    /// [`step`](Self::step) before [`account`](Self::account), for whoever hands the answer on first.
    pub fn ask(
        &mut self,
        now: Instant,
        snapshot: &ControlSnapshot,
        frames: &[Frame],
        clock: Option<&dyn Clock>,
    ) -> StepOutcome {
        if snapshot.epoch != self.epoch {
            return StepOutcome::Idle;
        }
        self.look(now, snapshot, frames);
        if !snapshot.wants_chunk {
            return StepOutcome::Idle;
        }
        let started = std::time::Instant::now();
        self.inferred = true;
        match self.answer(now, snapshot, frames, clock) {
            Ok(stop) => {
                self.refused_in_a_row = 0;
                self.unaccounted = Some((stop, started.elapsed()));
                StepOutcome::Answered(stop)
            }
            Err(Refusal { cause, message, of_policy }) => {
                self.counts.causes.count(cause);
                self.counts.last_refusal = Some(message);
                self.inferred = of_policy;
                self.refused_in_a_row = self.refused_in_a_row.saturating_add(u32::from(of_policy));
                StepOutcome::Refused(cause)
            }
        }
    }

    /// Does ahead what can be done of a chunk that will be wanted soon ([`Policy::prepare`]), once for each new frame: for a
    /// thread that has nothing else to do. A policy that reads several observations has nothing prepared.
    pub fn prepare(&mut self, now: Instant, snapshot: &ControlSnapshot, frames: &[Frame], clock: &dyn Clock) {
        if !snapshot.wants_chunk_soon || snapshot.epoch != self.epoch || self.history.is_kept() {
            return;
        }
        let newest = frames.iter().map(|frame| frame.sequence).sum();
        if std::mem::replace(&mut self.prepared, newest) == newest {
            return;
        }
        // What is refused is refused again when it is asked for, and counted then.
        let Ok(Seen { state, motion, .. }) = self.see(now, snapshot, frames) else { return };
        self.commitment.take(&snapshot.plan, motion, snapshot.expected_latency);
        let observation =
            Observation { frames, state, past: &[], instruction: &self.instruction, anchor: Anchor::default() };
        let budget = Budget { start: now, deadline: now.saturating_add(self.budget), clock: Some(clock) };
        self.policy.prepare(&observation, budget);
    }

    /// Whether the next step looks at its frames.
    pub fn looks(&self, snapshot: &ControlSnapshot) -> bool {
        snapshot.epoch == self.epoch && (snapshot.wants_chunk || self.history.is_kept())
    }

    /// Keeps what is seen now, for a policy that will read it as the past.
    fn look(&mut self, now: Instant, snapshot: &ControlSnapshot, frames: &[Frame]) {
        if !self.history.is_kept() || frames.iter().any(|frame| frame.sequence == 0 || frame.captured > now) {
            return;
        }
        let Some(instant) = self.instant(now, frames).filter(|instant| self.history.wants(*instant)) else { return };
        // What is not known now is a hole later, which is refused then.
        if let Ok(state) = snapshot.states.at(instant, self.state_ahead) {
            self.history.push(frames, &JointState { stamp: instant, ..state });
        }
    }

    /// The instant that frames are an observation of.
    fn instant(&self, now: Instant, frames: &[Frame]) -> Option<Instant> {
        let oldest = frames.iter().map(|frame| frame.captured).min()?;
        Some(now.min(oldest.saturating_add(self.policy.spec().chunk.observation_lag)))
    }

    /// Where robot and motion stood when these frames were captured.
    fn see(&self, now: Instant, snapshot: &ControlSnapshot, frames: &[Frame]) -> Result<Seen, Refusal> {
        if !self.policy.spec().actions.commands_joints() {
            // Poses are no joints: a policy that was not bound to a robot never moves one.
            let message = "the policy moves the tool and was not bound to this robot's kinematics";
            return Err(Refusal { cause: Cause::PolicyFailed, message: message.to_owned(), of_policy: true });
        }
        let rules = &self.policy.spec().chunk;
        let oldest = frames.iter().map(|frame| frame.captured).min().unwrap_or(now);
        let newest = frames.iter().map(|frame| frame.captured).max().unwrap_or(now);
        if frames.iter().any(|frame| frame.sequence == 0) {
            return Err(Refusal::observation(Cause::CameraStale, "a camera has given no frame yet"));
        }
        if newest > now {
            return Err(Refusal::observation(Cause::CameraFutureStamp, "a frame is stamped into the future"));
        }
        let skew = newest.duration_since(oldest);
        if skew > rules.max_skew {
            let message = format!("the cameras' frames lie {skew:?} apart, more than {:?}", rules.max_skew);
            return Err(Refusal::observation(Cause::CameraSkew, message));
        }
        let instant = now.min(oldest.saturating_add(rules.observation_lag));
        let mut state = snapshot
            .states
            .at(instant, self.state_ahead)
            .map_err(|error| Refusal::observation(Cause::StateHistory, error.to_string()))?;
        let mut motion = snapshot
            .motion_at(instant)
            .ok_or_else(|| Refusal::observation(Cause::StateHistory, "no control period has passed yet"))?;
        if self.handover.project_state {
            motion = projected::project(&snapshot.plan, motion, snapshot.expected_latency, &mut state);
        }
        Ok(Seen { oldest, instant, state, motion })
    }

    fn answer(
        &mut self,
        now: Instant,
        snapshot: &ControlSnapshot,
        frames: &[Frame],
        clock: Option<&dyn Clock>,
    ) -> Result<StopReason, Refusal> {
        let Seen { oldest, instant, state, motion } = self.see(now, snapshot, frames)?;
        let present = Moment { frames, state: JointState { stamp: instant, ..state } };
        let mut past = [present; MAX_OBSERVATIONS];
        let count = self.history.before(&present, &mut past).map_err(|Hole { back, off }| {
            let message = format!("no observation {back:?} before the present one: the nearest is {off:?} off");
            Refusal::observation(Cause::StateHistory, message)
        })?;
        let observation = Observation {
            frames,
            state,
            past: &past[..count],
            instruction: &self.instruction,
            anchor: Anchor { motion, captured: oldest },
        };
        let observed = clock.map_or(now, Clock::now);
        let continuation = self.handover.continuation(self.policy.spec());
        self.commitment.take(&snapshot.plan, motion, snapshot.expected_latency);
        let committed = self.commitment.committed(continuation, self.epoch);
        let budget = Budget { start: now, deadline: now.saturating_add(self.budget), clock };
        let result = self.policy.infer(&observation, &committed, budget, &mut self.chunk);
        let inferred = clock.map_or(now, Clock::now);
        let frame = FrameStamp::oldest(frames).unwrap_or_default();
        self.chunk.set_trace(Trace { frame, observed, inferred });
        if let Some(tap) = &mut self.tap {
            let result = result.as_ref().map(|stop| (*stop, &self.chunk));
            tap.inferred(&Inferred { now: inferred, observation: &observation, result, tokens: self.policy.tokens() });
        }
        result.map_err(|error| Refusal::policy(&error))
    }

    /// Counts the newest answer, unless it has been.
    pub fn account(&mut self) {
        let Some((stop, wall)) = self.unaccounted.take() else { return };
        let stages = self.chunk.stages();
        let counts = &mut self.counts;
        counts.chunks += 1;
        counts.latency.record(wall);
        for (samples, span) in counts.stages.iter_mut().zip(stage_spans(stages)) {
            samples.record(span);
        }
        counts.visual_tokens += u64::from(stages.visual_tokens);
        counts.tokens += u64::from(stages.tokens);
        counts.constrained += u64::from(stages.constrained);
        counts.exited += u64::from(stages.exited);
        counts.passes += stages.passes;
        counts.blocks += u64::from(stages.blocks);
        counts.error_bound = counts.error_bound.max(self.chunk.error_bound().unwrap_or_default());
        if let Some(plan) = stages.plan {
            let is_short = matches!(self.policy.work(), Work::Steps { most, .. } if plan.steps < most);
            counts.plans.planned += 1;
            counts.plans.drafted += u64::from(plan.drafts);
            counts.plans.shortened += u64::from(is_short);
            counts.plans.unfit += u64::from(!plan.fits);
        }
        *counts.stop_reasons.entry(stop.to_string()).or_default() += 1;
    }
}

/// What an observation is of, its frames apart.
struct Seen {
    /// The capture of the oldest frame.
    oldest: Instant,
    /// What the observation is of.
    instant: Instant,
    state: JointState,
    motion: MotionTime,
}

struct Refusal {
    cause: Cause,
    message: String,
    of_policy: bool,
}

impl Refusal {
    fn observation(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), of_policy: false }
    }

    fn policy(error: &PolicyError) -> Self {
        let cause = match error {
            PolicyError::DeadlineExceeded { .. } | PolicyError::TooVague { .. } => Cause::BudgetExceeded,
            PolicyError::Undecodable(_)
            | PolicyError::NonFinite { .. }
            | PolicyError::OutOfRange { .. }
            | PolicyError::Kinematics { .. } => Cause::OutputRefused,
            _ => Cause::PolicyFailed,
        };
        Self { cause, message: format!("{}: {error}", error.kind()), of_policy: true }
    }
}
