//! One conformance suite, every family of somebody else's checkpoints, every engine.
//!
//! The bundles in `bundles/` were exported from policies with random weights (`export/tests/make_fixtures.py` says how).
//! The golden outputs of `lerobot_*` are LeRobot's own, those of `openpi_pi0` LeRobot's port of it, those of
//! `openpi_pi0_fast` and `openvla*` an own reading of the published code.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;
use std::path::PathBuf;

use common::{Copy, engines};
use endplate_hal::{Frame, Instant, JointState, JointVec};
use endplate_policies::bundle::Arrays;
use endplate_policies::{
    ActionChunk, Anchor, Budget, Bundle, BundleSource, Committed, Epoch, LoadError, Moment, Observation,
    OpenLoopInputs, OutputFault, Policy, PolicyError, Resize, StopReason, infer_open_loop, load_policy,
};

const BUNDLES: [&str; 12] = [
    "lerobot_act",
    "lerobot_act_ee",
    "lerobot_diffusion_ddim",
    "lerobot_diffusion_ddpm",
    "lerobot_smolvla",
    "lerobot_pi0",
    "lerobot_pi05",
    "lerobot_pi0_fast",
    "openpi_pi0",
    "openpi_pi0_fast",
    "openvla",
    "openvla_oft",
];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name)
}

/// The first golden sample of a bundle as an observation.
struct Scene {
    bundle: Bundle,
    golden: Arrays,
    inputs: OpenLoopInputs,
}

impl Scene {
    fn new(name: &str) -> Self {
        let bundle = Bundle::open(BundleSource::Directory(path(name))).unwrap();
        let golden = Arrays::from_npz(bundle.file("golden.npz").unwrap(), "golden.npz").unwrap();
        let spec = bundle.spec();
        let states = golden.get("state_0", None).unwrap();
        let mut past: Vec<(Vec<Frame>, Vec<f64>)> =
            states.chunks_exact(spec.state.len()).map(|state| (Vec::new(), state.to_vec())).collect();
        for slot in &spec.cameras {
            let pixels = golden.bytes(&format!("{}_0", slot.name), None).unwrap();
            for ((frames, _), data) in past.iter_mut().zip(pixels.chunks_exact(pixels.len() / spec.observation_steps()))
            {
                frames.push(Frame { data: data.to_vec(), sequence: 1, ..Frame::new(slot.width, slot.height) });
            }
        }
        let (frames, state) = past.pop().unwrap();
        let inputs = OpenLoopInputs {
            frames,
            state,
            past,
            instruction: if golden.contains("instruction_0") {
                golden.text("instruction_0").unwrap()
            } else {
                String::new()
            },
            noise: golden.contains("noise_0").then(|| golden.get("noise_0", None).unwrap().to_vec()),
        };
        Self { bundle, golden, inputs }
    }

    fn past(&self) -> Vec<Moment<'_>> {
        self.inputs.past.iter().map(|(frames, positions)| Moment { frames, state: state(positions) }).collect()
    }

    fn observation<'a>(&'a self, frames: &'a [Frame], past: &'a [Moment<'a>]) -> Observation<'a> {
        let (state, instruction) = (state(&self.inputs.state), &*self.inputs.instruction);
        Observation { frames, state, past, instruction, anchor: Anchor::default() }
    }

    fn prepare(&self, policy: &mut dyn Policy, frames: &[Frame]) {
        policy.prepare(&self.observation(frames, &self.past()), unlimited());
    }

    fn infer(&self, policy: &mut dyn Policy, budget: Budget<'_>) -> Result<ActionChunk, PolicyError> {
        let past = self.past();
        let observation = self.observation(&self.inputs.frames, &past);
        if let Some(noise) = &self.inputs.noise {
            policy.set_noise(noise)?;
        }
        let mut chunk = ActionChunk::for_spec(policy.spec());
        let done = policy.infer(&observation, &Committed::none(Epoch(3)), budget, &mut chunk)?;
        assert_eq!(done, StopReason::Complete);
        Ok(chunk)
    }
}

fn state(positions: &[f64]) -> JointState {
    JointState {
        stamp: Instant::ZERO,
        position_rad: JointVec::from_slice(positions).unwrap(),
        velocity_rad_s: JointVec::zeros(positions.len()),
        effort_nm: None,
    }
}

fn unlimited() -> Budget<'static> {
    Budget::unlimited(Instant::ZERO)
}

/// Every bundle on every engine.
fn everywhere(mut test: impl FnMut(&str, Scene, &mut dyn Policy)) {
    for name in BUNDLES {
        for (engine, choice) in engines() {
            let scene = Scene::new(name);
            let mut loaded = load_policy(&scene.bundle, choice).unwrap();
            println!("{name} on {engine}: {:?}", loaded.golden);
            assert!(loaded.golden.samples >= 2);
            test(&format!("{name} on {engine}"), scene, &mut *loaded.policy);
        }
    }
}

#[test]
fn every_family_gives_the_rows_of_the_framework_that_trained_it() {
    everywhere(|what, scene, policy| {
        let chunk = scene.infer(policy, unlimited()).unwrap();
        let tolerance = scene.bundle.spec().engines["tract"].action_rad;
        let golden = scene.golden.get("actions_0", None).unwrap();
        let worst = chunk.rows().iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= tolerance, "{what}: {worst:e}");
        assert_eq!(scene.infer(policy, unlimited()).unwrap().rows(), chunk.rows(), "{what}: the same bits twice");
        assert_eq!(infer_open_loop(policy, &scene.inputs).unwrap().chunk.rows(), chunk.rows(), "{what}: open loop");
        assert_eq!(chunk.epoch(), Epoch(3));
        let tokens = scene.golden.contains("tokens_0").then(|| scene.golden.ids("tokens_0").unwrap());
        assert_eq!(policy.tokens(), tokens.unwrap_or_default(), "{what}: token for token");
        policy.check_instruction("fold the shirt").unwrap();
    });
}

#[test]
fn images_that_were_put_into_the_input_ahead_give_the_same_bits() {
    everywhere(|what, scene, policy| {
        let rows = scene.infer(policy, unlimited()).unwrap().rows().to_vec();
        let mut others = scene.inputs.frames.clone();
        for frame in &mut others {
            frame.sequence = 2;
            frame.data.iter_mut().for_each(|level| *level = 255 - *level);
        }
        scene.prepare(policy, &others);
        scene.prepare(policy, &scene.inputs.frames);
        let chunk = scene.infer(policy, unlimited()).unwrap();
        assert_eq!(chunk.rows(), rows, "{what}: prepared");
        let looks_ahead = scene.bundle.spec().observation_steps() == 1;
        assert_eq!(chunk.stages().ahead > Duration::ZERO, looks_ahead, "{what}");
        scene.prepare(policy, &others);
        let chunk = scene.infer(policy, unlimited()).unwrap();
        assert_eq!((chunk.rows(), chunk.stages().ahead), (&*rows, Duration::ZERO), "{what}: others were prepared");
        scene.prepare(policy, &scene.inputs.frames);
        policy.reset(Epoch(3));
        if scene.inputs.noise.is_some() {
            // Drawn anew in an epoch; what is asked here is whether images are.
            assert_eq!(scene.infer(policy, unlimited()).unwrap().stages().ahead, Duration::ZERO, "{what}");
        }
    });
}

#[test]
fn a_family_that_reads_instructions_refuses_what_it_cannot_read() {
    everywhere(|what, mut scene, policy| {
        if !scene.bundle.spec().family.reads_instruction() {
            return;
        }
        let words = |error: &PolicyError| (error.kind(), error.to_string());
        scene.inputs.instruction = "pick up the wombat".to_owned();
        let error = scene.infer(policy, unlimited()).unwrap_err();
        assert!(words(&error).0 == "unknown_instruction" && words(&error).1.contains("wombat"), "{what}: {error}");
        scene.inputs.instruction = "the red <image> cube".to_owned();
        assert_eq!(scene.infer(policy, unlimited()).unwrap_err().kind(), "unknown_instruction", "{what}");
        scene.inputs.instruction = "red ".repeat(60);
        assert_eq!(scene.infer(policy, unlimited()).unwrap_err().kind(), "prompt_too_long", "{what}");
        assert!(policy.check_instruction("fold the wombat").is_err());
    });
}

#[test]
fn drawn_noise_repeats_in_an_epoch_and_differs_from_the_next() {
    everywhere(|what, mut scene, policy| {
        if scene.bundle.spec().noise_shape().is_none() {
            return;
        }
        scene.inputs.noise = None;
        let mut rows = |epoch: u64| {
            policy.reset(Epoch(epoch));
            // Other noise may lead a random network out of the believed range: that is an answer too.
            scene.infer(policy, unlimited()).map(|chunk| chunk.rows().to_vec()).map_err(|error| error.to_string())
        };
        let first = rows(5);
        assert_eq!(rows(5), first, "{what}");
        assert_ne!(rows(6), first, "{what}");
    });
}

#[test]
fn injected_faults_are_refused_and_leave_no_trace() {
    everywhere(|what, scene, policy| {
        let whole = scene.infer(policy, unlimited()).unwrap();
        for (fault, kind) in
            [(OutputFault::Nan, "non_finite"), (OutputFault::Inf, "non_finite"), (OutputFault::Huge, "out_of_range")]
        {
            policy.inject(fault);
            assert_eq!(scene.infer(policy, unlimited()).unwrap_err().kind(), kind, "{what}");
        }
        policy.inject(OutputFault::None);
        assert_eq!(scene.infer(policy, unlimited()).unwrap().rows(), whole.rows(), "{what}");
    });
}

#[test]
fn a_budget_of_one_nanosecond_less_than_the_modelled_cost_is_exceeded() {
    everywhere(|what, scene, policy| {
        let within =
            |budget| Budget { start: Instant::ZERO, deadline: Instant::ZERO.saturating_add(budget), clock: None };
        // A family of tokens expects as many as last time, and the most there may be before.
        scene.infer(policy, unlimited()).unwrap();
        let cost = policy.modelled_cost();
        scene.infer(policy, within(cost)).unwrap();
        let error = scene.infer(policy, within(cost - Duration::from_nanos(1))).unwrap_err();
        assert!(matches!(error, PolicyError::DeadlineExceeded { .. }), "{what}: {error}");
    });
}

#[test]
fn observations_that_do_not_fit_are_refused_by_what_is_wrong() {
    type Break = (fn(&mut Scene), &'static str);
    let breaks: [Break; 5] = [
        (|s| s.inputs.frames.truncate(1), "1 frames"),
        (|s| s.inputs.frames[1].data.truncate(5), "slot 1"),
        (|s| s.inputs.frames[0] = Frame { data: vec![0; 12], sequence: 1, ..Frame::new(2, 2) }, "slot 0 is 2×2"),
        (|s| s.inputs.state.truncate(5), "5 joints"),
        (|s| s.inputs.state[2] = f64::NAN, "joint 2"),
    ];
    everywhere(|what, mut scene, policy| {
        let resampled = scene.bundle.spec().cameras[0].resize != Resize::None;
        for (break_it, words) in breaks {
            let of_another_camera = scene.bundle.spec().cameras.len() == 1 && ["1 frames", "slot 1"].contains(&words);
            if of_another_camera || (resampled && words.contains("2×2")) {
                continue;
            }
            let mut broken = Scene::new(what.split(' ').next().unwrap());
            break_it(&mut broken);
            let error = broken.infer(policy, unlimited()).unwrap_err();
            assert!(error.kind() == "observation" && error.to_string().contains(words), "{what}: {error}");
        }
        if let Some((_, state)) = scene.inputs.past.first_mut() {
            state[1] = f64::INFINITY;
            assert!(
                scene.infer(policy, unlimited()).unwrap_err().to_string().contains("joint 1"),
                "{what}: in the past"
            );
        }
        let needed = scene.inputs.past.len();
        scene.inputs.past.push(Default::default());
        let error = scene.infer(policy, unlimited()).unwrap_err().to_string();
        assert!(error.contains(&format!("{} earlier", needed + 1)), "{what}: {error}");
        assert_eq!(policy.set_noise(&[0.0; 3]).map_err(|e| e.to_string().contains("3 values")), Err(true), "{what}");
    });
}

/// What every engine says to a damaged copy whose digests fit.
fn refusals(copy: &Copy) -> Vec<LoadError> {
    let bundle = Bundle::open(BundleSource::Directory(copy.path())).unwrap();
    engines().into_iter().map(|(_, choice)| load_policy(&bundle, choice).map(drop).unwrap_err()).collect()
}

#[test]
fn golden_replay_notices_a_weight_a_statistic_and_exchanged_cameras() {
    for name in BUNDLES {
        // One byte of one weight: the digest notices.
        let copy = Copy::of(&path(name));
        let mut weights = copy.read("weights.bin");
        let middle = weights.len() / 8 * 4 + 3;
        weights[middle] ^= 0x42;
        copy.write("weights.bin", &weights);
        let error = Bundle::open(BundleSource::Directory(copy.path())).map(drop).unwrap_err();
        assert!(error.to_string().starts_with("weights.bin: SHA-256"), "{name}: {error}");
        // Where the digest was made to fit, the outputs notice: a byte of every 256th weight, since a tiny network with a
        // table of words does not use each one.
        for byte in weights.iter_mut().skip(3).step_by(1024) {
            *byte ^= 0x42;
        }
        let copy = Copy::of(&path(name));
        copy.replace("weights.bin", &weights);
        for error in refusals(&copy) {
            assert!(
                matches!(error, LoadError::GoldenDiffers { .. } | LoadError::GoldenFailed { .. }),
                "{name}: {error}"
            );
            println!("{name}, a weight: {error}");
        }

        // The first statistic of the state is halved.
        let copy = Copy::of(&path(name));
        copy.edit(|text| {
            let key = |line: &&str| ["mean = ", "low = "].iter().any(|k| line.starts_with(k));
            let line = text.lines().find(key).unwrap();
            let (key, value) = line.split_once(" = ").unwrap();
            text.replacen(line, &format!("{key} = {:?}", value.parse::<f64>().unwrap() * 0.5), 1)
        });
        for error in refusals(&copy) {
            // A state that is part of the prompt shows there first.
            let noticed = matches!(error, LoadError::GoldenDiffers { .. } | LoadError::GoldenIds { .. });
            assert!(noticed, "{name}: {error}");
            println!("{name}, a statistic: {error}");
        }

        // The two cameras change places.
        if Bundle::open(BundleSource::Directory(path(name))).unwrap().spec().cameras.len() == 1 {
            continue;
        }
        let copy = Copy::of(&path(name));
        copy.edit(|t| t.replace("\"wrist\"", "\"?\"").replace("\"front\"", "\"wrist\"").replace("\"?\"", "\"front\""));
        for error in refusals(&copy) {
            assert!(matches!(error, LoadError::GoldenDiffers { .. }), "{name}: {error}");
            println!("{name}, the cameras: {error}");
        }
    }
}

#[test]
fn a_graph_with_other_names_or_of_another_opset_is_named() {
    for (name, graph) in [
        ("lerobot_act", "regress.onnx"),
        ("lerobot_diffusion_ddim", "condition.onnx"),
        ("lerobot_pi0", "flow_prefix.onnx"),
    ] {
        let copy = Copy::of(&path(name));
        copy.replace(graph, &replaced(&copy.read(graph), b"image_1", b"image_9"));
        for error in refusals(&copy) {
            let text = error.to_string();
            assert!(text.contains(graph) && text.contains("image_9"), "{text}");
        }
        // `opset_import { domain: "" version: 17 }` becomes version 99.
        let copy = Copy::of(&path(name));
        copy.replace(graph, &replaced(&copy.read(graph), &[0x42, 2, 0x10, 17], &[0x42, 2, 0x10, 99]));
        for error in refusals(&copy) {
            let text = error.to_string();
            assert!(text.contains(graph) && text.contains("opset") && text.contains("99"), "{text}");
            println!("{name}: {text}");
        }
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = (0..=bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + from.len()].copy_from_slice(to);
    }
    bytes
}

#[test]
fn statistics_and_tables_that_cannot_be_are_named_with_a_remedy() {
    type Edit = (&'static str, fn(&str) -> String, &'static [&'static str]);
    let edits: [Edit; 9] = [
        ("NaN", |t| set(t, "mean", "nan"), &["state[0] (shoulder_pan)", "NaN", "finite"]),
        ("a joint that never moved", |t| set(t, "std", "0.0"), &["state[0] (shoulder_pan)", "std = 0", "never moved"]),
        (
            "a range of no width",
            |t| {
                set(&set(t, "mean", "1.5").replace("mean = ", "low = ").replace("std = ", "high = "), "high", "1.5")
                    .replace("\"mean_std\"", "\"range\"")
            },
            &["state[0] (shoulder_pan)", "low = 1.5, high = 1.5", "never moved"],
        ),
        (
            "the statistics of another kind",
            |t| t.replacen("state = \"mean_std\"", "state = \"range\"", 1),
            &["state[0] (shoulder_pan).mean", "range"],
        ),
        (
            "a missing statistic",
            |t| t.replacen("\nstd = ", "\n# std = ", 1),
            &["state[0] (shoulder_pan).std = missing", "mean_std"],
        ),
        (
            "an unknown kind",
            |t| t.replacen("\"mean_std\"", "\"minmax\"", 1),
            &["normalisation.state", "minmax", "range"],
        ),
        (
            "another family's table",
            |t| t.to_owned() + "\n[flow]\nsteps = 1\ntime = \"per_row\"\nmax_prefix_rows = 0\n",
            &["[flow]"],
        ),
        ("another family's cost", |t| t.replace("forward_ms", "prefill_ms"), &["budget.prefill_ms", "forward_ms"]),
        ("another family's tolerance", |t| t.replace("output = ", "logits = "), &["logits", "output"]),
    ];
    for (what, edit, words) in edits {
        let copy = Copy::of(&path("lerobot_act"));
        copy.edit(edit);
        let error = Bundle::open(BundleSource::Directory(copy.path())).map(drop).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{what}: {word:?} is not in {error}");
        }
    }
}

/// Gives the first line of a key another value.
fn set(text: &str, key: &str, value: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
    text.replacen(line, &format!("{key} = {value}"), 1)
}
