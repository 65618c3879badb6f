//! `calibrate thresholds`, `bench acceleration` with episodes, and deadlines that no answer meets.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn endplate(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_endplate")).current_dir(folder).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rows(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("rows.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn thresholds_are_fitted_to_a_recording_and_what_they_allow_is_played_against_plain_answers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let flow = repository().join("policies/bundles/pick_cube_flow");
    let flow = flow.to_str().unwrap();
    let run = ["run", "--bundle", flow, "--episodes", "4", "--seed", "500000", "--record", "run.mcap"];
    assert!(endplate(folder, &run).status.success());

    let fit = ["calibrate", "thresholds", "--bundle", flow, "--recording", "run.mcap", "--out", "fitted"];
    let told = endplate(folder, &fit);
    assert!(told.status.success(), "{}", said(&told));
    assert!(said(&told).contains("9 steps: p99"), "{}", said(&told));
    let text = std::fs::read_to_string(folder.join("fitted/thresholds.toml")).unwrap();
    for key in ["graph_digest = ", "precision = \"f32\"", "recording_digest = ", "tolerance_rad = 0.02"] {
        assert!(text.contains(key), "{text}");
    }
    let again = endplate(folder, &["calibrate", "thresholds", "--bundle", "fitted", "--recording", "run.mcap"]);
    let without_last_line = |output: &Output| said(output).lines().take(2).collect::<Vec<_>>().join("\n");
    assert_eq!(without_last_line(&again), without_last_line(&told), "the same data fit the same numbers");

    // A looser tolerance lets the planner take fewer steps, and skipped calls are told for what they are.
    let loose = [&fit[..6], &["--tolerance-rad", "0.5", "--skip-tolerance-rad", "3", "--out", "loose"]].concat();
    let told = endplate(folder, &loose);
    assert!(told.status.success(), "{}", said(&told));
    let bench = [
        "bench",
        "acceleration",
        "--bundle",
        "loose",
        "--recording",
        "run.mcap",
        "--observations",
        "10",
        "--episodes",
        "2",
        "--resume",
        "episodes.jsonl",
        "--json",
        "rows.jsonl",
    ];
    let told = endplate(folder, &bench);
    assert!(told.status.success(), "{}", said(&told));
    let first = rows(folder);
    assert_eq!(first[0]["what"], "plain");
    assert!(first.iter().all(|row| row["episodes"] == 2 && row["success_high"].as_f64().unwrap() <= 1.0));
    assert!(first[1..].iter().all(|row| row["pairs"] == 2));
    let lines = std::fs::read_to_string(folder.join("episodes.jsonl")).unwrap();
    assert!(endplate(folder, &bench).status.success());
    assert_eq!(std::fs::read_to_string(folder.join("episodes.jsonl")).unwrap(), lines, "nothing is played twice");
    let outcomes = |rows: &[Value]| rows.iter().map(|row| row["outcomes"].clone()).collect::<Vec<_>>();
    assert_eq!(outcomes(&rows(folder)), outcomes(&first));
}

#[test]
fn bad_wishes_and_thresholds_that_are_missing_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run = endplate(folder, &["run", "--episodes", "1", "--skipping", "reuse"]);
    assert_eq!(run.status.code(), Some(3));
    assert!(said(&run).contains("--skipping reuse") && said(&run).contains("calibrate thresholds"), "{}", said(&run));
    let fit = ["calibrate", "thresholds", "--recording", "none.mcap"];
    for (more, reason) in [
        (["--tolerance-rad", "0"], "--tolerance-rad 0"),
        (["--skip-share", "0.5"], "at most a third"),
        (["--decoding", "plain"], "leave them out"),
        (["--observations", "5"], "none.mcap"),
    ] {
        let told = endplate(folder, &[&fit[..], &more].concat());
        assert_eq!(told.status.code(), Some(2), "{}", said(&told));
        assert!(said(&told).contains(reason), "{}", said(&told));
    }
}

#[test]
fn a_deadline_that_no_answer_meets_is_refused_when_the_robot_is_to_be_activated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // A bundle that claims to cost next to nothing, so that only what is measured speaks against the deadline.
    let bundle = folder.join("bundle");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(repository().join("policies/bundles/pick_cube_bins"))
        .arg(&bundle)
        .status()
        .unwrap();
    assert!(copied.success());
    let edit = |path: &Path, changes: &[(&str, &str)]| {
        let mut text = std::fs::read_to_string(path).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        text
    };
    let free = [("prefill_ms = 6.0", "prefill_ms = 0.001"), ("vision_ms = 1.5", "vision_ms = 0.001")];
    let text = edit(&bundle.join("policy.toml"), &free);
    std::fs::write(bundle.join("policy.toml"), text).unwrap();
    let robot = edit(&repository().join("hal/robots/so101_sim.toml"), &[("deadline_ms = 250.0", "deadline_ms = 31.0")]);
    std::fs::write(folder.join("robot.toml"), robot).unwrap();
    let arguments = ["run", "--bundle", "bundle", "--robot", "robot.toml", "--episodes", "1", "--realtime"];
    let told = endplate(folder, &arguments);
    assert_eq!(told.status.code(), Some(3), "{}", said(&told));
    for figure in ["control.deadline_ms = 31", "may take 1.0 ms", "the fastest takes", "47 passes"] {
        assert!(said(&told).contains(figure), "{}", said(&told));
    }
}
