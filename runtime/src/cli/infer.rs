//! `endplate infer`: a bundle open loop on recorded inputs.

use super::bundle::{PolicyArguments, bound, open_robot};
use super::error::{CliError, write};
use clap::Args;
use endplate_policies::bundle::Arrays;
use endplate_policies::{OpenLoopInputs, PolicyError, infer_open_loop};
use std::path::PathBuf;

/// Arguments of `endplate infer`.
#[derive(Args)]
pub struct InferArguments {
    #[command(flatten)]
    policy: PolicyArguments,
    /// Robot description, for a policy that moves the tool: its joints go in and come out (`so101_sim` is the built-in
    /// one); without it, such a policy's own rows come out.
    #[arg(long)]
    robot: Option<PathBuf>,
    /// `.npz` with one u8 `[h, w, 3]` array per camera name, `state` `[S]` and `instruction` (UTF-8 bytes, u8).
    #[arg(long)]
    inputs: PathBuf,
    /// `.npz` to write: `actions` f64 `[H, D]` absolute, `tokens` i64 where the policy has tokens.
    #[arg(long)]
    outputs: PathBuf,
}

/// One inference from a file to a file.
pub fn infer(arguments: &InferArguments) -> Result<(), CliError> {
    let name = arguments.inputs.display().to_string();
    let bytes = std::fs::read(&arguments.inputs).map_err(|error| CliError::Input(format!("{name}: {error}")))?;
    let arrays = Arrays::from_npz(&bytes, &name).map_err(CliError::input)?;
    let (bundle, mut loaded) = arguments.policy.load()?;
    if let Some(robot) = &arguments.robot {
        let robot = open_robot(Some(robot))?;
        loaded.policy = bound(loaded.policy, &robot)?;
    }
    let inputs = OpenLoopInputs::from_arrays(&arrays, loaded.policy.spec()).map_err(CliError::input)?;
    let failed = |error: PolicyError| CliError::Failed(format!("{}: {error}", error.kind()));
    if !bundle.spec().pruning.is_off() {
        // The first inference of an epoch sees every visual token; what is asked for is what later ones answer.
        infer_open_loop(&mut *loaded.policy, &inputs).map_err(failed)?;
    }
    let output = infer_open_loop(&mut *loaded.policy, &inputs).map_err(failed)?;
    let mut file = std::io::Cursor::new(Vec::new());
    output
        .write_npz(&mut file)
        .map_err(|error| CliError::Failed(format!("{}: {error}", arguments.outputs.display())))?;
    write(&arguments.outputs, file.get_ref())?;
    let stages = output.chunk.stages();
    say!(
        "{} on {} {}: {} rows of {}, {} tokens, {:.1} ms{}",
        bundle.spec().name,
        loaded.engine.name,
        loaded.engine.version,
        output.chunk.horizon(),
        output.chunk.dims(),
        stages.tokens,
        stages.total().as_secs_f64() * 1e3,
        if bundle.spec().pruning.is_off() {
            String::new()
        } else {
            format!(", {} visual tokens", stages.visual_tokens)
        }
    );
    Ok(())
}
