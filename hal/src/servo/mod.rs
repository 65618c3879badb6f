//! Servo buses: Feetech STS/SMS and Dynamixel 2.0.
//!
//! The codecs are sans-IO and do not allocate: [`Protocol::encode`] writes packets, a [`Stream`] finds answers in bytes
//! of any kind.

pub mod dynamixel;
pub mod feetech;
mod frame;
mod map;
mod table;

pub use frame::{
    BROADCAST, BulkRead, BulkWrite, EncodeError, Found, Instruction, MAX_PACKET, MAX_PARAMS, Protocol, Status, Stream,
};
pub use map::{Count, Direction, MapError, OutOfRange, ServoMap};
pub use table::{Encoding, Register};
