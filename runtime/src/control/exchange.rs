//! What goes into a period of the control loop and what comes out of it.

use crate::metrics::{Cause, CauseCounts, CommandDigest, LadderCounts, Provenance, Rung, Samples};
use crate::operator::Operation;
use core::time::Duration;
use endplate_hal::{BusError, Instant, Limit, MAX_JOINTS, SafeCommand, SafetyError, Verdict};
use endplate_policies::{ActionChunk, Epoch};

/// The lifecycle of a robot, in the words of ROS 2's managed nodes. Arms are written to only while `Active`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// Nothing is known of the joints.
    Unconfigured,
    /// The joints are read and nothing is written.
    Inactive,
    /// One command leaves every period.
    Active,
    /// The end; nothing is written any more.
    Finalized,
}

/// Why a lifecycle step was refused.
#[derive(Copy, Clone, Debug, PartialEq, thiserror::Error)]
pub enum LifecycleError {
    /// The step does not start from the present state.
    #[error("a robot that is {0:?} cannot take this step")]
    Order(Lifecycle),
    /// The joints could not be read.
    #[error("the joints cannot be read: {0}")]
    Read(BusError),
    /// The torque could not be switched.
    #[error("the torque cannot be switched: {0}")]
    Torque(BusError),
    /// The pose is not one to start from.
    #[error("the arm cannot start from where it stands: {0}")]
    Start(SafetyError),
}

/// What is known of a camera without looking at its images.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct CameraHealth {
    /// Capture stamp of its newest frame.
    pub captured: Instant,
    /// Sequence number of that frame; 0 before the first.
    pub sequence: u64,
}

/// What the control loop looks at besides the joints.
#[derive(Copy, Clone)]
pub struct Inbox<'a> {
    /// A chunk that has arrived since the last tick.
    pub chunk: Option<&'a ActionChunk>,
    /// The cameras the policy looks through, in the order of the robot description.
    pub cameras: &'a [CameraHealth],
    /// Answers refused in a row before they came here; those the scheduler refuses are counted on top.
    pub refused_in_a_row: u32,
    /// The present epoch: a new one means that the instruction changed or the policy was reset.
    pub epoch: Epoch,
    /// Whether the e-stop is pressed.
    pub estop: bool,
    /// Periods that were missed before this one.
    pub missed: u64,
}

/// Something worth telling, for another thread to log.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub now: Instant,
    /// What began.
    pub cause: Cause,
    /// The rung of the ladder in that period.
    pub rung: Rung,
    /// The joint concerned, where there is one.
    pub joint: Option<u8>,
}

/// What a tick did.
#[derive(Copy, Clone, Debug)]
pub struct Tick {
    /// The command of this period.
    pub command: SafeCommand,
    /// The rung it was made on.
    pub rung: Rung,
    /// What the safety filter did.
    pub verdict: Verdict,
    /// The cause of the step down, if the rung is not `Fresh`.
    pub cause: Option<Cause>,
    /// Capture to command, on the first command that follows from a new chunk.
    pub camera_to_command: Option<Duration>,
    /// Where the command comes from; `None` while braking, holding or stopped.
    pub provenance: Option<Provenance>,
    /// Periods by rung so far.
    pub ladder: LadderCounts,
    /// Who is in charge.
    pub operation: Operation,
    /// Orders handled so far.
    pub orders: u64,
}

/// Counters of a control loop.
#[derive(Clone)]
pub struct ControlCounts {
    /// Control periods that have passed, missed ones included.
    pub periods: u64,
    /// Commands made.
    pub commands: u64,
    /// Periods missed.
    pub overruns: u64,
    /// Commands the safety filter limited.
    pub limited: u64,
    /// Of those, how many by joint and limit, in the order of [`Limit::ALL`].
    pub limited_by: [[u64; Limit::ALL.len()]; MAX_JOINTS],
    /// And how many by the tool's box, which is no joint's.
    pub limited_by_workspace: u64,
    /// Periods by rung.
    pub ladder: LadderCounts,
    /// Onsets by cause.
    pub causes: CauseCounts,
    /// Capture to first command, for every chunk.
    pub camera_to_command: Samples,
    /// Of those, how many were beyond the deadline.
    pub deadline_misses: u64,
    /// Orders of the operator handled.
    pub orders: u64,
    /// Of those, orders that could not be taken where they came.
    pub orders_refused: u64,
    /// Events that no longer fitted the ring.
    pub events_dropped: u64,
    /// Periods that no longer fitted the recorder's ring.
    pub records_dropped: u64,
    /// Seconds of motion time executed.
    pub motion_s: f64,
    /// Digest of every command.
    pub digest: CommandDigest,
}

impl ControlCounts {
    pub(super) fn new() -> Self {
        Self {
            periods: 0,
            commands: 0,
            overruns: 0,
            limited: 0,
            limited_by: Default::default(),
            limited_by_workspace: 0,
            ladder: LadderCounts::default(),
            causes: CauseCounts::default(),
            camera_to_command: Samples::with_capacity(65_536),
            deadline_misses: 0,
            orders: 0,
            orders_refused: 0,
            events_dropped: 0,
            records_dropped: 0,
            motion_s: 0.0,
            digest: CommandDigest::default(),
        }
    }
}
