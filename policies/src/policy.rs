//! The policy trait, its outcomes and its errors.

use core::fmt;
use core::time::Duration;

use endplate_hal::{InverseError, KinematicsError};
use endplate_tokenizers::{DecodeError, PromptError};

use crate::bundle::PolicySpec;
use crate::chunk::ActionChunk;
use crate::engine::EngineError;
use crate::kv::KvError;
use crate::observation::{Budget, Committed, Epoch, Observation};
use crate::planner::{Impossible, Plan, Work};

/// Why a policy stopped thinking.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// It had nothing left to do.
    Complete,
    /// Guesses were taken unverified after as many passes as were allowed.
    EarlyExit,
    /// Time was up: the chunk is what the tokens so far say, within a stated bound.
    Deadline,
    /// The model was not asked: the chunk before goes on.
    Reused,
    /// The model was not asked: the motion so far is continued in a straight line.
    Extrapolated,
}

impl StopReason {
    /// The name used in summaries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::EarlyExit => "early_exit",
            Self::Deadline => "deadline",
            Self::Reused => "reused",
            Self::Extrapolated => "extrapolated",
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A stage of an inference that costs time.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Images to visual tokens.
    Vision,
    /// Prompt and prefix, or the whole of a family of one pass.
    Prefill,
    /// One generated token, or one denoising step.
    Decode,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vision => "vision",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        })
    }
}

/// How to break a policy's output, where a broken model would: for tests of what stands behind it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum OutputFault {
    /// Leave it whole.
    #[default]
    None,
    /// One normalised value becomes NaN.
    Nan,
    /// One normalised value becomes infinite.
    Inf,
    /// One normalised value becomes a million.
    Huge,
    /// The generated ids are replaced by a fixed pseudo-random sequence.
    TokensGarbage,
    /// The second half of the generated ids is lost.
    TokensTruncated,
}

impl OutputFault {
    /// Breaks the last value of a normalised chunk, for the faults that are about values.
    pub(crate) fn strike(self, values: &mut [f64]) {
        let broken = match self {
            Self::Nan => f64::NAN,
            Self::Inf => f64::INFINITY,
            Self::Huge => 1e6,
            Self::None | Self::TokensGarbage | Self::TokensTruncated => return,
        };
        if let Some(last) = values.last_mut() {
            *last = broken;
        }
    }

    /// Whether it is about tokens, which not every family has.
    pub const fn is_of_tokens(self) -> bool {
        matches!(self, Self::TokensGarbage | Self::TokensTruncated)
    }
}

/// Why an observation does not fit its policy.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObservationError {
    /// Another number of frames than camera slots.
    #[error("{got} frames were given for {needed} camera slots")]
    Frames {
        /// Camera slots.
        needed: usize,
        /// Frames given.
        got: usize,
    },
    /// A frame holds another number of bytes than its size says, or nothing was captured into it.
    #[error("the frame of camera slot {slot} is {width}×{height} with {bytes} bytes and sequence {sequence}")]
    Frame {
        /// The slot.
        slot: usize,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Bytes of data.
        bytes: usize,
        /// Its sequence number; 0 means that nothing was captured.
        sequence: u64,
    },
    /// A frame of another size where nothing is resampled.
    #[error(
        "the frame of camera slot {slot} is {width}×{height} and the policy was trained on {needed_width}×{needed_height} without resampling; set the camera to that size"
    )]
    FrameSize {
        /// The slot.
        slot: usize,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Pixels across, as the policy wants them.
        needed_width: u32,
        /// Pixels down, as the policy wants them.
        needed_height: u32,
    },
    /// Another number of earlier moments than the policy reads.
    #[error("{got} earlier observations were given and the policy reads {needed}, a row period apart")]
    History {
        /// Moments the policy reads beside the present one.
        needed: usize,
        /// Moments given.
        got: usize,
    },
    /// A joint state with another number of joints.
    #[error("the joint state has {got} joints and the policy reads {needed}")]
    Joints {
        /// State dimensions of the policy.
        needed: usize,
        /// Joints given.
        got: usize,
    },
    /// A joint position that is not finite.
    #[error("the position of joint {joint} is not finite")]
    NonFiniteState {
        /// The joint.
        joint: usize,
    },
    /// Noise of another size or with a value that is not finite, or for a policy that takes none.
    #[error("{got} values of noise were given; the policy takes {needed} finite ones")]
    Noise {
        /// Values the policy takes; 0 for a policy without noise.
        needed: usize,
        /// Values given.
        got: usize,
    },
    /// The chunk to fill has another size.
    #[error("the chunk to fill is [{horizon}, {dims}] and the policy makes [{needed_horizon}, {needed_dims}]")]
    Chunk {
        /// Rows given.
        horizon: usize,
        /// Dimensions given.
        dims: usize,
        /// Rows the policy makes.
        needed_horizon: usize,
        /// Dimensions the policy makes.
        needed_dims: usize,
    },
}

/// Why there is no chunk. The chunk passed in is not to be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The deadline passed before the answer was complete.
    #[error("the budget of {budget:?} was exceeded by {late:?} in {stage}, after {tokens} tokens or steps")]
    DeadlineExceeded {
        /// The stage that ended too late.
        stage: Stage,
        /// Tokens generated, or denoising steps taken, by then.
        tokens: u32,
        /// Deadline minus start.
        budget: Duration,
        /// Past the deadline by.
        late: Duration,
    },
    /// Time was up and the tokens so far say too little.
    #[error(
        "time was up after {tokens} tokens: an action could be off by {bound:.2} in normalised units, and at most {limit:.2} is accepted"
    )]
    TooVague {
        /// Tokens generated.
        tokens: u32,
        /// The stated error bound.
        bound: f64,
        /// The largest that `thresholds.toml` accepts.
        limit: f64,
    },
    /// The generated tokens are not an action chunk.
    #[error("the generated tokens cannot be decoded: {0}")]
    Undecodable(#[from] DecodeError),
    /// A value that is not finite.
    #[error("row {row}, dimension {dim} is not finite")]
    NonFinite {
        /// Row of the chunk.
        row: usize,
        /// Action dimension.
        dim: usize,
    },
    /// A logit that is not finite.
    #[error("a logit of token {token} is not finite")]
    NonFiniteLogits {
        /// Index of the token.
        token: usize,
    },
    /// Attention of the first layers that is not finite: nothing says which visual tokens to keep.
    #[error("the attention that visual tokens are chosen by is not finite")]
    NonFiniteAttention,
    /// A value far outside what the policy was trained on.
    #[error("row {row}, dimension {dim} is {value} in normalised units and at most ±{limit} is believed")]
    OutOfRange {
        /// Row of the chunk.
        row: usize,
        /// Action dimension.
        dim: usize,
        /// The normalised value.
        value: f64,
        /// The largest magnitude believed.
        limit: f64,
    },
    /// No joints bring the tool where a row wants it.
    #[error("row {row}: {error}")]
    Kinematics {
        /// Row of the chunk.
        row: usize,
        /// Why, and by how much.
        error: InverseError,
    },
    /// Where the tool is cannot be told from the joints.
    #[error("the tool's pose: {0}")]
    Pose(#[from] KinematicsError),
    /// The instruction cannot be turned into a prompt this policy knows.
    #[error("the instruction cannot be used: {0}")]
    UnknownInstruction(#[from] PromptError),
    /// The prompt is longer than the graph's room for it.
    #[error("the prompt has {tokens} tokens and the policy has room for {room}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens there is room for.
        room: usize,
    },
    /// The observation does not fit the policy.
    #[error(transparent)]
    Observation(#[from] ObservationError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The attention memory was used beyond its size.
    #[error(transparent)]
    Memory(#[from] KvError),
}

impl PolicyError {
    /// The name used in counters and summaries.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::DeadlineExceeded { .. } => "deadline_exceeded",
            Self::TooVague { .. } => "too_vague",
            Self::Undecodable(_) => "undecodable",
            Self::NonFinite { .. } | Self::NonFiniteLogits { .. } | Self::NonFiniteAttention => "non_finite",
            Self::OutOfRange { .. } => "out_of_range",
            Self::Kinematics { .. } | Self::Pose(_) => "kinematics",
            Self::UnknownInstruction(_) => "unknown_instruction",
            Self::PromptTooLong { .. } => "prompt_too_long",
            Self::Observation(_) => "observation",
            Self::Engine(_) => "engine",
            Self::Memory(_) => "memory",
        }
    }
}

/// Turns an observation into an action chunk.
///
/// # Real-time
/// Runs on the inference thread: engines allocate, and one call takes as long as the model needs.
pub trait Policy: Send {
    /// What the policy was made for.
    fn spec(&self) -> &PolicySpec;

    /// Fills `chunk` for `observation`.
    ///
    /// After `Ok` the chunk is valid and the best result so far; after `Err` it must not be used. The chunk takes the
    /// observation's anchor and the epoch of `committed`.
    ///
    /// # Errors
    /// [`PolicyError`]; nothing is repaired, so an unusable answer is always an error.
    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError>;

    /// Whether the policy knows every word of an instruction.
    ///
    /// # Errors
    /// [`PolicyError::UnknownInstruction`], naming the word.
    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError>;

    /// Forgets everything that links one inference to the next.
    fn reset(&mut self, epoch: Epoch);

    /// Breaks the outputs of the next inferences until called again; see [`OutputFault`].
    fn inject(&mut self, fault: OutputFault);

    /// What the next inference is expected to cost by the bundle's cost model.
    fn modelled_cost(&self) -> Duration;

    /// The policy that this one stands around, if it does: what is left out below is left to that.
    fn inner(&self) -> Option<&dyn Policy> {
        None
    }

    /// The same, to change it.
    fn inner_mut(&mut self) -> Option<&mut dyn Policy> {
        None
    }

    /// Sets the noise of the next inference, row-major, normalised units, of the shape that
    /// [`PolicySpec::noise_shape`] says, instead of drawn noise.
    ///
    /// # Errors
    /// [`ObservationError::Noise`] for another size, a value that is not finite, or a policy without noise.
    fn set_noise(&mut self, noise: &[f64]) -> Result<(), ObservationError> {
        match self.inner_mut() {
            Some(inner) => inner.set_noise(noise),
            None => Err(ObservationError::Noise { needed: 0, got: noise.len() }),
        }
    }

    /// Action token ids of the last inference, before any injected fault; empty for a policy without tokens.
    fn tokens(&self) -> &[u32] {
        self.inner().map_or(&[], |inner| inner.tokens())
    }

    /// An answer to an observation like this will be asked for soon. Its images are put into the model's input, and an
    /// [`infer`](Self::infer) of the very same frames need not do that again; whatever else comes before the model is
    /// gone through once, so that it lies in the caches. Answers are the same as without.
    ///
    /// A frame is known by its stamp: only for frames of drivers, whose sequence numbers do not come twice. What does not
    /// fit is left for `infer` to refuse.
    fn prepare(&mut self, observation: &Observation<'_>, budget: Budget<'_>) {
        if let Some(inner) = self.inner_mut() {
            inner.prepare(observation, budget);
        }
    }

    /// What can be planned about an inference.
    fn work(&self) -> Work {
        self.inner().map_or(Work::Once, |inner| inner.work())
    }

    /// Sets what the next inference does with its budget; a policy that [`load_policy`](crate::load_policy) returned
    /// plans by itself where nothing was set.
    fn set_plan(&mut self, plan: Plan) {
        if let Some(inner) = self.inner_mut() {
            inner.set_plan(plan);
        }
    }

    /// The machine runs at another speed than before: costs measured so far count `factor` times, until new ones are
    /// measured. Larger than 1 for a slower machine.
    fn rescale_costs(&mut self, factor: f64) {
        if let Some(inner) = self.inner_mut() {
            inner.rescale_costs(factor);
        }
    }

    /// Refuses a budget that no answer can meet at the costs measured so far, by the golden samples if by nothing else:
    /// for whoever activates a robot in real time.
    ///
    /// # Errors
    /// [`Impossible`], with the figures.
    fn check_budget(&self, budget: Duration) -> Result<(), Impossible> {
        self.inner().map_or(Ok(()), |inner| inner.check_budget(budget))
    }
}
