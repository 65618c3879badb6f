//! Every fault walks the failure ladder as the design's table says, judged by the commands really sent.
#![allow(clippy::unwrap_used)]

mod rig;

use endplate_hal::{Instant, Limit, RobotSpec, StopCategory};
use endplate_policies::OutputFault;
use endplate_runtime::{Cause, FaultPlan, FaultWindow, Rung, RuntimeFault};
use rig::{Outcome, Rig, assert_no_jump};
use std::time::Duration;

/// A fault window from 2 s on.
const FROM_S: f64 = 2.0;
const SEED: u64 = 2_000_001;

fn body(fault: &str, seconds: f64) -> Outcome {
    checked(Rig::new(SEED, &[fault], |_| {}), &FaultPlan::default(), seconds, fault)
}

fn inner(fault: RuntimeFault, for_s: Option<f64>, seconds: f64) -> Outcome {
    let start = Duration::from_secs_f64(FROM_S);
    let end = for_s.map(|span| start + Duration::from_secs_f64(span));
    let plan = FaultPlan::new(vec![FaultWindow { fault, start, end }]);
    checked(Rig::new(SEED, &[], |_| {}), &plan, seconds, &format!("{fault:?}"))
}

/// Runs, and asserts what holds for every fault.
fn checked(mut rig: Rig, plan: &FaultPlan, seconds: f64, what: &str) -> Outcome {
    let outcome = rig.run(plan, seconds);
    assert_no_jump(&rig.spec, &outcome, what);
    assert!(outcome.torque.is_empty(), "{what}: torque was switched");
    let control = &outcome.control;
    assert_eq!(control.ladder.total(), control.commands, "{what}: a period on no rung");
    assert_eq!(control.commands, control.periods, "{what}: a period without a command");
    assert_eq!(outcome.rungs.len() as u64, control.commands, "{what}");
    assert!(outcome.used(Rung::Fresh, 1.0, FROM_S), "{what}: the robot ran before the fault");
    outcome
}

/// Braked, then held, inside the declared stop time; ran again at the end.
fn assert_held_and_recovered(outcome: &Outcome, seen_s: f64, until_s: f64, end_s: f64, what: &str) {
    assert!(!outcome.used(Rung::Fresh, seen_s, until_s), "{what}: went on");
    assert!(outcome.used_only(Rung::Held, seen_s + 0.8, until_s), "{what}: not at rest after the stop time");
    assert!(outcome.used(Rung::Fresh, until_s, end_s), "{what}: did not recover");
    assert!(!outcome.used(Rung::Stopped, 0.0, end_s), "{what}: latched");
}

#[test]
fn without_a_fault_every_period_after_the_first_chunk_is_fresh_and_nothing_is_limited() {
    let outcome = checked(Rig::new(SEED, &[], |_| {}), &FaultPlan::default(), 5.0, "no fault");
    assert!(outcome.used_only(Rung::Fresh, 0.5, 5.0));
    assert_eq!(outcome.control.limited, 0);
    assert_eq!(outcome.control.causes.by_name().len(), 0, "{:?}", outcome.control.causes.by_name());
}

#[test]
fn a_camera_that_drops_or_freezes_brakes_the_arm_once_its_newest_frame_is_too_old() {
    for fault in ["camera_drop:front@2+2", "camera_freeze:wrist@2+2"] {
        let outcome = body(fault, 6.0);
        assert_eq!(outcome.count(Cause::CameraStale), 1, "{fault}");
        // 150 ms of age, counted from a capture up to 33 ms before the fault; one period to see it.
        assert!(outcome.used(Rung::Fresh, FROM_S, 2.1), "{fault}: a fresh frame is still good");
        assert_held_and_recovered(&outcome, 2.2, 4.0, 6.0, fault);
    }
}

#[test]
fn a_camera_that_repeats_every_other_frame_does_not_stop_a_healthy_robot() {
    let outcome = body("camera_duplicate:front@2+2", 5.0);
    assert!(outcome.used_only(Rung::Fresh, 0.5, 5.0));
}

#[test]
fn a_frame_from_the_future_brakes_the_arm() {
    let outcome = body("camera_future_stamp:wrist@2+2", 6.0);
    assert!(outcome.count(Cause::CameraFutureStamp) >= 1);
    assert!(outcome.used(Rung::Decelerated, FROM_S, 2.4) || outcome.used(Rung::Held, FROM_S, 2.4));
    assert!(outcome.used(Rung::Fresh, 4.3, 6.0), "did not recover");
}

#[test]
fn a_lost_joint_state_brakes_the_arm_within_its_greatest_age() {
    let outcome = body("state_loss@2+1.5", 5.5);
    assert!(outcome.count(Cause::StateRead) >= 1 && outcome.count(Cause::StateStale) >= 1);
    assert_held_and_recovered(&outcome, 2.1, 3.5, 5.5, "state_loss");
}

#[test]
fn a_step_that_no_joint_can_make_is_not_believed() {
    let outcome = body("state_jump@2+1", 5.0);
    assert!(outcome.count(Cause::StateImplausible) >= 1);
    assert!(!outcome.used(Rung::Fresh, 2.02, 3.0));
    assert!(outcome.used(Rung::Fresh, 3.2, 5.0), "did not recover");
}

#[test]
fn a_clock_that_steps_back_brakes_the_arm() {
    let outcome = body("clock_step@2+1", 5.0);
    assert!(outcome.count(Cause::ClockStep) >= 1);
    assert!(!outcome.used(Rung::Fresh, 2.1, 3.0));
    assert!(outcome.used(Rung::Fresh, 3.2, 5.0), "did not recover");
}

#[test]
fn failed_writes_brake_and_a_bus_that_stays_away_latches_a_stop() {
    let short = body("bus_error@2+0.03", 4.0);
    assert_eq!(short.count(Cause::WriteFailed), 1);
    assert_eq!(short.count(Cause::BusLost), 0);
    assert!(short.used(Rung::Fresh, 2.2, 4.0) && !short.used(Rung::Stopped, 0.0, 4.0));
    let long = body("bus_error@2+1", 5.0);
    assert_eq!(long.count(Cause::BusLost), 1);
    assert!(long.used_only(Rung::Stopped, 3.0, 5.0), "a latched fault needs an explicit command");
}

#[test]
fn a_stalled_inference_continues_the_old_chunk_then_brakes_then_holds() {
    let outcome = inner(RuntimeFault::InferenceStall, Some(4.0), 9.0);
    assert!(outcome.count(Cause::ChunkLate) >= 1 && outcome.count(Cause::NoRows) >= 1);
    assert!(outcome.used(Rung::Continued, FROM_S, 4.0));
    assert!(outcome.used_only(Rung::Held, 5.0, 6.0));
    assert!(outcome.count(Cause::ChunkStale) >= 1, "the answer that waited four seconds is too old");
    assert!(outcome.used(Rung::Fresh, 6.2, 9.0), "did not recover");
}

#[test]
fn latency_that_drifts_is_met_by_the_old_chunk() {
    let outcome = inner(RuntimeFault::LatencyDrift, Some(8.0), 10.0);
    assert!(outcome.count(Cause::ChunkLate) >= 1);
    assert!(outcome.used(Rung::Continued, FROM_S, 10.0));
    assert!(outcome.control.deadline_misses >= 1);
}

#[test]
fn an_output_that_is_broken_is_refused_and_a_policy_that_stays_broken_holds_the_arm() {
    for fault in [
        OutputFault::Nan,
        OutputFault::Inf,
        OutputFault::Huge,
        OutputFault::TokensGarbage,
        OutputFault::TokensTruncated,
    ] {
        let outcome = inner(RuntimeFault::Output(fault), Some(3.0), 7.0);
        let what = format!("{fault:?}");
        assert!(outcome.count(Cause::OutputRefused) >= 3, "{what}");
        assert!(outcome.used(Rung::Fresh, FROM_S, 2.05), "{what}: the old chunk goes on");
        assert_held_and_recovered(&outcome, 3.5, 5.0, 7.0, &what);
    }
}

#[test]
fn a_changed_instruction_ends_the_old_chunk_at_once() {
    let outcome = inner(RuntimeFault::InstructionChange, None, 4.0);
    assert_eq!(outcome.count(Cause::InstructionChange), 1);
    assert!(outcome.used(Rung::Decelerated, FROM_S, 2.2) || outcome.used(Rung::Held, FROM_S, 2.2));
    assert!(!outcome.used(Rung::Fresh, FROM_S, 2.06), "rows asked for by the old instruction were played");
    assert!(outcome.used(Rung::Fresh, 2.06, 4.0), "the new instruction is not followed");
}

#[test]
fn an_estop_brakes_in_its_period_holds_with_torque_and_stays_until_it_is_cleared() {
    let plan = |for_s: f64| {
        let start = Duration::from_secs_f64(FROM_S);
        let end = Some(start + Duration::from_secs_f64(for_s));
        FaultPlan::new(vec![FaultWindow { fault: RuntimeFault::Estop, start, end }])
    };
    let mut rig = Rig::new(SEED, &[], |_| {});
    let outcome = rig.run(&plan(0.05), 5.0);
    assert_no_jump(&rig.spec, &outcome, "estop");
    assert_eq!(outcome.count(Cause::Estop), 1);
    assert!(!outcome.used(Rung::Fresh, FROM_S, 5.0), "not in its period");
    assert!(outcome.used_only(Rung::Stopped, 2.8, 5.0), "released, and yet latched");
    assert!(outcome.torque.is_empty(), "torque stays on");
    assert_eq!(rig.control.latched(), Some(Cause::Estop));
    assert!(rig.control.clear_fault(Instant::from_nanos(6_010_000_000)).unwrap());
    assert_eq!(rig.control.latched(), None);
}

#[test]
fn an_estop_of_category_torque_off_lets_go_only_at_rest() {
    let start = Duration::from_secs_f64(FROM_S);
    let plan = FaultPlan::new(vec![FaultWindow { fault: RuntimeFault::Estop, start, end: None }]);
    let mut rig = Rig::new(SEED, &[], |spec| spec.control.stop_category = StopCategory::TorqueOff);
    let outcome = rig.run(&plan, 4.0);
    assert_no_jump(&rig.spec, &outcome, "estop with torque off");
    assert_eq!(outcome.torque, [false]);
    let last = outcome.sent.last().unwrap().0;
    let braking = outcome.rungs.iter().filter(|(_, rung)| *rung == Rung::Decelerated).map(|(at, _)| *at).next_back();
    assert!(braking.is_none_or(|at| at < last + 0.011), "let go while braking");
}

#[test]
fn a_box_the_tool_may_not_leave_holds_the_arm_and_is_counted_as_no_joints_limit() {
    let low = |spec: &mut RobotSpec| {
        let workspace = spec.workspace.as_mut().unwrap();
        // Above where cubes lie: the tool comes down to it.
        workspace.min_m[2] = 0.12;
    };
    let mut rig = Rig::new(SEED, &[], low);
    let outcome = rig.run(&FaultPlan::default(), 5.0);
    assert_no_jump(&rig.spec, &outcome, "workspace");
    let control = &outcome.control;
    assert!(control.limited_by_workspace > 0);
    let of_joints: u64 = control.limited_by.iter().flatten().sum();
    assert_eq!(control.limited, control.limited_by_workspace + of_joints);
    assert!(control.limited_by.iter().all(|of_joint| of_joint[Limit::Workspace as usize] == 0));
}
