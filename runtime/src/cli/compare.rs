//! `endplate compare`: two bundles, or one on two engines, on the observations of a recording: how far apart their actions
//! are, how often they choose the same token, how fast each is.

use super::bench::{Ratio, quantile, rounded};
use super::bundle::{EngineName, PolicyArguments};
use super::error::{CliError, write};
use super::recorded::observations;
use clap::Args;
use endplate_policies::{Epoch, Loaded, OpenLoopInputs, infer_open_loop};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `endplate compare`.
#[derive(Args)]
pub struct CompareArguments {
    /// A file that `endplate run --record` wrote.
    recording: PathBuf,
    #[command(flatten)]
    policy: PolicyArguments,
    /// The bundle to compare with.
    #[arg(long, value_name = "DIR")]
    against: PathBuf,
    /// Its engine; without it, the same.
    #[arg(long, value_enum)]
    against_engine: Option<EngineName>,
    /// Most observations to look at, spread over the recording.
    #[arg(long, default_value_t = 200)]
    limit: usize,
    /// Write the comparison as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One side's answer.
struct Answer {
    tokens: Vec<u32>,
    rows: Option<Vec<f64>>,
    ms: f64,
}

fn answer(loaded: &mut Loaded, inputs: &OpenLoopInputs, number: u64) -> Answer {
    // Both sides draw the same noise.
    loaded.policy.reset(Epoch(number));
    let start = Instant::now();
    let output = infer_open_loop(&mut *loaded.policy, inputs);
    let ms = start.elapsed().as_secs_f64() * 1e3;
    Answer { tokens: loaded.policy.tokens().to_vec(), rows: output.ok().map(|output| output.chunk.rows().to_vec()), ms }
}

/// Compares and prints.
pub fn compare(arguments: &CompareArguments) -> Result<(), CliError> {
    let (bundle, mut this) = arguments.policy.load()?;
    let other = PolicyArguments {
        bundle: Some(arguments.against.clone()),
        engine: arguments.against_engine.unwrap_or(arguments.policy.engine),
        ort_library: arguments.policy.ort_library.clone(),
        ..PolicyArguments::default()
    };
    let (against, mut that) = other.load()?;
    let shape = |bundle: &endplate_policies::Bundle| {
        let spec = bundle.spec();
        (spec.chunk.horizon, spec.actions.dims().iter().map(|dim| dim.name.clone()).collect::<Vec<_>>())
    };
    if shape(&bundle) != shape(&against) {
        return Err(CliError::Input(format!(
            "{} and {} make chunks of other rows or joints: compare two bundles of one policy",
            bundle.source(),
            against.source()
        )));
    }
    let recorded = observations(&arguments.recording, bundle.spec())?;
    let stride = recorded.len().div_ceil(arguments.limit.max(1));
    let (mut differences, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut chunks, mut same, mut choices, mut agreed) = (0usize, 0usize, 0usize, 0usize);
    let (mut refused_this, mut refused_that) = (0usize, 0usize);
    for (number, (inputs, _)) in recorded.iter().enumerate().step_by(stride) {
        // Whoever goes first pays for a cold cache: take turns.
        let number = number as u64;
        let (a, b) = if number.is_multiple_of(2) {
            let a = answer(&mut this, inputs, number);
            (a, answer(&mut that, inputs, number))
        } else {
            let b = answer(&mut that, inputs, number);
            (answer(&mut this, inputs, number), b)
        };
        chunks += 1;
        same += usize::from(a.tokens == b.tokens && !a.tokens.is_empty());
        // Up to the first token that differs both have seen the same tokens.
        let equal = a.tokens.iter().zip(&b.tokens).take_while(|(a, b)| a == b).count();
        let looked = (equal + 1).min(a.tokens.len().max(b.tokens.len()));
        (choices, agreed) = (choices + looked, agreed + equal);
        refused_this += usize::from(a.rows.is_none());
        refused_that += usize::from(b.rows.is_none());
        if let (Some(a), Some(b)) = (&a.rows, &b.rows) {
            differences.push(a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max));
        }
        ours.push(a.ms);
        theirs.push(b.ms);
    }
    if differences.is_empty() {
        return Err(CliError::Failed(format!(
            "no recorded observation is answered by both ({refused_this} and {refused_that} of {chunks} are refused): a \
             recording holds joints, so policies whose state is the tool's pose cannot be compared on it"
        )));
    }
    let ratio = Ratio::new(&theirs, &ours);
    let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
    let report = json!({
        "recording": arguments.recording.display().to_string(),
        "bundle": bundle.source().to_string(), "bundle_digest": bundle.digest(), "precision": this.engine.precision,
        "engine": this.engine.name, "engine_version": this.engine.version,
        "against": against.source().to_string(), "against_digest": against.digest(), "against_engine": that.engine.name,
        "observations": chunks,
        "action_error_rad": {"p50": quantile(&differences, 0.5), "p99": quantile(&differences, 0.99), "max": quantile(&differences, 1.0)},
        "same_chunks": share(same, if choices > 0 { chunks } else { 0 }), "argmax_agreement": share(agreed, choices),
        "refused": refused_this, "refused_against": refused_that,
        "ms": {"p50": quantile(&ours, 0.5), "p99": quantile(&ours, 0.99), "max": quantile(&ours, 1.0)},
        "against_ms": {"p50": quantile(&theirs, 0.5), "p99": quantile(&theirs, 0.99), "max": quantile(&theirs, 1.0)},
        "speed": {"median": rounded(ratio.median), "low": rounded(ratio.interval.0), "high": rounded(ratio.interval.1)},
        "golden": {"visual": this.golden.visual, "head": this.golden.head, "action_rad": this.golden.action_rad},
    });
    say!(
        "{} ({}) on {} against {} on {}, {chunks} observations: actions apart by p50 {:.1e}, p99 {:.1e}, max {:.1e} rad; {} \
         refused {refused_this} and {refused_that}; {:.2} ms against {:.2} ms, {:.2}x as fast ({:.2} to {:.2})",
        bundle.spec().name,
        this.engine.precision,
        this.engine.name,
        against.spec().name,
        that.engine.name,
        quantile(&differences, 0.5),
        quantile(&differences, 0.99),
        quantile(&differences, 1.0),
        match share(agreed, choices) {
            Some(agreement) =>
                format!("{same} of {chunks} chunks token for token, {:.2} % of choices alike;", agreement * 100.0),
            None => String::new(),
        },
        quantile(&ours, 0.5),
        quantile(&theirs, 0.5),
        ratio.median,
        ratio.interval.0,
        ratio.interval.1,
    );
    if let Some(path) = &arguments.json {
        write(path, serde_json::to_string_pretty(&report).map_err(CliError::failed)?)?;
    }
    Ok(())
}
