//! Fewer visual tokens in the prefix: the same rows and tokens as numpy chooses, what is refused, and what the planner does.
//!
//! The graphs are fixtures (`tests/pruning`, `policies/export/tests/test_prune.py`): the shipped bundles have none.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/counting.rs"]
mod counting;

use core::time::Duration;
use std::path::{Path, PathBuf};

use common::{Copy, engines, golden};
use counting::allocations;
use endplate_policies::planner::Plan;
use endplate_policies::pruning::Contribution;
use endplate_policies::{
    ActionChunk, Bundle, BundleSource, EngineChoice, Epoch, OpenLoopInputs, Policy, PruningThresholds, StopReason,
    THRESHOLDS_FILE, Thresholds, golden_inputs, load_policy,
};
use serde_json::Value;

const ALL: u32 = 78;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pruning").join(name)
}

/// A shipped bundle with the graphs of its fixture, without its thresholds, which are of other graphs.
fn in_parts(name: &str) -> Copy {
    let copy = Copy::of(&folder(name));
    if copy.path().join(THRESHOLDS_FILE).exists() {
        copy.remove(THRESHOLDS_FILE);
        copy.edit(|text| {
            let is_old = |line: &&str| line.starts_with(&format!("\"{THRESHOLDS_FILE}\""));
            text.lines().filter(|line| !is_old(line)).map(|line| format!("{line}\n")).collect()
        });
    }
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        let file = entry.file_name().into_string().unwrap();
        if file.ends_with(".onnx") {
            copy.add(&file, &std::fs::read(entry.path()).unwrap());
        }
    }
    let declared = std::fs::read_to_string(fixture(name).join("pruning.toml")).unwrap();
    copy.edit(|text| format!("{text}{declared}"));
    copy
}

fn open(path: PathBuf) -> Bundle {
    Bundle::open(BundleSource::Directory(path)).unwrap()
}

fn load(bundle: &Bundle, pruning: &str, engine: EngineChoice) -> Box<dyn Policy> {
    let mut bundle = bundle.clone();
    bundle.set_pruning(pruning.parse().unwrap()).unwrap();
    load_policy(&bundle, engine).unwrap().policy
}

fn infer(policy: &mut dyn Policy, inputs: &OpenLoopInputs, epoch: u64, budget: Option<Duration>) -> ActionChunk {
    let (stop, chunk) = golden::infer(policy, inputs, epoch, budget);
    assert_eq!(stop.unwrap(), StopReason::Complete);
    chunk
}

fn visual(policy: &mut dyn Policy, inputs: &OpenLoopInputs, epoch: u64) -> u32 {
    infer(policy, inputs, epoch, None).stages().visual_tokens
}

#[test]
fn the_first_answer_is_the_plain_one_and_later_ones_are_what_numpy_computes() {
    let copy = in_parts("pick_cube_bins");
    let bundle = open(copy.path());
    let inputs = &golden_inputs(&bundle).unwrap()[0];
    let text = std::fs::read_to_string(fixture("pick_cube_bins").join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (engine, choice) in engines() {
        let mut plain = load(&bundle, "off", choice.clone());
        let whole = infer(&mut *plain, inputs, 1, None);
        assert_eq!(whole.stages().visual_tokens, ALL);
        for kept in ["48", "24"] {
            let mut policy = load(&bundle, &format!("ics:{kept}"), choice.clone());
            let first = infer(&mut *policy, inputs, 1, None);
            assert_eq!((policy.tokens(), first.rows()), (plain.tokens(), whole.rows()), "{engine}");
            assert_eq!(first.stages().visual_tokens, ALL);
            for _ in 0..2 {
                let chunk = infer(&mut *policy, inputs, 1, None);
                assert_eq!(chunk.stages().visual_tokens.to_string(), kept);
                let tokens: Vec<u64> =
                    expected[kept]["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
                let got: Vec<u64> = policy.tokens().iter().map(|id| u64::from(*id)).collect();
                assert_eq!(got, tokens, "{kept} tokens on {engine}");
            }
        }
    }
}

#[test]
fn scoring_does_not_touch_the_heap() {
    let mut contribution = Contribution::new(78, 128);
    let x: Vec<f32> = (0..78 * 128).map(|at| ((at * at) % 97) as f32 / 97.0 - 0.5).collect();
    let before = allocations();
    for _ in 0..3 {
        assert!(contribution.score(&x).unwrap().iter().all(|score| *score > 0.0));
    }
    assert_eq!(allocations(), before);
}

#[test]
fn every_epoch_and_instruction_begins_with_everything() {
    for (name, pruning, fewer) in [("pick_cube_bins", "ics:24", 24), ("pick_cube_flow", "ics:36", 36)] {
        let copy = in_parts(name);
        let bundle = open(copy.path());
        let mut inputs = golden_inputs(&bundle).unwrap().swap_remove(0);
        let mut policy = load(&bundle, pruning, EngineChoice::Tract);
        let seen =
            |policy: &mut dyn Policy, inputs: &OpenLoopInputs, epoch| [(); 3].map(|()| visual(policy, inputs, epoch));
        assert_eq!(seen(&mut *policy, &inputs, 1), [ALL, fewer, fewer], "{name}");
        assert_eq!(seen(&mut *policy, &inputs, 2), [ALL, fewer, fewer], "another epoch");
        inputs.instruction = "lift the green block".to_owned();
        assert_eq!(seen(&mut *policy, &inputs, 2), [ALL, fewer, fewer], "another instruction");
        policy.reset(Epoch(2));
        assert_eq!(seen(&mut *policy, &inputs, 2), [ALL, fewer, fewer], "a reset");
    }
}

#[test]
fn a_flow_policy_denoises_over_the_rows_that_are_left() {
    let copy = in_parts("pick_cube_flow");
    let bundle = open(copy.path());
    let inputs = &golden_inputs(&bundle).unwrap()[0];
    for (engine, choice) in engines() {
        let mut plain = load(&bundle, "off", choice.clone());
        let whole = infer(&mut *plain, inputs, 1, None);
        let mut policy = load(&bundle, "ics:36+edges", choice);
        assert_eq!(infer(&mut *policy, inputs, 1, None).rows(), whole.rows(), "{engine}");
        let fewer = infer(&mut *policy, inputs, 1, None);
        let apart = fewer.rows().iter().zip(whole.rows()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // Another answer, but of the same scene.
        assert!(apart > 1e-6 && apart < 0.5, "{engine}: {apart} rad");
    }
}

#[test]
fn keys_and_values_of_what_is_still_are_taken_over_three_times_and_then_computed() {
    for (name, pruning, fewer) in [("pick_cube_bins", "cache:24", 24), ("pick_cube_flow", "cache:36", 36)] {
        let copy = in_parts(name);
        let bundle = open(copy.path());
        let golden = golden_inputs(&bundle).unwrap();
        let mut policy = load(&bundle, pruning, EngineChoice::Tract);
        let first = infer(&mut *policy, &golden[0], 1, None);
        let mut counts = vec![first.stages().visual_tokens];
        for _ in 0..8 {
            let chunk = infer(&mut *policy, &golden[0], 1, None);
            counts.push(chunk.stages().visual_tokens);
            // Nothing changed, so what was remembered is what would be computed.
            let apart = chunk.rows().iter().zip(first.rows()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-3, "{name}: {apart} rad");
        }
        assert_eq!(counts, [ALL, fewer, fewer, fewer, ALL, fewer, fewer, fewer, ALL], "{name}");
        // Another image, epoch or instruction: everything is computed.
        let mut black = OpenLoopInputs { ..golden_inputs(&bundle).unwrap().swap_remove(0) };
        for frame in &mut black.frames {
            frame.data.fill(0);
        }
        visual(&mut *policy, &golden[0], 1);
        assert_eq!([(); 2].map(|()| visual(&mut *policy, &black, 1)), [ALL, fewer], "{name}: another image");
        assert_eq!(visual(&mut *policy, &black, 2), ALL, "another epoch");
        black.instruction = "lift the green block".to_owned();
        assert_eq!([(); 2].map(|()| visual(&mut *policy, &black, 2)), [ALL, fewer], "another instruction");
        policy.reset(Epoch(2));
        assert_eq!(visual(&mut *policy, &black, 2), ALL, "a reset");
    }
}

#[test]
fn what_changed_is_computed_in_the_smallest_graph_that_holds_it() {
    let copy = in_parts("pick_cube_bins");
    let bundle = open(copy.path());
    let mut inputs = golden_inputs(&bundle).unwrap().swap_remove(0);
    let mut policy = load(&bundle, "cache:24", EngineChoice::Tract);
    assert_eq!(visual(&mut *policy, &inputs, 1), ALL);
    // Half of one camera's 36 patches change; with six tokens of no patch, 24 are enough. Then the other half and a row more.
    let frame = &mut inputs.frames[0];
    let row = frame.width as usize * 3;
    frame.data[..48 * row].fill(0);
    assert_eq!(visual(&mut *policy, &inputs, 1), 24);
    let frame = &mut inputs.frames[0];
    frame.data[48 * row..].fill(255);
    inputs.frames[1].data[..16 * row].fill(0);
    assert_eq!(visual(&mut *policy, &inputs, 1), 48);
}

#[test]
fn the_planner_keeps_as_many_as_fit_and_charges_what_was_kept() {
    let copy = in_parts("pick_cube_bins");
    let bundle = open(copy.path());
    let inputs = &golden_inputs(&bundle).unwrap()[0];
    let split = bundle.spec().split.clone().unwrap();
    let costs = bundle.spec().costs;
    let tokens = costs.step * 48;
    let cost = |tokens: usize| split.cost(tokens).unwrap();
    let mut policy = load(&bundle, "ics:24+planned", EngineChoice::Tract);
    let fits = |kept: usize| costs.vision + cost(kept) + tokens;
    infer(&mut *policy, inputs, 1, Some(fits(78)));
    for (budget, kept) in [(fits(78), 78), (fits(78) - Duration::from_micros(1), 48), (fits(24), 24)] {
        let chunk = infer(&mut *policy, inputs, 1, Some(budget));
        assert_eq!(chunk.stages().visual_tokens, kept);
        assert_eq!(chunk.stages().plan.unwrap().visual, Some(kept));
        assert_eq!(policy.modelled_cost(), fits(kept as usize));
    }
    // Without a deadline, as the bundle says; what is told goes before.
    assert_eq!(visual(&mut *policy, inputs, 1), 24);
    policy.set_plan(Plan { visual: Some(48), ..Plan::UNLIMITED });
    assert_eq!(visual(&mut *policy, inputs, 1), 48);
    // A number that is not planned is kept whatever would fit.
    let mut fixed = load(&bundle, "ics:24", EngineChoice::Tract);
    let budget = Some(fits(78) * 2);
    assert_eq!([(); 2].map(|()| infer(&mut *fixed, inputs, 1, budget).stages().visual_tokens), [78, 24]);
}

#[test]
fn what_cannot_be_pruned_is_refused_with_the_reason() {
    let refused =
        |bundle: &mut Bundle, pruning: &str| bundle.set_pruning(pruning.parse().unwrap()).unwrap_err().to_string();
    let mut plain = open(folder("pick_cube_bins"));
    assert!(refused(&mut plain, "ics:48").contains("endplate-prune"));
    let mut act = open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/lerobot_act"));
    assert!(refused(&mut act, "ics:48").contains("no visual tokens"));
    let copy = in_parts("pick_cube_bins");
    let mut bundle = open(copy.path());
    assert!(refused(&mut bundle, "ics:40").contains("[48, 24]"));
    assert!(refused(&mut bundle, "cache:78").contains("[48, 24]"));
    assert!(refused(&mut bundle, "ics").contains("endplate calibrate thresholds"));

    for (from, to, reason) in [
        ("layer = 1", "layer = 4", "pruning.layer"),
        ("grid = 6", "grid = 7", "pruning.grid"),
        ("keep = [78, 48, 24]", "keep = [48, 24]", "pruning.keep"),
        ("keep = [78, 48, 24]", "keep = [78, 24, 48]", "fewer and fewer"),
        ("keep = [78, 48, 24]", "keep = [78, 48, 6]", "belong to no patch"),
        ("prefill_ms = [6.0, ", "prefill_ms = [", "pruning.prefill_ms"),
        ("prefill = \"", "prefill = \"0", "another prefill.onnx"),
        ("layer = 1", "layer = 1\ntechnique = \"ics:40\"", "pruning.technique = ics:40"),
        ("layer = 1", "layer = 1\ntechnique = \"ics:48+cache:24\"", "choose one"),
    ] {
        let copy = in_parts("pick_cube_bins");
        let declared = |text: &str| {
            let at = text.find("[pruning]").unwrap();
            format!("{}{}", &text[..at], text[at..].replacen(from, to, 1))
        };
        copy.edit(declared);
        let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
        assert!(error.contains(reason), "{to}: {error}");
    }
}

#[test]
fn fitted_numbers_stand_where_none_is_written_and_must_have_graphs() {
    let copy = in_parts("pick_cube_bins");
    let mut fitted = Thresholds::for_bundle(open(copy.path()).spec(), "0".repeat(64), 100, 0.02);
    fitted.pruning = Some(PruningThresholds { ics: Some(48), ics_edges: Some(24), cache: None });
    copy.set_file(THRESHOLDS_FILE, fitted.to_toml_string().unwrap().as_bytes());
    let mut bundle = open(copy.path());
    for (written, resolved) in [("ics", "ics:48"), ("ics+edges", "ics:24+edges"), ("ics:24", "ics:24")] {
        bundle.set_pruning(written.parse().unwrap()).unwrap();
        assert_eq!(bundle.spec().pruning.to_string(), resolved);
    }
    assert!(bundle.set_pruning("cache".parse().unwrap()).unwrap_err().to_string().contains("calibrate thresholds"));
    fitted.pruning = Some(PruningThresholds { cache: Some(30), ..PruningThresholds::default() });
    copy.replace(THRESHOLDS_FILE, fitted.to_toml_string().unwrap().as_bytes());
    let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
    assert!(error.contains("pruning.cache = 30"), "{error}");
    // Of other graphs: as of a bundle without those in parts.
    let whole = Thresholds::for_bundle(open(folder("pick_cube_bins")).spec(), "0".repeat(64), 100, 0.02);
    copy.replace(THRESHOLDS_FILE, whole.to_toml_string().unwrap().as_bytes());
    let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
    assert!(error.contains("fitted on other graphs"), "{error}");
}
