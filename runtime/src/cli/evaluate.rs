//! `endplate evaluate`: bundles × engines × tasks on the same seeds, resumable, with intervals and paired bounds.
//!
//! Every combination asked for is a row; every row plays the same episodes, so rows are compared pair by pair. Each
//! finished episode is a JSON line of `--resume FILE`; a second run with the same file plays only what is missing.

use super::bundle::{EngineName, PolicyArguments, open_robot, require_fit};
use super::error::{CliError, require_one, require_writable, write};
use super::frames::FrameSaver;
use super::run::{Images, RunArguments, Seed, Task};
use super::simulation::Bench;
use super::statistics::{PairedDifference, paired_difference, wilson};
use super::view::View;
use clap::{Args, ValueEnum};
use core::time::Duration;
use endplate_policies::{Bundle, Decoding, Loaded, Pruning};
use endplate_runtime::LadderCounts;
use endplate_sim::task::COLOURS;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Arguments of `endplate evaluate`.
#[derive(Args)]
pub struct EvaluateArguments {
    /// Folder of a bundle; may be given again. Without it, the built-in demonstration policy.
    #[arg(long)]
    bundle: Vec<PathBuf>,
    /// Engines.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tract")]
    engine: Vec<EngineName>,
    /// Ways to generate action tokens, as of `run --decoding`; without it, each bundle's own.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    decoding: Vec<Decoding>,
    /// Ways to leave visual tokens out, as of `run --pruning`; without it, each bundle's own.
    #[arg(long, value_delimiter = ',', value_name = "WAY")]
    pruning: Vec<Pruning>,
    /// Tasks.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "static")]
    task: Vec<Task>,
    /// Light, colours and camera poses: as in the model, or random in every episode.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "nominal")]
    look: Vec<LookOption>,
    /// What the policy sees.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "camera")]
    images: Vec<Images>,
    /// Name the colour that many places further on (red, green, blue); `0,1` shows whether the sentence switches the cube.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    shift_colour: Vec<u64>,
    /// Robot description; without it, the built-in simulated robot.
    #[arg(long)]
    robot: Option<PathBuf>,
    /// Episodes a row.
    #[arg(long, default_value_t = 200)]
    episodes: u64,
    /// Seed of the first episode.
    #[arg(long, default_value_t)]
    seed: Seed,
    /// How long an inference takes in simulated time: `measured`, `60ms` or `trace:FILE`; several, with commas between.
    #[arg(long, value_delimiter = ',', default_value = "measured")]
    latency: Vec<String>,
    /// How chunks are handed over (`runtime/HANDOVER.md`): modes of `run --handover`, and the baselines
    /// `naive_synchronous` and `naive_asynchronous`; without it each bundle's own.
    #[arg(long, value_delimiter = ',', value_name = "MODE")]
    handover: Vec<String>,
    /// ONNX Runtime library for the engine `ort`.
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
    /// JSON lines of finished episodes: read first, then added to.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Write rows and comparisons as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table as Markdown; it is printed in any case.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Save a strip of frames (PNG, time from left to right) of the episodes of `--strip-episodes`.
    #[arg(long, value_name = "DIR")]
    strip: Option<PathBuf>,
    /// Episode numbers to save strips of.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    strip_episodes: Vec<u64>,
}

/// How the world looks.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub enum LookOption {
    /// As the model says.
    Nominal,
    /// Random light, colours and camera displacement in every episode.
    Randomised,
}

/// What is the same in all episodes of a row. Two episodes are of one row when these are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    bundle: String,
    bundle_digest: String,
    engine: String,
    engine_version: String,
    precision: String,
    /// How action tokens are generated; empty for one a pass and for a policy without tokens.
    #[serde(default)]
    decoding: String,
    /// Which visual tokens are left out; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pruning: String,
    robot: String,
    task: String,
    look: String,
    images: String,
    shift_colour: u64,
    latency: String,
    /// Empty where it is the bundle's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    handover: String,
}

/// One finished episode: a line of `--resume`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    setting: Setting,
    seed: u64,
    instruction: String,
    target: String,
    outcome: String,
    /// Colour of the first cube seen 5 cm up.
    lifted: Option<String>,
    duration_s: f64,
    chunks: u64,
    refused: u64,
    tokens: u64,
    passes: f64,
    rows: f64,
    limited: u64,
    deadline_misses: u64,
    ladder: [u64; 5],
    /// Wall time of every answer.
    latency_ms: Vec<f64>,
}

impl Record {
    fn is_success(&self) -> bool {
        self.outcome == "success"
    }
}

/// One row of the table.
#[derive(Serialize)]
struct Row {
    setting: Setting,
    /// Why it was not run.
    not_run: Option<String>,
    episodes: usize,
    successes: usize,
    success_interval: (f64, f64),
    wrong_picks: usize,
    wrong_pick_interval: (f64, f64),
    /// Against the first row of the same task, look, images and sentence.
    against_first: Option<Comparison>,
    /// Against the row of the same setting whose sentence names the first colour.
    switched: Option<Switched>,
    completion_s: Option<Spread>,
    latency_ms: Option<Spread>,
    tokens_per_chunk: f64,
    passes_per_chunk: f64,
    actions_per_compute_s: f64,
    refused_answers: u64,
    limited: u64,
    deadline_misses: u64,
    ladder: LadderCounts,
}

#[derive(Serialize)]
struct Comparison {
    bundle: String,
    engine: String,
    pairs: usize,
    only_this: usize,
    only_first: usize,
    difference: f64,
    worse_by_less_than: f64,
}

/// Whether another sentence about the same scene moves the arm to another cube.
#[derive(Copy, Clone, Serialize)]
struct Switched {
    /// Seeds where a cube was lifted with either sentence.
    both_lifted: usize,
    /// Of those, seeds where it was another cube.
    another_cube: usize,
}

#[derive(Copy, Clone, Serialize)]
struct Spread {
    p50: f64,
    p99: f64,
    max: f64,
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = |share: f64| values[((last as f64 * share).round() as usize).min(last)];
    Some(Spread { p50: at(0.5), p99: at(0.99), max: values[last] })
}

#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    seed: u64,
    episodes: u64,
    rows: &'a [Row],
}

/// Plays what is missing, then prints and writes the table.
pub fn evaluate(arguments: &EvaluateArguments) -> Result<(), CliError> {
    require_one("--episodes", arguments.episodes)?;
    require_writable(arguments.json.iter().chain(&arguments.markdown))?;
    let mut records: Vec<Record> = arguments.resume.as_deref().map_or_else(|| Ok(Vec::new()), read_lines)?;
    if let Some(folder) = &arguments.strip {
        std::fs::create_dir_all(folder).map_err(|error| CliError::Input(format!("{}: {error}", folder.display())))?;
    }
    let robot = open_robot(arguments.robot.as_ref())?;
    let bundles: Vec<Option<PathBuf>> =
        if arguments.bundle.is_empty() { vec![None] } else { arguments.bundle.iter().cloned().map(Some).collect() };
    let mut settings: Vec<(Setting, Option<String>)> = Vec::new();
    let decodings: Vec<Option<Decoding>> =
        if arguments.decoding.is_empty() { vec![None] } else { arguments.decoding.iter().copied().map(Some).collect() };
    let prunings: Vec<Option<Pruning>> =
        if arguments.pruning.is_empty() { vec![None] } else { arguments.pruning.iter().copied().map(Some).collect() };
    let ways: Vec<_> =
        decodings.iter().flat_map(|decoding| prunings.iter().map(move |pruning| (*decoding, *pruning))).collect();
    for bundle in &bundles {
        for &engine in &arguments.engine {
            for &(decoding, pruning) in &ways {
                let ort_library = arguments.ort_library.clone();
                let bundle = bundle.clone();
                let policy =
                    PolicyArguments { bundle, engine, ort_library, decoding, pruning, ..PolicyArguments::default() };
                // What a bundle does not declare is a row that was not run, not the end of the others.
                let (version, refusal) = match policy.load() {
                    Ok((bundle, loaded)) => {
                        require_fit(&bundle, &robot)?;
                        (loaded.engine.version, None)
                    }
                    Err(CliError::Refused(why)) => (String::new(), Some(why)),
                    Err(error) => return Err(error),
                };
                let bundle = PolicyArguments { decoding: None, pruning: None, ..policy.clone() }.open()?;
                for run in conditions(arguments, &policy) {
                    let mut setting = setting_of(&run, &bundle, &version, &robot.source);
                    if let Some(decoding) = decoding {
                        setting.decoding = decoding_word(decoding);
                    }
                    if let Some(pruning) = pruning {
                        setting.pruning = pruning_word(pruning);
                    }
                    if settings.iter().any(|(other, _)| *other == setting) {
                        continue;
                    }
                    if refusal.is_none() {
                        play(arguments, &run, &setting, &robot, &mut records)?;
                    }
                    settings.push((setting, refusal.clone()));
                }
            }
        }
    }
    let rows = rows(arguments, settings, &records);
    let table = markdown(&rows, arguments);
    say_part!("{table}");
    if let Some(path) = &arguments.markdown {
        write(path, &table)?;
    }
    if let Some(path) = &arguments.json {
        let report = Report {
            version: env!("CARGO_PKG_VERSION"),
            seed: arguments.seed.0,
            episodes: arguments.episodes,
            rows: &rows,
        };
        write(path, serde_json::to_string_pretty(&report).map_err(CliError::failed)?)?;
    }
    Ok(())
}

/// Every combination of task, look, images and sentence, as arguments of a run.
fn conditions(arguments: &EvaluateArguments, policy: &PolicyArguments) -> Vec<RunArguments> {
    let mut runs = Vec::new();
    for &task in &arguments.task {
        for &look in &arguments.look {
            for &images in &arguments.images {
                for &shift_colour in &arguments.shift_colour {
                    for (latency, handover) in timings(arguments) {
                        runs.push(RunArguments {
                            policy: policy.clone(),
                            robot: arguments.robot.clone(),
                            episodes: Some(arguments.episodes),
                            seed: arguments.seed,
                            latency: Some(latency.clone()),
                            handover: handover.cloned(),
                            task,
                            images,
                            shift_colour,
                            randomise: look == LookOption::Randomised,
                            ..RunArguments::default()
                        });
                    }
                }
            }
        }
    }
    runs
}

fn decoding_word(decoding: Decoding) -> String {
    if decoding.is_plain() { String::new() } else { decoding.to_string() }
}

fn pruning_word(pruning: Pruning) -> String {
    if pruning.is_off() { String::new() } else { pruning.to_string() }
}

/// Every latency with every handover; `None` is the bundle's own.
fn timings(arguments: &EvaluateArguments) -> impl Iterator<Item = (&String, Option<&String>)> {
    let own = arguments.handover.is_empty().then_some(None);
    let handovers: Vec<Option<&String>> = arguments.handover.iter().map(Some).chain(own).collect();
    arguments.latency.iter().flat_map(move |latency| handovers.clone().into_iter().map(move |mode| (latency, mode)))
}

fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn setting_of(run: &RunArguments, bundle: &Bundle, engine_version: &str, robot: &str) -> Setting {
    Setting {
        bundle: bundle.spec().name.clone(),
        bundle_digest: bundle.digest().to_owned(),
        engine: word(run.policy.engine),
        engine_version: engine_version.to_owned(),
        precision: bundle.spec().precision.name().to_owned(),
        decoding: bundle.spec().family.tokens().map_or_else(String::new, |rules| decoding_word(rules.decoding)),
        pruning: pruning_word(bundle.spec().pruning),
        robot: robot.to_owned(),
        task: word(run.task),
        look: word(if run.randomise { LookOption::Randomised } else { LookOption::Nominal }),
        images: word(run.images),
        shift_colour: run.shift_colour,
        latency: run.latency.clone().unwrap_or_default(),
        handover: run.handover.clone().unwrap_or_default(),
    }
}

/// Plays the episodes of a row that are not recorded yet.
fn play(
    arguments: &EvaluateArguments,
    run: &RunArguments,
    setting: &Setting,
    robot: &endplate_hal::RobotSpec,
    records: &mut Vec<Record>,
) -> Result<(), CliError> {
    let is_done = |records: &[Record], seed: u64| records.iter().any(|r| r.seed == seed && r.setting == *setting);
    let seed_of = |index: u64| arguments.seed.0 + index;
    let missing: Vec<u64> = (0..arguments.episodes).filter(|&index| !is_done(records, seed_of(index))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let bar = ProgressBar::new(arguments.episodes);
    if let Ok(style) = ProgressStyle::with_template("{msg:60} {bar:20} {pos}/{len}, {eta} left") {
        bar.set_style(style);
    }
    bar.set_position(arguments.episodes - missing.len() as u64);
    let (bundle, loaded): (Bundle, Loaded) = run.policy.load()?;
    let period_s = bundle.spec().chunk.row_period.as_secs_f64();
    let mut bench = Bench::new(run, robot, &bundle, loaded, View::quiet())?;
    let mut log = arguments.resume.as_deref().map(append_to).transpose()?;
    for index in missing {
        let with_strip = arguments.strip.as_deref().filter(|_| arguments.strip_episodes.contains(&index));
        bench.set_saver(with_strip.map(|_| FrameSaver::strip(bench.world())));
        let before = bench.control_counts().clone();
        let (episode, lifted) = bench.simulated_episode(index)?;
        let inference = bench.take_inference_counts();
        let after = bench.control_counts();
        let ladder = |of: &LadderCounts| [of.fresh, of.continued, of.decelerated, of.held, of.stopped];
        let (ladder_before, ladder_after) = (ladder(&before.ladder), ladder(&after.ladder));
        let record = Record {
            setting: setting.clone(),
            seed: episode.seed,
            instruction: episode.instruction,
            target: episode.target,
            outcome: episode.outcome,
            lifted: lifted.map(|cube| COLOURS[cube].to_owned()),
            duration_s: episode.duration_s,
            chunks: inference.chunks,
            refused: inference.causes.total(),
            tokens: inference.tokens,
            passes: inference.passes,
            // A difference of sums: rounded, so that it does not depend on what came before.
            rows: ((after.motion_s - before.motion_s) / period_s * 1e6).round() / 1e6,
            limited: after.limited - before.limited,
            deadline_misses: after.deadline_misses - before.deadline_misses,
            ladder: std::array::from_fn(|rung| ladder_after[rung] - ladder_before[rung]),
            latency_ms: inference.latency.spans(Duration::from_millis(1)).map(|ms| (ms * 1e3).round() / 1e3).collect(),
        };
        if let (Some(folder), Some(mut saver)) = (with_strip, bench.set_saver(None)) {
            let name = format!(
                "{}_{}_{}_{}_shift{}_{}_{}_{}.png",
                setting.bundle,
                setting.engine,
                setting.task,
                setting.look,
                setting.shift_colour,
                record.seed,
                record.target,
                record.outcome
            );
            saver.write_strip(&folder.join(name))?;
        }
        if let Some((path, file)) = &mut log {
            let line = serde_json::to_string(&record).map_err(CliError::failed)?;
            writeln!(file, "{line}").map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
        }
        records.push(record);
        let of_row = || records.iter().filter(|record| record.setting == *setting);
        let (done, good) = (of_row().count(), of_row().filter(|record| record.is_success()).count());
        bar.set_message(format!(
            "{} {} {} {} {}: {good} of {done}",
            setting.bundle, setting.task, setting.look, setting.latency, setting.handover
        ));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// The lines of a file that episodes are added to one by one, or none where there is no file yet.
pub(super) fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>, CliError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CliError::Input(format!("{}: {error}", path.display()))),
    };
    // A line without an end was being written when a run was stopped: that episode is played again.
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| file.set_len(whole as u64))
            .map_err(|error| CliError::Input(format!("{}: {error}", path.display())))?;
        remark!("{}: the last line is cut off; its episode is played again", path.display());
    }
    text[..whole]
        .lines()
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| {
                let remedy = "give a file that the same command wrote for --resume, or a new one";
                CliError::Input(format!("{}: line {}: {error}; {remedy}", path.display(), number + 1))
            })
        })
        .collect()
}

pub(super) fn append_to(path: &Path) -> Result<(PathBuf, std::fs::File), CliError> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map(|file| (path.to_owned(), file))
        .map_err(|error| CliError::Input(format!("{}: {error}", path.display())))
}

fn rows(arguments: &EvaluateArguments, settings: Vec<(Setting, Option<String>)>, records: &[Record]) -> Vec<Row> {
    let seeds = arguments.seed.0..arguments.seed.0 + arguments.episodes;
    let by_seed = |setting: &Setting| -> BTreeMap<u64, &Record> {
        records.iter().filter(|r| r.setting == *setting && seeds.contains(&r.seed)).map(|r| (r.seed, r)).collect()
    };
    let all: Vec<_> = settings.iter().map(|(setting, _)| by_seed(setting)).collect();
    let same_scene = |a: &Setting, b: &Setting| {
        let scene = |s: &Setting| (s.task.clone(), s.look.clone(), s.images.clone(), s.shift_colour);
        // Over several latencies a row is compared with itself at the first of them.
        let itself = |s: &Setting| (s.bundle_digest.clone(), s.engine.clone(), s.handover.clone());
        scene(a) == scene(b) && (arguments.latency.len() == 1 || itself(a) == itself(b))
    };
    let mut rows = Vec::new();
    for (index, (setting, not_run)) in settings.iter().enumerate() {
        let mine = &all[index];
        let first = (0..index).find(|&other| same_scene(&settings[other].0, setting) && settings[other].1.is_none());
        let against_first = first.filter(|_| not_run.is_none()).map(|first| {
            let pairs = mine.iter().filter_map(|(seed, r)| Some((r.is_success(), all[first].get(seed)?.is_success())));
            let PairedDifference { pairs, only_this, only_other, difference, worse_by_less_than } =
                paired_difference(pairs);
            Comparison {
                bundle: settings[first].0.bundle.clone(),
                engine: settings[first].0.engine.clone(),
                pairs,
                only_this,
                only_first: only_other,
                difference,
                worse_by_less_than,
            }
        });
        let unshifted = Setting { shift_colour: 0, ..setting.clone() };
        let other = settings.iter().position(|(s, _)| *s == unshifted).filter(|other| *other != index);
        let switched = other.map(|other| {
            let lifted =
                mine.iter().filter_map(|(seed, r)| Some((r.lifted.as_ref()?, all[other].get(seed)?.lifted.as_ref()?)));
            let (mut both_lifted, mut another_cube) = (0, 0);
            for (this, other) in lifted {
                both_lifted += 1;
                another_cube += usize::from(this != other);
            }
            Switched { both_lifted, another_cube }
        });
        let sum = |of: fn(&Record) -> f64| mine.values().map(|r| of(r)).sum::<f64>();
        let count = |of: fn(&Record) -> u64| mine.values().map(|r| of(r)).sum::<u64>();
        let chunks = sum(|r| r.chunks as f64);
        let per_chunk = |total: f64| if chunks > 0.0 { total / chunks } else { 0.0 };
        let latencies: Vec<f64> = mine.values().flat_map(|r| r.latency_ms.iter().copied()).collect();
        let compute_s = latencies.iter().sum::<f64>() / 1e3;
        let rung = |index: usize| mine.values().map(|r| r.ladder[index]).sum();
        let successes = mine.values().filter(|r| r.is_success()).count();
        let wrong_picks = mine.values().filter(|r| r.outcome == "wrong_pick").count();
        rows.push(Row {
            not_run: not_run.clone(),
            episodes: mine.len(),
            successes,
            success_interval: wilson(successes, mine.len()),
            wrong_picks,
            wrong_pick_interval: wilson(wrong_picks, mine.len()),
            against_first,
            switched,
            completion_s: spread(mine.values().filter(|r| r.is_success()).map(|r| r.duration_s).collect()),
            latency_ms: spread(latencies),
            tokens_per_chunk: per_chunk(sum(|r| r.tokens as f64)),
            passes_per_chunk: per_chunk(sum(|r| r.passes)),
            actions_per_compute_s: if compute_s > 0.0 { sum(|r| r.rows) / compute_s } else { 0.0 },
            refused_answers: count(|r| r.refused),
            limited: count(|r| r.limited),
            deadline_misses: count(|r| r.deadline_misses),
            ladder: LadderCounts {
                fresh: rung(0),
                continued: rung(1),
                decelerated: rung(2),
                held: rung(3),
                stopped: rung(4),
                ..LadderCounts::default()
            },
            setting: setting.clone(),
        });
    }
    rows
}

fn markdown(rows: &[Row], arguments: &EvaluateArguments) -> String {
    let mut text = String::from(
        "| bundle, decoding | engine, precision | task, latency, handover | look | sees | sentence | success (95 % Wilson) | wrong picks | against the first row \
         | another cube | done in, p50 s | chunk ms, p50 / p99 / max | tokens | passes |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        // Writing to a string cannot fail.
        let _ = write_row(&mut text, row);
    }
    let _ = writeln!(
        text,
        "\nSeeds {} to {}, latency {}. “Against”: difference on the same seeds in points, and the one-sided 95 % bound of how \
         much worse; over several latencies, against the same bundle and handover at the first of them. “Another cube”: of the seeds where a cube was lifted with either sentence, where it was another one.",
        arguments.seed,
        arguments.seed.0 + arguments.episodes - 1,
        arguments.latency.join(", ")
    );
    text
}

fn write_row(text: &mut String, row: &Row) -> std::fmt::Result {
    let s = &row.setting;
    write!(
        text,
        "| {}{} | {} {}, {} | {}, {}{} | {} | {} | {} | ",
        s.bundle,
        [&s.decoding, &s.pruning]
            .into_iter()
            .filter(|word| !word.is_empty())
            .map(|word| format!(", {word}"))
            .collect::<String>(),
        s.engine,
        s.engine_version,
        s.precision,
        s.task,
        s.latency,
        if s.handover.is_empty() { String::new() } else { format!(", {}", s.handover) },
        s.look,
        s.images,
        if s.shift_colour == 0 { "as drawn".to_owned() } else { format!("colour + {}", s.shift_colour) }
    )?;
    if let Some(why) = &row.not_run {
        return writeln!(text, "not run: {} | | | | | | | |", why.replace('|', "/").replace('\n', " "));
    }
    let percent = |share: f64| share * 100.0;
    let (low, high) = row.success_interval;
    write!(
        text,
        "{} of {}: {:.1} % ({:.1}–{:.1}) | {} ({:.1} %) | ",
        row.successes,
        row.episodes,
        percent(row.successes as f64 / row.episodes.max(1) as f64),
        percent(low),
        percent(high),
        row.wrong_picks,
        percent(row.wrong_picks as f64 / row.episodes.max(1) as f64)
    )?;
    match &row.against_first {
        Some(c) => write!(
            text,
            "{:+.1}, worse by < {:.1} ({} pairs, {}:{}) | ",
            percent(c.difference),
            percent(c.worse_by_less_than),
            c.pairs,
            c.only_this,
            c.only_first
        )?,
        None => write!(text, "– | ")?,
    }
    match &row.switched {
        Some(Switched { both_lifted, another_cube }) => write!(text, "{another_cube} of {both_lifted} | ")?,
        None => write!(text, "– | ")?,
    }
    match &row.completion_s {
        Some(spread) => write!(text, "{:.1} | ", spread.p50)?,
        None => write!(text, "– | ")?,
    }
    match &row.latency_ms {
        Some(Spread { p50, p99, max }) => write!(text, "{p50:.1} / {p99:.1} / {max:.1} | ")?,
        None => write!(text, "– | ")?,
    }
    writeln!(text, "{:.1} | {:.1} |", row.tokens_per_chunk, row.passes_per_chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cut_off_by_a_kill_is_forgotten_and_a_foreign_file_is_refused_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("episodes.jsonl");
        assert!(read_lines::<Record>(&path).unwrap().is_empty());
        std::fs::write(&path, "{\"half\": ").unwrap();
        assert!(read_lines::<Record>(&path).unwrap().is_empty());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        std::fs::write(&path, "{\"half\": 1}\n").unwrap();
        let error = read_lines::<Record>(&path).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("half"), "{error}");
    }

    #[test]
    fn spreads_are_nearest_rank() {
        let Spread { p50, p99, max } = spread((1..=101).map(f64::from).collect()).unwrap();
        assert_eq!((p50, p99, max), (51.0, 100.0, 101.0));
        assert!(spread(Vec::new()).is_none());
    }
}
