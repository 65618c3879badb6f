//! The binary as a user meets it: bad input gives one clear error and the documented exit code.
#![allow(clippy::unwrap_used)]

use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn endplate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_endplate")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs, expects this exit code, and one error line that holds every one of these words.
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let output = endplate(arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    let lines: Vec<&str> = error.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{arguments:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{arguments:?}: {word:?} is not in {error}");
    }
}

fn bundle() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies/bundles/pick_cube_fast")
}

/// A copy of the demonstration bundle that can be damaged.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        copy_folder(&bundle(), copy.0.path());
        copy
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn edit(&self, from: &str, to: &str) {
        let file = self.0.path().join("policy.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from:?} is not in policy.toml");
        std::fs::write(file, text.replacen(from, to, 1)).unwrap();
    }

    /// Replaces a file and its digest.
    fn replace(&self, name: &str, contents: &[u8]) {
        let file = self.0.path().join(name);
        let digest = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let old = digest(&std::fs::read(&file).unwrap());
        std::fs::write(&file, contents).unwrap();
        self.edit(&old, &digest(contents));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_bad_argument_is_named_with_what_to_write() {
    refused(&["run", "--episodes", "1", "--instruction", "fetch the green cube"], 2, &["fetch", "--instruction"]);
    refused(&["run", "--episodes", "1", "--fault", "camera_dorp:front@1"], 2, &["camera_dorp", "camera_drop", "estop"]);
    refused(&["run", "--episodes", "1", "--fault", "camera_drop:rear@1"], 2, &["rear", "front"]);
    refused(&["run", "--episodes", "1", "--latency", "60"], 2, &["60", "60ms"]);
    refused(&["run", "--episodes", "1", "--latency", "trace:missing.txt"], 2, &["missing.txt"]);
    refused(&["evaluate", "--episodes", "0"], 2, &["--episodes 0"]);
    refused(&["run", "--episodes", "0"], 2, &["--episodes 0"]);
    refused(&["bench", "faults", "--seeds", "0"], 2, &["--seeds 0"]);
    refused(&["evaluate", "--episodes", "1", "--latency", "soon"], 2, &["--latency soon", "measured"]);
    refused(&["dataset", "--out", "never", "--moving", "2"], 2, &["--moving 2", "between 0 and 1"]);
    let unknown = endplate(&["run", "--speed", "3"]);
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn a_file_that_cannot_be_written_at_the_end_is_refused_at_the_start_and_a_pipe_is_written_as_it_is() {
    let missing = "/no/such/folder/out.json";
    for arguments in [
        &["run", "--episodes", "1", "--json", missing][..],
        &["evaluate", "--episodes", "1", "--json", missing],
        &["evaluate", "--episodes", "1", "--markdown", missing],
        &["bench", "faults", "--seeds", "1", "--json", missing],
    ] {
        refused(arguments, 2, &[missing, "name a file"]);
    }
    refused(&["run", "--episodes", "1", "--json", "/"], 2, &["is a folder"]);
    refused(&["run", "--episodes", "1", "--fault-plan", "estop@1"], 2, &["use --fault estop@1"]);
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("report.json"), folder.path().join("link"));
    std::fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for to in ["/dev/stdout", link.to_str().unwrap()] {
        let output = endplate(&["bench", "faults", "--seeds", "1", "--json", to]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = match to {
            "/dev/stdout" => String::from_utf8(output.stdout).unwrap(),
            _ => std::fs::read_to_string(&file).unwrap(),
        };
        assert!(text.contains("\"broken\":0"), "{text}");
    }
    assert!(link.is_symlink());
}

#[test]
fn a_bad_robot_description_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let write = |from: &str, to: &str| {
        let file = folder.path().join("robot.toml");
        let text = endplate_hal::robots::SO101_SIM;
        assert!(text.contains(from));
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    refused(&["check", "--robot", "nowhere.toml"], 2, &["nowhere.toml"]);
    refused(
        &["check", "--robot", &write("rate_hz = 100.0", "rate_hz = 100.0\nturbo = 1")],
        2,
        &["robot.toml", "turbo"],
    );
    refused(
        &["check", "--robot", &write("rate_hz = 100.0", "rate_hz = -5.0")],
        2,
        &["control.rate_hz", "-5", "from 1"],
    );
    refused(&["check", "--robot", &write("rate_hz = 100.0", "rate_hz = ")], 2, &["robot.toml"]);
    refused(&["run", "--robot", &write("driver = \"sim\"", "driver = \"v4l2\"")], 2, &["front", "device.path"]);
    let joint = write("name = \"elbow_flex\"", "name = \"elbow\"");
    let text = std::fs::read_to_string(&joint).unwrap().replace("joint = \"elbow_flex\"", "joint = \"elbow\"");
    std::fs::write(&joint, text).unwrap();
    refused(&["check", "--robot", &joint], 3, &["elbow_flex"]);
    let camera = write("name = \"wrist\"", "name = \"hand\"");
    refused(&["run", "--episodes", "1", "--robot", &camera], 3, &["wrist", "hand"]);
}

#[test]
fn a_bundle_that_does_not_match_refuses_to_start_and_says_which() {
    refused(&["check", "--bundle", "nowhere"], 3, &["nowhere", "policy.toml"]);
    let copy = Copy::new();
    std::fs::write(copy.0.path().join("vision.onnx"), b"damaged").unwrap();
    refused(&["run", "--episodes", "1", "--bundle", copy.path()], 3, &["vision.onnx", "SHA-256"]);
    for (from, to, words) in [
        ("name = \"elbow_flex\"", "name = \"elbow\"", ["elbow", "policy"]),
        ("name = \"wrist\"", "name = \"hand\"", ["hand", "wrist"]),
        ("horizon = 16", "horizon = 15", ["15", "16"]),
        ("q01 = ", "q01 = 9.0 #", ["q01", "9"]),
        ("family = \"pi0_fast\"", "family = \"gr00t\"", ["gr00t", "pi0_fast"]),
        ("format = 1", "format = 1\nspeed = 2", ["speed", "policy.toml"]),
        ("[engines]\ntract", "[engines]\nabacus", ["tract", "[engines]"]),
    ] {
        let copy = Copy::new();
        copy.edit(from, to);
        refused(&["run", "--episodes", "1", "--bundle", copy.path()], 3, &words);
    }
    let copy = Copy::new();
    copy.replace("prefill.onnx", b"this is no graph");
    refused(&["run", "--episodes", "1", "--bundle", copy.path()], 4, &["prefill"]);
}

#[test]
fn what_fits_is_said_to_fit_and_the_doctor_speaks_json() {
    let fits = endplate(&["check", "--golden"]);
    let text = String::from_utf8_lossy(&fits.stdout);
    assert!(fits.status.success() && text.contains("fits so101_sim") && text.contains("golden"), "{text}");
    let doctor = endplate(&["doctor", "--json"]);
    assert!(doctor.status.success());
    let lines: Vec<serde_json::Value> =
        String::from_utf8_lossy(&doctor.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pass = |what: &str| lines.iter().find(|line| line["check"] == what).unwrap()["pass"].as_bool().unwrap();
    assert!(pass("bundle") && pass("engine tract"));
    assert!(lines.iter().any(|line| line["check"] == "real-time rights"));
}

#[test]
fn check_says_which_rows_one_graph_is_run_with_and_what_tensorrt_builds_for_them() {
    let copy = Copy::new();
    let graph = std::fs::read(bundle().join("../../tests/models/pick_cube_fast_decode.onnx")).unwrap();
    copy.replace("decode_k1.onnx", &graph);
    std::fs::rename(copy.0.path().join("decode_k1.onnx"), copy.0.path().join("decode.onnx")).unwrap();
    copy.edit("\"decode_k1.onnx\" = ", "\"decode.onnx\" = ");
    copy.edit("strategy = ", "rows = [1, 16, 110]\nstrategy = ");
    let config = copy.0.path().with_extension("toml");
    let checked = |arguments: &[&str]| {
        let output = endplate(&[&["check", "--bundle", copy.path()], arguments].concat());
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (fits, said) = checked(&["--golden"]);
    assert!(fits && said.contains("decode.onnx: a session each for [1, 16, 110] rows"), "{said}");
    std::fs::write(
        &config,
        "[[providers]]\nname = \"tensorrt\"\nrequirement = \"preferred\"\n[[providers]]\nname = \"cpu\"",
    )
    .unwrap();
    let config = config.to_str().unwrap();
    // Nothing is loaded, so this needs neither the provider nor the library.
    let (fits, said) = checked(&["--engine", "ort", "--engine-config", config]);
    assert!(fits && said.contains("decode.onnx: one session for [1, 16, 110] rows"), "{said}");
    let profile = "tensorrt: optimisation profile: min x:1x1x128,positions:1x1,mask:1x1x1x207; opt x:1x1x128,positions:1x1,mask:1x1x1x207; max x:1x110x128,positions:1x110,mask:1x1x110x316";
    assert!(said.contains(profile), "{said}");
    std::fs::write(config, "[[providers]]\nname = \"tensorrt\"\nprofile_rows = { min = 1, opt = 1, max = 16 }")
        .unwrap();
    let words = ["`tensorrt`: profile_rows = { min = 1, opt = 1, max = 16 }", "[1, 16, 110] rows", "max = 110"];
    refused(&["check", "--bundle", copy.path(), "--engine", "ort", "--engine-config", config], 4, &words);
    std::fs::remove_file(config).unwrap();
}

#[test]
fn tokens_go_through_a_pipe_and_a_refused_line_does_not_end_it() {
    let tokenize = |way: &str, input: &str| {
        let tokenizer = bundle().join("tokenizer");
        let mut child = Command::new(env!("CARGO_BIN_EXE_endplate"))
            .args(["tokenize", way, "--horizon", "16", "--dims", "6", "--tokenizer"])
            .arg(tokenizer)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let chunk: Vec<Vec<f64>> = (0..16).map(|row| (0..6).map(|dim| f64::from(row * dim) / 200.0).collect()).collect();
    let lines = format!("{}\nnot json\n{{\"chunk\": [[1]]}}\n{0}\n", serde_json::json!({ "chunk": chunk }));
    let encoded = tokenize("encode", &lines);
    assert_eq!(encoded.len(), 4);
    assert_eq!((&encoded[1]["error"]["kind"], &encoded[2]["error"]["kind"]), (&"json".into(), &"shape".into()));
    assert_eq!(encoded[0], encoded[3]);
    let ids = &encoded[0]["tokens"];
    let short: Vec<_> = ids.as_array().unwrap().iter().skip(1).cloned().collect();
    let input = format!(
        "{}\n{}\n{{\"tokens\": [60000]}}\n{{\"tokens\": []}}\n",
        serde_json::json!({ "tokens": ids }),
        serde_json::json!({ "tokens": short })
    );
    let decoded = tokenize("decode", &input);
    for (row, expected) in decoded[0]["chunk"].as_array().unwrap().iter().zip(&chunk) {
        for (value, expected) in row.as_array().unwrap().iter().zip(expected) {
            assert!((value.as_f64().unwrap() - expected).abs() < 0.2);
        }
    }
    let kinds: Vec<&str> = decoded[1..].iter().map(|line| line["error"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["length", "unknown_id", "length"]);
}

#[test]
fn an_open_loop_inference_meets_the_golden_actions() {
    use npyz::WriterBuilder;
    use npyz::npz::{NpzArchive, NpzWriter};
    let folder = tempfile::tempdir().unwrap();
    let (inputs, outputs) = (folder.path().join("in.npz"), folder.path().join("out.npz"));
    let mut golden = NpzArchive::open(bundle().join("golden.npz")).unwrap();
    let images: Vec<u8> = golden.by_name("images_0").unwrap().unwrap().into_vec().unwrap();
    let state: Vec<f64> = golden.by_name("state_0").unwrap().unwrap().into_vec().unwrap();
    let instruction: Vec<u8> = golden.by_name("instruction_0").unwrap().unwrap().into_vec().unwrap();
    let expected: Vec<f64> = golden.by_name("actions_0").unwrap().unwrap().into_vec().unwrap();
    let mut file = NpzWriter::create(&inputs).unwrap();
    let mut bytes = |name: &str, shape: &[u64], values: &[u8]| {
        let mut array = file.array(name, Default::default()).unwrap().default_dtype().shape(shape).begin_nd().unwrap();
        array.extend(values.iter().copied()).unwrap();
        array.finish().unwrap();
    };
    let (front, wrist) = images.split_at(images.len() / 2);
    bytes("front", &[96, 96, 3], front);
    bytes("wrist", &[96, 96, 3], wrist);
    bytes("instruction", &[instruction.len() as u64], &instruction);
    let mut array = file.array("state", Default::default()).unwrap().default_dtype().shape(&[6]).begin_nd().unwrap();
    array.extend(state).unwrap();
    array.finish().unwrap();
    drop(file);
    let run = endplate(&["infer", "--inputs", inputs.to_str().unwrap(), "--outputs", outputs.to_str().unwrap()]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let mut written = NpzArchive::open(outputs).unwrap();
    let actions: Vec<f64> = written.by_name("actions").unwrap().unwrap().into_vec().unwrap();
    assert_eq!(actions.len(), expected.len());
    assert!(actions.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3));
    refused(&["infer", "--inputs", "nowhere.npz", "--outputs", "out.npz"], 2, &["nowhere.npz"]);
}

#[test]
fn a_policy_of_poses_gives_its_own_rows_or_the_joints_of_the_robot_named() {
    use npyz::WriterBuilder;
    use npyz::npz::{NpzArchive, NpzWriter};
    let bundle = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies/tests/bundles/lerobot_act_ee");
    let bundle = bundle.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut golden = NpzArchive::open(Path::new(bundle).join("golden.npz")).unwrap();
    let robot =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../hal/robots/so101_sim.toml")).unwrap();
    let rules =
        "[kinematics.inverse]\norientation_weight_m = [0.0, 0.01, 0.01]\nrotation_tolerance_rad = 0.1\n[workspace]";
    std::fs::write(named("robot.toml"), robot.replace("[workspace]", rules)).unwrap();
    std::fs::write(named("bare.toml"), robot.split_once("[kinematics]").unwrap().0).unwrap();

    let mut written = |name: &str, state: &[f64]| {
        let mut npz = NpzWriter::create(named(name)).unwrap();
        let options = npyz::zip::write::FileOptions::default();
        for camera in ["wrist", "front"] {
            let pixels: Vec<u8> = golden.by_name(&format!("{camera}_0")).unwrap().unwrap().into_vec().unwrap();
            let mut array = npz.array(camera, options).unwrap().default_dtype().shape(&[32, 48, 3]).begin_nd().unwrap();
            array.extend(pixels).unwrap();
            array.finish().unwrap();
        }
        let shape = [state.len() as u64];
        let mut array = npz.array("state", options).unwrap().default_dtype().shape(&shape).begin_nd().unwrap();
        array.extend(state.iter().copied()).unwrap();
        array.finish().unwrap();
    };
    written("poses.npz", &[0.18, 0.0, 0.1, 0.0, 3.0, 0.0, 0.2]);
    // About the same pose, as the arm's joints.
    written("joints.npz", &[0.0, 0.3, 1.46, 1.24, 0.0, 0.2]);
    let rows = |name: &str| -> Vec<f64> {
        NpzArchive::open(named(name)).unwrap().by_name("actions").unwrap().unwrap().into_vec().unwrap()
    };
    let infer = |inputs: &str, outputs: &str, robot: &[&str]| {
        let (inputs, outputs) = (named(inputs), named(outputs));
        let plain = ["infer", "--bundle", bundle, "--inputs", &inputs, "--outputs", &outputs];
        let run = endplate(&[&plain, robot].concat());
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    };
    infer("poses.npz", "said.npz", &[]);
    assert_eq!(rows("said.npz").len(), 10 * 7);
    infer("joints.npz", "moved.npz", &["--robot", &named("robot.toml")]);
    assert_eq!(rows("moved.npz").len(), 10 * 6);
    refused(&["check", "--bundle", bundle, "--robot", &named("bare.toml")], 3, &["[kinematics]", "URDF"]);
}

#[test]
fn a_policy_that_reads_several_observations_runs_in_the_loop() {
    let bundle = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies/tests/bundles/lerobot_diffusion_ddim");
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let robot =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../hal/robots/so101_sim.toml")).unwrap();
    let robot = robot.replace("width = 96\nheight = 96", "width = 64\nheight = 32");
    std::fs::write(named("robot.toml"), robot).unwrap();
    let (bundle, robot, json) = (bundle.to_str().unwrap(), named("robot.toml"), named("report.json"));
    let run = endplate(&["run", "--bundle", bundle, "--robot", &robot, "--episodes", "1", "--json", &json]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert!(report["inference"]["chunks"].as_u64().unwrap() > 5);
    assert!(!report.to_string().contains("state_history"), "{report}");
}
