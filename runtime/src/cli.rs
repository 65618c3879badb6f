//! The commands of the binary.

#[macro_use]
pub mod terminal;

#[cfg(feature = "serial")]
pub mod before_torque;
pub mod bench;
pub mod bundle;
#[cfg(feature = "serial")]
pub mod bus_figures;
pub mod calibrate;
#[cfg(feature = "mcap")]
pub mod capture;
pub mod check;
#[cfg(feature = "mcap")]
pub mod compare;
#[cfg(feature = "sim")]
pub mod complete;
#[cfg(feature = "sim")]
pub mod dataset;
#[cfg(feature = "serial")]
pub mod devices;
pub mod doctor;
#[cfg(feature = "ort")]
mod doctor_nvidia;
mod doctor_robot;
pub mod error;
#[cfg(feature = "sim")]
pub mod evaluate;
pub mod feasibility;
#[cfg(feature = "sim")]
pub mod frames;
pub mod infer;
#[cfg(feature = "sim")]
mod joint_order;
mod loops;
#[cfg(feature = "zenoh")]
pub mod node;
#[cfg(feature = "serial")]
pub mod operator;
#[cfg(feature = "sim")]
pub mod pilot;
#[cfg(feature = "serial")]
pub mod real;
#[cfg(feature = "mcap")]
mod recorded;
#[cfg(feature = "mcap")]
pub mod replay;
pub mod report;
pub mod robot_file;
pub mod run;
#[cfg(feature = "serial")]
pub mod servo;
#[cfg(all(feature = "sim", feature = "zenoh"))]
pub mod sim;
#[cfg(all(feature = "sim", feature = "zenoh", feature = "serial", unix))]
pub mod sim_bus;
#[cfg(feature = "sim")]
pub mod simulation;
pub mod startup;
pub mod statistics;
pub mod stop;
pub mod supervision;
pub mod tokenize;
pub mod view;
#[cfg(feature = "zenoh")]
pub mod wire;
