//! `endplate bench`: measured tables, one JSON object a row.
//!
//! A benchmark is an entry of [`BENCHES`]: a name, a sentence, and a function that returns rows. Ratios come from
//! interleaved windows ([`Ratio`]): A B A B …, the median of the windows' ratios and a bootstrap interval.

#[cfg(feature = "mcap")]
mod acceleration;
#[cfg(feature = "sim")]
mod body;
#[cfg(all(feature = "sim", feature = "serial"))]
mod bus;
#[cfg(feature = "sim")]
mod camera_to_command;
mod decode;
#[cfg(feature = "sim")]
mod faults;
#[cfg(feature = "sim")]
mod handover;
#[cfg(feature = "sim")]
mod jitter;
#[cfg(feature = "sim")]
mod judge;
#[cfg(feature = "sim")]
mod kinematic;
mod peer;
mod pipeline;
mod scene;
#[cfg(all(feature = "sim", unix))]
mod start;
mod tokenizer;
#[cfg(all(feature = "sim", feature = "zenoh"))]
mod wire;

use super::bundle::PolicyArguments;
use super::error::{CliError, require_writable, write};
use clap::Args;
#[cfg(feature = "mcap")]
use endplate_policies::Decoding;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// What a table says of many timed calls.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];

/// One row of a table: keys with their unit.
pub type Row = Map<String, Value>;

/// A benchmark.
struct Bench {
    name: &'static str,
    about: &'static str,
    run: fn(&BenchArguments) -> Result<Vec<Row>, CliError>,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "tokenizer",
        about: "FAST encode, decode and push against the released processor's form (--peer), and anytime errors",
        run: tokenizer::rows,
    },
    #[cfg(feature = "sim")]
    Bench {
        name: "faults",
        about: "random fault plans on a kinematic arm, every command judged; --matrix: one run a fault",
        run: faults::rows,
    },
    #[cfg(feature = "sim")]
    Bench {
        name: "handover",
        about: "rows skipped and repeated under latency traces, ours and LeRobot's ActionQueue (--peer)",
        run: handover::rows,
    },
    Bench {
        name: "pipeline",
        about: "what an inference costs beside the engine, by stage, from 640x480 cameras; the image path alone",
        run: pipeline::rows,
    },
    Bench {
        name: "decode",
        about: "a token or a denoising step over the bare engine call inside it, and ONNX Runtime from Python (--peer)",
        run: decode::rows,
    },
    #[cfg(all(feature = "sim", feature = "serial"))]
    Bench {
        name: "bus",
        about: "the servo driver under the control loop on an emulated bus with a bad wire: what was damaged, caught, believed",
        run: bus::rows,
    },
    #[cfg(feature = "sim")]
    Bench {
        name: "jitter",
        about: "lateness of the control thread at 1 kHz beside a bare clock_nanosleep loop, and LeRobot's (--peer)",
        run: jitter::rows,
    },
    #[cfg(feature = "sim")]
    Bench {
        name: "camera_to_command",
        about: "our stages from a decoded frame to the sent command, two 640x480 cameras, in real time",
        run: camera_to_command::rows,
    },
    #[cfg(all(feature = "sim", feature = "zenoh"))]
    Bench {
        name: "wire",
        about: "round trips over each middleware; lateness at 1 kHz with the network blocked, flooded and cut",
        run: wire::rows,
    },
    #[cfg(all(feature = "sim", unix))]
    Bench { name: "start", about: "from starting the process to the first command, --windows times", run: start::rows },
    #[cfg(feature = "mcap")]
    Bench {
        name: "acceleration",
        about: "ways of answering with less work against plain answers on a recording; --episodes: what they cost in success",
        run: acceleration::rows,
    },
];

/// Arguments of `endplate bench`.
#[derive(Args)]
pub struct BenchArguments {
    /// Which benchmark; `--list` names them.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// List the benchmarks.
    #[arg(long)]
    list: bool,
    /// Write the rows here, one JSON object a line; `-` for standard output.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A Python to compare with, for tokenizer with numpy, scipy and tokenizers, for decode with numpy and onnxruntime, for
    /// handover with lerobot 0.6.1; without it only our side is measured.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// tokenizer: a folder with FAST+'s tokenizer.json, processor_config.json and, to measure 50 × 7 chunks, the
    /// reference vectors fastplus_50x7.json.
    #[arg(long)]
    fast_plus: Option<PathBuf>,
    /// acceleration: the observations. tokenizer: measure anytime errors over the chunks that the built-in policy answered in a recording of
    /// `endplate run --record`, instead of the expert's.
    #[cfg(feature = "mcap")]
    #[arg(long, value_name = "FILE")]
    recording: Option<PathBuf>,
    #[command(flatten)]
    policy: PolicyArguments,
    /// How long, s: bus (600 unless given); jitter, camera_to_command and wire, each side, all windows together (60).
    #[arg(long)]
    seconds: Option<f64>,
    /// camera_to_command: memory and text on huge pages first, as `control.realtime.huge_pages` of a robot asks for it.
    #[arg(long)]
    huge_pages: bool,
    /// bus: share of answers with changed bytes.
    #[arg(long, default_value_t = 0.01)]
    corrupt: f64,
    /// bus: share of answers that are lost.
    #[arg(long, default_value_t = 0.01)]
    drop: f64,
    /// acceleration: ways of decoding, as of `run --decoding`, and plain decoding in any case; without it, those that fit the family.
    #[cfg(feature = "mcap")]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    decodings: Vec<Decoding>,
    /// acceleration: at most so many observations, from the first on.
    #[cfg(feature = "mcap")]
    #[arg(long)]
    observations: Option<usize>,
    #[cfg(feature = "mcap")]
    #[command(flatten)]
    trade: acceleration::TradeArguments,
    /// Windows of each side, at least 2; published figures use 20 or more.
    #[arg(long, default_value_t = 24)]
    windows: usize,
    /// faults: random plans to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// faults: seed of the first plan.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// faults: the policy of `--bundle` on the simulated robot instead of drawn chunks on a kinematic arm.
    #[arg(long, conflicts_with = "matrix")]
    trained: bool,
    /// faults: each fault once, against the rung the design gives it, instead of random plans.
    #[arg(long)]
    matrix: bool,
    /// faults: write the matrix as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Timed calls in a window; pipeline: inferences in all.
    #[arg(long, default_value_t = 400)]
    calls: usize,
}

impl BenchArguments {
    /// Seconds of each side.
    fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(60.0)
    }
}

/// Runs a benchmark, prints its table and writes its rows.
pub fn bench(arguments: &BenchArguments) -> Result<(), CliError> {
    if arguments.list {
        for bench in BENCHES {
            say!("{:<18} {}", bench.name, bench.about);
        }
        return Ok(());
    }
    let name = arguments.name.as_deref().unwrap_or_default();
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        return Err(CliError::Input(format!("bench {name}: unknown; one of {}", names.join(", "))));
    };
    if arguments.windows < 2 || arguments.calls < 10 {
        return Err(CliError::Input("--windows must be at least 2 and --calls at least 10".to_owned()));
    }
    require_writable(arguments.json.iter().filter(|path| path.as_os_str() != "-"))?;
    if !(arguments.seconds() >= 0.02 * arguments.windows as f64 && arguments.seconds() <= 86_400.0) {
        return Err(CliError::Input("--seconds must be at least 0.02 a window and at most 86400".to_owned()));
    }
    let mut rows = (bench.run)(arguments)?;
    for row in &mut rows {
        row.insert("bench".to_owned(), name.into());
        row.insert("machine".to_owned(), machine().into());
        row.insert("clock".to_owned(), "monotonic, read around each call".into());
        row.insert("build".to_owned(), build().into());
    }
    let lines: String = rows.iter().map(|row| format!("{}\n", Value::Object(row.clone()))).collect();
    match &arguments.json {
        Some(path) if path.as_os_str() == "-" => say_part!("{lines}"),
        Some(path) => write(path, lines)?,
        None => {}
    }
    if arguments.json.as_ref().is_none_or(|path| path.as_os_str() != "-") {
        print_table(&rows);
    }
    Ok(())
}

/// One line a row; what many rows have in common is printed where it changes.
fn print_table(rows: &[Row]) {
    say!("{}; monotonic clock, read around each call; {}; p50/p99/p99.9/max", machine(), build());
    let shared = [
        "granted",
        "chunks",
        "peer",
        "chunk_count",
        "bundle",
        "graph",
        "engine",
        "cameras",
        "inferences",
        "refused",
        "tokens_mean",
        "non_zero_share",
        "windows",
        "calls_per_window",
    ];
    let hidden = ["bench", "machine", "clock", "build", "what", "ids_equal_to_peer", "outcomes"];
    let mut last = Vec::new();
    for row in rows {
        let common: Vec<String> = shared.iter().filter_map(|&key| Some(cell(key, row.get(key)?))).collect();
        if common != last {
            say!("\n{}", common.join(", "));
            last = common;
        }
        let own = row.iter().filter(|(key, _)| ![&shared[..], &hidden].concat().contains(&key.as_str()));
        let own: Vec<String> = own.filter_map(|(key, value)| own_cell(row, key, value)).collect();
        say!("  {:<26}  {}", row.get("what").and_then(Value::as_str).unwrap_or_default(), own.join("  "));
    }
}

fn cell(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{key}: {text}"),
        value => format!("{key} {value}"),
    }
}

/// A key of one row; four quantiles make one cell, which stands where the first of them does.
fn own_cell(row: &Row, key: &str, value: &Value) -> Option<String> {
    let is_quantile = |name: &str| QUANTILES.iter().any(|(quantile, _)| *quantile == name);
    let parts = key.rsplit_once('_').and_then(|(rest, unit)| Some((rest.rsplit_once('_')?, unit)));
    let Some(((prefix, _), unit)) = parts.filter(|((_, name), _)| is_quantile(name)) else {
        return Some(cell(key, value));
    };
    let all: Option<Vec<&Value>> =
        QUANTILES.iter().map(|(name, _)| row.get(&format!("{prefix}_{name}_{unit}"))).collect();
    let first = row.keys().find(|other| QUANTILES.iter().any(|(name, _)| **other == format!("{prefix}_{name}_{unit}")));
    match all {
        None => Some(cell(key, value)),
        Some(_) if first.is_some_and(|first| first != key) => None,
        Some(all) => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            Some(format!("{prefix} {} {unit}", all.join("/")))
        }
    }
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("").trim_matches([' ', '\t', ':']);
    let model = if model.is_empty() { std::env::consts::ARCH } else { model };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("");
    format!("{model}, {cores} cores, load {load}")
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug build" } else { "release build" }
}

/// Percentiles of many timed calls, in the unit given.
#[derive(Clone, Default, Debug)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds calls.
    pub fn extend(&mut self, values: impl IntoIterator<Item = f64>) {
        self.0.extend(values);
    }

    /// The p-quantile (nearest rank), 0..=1; NaN of nothing.
    pub fn quantile(&self, p: f64) -> f64 {
        quantile(&self.0, p)
    }

    /// p50, p99, p99.9 and max under `prefix_…_unit`.
    pub fn put(&self, row: &mut Row, prefix: &str, unit: &str) {
        for (name, p) in QUANTILES {
            row.insert(format!("{prefix}_{name}_{unit}"), json!(rounded(self.quantile(p))));
        }
    }
}

/// The p-quantile by nearest rank.
pub fn quantile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (p * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Four significant digits: what a timing is good for.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let factor = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * factor).round() / factor
}

/// Ratio of two sides from their windows' medians: median and bootstrap 95 % interval.
#[derive(Copy, Clone, Debug)]
pub struct Ratio {
    /// Median of the windows' ratios.
    pub median: f64,
    /// Lower and upper end.
    pub interval: (f64, f64),
}

impl Ratio {
    /// `theirs / ours` by window; resampled 2,000 times with a fixed seed.
    pub fn new(theirs: &[f64], ours: &[f64]) -> Self {
        let ratios: Vec<f64> = theirs.iter().zip(ours).map(|(a, b)| a / b).collect();
        let mut state = 1u64;
        let mut draw = |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as usize * end) >> 31
        };
        let medians: Vec<f64> = (0..2000)
            .map(|_| {
                let sample: Vec<f64> = (0..ratios.len()).map(|_| ratios[draw(ratios.len())]).collect();
                quantile(&sample, 0.5)
            })
            .collect();
        let interval = (quantile(&medians, 0.025), quantile(&medians, 0.975));
        Self { median: quantile(&ratios, 0.5), interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let quantiles = [0.5, 0.99, 0.999, 1.0].map(|p| quantile(&values, p));
        assert_eq!(quantiles, [50.0, 99.0, 100.0, 100.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_interval_of_a_steady_ratio_is_narrow_and_of_a_shaky_one_wide() {
        let steady = Ratio::new(&[20.0; 24], &[1.0; 24]);
        assert_eq!((steady.median, steady.interval), (20.0, (20.0, 20.0)));
        let theirs: Vec<f64> = (0..24).map(|n| f64::from(n + 1)).collect();
        let shaky = Ratio::new(&theirs, &[1.0; 24]);
        assert!(shaky.interval.0 < shaky.median && shaky.median < shaky.interval.1);
    }

    #[test]
    fn four_quantiles_are_printed_as_one_cell() {
        let mut row = Row::new();
        Samples((1..=1000).map(f64::from).collect()).put(&mut row, "host", "us");
        row.insert("ratio_max".to_owned(), json!(2.0));
        let cells: Vec<String> = row.iter().filter_map(|(key, value)| own_cell(&row, key, value)).collect();
        assert_eq!(cells, ["host 500.0/990.0/999.0/1000.0 us", "ratio_max 2.0"]);
    }

    #[test]
    fn rounding_keeps_four_digits() {
        assert_eq!([1234.56, 0.000_123_456, 0.0, 99_999.0].map(rounded), [1235.0, 0.000_123_5, 0.0, 100_000.0]);
    }
}
