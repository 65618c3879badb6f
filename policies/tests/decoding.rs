//! Decoding in blocks: the same tokens as one by one, in fewer passes; what cannot be decoded so is refused.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;
use std::path::Path;

use common::drive::{Drive, EPISODE};
use common::{Copy, engines};
use endplate_policies::{
    Bundle, BundleSource, Committed, Continuation, Decoding, EngineChoice, Epoch, Policy, PolicyError, StopReason,
    load_policy,
};

/// Observations a family is compared on.
const OBSERVATIONS: u64 = 260;

fn open(name: &str) -> Bundle {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name);
    Bundle::open(BundleSource::Directory(path)).unwrap()
}

fn load(bundle: &Bundle, decoding: &str, engine: EngineChoice) -> Box<dyn Policy> {
    let mut bundle = bundle.clone();
    bundle.set_decoding(decoding.parse().unwrap()).unwrap();
    load_policy(&bundle, engine).unwrap().policy
}

fn kind(result: &Result<StopReason, PolicyError>) -> &'static str {
    result.as_ref().map_or_else(PolicyError::kind, |stop| stop.name())
}

#[test]
fn blocks_give_the_tokens_of_one_by_one_in_fewer_passes() {
    for name in ["pick_cube_bins", "pick_cube_fast"] {
        let bundle = open(name);
        let drive = Drive::of(&bundle);
        for (engine, choice) in engines() {
            let mut plain = load(&bundle, "plain", choice.clone());
            let mut blocks = load(&bundle, "previous+trigram+jacobi", choice);
            let (mut one_by_one, mut in_blocks) = (0.0, 0.0);
            for number in 0..OBSERVATIONS {
                let (expected, plain_chunk) = drive.infer(&mut *plain, number);
                let (got, chunk) = drive.infer(&mut *blocks, number);
                assert_eq!(blocks.tokens(), plain.tokens(), "{name} on {engine}, observation {number}");
                assert_eq!(kind(&got), kind(&expected));
                if got.is_ok() {
                    assert_eq!(chunk.rows(), plain_chunk.rows());
                    one_by_one += plain_chunk.stages().passes;
                    in_blocks += chunk.stages().passes;
                }
            }
            println!("{name} on {engine}: {one_by_one} passes one by one, {in_blocks} in blocks");
            assert!(in_blocks < one_by_one, "{name} on {engine}");
        }
    }
}

#[test]
fn lossy_bins_stay_within_their_bounds() {
    let bundle = open("pick_cube_bins");
    let drive = Drive::of(&bundle);
    let mut early = load(&bundle, "previous+jacobi+early_exit:2", EngineChoice::Tract);
    let mut near = load(&bundle, "previous+jacobi+bin_distance:2", EngineChoice::Tract);
    let mut exits = 0;
    for number in 0..EPISODE {
        let (stop, chunk) = drive.infer(&mut *early, number);
        assert!(chunk.stages().passes <= 2.0);
        assert_eq!(chunk.stages().tokens, 48);
        exits += u32::from(stop.unwrap() == StopReason::EarlyExit);
        let (stop, chunk) = drive.infer(&mut *near, number);
        assert_eq!((stop.unwrap(), chunk.stages().tokens), (StopReason::Complete, 48));
    }
    assert!(exits > 0);
}

#[test]
fn a_new_epoch_starts_from_nothing() {
    let bundle = open("pick_cube_bins");
    let drive = Drive::of(&bundle);
    let mut fresh = load(&bundle, "previous+trigram+jacobi", EngineChoice::Tract);
    let mut used = load(&bundle, "previous+trigram+jacobi", EngineChoice::Tract);
    for number in 0..5 {
        drive.infer(&mut *used, number).0.unwrap();
    }
    used.reset(Epoch(1));
    let (_, expected) = drive.infer(&mut *fresh, EPISODE);
    let (_, got) = drive.infer(&mut *used, EPISODE);
    assert_eq!(got.stages().passes, expected.stages().passes);
}

#[test]
fn what_a_bundle_cannot_be_decoded_with_is_refused_with_the_reason() {
    for (name, decoding, reason) in [
        ("pick_cube_fast", "previous+bin_distance:3", "not ordered"),
        ("pick_cube_fast", "jacobi+early_exit:4", "need not make a chunk"),
        ("pick_cube_flow", "jacobi", "no tokens"),
    ] {
        let error = open(name).set_decoding(decoding.parse::<Decoding>().unwrap()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/pick_cube_bins");
    for (from, to, reason) in [
        ("block = 8\n", "", "decoding.block_ms"),
        ("block = 8\n", "block = 1\n", "between 2 and"),
        ("block = 8\n", "block = 4\n", "decode_k4.onnx"),
        ("block = 8\n", "block = 8\ntechnique = \"previous+early_exit:3\"\n", "without `jacobi`"),
    ] {
        let copy = Copy::of(&path);
        copy.edit(|text| text.replace(from, to));
        let opened = Bundle::open(BundleSource::Directory(copy.path()));
        let error = match opened {
            Err(error) => error.to_string(),
            Ok(mut bundle) => {
                bundle.set_decoding("jacobi".parse().unwrap()).unwrap();
                load_policy(&bundle, EngineChoice::Tract).err().unwrap().to_string()
            }
        };
        assert!(error.contains(reason), "{to}: {error}");
    }
}

#[test]
fn a_block_is_charged_to_the_budget() {
    let bundle = open("pick_cube_bins");
    let mut policy = load(&bundle, "jacobi", EngineChoice::Tract);
    let worst = policy.modelled_cost();
    let drive = Drive::of(&bundle);
    let (_, chunk) = drive.infer(&mut *policy, 0);
    let costs = bundle.spec().costs;
    let block = bundle.spec().family.tokens().unwrap().block.unwrap();
    assert_eq!(worst, costs.vision + costs.prefill + costs.step + block.cost * 47);
    let passes = chunk.stages().passes as u32;
    assert_eq!(policy.modelled_cost(), costs.vision + costs.prefill + costs.step + block.cost * passes);
    assert!(block.cost > Duration::ZERO);
}

#[test]
fn bins_go_on_from_the_rows_they_are_given() {
    let bundle = open("pick_cube_bins");
    let drive = Drive::of(&bundle);
    let dims = bundle.spec().actions.dims().len();
    for (_, engine) in engines() {
        let mut plain = load(&bundle, "plain", engine.clone());
        let (_, free) = drive.infer(&mut *plain, 0);
        let raised: Vec<f64> = free.rows()[..5 * dims].iter().map(|value| value + 0.01).collect();
        let given = |rows: &'static str, raised: &[f64]| {
            let mut policy = load(&bundle, rows, engine.clone());
            let committed = Committed {
                rows: raised,
                delay_rows: 3,
                weights: &[1.0; 5],
                continuation: Continuation::Prefix,
                epoch: Epoch(0),
            };
            let (result, chunk) = drive.continued(&mut *policy, 0, &committed);
            result.unwrap();
            (chunk, policy.tokens().to_vec())
        };
        let (chunk, _) = given("plain", &free.rows()[..5 * dims]);
        assert_eq!(chunk.rows(), free.rows(), "given what it would have said itself, it says the rest");
        let (chunk, tokens) = given("plain", &raised);
        assert_eq!(chunk.rows()[..3 * dims], raised[..3 * dims], "what is given comes out as it is");
        assert_ne!(chunk.rows()[3 * dims..], free.rows()[3 * dims..], "what follows is decoded behind it");
        let (in_blocks, same) = given("jacobi", &raised);
        assert_eq!((in_blocks.rows(), &same), (chunk.rows(), &tokens));
        assert!(in_blocks.stages().passes < chunk.stages().passes, "given rows are verified a block at a time");
        let mut unknown = raised.clone();
        unknown[dims] = f64::NAN;
        let (chunk, _) = given("plain", &unknown);
        assert_eq!(chunk.rows(), free.rows(), "what is not finite is not believed");
    }
}
