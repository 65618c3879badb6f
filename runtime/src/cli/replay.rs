//! `endplate replay`: a policy on the observations of a recording, compared with what was answered then.

use super::bundle::PolicyArguments;
use super::error::{CliError, write};
use super::recorded::exact;
use clap::Args;
use endplate_policies::infer_open_loop;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `endplate replay`.
#[derive(Args)]
pub struct ReplayArguments {
    /// A file that `endplate run --record` wrote.
    recording: PathBuf,
    #[command(flatten)]
    policy: PolicyArguments,
    /// Write the comparison as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    recording: String,
    bundle: String,
    engine: String,
    inferences: usize,
    /// Answers with the very tokens of the recording, of those with tokens.
    same_tokens: usize,
    with_tokens: usize,
    /// Answers refused now and then, only then, only now.
    refused_both: usize,
    refused_then: usize,
    refused_now: usize,
    /// Largest difference of a joint position between the rows then and now, over all and in the median, rad.
    worst_rad: f64,
    median_rad: f64,
}

/// Compares and prints.
pub fn replay(arguments: &ReplayArguments) -> Result<(), CliError> {
    let (bundle, mut loaded) = arguments.policy.load()?;
    let recorded = exact(&arguments.recording, bundle.spec())?;
    if bundle.spec().noise_shape().is_some() {
        say!("this policy starts from new noise in every answer: rows differ by as much as the noise makes");
    }
    let mut report = Report {
        recording: arguments.recording.display().to_string(),
        bundle: bundle.spec().name.clone(),
        engine: format!("{} {}", loaded.engine.name, loaded.engine.version),
        inferences: recorded.len(),
        same_tokens: 0,
        with_tokens: 0,
        refused_both: 0,
        refused_then: 0,
        refused_now: 0,
        worst_rad: 0.0,
        median_rad: 0.0,
    };
    let mut differences = Vec::new();
    for (inputs, record) in recorded {
        let now = infer_open_loop(&mut *loaded.policy, &inputs);
        if !record.tokens.is_empty() {
            report.with_tokens += 1;
            report.same_tokens += usize::from(loaded.policy.tokens() == record.tokens);
        }
        match (now, record.refused.is_some()) {
            (Err(_), true) => report.refused_both += 1,
            (Err(_), false) => report.refused_now += 1,
            (Ok(_), true) => report.refused_then += 1,
            (Ok(output), false) => {
                let then = record.rows_rad.iter().flatten();
                if then.clone().count() != output.chunk.rows().len() {
                    return Err(CliError::Input(format!(
                        "{}: its chunks have {} values and {} makes {}: give the bundle it was recorded with",
                        arguments.recording.display(),
                        then.count(),
                        bundle.spec().name,
                        output.chunk.rows().len()
                    )));
                }
                let apart = output.chunk.rows().iter().zip(then).map(|(a, b)| (a - b).abs());
                differences.push(apart.fold(0.0, f64::max));
            }
        }
    }
    differences.sort_by(f64::total_cmp);
    report.worst_rad = differences.last().copied().unwrap_or_default();
    report.median_rad = differences.get(differences.len() / 2).copied().unwrap_or_default();
    say!(
        "{} inferences of {} on {} with {}: {} of {} token for token; rows differ by at most {:.2e} rad (median {:.2e}); \
         refused then and now {}, only then {}, only now {}",
        report.inferences,
        report.recording,
        report.engine,
        report.bundle,
        report.same_tokens,
        report.with_tokens,
        report.worst_rad,
        report.median_rad,
        report.refused_both,
        report.refused_then,
        report.refused_now
    );
    if let Some(path) = &arguments.json {
        write(path, serde_json::to_string_pretty(&report).map_err(CliError::failed)?)?;
    }
    Ok(())
}
