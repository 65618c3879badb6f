//! Policies that move the tool, on a robot: poses become joints once a chunk, or the chunk is refused.
//!
//! `bundles/lerobot_act_ee` is an ACT of LeRobot with random weights whose state and actions are poses of the tool; its
//! golden outputs, poses, are LeRobot's own.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;
use std::path::PathBuf;

use common::{Copy, engines};
use endplate_hal::{Chain, Frame, Instant, JointState, JointVec, Kinematics as _, RobotSpec, robots};
use endplate_policies::bundle::{Arrays, Mismatch};
use endplate_policies::{
    ActionChunk, ActionKind, Anchor, Budget, Bundle, BundleError, BundleSource, Committed, Continuation, Epoch,
    Observation, OpenLoopInputs, OutputFault, Policy, PolicyError, PolicySpec, Stages, StopReason, bind, check_robot,
    golden_inputs, infer_open_loop, load_policy,
};

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/lerobot_act_ee")
}

/// The demonstration's arm, which has five joints: the tool's lean to the side counts for nothing.
fn robot() -> RobotSpec {
    let rules =
        "[kinematics.inverse]\norientation_weight_m = [0.0, 0.01, 0.01]\nrotation_tolerance_rad = 0.05\n\n[workspace]";
    RobotSpec::from_toml_str(&robots::SO101_SIM.replace("[workspace]", rules), "robot.toml").unwrap()
}

fn chain() -> Chain {
    robot().chain.unwrap()
}

/// Over the table, the tool pointing down: where the fixture's statistics are from.
fn home() -> Vec<f64> {
    let mut at = JointVec::from_slice(&[0.0, 0.2, 1.4, 1.5, 0.0, 0.2]).unwrap();
    let solver = RobotSpec { inverse: endplate_hal::InverseRules { max_step_rad: 3.0, ..robot().inverse }, ..robot() };
    let down = nalgebra::Isometry3::new(nalgebra::Vector3::new(0.18, 0.0, 0.1), nalgebra::Vector3::new(0.0, 3.0, 0.0));
    at = solver.inverse_kinematics().unwrap().solve(&down, &at).unwrap();
    at.to_vec()
}

fn pose_row(joints: &[f64]) -> Vec<f64> {
    let pose = chain().forward(joints).unwrap();
    let turn = pose.rotation.scaled_axis();
    pose.translation.vector.iter().chain(turn.iter()).copied().chain([joints[5]]).collect()
}

fn frames(bundle: &Bundle) -> Vec<Frame> {
    golden_inputs(bundle).unwrap().remove(0).frames
}

fn inputs(bundle: &Bundle, state: Vec<f64>) -> OpenLoopInputs {
    let frames = frames(bundle);
    OpenLoopInputs { frames, state, past: Vec::new(), instruction: String::new(), noise: None }
}

/// The fixture with its differences small: rows of `kind`, some mm and hundredths of a rad each.
fn of_differences(kind: &str, frame: &str) -> Copy {
    let copy = Copy::of(&fixture());
    copy.edit(|text| {
        let (head, actions) = text.split_once("[[action]]").unwrap();
        let actions = actions
            .replace("kind = \"ee_abs\"", &format!("kind = \"{kind}\"\nframe = \"{frame}\""))
            .replace("mean = 0.18000000715255737", "mean = 0.0")
            .replace("mean = 3.0", "mean = 0.0")
            .replacen("mean = 0.10000000149011612", "mean = 0.0", 1)
            .replace("std = 0.019999999552965164", "std = 0.002")
            .replace("std = 0.004000000189989805", "std = 0.001");
        // Golden rows were said with the statistics as they were.
        let head = head.replace("action_rad = ", "action_rad = 10.0 # ");
        format!("{head}[[action]]{actions}").replace("action_rad = 10.0 # 2.4e-07 }", "action_rad = 10.0 }")
    });
    copy
}

#[test]
fn rows_of_poses_become_joints_whose_tool_stands_where_the_rows_say() {
    let bundle = Bundle::open(BundleSource::Directory(fixture())).unwrap();
    for (engine, choice) in engines() {
        let mut plain = load_policy(&bundle, choice.clone()).unwrap().policy;
        let mut bound = bind(load_policy(&bundle, choice).unwrap().policy, &robot()).unwrap();
        assert!(!plain.spec().actions.commands_joints() && bound.spec().actions.commands_joints());
        let joints = home();
        let said = infer_open_loop(&mut *plain, &inputs(&bundle, pose_row(&joints))).unwrap().chunk;
        let moved = infer_open_loop(&mut *bound, &inputs(&bundle, joints.clone())).unwrap().chunk;
        assert_eq!((moved.horizon(), moved.dims()), (10, 6));
        for (said, moved) in said.rows().chunks_exact(7).zip(moved.rows().chunks_exact(6)) {
            let there = pose_row(moved);
            for axis in 0..3 {
                assert!((there[axis] - said[axis]).abs() < 1e-3, "{engine}: {there:?} for {said:?}");
            }
            assert_eq!(moved[5], said[6], "the gripper is no part of the pose");
        }
    }
}

#[test]
fn differences_add_up_from_row_to_row_or_from_the_pose_observed() {
    for (kind, frame) in [("ee_delta", "base"), ("ee_rel", "base"), ("ee_rel", "tool"), ("ee_delta", "tool")] {
        let bundle = Bundle::open(BundleSource::Directory(of_differences(kind, frame).path())).unwrap();
        let (_, choice) = engines().remove(0);
        let joints = home();
        let mut plain = load_policy(&bundle, choice.clone()).unwrap().policy;
        let mut bound = bind(load_policy(&bundle, choice).unwrap().policy, &robot()).unwrap();
        let said = infer_open_loop(&mut *plain, &inputs(&bundle, pose_row(&joints))).unwrap().chunk;
        let moved = infer_open_loop(&mut *bound, &inputs(&bundle, joints.clone())).unwrap().chunk;
        let observed = chain().forward(&joints).unwrap();
        let mut wanted = observed;
        for (said, moved) in said.rows().chunks_exact(7).zip(moved.rows().chunks_exact(6)) {
            let shift = nalgebra::Vector3::new(said[0], said[1], said[2]);
            let turn = nalgebra::UnitQuaternion::from_scaled_axis(nalgebra::Vector3::new(said[3], said[4], said[5]));
            let from = if kind == "ee_rel" { observed } else { wanted };
            let (base, tool) = (from.translation.vector + shift, from.translation.vector + from.rotation * shift);
            wanted = if frame == "base" {
                nalgebra::Isometry3::from_parts(base.into(), turn * from.rotation)
            } else {
                nalgebra::Isometry3::from_parts(tool.into(), from.rotation * turn)
            };
            let there = chain().forward(moved).unwrap();
            let apart = (there.translation.vector - wanted.translation.vector).norm();
            assert!(apart < 1e-3, "{kind} in {frame}: {apart}");
        }
    }
}

#[test]
fn a_chunk_with_a_row_out_of_reach_is_refused_whole_with_row_and_residual() {
    let copy = of_differences("ee_delta", "base");
    // Two centimetres further out a row: the arm is at its end before the chunk is.
    copy.edit(|text| {
        let (head, actions) = text.split_once("[[action]]").unwrap();
        format!("{head}[[action]]{}", actions.replacen("mean = 0.0", "mean = 0.02", 1))
    });
    let bundle = Bundle::open(BundleSource::Directory(copy.path())).unwrap();
    for (_, choice) in engines() {
        let mut bound = bind(load_policy(&bundle, choice).unwrap().policy, &robot()).unwrap();
        let error = infer_open_loop(&mut *bound, &inputs(&bundle, home())).unwrap_err();
        let PolicyError::Kinematics { row, error: why } = error else { panic!("{error}") };
        assert!(row > 0 && why.to_string().contains("out of reach"), "row {row}: {why}");
        assert_eq!(error.kind(), "kinematics");
        let torn = inputs(&bundle, vec![0.0, f64::NAN, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(infer_open_loop(&mut *bound, &torn).unwrap_err().kind(), "kinematics");
        assert_eq!(infer_open_loop(&mut *bound, &inputs(&bundle, vec![0.0; 5])).unwrap_err().kind(), "observation");
        bound.inject(OutputFault::Nan);
        assert_eq!(infer_open_loop(&mut *bound, &inputs(&bundle, home())).unwrap_err().kind(), "non_finite");
    }
}

#[test]
fn what_of_a_robot_does_not_fit_is_named() {
    let bundle = Bundle::open(BundleSource::Directory(fixture())).unwrap();
    assert_eq!(check_robot(bundle.spec(), &robot()), []);
    let bare = RobotSpec { chain: None, workspace: None, ..robot() };
    assert!(check_robot(bundle.spec(), &bare).contains(&Mismatch::NoChain));
    let text = robots::SO101_SIM.replace("joint = \"wrist_roll\"", "joint = \"gripper\"");
    let other = RobotSpec::from_toml_str(&text, "robot.toml").unwrap();
    let found = check_robot(bundle.spec(), &other);
    assert!(found.contains(&Mismatch::TwiceCommanded { joint: "gripper".into() }), "{found:?}");
    assert!(found.contains(&Mismatch::Uncommanded { joint: "wrist_roll".into() }), "{found:?}");
    for mismatch in [&Mismatch::NoChain, &found[0]] {
        assert!(mismatch.to_string().contains(':'), "what to do is missing: {mismatch}");
    }
}

#[test]
fn half_a_pose_and_poses_of_two_kinds_are_refused_by_name() {
    type Edit = (fn(&str) -> String, &'static [&'static str]);
    let edits: [Edit; 6] = [
        (|t| t.replacen("component = \"wz\"\ninterpolation", "interpolation", 1), &["action", "component", "missing"]),
        (
            |t| t.replacen("component = \"wz\"\ninterpolation", "component = \"yaw\"\ninterpolation", 1),
            &["all three or none"],
        ),
        (|t| t.replacen("kind = \"ee_abs\"", "kind = \"ee_delta\"\nframe = \"tool\"", 1), &["action[1]", "one kind"]),
        (|t| t.replace("kind = \"ee_abs\"", "kind = \"ee_rel\""), &["frame", "missing", "base or tool"]),
        (|t| t.replacen("interpolation = \"slerp\"", "interpolation = \"smooth\"", 1), &["slerp or hold"]),
        (|t| t.replace("component = \"x\"", "component = \"pitch\""), &["pitch", "rad"]),
    ];
    for (edit, words) in edits {
        let copy = Copy::of(&fixture());
        copy.edit(edit);
        let error = Bundle::open(BundleSource::Directory(copy.path())).map(drop).unwrap_err();
        assert!(matches!(error, BundleError::Invalid { .. }));
        for word in words {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}

/// Says given rows, and keeps what it was told is committed.
struct Sayer {
    spec: PolicySpec,
    rows: Vec<f64>,
    told: std::sync::Arc<std::sync::Mutex<Vec<f64>>>,
}

impl Policy for Sayer {
    fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        _: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        *self.told.lock().unwrap() = committed.rows.to_vec();
        chunk.rows_mut().copy_from_slice(&self.rows);
        chunk.set(self.spec.chunk.row_period, observation.anchor, committed.epoch, None, Stages::default());
        Ok(StopReason::Complete)
    }

    fn check_instruction(&self, _: &str) -> Result<(), PolicyError> {
        Ok(())
    }
    fn reset(&mut self, _: Epoch) {}
    fn inject(&mut self, _: OutputFault) {}
    fn modelled_cost(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn the_demonstrations_own_chunk_said_as_poses_comes_back_as_the_same_joints() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bundles/pick_cube_flow");
    let bundle = Bundle::open(BundleSource::Directory(folder)).unwrap();
    let (_, choice) = engines().remove(0);
    let mut policy = load_policy(&bundle, choice).unwrap().policy;
    let robot = RobotSpec::from_toml_str(robots::SO101_SIM, "so101_sim").unwrap();
    let mut worst = 0.0;
    for input in golden_inputs(&bundle).unwrap() {
        let chunk = infer_open_loop(&mut *policy, &input).unwrap().chunk;
        let text = std::fs::read_to_string(fixture().join("policy.toml")).unwrap();
        let text = text.replace("horizon = 10", &format!("horizon = {}", chunk.horizon()));
        let spec = PolicySpec::from_toml_str(&text).unwrap();
        assert_eq!(spec.actions.dims()[0].kind, ActionKind::EeAbs);
        let rows: Vec<f64> = chunk.rows().chunks_exact(6).flat_map(pose_row).collect();
        let told = std::sync::Arc::default();
        let sayer = Sayer { spec, rows: rows.clone(), told: std::sync::Arc::clone(&told) };
        let mut bound = bind(Box::new(sayer), &robot).unwrap();
        let state = JointState {
            stamp: Instant::ZERO,
            position_rad: JointVec::from_slice(&input.state).unwrap(),
            velocity_rad_s: JointVec::zeros(6),
            effort_nm: None,
        };
        let (frames, anchor) = (&input.frames[..], Anchor::default());
        let observation = Observation { frames, state, past: &[], instruction: "", anchor };
        let committed = Committed {
            rows: chunk.rows(),
            delay_rows: 0,
            weights: &[],
            continuation: Continuation::Free,
            epoch: Epoch(0),
        };
        let mut back = ActionChunk::for_spec(bound.spec());
        bound.infer(&observation, &committed, Budget::unlimited(Instant::ZERO), &mut back).unwrap();
        for (back, wanted) in back.rows().iter().zip(chunk.rows()) {
            worst = f64::max(worst, (back - wanted).abs());
        }
        for (told, said) in told.lock().unwrap().iter().zip(&rows) {
            assert!((told - said).abs() < 1e-12, "committed joints are told as poses");
        }
    }
    println!("largest difference of a joint {worst:.1e} rad");
    assert!(worst < 1e-5, "{worst}");
}

#[test]
fn the_arrays_of_open_loop_inference_are_the_robots_joints_once_bound() {
    let bundle = Bundle::open(BundleSource::Directory(fixture())).unwrap();
    let (_, choice) = engines().remove(0);
    let bound = bind(load_policy(&bundle, choice).unwrap().policy, &robot()).unwrap();
    assert_eq!(bound.spec().state.iter().map(|dim| dim.name.as_str()).collect::<Vec<_>>()[5], "gripper");
    let golden = Arrays::from_npz(bundle.file("golden.npz").unwrap(), "golden.npz").unwrap();
    assert_eq!(golden.get("state_0", None).unwrap().len(), 7, "the bundle's own state is a pose and the gripper");
    assert_eq!(bound.spec().state.len(), 6);
}
