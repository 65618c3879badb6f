//! The loops around a policy: observe and infer, schedule on motion time, make safe, command.
//!
//! Loop bodies ([`InferenceLoop::step`], [`ControlLoop::tick`]) are functions of `now`; the outer drivers in [`drive`]
//! own threads and clocks. `ARCHITECTURE.md` beside this crate is the design.
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

mod control;
mod crossing;
pub mod drive;
mod fault;
pub mod handover;
mod inference;
pub mod joint_order;
mod metrics;
mod operator;
pub mod power;
pub mod prometheus;
pub mod realtime;
mod record;
#[cfg(feature = "mcap")]
pub mod recorder;
mod retimer;
#[cfg(feature = "serial")]
pub mod robot;
mod scheduler;
pub mod signals;
pub mod watchdog;

pub use control::{
    CameraHealth, ControlCounts, ControlLoop, ControlSnapshot, Event, Inbox, Lifecycle, LifecycleError, Tick,
};
pub use crossing::{Reader, Writer, triple_buffer};
pub use fault::{FaultPlan, FaultWindow, RuntimeFault};
pub use inference::{InferenceCounts, InferenceLoop, PlanCounts, STAGES, StepOutcome};
pub use metrics::{
    BUDGET_STAGES, BudgetAccount, BudgetReport, Cause, CauseCounts, CommandDigest, CommandStamps, LadderCounts,
    Percentiles, Provenance, Rung, Samples, StampReader, StampWriter, Windowed, stamp_ring,
};
pub use operator::{Operation, Order};
pub use record::{InferenceTap, Inferred, TickRecord};
pub use retimer::Retimer;
pub use scheduler::{ChunkRefusal, ChunkScheduler, MAX_ROWS, PlayRules, Reference};
