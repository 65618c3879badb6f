//! A simulated run replays bit for bit: same seed and latency, same commands, on each engine.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn report(folder: &Path, name: &str, arguments: &[&str]) -> Value {
    let file = folder.join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_endplate"))
        .args(["run", "--episodes", "1", "--json"])
        .arg(&file)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn digest(report: &Value) -> &str {
    report["command_digest"].as_str().unwrap()
}

/// The ONNX Runtime library to test with, or `None` after saying plainly that the test is skipped.
fn ort_library() -> Option<PathBuf> {
    let found = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    if found.is_none() {
        assert!(std::env::var_os("ENDPLATE_REQUIRE_ORT").is_none(), "ORT_DYLIB_PATH is not set");
        println!("SKIPPED: no ONNX Runtime library; set ORT_DYLIB_PATH to run this on ort");
    }
    found
}

fn assert_replays(engine: &str) {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, seed: &str| {
        report(folder.path(), name, &["--seed", seed, "--latency", "60ms", "--engine", engine])
    };
    let (first, second, other) = (run("a.json", "2000000"), run("b.json", "2000000"), run("c.json", "2000007"));
    assert_eq!(digest(&first), digest(&second));
    assert_ne!(digest(&first), digest(&other));
    assert_eq!(first["inference"]["engine"], engine);
}

#[test]
fn the_same_seed_and_latency_give_the_same_commands_on_tract() {
    assert_replays("tract");
}

#[test]
fn the_same_seed_and_latency_give_the_same_commands_on_ort() {
    if ort_library().is_some() {
        assert_replays("ort");
    }
}

#[test]
fn a_trace_of_measured_latencies_replays_the_run_that_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let measured = report(folder.path(), "measured.json", &["--seed", "2000003", "--latency", "measured"]);
    let trace = format!("trace:{}", folder.path().join("measured.trace").display());
    let replayed = report(folder.path(), "replayed.json", &["--seed", "2000003", "--latency", &trace]);
    assert_eq!(digest(&measured), digest(&replayed));
}

#[test]
fn the_report_has_every_field_programs_rely_on() {
    let folder = tempfile::tempdir().unwrap();
    let report = report(folder.path(), "report.json", &["--seed", "2000000", "--fault", "camera_drop:front@1+0.5"]);
    let has = |at: &str, keys: &[&str]| {
        let object = if at.is_empty() { &report } else { &report[at] };
        for key in keys {
            assert!(object.get(key).is_some(), "{at}.{key} is missing");
        }
    };
    has("", &["version", "mode", "clock", "latency_model", "seed", "bundle_digest", "episodes", "successes"]);
    has("", &["wrong_picks", "per_episode", "control", "inference", "ladder", "faults", "command_digest"]);
    has("control", &["rate_hz", "periods", "commands", "overruns", "limited", "lateness_us"]);
    has("inference", &["engine", "providers", "precision", "chunks", "latency_ms", "deadline_ms", "deadline_misses"]);
    has("inference", &["tokens_per_chunk", "passes_per_chunk", "actions_per_compute_s", "stop_reasons"]);
    for key in ["p50", "p99", "p999", "max"] {
        assert!(report["inference"]["latency_ms"][key].is_number());
    }
    for key in ["seed", "instruction", "target", "outcome", "duration_s"] {
        assert!(report["per_episode"][0].get(key).is_some(), "per_episode.{key} is missing");
    }
    let rungs = ["fresh", "continued", "decelerated", "held", "stopped"];
    let sum: u64 = rungs.iter().map(|rung| report["ladder"][rung].as_u64().unwrap()).sum();
    assert_eq!(Some(sum), report["control"]["commands"].as_u64());
    assert_eq!(report["clock"], "simulated");
    assert!(report["control"]["lateness_us"].is_null());
    assert_eq!(report["faults"]["camera_stale"], 1);
}
