//! `endplate capture`: what went into the graphs of a bundle, on the observations of a recording.

use super::bundle::PolicyArguments;
use super::error::{CliError, write};
use super::recorded::observations;
use clap::Args;
use endplate_policies::{infer_open_loop, load_policy_capturing};
use std::path::PathBuf;
use std::sync::PoisonError;

/// Arguments of `endplate capture`.
#[derive(Args)]
pub struct CaptureArguments {
    /// A file that `endplate run --record` wrote.
    recording: PathBuf,
    #[command(flatten)]
    policy: PolicyArguments,
    /// Folder to write: one `.npz` a graph, one array `[sets, …]` an input; of a graph of any number of rows one each,
    /// `decode.k8.npz`.
    #[arg(long)]
    out: PathBuf,
    /// Most sets of inputs kept of each graph, spread over the recording.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..))]
    sets: u16,
}

/// Runs the recording through the policy and writes the inputs of its graphs.
pub fn capture(arguments: &CaptureArguments) -> Result<(), CliError> {
    let bundle = arguments.policy.open()?;
    let (mut loaded, captured) =
        load_policy_capturing(&bundle, arguments.policy.engine()?, usize::from(arguments.sets))
            .map_err(|error| CliError::Refused(format!("{}: {error}", bundle.source())))?;
    let recorded = observations(&arguments.recording, bundle.spec())?;
    let mut refused = 0;
    for (inputs, _) in &recorded {
        // What a refused answer fed to the graphs is as real as the rest.
        refused += usize::from(infer_open_loop(&mut *loaded.policy, inputs).is_err());
    }
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| CliError::Input(format!("{}: {error}", arguments.out.display())))?;
    let captured = captured.lock().unwrap_or_else(PoisonError::into_inner);
    for (graph, runs, sets) in captured.summary() {
        let mut file = std::io::Cursor::new(Vec::new());
        captured.write_npz(graph, &mut file).map_err(CliError::failed)?;
        let path = arguments.out.join(format!("{}.npz", graph.trim_end_matches(".onnx")));
        write(&path, file.get_ref())?;
        say!("{}: {sets} sets of inputs from {runs} runs", path.display());
    }
    say!("{} observations of {}, {refused} refused", recorded.len(), arguments.recording.display());
    Ok(())
}
