//! The simulated robot as its users see it: through the hardware traits.
#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::time::Duration;

use endplate_hal::{
    Arm, BusError, Camera, CameraError, CommandMode, Frame, Instant, JointCommand, JointVec, RobotSpec, SafeCommand,
    SafetyFilter, robots,
};
use endplate_sim::fault::{Fault, FaultPlan};
use endplate_sim::look::Look;
use endplate_sim::model::{JOINT_NAMES, JOINTS, Model};
use endplate_sim::robot::{SimArm, SimCamera, SimError, SimOptions, SimRobot};
use endplate_sim::scene::Scene;

const START: Instant = Instant::from_nanos(5_000_000_000);

fn at_ms(millis: u64) -> Instant {
    START.saturating_add(Duration::from_millis(millis))
}

fn spec() -> RobotSpec {
    RobotSpec::from_toml_str(robots::SO101_SIM, "so101_sim.toml").unwrap()
}

fn options(faults: &[&str]) -> SimOptions {
    let faults = faults.iter().map(|text| Fault::parse(text).unwrap()).collect();
    SimOptions { faults: Arc::new(FaultPlan::new(faults)), ..SimOptions::from_spec(&spec()) }
}

fn robot(faults: &[&str]) -> (SimRobot, SimArm, Vec<SimCamera>) {
    let model = Arc::new(Model::so101_like().unwrap());
    let robot = SimRobot::new(model, &Scene::sample(2_000_000), options(faults), START).unwrap();
    (robot.clone(), robot.arm(), robot.cameras())
}

/// Commands that hold a pose, made by the only thing that can make them.
struct Holder {
    filter: SafetyFilter,
    pose: JointVec,
}

impl Holder {
    fn new(robot: &SimRobot) -> Self {
        let pose = JointVec::from_slice(&robot.goal_rad()).unwrap();
        Self { filter: SafetyFilter::new(spec().safety_limits(), &pose).unwrap(), pose }
    }

    fn command(&mut self, now: Instant, valid_for_ms: u64) -> SafeCommand {
        let valid_until = now.saturating_add(Duration::from_millis(valid_for_ms));
        let command = JointCommand { mode: CommandMode::Position, target: self.pose, valid_until };
        self.filter.filter(now, &command).0
    }
}

#[test]
fn the_robot_description_and_the_model_name_the_same_joints() {
    let names: Vec<String> = spec().joints.iter().map(|joint| joint.name.clone()).collect();
    assert_eq!(names, JOINT_NAMES);
}

#[test]
fn frames_come_at_their_rate_with_their_lag_and_never_early() {
    let (robot, _, mut cameras) = robot(&[]);
    let mut stamps = [Vec::new(), Vec::new()];
    let mut frames = [Frame::new(96, 96), Frame::new(96, 96)];
    for millis in 0..2000 {
        let now = at_ms(millis);
        robot.advance_to(now);
        for (index, camera) in cameras.iter_mut().enumerate() {
            let before = frames[index].sequence;
            if camera.capture(now, &mut frames[index]).unwrap() {
                let frame = &frames[index];
                assert_eq!(frame.sequence, before + 1);
                assert_eq!(frame.available, frame.captured.saturating_add(Duration::from_millis(20)));
                assert!(frame.available <= now);
                // Handed out within the millisecond of this loop.
                assert!(now.duration_since(frame.available) <= Duration::from_millis(1));
                stamps[index].push(frame.captured);
            }
        }
    }
    for stamps in &stamps {
        assert!((59..=60).contains(&stamps.len()), "{} frames in 2 s", stamps.len());
        for pair in stamps.windows(2) {
            let gap = pair[1].duration_since(pair[0]).as_millis();
            assert!((32..=36).contains(&gap), "{gap} ms between frames");
        }
    }
    assert_ne!(stamps[0][0], stamps[1][0], "cameras have a phase of their own");
}

#[test]
fn a_buffer_of_another_size_is_refused() {
    let (robot, _, mut cameras) = robot(&[]);
    robot.advance_to(at_ms(100));
    let error = cameras[0].capture(at_ms(100), &mut Frame::new(64, 64));
    assert_eq!(error, Err(CameraError::WrongSize { width: 96, height: 96 }));
}

#[test]
fn two_runs_are_equal_bit_for_bit_even_after_another_episode() {
    let run = |warm_up: bool| {
        let (robot, mut arm, mut cameras) = robot(&[]);
        if warm_up {
            robot.reset(&Scene::sample(9), START);
            robot.advance_to(at_ms(700));
        }
        robot.reset(&Scene::sample(3), START);
        let mut holder = Holder::new(&robot);
        holder.pose[1] += 0.2;
        let mut frame = Frame::new(96, 96);
        let mut seen = Vec::new();
        for tick in 0..150 {
            let now = at_ms(tick * 10);
            robot.advance_to(now);
            let state = arm.read(now).unwrap();
            assert_eq!(state.stamp, now);
            seen.extend(state.position_rad.iter().chain(state.velocity_rad_s.iter()).map(|x| x.to_bits()));
            if cameras[1].capture(now, &mut frame).unwrap() {
                seen.extend(frame.data.iter().map(|&byte| u64::from(byte)));
            }
            arm.write(now, &holder.command(now, 50)).unwrap();
        }
        seen.extend(robot.cubes().iter().flat_map(|cube| cube.position_m).map(f64::to_bits));
        seen
    };
    let first = run(false);
    assert_eq!(first, run(false));
    assert_eq!(first, run(true));
}

#[test]
fn images_drawn_on_demand_are_those_drawn_when_taken() {
    let faults = ["camera_freeze:wrist@0.5+0.4", "camera_duplicate:front@0.3+0.5", "camera_drop:wrist@1.1+0.1"];
    let model = Arc::new(Model::so101_like().unwrap());
    let robot = |draws_on_demand| {
        let options = SimOptions { draws_on_demand, ..options(&faults) };
        SimRobot::new(Arc::clone(&model), &Scene::sample(7), options, START).unwrap()
    };
    let (taken, asked) = (robot(false), robot(true));
    let (mut drawn, mut at_once, mut put_off) = (taken.cameras(), asked.cameras(), asked.cameras_that_put_off());
    let mut frames = [(); 3].map(|()| [Frame::new(96, 96), Frame::new(96, 96)]);
    let (mut looked, mut repeated) = (0, 0);
    for tick in 0..150 {
        let now = at_ms(tick * 10);
        if tick == 75 {
            // Light and colours change; what was taken before keeps its own.
            for robot in [&taken, &asked] {
                robot.set_look(Look::sample(3, 2));
                robot.latch_goal(1, 0.4);
            }
        }
        taken.advance_to(now);
        asked.advance_to(now);
        for index in 0..2 {
            let [a, b, c] = frames.each_mut().map(|frames| &mut frames[index]);
            let before = a.sequence;
            let news = drawn[index].capture(now, a).unwrap();
            assert_eq!(at_once[index].capture(now, b), Ok(news));
            assert_eq!(put_off[index].capture(now, c), Ok(news));
            repeated += u32::from(news && before == a.sequence);
            assert_eq!(a, b);
            // Looked at seldom, and some time after it was taken.
            if tick % 7 == 0 {
                put_off[index].develop(c);
                assert_eq!(a, c, "camera {index} at {tick}");
                looked += u32::from(a.sequence > 0);
            }
        }
    }
    assert!(looked > 30 && repeated > 10, "{looked} looked at, {repeated} handed out again");
}

#[test]
fn servos_sag_under_load_and_report_counts() {
    let (robot, mut arm, _) = robot(&[]);
    robot.advance_to(at_ms(1000));
    let state = arm.read(at_ms(1000)).unwrap();
    let goal = robot.goal_rad();
    let sag = (0..JOINTS).map(|j| (state.position_rad[j] - goal[j]).abs()).fold(0.0, f64::max);
    assert!((0.005..0.1).contains(&sag), "sag {sag} rad");
    for &angle in state.position_rad.iter() {
        let counts = angle / core::f64::consts::TAU * 4096.0;
        assert!((counts - counts.round()).abs() < 1e-9);
    }
}

#[test]
fn a_goal_is_latched_and_a_late_command_refused() {
    let (robot, mut arm, _) = robot(&[]);
    let mut holder = Holder::new(&robot);
    holder.pose[0] += 0.3;
    let mut last = None;
    for tick in 1..=100 {
        let now = at_ms(tick * 10);
        robot.advance_to(now);
        let command = holder.command(now, 50);
        let late = now.saturating_add(Duration::from_millis(51));
        assert_eq!(arm.write(late, &command), Err(BusError::Expired));
        let sent = arm.write(now, &command).unwrap();
        for (sent, wanted) in sent.position_rad.iter().zip(command.position_rad()) {
            assert!((sent - wanted).abs() <= core::f64::consts::TAU / 4096.0 / 2.0 + 1e-12);
        }
        last = Some(sent);
    }
    // Nothing is written for two seconds: the arm stays where it was sent.
    robot.advance_to(at_ms(3000));
    let state = arm.read(at_ms(3000)).unwrap();
    assert!((state.position_rad[0] - last.unwrap().position_rad[0]).abs() < 0.02);
    assert!(state.velocity_rad_s.iter().all(|v| v.abs() < 0.02));
}

#[test]
fn without_torque_the_arm_falls_and_refuses_commands() {
    let (robot, mut arm, _) = robot(&[]);
    let mut holder = Holder::new(&robot);
    let before = arm.read(START).unwrap().position_rad[1];
    arm.set_torque(START, false).unwrap();
    robot.advance_to(at_ms(1500));
    let after = arm.read(at_ms(1500)).unwrap().position_rad[1];
    assert!((after - before).abs() > 0.1, "the shoulder moved by {} rad", after - before);
    let command = holder.command(at_ms(1500), 50);
    assert_eq!(arm.write(at_ms(1500), &command), Err(BusError::Refused { servo: 0 }));
    arm.set_torque(at_ms(1500), true).unwrap();
    assert!((robot.goal_rad()[1] - after).abs() < 1e-9, "no jump when torque returns");
}

/// Capture stamp in ms since the start, sequence, digest of the image.
type Delivered = (i64, u64, u64);

/// Every delivery of the front camera in 1.5 s while the arm moves.
fn deliveries(faults: &[&str]) -> (Vec<Delivered>, Vec<(String, u64)>) {
    let (robot, mut arm, mut cameras) = robot(faults);
    let mut holder = Holder::new(&robot);
    let mut frame = Frame::new(96, 96);
    let mut seen = Vec::new();
    for millis in 0..1500 {
        let now = at_ms(millis);
        robot.advance_to(now);
        if millis % 10 == 0 {
            holder.pose[0] += 0.004;
            arm.write(now, &holder.command(now, 50)).unwrap();
        }
        if cameras[0].capture(now, &mut frame).unwrap() {
            let digest = frame.data.iter().fold(0u64, |d, &b| d.wrapping_mul(31).wrapping_add(u64::from(b)));
            seen.push(((frame.captured.seconds_since(START) * 1e3).round() as i64, frame.sequence, digest));
        }
    }
    (seen, robot.faults().counts())
}

#[test]
fn dropped_frames_leave_a_gap_in_the_sequence() {
    let (seen, counts) = deliveries(&["camera_drop:front@0.5+0.5"]);
    assert!(seen.iter().all(|&(captured, ..)| !(500..1000).contains(&captured)));
    let gap = seen.windows(2).map(|pair| pair[1].1 - pair[0].1).max();
    assert_eq!(gap, Some(16), "15 frames lost");
    assert_eq!(counts, [("camera_drop:front".to_owned(), 15)]);
}

#[test]
fn a_frozen_camera_stamps_one_image_again_and_again() {
    let (seen, counts) = deliveries(&["camera_freeze:front@0.5+0.5"]);
    let frozen: Vec<_> = seen.iter().filter(|(captured, ..)| (500..1000).contains(captured)).collect();
    assert_eq!(frozen.len(), 15);
    assert!(frozen.iter().all(|(_, sequence, digest)| (*sequence, *digest) == (frozen[0].1, frozen[0].2)));
    assert_eq!(counts[0].1, 15);
    let (healthy, _) = deliveries(&[]);
    assert!(healthy.windows(2).all(|pair| pair[0].2 != pair[1].2), "a moving scene changes every image");
}

#[test]
fn duplicates_repeat_stamp_and_sequence() {
    let (seen, _) = deliveries(&["camera_duplicate:front@0.5+0.5"]);
    let repeated = seen.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!((7..=8).contains(&repeated), "{repeated} repeated");
    let (healthy, _) = deliveries(&[]);
    assert_eq!(healthy.windows(2).filter(|pair| pair[0] == pair[1]).count(), 0);
}

#[test]
fn stamps_may_lie_in_the_future_or_step_back() {
    let (future, _) = deliveries(&["camera_future_stamp:front@0.5+0.5"]);
    let (stepped, _) = deliveries(&["clock_step@0.9"]);
    let (healthy, _) = deliveries(&[]);
    for (index, &(captured, ..)) in healthy.iter().enumerate() {
        let expected = captured + if (500..1000).contains(&captured) { 179 } else { 0 };
        assert_eq!(future[index].0, expected);
        assert_eq!(stepped[index].0, captured - if captured >= 900 { 500 } else { 0 });
    }
}

#[test]
fn bus_faults_reach_the_bus_and_are_counted() {
    let (robot, mut arm, _) =
        robot(&["state_loss@0.1+0.1", "state_jump@0.3+0.1", "bus_error@0.5+0.1", "clock_step@0.7"]);
    let mut holder = Holder::new(&robot);
    let healthy = arm.read(START).unwrap().position_rad;
    for tick in 0..80 {
        let now = at_ms(tick * 10);
        robot.advance_to(now);
        match arm.read(now) {
            Err(error) => {
                assert!((10..20).contains(&tick));
                assert_eq!(error, BusError::Timeout { servo: 0 });
            }
            Ok(state) => {
                assert!(!(10..20).contains(&tick));
                let jumped = (state.position_rad[2] - healthy[2]).abs() > 0.5;
                assert_eq!(jumped, (30..40).contains(&tick));
                let late_ms = now.duration_since(state.stamp).as_millis();
                assert_eq!(late_ms, if tick >= 70 { 500 } else { 0 });
            }
        }
        assert_eq!(arm.write(now, &holder.command(now, 50)).is_err(), (50..60).contains(&tick));
    }
    let counts: Vec<u64> = robot.faults().counts().into_iter().map(|(_, count)| count).collect();
    // The clock step strikes 10 joint states and the frames of both cameras.
    assert_eq!(counts[..3], [10, 10, 10]);
    assert!(counts[3] > 10);
}

#[test]
fn a_fault_on_an_unknown_camera_is_refused_by_name() {
    let model = Arc::new(Model::so101_like().unwrap());
    let result = SimRobot::new(model, &Scene::sample(0), options(&["camera_drop:side@1"]), START);
    let Err(SimError::FaultCamera { fault, known }) = result else { panic!("accepted") };
    assert_eq!((fault.as_str(), known.len()), ("camera_drop:side", 2));
}

#[test]
fn a_moving_cube_goes_where_its_seed_says_stays_flat_and_leaves_the_others_alone() {
    use endplate_sim::moving::CubeMotion;
    let (mut drifted, mut shoved) = (0, 0);
    for seed in 0..8 {
        let (robot, _, _) = robot(&[]);
        let scene = Scene { start_rad: Scene::sample(2_000_000).start_rad, ..Scene::sample(seed) };
        robot.reset(&scene, START);
        let before = robot.cubes();
        let motion = CubeMotion::sample(seed, 1);
        let (cube, end, is_shove) = (motion.cube(), motion.end(), motion.is_shove());
        robot.set_motion(motion);
        robot.advance_to(START.saturating_add(end + Duration::from_millis(500)));
        let after = robot.cubes();
        let moved = |cube: usize| {
            let (a, b) = (before[cube].position_m, after[cube].position_m);
            (a[0] - b[0]).hypot(a[1] - b[1])
        };
        if is_shove {
            shoved += 1;
        } else {
            drifted += 1;
        }
        // Legs may lead back, or end where the hand stands.
        assert!(moved(cube) > 0.005, "seed {seed}: moved by {} m", moved(cube));
        for other in (0..3).filter(|other| *other != cube) {
            assert!(moved(other) < 0.002, "seed {seed}: cube {other} moved by {} m", moved(other));
        }
        assert!((after[cube].position_m[2] - before[cube].position_m[2]).abs() < 0.002, "seed {seed}");
    }
    assert!(drifted > 0 && shoved > 0);
}
