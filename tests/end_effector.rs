//! The demonstration with its policy saying poses of the tool instead of joints: the arm does the same, and a pose out of
//! reach is a refused chunk on the failure ladder.
#![allow(clippy::unwrap_used)]

mod rig;

use core::time::Duration;
use endplate_hal::{Chain, Kinematics as _};
use endplate_policies::{
    ActionChunk, Budget, Bundle, BundleSource, Committed, EngineChoice, Epoch, Observation, OutputFault, Policy,
    PolicyError, PolicySpec, StopReason, bind, load_policy,
};
use endplate_runtime::{Cause, FaultPlan, InferenceLoop, Rung};
use endplate_sim::task;
use rig::{Outcome, Rig, assert_no_jump, bundle_folder};

const SEED: u64 = 2_000_001;
const SECONDS: f64 = 5.0;

/// The demonstration policy, its joint rows said as poses and the gripper's joint.
struct SaysPoses {
    policy: Box<dyn Policy>,
    chain: Chain,
    spec: PolicySpec,
    joints: ActionChunk,
    /// Added to the height of every pose, m.
    lift_m: f64,
}

impl Policy for SaysPoses {
    fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        let stop = self.policy.infer(observation, &Committed::none(committed.epoch), budget, &mut self.joints)?;
        for (joints, said) in self.joints.rows().chunks_exact(6).zip(chunk.rows_mut().chunks_exact_mut(7)) {
            let pose = self.chain.forward(joints).unwrap();
            let (place, turn) = (pose.translation.vector, pose.rotation.scaled_axis());
            said.copy_from_slice(&[place.x, place.y, place.z + self.lift_m, turn.x, turn.y, turn.z, joints[5]]);
        }
        let from = &self.joints;
        chunk.set(from.period(), from.anchor(), from.epoch(), None, *from.stages());
        Ok(stop)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.policy.check_instruction(instruction)
    }
    fn reset(&mut self, epoch: Epoch) {
        self.policy.reset(epoch);
    }
    fn inject(&mut self, fault: OutputFault) {
        self.policy.inject(fault);
    }
    fn modelled_cost(&self) -> Duration {
        self.policy.modelled_cost()
    }
}

/// The demonstration's description with poses in the place of its five arm joints.
fn spec_of_poses() -> PolicySpec {
    let text = std::fs::read_to_string(bundle_folder().join("policy.toml")).unwrap();
    let (head, rest) = text.split_once("[[action]]").unwrap();
    let rest = format!("[[action]]{rest}");
    let last = rest.rfind("[[action]]").unwrap();
    let poses: String = ["x", "y", "z", "wx", "wy", "wz"]
        .map(|name| {
            let (unit, interpolation) = if name.starts_with('w') { ("rad", "slerp") } else { ("m", "smooth") };
            format!(
                "[[action]]\nname = \"ee.{name}\"\nkind = \"ee_abs\"\ncomponent = \"{name}\"\nunit = \"{unit}\"\n\
                 interpolation = \"{interpolation}\"\nblending = \"average\"\nq01 = -1.0\nq99 = 1.0\n\n"
            )
        })
        .concat();
    PolicySpec::from_toml_str(&format!("{head}{poses}{}", &rest[last..])).unwrap()
}

fn rig(says_poses: bool, lift_m: f64) -> Rig {
    let mut rig = Rig::new(SEED, &[], |_| {});
    if says_poses {
        let bundle = Bundle::open(BundleSource::Directory(bundle_folder())).unwrap();
        let policy = load_policy(&bundle, EngineChoice::Tract).unwrap().policy;
        let joints = ActionChunk::for_spec(policy.spec());
        let chain = rig.spec.chain.clone().unwrap();
        let poses = SaysPoses { policy, chain, spec: spec_of_poses(), joints, lift_m };
        let bound = bind(Box::new(poses), &rig.spec).unwrap();
        let control = &rig.spec.control;
        rig.inference = InferenceLoop::new(bound, &task::instruction(SEED, 0), control.deadline, control.state_max_age);
    }
    rig
}

fn run(mut rig: Rig, what: &str) -> Outcome {
    let outcome = rig.run(&FaultPlan::default(), SECONDS);
    assert_no_jump(&rig.spec, &outcome, what);
    assert_eq!(outcome.control.commands, outcome.control.periods, "{what}: a period without a command");
    outcome
}

#[test]
fn the_demonstration_said_in_poses_moves_the_arm_as_it_does_in_joints() {
    let (joints, poses) = (run(rig(false, 0.0), "joints"), run(rig(true, 0.0), "poses"));
    assert!(poses.used_only(Rung::Fresh, 0.5, SECONDS));
    assert_eq!(poses.count(Cause::OutputRefused), 0);
    let apart = |(a, b): (&(f64, _), &(f64, _))| -> f64 {
        let (a, b): (&endplate_hal::JointVec, &endplate_hal::JointVec) = (&a.1, &b.1);
        a.iter().zip(b.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let worst = joints.sent.iter().zip(&poses.sent).map(apart).fold(0.0, f64::max);
    println!("{} commands, largest difference {worst:.1e} rad", poses.sent.len());
    assert!(worst < 0.01, "{worst}");
    assert_eq!(joints.sent.len(), poses.sent.len());
}

#[test]
fn poses_out_of_reach_are_refused_chunks_and_the_arm_stays_where_it_is() {
    let outcome = run(rig(true, 2.0), "out of reach");
    assert!(outcome.count(Cause::OutputRefused) > 0, "counted");
    assert!(!outcome.used(Rung::Fresh, 0.0, SECONDS), "no row of a refused chunk was played");
}

#[test]
fn a_policy_of_poses_that_was_not_bound_to_a_robot_moves_nothing() {
    let mut unbound = rig(false, 0.0);
    let bundle = Bundle::open(BundleSource::Directory(bundle_folder())).unwrap();
    let policy = load_policy(&bundle, EngineChoice::Tract).unwrap().policy;
    let joints = ActionChunk::for_spec(policy.spec());
    let chain = unbound.spec.chain.clone().unwrap();
    let poses = SaysPoses { policy, chain, spec: spec_of_poses(), joints, lift_m: 0.0 };
    let control = &unbound.spec.control;
    unbound.inference =
        InferenceLoop::new(Box::new(poses), &task::instruction(SEED, 0), control.deadline, control.state_max_age);
    let outcome = run(unbound, "unbound");
    assert!(outcome.count(Cause::PolicyFailed) > 0);
    assert!(!outcome.used(Rung::Fresh, 0.0, SECONDS));
}
