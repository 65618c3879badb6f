//! `endplate check`: a robot description and a bundle, validated together.

use super::bundle::{PolicyArguments, open_robot, require_fit};
use super::error::CliError;
use clap::Args;
use endplate_policies::{MemoryBound, available_memory};
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
    say!("{} ({}) fits {}", bundle.spec().name, &bundle.digest()[..12], robot.name);
    for measured in &bundle.spec().quantisation {
        say!(
            "{} on {} against {}: actions apart by p99 {:.1e}, max {:.1e} rad{}, {:.2}x as fast ({} observations)",
            bundle.spec().precision.name(),
            measured.engine,
            measured.from.get(..12).unwrap_or(&measured.from),
            measured.action_error_p99_rad,
            measured.action_error_max_rad,
            measured
                .argmax_agreement
                .map_or_else(String::new, |share| format!(", {:.2} % of choices alike", share * 100.0)),
            measured.speed,
            measured.observations,
        );
    }
    let choice = arguments.policy.engine()?;
    let profiles = choice.profiles(bundle.spec()).map_err(|error| CliError::Engine(error.to_string()))?;
    if let Some(counts) = bundle.spec().family.row_counts() {
        let held = if choice.shares_weights() { "one session" } else { "a session each" };
        say!("decode.onnx: {held} for {counts:?} rows");
    }
    for (provider, profile) in profiles {
        say!("  {provider}: optimisation profile: {profile}");
    }
    let bound = MemoryBound::of(&bundle, &choice);
    match available_memory(choice.gpu()) {
        Some((available, what)) if bound.total() > available => {
            return Err(CliError::Refused(format!(
                "memory: {bound}; {} MiB are {what}: use a smaller or quantised bundle, or a smaller workspace",
                available >> 20
            )));
        }
        Some((available, what)) => say!("memory: {bound}; {} MiB are {what}", available >> 20),
        None => say!("memory: {bound}; what is available cannot be read here"),
    }
    if arguments.golden {
        let (_, loaded) = arguments.policy.load()?;
        let golden = loaded.golden;
        say!(
            "{} {}: {} golden samples; largest differences: visual {:.1e}, logits {:.1e}, joints {:.1e} rad",
            loaded.engine.name,
            loaded.engine.version,
            golden.samples,
            golden.visual,
            golden.head,
            golden.action_rad
        );
        for placement in &loaded.engine.placements {
            say!("  {}: nodes on {placement}", placement.graph);
        }
    }
    Ok(())
}
