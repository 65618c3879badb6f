//! What an inference does with its budget, on the shipped bundles: blocks that give way, steps left out, tokens cut off.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;
use std::path::{Path, PathBuf};

use common::{Copy, golden};
use endplate_policies::planner::{Plan, StageCosts};
use endplate_policies::{
    ActionChunk, Bundle, BundleSource, EngineChoice, OpenLoopInputs, Policy, PolicyError, StopReason, THRESHOLDS_FILE,
    Thresholds, golden_inputs, load_policy,
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name)
}

fn open(path: &Path) -> Bundle {
    Bundle::open(BundleSource::Directory(path.to_owned())).unwrap()
}

/// A copy of a bundle with thresholds, changed by `change`.
fn with_thresholds(name: &str, change: impl FnOnce(&mut Thresholds)) -> Copy {
    let mut fitted = Thresholds::for_bundle(open(&folder(name)).spec(), "0".repeat(64), 100, 0.02);
    change(&mut fitted);
    let copy = Copy::of(&folder(name));
    copy.set_file(THRESHOLDS_FILE, fitted.to_toml_string().unwrap().as_bytes());
    copy
}

fn load(bundle: &Bundle, decoding: &str) -> Box<dyn Policy> {
    let mut bundle = bundle.clone();
    if bundle.spec().family.has_tokens() {
        bundle.set_decoding(decoding.parse().unwrap()).unwrap();
    }
    load_policy(&bundle, EngineChoice::Tract).unwrap().policy
}

/// One inference of a golden sample that may take `budget` by the cost model.
fn infer(
    policy: &mut dyn Policy,
    inputs: &OpenLoopInputs,
    budget: Option<Duration>,
) -> (Result<StopReason, PolicyError>, ActionChunk) {
    golden::infer(policy, inputs, 1, budget)
}

#[test]
fn blocks_give_way_to_single_tokens_before_the_budget_is_gone() {
    let bundle = open(&folder("pick_cube_bins"));
    let inputs = &golden_inputs(&bundle).unwrap()[0];
    let (mut plain, mut blocks) = (load(&bundle, "plain"), load(&bundle, "previous"));
    let (_, expected) = infer(&mut *plain, inputs, None);
    let costs = bundle.spec().costs;
    let whole = costs.vision + costs.prefill + costs.step * 48;
    let block = bundle.spec().family.tokens().unwrap().block.unwrap().cost;
    // Room for one block that gains nothing, and a little: without a chunk before, nothing is guessed well.
    let (stop, chunk) = infer(&mut *blocks, inputs, Some(whole + block * 3));
    assert_eq!(stop.unwrap(), StopReason::Complete);
    assert_eq!((blocks.tokens(), chunk.rows()), (plain.tokens(), expected.rows()));
    let stages = chunk.stages();
    assert!(stages.blocks > 0 && stages.passes > f64::from(stages.blocks), "{stages:?}");
    assert!(blocks.modelled_cost() <= whole + block * 3);
    // No room for a block: one by one from the start, and it fits exactly.
    let (stop, chunk) = infer(&mut *blocks, inputs, Some(whole));
    assert_eq!(stop.unwrap(), StopReason::Complete);
    assert_eq!((chunk.stages().blocks, chunk.rows()), (0, expected.rows()));
    assert!(chunk.stages().plan.is_some_and(|plan| plan.fits && !plan.drafts));
    // Less than that is refused by whoever activates, with the figures, once it is known what this machine takes.
    assert!(plain.check_budget(Duration::from_secs(60)).is_ok());
    let error = plain.check_budget(Duration::from_nanos(1)).unwrap_err().to_string();
    assert!(error.contains("47 passes"), "{error}");
}

#[test]
fn a_planned_technique_is_dropped_where_blocks_cost_more_than_they_gain() {
    let copy = Copy::of(&folder("pick_cube_bins"));
    copy.set("block_ms", "1.8");
    let bundle = open(&copy.path());
    let inputs = &golden_inputs(&bundle).unwrap()[0];
    let mut policy = load(&bundle, "jacobi+planned");
    let mut drafted = 0;
    // A block is charged six tokens and gives fewer without a chunk before it; it is looked at again after a while.
    for _ in 0..70 {
        let (stop, chunk) = infer(&mut *policy, inputs, Some(Duration::from_secs(1)));
        assert_eq!(stop.unwrap(), StopReason::Complete);
        drafted += u32::from(chunk.stages().blocks > 0);
    }
    assert!((1..=3).contains(&drafted), "{drafted}");
    // As the bundle says it is less than three, and pays.
    let mut policy = load(&open(&folder("pick_cube_bins")), "jacobi+planned");
    let (_, chunk) = infer(&mut *policy, inputs, Some(Duration::from_secs(1)));
    assert!(chunk.stages().plan.is_some_and(|plan| plan.drafts));
}

#[test]
fn denoising_takes_the_steps_that_fit_and_no_fewer_than_were_fitted() {
    let copy = with_thresholds("pick_cube_flow", |fitted| {
        fitted.denoising = Some(endplate_policies::DenoisingThreshold { least_steps: 4 });
    });
    let bundle = open(&copy.path());
    let inputs = &golden_inputs(&bundle).unwrap()[0];
    let mut policy = load(&bundle, "plain");
    let costs = bundle.spec().costs;
    let most = bundle.spec().family.denoising_steps().unwrap() as u32;
    let before = costs.vision + costs.prefill;
    for (room, steps) in [(most + 3, most), (most - 1, most - 1), (4, 4)] {
        let (stop, chunk) = infer(&mut *policy, inputs, Some(before + costs.step * room));
        assert_eq!(stop.unwrap(), StopReason::Complete);
        assert_eq!(chunk.stages().passes, f64::from(steps));
    }
    let (late, _) = infer(&mut *policy, inputs, Some(before + costs.step * 3));
    assert!(matches!(late, Err(PolicyError::DeadlineExceeded { .. })), "{late:?}");
    // Without fitted steps the family's number is never undercut.
    let (late, _) =
        infer(&mut *load(&open(&folder("pick_cube_flow")), "plain"), inputs, Some(before + costs.step * (most - 1)));
    assert!(matches!(late, Err(PolicyError::DeadlineExceeded { .. })), "{late:?}");
}

/// Wide below the fourth frequency, narrow from there on, for 16 rows of six.
fn limits() -> Vec<u32> {
    [vec![103; 4 * 6], vec![3; 12 * 6]].concat()
}

#[test]
fn fast_tokens_cut_off_at_the_deadline_carry_their_bound_or_are_refused() {
    let copy = with_thresholds("pick_cube_fast", |fitted| {
        fitted.anytime = Some(endplate_policies::AnytimeThreshold { bound: 1.9, coefficient_limits: limits() });
    });
    let bundle = open(&copy.path());
    let inputs = &golden_inputs(&bundle).unwrap()[0];
    let mut policy = load(&bundle, "plain");
    let (stop, whole) = infer(&mut *policy, inputs, None);
    assert_eq!((stop.unwrap(), whole.error_bound()), (StopReason::Complete, None));
    let tokens = policy.tokens().to_vec();
    let costs = bundle.spec().costs;
    let budget = |tokens: u32| costs.vision + costs.prefill + costs.step * tokens;
    let (stop, same) = infer(&mut *policy, inputs, Some(budget(tokens.len() as u32)));
    assert_eq!((stop.unwrap(), same.rows()), (StopReason::Complete, whole.rows()));
    let (mut cut_off, mut refused, mut worst) = (0, 0, 0.0_f64);
    for room in (1..tokens.len() as u32).rev() {
        let (stop, chunk) = infer(&mut *policy, inputs, Some(budget(room)));
        assert_eq!(policy.tokens(), &tokens[..room as usize], "the tokens that fitted");
        match stop {
            Ok(stop) => {
                let bound = chunk.error_bound().unwrap();
                assert_eq!(stop, StopReason::Deadline);
                assert!(bound <= 1.9 && bound >= worst, "{bound} after {worst}");
                worst = bound;
                // The bound is in normalised units; half the widest range is no more than 0.6 rad here.
                let apart = chunk.rows().iter().zip(whole.rows()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(apart <= bound * 0.6, "{apart} rad within {bound}");
                cut_off += 1;
            }
            Err(PolicyError::TooVague { tokens, bound, limit }) => {
                assert!(tokens == room && bound > limit && limit == 1.9);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("{cut_off} prefixes of {} tokens are accepted, {refused} refused", tokens.len());
    assert!(cut_off > 0 && refused > 0);
    // Without a declared bound a late answer is no answer.
    let (late, _) =
        infer(&mut *load(&open(&folder("pick_cube_fast")), "plain"), inputs, Some(budget(tokens.len() as u32 - 1)));
    assert!(matches!(late, Err(PolicyError::DeadlineExceeded { .. })), "{late:?}");
}

#[test]
fn a_given_plan_holds_for_one_inference() {
    let bundle = open(&folder("pick_cube_flow"));
    let inputs = &golden_inputs(&bundle).unwrap()[0];
    let mut policy = load(&bundle, "plain");
    policy.set_plan(Plan { steps: 2, costs: StageCosts::ZERO, ..Plan::UNLIMITED });
    assert_eq!(infer(&mut *policy, inputs, None).1.stages().passes, 2.0);
    assert!(infer(&mut *policy, inputs, None).1.stages().passes > 2.0);
}

#[test]
fn thresholds_of_another_graph_or_precision_or_out_of_range_are_refused_when_the_bundle_is_opened() {
    type Change = fn(&mut Thresholds);
    let cases: [(&str, Change, &str); 8] = [
        ("pick_cube_bins", |fitted| fitted.graph_digest = "f".repeat(64), "fitted on other graphs"),
        ("pick_cube_bins", |fitted| fitted.precision = "int8".into(), "the bundle computes in f32"),
        ("pick_cube_bins", |fitted| fitted.format = 9, "reads format 1"),
        ("pick_cube_bins", |fitted| fitted.tolerance_rad = f64::NAN, "tolerance_rad"),
        (
            "pick_cube_bins",
            |fitted| fitted.bin_distance = Some(endplate_policies::BinDistanceThreshold { bins: 26 }),
            "bin_distance.bins = 26",
        ),
        (
            "pick_cube_bins",
            |fitted| fitted.denoising = Some(endplate_policies::DenoisingThreshold { least_steps: 4 }),
            "not for the family bins",
        ),
        (
            "pick_cube_flow",
            |fitted| fitted.denoising = Some(endplate_policies::DenoisingThreshold { least_steps: 0 }),
            "denoising.least_steps = 0",
        ),
        (
            "pick_cube_fast",
            |fitted| {
                fitted.anytime = Some(endplate_policies::AnytimeThreshold { bound: 2.5, coefficient_limits: limits() })
            },
            "anytime.bound = 2.5",
        ),
    ];
    for (name, change, reason) in cases {
        let copy = with_thresholds(name, change);
        let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
        assert!(error.starts_with("thresholds.toml") && error.contains(reason), "{error}");
    }
    // A technique without a number asks for one that was fitted.
    let copy = with_thresholds("pick_cube_bins", |_| {});
    let mut bundle = open(&copy.path());
    let error = bundle.set_decoding("jacobi+early_exit".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("endplate calibrate thresholds"), "{error}");
    let copy = with_thresholds("pick_cube_bins", |fitted| {
        fitted.early_exit = Some(endplate_policies::EarlyExitThreshold { passes: 9 });
    });
    let mut bundle = open(&copy.path());
    bundle.set_decoding("jacobi+early_exit".parse().unwrap()).unwrap();
    assert_eq!(bundle.spec().family.tokens().unwrap().decoding.early_exit, Some(9));
}
