//! `endplate bench acceleration`: what ways of answering with less work are worth, and what they cost in success.
//!
//! Every recorded observation is answered twice, plainly and accelerated, one right after the other, in the recording's
//! order and with its motion times, so that guesses from the chunk before and skipped calls are worth what they are worth
//! on the robot: this pass alone is timed. With `--episodes` each way then plays the same episodes in simulated time, where
//! every answer that asks the model takes the same 60 ms, so that pairs differ by what was answered and by nothing else.

#[cfg(feature = "sim")]
mod episodes;

use super::super::bundle::PolicyArguments;
use super::super::error::CliError;
use super::super::recorded::{Replayed, replayed};
#[cfg(feature = "sim")]
use super::super::run::{Seed, Task};
use super::{BenchArguments, Row, Samples, rounded};
use clap::Args;
use core::fmt;
use endplate_hal::Instant;
use endplate_policies::{
    ActionChunk, Budget, Committed, Decoding, EngineRuns, Epoch, Observation, Policy, PolicyError, PolicySpec, Pruning,
    Skipping, StopReason,
};
use serde_json::json;
use std::collections::BTreeMap;
#[cfg(feature = "sim")]
use std::path::PathBuf;

/// Measured when no `--decodings` is given: each source of guesses alone, then what adds up.
const LOSSLESS: [&str; 9] = [
    "plain",
    "previous",
    "trigram",
    "jacobi",
    "previous+trigram+jacobi",
    "shallow",
    "shallow:2",
    "shallow+tree",
    "previous+trigram+jacobi+shallow",
];
/// Beside those; fitted numbers where there are some.
const LOSSY: [&str; 7] = [
    "previous+jacobi+bin_distance:2",
    "previous+jacobi+early_exit",
    "previous+jacobi+early_exit:4",
    "previous+jacobi+early_exit:2",
    "layer_exit",
    "layer_exit:0.9",
    "layer_exit:adaptive",
];
/// Tokens that are drawn, one by one and with guesses: not the plain chunk, and of one distribution.
const DRAWN: [&str; 3] = ["temperature:0.5", "shallow:2+temperature:0.5", "shallow+drafts:2+temperature:0.5"];
/// Observations of `--quick`.
const QUICK_OBSERVATIONS: usize = 40;
/// Episodes of `--quick`.
const QUICK_EPISODES: u64 = 6;

/// Arguments of `bench acceleration` alone.
#[derive(Args)]
pub struct TradeArguments {
    /// acceleration: ways of skipping calls, each with every way of decoding; without it, none, and without
    /// `--decodings` too those that were fitted, with plain decoding.
    #[arg(long, value_delimiter = ',', value_name = "WAY")]
    skippings: Vec<Skipping>,
    /// acceleration: ways of pruning, each with every way of decoding and skipping; without it, none.
    #[arg(long, value_delimiter = ',', value_name = "WAY")]
    prunings: Vec<Pruning>,
    /// acceleration: play so many episodes each way.
    #[cfg(feature = "sim")]
    #[arg(long, default_value_t = 0)]
    episodes: u64,
    /// acceleration: JSON lines of finished episodes: read first, then added to.
    #[cfg(feature = "sim")]
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// acceleration: seed of the first episode.
    #[cfg(feature = "sim")]
    #[arg(long, default_value_t)]
    seed: Seed,
    /// acceleration: what happens on the table.
    #[cfg(feature = "sim")]
    #[arg(long, value_enum, value_delimiter = ',', default_value = "static")]
    task: Vec<Task>,
    /// acceleration: few observations and episodes, for a look.
    #[arg(long)]
    quick: bool,
}

/// One way of answering.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Way {
    /// `None` for a family without tokens.
    decoding: Option<Decoding>,
    skipping: Skipping,
    pruning: Pruning,
}

impl Way {
    fn is_plain(self) -> bool {
        self.decoding.is_none_or(Decoding::is_plain) && self.skipping == Skipping::Off && self.pruning.is_off()
    }

    fn policy(self, policy: &PolicyArguments) -> PolicyArguments {
        PolicyArguments {
            decoding: self.decoding,
            skipping: Some(self.skipping),
            pruning: Some(self.pruning),
            ..policy.clone()
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decoding = self.decoding.filter(|decoding| !decoding.is_plain()).map(|decoding| decoding.to_string());
        let skipping = (self.skipping != Skipping::Off).then(|| self.skipping.to_string());
        let pruning = (!self.pruning.is_off()).then(|| self.pruning.to_string());
        let words: Vec<String> = [decoding, skipping, pruning].into_iter().flatten().collect();
        f.write_str(if words.is_empty() { "plain" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

/// One side of a comparison.
struct Side {
    policy: Box<dyn Policy>,
    chunk: ActionChunk,
    answers: usize,
    skipped: usize,
    exited: usize,
    refused: usize,
    tokens: f64,
    passes: f64,
    visual_tokens: f64,
    vision_ms: f64,
    prefill_ms: f64,
    /// Every run of the engine.
    runs: EngineRuns,
    /// Time in each graph.
    graphs_ms: BTreeMap<String, f64>,
    /// Passes through one half of the decoder, and tokens that left after the first.
    shallow: u32,
    deep: u32,
    left: u32,
    /// Of all answers.
    latency_ms: Vec<f64>,
    /// Of those that asked the model.
    asked_ms: Vec<f64>,
}

impl Side {
    fn load(policy: &PolicyArguments) -> Result<Self, CliError> {
        let (bundle, loaded, runs) = policy.load_timed(false)?;
        // Those of the golden samples.
        runs.take();
        Ok(Self {
            runs,
            policy: loaded.policy,
            chunk: ActionChunk::for_spec(bundle.spec()),
            answers: 0,
            skipped: 0,
            exited: 0,
            refused: 0,
            tokens: 0.0,
            passes: 0.0,
            visual_tokens: 0.0,
            vision_ms: 0.0,
            prefill_ms: 0.0,
            graphs_ms: BTreeMap::new(),
            shallow: 0,
            deep: 0,
            left: 0,
            latency_ms: Vec::new(),
            asked_ms: Vec::new(),
        })
    }

    /// Whether there is an answer.
    fn answer(&mut self, observation: &Observation<'_>, epoch: Epoch) -> Result<bool, CliError> {
        let budget = Budget::unlimited(Instant::ZERO);
        match self.policy.infer(observation, &Committed::none(epoch), budget, &mut self.chunk) {
            Ok(stop) => {
                let stages = self.chunk.stages();
                let (ms, is_skipped) = (stages.total().as_secs_f64() * 1e3, skips(stop));
                self.answers += 1;
                self.skipped += usize::from(is_skipped);
                self.exited += usize::from(stop == StopReason::EarlyExit);
                self.tokens += f64::from(stages.tokens);
                self.passes += stages.passes;
                self.visual_tokens += f64::from(stages.visual_tokens);
                self.vision_ms += stages.vision.as_secs_f64() * 1e3;
                self.prefill_ms += stages.prefill.as_secs_f64() * 1e3;
                for run in self.runs.take() {
                    *self.graphs_ms.entry(run.graph.to_string()).or_default() += run.time.as_secs_f64() * 1e3;
                }
                self.shallow += stages.shallow;
                self.deep += stages.deep;
                self.left += stages.exited;
                self.latency_ms.push(ms);
                if !is_skipped {
                    self.asked_ms.push(ms);
                }
                Ok(true)
            }
            Err(PolicyError::Undecodable(_) | PolicyError::NonFinite { .. } | PolicyError::OutOfRange { .. }) => {
                self.refused += 1;
                self.runs.take();
                Ok(false)
            }
            Err(error) => Err(CliError::Failed(format!("{}: {error}", error.kind()))),
        }
    }

    /// A total over the answers that asked the model, a chunk.
    fn per_chunk(&self, total: f64) -> f64 {
        rounded(total / self.asked_ms.len().max(1) as f64)
    }
}

fn skips(stop: StopReason) -> bool {
    matches!(stop, StopReason::Reused | StopReason::Extrapolated)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The ways asked for, or those that fit the bundle.
fn ways(arguments: &BenchArguments, spec: &PolicySpec) -> Vec<Way> {
    let parse = |names: &[&str]| names.iter().filter_map(|name| name.parse().ok()).collect::<Vec<Decoding>>();
    let decodings: Vec<Option<Decoding>> = if !spec.family.has_tokens() {
        vec![None]
    } else if arguments.decodings.is_empty() {
        let fits = |decoding: &Decoding| {
            decoding.check(&spec.family).is_ok() && decoding.resolved(spec.thresholds.as_ref()).is_ok()
        };
        parse(&[&LOSSLESS[..], &LOSSY[..], &DRAWN[..]].concat()).into_iter().filter(fits).map(Some).collect()
    } else {
        arguments.decodings.iter().copied().map(Some).collect()
    };
    let trade = &arguments.trade;
    let skippings = if trade.skippings.is_empty() { vec![Skipping::Off] } else { trade.skippings.clone() };
    let prunings = if trade.prunings.is_empty() { vec![Pruning::default()] } else { trade.prunings.clone() };
    let mut ways = Vec::new();
    for skipping in skippings {
        for &pruning in &prunings {
            ways.extend(decodings.iter().map(|&decoding| Way { decoding, skipping, pruning }));
        }
    }
    if trade.skippings.is_empty() && trade.prunings.is_empty() && arguments.decodings.is_empty() {
        let fitted = [Skipping::Reuse, Skipping::Extrapolate].into_iter().filter(|way| way.check(spec).is_ok());
        let decoding = spec.family.has_tokens().then(Decoding::default);
        ways.extend(fitted.map(|skipping| Way { decoding, skipping, pruning: Pruning::default() }));
    }
    // What episodes of the others are compared with.
    if !ways.iter().any(|way| way.is_plain()) {
        let decoding = spec.family.has_tokens().then(Decoding::default);
        ways.insert(0, Way { decoding, skipping: Skipping::Off, pruning: Pruning::default() });
    }
    ways
}

/// One row a way, and a task where episodes are played.
pub(super) fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let Some(path) = &arguments.recording else {
        return Err(CliError::Input("bench acceleration: give --recording FILE of `endplate run --record`".to_owned()));
    };
    let policy = PolicyArguments { decoding: None, skipping: None, pruning: None, ..arguments.policy.clone() };
    let bundle = policy.open()?;
    let spec = bundle.spec();
    let quick = if arguments.trade.quick { QUICK_OBSERVATIONS } else { usize::MAX };
    let recorded = replayed(path, spec, arguments.observations.unwrap_or(quick))?;
    let mut rows = Vec::new();
    for way in ways(arguments, spec) {
        let plain = Way {
            decoding: way.decoding.map(|_| Decoding::default()),
            skipping: Skipping::Off,
            pruning: Pruning::default(),
        };
        let (mut plain, mut fast) = (Side::load(&plain.policy(&policy))?, Side::load(&way.policy(&policy))?);
        let Compared { same, with_tokens, apart_rad } = compare(&recorded, &mut plain, &mut fast)?;
        let mut row = Row::new();
        row.insert("what".to_owned(), json!(way.to_string()));
        row.insert("bundle".to_owned(), json!(spec.name));
        row.insert("precision".to_owned(), json!(spec.precision.name()));
        row.insert("engine".to_owned(), json!(format!("{:?}", arguments.policy.engine).to_lowercase()));
        row.insert("observations".to_owned(), json!(recorded.len()));
        row.insert("same_tokens".to_owned(), json!(same));
        row.insert("with_tokens".to_owned(), json!(with_tokens));
        let mut samples = Samples::default();
        samples.extend(apart_rad);
        samples.put(&mut row, "apart", "rad");
        row.insert("visual_tokens_per_chunk".to_owned(), json!(fast.per_chunk(fast.visual_tokens)));
        for (side, prefix) in [(&plain, "plain"), (&fast, "chunk")] {
            row.insert(format!("{prefix}_vision_mean_ms"), json!(side.per_chunk(side.vision_ms)));
            row.insert(format!("{prefix}_prefill_mean_ms"), json!(side.per_chunk(side.prefill_ms)));
            let graphs = side.graphs_ms.iter().map(|(name, ms)| (name.clone(), side.per_chunk(*ms)));
            row.insert(format!("{prefix}_graphs_mean_ms"), json!(graphs.collect::<BTreeMap<_, _>>()));
        }
        row.insert("refused_plain".to_owned(), json!(plain.refused));
        row.insert("refused".to_owned(), json!(fast.refused));
        row.insert("tokens_per_chunk".to_owned(), json!(fast.per_chunk(fast.tokens)));
        row.insert("passes_per_chunk_plain".to_owned(), json!(plain.per_chunk(plain.passes)));
        row.insert("passes_per_chunk".to_owned(), json!(fast.per_chunk(fast.passes)));
        row.insert("shallow_passes_per_chunk".to_owned(), json!(fast.per_chunk(f64::from(fast.shallow))));
        row.insert("deep_passes_per_chunk".to_owned(), json!(fast.per_chunk(f64::from(fast.deep))));
        row.insert("exited_token_share".to_owned(), json!(rounded(f64::from(fast.left) / fast.tokens.max(1.0))));
        let share = |count: usize| json!(rounded(count as f64 / fast.answers.max(1) as f64));
        row.insert("skipped_share".to_owned(), share(fast.skipped));
        row.insert("exited_share".to_owned(), share(fast.exited));
        for (side, prefix) in [(&plain, "plain"), (&fast, "chunk")] {
            let mut samples = Samples::default();
            samples.extend(side.latency_ms.iter().copied());
            samples.put(&mut row, prefix, "ms");
        }
        let (plain_ms, fast_ms) = (mean(&plain.latency_ms), mean(&fast.latency_ms));
        row.insert("mean_latency_ratio".to_owned(), json!(rounded(plain_ms / fast_ms)));
        // Answers of one length, of which so many rows are played.
        let rows_per_s = |ms: f64| json!(rounded(spec.chunk.execute_rows as f64 / (ms / 1e3)));
        row.insert("rows_per_compute_s_plain".to_owned(), rows_per_s(plain_ms));
        row.insert("rows_per_compute_s".to_owned(), rows_per_s(fast_ms));
        with_episodes(arguments, &policy, way, mean(&fast.asked_ms), row, &mut rows)?;
    }
    Ok(rows)
}

#[cfg(feature = "sim")]
fn with_episodes(
    arguments: &BenchArguments,
    policy: &PolicyArguments,
    way: Way,
    asked_ms: f64,
    row: Row,
    rows: &mut Vec<Row>,
) -> Result<(), CliError> {
    let trade = &arguments.trade;
    let episodes = if trade.quick && trade.episodes == 0 { QUICK_EPISODES } else { trade.episodes };
    if episodes == 0 {
        rows.push(row);
        return Ok(());
    }
    for &task in &trade.task {
        let mut row = row.clone();
        let played = episodes::Played::play(&way.policy(policy), way, task, trade, episodes)?;
        played.put(&mut row, asked_ms);
        let first = rows.iter().find(|other| other.get("task") == row.get("task"));
        let plain = if way.is_plain() { None } else { first };
        played.put_difference(&mut row, plain)?;
        rows.push(row);
    }
    Ok(())
}

#[cfg(not(feature = "sim"))]
fn with_episodes(
    _: &BenchArguments,
    _: &PolicyArguments,
    _: Way,
    _: f64,
    row: Row,
    rows: &mut Vec<Row>,
) -> Result<(), CliError> {
    rows.push(row);
    Ok(())
}

/// What two sides answered to the same observations.
#[derive(Default)]
struct Compared {
    /// Answers with the same tokens,
    same: usize,
    /// of so many with tokens on both sides.
    with_tokens: usize,
    /// The largest difference of a joint in the rows planned to be played, where both answered.
    apart_rad: Vec<f64>,
}

/// Answers everything on both sides.
fn compare(recorded: &[Replayed], plain: &mut Side, fast: &mut Side) -> Result<Compared, CliError> {
    let mut compared = Compared::default();
    let played = plain.policy.spec().chunk.execute_rows * plain.chunk.dims();
    for each in recorded {
        let observation = each.observation();
        if plain.answer(&observation, each.epoch)? & fast.answer(&observation, each.epoch)? {
            let pairs = plain.chunk.rows().iter().zip(fast.chunk.rows()).take(played);
            compared.apart_rad.push(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max));
        }
        let (expected, got) = (plain.policy.tokens(), fast.policy.tokens());
        let both = !expected.is_empty() && !got.is_empty();
        compared.with_tokens += usize::from(both);
        compared.same += usize::from(both && expected == got);
    }
    Ok(compared)
}
