//! Real arms behind the `Arm` trait: each servo bus on a thread of its own.

mod bus_arm;

pub use bus_arm::{BusArm, BusReport, Extremes, OpenError, connect};
