//! What the loops leave for a recorder, in forms that cost the loops nothing they may not spend.
//!
//! The control loop pushes one fixed-size [`TickRecord`] a period into a bounded ring and counts what no longer fits.
//! The inference loop shows every inference to an [`InferenceTap`] on its own thread.

use crate::metrics::{Cause, Rung};
use endplate_hal::{Instant, JointState, SafeCommand};
use endplate_policies::{ActionChunk, Observation, PolicyError, StopReason};

/// One control period.
#[derive(Copy, Clone, Debug)]
pub struct TickRecord {
    /// The instant of the period.
    pub now: Instant,
    /// The newest joint state, if there is one.
    pub state: Option<JointState>,
    /// The command sent.
    pub command: SafeCommand,
    /// The rung it was made on.
    pub rung: Rung,
    /// The cause of a step down.
    pub cause: Option<Cause>,
    /// Capture instant of the frame the command follows from; `None` while braking or holding.
    pub captured: Option<Instant>,
}

/// One inference.
pub struct Inferred<'a> {
    /// When its answer was there.
    pub now: Instant,
    /// What the policy was given.
    pub observation: &'a Observation<'a>,
    /// What came of it.
    pub result: Result<(StopReason, &'a ActionChunk), &'a PolicyError>,
    /// Action tokens, for a policy that has some.
    pub tokens: &'a [u32],
}

/// Sees every inference, on the inference thread, after the answer.
pub trait InferenceTap: Send {
    /// One inference is over. Must not block: what cannot be kept is dropped and counted.
    fn inferred(&mut self, inferred: &Inferred<'_>);
}
