//! The commands of the binary.

pub mod bench;
pub mod bundle;
pub mod check;
#[cfg(feature = "sim")]
pub mod complete;
#[cfg(feature = "sim")]
pub mod dataset;
pub mod doctor;
pub mod error;
pub mod infer;
pub mod report;
pub mod run;
#[cfg(feature = "sim")]
pub mod simulation;
pub mod tokenize;
#[cfg(feature = "sim")]
pub mod view;
