//! The robot's topics: ROS 2 messages on Zenoh, as rmw_zenoh puts them there, without a ROS installation.
//!
//! - [`cdr`]: the byte form of every message, for every transport.
//! - [`message`]: the messages, their type names and hashes.
//! - [`rmw`]: how rmw_zenoh names keys, liveliness tokens and attachments.
//! - `ZenohCommandSink` (feature `zenoh`, on by default): the commands sent to the arm, as a ROS 2 topic.
//!
//! Middleware never runs on the control thread: a sink hands a fixed-size copy to a side thread, or drops and counts it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cdr;
pub mod graph;
pub mod interface;
pub mod message;
pub mod node;
pub mod rmw;
pub mod transport;
mod xxh3;
#[cfg(feature = "zenoh")]
mod zenoh_session;
#[cfg(feature = "zenoh")]
mod zenoh_sink;
#[cfg(feature = "zenoh")]
mod zenoh_transport;

#[cfg(feature = "zenoh")]
pub use zenoh_session::{SessionError, SessionMode, SessionOptions};
#[cfg(feature = "zenoh")]
pub use zenoh_sink::{SinkCounts, ZenohCommandSink, ZenohError, ZenohOptions};
#[cfg(feature = "zenoh")]
pub use zenoh_transport::{ZenohTransport, ZenohTransportError};
