//! The robot's topics: ROS 2 messages on Zenoh and DDS, as rmw_zenoh and rmw_fastrtps put them there, without a ROS
//! installation.
//!
//! - [`cdr`]: the byte form of every message, for every transport.
//! - [`message`]: the messages, their type names and hashes.
//! - [`rmw`]: how rmw_zenoh names keys, liveliness tokens and attachments.
//! - [`transport`]: what a node needs of a middleware; `ZenohTransport` and `PlainTransport` (feature `zenoh`, on by
//!   default), `DdsTransport` (feature `dds`) and `R2rTransport` (feature `r2r`, needs a ROS that is sourced) are that.
//! - [`node`]: an arm and cameras over topics, and the services of a managed node.
//! - `ZenohCommandSink` (feature `zenoh`, on by default): the commands sent to the arm, as a ROS 2 topic.
//!
//! Middleware never runs on the control thread: a sink hands a fixed-size copy to a side thread, or drops and counts it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cdr;
#[cfg(feature = "dds")]
mod dds;
pub mod graph;
pub mod interface;
pub mod message;
pub mod node;
#[cfg(feature = "zenoh")]
mod plain_transport;
#[cfg(feature = "r2r")]
mod r2r_transport;
pub mod rmw;
pub mod transport;
mod xxh3;
#[cfg(feature = "zenoh")]
mod zenoh_session;
#[cfg(feature = "zenoh")]
mod zenoh_sink;
#[cfg(feature = "zenoh")]
mod zenoh_transport;

#[cfg(feature = "dds")]
pub use dds::{DdsError, DdsOptions, DdsTransport, ServiceMapping};
#[cfg(feature = "zenoh")]
pub use plain_transport::PlainTransport;
#[cfg(feature = "r2r")]
pub use r2r_transport::{R2rError, R2rOptions, R2rTransport};
#[cfg(feature = "zenoh")]
pub use zenoh_session::{SessionError, SessionMode, SessionOptions};
#[cfg(feature = "zenoh")]
pub use zenoh_sink::{SinkCounts, ZenohCommandSink, ZenohError, ZenohOptions};
#[cfg(feature = "zenoh")]
pub use zenoh_transport::{ZenohTransport, ZenohTransportError};
