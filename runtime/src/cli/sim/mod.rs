//! `endplate sim`: the simulated robot as a server in the form ROS 2 gives a robot, in real time.

mod controller;
mod server;
mod settle;

use super::bundle::open_robot;
use super::error::CliError;
use super::run::Seed;
use super::wire::WireArguments;
use clap::Args;
use endplate_ros2::node::OutputKind;
use std::path::PathBuf;

/// Arguments of `endplate sim`.
#[derive(Args)]
pub struct SimArguments {
    #[cfg(all(feature = "serial", unix))]
    #[command(flatten)]
    pub bus: super::sim_bus::SimBusArguments,
    #[command(flatten)]
    pub wire: WireArguments,
    /// Robot description; without it, the built-in simulated robot.
    #[arg(long)]
    pub robot: Option<PathBuf>,
    /// Seed of the first scene, or of the faults of a bus.
    #[arg(long, default_value_t)]
    pub seed: Seed,
    /// Which controller takes the commands: forward_position holds the last one for ever, forward_velocity turns as last
    /// commanded for ever, joint_trajectory follows to the end and holds, joint_jog turns for a tenth of a second.
    #[arg(long, default_value = "forward_position")]
    pub controller: OutputKind,
    /// Publish images as PNG only, on `image_raw/compressed`.
    #[arg(long)]
    pub compressed_only: bool,
    /// End after this many seconds; without it, on a signal.
    #[arg(long)]
    pub seconds: Option<f64>,
}

/// Serves the simulated robot.
pub fn sim(arguments: &SimArguments) -> Result<(), CliError> {
    #[cfg(all(feature = "serial", unix))]
    if let Some(make) = arguments.bus.bus {
        return super::sim_bus::sim_bus(&arguments.bus, make, arguments.seed.0, arguments.seconds);
    }
    if arguments.wire.transport.is_none() {
        return Err(CliError::Input("--transport or --bus: say where the robot is to be: `--transport zenoh`, or `--bus feetech` or `dynamixel`".to_owned()));
    }
    let robot = open_robot(arguments.robot.as_ref())?;
    server::serve(arguments, robot)
}
