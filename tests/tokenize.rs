//! `endplate tokenize` by pipe: every reference vector, both ways and in every mode, as a user of the binary sees it.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tokenizers/tests/data")
}

/// Feeds lines, returns the answers; the command must end well whatever the lines are.
fn pipe(way: &str, tokenizer: &Path, shape: (u64, u64), mode: &str, lines: &[Value]) -> Vec<Value> {
    let (horizon, dims) = (shape.0.to_string(), shape.1.to_string());
    let mut child = Command::new(env!("CARGO_BIN_EXE_endplate"))
        .args(["tokenize", way, "--tokenizer"])
        .arg(tokenizer)
        .args(["--horizon", &horizon, "--dims", &dims, "--mode", mode])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let answers: Vec<Value> = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(answers.len(), lines.len());
    answers
}

fn close(name: &str, got: &Value, wanted: &Value) {
    let flat = |rows: &Value| -> Vec<f64> {
        rows.as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()))
            .collect()
    };
    let (got, wanted) = (flat(got), flat(wanted));
    assert_eq!(got.len(), wanted.len(), "{name}");
    assert!(got.iter().zip(&wanted).all(|(a, b)| (a - b).abs() <= 1e-9), "{name}");
}

fn shape(case: &Value) -> (u64, u64) {
    (case["time_horizon"].as_u64().unwrap(), case["action_dim"].as_u64().unwrap())
}

fn check(tokenizer: &Path, vectors: &Path) -> usize {
    let vectors: Value = serde_json::from_slice(&std::fs::read(vectors).unwrap()).unwrap();
    let mut compared = 0;
    for case in vectors["encode"].as_array().unwrap().iter().filter(|case| case["tie_free"] == true) {
        let name = case["name"].as_str().unwrap();
        let answer = &pipe("encode", tokenizer, shape(case), "checked", &[json!({"chunk": case["chunk"]})])[0];
        if case["decode_ok"] == true {
            assert_eq!(answer["tokens"], case["tokens"], "{name}");
            let answer = &pipe("decode", tokenizer, shape(case), "checked", &[json!({"tokens": case["tokens"]})])[0];
            close(name, &answer["chunk"], &case["decoded"]);
        } else {
            assert_eq!(answer["error"]["kind"], "range", "{name}");
        }
        compared += 1;
    }
    let cases = vectors["decode"].as_array().unwrap();
    let lines: Vec<Value> = cases.iter().map(|case| json!({"tokens": case["tokens"]})).collect();
    let kinds = |kind: &str| match kind {
        "broken_utf8" => "utf8",
        "too_short" | "too_long" => "length",
        other => other.to_owned().leak(),
    };
    for mode in ["checked", "anytime", "relaxed", "upstream"] {
        let answers = pipe("decode", tokenizer, shape(&cases[0]), mode, &lines);
        for (case, answer) in cases.iter().zip(&answers) {
            let name = format!("{mode} {}", case["name"]);
            let error = match mode {
                "checked" => case["checked_error"].as_str(),
                "anytime" => case["anytime_rows"].as_str(),
                _ => None,
            };
            if let Some(error) = error {
                assert_eq!(answer["error"]["kind"], kinds(error), "{name}");
                assert!(answer["error"]["message"].is_string() && answer["chunk"].is_null(), "{name}");
                continue;
            }
            close(&name, &answer["chunk"], &case[format!("{mode}_decoded")]);
            if mode == "anytime" {
                assert_eq!(answer["frequencies"], case["anytime_rows"], "{name}");
                assert!(answer["error_bound"].as_f64().unwrap() > 0.0, "{name}");
            }
            if mode == "upstream" {
                assert_eq!(answer["upstream_ok"], case["upstream_ok"], "{name}");
            }
            compared += 1;
        }
    }
    compared
}

#[test]
fn every_reference_vector_passes_through_the_pipe() {
    let compared = check(&data().join("tok_synth_50x7"), &data().join("synth_50x7.json"));
    assert!(compared > 60, "{compared}");
}

#[test]
fn every_fast_plus_vector_passes_through_the_pipe() {
    let Some(dir) = std::env::var_os("ENDPLATE_FAST_PLUS").map(PathBuf::from) else {
        eprintln!("SKIPPED: ENDPLATE_FAST_PLUS is not set, FAST+ was not tested");
        return;
    };
    let compared = check(&dir, &dir.join("fastplus_50x7.json"));
    eprintln!("FAST+: {compared} answers compared");
    assert!(compared > 60, "{compared}");
}

#[test]
fn a_refused_line_is_answered_and_the_next_goes_on() {
    let good = json!({"tokens": []});
    let lines = [json!({"tokens": ["x"]}), json!({"tokens": [-1]}), json!({"chunk": []}), json!(3), good];
    let answers = pipe("decode", &data().join("tok_synth_50x7"), (50, 7), "checked", &lines);
    let kinds: Vec<&str> = answers.iter().map(|answer| answer["error"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["json", "json", "json", "json", "length"]);
}

/// A prefix below the declared share is refused; the option belongs to its mode.
#[test]
fn min_share_refuses_a_prefix_and_belongs_to_anytime() {
    let run = |mode: &str, share: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_endplate"))
            .args([
                "tokenize",
                "decode",
                "--horizon",
                "50",
                "--dims",
                "7",
                "--mode",
                mode,
                "--min-share",
                share,
                "--tokenizer",
            ])
            .arg(data().join("tok_synth_50x7"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It may have ended already, having refused its arguments.
        let _ = child.stdin.take().unwrap().write_all(b"{\"tokens\": [1]}\n");
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, answer) = run("anytime", "0.1");
    assert_eq!(code, Some(0));
    assert!(answer.contains("\"kind\":\"share\""), "{answer}");
    assert_eq!(run("checked", "0.1").0, Some(2));
    assert_eq!(run("anytime", "1.5").0, Some(2));
}

#[test]
fn bench_lists_its_tables_and_a_missing_peer_names_the_remedy() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_endplate")).arg("bench").args(arguments).output().unwrap()
    };
    assert!(String::from_utf8(run(&["--list"]).stdout).unwrap().lines().any(|line| line.starts_with("tokenizer ")));
    let output = run(&["tokenizer", "--peer", "no/such/python"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains("no/such/python") && error.contains("scipy"), "{error}");
    // Our side alone, as JSON lines.
    let output = run(&["tokenizer", "--json", "-", "--windows", "2", "--calls", "20"]);
    assert!(output.status.success());
    let rows: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decode = rows.iter().find(|row| row["what"] == "decode").unwrap();
    assert!(decode["ours_p50_ns"].as_f64().unwrap() > 0.0 && decode["non_zero_share"].as_f64().unwrap() < 0.9);
    assert!(decode.get("ratio").is_none());
    assert!(rows.iter().any(|row| row["what"] == "anytime" && row["tokens_percent"] == 100));
    assert_eq!(run(&["nothing"]).status.code(), Some(2));
}
