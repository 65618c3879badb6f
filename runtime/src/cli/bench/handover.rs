//! `bench handover`: which rows reach the motors when latency is not what it was thought to be. Ours by motion time; with
//! `--peer`, LeRobot's own `ActionQueue` (third party) on the same traces.

use super::kinematic::Draw;
use super::{BenchArguments, Row};
use crate::cli::error::CliError;
use core::time::Duration;
use endplate_hal::{Instant, JointVec, MotionTime};
use endplate_policies::{ActionChunk, Anchor, Blending, Epoch, Interpolation, Stages};
use endplate_runtime::handover::Handover;
use endplate_runtime::{ChunkScheduler, PlayRules};
use serde::Deserialize;
use serde_json::json;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = include_str!("action_queue.py");
const HORIZON: usize = 30;
/// A chunk is asked for when so many rows are left.
const ASK_AT: usize = 15;
const TICKS: u64 = 3000;
/// A tick plays a row: 30 Hz.
const TICK: Duration = Duration::from_nanos(33_333_333);

/// Runs both sides on every trace.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let mut draw = Draw(7);
    let mut uniform = |low: f64, high: f64| (0..TICKS).map(|_| draw.between(low, high)).collect::<Vec<f64>>();
    let first = |first: f64, rest: Vec<f64>| core::iter::once(first).chain(rest).collect::<Vec<f64>>();
    let traces = [
        ("standstill: 21 ticks of warm-up, then 3", first(21.0, vec![3.0; TICKS as usize])),
        ("random, 0.5 to 14.5 ticks", uniform(0.5, 14.5)),
        ("random, 0.5 to 24 ticks", uniform(0.5, 24.0)),
    ];
    let mut rows = Vec::new();
    for (name, trace) in traces {
        for text in ["switch", "naive_asynchronous"] {
            let played = play(Handover::parse(text).map_err(CliError::failed)?, &trace);
            let what = if text == "switch" { "ours, by motion time" } else { "counting rows off, own reference" };
            rows.push(judge(name, what, &played));
        }
        if let Some(python) = &arguments.peer {
            let (version, played) = peer(python, &trace)?;
            rows.push(judge(name, &format!("ActionQueue of LeRobot {version}, third-party"), &played));
        }
    }
    Ok(rows)
}

/// The row number at every tick a row was played. A chunk asked for when the arm has come to row n has the rows n, n+1, …
fn play(handover: Handover, trace: &[f64]) -> Vec<f64> {
    let rules = PlayRules {
        interpolation: vec![Interpolation::Smooth],
        execute_rows: HORIZON - ASK_AT,
        max_age: Duration::from_secs(60),
    };
    let mut scheduler = ChunkScheduler::new(rules);
    scheduler.set_handover(handover, &[Blending::Average], JointVec::from_fn(1, |_| f64::INFINITY));
    let (mut now, mut motion, mut at) = (Instant::ZERO, MotionTime::ZERO, 0.0);
    let mut due: Option<(u64, ActionChunk)> = None;
    let mut latencies = trace.iter();
    let mut sent = Vec::new();
    for tick in 0..TICKS {
        if let Some((_, chunk)) = due.take_if(|(arrival, _)| tick >= *arrival) {
            // A refused chunk leaves the old one; the next is asked for at once.
            let _ = scheduler.offer(now, motion, &chunk);
        }
        if due.is_none() && scheduler.wants_chunk(now, motion) {
            scheduler.note_wish(now, motion);
            let mut chunk = ActionChunk::new(HORIZON, 1);
            for (row, value) in chunk.rows_mut().iter_mut().enumerate() {
                *value = at + row as f64;
            }
            chunk.set(TICK, Anchor { motion, captured: now }, Epoch(0), None, Stages::default());
            let latency = latencies.next().copied().unwrap_or_default();
            due = Some((tick + latency.ceil() as u64, chunk));
        }
        if let Some(reference) = scheduler.sample(now, motion) {
            sent.push(reference.position_rad[0]);
            at = reference.position_rad[0] + 1.0;
            motion = motion.saturating_add(TICK);
        }
        now = now.saturating_add(TICK);
    }
    sent
}

#[derive(Deserialize)]
struct Answer {
    version: String,
    rows: Vec<f64>,
}

fn peer(python: &Path, trace: &[f64]) -> Result<(String, Vec<f64>), CliError> {
    let mut file = tempfile::NamedTempFile::new().map_err(CliError::failed)?;
    for latency in trace {
        writeln!(file, "{latency:.9}").map_err(CliError::failed)?;
    }
    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(file.path())
        .args([HORIZON.to_string(), ASK_AT.to_string(), TICKS.to_string()])
        .output()
        .map_err(|error| CliError::Input(format!("--peer {}: {error}", python.display())))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let last = error.lines().last().unwrap_or_default();
        return Err(CliError::Input(format!("--peer {}: {last}: install lerobot==0.6.1", python.display())));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(CliError::failed)?;
    Ok((answer.version, answer.rows))
}

fn judge(trace: &str, what: &str, played: &[f64]) -> Row {
    let (mut skipped, mut repeated, mut largest, mut next) = (0.0f64, 0, 0.0f64, 0.0);
    for &row in played {
        let step = row - next;
        skipped += step.max(0.0).round();
        repeated += u64::from(step < -0.5);
        largest = largest.max((step + 1.0).abs());
        next = row + 1.0;
    }
    let mut row = Row::new();
    row.insert("chunks".to_owned(), trace.into());
    row.insert("what".to_owned(), what.into());
    row.insert("rows_played".to_owned(), json!(played.len()));
    row.insert("rows_skipped".to_owned(), json!(skipped));
    row.insert("times_stepped_back".to_owned(), json!(repeated));
    row.insert("largest_step_rows".to_owned(), json!((largest * 1e3).round() / 1e3));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str, trace: &[f64]) -> (f64, u64, f64) {
        let row = judge("", "", &play(Handover::parse(text).unwrap(), trace));
        let of = |key: &str| row[key].as_f64().unwrap();
        (of("rows_skipped"), of("times_stepped_back") as u64, of("largest_step_rows"))
    }

    #[test]
    fn by_motion_time_no_row_is_skipped_or_repeated_whatever_the_latency() {
        let mut draw = Draw(1);
        let mut random = vec![21.0];
        random.extend((0..TICKS).map(|_| draw.between(0.5, 28.0)));
        assert_eq!(counts("switch", &random), (0.0, 0, 1.0));
        let (skipped, _, largest) = counts("naive_asynchronous", &random);
        assert!(skipped >= 21.0 && largest >= 22.0, "the baseline shows the failure: {skipped} {largest}");
    }
}
