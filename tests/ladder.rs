//! Every fault of `--fault` walks the failure ladder as the design's table says: the real loops and the simulated robot
//! in simulated time, a chunk source in the policy's place. After every run the commands that really left are checked
//! for limits and jumps by [`common::Bench::check`].
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, INSTRUCTIONS, Setup};
use core::time::Duration;
use endplate_hal::StopCategory;
use endplate_policies::Epoch;
use endplate_runtime::drive::simulated::LatencyModel;
use endplate_runtime::{Cause, Rung};
use endplate_sim::fault::FaultKind;

/// The joint whose reading a `state_jump` spoils.
const JUMPING_JOINT: usize = 2;

fn bench(faults: &[&str]) -> Bench {
    Bench::new(Setup { faults: faults.iter().map(|&fault| fault.to_owned()).collect(), ..Setup::default() })
}

/// Runs to `seconds` and checks what holds whatever goes wrong, torque included.
fn run(faults: &[&str], seconds: f64) -> Bench {
    let mut bench = bench(faults);
    bench.run_to(seconds).check();
    bench.check_torque_stayed_on();
    bench
}

/// When the policy was asked for its third chunk, without faults: an instant at which inference runs.
fn third_question() -> f64 {
    let mut bench = bench(&[]);
    bench.run_to(4.0);
    bench.seconds(bench.asked()[2].at)
}

fn is_moving(rung: Rung) -> bool {
    matches!(rung, Rung::Fresh | Rung::Continued)
}

/// No step down the ladder below an old chunk, once the first chunk has come.
fn assert_never_stops(bench: &Bench) {
    let moving = bench.first(Rung::Fresh, 0.0).expect("the first chunk is followed");
    for period in bench.between(moving, f64::INFINITY) {
        let at = bench.seconds(period.at);
        assert!(is_moving(period.rung), "{:?} at {at:.2} s because of {:?}", period.rung, period.cause);
    }
}

/// The arm brakes between `from` and `by` because of `cause`, is held within the declared time, does not move before
/// `until`, and follows fresh chunks again by `again`.
fn assert_stops_and_recovers(bench: &Bench, cause: Cause, (from, by): (f64, f64), until: f64, again: f64) {
    let walk = bench.walk();
    let moving = bench.first(Rung::Fresh, 0.0).expect("the first chunk is followed");
    let stop = bench
        .between(moving, f64::INFINITY)
        .find(|period| !is_moving(period.rung))
        .unwrap_or_else(|| panic!("no step down: {walk:?}"));
    let at = bench.seconds(stop.at);
    assert!((from..=by).contains(&(at + 1e-6)), "stops at {at:.3} s, not within {from}..{by}: {walk:?}");
    assert_eq!((stop.rung, stop.cause), (Rung::Decelerated, Some(cause)), "{walk:?}");
    assert!(bench.count(cause) > 0);
    let held = bench.first(Rung::Held, at).unwrap_or_else(|| panic!("never held: {walk:?}"));
    assert!(held - at <= bench.spec.control.stop_time.as_secs_f64(), "held after {:.3} s: {walk:?}", held - at);
    assert!(bench.between(at, until).all(|period| !is_moving(period.rung)), "moves on bad data: {walk:?}");
    assert!(bench.between(at, f64::INFINITY).all(|period| period.rung != Rung::Stopped), "latched: {walk:?}");
    let fresh = bench.first(Rung::Fresh, until).unwrap_or_else(|| panic!("never fresh again: {walk:?}"));
    assert!(fresh <= again, "fresh again at {fresh:.3} s only: {walk:?}");
    assert!(is_moving(bench.periods.last().unwrap().rung), "{walk:?}");
}

/// The policy is never shown frames older than a camera may be, nor joint positions far from those commanded.
fn assert_good_observations(bench: &Bench) {
    let oldest = bench.spec.cameras.iter().map(|camera| camera.max_age).max().unwrap();
    for asked in bench.asked() {
        let at = bench.seconds(asked.at);
        assert!(asked.age <= oldest, "at {at:.2} s the policy was shown a frame {:?} old", asked.age);
        let period = bench.periods.iter().find(|period| period.at == asked.at).unwrap();
        for (joint, spec) in bench.spec.joints.iter().enumerate() {
            let apart = (asked.state_rad[joint] - period.position_rad[joint]).abs();
            assert!(apart <= 0.3, "at {at:.2} s the policy was told {} {apart:.2} rad off", spec.name);
        }
    }
}

#[test]
fn without_faults_every_period_follows_a_fresh_chunk_and_nothing_is_limited() {
    let bench = run(&[], 8.0);
    assert_never_stops(&bench);
    assert_good_observations(&bench);
    let counts = bench.control.counts();
    assert_eq!((counts.limited, counts.ladder.continued, counts.deadline_misses), (0, 0, 0));
    for cause in Cause::ALL {
        assert_eq!(bench.count(cause), 0, "{}", cause.name());
    }
    assert!(bench.asked().len() >= 8);
}

#[test]
fn every_fault_the_command_line_knows_is_walked_here() {
    // A fault added to the product must be added below.
    const WALKED: [&str; 17] = [
        "camera_drop",
        "camera_freeze",
        "camera_duplicate",
        "camera_future_stamp",
        "state_loss",
        "state_jump",
        "bus_error",
        "inference_stall",
        "latency_drift",
        "output_nan",
        "output_inf",
        "output_huge",
        "tokens_garbage",
        "tokens_truncated",
        "clock_step",
        "instruction_change",
        "estop",
    ];
    for kind in FaultKind::ALL {
        assert!(WALKED.contains(&kind.name()), "{} is not walked", kind.name());
    }
}

#[test]
fn a_dropped_camera_brakes_then_holds_then_is_followed_again() {
    for camera in ["front", "wrist"] {
        let bench = run(&[&format!("camera_drop:{camera}@2+1")], 6.0);
        // The newest frame was captured up to one frame before the drop.
        assert_stops_and_recovers(&bench, Cause::CameraStale, (2.1, 2.17), 3.0, 3.2);
        assert_good_observations(&bench);
    }
}

#[test]
fn a_camera_that_misses_less_than_its_max_age_stops_nothing() {
    let bench = run(&["camera_drop:front@2+0.07", "camera_drop:wrist@3.5+0.07"], 6.0);
    assert_never_stops(&bench);
    assert_eq!(bench.count(Cause::CameraStale), 0);
}

#[test]
fn frames_older_than_max_age_are_not_shown_to_the_policy() {
    let question = third_question();
    for before in [0.15, 0.3, 0.45] {
        let from = question - before;
        let (front, wrist) = (format!("camera_drop:front@{from}+0.6"), format!("camera_drop:wrist@{from}+0.6"));
        let bench = run(&[&front, &wrist], 6.0);
        assert_good_observations(&bench);
        assert!(is_moving(bench.periods.last().unwrap().rung));
    }
}

#[test]
fn a_hold_longer_than_a_chunk_may_be_old_ends_with_a_new_chunk() {
    for fault in ["camera_drop:front@2+4", "state_loss@2+4"] {
        for shift in [0.0, 0.3, 0.6] {
            let fault = fault.replace("@2", &format!("@{}", 2.0 + shift));
            let bench = run(&[&fault], 8.0);
            let again = bench.first(Rung::Fresh, 6.0 + shift);
            assert!(again.is_some_and(|at| at < 6.4 + shift), "{fault}: {:?}", bench.walk());
            assert!(is_moving(bench.periods.last().unwrap().rung), "{fault}: {:?}", bench.walk());
        }
    }
}

#[test]
fn a_frozen_camera_is_found_by_its_sequence_although_its_stamps_are_fresh() {
    let bench = run(&["camera_freeze:wrist@2+1"], 6.0);
    assert_stops_and_recovers(&bench, Cause::CameraStale, (2.1, 2.17), 3.0, 3.2);
    assert!(bench.cameras[1].counts().repeated >= 25, "{:?}", bench.cameras[1].counts());
    assert_good_observations(&bench);
}

#[test]
fn a_camera_that_repeats_every_other_frame_is_counted_and_stops_nothing() {
    for faults in [&["camera_duplicate:front@0.5"][..], &["camera_duplicate:front@0.5", "camera_duplicate:wrist@0.5"]] {
        let bench = run(faults, 8.0);
        assert_never_stops(&bench);
        assert_good_observations(&bench);
        assert!(bench.cameras[0].counts().repeated >= 80, "{:?}", bench.cameras[0].counts());
    }
}

#[test]
fn a_frame_stamped_into_the_future_stops_at_once_and_is_no_observation() {
    let bench = run(&["camera_future_stamp:front@2+1"], 6.0);
    // One frame interval and the lag until the first such frame is delivered.
    assert_stops_and_recovers(&bench, Cause::CameraFutureStamp, (2.0, 2.07), 3.0, 3.2);
    assert_good_observations(&bench);
}

#[test]
fn reads_lost_for_less_than_state_max_age_stop_nothing() {
    let bench = run(&["state_loss@2+0.04"], 5.0);
    assert_never_stops(&bench);
    assert_eq!((bench.count(Cause::StateRead), bench.count(Cause::StateStale)), (1, 0));
}

#[test]
fn lost_joint_states_brake_once_they_are_too_old() {
    let bench = run(&["state_loss@2+1"], 6.0);
    assert_stops_and_recovers(&bench, Cause::StateStale, (2.04, 2.061), 3.0, 3.2);
    assert_good_observations(&bench);
}

#[test]
fn a_joint_that_jumps_for_a_moment_brakes_and_goes_on() {
    let bench = run(&["state_jump@2+0.02"], 5.0);
    let stops: Vec<_> = bench.between(1.0, f64::INFINITY).filter(|period| !is_moving(period.rung)).collect();
    assert!(!stops.is_empty() && stops.len() <= 3, "{:?}", bench.walk());
    assert!(stops.iter().all(|period| period.cause == Some(Cause::StateImplausible)));
    let told = bench.events.iter().find(|event| event.cause == Cause::StateImplausible).unwrap();
    assert_eq!(told.joint, Some(JUMPING_JOINT as u8));
}

#[test]
fn a_joint_that_keeps_reading_elsewhere_holds_and_no_chunk_is_asked_from_such_a_state() {
    for start in [2.0, 2.25, 2.5, 2.75] {
        let bench = run(&[&format!("state_jump@{start}+1")], 7.0);
        assert_stops_and_recovers(&bench, Cause::StateImplausible, (start, start + 0.011), start + 1.0, start + 1.4);
        assert_good_observations(&bench);
    }
}

#[test]
fn a_bus_that_fails_for_two_periods_brakes_and_goes_on() {
    let bench = run(&["bus_error@2+0.02"], 5.0);
    assert_eq!((bench.count(Cause::WriteFailed), bench.count(Cause::BusLost)), (1, 0));
    let refused = bench.writes().iter().filter(|write| write.result.is_err()).count();
    assert_eq!(refused, 4, "two periods, each with one retry");
    let stops: Vec<_> = bench.between(1.0, f64::INFINITY).filter(|period| !is_moving(period.rung)).collect();
    assert!(stops.iter().all(|period| period.cause == Some(Cause::WriteFailed)));
    assert!((1..=3).contains(&stops.len()), "{:?}", bench.walk());
    assert!(bench.control.latched().is_none());
}

#[test]
fn a_bus_that_keeps_failing_latches_a_stop_that_only_a_command_ends() {
    let mut bench = bench(&["bus_error@2+1"]);
    bench.run_to(5.0).check();
    let failures = f64::from(bench.spec.control.write_failures);
    assert_eq!(bench.control.latched(), Some(Cause::BusLost));
    assert_eq!((bench.count(Cause::WriteFailed), bench.count(Cause::BusLost)), (1, 1));
    let told = bench.events.iter().find(|event| event.cause == Cause::BusLost).unwrap();
    assert!(bench.seconds(told.now) <= 2.0 + failures * 0.01 + 1e-6);
    let stopped = bench.first(Rung::Stopped, 2.0).unwrap();
    assert!(stopped <= 2.0 + bench.spec.control.stop_time.as_secs_f64());
    assert!(bench.between(stopped, 5.0).all(|period| period.rung == Rung::Stopped), "{:?}", bench.walk());
    let asked = bench.asked().len();
    assert!(bench.asked().iter().all(|asked| bench.seconds(asked.at) < 2.1), "nothing is asked behind a latched stop");
    assert!(bench.clear_fault());
    bench.run_to(8.0).check();
    assert!(bench.asked().len() > asked);
    assert!(bench.first(Rung::Fresh, 5.0).is_some_and(|at| at < 5.3), "{:?}", bench.walk());
    bench.check_torque_stayed_on();
}

#[test]
fn a_late_chunk_is_bridged_by_the_rows_of_the_old_one() {
    let question = third_question();
    let bench = run(&[&format!("inference_stall@{question}+0.5")], 6.0);
    assert_never_stops(&bench);
    assert_eq!(bench.count(Cause::ChunkLate), 1);
    let counts = bench.control.counts().ladder;
    assert!((5..=30).contains(&counts.continued), "{counts:?}");
    assert_eq!(bench.count(Cause::NoRows), 0);
}

#[test]
fn without_rows_left_the_arm_brakes_holds_and_goes_on_from_there() {
    let question = third_question();
    let bench = run(&[&format!("inference_stall@{question}+1.5")], 7.0);
    // Seven rows are left when the question is asked.
    let end = question + 1.5;
    assert_stops_and_recovers(&bench, Cause::NoRows, (question + 0.6, question + 0.8), end - 0.01, end + 0.1);
    assert!(bench.count(Cause::ChunkLate) > 0);
    assert_eq!(bench.count(Cause::ChunkStale), 0, "the late chunk is young enough");
}

#[test]
fn a_chunk_that_comes_after_max_chunk_age_is_refused_and_another_asked() {
    let question = third_question();
    let bench = run(&[&format!("inference_stall@{question}+3")], 8.0);
    let end = question + 3.0;
    assert_stops_and_recovers(&bench, Cause::NoRows, (question + 0.6, question + 0.8), end, end + 0.3);
    assert_eq!(bench.count(Cause::ChunkStale), 1);
}

#[test]
fn latency_that_drifts_is_bridged_and_leaves_nothing_behind() {
    let bench = run(&["latency_drift@2+5"], 10.0);
    assert_never_stops(&bench);
    assert!(bench.count(Cause::ChunkLate) >= 2);
    assert!(bench.control.counts().deadline_misses >= 2);
    assert!(bench.between(8.5, 10.0).all(|period| period.rung == Rung::Fresh), "{:?}", bench.walk());
    // Left alone it ends in a hold, never in a jump.
    let bench = run(&["latency_drift@2"], 14.0);
    assert!(bench.count(Cause::NoRows) > 0 && bench.first(Rung::Held, 2.0).is_some());
}

/// What each output fault is refused as.
const OUTPUT_FAULTS: [(&str, &str); 5] = [
    ("output_nan", "non_finite"),
    ("output_inf", "non_finite"),
    ("output_huge", "out_of_range"),
    ("tokens_garbage", "undecodable"),
    ("tokens_truncated", "undecodable"),
];

#[test]
fn one_refused_output_leaves_the_old_chunk_playing() {
    let question = third_question();
    for (fault, kind) in OUTPUT_FAULTS {
        let bench = run(&[&format!("{fault}@{question}+0.03")], 5.0);
        assert_never_stops(&bench);
        assert_eq!(bench.inference.counts().causes.of(Cause::OutputRefused), 1, "{fault}");
        let refusal = bench.inference.counts().last_refusal.clone().unwrap();
        assert!(refusal.starts_with(kind), "{fault}: {refusal}");
        let answered: Vec<bool> = bench.asked().iter().map(|asked| asked.answered).collect();
        assert_eq!(answered[..4], [true, true, false, true], "{fault}");
    }
}

#[test]
fn outputs_refused_in_a_row_hold_and_the_step_down_is_told() {
    let question = third_question();
    for (fault, _) in OUTPUT_FAULTS {
        let bench = run(&[&format!("{fault}@{question}+2")], 7.0);
        let end = question + 2.0;
        // Three answers of 60 ms, asked one after the other.
        let third = question + 0.21;
        assert_stops_and_recovers(&bench, Cause::OutputRefused, (third - 0.06, third + 0.03), end, end + 0.3);
        let told: Vec<_> = bench.events.iter().filter(|event| event.cause == Cause::OutputRefused).collect();
        assert_eq!(told.len(), 1, "{fault}: the step down is told once");
        assert!(bench.inference.counts().causes.of(Cause::OutputRefused) >= 10);
    }
}

#[test]
fn a_step_of_device_stamps_stops_within_one_period() {
    let bench = run(&["clock_step@2+1"], 6.0);
    assert_stops_and_recovers(&bench, Cause::ClockStep, (2.0, 2.011), 3.0, 3.2);
    assert_good_observations(&bench);
    assert!(bench.count(Cause::StateStale) > 0, "after the step the stamps are old, not stepped");
}

#[test]
fn after_an_instruction_change_the_old_chunk_is_not_played_and_the_one_under_way_is_refused() {
    let question = third_question();
    let change = ((question + 0.2) * 100.0).round() / 100.0;
    let latency = Duration::from_millis(400);
    let mut bench = Bench::new(Setup {
        faults: vec![format!("instruction_change@{change}")],
        latency: LatencyModel::Fixed(latency),
        ..Setup::default()
    });
    bench.run_to(7.0).check();
    bench.check_torque_stayed_on();
    assert_eq!(bench.inference.instruction(), INSTRUCTIONS[1]);
    let asked = bench.asked();
    let last_old = asked.iter().rev().find(|asked| asked.epoch == Epoch(0)).unwrap();
    let first_new = asked.iter().find(|asked| asked.epoch == Epoch(1)).unwrap();
    let under_way = last_old.at.saturating_add(latency) > bench.start.saturating_add(Duration::from_secs_f64(change));
    assert!(under_way, "the test needs a chunk under way at the change");
    assert_eq!((bench.count(Cause::InstructionChange), bench.count(Cause::ChunkEpoch)), (1, 1));
    let answered = bench.seconds(first_new.at) + latency.as_secs_f64();
    let walk = bench.walk();
    assert!(bench.between(change, answered).all(|period| !is_moving(period.rung)), "{walk:?}");
    let held = bench.first(Rung::Held, change);
    assert!(held.is_some_and(|at| at - change <= bench.spec.control.stop_time.as_secs_f64()), "{walk:?}");
    assert!(bench.first(Rung::Fresh, answered).is_some_and(|at| at <= answered + 0.02), "{walk:?}");
    // It goes the other way now.
    let at = |seconds: f64| bench.between(seconds, f64::INFINITY).next().unwrap().position_rad[0];
    assert!(at(answered + 1.5) < at(answered) - 0.1);
}

#[test]
fn an_estop_brakes_in_its_period_and_stays_until_it_is_cleared() {
    let mut bench = bench(&["estop@2+0.3"]);
    bench.run_to(2.05);
    assert!(!bench.clear_fault(), "a moving arm's stop is not cleared");
    bench.run_to(4.0).check();
    let walk = bench.walk();
    let first = bench.between(2.0, f64::INFINITY).next().unwrap();
    assert_eq!((first.rung, first.cause), (Rung::Decelerated, Some(Cause::Estop)), "{walk:?}");
    let stopped = bench.first(Rung::Stopped, 2.0).unwrap();
    assert!(stopped - 2.0 <= bench.spec.control.stop_time.as_secs_f64(), "{walk:?}");
    assert!(bench.between(stopped, 4.0).all(|period| period.rung == Rung::Stopped), "{walk:?}");
    assert_eq!(bench.count(Cause::Estop), 1);
    let before = bench.periods.last().unwrap().position_rad;
    assert!(bench.clear_fault());
    assert_eq!(bench.control.commanded().position_rad, before, "an arm with torque keeps its goal");
    assert!(!bench.clear_fault(), "there is nothing left to clear");
    bench.run_to(7.0).check();
    bench.check_torque_stayed_on();
    assert!(bench.first(Rung::Fresh, 4.0).is_some_and(|at| at < 4.3), "{:?}", bench.walk());
}

#[test]
fn what_was_played_before_an_estop_is_not_played_on_after_it() {
    let mut bench = bench(&["estop@2+0.1"]);
    bench.run_to(3.0);
    assert!(bench.clear_fault());
    let asked = bench.asked().len();
    bench.run_to(6.0).check();
    let next = bench.seconds(bench.asked()[asked].at);
    assert!(bench.between(3.01, next + 0.06).all(|period| !is_moving(period.rung)), "{:?}", bench.walk());
    assert!(is_moving(bench.periods.last().unwrap().rung));
}

#[test]
fn an_estop_pressed_again_stops_again() {
    let mut bench = bench(&["estop@2+0.1", "estop@4+0.1"]);
    bench.run_to(3.5);
    assert!(bench.clear_fault());
    bench.run_to(6.0).check();
    assert_eq!(bench.count(Cause::Estop), 2);
    assert_eq!(bench.periods.last().unwrap().rung, Rung::Stopped);
    bench.check_torque_stayed_on();
}

#[test]
fn an_estop_of_category_torque_off_goes_limp_only_at_rest_and_starts_again_from_where_the_arm_fell() {
    let faults = vec!["estop@2+0.1".to_owned()];
    let mut bench = Bench::new(Setup { faults, stop_category: StopCategory::TorqueOff, ..Setup::default() });
    bench.run_to(4.0).check();
    let stopped = bench.first(Rung::Stopped, 2.0).unwrap();
    let torque = bench.torque();
    assert_eq!(torque.iter().map(|(_, on)| *on).collect::<Vec<_>>(), [true, false]);
    assert!((torque[1].0 - stopped).abs() < 1e-6, "off at rest, in the period that reached it: {torque:?}");
    let held = bench.periods.last().unwrap().position_rad;
    let fallen = bench.world.joints_rad();
    let sagged = held.iter().zip(fallen).map(|(held, fallen)| (held - fallen).abs()).fold(0.0, f64::max);
    assert!(sagged > 0.1, "the limp arm falls: {sagged}");
    assert!(bench.clear_fault());
    assert_eq!(bench.torque().last().map(|(_, on)| *on), Some(true), "leaving the stop switches torque on");
    for (commanded, fallen) in bench.control.commanded().position_rad.iter().zip(fallen) {
        assert!((commanded - fallen).abs() < 0.03, "commands start from where the arm is, not from where it was");
    }
    bench.run_to(7.0).check();
    assert!(is_moving(bench.periods.last().unwrap().rung), "{:?}", bench.walk());
}

#[test]
fn other_latched_stops_never_switch_torque_off() {
    let faults = vec!["bus_error@2+0.5".to_owned()];
    let mut bench = Bench::new(Setup { faults, stop_category: StopCategory::TorqueOff, ..Setup::default() });
    bench.run_to(4.0).check();
    assert_eq!(bench.control.latched(), Some(Cause::BusLost));
    bench.check_torque_stayed_on();
}

#[test]
fn no_mixture_of_faults_makes_a_command_jump_or_keeps_the_robot_from_going_on() {
    // A linear congruential generator (Knuth's MMIX constants): the mixtures are the same every time.
    let mut state = 7u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for mixture in 0..16 {
        let faults: Vec<String> = (0..4)
            .map(|_| {
                let kind = FaultKind::ALL[draw(FaultKind::ALL.len() as u64) as usize];
                let camera = match (kind.needs_camera(), draw(2)) {
                    (false, _) => "",
                    (true, 0) => ":front",
                    (true, _) => ":wrist",
                };
                let (start, duration) = (500 + draw(4500), 20 + draw(1500));
                format!("{}{camera}@{}+{}", kind.name(), start as f64 / 1e3, duration as f64 / 1e3)
            })
            .collect();
        let mut bench = Bench::new(Setup { faults: faults.clone(), seed: 1_000_000 + mixture, ..Setup::default() });
        println!("{faults:?}");
        bench.run_to(7.5).check();
        bench.clear_fault();
        bench.run_to(10.5).check();
        bench.check_torque_stayed_on();
        assert!(bench.between(9.5, 10.5).all(|period| is_moving(period.rung)), "{faults:?}: {:?}", bench.walk());
        assert_good_observations(&bench);
    }
}
