//! A robot that is reached over topics, behind the `hal` traits, and the node that manages it.
//!
//! ```text
//! middleware threads: message ─▶ check ─▶ latest value ─▶ control thread (TopicArm), camera thread (TopicCamera)
//! control thread: command ─▶ ring ─▶ wire thread: newest, still valid? ─▶ controller topic
//! ```

mod arm;
mod camera;
mod description;
mod lifecycle;
mod output;
mod parameters;
mod report;
mod server;
mod stamps;
mod state;
mod time;

pub use arm::{ArmCounts, ArmLink, Lost, TopicArm, TopicArmError, TopicArmOptions};
pub use camera::{CameraLink, CameraTopic, ImageError, TopicCamera};
pub use description::{DESCRIPTION_TOPIC, DescriptionError, Narrowed, RobotDescription, describe};
pub use lifecycle::{STATES, Step, label};
pub use output::{OutputForm, OutputKind};
pub use parameters::{Parameter, ParameterError, ParameterStore, Value};
pub use report::{Level, Part, encode_report, status_json};
pub use server::{NodeServer, Order, Reply, ServerError};
pub use stamps::{StampError, StampMap};
pub use state::{JointValues, StateError, StateReader};
pub use time::{CLOCK_TOPIC, NodeTime};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic elsewhere leaves plain values behind a lock, which stay usable. Never taken on the control thread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
