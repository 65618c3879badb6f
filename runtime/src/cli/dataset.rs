//! `endplate dataset`: record the scripted expert, then fit statistics and tokenizer.

use super::bundle::{EngineName, PolicyArguments};
use super::complete::complete;
use super::error::CliError;
use super::pilot::PolicyPilot;
use clap::Args;
use endplate_sim::dataset::{MakePilot, Pilot, RecordOptions, record};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Arguments of `endplate dataset`.
#[derive(Args)]
pub struct DatasetArguments {
    /// Folder to write; made if it does not exist.
    #[arg(long)]
    out: PathBuf,
    /// Scenes to record, three episodes each.
    #[arg(long, default_value_t = 600)]
    scenes: u32,
    /// Seed; the same seed gives the same bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worker threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Keep light, colours and cameras as they are.
    #[arg(long)]
    plain: bool,
    /// Ids of the tokenizer to fit.
    #[arg(long, default_value_t = 512)]
    vocabulary: u32,
    /// Use the statistics and tokenizer of this dataset instead of fitting.
    #[arg(long)]
    like: Option<PathBuf>,
    /// The arrays are there already: only fit statistics and tokenizer.
    #[arg(long)]
    fit_only: bool,
    /// Let the policy of this bundle drive while the expert labels what it gets into (DAgger).
    #[arg(long, value_name = "DIR")]
    pilot: Option<PathBuf>,
    /// Share of the episodes whose named cube moves.
    #[arg(long, default_value_t = 0.0)]
    moving: f64,
}

/// Records and completes a dataset.
pub fn dataset(arguments: &DatasetArguments) -> Result<(), CliError> {
    if !arguments.fit_only {
        record_raw(arguments)?;
    }
    let fitted = complete(&arguments.out, arguments.vocabulary, arguments.like.as_deref())
        .map_err(|error| CliError::Input(format!("{error:#}")))?;
    say!(
        "{} frames; tokenizer of {} ids; {:.1} tokens a chunk, at most {}",
        fitted.frames,
        fitted.vocabulary,
        fitted.tokens.0,
        fitted.tokens.1
    );
    Ok(())
}

fn record_raw(arguments: &DatasetArguments) -> Result<(), CliError> {
    let bar = ProgressBar::new(u64::from(arguments.scenes));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} scenes, {msg}, {eta} left") {
        bar.set_style(style);
    }
    let options = RecordOptions {
        scenes: arguments.scenes,
        seed: arguments.seed,
        threads: arguments.threads,
        randomise: !arguments.plain,
        moving_share: arguments.moving,
    };
    if !(0.0..=1.0).contains(&arguments.moving) {
        return Err(CliError::Input(format!("--moving {}: write a share between 0 and 1", arguments.moving)));
    }
    // What can be refused is refused before a thread starts.
    let policy = arguments.pilot.as_ref().map(|bundle| PolicyArguments {
        bundle: Some(bundle.clone()),
        engine: EngineName::Tract,
        ort_library: None,
        ..PolicyArguments::default()
    });
    if let Some(policy) = &policy {
        PolicyPilot::new(policy)?;
    }
    let make = policy.map(|policy| {
        move || -> Box<dyn Pilot> {
            match PolicyPilot::new(&policy) {
                Ok(pilot) => Box::new(pilot),
                Err(error) => panic!("the bundle that was just loaded is refused: {error}"),
            }
        }
    });
    let make = make.as_ref().map(|make| make as MakePilot);
    let summary = record(&arguments.out, options, make, |progress| {
        bar.set_position(u64::from(progress.scenes_done));
        bar.set_message(format!("{} frames", progress.frames));
    })
    .map_err(CliError::input)?;
    bar.finish_and_clear();
    say!("{} episodes, {} frames; {} left out", summary.episodes, summary.frames, summary.dropped);
    Ok(())
}
