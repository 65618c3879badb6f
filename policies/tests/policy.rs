//! One suite for every family on every engine: golden outputs, budgets, injected faults, refused observations.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;

use std::path::Path;

use common::{bundle_path, bundle_paths, engines};
use endplate_hal::{Frame, Instant, JointState, JointVec, MonotonicClock, MotionTime};
use endplate_policies::bundle::{Arrays, FamilySpec};
use endplate_policies::{
    ActionChunk, Anchor, Budget, Bundle, BundleSource, Committed, Continuation, Epoch, Loaded, Observation,
    OpenLoopInputs, OutputFault, Policy, PolicyError, StopReason, infer_open_loop, load_policy,
};

struct Scene {
    bundle: Bundle,
    golden: Arrays,
    frames: Vec<Frame>,
    state: Vec<f64>,
    instruction: String,
}

impl Scene {
    /// The first golden sample of the demonstration bundle.
    fn new() -> Self {
        Self::of(&bundle_path())
    }

    /// The same of every family.
    fn all() -> Vec<Self> {
        bundle_paths().iter().map(|path| Self::of(path)).collect()
    }

    fn of(path: &Path) -> Self {
        let bundle = Bundle::open(BundleSource::Directory(path.to_owned())).unwrap();
        let golden = Arrays::from_npz(bundle.file("golden.npz").unwrap(), "golden.npz").unwrap();
        let images = golden.bytes("images_0", None).unwrap();
        let cameras = &bundle.spec().cameras;
        let frames = images
            .chunks_exact(images.len() / cameras.len())
            .zip(cameras)
            .map(|(pixels, slot)| Frame { data: pixels.to_vec(), sequence: 7, ..Frame::new(slot.width, slot.height) })
            .collect();
        let state = golden.get("state_0", None).unwrap().to_vec();
        let instruction = golden.text("instruction_0").unwrap();
        Self { bundle, golden, frames, state, instruction }
    }

    fn observation(&self) -> Observation<'_> {
        Observation {
            frames: &self.frames,
            state: JointState {
                stamp: Instant::from_nanos(5),
                position_rad: JointVec::from_slice(&self.state).unwrap(),
                velocity_rad_s: JointVec::zeros(self.state.len()),
                effort_nm: None,
            },
            past: &[],
            instruction: &self.instruction,
            anchor: Anchor { motion: MotionTime::from_nanos(11), captured: Instant::from_nanos(5) },
        }
    }

    fn chunk(&self) -> ActionChunk {
        ActionChunk::for_spec(self.bundle.spec())
    }

    fn policies(&self) -> Vec<(String, Loaded)> {
        let family = self.bundle.spec().family.name();
        let load = |(engine, choice)| (format!("{family} on {engine}"), load_policy(&self.bundle, choice).unwrap());
        engines().into_iter().map(load).collect()
    }

    fn has_tokens(&self) -> bool {
        !matches!(self.bundle.spec().family, FamilySpec::Flow(_))
    }

    /// The noise the golden sample was made with, for a family that takes some.
    fn noise(&self) -> Option<Vec<f64>> {
        (!self.has_tokens()).then(|| self.golden.get("noise_0", None).unwrap().to_vec())
    }

    fn inputs(&self) -> OpenLoopInputs {
        OpenLoopInputs {
            frames: self.frames.clone(),
            state: self.state.clone(),
            past: Vec::new(),
            instruction: self.instruction.clone(),
            noise: self.noise(),
        }
    }
}

fn infer(policy: &mut dyn Policy, scene: &Scene, chunk: &mut ActionChunk) -> Result<StopReason, PolicyError> {
    if let Some(noise) = scene.noise() {
        policy.set_noise(&noise)?;
    }
    policy.infer(&scene.observation(), &Committed::none(Epoch(3)), Budget::unlimited(Instant::ZERO), chunk)
}

#[test]
fn every_family_on_every_engine_reproduces_the_golden_outputs_and_fills_the_chunk() {
    for scene in Scene::all() {
        for (name, mut loaded) in scene.policies() {
            println!("{name}: {:?} {:?}", loaded.engine, loaded.golden);
            assert!(loaded.golden.samples >= 2);
            let mut chunk = scene.chunk();
            assert_eq!(infer(&mut *loaded.policy, &scene, &mut chunk).unwrap(), StopReason::Complete);
            let golden = scene.golden.get("actions_0", None).unwrap();
            assert!(chunk.rows().iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-3), "{name}");
            if scene.has_tokens() {
                assert_eq!(loaded.policy.tokens(), scene.golden.ids("tokens_0").unwrap());
            } else {
                assert!(loaded.policy.tokens().is_empty());
            }
            assert_eq!((chunk.anchor(), chunk.epoch()), (scene.observation().anchor, Epoch(3)));
            assert_eq!(chunk.period(), Duration::from_millis(100));
            assert_eq!(chunk.stages().tokens as usize, loaded.policy.tokens().len());
            assert!(chunk.stages().passes >= 1.0);

            let mut again = scene.chunk();
            infer(&mut *loaded.policy, &scene, &mut again).unwrap();
            assert_eq!(again.rows(), chunk.rows(), "{name}: the same observation gives the same bits");
        }
    }
}

#[test]
fn engines_agree_away_from_the_golden_samples() {
    for mut scene in Scene::all() {
        let mut policies = scene.policies();
        let (first, rest) = policies.split_first_mut().unwrap();
        let start = scene.state.clone();
        for nudge in 1..=4 {
            for (value, start) in scene.state.iter_mut().zip(&start) {
                *value = start + 0.03 * f64::from(nudge);
            }
            let inputs = scene.inputs();
            let kind = |result: &Result<_, PolicyError>| result.as_ref().map_or_else(PolicyError::kind, |_| "complete");
            let expected = infer_open_loop(&mut *first.1.policy, &inputs);
            for (name, other) in rest.iter_mut() {
                let got = infer_open_loop(&mut *other.policy, &inputs);
                assert_eq!(other.policy.tokens(), first.1.policy.tokens(), "{name} and {}", first.0);
                assert_eq!(kind(&got), kind(&expected));
                if let (Ok(got), Ok(expected)) = (got, &expected) {
                    let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-3;
                    assert!(got.chunk.rows().iter().zip(expected.chunk.rows()).all(close), "{name}");
                }
            }
        }
    }
}

#[test]
fn injected_faults_come_out_as_typed_errors_and_leave_no_trace() {
    for scene in Scene::all() {
        for (name, mut loaded) in scene.policies() {
            let mut chunk = scene.chunk();
            infer(&mut *loaded.policy, &scene, &mut chunk).unwrap();
            let whole = chunk.rows().to_vec();
            let faults = [
                (OutputFault::Nan, "non_finite"),
                (OutputFault::Inf, "non_finite"),
                (OutputFault::Huge, "out_of_range"),
                (OutputFault::TokensGarbage, "undecodable"),
                (OutputFault::TokensTruncated, "undecodable"),
            ];
            for (fault, kind) in faults.into_iter().filter(|(fault, _)| scene.has_tokens() || !fault.is_of_tokens()) {
                loaded.policy.inject(fault);
                let error = infer(&mut *loaded.policy, &scene, &mut chunk).unwrap_err();
                assert_eq!(error.kind(), kind, "{name}, {fault:?}: {error}");
            }
            loaded.policy.inject(OutputFault::None);
            infer(&mut *loaded.policy, &scene, &mut chunk).unwrap();
            assert_eq!(chunk.rows(), whole);
        }
    }
}

#[test]
fn noise_is_drawn_anew_for_every_answer_replays_with_the_epoch_and_is_refused_where_there_is_none() {
    for scene in Scene::all() {
        let (name, mut loaded) = scene.policies().remove(0);
        let policy = &mut *loaded.policy;
        let draw = |policy: &mut dyn Policy| {
            let mut chunk = scene.chunk();
            let budget = Budget::unlimited(Instant::ZERO);
            policy.infer(&scene.observation(), &Committed::none(Epoch(3)), budget, &mut chunk).unwrap();
            chunk.rows().to_vec()
        };
        policy.reset(Epoch(5));
        let (first, second) = (draw(policy), draw(policy));
        policy.reset(Epoch(5));
        assert_eq!(draw(policy), first, "{name}: an epoch replays");
        assert_eq!(first != second, !scene.has_tokens(), "{name}");
        let short = policy.set_noise(&[0.0; 3]).unwrap_err().to_string();
        let needed = scene.noise().map_or(0, |noise| noise.len());
        assert!(short.contains("3 values") && short.contains(&format!("takes {needed}")), "{name}: {short}");
        if let Some(mut noise) = scene.noise() {
            noise[7] = f64::NAN;
            assert!(policy.set_noise(&noise).is_err());
        }
    }
}

#[test]
fn a_budget_is_charged_from_the_cost_model_in_simulated_time_and_from_the_clock_in_real_time() {
    for scene in Scene::all() {
        let (name, mut loaded) = scene.policies().remove(0);
        let policy = &mut *loaded.policy;
        let mut chunk = scene.chunk();
        infer(policy, &scene, &mut chunk).unwrap();
        let cost = policy.modelled_cost();
        let costs = scene.bundle.spec().costs;
        let steps = match scene.bundle.spec().family {
            FamilySpec::Flow(rules) => rules.steps as u32,
            _ => policy.tokens().len() as u32,
        };
        assert_eq!(cost, costs.vision + costs.prefill + costs.step * steps, "{name}");

        let start = Instant::from_nanos(1_000_000_000);
        let mut within = |budget: Duration| {
            let budget = Budget { start, deadline: start.saturating_add(budget), clock: None };
            policy.infer(&scene.observation(), &Committed::none(Epoch(0)), budget, &mut chunk)
        };
        within(cost).unwrap();
        let nano = Duration::from_nanos(1);
        let error = within(cost - nano).unwrap_err();
        assert!(
            matches!(error, PolicyError::DeadlineExceeded { tokens: t, late, .. } if t == steps && late == nano),
            "{name}: {error}"
        );
        let error = within(costs.vision).unwrap_err();
        assert!(matches!(error, PolicyError::DeadlineExceeded { tokens: 0, .. }), "{name}: {error}");

        let clock = MonotonicClock::new();
        let budget = Budget { start: Instant::ZERO, deadline: Instant::ZERO, clock: Some(&clock) };
        let error = policy.infer(&scene.observation(), &Committed::none(Epoch(0)), budget, &mut chunk).unwrap_err();
        assert_eq!(error.kind(), "deadline_exceeded");
    }
}

#[test]
fn observations_that_do_not_fit_are_refused_by_what_is_wrong() {
    let scene = Scene::new();
    let (_, mut loaded) = scene.policies().remove(0);
    let mut refused = |break_it: &dyn Fn(&mut Scene), words: &str| {
        let mut scene = Scene::new();
        break_it(&mut scene);
        let error = infer(&mut *loaded.policy, &scene, &mut scene.chunk()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        error.kind()
    };
    assert_eq!(refused(&|s| s.frames.truncate(1), "1 frames"), "observation");
    assert_eq!(refused(&|s| s.frames[1].data.truncate(100), "slot 1"), "observation");
    assert_eq!(refused(&|s| s.frames[0].sequence = 0, "sequence 0"), "observation");
    assert_eq!(refused(&|s| s.state.truncate(5), "5 joints"), "observation");
    assert_eq!(refused(&|s| s.state[2] = f64::NAN, "joint 2"), "observation");
    assert_eq!(refused(&|s| s.instruction = "pick up the purple elephant".into(), "purple"), "unknown_instruction");
    let error = infer(&mut *loaded.policy, &scene, &mut ActionChunk::new(4, 6)).unwrap_err();
    assert_eq!(error.kind(), "observation");
}

#[test]
fn recorded_arrays_go_in_and_out() {
    let scene = Scene::new();
    let (_, mut loaded) = scene.policies().remove(0);
    let output = infer_open_loop(&mut *loaded.policy, &scene.inputs()).unwrap();
    let mut file = std::io::Cursor::new(Vec::new());
    output.write_npz(&mut file).unwrap();
    let arrays = Arrays::from_npz(file.get_ref(), "out.npz").unwrap();
    assert_eq!(arrays.get("actions", Some(&[16, 6])).unwrap(), output.chunk.rows());
    assert_eq!(arrays.ids("tokens").unwrap(), output.tokens);
    assert!(arrays.get("actions", Some(&[6, 16])).unwrap_err().to_string().contains("out.npz"));
    assert!(OpenLoopInputs::from_arrays(&arrays, scene.bundle.spec()).unwrap_err().to_string().contains("front"));
}

/// The chunk a flow policy answers without, and then with, the first rows of it raised a little and committed to.
fn continued(name: &str, policy: &mut dyn Policy, scene: &Scene, continuation: Continuation) -> (Vec<f64>, Vec<f64>) {
    let mut chunk = scene.chunk();
    infer(policy, scene, &mut chunk).unwrap_or_else(|error| panic!("{name}: {error}"));
    let free = chunk.rows().to_vec();
    let dims = chunk.dims();
    let rows: Vec<f64> = free[..8 * dims].iter().map(|value| value + 0.02).collect();
    let weights = [1.0, 1.0, 1.0, 0.8, 0.5, 0.3, 0.1, 0.0];
    policy.set_noise(&scene.noise().unwrap()).unwrap();
    let committed = Committed { rows: &rows, delay_rows: 3, weights: &weights, continuation, epoch: Epoch(3) };
    policy.infer(&scene.observation(), &committed, Budget::unlimited(Instant::ZERO), &mut chunk).unwrap();
    (free, chunk.rows().to_vec())
}

#[test]
fn a_flow_policy_continues_the_rows_it_is_committed_to() {
    for scene in Scene::all().into_iter().filter(|scene| !scene.has_tokens()) {
        let dims = scene.bundle.spec().actions.dims().len();
        for (name, mut loaded) in scene.policies() {
            // The share of a raise of 0.02 rad that arrived in a row, over all joints.
            let share = |free: &[f64], now: &[f64], row: usize| {
                let raised = |values: &[f64]| values[row * dims..(row + 1) * dims].iter().sum::<f64>() / dims as f64;
                (raised(now) - raised(free)) / 0.02
            };
            let (free, prefix) = continued(&name, &mut *loaded.policy, &scene, Continuation::Prefix);
            for row in 0..3 {
                assert!((share(&free, &prefix, row) - 1.0).abs() < 1e-3, "{name}: committed row {row} changed");
            }
            let (free, guided) = continued(&name, &mut *loaded.policy, &scene, Continuation::Guided { beta: 10.0 });
            for row in 0..3 {
                let share = share(&free, &guided, row);
                assert!((0.6..1.2).contains(&share), "{name}: row {row} went {share} of the way");
            }
            let (free, same) = continued(&name, &mut *loaded.policy, &scene, Continuation::Free);
            assert_eq!(free, same, "{name}: rows nobody asked to continue had an effect");
        }
    }
}
