//! `calibrate thresholds`, `bench acceleration` with episodes, and deadlines that no answer meets.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use sha2::{Digest as _, Sha256};
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

/// A shipped bundle with the graphs that leave visual tokens out, which are fixtures of `policies/tests/pruning.rs`.
fn in_parts(name: &str, folder: &Path) {
    let fixture = repository().join("policies/tests/pruning").join(name);
    let bundle = repository().join("policies/bundles").join(name);
    assert!(Command::new("cp").arg("-r").arg(bundle).arg(folder).status().unwrap().success());
    let mut listed = "[files]\n".to_owned();
    for entry in std::fs::read_dir(&fixture).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if file.ends_with(".onnx") {
            let bytes = std::fs::read(fixture.join(&file)).unwrap();
            std::fs::write(folder.join(&file), &bytes).unwrap();
            let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            listed += &format!("\"{file}\" = \"{digest}\"\n");
        }
    }
    let text = std::fs::read_to_string(folder.join("policy.toml")).unwrap();
    let declared = std::fs::read_to_string(fixture.join("pruning.toml")).unwrap();
    std::fs::write(folder.join("policy.toml"), text.replacen("[files]\n", &listed, 1) + &declared).unwrap();
}

#[test]
fn visual_tokens_are_left_out_fitted_compared_and_played_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    in_parts("pick_cube_flow", &folder.join("parts"));
    let json = |file: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap() };
    let run = ["run", "--bundle", "parts", "--episodes", "4", "--seed", "500000", "--record", "run.mcap"];
    assert!(endplate(folder, &run).status.success());
    let refused = endplate(folder, &["calibrate", "thresholds", "--pruning", "off", "--recording", "run.mcap"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));

    // A tolerance that everything keeps, so that there is something to resolve.
    let fit = ["calibrate", "thresholds", "--bundle", "parts", "--recording", "run.mcap", "--observations", "30"];
    let told = endplate(folder, &[&fit[..], &["--tolerance-rad", "3", "--out", "fitted"]].concat());
    assert!(told.status.success(), "{}", said(&told));
    for way in ["ics:36 ", "ics:36+edges ", "cache:36 "] {
        assert!(said(&told).contains(way), "{}", said(&told));
    }
    let text = std::fs::read_to_string(folder.join("fitted/thresholds.toml")).unwrap();
    assert!(text.contains("[pruning]\nics = 36\nics_edges = 36\ncache = 36\n"), "{text}");
    let ways = "off,ics,ics+edges,cache";
    let bench = ["bench", "acceleration", "--bundle", "fitted", "--recording", "run.mcap", "--observations", "12"];
    let told = endplate(folder, &[&bench[..], &["--prunings", ways, "--json", "rows.jsonl"]].concat());
    assert!(told.status.success(), "{}", said(&told));
    let rows = rows(folder);
    assert_eq!(
        rows.iter().map(|row| row["what"].as_str().unwrap()).collect::<Vec<_>>(),
        ["plain", "ics", "ics+edges", "cache"]
    );
    assert_eq!(
        (rows[0]["visual_tokens_per_chunk"].as_f64(), rows[0]["apart_max_rad"].as_f64()),
        (Some(78.0), Some(0.0))
    );
    for row in &rows[1..] {
        assert!((36.0..78.0).contains(&row["visual_tokens_per_chunk"].as_f64().unwrap()), "{row}");
        assert!(row["apart_max_rad"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(rows[1]["chunk_graphs_mean_ms"]["prefill_b36.onnx"].as_f64().unwrap() > 0.0);

    let run = ["run", "--bundle", "fitted", "--episodes", "1", "--pruning", "ics", "--json", "run.json"];
    let told = endplate(folder, &run);
    assert!(told.status.success(), "{}", said(&told));
    let kept = json("run.json")["inference"]["visual_tokens_per_chunk"].as_f64().unwrap();
    assert!(kept > 36.0 && kept < 78.0, "the first answer sees everything: {kept}");
    let evaluate =
        ["evaluate", "--bundle", "fitted", "--pruning", "off,ics:36", "--episodes", "1", "--json", "table.json"];
    let told = endplate(folder, &evaluate);
    assert!(told.status.success(), "{}", said(&told));
    let table = json("table.json");
    assert_eq!(
        (&table["rows"][0]["setting"]["pruning"], &table["rows"][1]["setting"]["pruning"]),
        (&Value::Null, &"ics:36".into())
    );

    for (bundle, pruning, reason) in [
        ("fitted", "ics:40", "[36]"),
        ("fitted", "ics:36+cache:36", "choose one"),
        ("../policies/bundles/pick_cube_flow", "ics:36", "endplate-prune"),
    ] {
        let bundle =
            if bundle == "fitted" { folder.join(bundle) } else { Path::new(env!("CARGO_MANIFEST_DIR")).join(bundle) };
        let told =
            endplate(folder, &["run", "--bundle", bundle.to_str().unwrap(), "--episodes", "1", "--pruning", pruning]);
        assert!(!told.status.success() && said(&told).contains(reason), "{}", said(&told));
    }
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
