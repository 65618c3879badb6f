//! The decoder in two halves: guesses of the shallow half change nothing, tokens that leave after it are bounded and guarded.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;
use std::path::{Path, PathBuf};

use common::drive::{Drive, EPISODE};
use common::{Copy, engines};
use endplate_hal::Instant;
use endplate_policies::{
    Budget, Bundle, BundleSource, Committed, Continuation, Decoding, EngineChoice, Epoch, LayerExitThreshold, Policy,
    PolicyError, StopReason, THRESHOLDS_FILE, Thresholds, halves_digest, load_policy,
};

const BOTH: [&str; 2] = ["pick_cube_bins", "pick_cube_fast"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name)
}

fn open(name: &str) -> Bundle {
    Bundle::open(BundleSource::Directory(folder(name))).unwrap()
}

fn load(bundle: &Bundle, decoding: &str, engine: EngineChoice) -> Box<dyn Policy> {
    let mut bundle = bundle.clone();
    bundle.set_decoding(decoding.parse().unwrap()).unwrap();
    load_policy(&bundle, engine).unwrap().policy
}

fn same(a: &Result<StopReason, PolicyError>, b: &Result<StopReason, PolicyError>) -> bool {
    a.as_ref().map_err(PolicyError::kind) == b.as_ref().map_err(PolicyError::kind)
}

#[test]
fn guesses_of_the_shallow_half_give_the_tokens_of_one_by_one() {
    for name in BOTH {
        let bundle = open(name);
        let drive = Drive::of(&bundle);
        for (engine, choice) in engines() {
            let most = if engine == "ort" { 200 } else { 40 };
            let mut plain = load(&bundle, "plain", choice.clone());
            let expected: Vec<_> = (0..most)
                .map(|number| {
                    let (stop, chunk) = drive.infer(&mut *plain, number);
                    (stop, chunk, plain.tokens().to_vec())
                })
                .collect();
            let ways = [
                ("shallow", most),
                ("shallow:2", most / 4),
                ("previous+trigram+jacobi+shallow", most / 2),
                ("shallow+tree", most / 4),
                ("shallow+tree:0.05", most / 2),
            ];
            for (way, observations) in ways {
                let mut halves = load(&bundle, way, choice.clone());
                let (mut tokens, mut shallow, mut deep) = (0, 0, 0);
                for (number, (stop, plain_chunk, plain_tokens)) in (0..observations).zip(&expected) {
                    let (got, chunk) = drive.infer(&mut *halves, number);
                    assert_eq!(halves.tokens(), plain_tokens, "{name} on {engine}, {way}, observation {number}");
                    assert!(same(&got, stop), "{got:?} {stop:?}");
                    if got.is_ok() {
                        let stages = chunk.stages();
                        assert_eq!(chunk.rows(), plain_chunk.rows());
                        assert_eq!((stages.exited, stages.blocks), (0, stages.deep));
                        assert_eq!(stages.passes, f64::from(stages.shallow + stages.deep) / 2.0, "two layers of four");
                        tokens += stages.tokens - 1;
                        shallow += stages.shallow;
                        deep += stages.deep;
                    }
                }
                println!("{name} on {engine}, {way}: {tokens} tokens, {shallow} shallow, {deep} deep passes");
                assert!(deep <= tokens && shallow >= tokens);
                // A head trained on smoothed labels is too unsure of itself for a tree of more than its root.
                assert!(deep < tokens || (name, way) == ("pick_cube_bins", "shallow+tree"), "{name}, {way}");
            }
        }
    }
}

#[test]
fn a_gripper_never_leaves_and_a_full_stack_is_caught_up_with() {
    let bundle = open("pick_cube_bins");
    let drive = Drive::of(&bundle);
    for (engine, choice) in engines() {
        // Fires for everything that may leave: five of every six tokens, behind the first, which comes with the prefix.
        let mut policy = load(&bundle, "layer_exit:0.001", choice);
        for number in 0..EPISODE {
            let (stop, chunk) = drive.infer(&mut *policy, number);
            assert_eq!(stop.unwrap(), StopReason::Complete);
            let stages = chunk.stages();
            assert_eq!((stages.tokens, stages.shallow), (48, 47), "{engine}");
            assert!(stages.exited <= 47 - 8 && stages.deep >= 8, "{engine}: {stages:?}");
            assert!(stages.exited > 30, "{engine}: {stages:?}");
        }
    }
    // FAST has no token of its own for a gripper: the cap alone forces the deep half, seven in a row and no more.
    let bundle = open("pick_cube_fast");
    let drive = Drive::of(&bundle);
    for (engine, choice) in engines() {
        let mut policy = load(&bundle, "layer_exit:0.001", choice);
        let (mut left, mut behind) = (0, 0);
        for number in 0..EPISODE {
            let (stop, chunk) = drive.infer(&mut *policy, number);
            assert!(matches!(stop, Ok(_) | Err(PolicyError::OutOfRange { .. })), "always a chunk: {stop:?}");
            if stop.is_ok() {
                let stages = chunk.stages();
                left += stages.exited;
                behind += stages.tokens - 1;
                assert!(stages.deep >= (stages.tokens - 1) / 8, "{engine}: {stages:?}");
            }
        }
        println!("FAST on {engine}: {left} of {behind} tokens leave");
        assert!(left * 2 > behind);
    }
}

#[test]
fn a_gate_that_never_fires_gives_the_plain_chunk() {
    for name in BOTH {
        let bundle = open(name);
        let drive = Drive::of(&bundle);
        for (engine, choice) in engines() {
            let mut plain = load(&bundle, "plain", choice.clone());
            let mut gated = load(&bundle, "layer_exit:0.999", choice);
            for number in 0..EPISODE {
                let (expected, _) = drive.infer(&mut *plain, number);
                let (got, chunk) = drive.infer(&mut *gated, number);
                if chunk.stages().exited == 0 {
                    assert_eq!(gated.tokens(), plain.tokens(), "{name} on {engine}");
                    assert!(same(&got, &expected));
                } else {
                    assert_eq!(name, "pick_cube_fast", "bins are never so sure");
                }
            }
        }
    }
}

#[test]
fn an_adapted_gate_learns_within_its_epoch_and_forgets_with_it() {
    for name in BOTH {
        let bundle = open(name);
        let drive = Drive::of(&bundle);
        let mut fresh = load(&bundle, "layer_exit:adaptive", EngineChoice::Tract);
        let mut used = load(&bundle, "layer_exit:adaptive", EngineChoice::Tract);
        let (mut left, mut tokens) = (0, 0);
        for number in 0..EPISODE {
            let (_, chunk) = drive.infer(&mut *used, number);
            let stages = chunk.stages();
            // However often it fires, deep passes go on and tell it how often it is wrong.
            assert!(stages.deep >= (stages.tokens - 1) / 8, "{stages:?}");
            left += stages.exited;
            tokens += stages.tokens;
        }
        println!("{name}: {left} of {tokens} tokens leave");
        assert!(left > 0 && left < tokens);
        let (_, expected) = drive.infer(&mut *fresh, EPISODE);
        let (_, got) = drive.infer(&mut *used, EPISODE);
        assert_eq!((used.tokens(), got.stages().exited), (fresh.tokens(), expected.stages().exited), "{name}");
    }
}

#[test]
fn rounds_give_way_to_single_tokens_before_the_budget_is_gone() {
    let bundle = open("pick_cube_bins");
    let drive = Drive::of(&bundle);
    let mut plain = load(&bundle, "plain", EngineChoice::Tract);
    let (_, expected) = drive.infer(&mut *plain, 0);
    let costs = bundle.spec().costs;
    let split = bundle.spec().family.tokens().unwrap().split.unwrap();
    let whole = costs.vision + costs.prefill + costs.step * 48;
    let within = |policy: &mut dyn Policy, span: Duration| {
        let budget = Budget { start: Instant::ZERO, deadline: Instant::ZERO.saturating_add(span), clock: None };
        drive.within(policy, 0, &Committed::none(Epoch(0)), budget)
    };
    for way in ["shallow", "layer_exit:0.9"] {
        let mut halves = load(&bundle, way, EngineChoice::Tract);
        let (stop, chunk) = within(&mut *halves, whole + split.round(0));
        assert_eq!(stop.unwrap(), StopReason::Complete);
        assert_eq!((halves.tokens(), chunk.rows()), (plain.tokens(), expected.rows()), "{way}");
        let stages = chunk.stages();
        assert!(stages.blocks > 0 && stages.passes > stages.passes_in_blocks, "{way}: {stages:?}");
        assert!(halves.modelled_cost() <= whole + split.round(0), "{way}");
        let (stop, chunk) = within(&mut *halves, whole);
        assert_eq!(stop.unwrap(), StopReason::Complete);
        assert_eq!((chunk.stages().blocks, chunk.rows()), (0, expected.rows()), "{way}");
        assert!(chunk.stages().plan.is_some_and(|plan| plan.fits && !plan.drafts));
        assert!(halves.check_budget(Duration::from_nanos(1)).is_err());
    }
}

#[test]
fn halves_are_charged_to_the_budget() {
    let bundle = open("pick_cube_bins");
    let drive = Drive::of(&bundle);
    let costs = bundle.spec().costs;
    let before = costs.vision + costs.prefill + costs.step;
    let split = bundle.spec().family.tokens().unwrap().split.unwrap();
    let mut policy = load(&bundle, "shallow:2", EngineChoice::Tract);
    assert_eq!(policy.modelled_cost(), before + (split.shallow * 2 + split.deep) * 47);
    let (_, chunk) = drive.infer(&mut *policy, 0);
    let stages = *chunk.stages();
    let charged = policy.modelled_cost() - before - split.shallow * stages.shallow;
    assert!(charged > split.deep_one * stages.deep && charged <= split.deep * stages.deep, "{charged:?}, {stages:?}");
    let mut policy = load(&bundle, "layer_exit:0.999", EngineChoice::Tract);
    let worst = split.shallow + split.deep_one.max(split.deep / 2);
    assert_eq!(policy.modelled_cost(), before + worst * 47);
    drive.infer(&mut *policy, 0).0.unwrap();
    assert_eq!(policy.modelled_cost(), before + (split.shallow + split.deep_one) * 47, "every token alone");
}

#[test]
fn halves_go_on_from_the_rows_they_are_given() {
    let bundle = open("pick_cube_bins");
    let drive = Drive::of(&bundle);
    let dims = bundle.spec().actions.dims().len();
    for (engine, choice) in engines() {
        let mut plain = load(&bundle, "plain", choice.clone());
        let (_, free) = drive.infer(&mut *plain, 0);
        let raised: Vec<f64> = free.rows()[..5 * dims].iter().map(|value| value + 0.01).collect();
        let committed = Committed {
            rows: &raised,
            delay_rows: 3,
            weights: &[1.0; 5],
            continuation: Continuation::Prefix,
            epoch: Epoch(0),
        };
        let (_, expected) = drive.continued(&mut *plain, 0, &committed);
        for way in ["shallow", "layer_exit:0.999"] {
            let mut halves = load(&bundle, way, choice.clone());
            let (_, chunk) = drive.continued(&mut *halves, 0, &committed);
            assert_eq!((chunk.rows(), halves.tokens()), (expected.rows(), plain.tokens()), "{way} on {engine}");
            assert!(chunk.stages().deep < 47 - 10, "given rows need no pass of their own: {:?}", chunk.stages());
        }
    }
}

#[test]
fn what_cannot_be_decoded_in_halves_is_refused_with_the_reason() {
    for (name, way, reason) in [
        ("pick_cube_flow", "shallow", "no tokens"),
        ("pick_cube_fast_int8", "shallow", "endplate-split"),
        ("pick_cube_fast_int8", "layer_exit:0.9", "endplate-split"),
        ("pick_cube_fast", "shallow+bin_distance:1", "not ordered"),
        ("pick_cube_bins", "shallow:9", "at most shallow:8"),
        ("pick_cube_fast", "layer_exit", "layer_exit has no number"),
    ] {
        let error = open(name).set_decoding(way.parse::<Decoding>().unwrap()).unwrap_err().to_string();
        assert!(error.contains(reason), "{name}, {way}: {error}");
    }
    for (from, to, reason) in [
        ("split = 8\n", "", "decoding.split_ms"),
        ("split = 8\n", "split = 1\n", "between 2 and"),
        ("split = 8\n", "split = 4\n", "decode_b_k4.onnx"),
        ("split_ms = [", "split_ms = [0.1, ", "three numbers"),
        ("split_ms = [", "split_ms = [-0.1]\n#", "three numbers"),
        ("split_ms = [0.17", "split_ms = [-0.17", "milliseconds between"),
        ("exit_layer = 2", "exit_layer = 4", "first 3"),
        ("split = 8\n", "split = 8\ntechnique = \"layer_exit\"\n", "layer_exit has no number"),
        ("split = 8\n", "split = 8\ntechnique = \"layer_exit:2\"\n", "0.001 to 0.999"),
        ("split = 8\n", "split = 8\ntechnique = \"layer_exit:0.9+jacobi\"\n", "no guesses to verify"),
    ] {
        let copy = Copy::of(&folder("pick_cube_fast"));
        copy.edit(|text| text.replace(from, to));
        let error = match Bundle::open(BundleSource::Directory(copy.path())) {
            Err(error) => error.to_string(),
            Ok(mut bundle) => {
                bundle.set_decoding("shallow".parse().unwrap()).unwrap();
                load_policy(&bundle, EngineChoice::Tract).err().unwrap().to_string()
            }
        };
        assert!(error.contains(reason), "{to}: {error}");
    }
    // A half that is another graph is found when it is loaded.
    let copy = Copy::of(&folder("pick_cube_fast"));
    copy.replace("decode_b_k8.onnx", &copy.read("decode_b_k1.onnx"));
    let mut bundle = Bundle::open(BundleSource::Directory(copy.path())).unwrap();
    bundle.set_decoding("shallow".parse().unwrap()).unwrap();
    let error = load_policy(&bundle, EngineChoice::Tract).err().unwrap().to_string();
    assert!(error.contains("decode_b_k8.onnx"), "{error}");
}

#[test]
fn a_fitted_confidence_is_taken_where_none_is_written_and_refused_where_it_cannot_be() {
    let fitted = |name: &str, confidence: f64| {
        let bundle = open(name);
        let mut fitted = Thresholds::for_bundle(bundle.spec(), "0".repeat(64), 100, 0.02);
        let halves_digest = halves_digest(&bundle.spec().files);
        fitted.layer_exit = Some(LayerExitThreshold { confidence, halves_digest });
        fitted.to_toml_string().unwrap()
    };
    let copy = Copy::of(&folder("pick_cube_fast"));
    copy.set_file(THRESHOLDS_FILE, fitted("pick_cube_fast", 0.87).as_bytes());
    let mut bundle = Bundle::open(BundleSource::Directory(copy.path())).unwrap();
    bundle.set_decoding("layer_exit".parse().unwrap()).unwrap();
    assert_eq!(bundle.spec().family.tokens().unwrap().decoding.to_string(), "layer_exit:0.87");
    for (name, confidence, reason) in [
        ("pick_cube_fast", 1.0, "at most at 0.999"),
        ("pick_cube_fast", 0.0, "above 0"),
        ("pick_cube_fast", 0.8765, "thousandths"),
        ("pick_cube_fast_int8", 0.9, "declares no decoding.split"),
        ("pick_cube_flow", 0.9, "not for the family flow"),
    ] {
        let copy = Copy::of(&folder(name));
        copy.set_file(THRESHOLDS_FILE, fitted(name, confidence).as_bytes());
        let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
        assert!(error.starts_with(THRESHOLDS_FILE) && error.contains(reason), "{name}: {error}");
    }
}

#[test]
fn halves_make_no_other_threshold_stale_and_are_named_by_their_own() {
    // What was fitted before the bundle was split goes on holding.
    let bundle = open("pick_cube_bins");
    assert!(bundle.spec().thresholds.as_ref().is_some_and(|fitted| fitted.reuse.is_some()));
    let halves_digest = halves_digest(&bundle.spec().files);
    let copy = Copy::of(&folder("pick_cube_bins"));
    let mut fitted = bundle.spec().thresholds.clone().unwrap();
    fitted.layer_exit = Some(LayerExitThreshold { confidence: 0.1, halves_digest });
    copy.set_file(THRESHOLDS_FILE, fitted.to_toml_string().unwrap().as_bytes());
    Bundle::open(BundleSource::Directory(copy.path())).unwrap();
    let mut other = copy.read("decode_b_k8.onnx");
    other.extend_from_slice(&[0x3a, 0x00]);
    copy.replace("decode_b_k8.onnx", &other);
    let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
    assert!(error.contains("layer_exit.halves_digest") && error.contains("fitted on other graphs"), "{error}");
}

/// χ² of two samples over five groups of as many of the first each.
fn apart(first: &[u32], second: &[u32]) -> f64 {
    let mut sorted = first.to_vec();
    sorted.sort_unstable();
    let ends: Vec<u32> = (1..5).map(|part| sorted[sorted.len() * part / 5]).collect();
    let counts = |of: &[u32]| {
        let mut counts = [0.0; 5];
        for token in of {
            counts[ends.iter().filter(|end| *token >= **end).count()] += 1.0;
        }
        counts
    };
    let pairs = counts(first).into_iter().zip(counts(second)).filter(|(a, b)| a + b > 0.0);
    pairs.map(|(a, b): (f64, f64)| (a - b).powi(2) / (a + b)).sum()
}

#[test]
fn drawn_tokens_replay_and_are_distributed_alike_however_they_are_guessed() {
    const DRAWS: u64 = 200;
    // The 99.9 % quantile of χ² with four degrees of freedom.
    const LIMIT: f64 = 18.47;
    for (name, place) in [("pick_cube_bins", 9), ("pick_cube_fast", 3)] {
        let bundle = open(name);
        let drive = Drive::of(&bundle);
        let engine = engines().pop().unwrap().1;
        let draws = |way: &str| {
            let mut policy = load(&bundle, way, engine.clone());
            let (mut tokens, mut deep) = (Vec::new(), 0);
            for epoch in 0..DRAWS {
                let (_, chunk) = drive.continued(&mut *policy, 0, &Committed::none(Epoch(epoch)));
                tokens.extend(policy.tokens().get(place));
                deep += chunk.stages().deep;
            }
            // The first epoch again.
            let again = |policy: &mut dyn Policy| {
                drive.continued(policy, 0, &Committed::none(Epoch(0))).0.ok();
                policy.tokens().to_vec()
            };
            let replayed = again(&mut *policy);
            assert_eq!(replayed, again(&mut *load(&bundle, way, engine.clone())), "{way}");
            assert_ne!(replayed, again(&mut *policy), "{way}: drawn anew in the same epoch");
            (tokens, deep)
        };
        let (plain, _) = draws("temperature:1");
        let mut greedy = load(&bundle, "plain", engine.clone());
        drive.infer(&mut *greedy, 0).0.unwrap();
        let likeliest = greedy.tokens()[place];
        assert!(plain.iter().any(|token| *token != likeliest), "{name}: drawn, not taken");
        for way in ["previous+trigram+jacobi+temperature:1", "shallow+temperature:1", "shallow+drafts:2+temperature:1"]
        {
            let (tokens, deep) = draws(way);
            let apart = apart(&plain, &tokens);
            println!("{name}, {way}: token {place} apart by {apart:.2} of at most {LIMIT}, {deep} deep passes");
            assert!(apart < LIMIT, "{name}, {way}: {apart}");
        }
        // The likeliest token alone is told apart.
        assert!(apart_from(&plain, likeliest) > LIMIT, "{name}");
    }
}

fn apart_from(drawn: &[u32], token: u32) -> f64 {
    apart(drawn, &vec![token; drawn.len()])
}
