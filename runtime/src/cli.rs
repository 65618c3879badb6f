//! The commands of the binary.

pub mod bench;
pub mod bundle;
pub mod check;
#[cfg(feature = "sim")]
pub mod complete;
#[cfg(feature = "sim")]
pub mod dataset;
#[cfg(feature = "serial")]
pub mod devices;
pub mod doctor;
pub mod error;
#[cfg(feature = "sim")]
pub mod evaluate;
#[cfg(feature = "sim")]
pub mod frames;
pub mod infer;
#[cfg(feature = "sim")]
pub mod pilot;
#[cfg(feature = "serial")]
pub mod real;
#[cfg(feature = "mcap")]
pub mod replay;
pub mod report;
pub mod run;
#[cfg(feature = "serial")]
pub mod servo;
#[cfg(all(feature = "sim", feature = "serial", unix))]
pub mod sim_bus;
#[cfg(feature = "sim")]
pub mod simulation;
pub mod statistics;
pub mod tokenize;
#[cfg(feature = "sim")]
pub mod view;
