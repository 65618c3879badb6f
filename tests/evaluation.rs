//! `endplate evaluate`: the same episodes for every row, whatever was played before and wherever it was interrupted.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn evaluate(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_endplate"))
        .current_dir(folder)
        .args(["evaluate", "--seed", "2000000", "--latency", "60ms"])
        .args(arguments)
        .output()
        .unwrap()
}

fn rows(folder: &Path, file: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(&std::fs::read_to_string(folder.join(file)).unwrap()).unwrap();
    report["rows"].as_array().unwrap().clone()
}

fn lines(folder: &Path, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        // Wall time is the one thing that differs.
        line["latency_ms"] = Value::Null;
    }
    lines.sort_by_key(|line| (line["setting"]["task"].to_string(), line["seed"].as_u64()));
    lines
}

#[test]
fn an_interrupted_evaluation_goes_on_where_it_stopped_and_plays_the_same_episodes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let whole = evaluate(
        folder,
        &[
            "--task",
            "moving,static",
            "--episodes",
            "2",
            "--resume",
            "whole.jsonl",
            "--json",
            "whole.json",
            "--strip",
            "strips",
            "--strip-episodes",
            "1",
        ],
    );
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let first = evaluate(folder, &["--task", "static", "--episodes", "1", "--resume", "parts.jsonl"]);
    assert!(first.status.success());
    // Killed while it wrote the next line.
    let mut text = std::fs::read_to_string(folder.join("parts.jsonl")).unwrap();
    text.push_str("{\"setting\": {\"bund");
    std::fs::write(folder.join("parts.jsonl"), text).unwrap();
    let rest = evaluate(
        folder,
        &["--task", "moving,static", "--episodes", "2", "--resume", "parts.jsonl", "--json", "parts.json"],
    );
    assert!(rest.status.success(), "{}", String::from_utf8_lossy(&rest.stderr));
    assert_eq!(lines(folder, "whole.jsonl"), lines(folder, "parts.jsonl"));
    let (whole, parts) = (rows(folder, "whole.json"), rows(folder, "parts.json"));
    assert_eq!(whole.len(), 2);
    for (whole, parts) in whole.iter().zip(&parts) {
        assert_eq!(whole["episodes"], 2);
        for key in ["successes", "wrong_picks", "completion_s", "ladder", "tokens_per_chunk"] {
            assert_eq!(whole[key], parts[key], "{key}");
        }
    }
    let strips: Vec<_> = std::fs::read_dir(folder.join("strips")).unwrap().collect();
    assert_eq!(strips.len(), 2, "one strip a row");
}

#[test]
fn a_bundle_that_does_not_run_on_an_engine_is_a_row_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let int8 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/bundles/pick_cube_fast_int8");
    let output =
        evaluate(folder.path(), &["--bundle", int8.to_str().unwrap(), "--episodes", "1", "--json", "out.json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = rows(folder.path(), "out.json");
    assert_eq!(rows[0]["episodes"], 0);
    assert!(rows[0]["not_run"].as_str().unwrap().contains("does not list `tract`"));
}
