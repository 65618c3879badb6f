//! What a policy is given: an observation, what will still be played, and how long it may think.

use core::fmt;
use core::time::Duration;

use endplate_hal::{Clock, Frame, Instant, JointState, MotionTime};

use crate::bundle::{CostModel, FamilySpec, PolicySpec};
use crate::policy::{PolicyError, Stage};

/// The point a chunk's row 0 belongs to.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Anchor {
    /// In motion time: which row to play follows from it alone.
    pub motion: MotionTime,
    /// On the monotonic clock: how old the data is follows from it.
    pub captured: Instant,
}

/// A generation of the task: a chunk asked for in an earlier epoch is refused.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The most observations a policy may read at once in a control loop.
pub const MAX_OBSERVATIONS: usize = 8;

/// What was seen and felt at one earlier instant.
#[derive(Copy, Clone, Debug)]
pub struct Moment<'a> {
    /// One frame per camera slot, as in [`Observation::frames`].
    pub frames: &'a [Frame],
    /// Joint state at that instant.
    pub state: JointState,
}

/// One observation, borrowed from whoever captured it.
#[derive(Copy, Clone, Debug)]
pub struct Observation<'a> {
    /// One frame per camera slot of the bundle, in the bundle's order.
    pub frames: &'a [Frame],
    /// Joint state interpolated at the observation's instant, joints in the robot's order (which the bundle's state
    /// order was checked against).
    pub state: JointState,
    /// Earlier moments, oldest first, one row period apart and one before this one, for a policy that reads several
    /// ([`PolicySpec::observation_steps`](crate::PolicySpec::observation_steps) minus one); else empty.
    pub past: &'a [Moment<'a>],
    /// What to do, as the user wrote it.
    pub instruction: &'a str,
    /// What row 0 of the answer belongs to.
    pub anchor: Anchor,
}

impl Observation<'_> {
    /// The time between the earliest and the latest capture of the frames.
    pub fn skew(&self) -> Duration {
        let captured = || self.frames.iter().map(|frame| frame.captured);
        match (captured().min(), captured().max()) {
            (Some(first), Some(last)) => last.duration_since(first),
            _ => Duration::ZERO,
        }
    }
}

/// What the scheduler will still play whatever the policy answers.
#[derive(Copy, Clone, Debug)]
pub struct Committed<'a> {
    /// `[n, D]` row-major, absolute, rad (m for prismatic joints); row 0 belongs to the observation's anchor, as row 0 of
    /// the answer does.
    pub rows: &'a [f64],
    /// Rows expected to have been played when the answer arrives.
    pub delay_rows: usize,
    /// `[n]`, how firmly each row is committed, 0 to 1.
    pub weights: &'a [f64],
    /// What the policy is to make of the rows.
    pub continuation: Continuation,
    /// The epoch the answer will belong to.
    pub epoch: Epoch,
}

impl Committed<'_> {
    /// Nothing is committed.
    pub const fn none(epoch: Epoch) -> Self {
        Self { rows: &[], delay_rows: 0, weights: &[], continuation: Continuation::Free, epoch }
    }
}

/// How an answer continues what will still be played. A policy that cannot do what is asked refuses when it is loaded
/// with that handover, not here: see [`Self::fits`].
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub enum Continuation {
    /// It need not.
    #[default]
    Free,
    /// Real-time chunking (Black et al., arXiv 2506.07339, eq. 2–5) without a gradient: denoising is pulled towards the
    /// rows, each by its weight.
    Guided {
        /// Largest guidance gain β; at least the number of denoising steps, or the pull does not arrive.
        beta: f64,
    },
    /// The first `delay_rows` rows are given and come out as they are: they enter clean (flow, training-time real-time
    /// chunking), or their tokens are a prefix that decoding goes on from (bins).
    Prefix,
}

impl Continuation {
    /// Whether a policy of this description can continue so.
    ///
    /// # Errors
    /// What is in the way, and the remedy.
    pub fn fits(self, spec: &PolicySpec) -> Result<(), String> {
        match (self, &spec.family) {
            (Self::Free, _) => Ok(()),
            (Self::Guided { beta }, FamilySpec::Flow(flow)) => {
                if beta.is_finite() && beta >= flow.steps as f64 {
                    Ok(())
                } else {
                    let steps = flow.steps;
                    Err(format!("beta {beta} is below the policy's {steps} denoising steps: use {steps} or more"))
                }
            }
            (Self::Prefix, FamilySpec::Flow(flow)) if flow.max_prefix_rows > 0 => Ok(()),
            (Self::Prefix, FamilySpec::Flow(_)) => {
                Err("the policy was not trained to continue rows (flow.max_prefix_rows = 0)".to_owned())
            }
            (Self::Prefix, FamilySpec::Bins(_)) => Ok(()),
            (Self::Prefix, FamilySpec::Pi0Fast(_)) => Err(
                "every FAST token is about all rows at once, so rows cannot be given as a prefix: use `rtc`, which blends \
                 in time"
                    .to_owned(),
            ),
            (Self::Guided { .. }, family) => Err(format!(
                "denoising is steered in the family flow only, and the policy is of the family {}",
                family.name()
            )),
            (Self::Prefix, family) => Err(format!(
                "rows are given in the families flow and bins only, and the policy is of the family {}",
                family.name()
            )),
        }
    }
}

/// How long one inference may take.
#[derive(Copy, Clone)]
pub struct Budget<'a> {
    /// When the inference was asked for.
    pub start: Instant,
    /// The latest useful answer.
    pub deadline: Instant,
    /// The clock to look at; `None` in simulated time, where the bundle's cost model is charged instead of the wall
    /// clock, so that a run replays bit for bit.
    pub clock: Option<&'a dyn Clock>,
}

impl fmt::Debug for Budget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("start", &self.start)
            .field("deadline", &self.deadline)
            .field("simulated", &self.clock.is_none())
            .finish()
    }
}

impl Budget<'_> {
    /// A budget that never runs out.
    pub const fn unlimited(start: Instant) -> Self {
        Self { start, deadline: Instant::from_nanos(u64::MAX), clock: None }
    }

    /// Whether it never runs out.
    pub fn is_unlimited(&self) -> bool {
        self.deadline == Instant::from_nanos(u64::MAX)
    }
}

/// Spends a [`Budget`] stage by stage.
pub(crate) struct Meter<'a> {
    budget: Budget<'a>,
    costs: CostModel,
    spent: Duration,
    tokens: u32,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(budget: Budget<'a>, costs: CostModel) -> Self {
        Self { budget, costs, spent: Duration::ZERO, tokens: 0 }
    }

    /// Charges a pass that verified a block and gave `tokens`.
    ///
    /// # Errors
    /// As [`charge`](Self::charge).
    pub(crate) fn charge_block(&mut self, tokens: u32, cost: Duration) -> Result<(), PolicyError> {
        self.spent += cost;
        self.tokens += tokens;
        self.check(Stage::Decode)
    }

    /// Charges a prefix of this cost.
    ///
    /// # Errors
    /// As [`charge`](Self::charge).
    pub(crate) fn charge_prefill(&mut self, cost: Duration) -> Result<(), PolicyError> {
        self.spent += cost;
        self.check(Stage::Prefill)
    }

    /// Charges a finished stage.
    ///
    /// # Errors
    /// [`PolicyError::DeadlineExceeded`] when the deadline has passed.
    pub(crate) fn charge(&mut self, stage: Stage) -> Result<(), PolicyError> {
        self.spent += match stage {
            Stage::Vision => self.costs.vision,
            Stage::Prefill => self.costs.prefill,
            Stage::Decode => {
                self.tokens += 1;
                self.costs.step
            }
        };
        self.check(stage)
    }

    /// What is left until the deadline.
    pub(crate) fn left(&self) -> Duration {
        let now = self.now();
        if now < self.budget.deadline { self.budget.deadline.duration_since(now) } else { Duration::ZERO }
    }

    fn now(&self) -> Instant {
        match self.budget.clock {
            Some(clock) => clock.now(),
            None => self.budget.start.saturating_add(self.spent),
        }
    }

    fn check(&self, stage: Stage) -> Result<(), PolicyError> {
        let now = self.now();
        if now > self.budget.deadline {
            return Err(PolicyError::DeadlineExceeded {
                stage,
                tokens: self.tokens,
                budget: self.budget.deadline.duration_since(self.budget.start),
                late: now.duration_since(self.budget.deadline),
            });
        }
        Ok(())
    }
}
