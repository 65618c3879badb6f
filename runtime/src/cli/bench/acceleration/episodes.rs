//! Episodes of one way on one task: finished ones are read from a file, missing ones are played and added to it.

use super::super::super::bundle::{PolicyArguments, open_robot, require_fit};
use super::super::super::error::CliError;
use super::super::super::evaluate::{append_to, read_lines};
use super::super::super::run::{RunArguments, Task};
use super::super::super::simulation::Bench;
use super::super::super::statistics::{paired_difference, wilson};
use super::super::super::view::View;
use super::super::{Row, rounded};
use super::{TradeArguments, Way};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::Write as _;

/// How long an answer that asks the model takes.
const LATENCY: &str = "60ms";

/// What is the same in all episodes of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    bundle_digest: String,
    engine: String,
    way: String,
    task: String,
    latency: String,
}

/// One finished episode: a line of `--resume`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Episode {
    setting: Setting,
    seed: u64,
    outcome: String,
    duration_s: f64,
    answers: u64,
    skipped: u64,
    exited: u64,
    refused: u64,
    tokens: u64,
    passes: f64,
    /// Rows played.
    rows: f64,
}

/// All episodes of a row, in the order of their seeds.
pub(super) struct Played {
    setting: Setting,
    episodes: Vec<Episode>,
}

impl Played {
    /// Reads what is finished and plays what is missing.
    pub(super) fn play(
        policy: &PolicyArguments,
        way: Way,
        task: Task,
        trade: &TradeArguments,
        episodes: u64,
    ) -> Result<Self, CliError> {
        let robot = open_robot(None)?;
        let (bundle, loaded) = policy.load()?;
        require_fit(&bundle, &robot)?;
        let setting = Setting {
            bundle_digest: bundle.digest().to_owned(),
            engine: format!("{} {}", loaded.engine.name, loaded.engine.version),
            way: way.to_string(),
            task: task.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
            latency: LATENCY.to_owned(),
        };
        let wanted = trade.seed.0..trade.seed.0 + episodes;
        let mut done: Vec<Episode> = trade.resume.as_deref().map_or_else(|| Ok(Vec::new()), read_lines)?;
        done.retain(|episode| episode.setting == setting && wanted.contains(&episode.seed));
        let mut log = trade.resume.as_deref().map(append_to).transpose()?;
        let run = RunArguments {
            policy: policy.clone(),
            episodes: Some(episodes),
            seed: trade.seed,
            latency: Some(LATENCY.to_owned()),
            task,
            ..RunArguments::default()
        };
        let period_s = bundle.spec().chunk.row_period.as_secs_f64();
        let mut bench = Bench::new(&run, &robot, &bundle, loaded, View::quiet())?;
        for index in 0..episodes {
            let seed = trade.seed.0 + index;
            if done.iter().any(|episode| episode.seed == seed) {
                continue;
            }
            let moved_s = bench.control_counts().motion_s;
            let (episode, _) = bench.simulated_episode(index)?;
            let counts = bench.take_inference_counts();
            let stops = |names: &[&str]| names.iter().filter_map(|name| counts.stop_reasons.get(*name)).sum();
            let episode = Episode {
                setting: setting.clone(),
                seed: episode.seed,
                outcome: episode.outcome,
                duration_s: episode.duration_s,
                answers: counts.chunks,
                skipped: stops(&["reused", "extrapolated"]),
                exited: stops(&["early_exit"]),
                refused: counts.causes.total(),
                tokens: counts.tokens,
                passes: counts.passes,
                rows: ((bench.control_counts().motion_s - moved_s) / period_s * 1e6).round() / 1e6,
            };
            if let Some((path, file)) = &mut log {
                let line = serde_json::to_string(&episode).map_err(CliError::failed)?;
                writeln!(file, "{line}").map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
            }
            done.push(episode);
        }
        done.sort_by_key(|episode| episode.seed);
        Ok(Self { setting, episodes: done })
    }

    fn count(&self, outcome: &str) -> usize {
        self.episodes.iter().filter(|episode| episode.outcome == outcome).count()
    }

    /// Adds what was played; an answer that asks the model takes `asked_ms`, by the pass over the recording.
    pub(super) fn put(&self, row: &mut Row, asked_ms: f64) {
        let (all, good) = (self.episodes.len(), self.count("success"));
        let (low, high) = wilson(good, all);
        let sum = |of: fn(&Episode) -> f64| self.episodes.iter().map(of).sum::<f64>();
        let (answers, skipped) = (sum(|e| e.answers as f64), sum(|e| e.skipped as f64));
        let share = |part: f64| json!(rounded(part / answers.max(1.0)));
        let asked_s = (answers - skipped) * asked_ms / 1e3;
        for (key, value) in [
            ("task", json!(self.setting.task)),
            ("episodes", json!(all)),
            ("successes", json!(good)),
            ("success_low", json!(rounded(low))),
            ("success_high", json!(rounded(high))),
            ("wrong_picks", json!(self.count("wrong_pick"))),
            ("played_answers", json!(answers)),
            ("played_refused", json!(sum(|e| e.refused as f64))),
            ("played_passes_per_answer", share(sum(|e| e.passes))),
            ("played_skipped_share", share(skipped)),
            ("played_exited_share", share(sum(|e| e.exited as f64))),
            ("played_compute_ms_per_answer", share(asked_s * 1e3)),
            ("played_rows_per_compute_s", json!(rounded(sum(|e| e.rows) / asked_s.max(1e-9)))),
            ("outcomes", json!(self.episodes.iter().map(|e| (e.seed, e.outcome == "success")).collect::<Vec<_>>())),
        ] {
            row.insert(key.to_owned(), value);
        }
    }

    /// Adds the paired difference to the plain row of the same task.
    pub(super) fn put_difference(&self, row: &mut Row, plain: Option<&Row>) -> Result<(), CliError> {
        let Some(outcomes) = plain.and_then(|plain| plain.get("outcomes")) else { return Ok(()) };
        let theirs: Vec<(u64, bool)> = serde_json::from_value(outcomes.clone()).map_err(CliError::failed)?;
        let other = |seed: u64| theirs.iter().find(|(of, _)| *of == seed).map(|(_, good)| *good);
        let pairs = self.episodes.iter().filter_map(|e| Some((e.outcome == "success", other(e.seed)?)));
        let difference = paired_difference(pairs);
        let values: [(&str, Value); 4] = [
            ("pairs", json!(difference.pairs)),
            ("only_this", json!(difference.only_this)),
            ("only_plain", json!(difference.only_other)),
            ("worse_by_less_than", json!(rounded(difference.worse_by_less_than))),
        ];
        for (key, value) in values {
            row.insert(key.to_owned(), value);
        }
        Ok(())
    }
}
