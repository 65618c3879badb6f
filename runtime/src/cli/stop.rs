//! `endplate stop`: what can be done for a robot whose process is gone; for systemd's `ExecStopPost=`.

use super::bundle::open_robot;
use super::error::CliError;
use clap::Args;
use endplate_hal::StopCategory;
use std::path::PathBuf;

/// Arguments of `endplate stop`.
#[derive(Args)]
pub struct StopArguments {
    /// Robot description; without it, the built-in simulated robot.
    #[arg(long)]
    robot: Option<PathBuf>,
}

/// Says what was done; an error where something should have been and could not.
pub fn stop(arguments: &StopArguments) -> Result<(), CliError> {
    let robot = open_robot(arguments.robot.as_ref())?;
    let declared = match robot.control.stop_category {
        StopCategory::Hold => "hold",
        StopCategory::TorqueOff => "torque_off",
    };
    // systemd says how the process ended.
    let ended = match (std::env::var("SERVICE_RESULT"), std::env::var("EXIT_STATUS")) {
        (Ok(result), Ok(status)) => format!("the service ended with {result} ({status}); "),
        _ => String::new(),
    };
    // The one backend of this build: its arm lives in the process that has ended.
    println!(
        "{ended}{} is a simulated robot: it ended with its process and nothing is left to stop (stop_category = {declared:?})",
        robot.name
    );
    Ok(())
}
