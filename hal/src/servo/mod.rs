//! Servo buses: Feetech STS/SMS and Dynamixel 2.0.
//!
//! The codecs are sans-IO and do not allocate: [`Protocol::encode`] writes packets, a [`Stream`] finds answers in bytes
//! of any kind. A [`Master`] asks on a [`Port`] with time-outs and bounded repeats; a [`ServoArm`] makes joint states and
//! goals of that, behind a plausibility gate. Master and arm block, and belong to a thread of the bus's own.

mod arm;
pub mod dynamixel;
pub mod feetech;
mod frame;
mod map;
mod master;
mod port;
mod registers;
mod setup;
mod table;

pub use arm::{HealthLimits, Servo, ServoArm, ServoArmOptions, ServoCounts, ServoHealth};
pub use frame::{
    BROADCAST, BulkRead, BulkWrite, EncodeError, Found, Instruction, MAX_PACKET, MAX_PARAMS, Protocol, Status, Stream,
};
pub use map::{Count, Direction, MapError, OutOfRange, ServoMap};
pub use master::{BusCounts, MAX_SERVOS, Master, Present, Timing, TransactionError};
#[cfg(feature = "serial")]
pub use port::SerialPort;
pub use port::{Port, PortError};
pub use registers::ServoRegisters;
pub use setup::{Known, SetupError, Survey, model_name, model_number};
pub use table::{Encoding, Register};
