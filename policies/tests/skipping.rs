//! Answers without the model on a shipped bundle: how often at most, when never, and what they say.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Copy, golden::observed};
use endplate_hal::{Instant, MotionTime};
use endplate_policies::{
    ActionChunk, Anchor, Budget, Bundle, BundleSource, Committed, EngineChoice, Epoch, ExtrapolationThresholds,
    Observation, OpenLoopInputs, OutputFault, Policy, PolicyError, ReuseThresholds, Skipping, StopReason,
    THRESHOLDS_FILE, Thresholds, golden_inputs, load_policy,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/pick_cube_bins")
}

fn open(path: PathBuf) -> Bundle {
    Bundle::open(BundleSource::Directory(path)).unwrap()
}

/// A policy that skips wherever nothing but the fixed rules speaks against it.
fn willing(skipping: Skipping) -> (Box<dyn Policy>, Vec<OpenLoopInputs>) {
    let mut fitted = Thresholds::for_bundle(open(folder()).spec(), "0".repeat(64), 100, 0.02);
    fitted.reuse = Some(ReuseThresholds { angle_rad: 3.1, still_share: 0.0 });
    fitted.extrapolation =
        Some(ExtrapolationThresholds { speed_min_rad_s: 0.0, speed_max_rad_s: 50.0, residual_rad: 3.0 });
    let copy = Copy::of(&folder());
    copy.set_file(THRESHOLDS_FILE, fitted.to_toml_string().unwrap().as_bytes());
    let mut bundle = open(copy.path());
    bundle.set_skipping(skipping).unwrap();
    (load_policy(&bundle, EngineChoice::Tract).unwrap().policy, golden_inputs(&bundle).unwrap())
}

struct Asked {
    number: u64,
    epoch: u64,
    instruction: Option<&'static str>,
}

impl Asked {
    fn at(number: u64) -> Self {
        Self { number, epoch: 1, instruction: None }
    }

    /// The first golden sample, four rows after the one before.
    fn of(&self, policy: &mut dyn Policy, inputs: &OpenLoopInputs) -> (Result<StopReason, PolicyError>, ActionChunk) {
        let mut chunk = ActionChunk::for_spec(policy.spec());
        let observation = Observation {
            instruction: self.instruction.unwrap_or(&inputs.instruction),
            anchor: Anchor { motion: MotionTime::from_nanos(self.number * 400_000_000), captured: Instant::ZERO },
            ..observed(inputs)
        };
        let budget = Budget::unlimited(Instant::ZERO);
        let result = policy.infer(&observation, &Committed::none(Epoch(self.epoch)), budget, &mut chunk);
        (result, chunk)
    }
}

#[test]
fn signals_that_never_object_skip_one_answer_in_three_and_no_more() {
    for (skipping, reason) in [(Skipping::Reuse, StopReason::Reused), (Skipping::Extrapolate, StopReason::Extrapolated)]
    {
        let (mut policy, inputs) = willing(skipping);
        let mut last: Option<ActionChunk> = None;
        for number in 0..9 {
            let (stop, chunk) = Asked::at(number).of(&mut *policy, &inputs[0]);
            let stop = stop.unwrap();
            let expected = if number % 3 == 2 { reason } else { StopReason::Complete };
            assert_eq!(stop, expected, "{skipping}, inference {number}");
            assert_eq!(policy.tokens().is_empty(), stop == reason);
            assert_eq!(chunk.anchor().motion, MotionTime::from_nanos(number * 400_000_000));
            if let (true, Some(last)) = (stop == reason, &last) {
                // Both begin where the chunk before is by now, four rows on.
                assert_eq!(chunk.row(0), last.row(4));
                assert_eq!(chunk.stages().passes, 0.0);
                if skipping == Skipping::Reuse {
                    assert_eq!(chunk.row(3), last.row(7));
                }
            }
            last = Some(chunk);
        }
    }
}

#[test]
fn another_epoch_instruction_or_a_refused_answer_is_followed_by_two_computed_ones() {
    let (mut policy, inputs) = willing(Skipping::Reuse);
    let mut number = 0;
    let mut ask = |policy: &mut dyn Policy, epoch: u64, instruction: Option<&'static str>| {
        number += 1;
        Asked { number, epoch, instruction }.of(policy, &inputs[0]).0.map(StopReason::name).unwrap_or("refused")
    };
    let computed = "complete";
    assert_eq!([(); 2].map(|()| ask(&mut *policy, 1, None)), [computed; 2]);
    assert_eq!([(); 3].map(|()| ask(&mut *policy, 2, None)), [computed, computed, "reused"], "another epoch");
    assert_eq!([(); 2].map(|()| ask(&mut *policy, 2, None)), [computed; 2]);
    let green = Some("lift the green block");
    assert_eq!([(); 3].map(|()| ask(&mut *policy, 2, green)), [computed, computed, "reused"], "another instruction");
    assert_eq!([(); 2].map(|()| ask(&mut *policy, 2, green)), [computed; 2]);
    policy.inject(OutputFault::Nan);
    assert_eq!(ask(&mut *policy, 2, green), "refused", "a fault comes out, whatever could be skipped");
    policy.inject(OutputFault::None);
    assert_eq!([(); 3].map(|()| ask(&mut *policy, 2, green)), [computed, computed, "reused"]);
    policy.reset(Epoch(2));
    assert_eq!([(); 3].map(|()| ask(&mut *policy, 2, green)), [computed, computed, "reused"]);
}

#[test]
fn what_was_not_fitted_cannot_be_skipped_by() {
    let copy = Copy::of(&folder());
    let bundle = open(folder());
    copy.set_file(
        THRESHOLDS_FILE,
        Thresholds::for_bundle(bundle.spec(), "0".repeat(64), 100, 0.02).to_toml_string().unwrap().as_bytes(),
    );
    let mut bundle = open(copy.path());
    for skipping in [Skipping::Reuse, Skipping::Extrapolate] {
        let error = bundle.set_skipping(skipping).unwrap_err().to_string();
        assert!(error.contains("endplate calibrate thresholds"), "{error}");
    }
    copy.edit(|text| text.replacen("[decoding]", "[skipping]\ntechnique = \"reuse\"\n\n[decoding]", 1));
    let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
    assert!(error.contains("skipping.technique = reuse"), "{error}");
}
