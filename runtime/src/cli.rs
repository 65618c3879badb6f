//! The commands of the binary.

pub mod bench;
pub mod bundle;
pub mod check;
#[cfg(feature = "sim")]
pub mod complete;
#[cfg(feature = "sim")]
pub mod dataset;
pub mod doctor;
#[cfg(feature = "ort")]
mod doctor_nvidia;
pub mod error;
#[cfg(feature = "sim")]
pub mod evaluate;
#[cfg(feature = "sim")]
pub mod frames;
pub mod infer;
#[cfg(feature = "sim")]
pub mod pilot;
#[cfg(feature = "mcap")]
pub mod replay;
pub mod report;
pub mod run;
#[cfg(feature = "sim")]
pub mod simulation;
pub mod statistics;
pub mod tokenize;
#[cfg(feature = "sim")]
pub mod view;
