//! A node and its peer over whichever middleware: round trips without a loss, services, lifecycle, parameters, images, and
//! a named finding for what would be silence.
#![allow(dead_code, missing_docs)] // each backend's tests use what they need

use endplate_hal::{
    Arm, Camera, Clock, Frame, HeldCause, JointLimits, MonotonicClock, SafeCommand, SafetyFilter, SafetyLimits,
};
use endplate_ros2::interface::*;
use endplate_ros2::message::Stamp;
use endplate_ros2::node::{
    CameraTopic, Lost, NodeServer, NodeTime, Order, OutputKind, ParameterStore, TopicArm, TopicArmOptions, TopicCamera,
    Value,
};
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::{Client, Transport, TransportError};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A robot and a policy on one middleware.
pub type Pair = (Arc<dyn Transport>, Arc<dyn Transport>);

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn bytes<'a>(message: &impl Wire<'a>) -> Vec<u8> {
    let mut buffer = Vec::new();
    encode_into(message, &mut buffer).unwrap().to_vec()
}

fn now() -> Stamp {
    Stamp::since_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap()).unwrap()
}

pub fn state(names: &[&str], position: &[f64]) -> Vec<u8> {
    bytes(&JointState {
        header: Header { stamp: now(), frame_id: "" },
        name: names.into(),
        position: position.into(),
        ..Default::default()
    })
}

pub fn two_thousand_round_trips_lose_nothing((robot, policy): Pair) {
    let (echo, echoed) = channel();
    let back = Mutex::new(policy.publisher("/back", Float64MultiArray::TYPE, Qos::COMMAND).unwrap());
    let _there = policy
        .subscribe(
            "/there",
            JointState::TYPE,
            Qos::LATEST,
            Box::new(move |message, _| {
                let position: Vec<f64> = decode::<JointState>(message).unwrap().position.iter().collect();
                let answer = Float64MultiArray { data: (&position).into(), ..Default::default() };
                back.lock().unwrap().publish(&bytes(&answer)).unwrap();
            }),
        )
        .unwrap();
    let _here = robot
        .subscribe(
            "/back",
            Float64MultiArray::TYPE,
            Qos::LATEST,
            Box::new(move |message, _| {
                echo.send(decode::<Float64MultiArray>(message).unwrap().data.iter().next().unwrap()).unwrap();
            }),
        )
        .unwrap();
    let mut there = robot.publisher("/there", JointState::TYPE, Qos::SYSTEM).unwrap();
    eventually("the first echo", || {
        there.publish(&state(&["a"], &[-1.0])).unwrap();
        echoed.recv_timeout(Duration::from_millis(50)).is_ok()
    });
    while echoed.recv_timeout(Duration::from_millis(200)).is_ok() {}
    for round in 0..2000 {
        there.publish(&state(&["a", "b"], &[f64::from(round), 0.5])).unwrap();
        assert_eq!(echoed.recv_timeout(PATIENCE), Ok(f64::from(round)));
    }
    assert_eq!((robot.malformed(), policy.malformed()), (0, 0));
    assert_eq!((robot.findings(), policy.findings()), (vec![], vec![]));
}

/// `tells_hashes`: a wrong hash is seen in the graph.
pub fn every_reason_for_silence_is_a_finding((robot, policy): Pair, tells_hashes: bool) {
    let wrong_hash = endplate_ros2::message::MessageType { hash: "RIHS01_0000", ..JointState::TYPE };
    let _publisher = robot.publisher("/joint_states", wrong_hash, Qos::SYSTEM).unwrap();
    let _other = robot.publisher("/front/image_raw", CompressedImage::TYPE, Qos::SENSOR).unwrap();
    let nothing = || Box::new(|_: &[u8], _| {}) as endplate_ros2::transport::OnMessage;
    let _states = policy.subscribe("/joint_states", JointState::TYPE, Qos::LATEST, nothing()).unwrap();
    let _images = policy.subscribe("/front/image_raw", Image::TYPE, Qos::LATEST, nothing()).unwrap();
    let _strict = policy.subscribe("/front/image_raw", CompressedImage::TYPE, Qos::COMMAND, nothing()).unwrap();
    let _commands = policy.publisher("/position_controller/commands", Float64MultiArray::TYPE, Qos::COMMAND).unwrap();
    let mut lines: Vec<String> = Vec::new();
    eventually("all findings", || {
        lines = policy.findings().iter().map(ToString::to_string).collect();
        lines.len() >= if tells_hashes { 6 } else { 4 }
    });
    let all = lines.join("\n");
    let hash = "subscription /joint_states and node /robot never meet: the type hash here is RIHS01_a13e";
    assert_eq!(all.contains(hash), tells_hashes, "{all}");
    for expected in [
        "publisher /position_controller/commands: nobody is at the other end",
        "subscription /front/image_raw and node /robot never meet: the type here is sensor_msgs::msg::dds_::Image_",
        "subscription /front/image_raw and node /robot never meet: reliability",
    ] {
        assert!(all.contains(expected), "{expected}\n{all}");
    }
}

struct Asker(Box<dyn Client>);

impl Asker {
    fn new<S: Service>(transport: &dyn Transport, name: &str) -> Self {
        Self(transport.client(name, S::TYPE).unwrap())
    }

    /// Services take a moment to be reached.
    fn ask<'a>(&mut self, request: &impl Wire<'a>) -> Vec<u8> {
        let request = bytes(request);
        let mut answer = None;
        eventually("an answer", || {
            answer = self.0.call(&request, Duration::from_secs(2)).ok();
            answer.is_some()
        });
        answer.unwrap()
    }
}

pub fn lifecycle_parameters_and_switches_are_served_and_become_orders((robot, policy): Pair) {
    let parameter =
        |name, value, is_live| endplate_ros2::node::Parameter { name, about: "x", value, is_live, is_read_only: false };
    let store = ParameterStore::new(vec![
        parameter("instruction", Value::Text("pick".into()), true),
        parameter("diagnostics_hz", Value::Double(1.0), false),
        parameter("joints", Value::Texts(vec!["a".into(), "b".into()]), false),
    ]);
    let (server, orders) = NodeServer::start(&*policy, store, NodeTime::default()).unwrap();
    let server = Arc::new(server);
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let _events = robot
        .subscribe(
            "/policy/transition_event",
            TransitionEvent::TYPE,
            Qos::DEFAULT,
            Box::new(move |message, _| {
                seen.lock().unwrap().push(decode::<TransitionEvent>(message).unwrap().goal_state.label.to_owned());
            }),
        )
        .unwrap();
    let owner = Arc::clone(&server);
    let thread = std::thread::spawn(move || {
        let mut told = Vec::new();
        for order in orders {
            match order {
                Order::Step(step, reply) => {
                    owner.enter(step);
                    reply(true, "");
                }
                Order::Estop(reply) => reply(true, "stopping"),
                Order::Enable(on, reply) => reply(!on, "not now"),
                Order::Instruct(text) if text == "end" => return told,
                Order::Instruct(text) => told.push(text),
                Order::Set(name, value) => told.push(format!("{name} = {value:?}")),
                Order::Reset(reply) => reply(false, "still stopping"),
            }
        }
        told
    });
    let mut change = Asker::new::<ChangeState>(&*robot, "/policy/change_state");
    let mut step = |id, label| {
        let answer = change.ask(&ChangeStateRequest { transition: Transition { id, label } });
        decode::<ChangeStateResponse>(&answer).unwrap().success
    };
    let mut get = Asker::new::<GetState>(&*robot, "/policy/get_state");
    assert!(!step(3, ""), "activate from unconfigured");
    assert!(step(1, "configure"));
    assert!(step(0, "activate"));
    let answer = get.ask(&Empty);
    assert_eq!(decode::<GetStateResponse>(&answer).unwrap().current_state, State { id: 3, label: "active" });
    let mut transitions = Asker::new::<GetAvailableTransitions>(&*robot, "/policy/get_available_transitions");
    let answer = transitions.ask(&Empty);
    let now: GetAvailableTransitionsResponse = decode(&answer).unwrap();
    assert_eq!(now.available_transitions.iter().map(|step| step.transition.id).collect::<Vec<_>>(), [4, 7]);
    eventually("both events", || *events.lock().unwrap() == ["inactive", "active"]);

    let mut list = Asker::new::<ListParameters>(&*robot, "/policy/list_parameters");
    let answer = list.ask(&ListParametersRequest::default());
    let found: ListParametersResponse = decode(&answer).unwrap();
    assert_eq!(found.result.names.iter().collect::<Vec<_>>(), ["instruction", "diagnostics_hz", "joints"]);
    let mut get = Asker::new::<GetParameters>(&*robot, "/policy/get_parameters");
    let answer = get.ask(&NamesRequest { names: (&["joints", "nothing"]).into() });
    let values: Vec<ParameterValue> = decode::<GetParametersResponse>(&answer).unwrap().values.iter().collect();
    assert_eq!(values[0].string_array_value.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(values[1].r#type, 0, "an unknown parameter is not set");
    let mut set = Asker::new::<SetParameters>(&*robot, "/policy/set_parameters");
    let text = ParameterValue { r#type: 4, string_value: "grab", ..Default::default() };
    let double = ParameterValue { r#type: 3, double_value: 5.0, ..Default::default() };
    let asked = [Parameter { name: "instruction", value: text }, Parameter { name: "diagnostics_hz", value: double }];
    let answer = set.ask(&SetParametersRequest { parameters: (&asked).into() });
    let results: Vec<SetParametersResult> = decode::<SetParametersResponse>(&answer).unwrap().results.iter().collect();
    assert!(results[0].successful);
    assert!(!results[1].successful && results[1].reason.contains("frozen while the node is active"));
    let mut atomically = Asker::new::<SetParametersAtomically>(&*robot, "/policy/set_parameters_atomically");
    let answer = atomically.ask(&SetParametersRequest { parameters: (&asked).into() });
    let result = decode::<SetParametersAtomicallyResponse>(&answer).unwrap().result;
    assert!(!result.successful, "all or none");

    let mut estop = Asker::new::<Trigger>(&*robot, "/policy/estop");
    let answer = estop.ask(&Empty);
    assert_eq!(decode::<Outcome>(&answer), Ok(Outcome { success: true, message: "stopping" }));
    let mut enable = Asker::new::<SetBool>(&*robot, "/policy/enable");
    let answer = enable.ask(&SetBoolRequest { data: true });
    assert_eq!(decode::<Outcome>(&answer), Ok(Outcome { success: false, message: "not now" }));

    let mut instruction = robot.publisher("/policy/instruction", Text::TYPE, Qos::DEFAULT).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    instruction.publish(&[0, 1, 0, 0, 9]).unwrap();
    for text in ["lift the red cube", "end"] {
        instruction.publish(&bytes(&Text { data: text })).unwrap();
    }
    assert_eq!(thread.join().unwrap(), ["instruction = Text(\"grab\")", "lift the red cube"]);
    assert_eq!(server.refused(), 1, "the instruction that is no string");
    let mut nobody = robot.client("/policy/nothing", Trigger::TYPE).unwrap();
    assert!(matches!(nobody.call(&bytes(&Empty), Duration::from_millis(100)), Err(TransportError::NoAnswer { .. })));
}

fn filter() -> SafetyFilter {
    let joint = JointLimits {
        lower_rad: -2.0,
        upper_rad: 2.0,
        velocity_rad_s: 3.0,
        acceleration_rad_s2: 30.0,
        jerk_rad_s3: 3000.0,
    };
    let limits = SafetyLimits {
        period: Duration::from_millis(10),
        command_valid: Duration::from_millis(200),
        joints: vec![joint; 2],
        workspace: None,
    };
    SafetyFilter::new(limits, &[0.25, -0.5]).unwrap()
}

fn hold(filter: &mut SafetyFilter, clock: &MonotonicClock) -> SafeCommand {
    filter.brake(clock.now(), HeldCause::Asked).0
}

pub fn an_arm_over_topics_reads_by_name_commands_only_when_open_and_closes_when_the_robot_is_replaced(
    (robot, policy): Pair,
) {
    let clock = Arc::new(MonotonicClock::new());
    let options = TopicArmOptions {
        joints: vec!["pan".into(), "lift".into()],
        limits_rad_s: vec![2.0, 2.0],
        state_topic: "/joint_states".into(),
        output: OutputKind::ForwardPosition,
        command_topic: "/position_controller/commands".into(),
        controller_joints: vec!["lift".into(), "pan".into()],
        period: Duration::from_millis(10),
        lost_after: Duration::from_secs(5),
        time: NodeTime::default(),
    };
    let (mut arm, link) = TopicArm::connect(&*policy, options, clock.clone()).unwrap();
    let (commanded, commands) = channel();
    let _commands = robot
        .subscribe(
            "/position_controller/commands",
            Float64MultiArray::TYPE,
            Qos::SYSTEM,
            Box::new(move |message, _| {
                let data: Vec<f64> = decode::<Float64MultiArray>(message).unwrap().data.iter().collect();
                commanded.send(data).unwrap();
            }),
        )
        .unwrap();
    let mut states = robot.publisher("/joint_states", JointState::TYPE, Qos::SYSTEM).unwrap();
    assert!(arm.read(clock.now()).is_err(), "no state is made up");
    eventually("a joint state", || {
        states.publish(&state(&["lift", "pan"], &[1.0, 2.0])).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        arm.read(clock.now()).is_ok()
    });
    let read = arm.read(clock.now()).unwrap();
    assert_eq!(&read.position_rad[..], [2.0, 1.0]);
    assert!(clock.now().duration_since(read.stamp) < Duration::from_secs(2));
    states.publish(&state(&["lift"], &[1.0])).unwrap();
    eventually("the complaint", || link.complaint().is_some_and(|text| text.contains("\"pan\"")));
    let before = link.counts().states;
    states.publish(&state(&["lift", "pan"], &[1.0, f64::NAN])).unwrap();
    eventually("the complaint", || {
        link.complaint().is_some_and(|text| text.contains("position of joint \"pan\" is NaN"))
    });
    states.publish(&state(&["lift", "pan", "lift"], &[1.0, 2.0, 3.0])).unwrap();
    eventually("the complaint", || link.complaint().is_some_and(|text| text.contains("\"lift\"")));
    // The count of names stands behind the header, the stamp and an empty frame.
    let mut absurd = state(&["lift", "pan"], &[1.0, 2.0]);
    absurd[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    states.publish(&absurd).unwrap();
    eventually("the complaint", || link.complaint().is_some_and(|text| text.contains("claims 4294967295 elements")));
    states.publish(&[0, 7, 0, 0]).unwrap();
    assert_eq!(link.counts().states, before);
    assert_eq!(&arm.read(clock.now()).unwrap().position_rad[..], [2.0, 1.0], "nothing else is disturbed");

    let mut filter = filter();
    arm.write(clock.now(), &hold(&mut filter, &clock)).unwrap();
    eventually("the count", || link.counts().expired == 1);
    link.open();
    eventually("a command", || {
        states.publish(&state(&["lift", "pan"], &[1.0, 2.0])).unwrap();
        arm.write(clock.now(), &hold(&mut filter, &clock)).unwrap();
        commands.recv_timeout(Duration::from_millis(50)).is_ok_and(|data| data == [-0.5, 0.25])
    });
    let old = hold(&mut filter, &clock);
    assert!(arm.write(clock.now().saturating_add(Duration::from_secs(1)), &old).is_err(), "an expired command");

    // Joint states of another publisher: another robot, or this one started anew.
    let mut others = robot.publisher("/joint_states", JointState::TYPE, Qos::SYSTEM).unwrap();
    eventually("the loss", || {
        others.publish(&state(&["lift", "pan"], &[0.0, 0.0])).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        link.lost() == Some(Lost::Replaced)
    });
    while commands.recv_timeout(Duration::from_millis(200)).is_ok() {}
    arm.write(clock.now(), &hold(&mut filter, &clock)).unwrap();
    assert!(commands.recv_timeout(Duration::from_millis(300)).is_err(), "motion needs an explicit enable");
    link.stop(&[0.1, 0.2]);
    assert_eq!(commands.recv_timeout(PATIENCE), Ok(vec![0.2, 0.1]), "the stop is explicit");
    eventually("the count", || link.counts().stops == 1);
}

pub fn images_at_thirty_hertz_arrive_and_a_frozen_or_foreign_one_is_refused((robot, policy): Pair) {
    let clock = Arc::new(MonotonicClock::new());
    let topic =
        CameraTopic { name: "front".into(), topic: "/front/image_raw".into(), is_compressed: false, size: (96, 96) };
    let of_camera = Arc::clone(&clock);
    let place = move |_: Stamp| Ok(of_camera.now());
    let (mut camera, link) = TopicCamera::connect(&*policy, topic, clock.clone(), place).unwrap();
    let mut images = robot.publisher("/front/image_raw", Image::TYPE, Qos::SENSOR).unwrap();
    let pixels = vec![7; 96 * 96 * 3];
    let image = |stamp, encoding, data| {
        let header = Header { stamp, frame_id: "front" };
        let step = data_step(encoding);
        bytes(&Image { header, height: 96, width: 96, encoding, is_bigendian: 0, step, data })
    };
    eventually("an image", || {
        images.publish(&image(now(), "rgb8", &pixels)).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        link.counts().0 > 0
    });
    let before = link.counts().0;
    for _ in 0..60 {
        images.publish(&image(now(), "rgb8", &pixels)).unwrap();
        std::thread::sleep(Duration::from_nanos(33_333_333));
    }
    eventually("all images", || link.counts().0 == before + 60);
    let mut frame = Frame::new(96, 96);
    assert_eq!(camera.capture(clock.now(), &mut frame), Ok(true));
    assert_eq!(camera.capture(clock.now(), &mut frame), Ok(false), "the same image is no news");
    assert_eq!(frame.data, pixels);
    let stamp = now();
    images.publish(&image(stamp, "rgb8", &pixels)).unwrap();
    std::thread::sleep(Duration::from_millis(100)); // of two at once, "keep last 1" may keep the second alone
    images.publish(&image(stamp, "rgb8", &pixels)).unwrap();
    eventually("the refusal", || link.complaint().is_some_and(|text| text.contains("the stamp of the one before")));
    images.publish(&image(now(), "16UC1", &pixels[..96 * 96 * 2])).unwrap();
    eventually("the refusal", || link.complaint().is_some_and(|text| text.contains("encoding \"16UC1\"")));
    assert_eq!(link.counts(), (before + 61, 2));
}

fn data_step(encoding: &str) -> u32 {
    if encoding == "rgb8" { 96 * 3 } else { 96 * 2 }
}

pub fn a_late_reader_gets_what_was_latched((robot, policy): Pair) {
    let mut description = robot.publisher("/robot_description", Text::TYPE, Qos::LATCHED).unwrap();
    description.publish(&bytes(&Text { data: "<robot name=\"old\"/>" })).unwrap();
    description.publish(&bytes(&Text { data: "<robot name=\"arm\"/>" })).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let (to_test, texts) = channel();
    let _late = policy
        .subscribe(
            "/robot_description",
            Text::TYPE,
            Qos::LATCHED,
            Box::new(move |bytes, _| to_test.send(decode::<Text>(bytes).unwrap().data.to_owned()).unwrap()),
        )
        .unwrap();
    // The writer may still have what went before; what counts is what comes last.
    let mut last = texts.recv_timeout(PATIENCE).unwrap();
    while let Ok(text) = texts.recv_timeout(Duration::from_millis(500)) {
        last = text;
    }
    assert_eq!(last, "<robot name=\"arm\"/>");
}
