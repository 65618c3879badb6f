//! `endplate check`: a robot description and a bundle, validated together.

use super::bundle::{PolicyArguments, open_robot, require_fit};
use super::error::CliError;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `endplate check`.
#[derive(Args)]
pub struct CheckArguments {
    /// Robot description; without it, the built-in simulated robot.
    #[arg(long)]
    robot: Option<PathBuf>,
    #[command(flatten)]
    policy: PolicyArguments,
    /// Replay the golden samples on the engine too.
    #[arg(long)]
    golden: bool,
}

/// Says that they fit, or one line a mismatch.
pub fn check(arguments: &CheckArguments) -> Result<(), CliError> {
    let robot = open_robot(arguments.robot.as_ref())?;
    let bundle = arguments.policy.open()?;
    require_fit(&bundle, &robot)?;
    println!("{} ({}) fits {}", bundle.spec().name, &bundle.digest()[..12], robot.name);
    if arguments.golden {
        let (_, loaded) = arguments.policy.load()?;
        let golden = loaded.golden;
        println!(
            "{} {}: {} golden samples; largest differences: visual {:.1e}, logits {:.1e}, joints {:.1e} rad",
            loaded.engine.name, loaded.engine.version, golden.samples, golden.visual, golden.head, golden.action_rad
        );
    }
    Ok(())
}
