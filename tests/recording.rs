//! `run --record` and `replay`: what the loops did is in the file, and a bundle answers it again the same way.
#![allow(clippy::unwrap_used)]

use endplate_runtime::recorder::{RecordingError, read_inferences};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn endplate(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_endplate")).current_dir(folder).args(arguments).output().unwrap()
}

fn json(folder: &Path, file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join(file)).unwrap()).unwrap()
}

#[test]
fn a_recorded_run_holds_every_period_and_replays_token_for_token() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let arguments = ["run", "--episodes", "1", "--seed", "2000003", "--fault", "output_nan@1+0.3"];
    let run = endplate(folder, &[&arguments[..], &["--record", "run.mcap", "--json", "run.json"]].concat());
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let plain = endplate(folder, &[&arguments[..], &["--json", "plain.json"]].concat());
    assert!(plain.status.success());
    let (report, plain) = (json(folder, "run.json"), json(folder, "plain.json"));
    assert_eq!(report["command_digest"], plain["command_digest"], "recording changes nothing");

    let bytes = std::fs::read(folder.join("run.mcap")).unwrap();
    let mut topics = std::collections::BTreeMap::new();
    for message in mcap::MessageStream::new(&bytes).unwrap() {
        *topics.entry(message.unwrap().channel.topic.clone()).or_insert(0u64) += 1;
    }
    assert_eq!(topics["/joint_commands"], report["control"]["commands"].as_u64().unwrap());
    assert_eq!(topics["/joint_states"], topics["/joint_commands"]);
    let cameras = ["front".to_owned(), "wrist".to_owned()];
    let recorded = read_inferences(&folder.join("run.mcap"), &cameras).unwrap();
    let refused = recorded.iter().filter(|r| r.record.refused.is_some()).count() as u64;
    assert_eq!(refused, report["faults"]["output_refused"].as_u64().unwrap());
    assert_eq!(recorded.len() as u64 - refused, report["inference"]["chunks"].as_u64().unwrap());
    assert!(topics["/endplate/ladder"] > 2 && topics["/front/image_raw"] == recorded.len() as u64);
    assert!(recorded.iter().all(|r| r.images.iter().any(|image| image.data.iter().any(|byte| *byte > 0))));

    let replay = endplate(folder, &["replay", "run.mcap", "--json", "replay.json"]);
    assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
    let replayed = json(folder, "replay.json");
    assert_eq!(replayed["same_tokens"], replayed["with_tokens"]);
    assert_eq!(replayed["refused_then"], refused, "the fault is not in the observations");
    assert!(replayed["worst_rad"].as_f64().unwrap() < 1e-9);
}

#[test]
fn a_file_that_is_cut_off_or_no_recording_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run = endplate(folder, &["run", "--episodes", "1", "--seed", "2000003", "--record", "run.mcap"]);
    assert!(run.status.success());
    let bytes = std::fs::read(folder.join("run.mcap")).unwrap();
    std::fs::write(folder.join("cut.mcap"), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(folder.join("text.mcap"), "no recording").unwrap();
    for file in ["cut.mcap", "text.mcap"] {
        let output = endplate(folder, &["replay", file]);
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(file) && error.contains("--record"), "{error}");
    }
    let strange = ["rear".to_owned()];
    let error = read_inferences(&folder.join("run.mcap"), &strange).unwrap_err();
    assert!(matches!(error, RecordingError::MissingImage { camera, .. } if camera == "rear"));
    let nowhere = endplate(folder, &["run", "--episodes", "1", "--record", "no/folder/run.mcap"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("no/folder/run.mcap"));
}

#[test]
fn a_recording_gives_calibration_data_and_compares_two_bundles() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run = endplate(folder, &["run", "--episodes", "1", "--seed", "2000003", "--record", "run.mcap"]);
    assert!(run.status.success());
    let capture = endplate(folder, &["capture", "run.mcap", "--out", "sets", "--sets", "5"]);
    assert!(capture.status.success(), "{}", String::from_utf8_lossy(&capture.stderr));
    for (graph, input) in [("vision", "image"), ("prefill", "positions"), ("decode_k1", "past_k_0")] {
        let bytes = std::fs::read(folder.join("sets").join(format!("{graph}.npz"))).unwrap();
        let arrays = endplate_policies::Arrays::from_npz(&bytes, graph).unwrap();
        let values = arrays.get(input, None).unwrap();
        assert!((3..=5).any(|sets| values.len().is_multiple_of(sets)) && values.iter().any(|v| *v != 0.0), "{graph}");
    }
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/bundles/pick_cube_fast");
    let arguments = ["compare", "run.mcap", "--against", bundle, "--limit", "4", "--json", "same.json"];
    let compare = endplate(folder, &arguments);
    assert!(compare.status.success(), "{}", String::from_utf8_lossy(&compare.stderr));
    let same = json(folder, "same.json");
    assert_eq!((same["action_error_rad"]["max"].as_f64(), same["argmax_agreement"].as_f64()), (Some(0.0), Some(1.0)));
    let bins = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/bundles/pick_cube_bins");
    let compare = endplate(folder, &["compare", "run.mcap", "--against", bins]);
    assert_eq!(compare.status.code(), Some(2), "chunks of other rows are not compared");
}
