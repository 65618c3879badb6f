//! The loop around exported LeRobot policies. Diffusion reads several observations, and gives LeRobot's own answer when the
//! loop has kept its past; ACT reads one, whose images can be prepared.

use super::*;
use crate::record::{InferenceTap, Inferred};
use endplate_hal::{JointVec, MonotonicClock, MotionTime};
use endplate_policies::bundle::Arrays;
use endplate_policies::{Bundle, BundleSource, EngineChoice, OpenLoopInputs, golden_inputs, load_policy};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// First joint of every observation the policy was given, oldest first.
type Seen = Arc<Mutex<Vec<Vec<f64>>>>;

struct Tap(Seen);

impl InferenceTap for Tap {
    fn inferred(&mut self, inferred: &Inferred<'_>) {
        let Observation { past, state, .. } = inferred.observation;
        let moments = past.iter().map(|moment| moment.state.position_rad[0]).chain([state.position_rad[0]]);
        self.0.lock().unwrap().push(moments.collect());
    }
}

/// The loop of the exported policy, which reads two observations 1/30 s apart.
struct Stage {
    inference: InferenceLoop,
    snapshot: ControlSnapshot,
    now: Instant,
    seen: Seen,
}

const STEP: Duration = Duration::from_millis(10);

impl Stage {
    fn new(bundle: &Bundle, noise: Option<&[f64]>) -> Self {
        let mut policy = load_policy(bundle, EngineChoice::Tract).unwrap().policy;
        if let Some(noise) = noise {
            policy.set_noise(noise).unwrap();
        }
        let mut inference = InferenceLoop::new(policy, "", Duration::from_secs(5), Duration::from_millis(50));
        let seen = Seen::default();
        inference.set_tap(Some(Box::new(Tap(Arc::clone(&seen)))));
        Self { inference, snapshot: ControlSnapshot::new(), now: Instant::from_nanos(1_000_000_000), seen }
    }

    /// Some steps of 10 ms that see these frames and joints; the last one may want a chunk.
    fn steps(&mut self, count: u32, frames: &[Frame], joints: &[f64], wants_chunk: bool) -> StepOutcome {
        let mut outcome = StepOutcome::Idle;
        for left in (0..count).rev() {
            self.now = self.now.saturating_add(STEP);
            self.snapshot.now = self.now;
            self.snapshot.wants_chunk = wants_chunk && left == 0;
            self.snapshot.states.push(JointState {
                stamp: self.now,
                position_rad: JointVec::from_slice(joints).unwrap(),
                velocity_rad_s: JointVec::zeros(joints.len()),
                effort_nm: None,
            });
            self.snapshot.motion.push((self.now, MotionTime::ZERO));
            outcome = self.inference.step(self.now, &self.snapshot, &self.captured_now(frames), None);
        }
        outcome
    }

    fn captured_now(&self, frames: &[Frame]) -> Vec<Frame> {
        frames.iter().map(|f| Frame { captured: self.now, ..f.clone() }).collect()
    }
}

fn bundle_of(name: &str) -> Bundle {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies/tests/bundles").join(name);
    Bundle::open(BundleSource::Directory(folder)).unwrap()
}

fn bundle() -> Bundle {
    bundle_of("lerobot_diffusion_ddim")
}

fn golden(bundle: &Bundle) -> (OpenLoopInputs, Vec<f64>) {
    let arrays = Arrays::from_npz(bundle.file("golden.npz").unwrap(), "golden.npz").unwrap();
    let actions = arrays.get("actions_0", None).unwrap().to_vec();
    (golden_inputs(bundle).unwrap().remove(0), actions)
}

#[test]
fn the_loop_hands_the_policy_the_past_that_lerobot_answered_on() {
    let bundle = bundle();
    assert_eq!(bundle.spec().observation_steps(), 2);
    let (inputs, actions) = golden(&bundle);
    let mut stage = Stage::new(&bundle, inputs.noise.as_deref());
    let (frames, joints) = &inputs.past[0];
    assert_eq!(stage.steps(10, frames, joints, false), StepOutcome::Idle);
    // One row period, 33 ms, later.
    assert!(matches!(stage.steps(3, &inputs.frames, &inputs.state, true), StepOutcome::Answered(_)));
    let tolerance = bundle.spec().engines["tract"].action_rad;
    let rows = stage.inference.chunk().rows();
    let worst = rows.iter().zip(&actions).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(rows.len() == actions.len() && worst <= tolerance, "{worst:e}");
    assert_eq!(stage.seen.lock().unwrap()[0], [joints[0], inputs.state[0]]);
}

#[test]
fn the_first_observation_of_an_epoch_is_its_own_past() {
    let bundle = bundle();
    let (inputs, _) = golden(&bundle);
    let mut stage = Stage::new(&bundle, None);
    assert!(matches!(stage.steps(1, &inputs.frames, &inputs.state, true), StepOutcome::Answered(_)));
    let (frames, joints) = &inputs.past[0];
    stage.steps(10, frames, joints, false);
    stage.inference.instruct("", Epoch(1));
    stage.snapshot.epoch = Epoch(1);
    assert!(matches!(stage.steps(1, &inputs.frames, &inputs.state, true), StepOutcome::Answered(_)));
    let now = inputs.state[0];
    assert_eq!(*stage.seen.lock().unwrap(), [[now, now], [now, now]]);
}

#[test]
fn a_past_that_was_not_seen_refuses_the_observation_and_comes_back() {
    let bundle = bundle();
    let (inputs, _) = golden(&bundle);
    let mut stage = Stage::new(&bundle, None);
    stage.steps(30, &inputs.frames, &inputs.state, false);
    stage.now = stage.now.saturating_add(Duration::from_millis(500));
    let outcome = stage.steps(1, &inputs.frames, &inputs.state, true);
    assert_eq!(outcome, StepOutcome::Refused(Cause::StateHistory));
    assert!(!stage.inference.inferred() && stage.inference.refused_in_a_row() == 0, "no fault of the policy");
    let told = stage.inference.counts().last_refusal.clone().unwrap();
    assert!(told.contains("no observation 33.3"), "{told}");
    assert!(matches!(stage.steps(4, &inputs.frames, &inputs.state, true), StepOutcome::Answered(_)));
}

#[test]
fn images_are_prepared_for_a_chunk_that_is_wanted_soon_in_this_epoch() {
    let bundle = bundle_of("lerobot_act");
    let (inputs, _) = golden(&bundle);
    let clock = MonotonicClock::new();
    let mut stage = Stage::new(&bundle, None);
    let mut rows = Vec::new();
    for (soon, epoch, is_ahead) in [(false, 0, false), (true, 0, true), (true, 1, false)] {
        assert_eq!(stage.steps(3, &inputs.frames, &inputs.state, false), StepOutcome::Idle);
        let frames = stage.captured_now(&inputs.frames);
        stage.snapshot.wants_chunk_soon = soon;
        stage.snapshot.epoch = Epoch(epoch);
        stage.inference.prepare(stage.now, &stage.snapshot, &frames, &clock);
        (stage.snapshot.wants_chunk, stage.snapshot.epoch) = (true, Epoch(0));
        let outcome = stage.inference.step(stage.now, &stage.snapshot, &frames, None);
        assert_eq!(outcome, StepOutcome::Answered(StopReason::Complete));
        assert_eq!(stage.inference.chunk().stages().ahead > Duration::ZERO, is_ahead, "{soon}, epoch {epoch}");
        rows.push(stage.inference.chunk().rows().to_vec());
    }
    assert!(rows.windows(2).all(|two| two[0] == two[1]), "prepared or not, the same answer");
}

#[test]
fn an_answer_can_be_handed_on_before_it_is_counted_and_is_counted_once() {
    let bundle = bundle_of("lerobot_act");
    let (inputs, _) = golden(&bundle);
    let mut stage = Stage::new(&bundle, None);
    stage.steps(3, &inputs.frames, &inputs.state, false);
    stage.snapshot.wants_chunk = true;
    let frames = stage.captured_now(&inputs.frames);
    let outcome = stage.inference.ask(stage.now, &stage.snapshot, &frames, None);
    assert_eq!((outcome, stage.inference.counts().chunks), (StepOutcome::Answered(StopReason::Complete), 0));
    for _ in 0..2 {
        stage.inference.account();
        assert_eq!(stage.inference.counts().chunks, 1);
        assert!(stage.inference.counts().latency.percentiles(Duration::from_millis(1)).is_some());
    }
}

#[test]
fn steps_between_chunks_cost_no_allocation_once_the_ring_is_full() {
    // The capacity of every kept frame stays what it was: nothing is made anew.
    let (inputs, _) = golden(&bundle());
    let mut history = History::new(2, Duration::from_millis(33));
    let state = |millis: u64| JointState {
        stamp: Instant::from_nanos(millis * 1_000_000),
        position_rad: JointVec::zeros(6),
        velocity_rad_s: JointVec::zeros(6),
        effort_nm: None,
    };
    let places = |history: &History| -> Vec<*const u8> {
        let mut places: Vec<_> = history.buffers().collect();
        places.sort();
        places
    };
    for step in 0..20 {
        history.push(&inputs.frames, &state(step * 10));
    }
    let before = places(&history);
    for step in 20..60 {
        history.push(&inputs.frames, &state(step * 10));
    }
    history.clear();
    history.push(&inputs.frames, &state(1000));
    assert_eq!(places(&history), before);
}
