//! A plain Zenoh session, which knows nothing of this crate, receives what the sink publishes over loopback TCP.
#![allow(clippy::unwrap_used)]

use endplate_hal::{
    Clock, CommandMode, CommandSink, Instant, JointCommand, JointLimits, JointVec, MonotonicClock, SafeCommand,
    SafetyFilter, SafetyLimits, SimulatedClock,
};
use endplate_ros2::message::{JOINT_STATE, JointStateMessage};
use endplate_ros2::rmw::{Attachment, gid};
use endplate_ros2::{SinkCounts, ZenohCommandSink, ZenohOptions};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zenoh::Wait;

const JOINTS: [&str; 3] = ["shoulder_pan", "elbow_flex", "gripper"];
const PATIENCE: Duration = Duration::from_secs(20);

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
        command_valid: Duration::from_millis(500),
        joints: vec![joint; JOINTS.len()],
        workspace: None,
    };
    SafetyFilter::new(limits, &[0.25, -0.5, 1.0]).unwrap()
}

fn command(filter: &mut SafetyFilter, now: Instant, mode: CommandMode, target: [f64; 3]) -> SafeCommand {
    let target = JointVec::from_slice(&target).unwrap();
    filter.filter(now, &JointCommand { mode, target, valid_until: now }).0
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn options(listen: u16, domain: u32) -> ZenohOptions {
    ZenohOptions {
        listen: vec![format!("tcp/127.0.0.1:{listen}")],
        connect: vec![],
        domain,
        ..ZenohOptions::for_joints(JOINTS)
    }
}

fn peer(mode: &str, listen: &[String], connect: &[String]) -> zenoh::Session {
    let mut config = zenoh::Config::default();
    for (key, value) in [
        ("mode", format!("\"{mode}\"")),
        ("listen/endpoints", format!("{listen:?}")),
        ("connect/endpoints", format!("{connect:?}")),
        ("scouting/multicast/enabled", "false".to_owned()),
    ] {
        config.insert_json5(key, &value).unwrap();
    }
    zenoh::open(config).wait().unwrap()
}

fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn topic(domain: u32) -> String {
    format!("{domain}/endplate/joint_command/{}/{}", JOINT_STATE.dds_name, JOINT_STATE.hash)
}

#[test]
fn a_plain_zenoh_peer_receives_every_command_with_equal_values_and_sees_the_node() {
    let port = free_port();
    let clock = Arc::new(MonotonicClock::new());
    let mut sink = ZenohCommandSink::open(options(port, 7), clock.clone()).unwrap();
    let session = peer("client", &[], &[format!("tcp/127.0.0.1:{port}")]);
    let subscriber = session.declare_subscriber(topic(7)).with(zenoh::handlers::FifoChannel::new(1024)).wait().unwrap();

    // The node and its publisher stand in the graph, and the publisher's identity follows from its token.
    let mut tokens: Vec<String> = Vec::new();
    eventually("both tokens", || {
        let found = session.liveliness().get("@ros2_lv/7/**").wait().unwrap();
        tokens = found.into_iter().map(|reply| reply.result().unwrap().key_expr().to_string()).collect();
        tokens.sort();
        tokens.len() == 2
    });
    let zid = sink.zid();
    assert_eq!(tokens[0], format!("@ros2_lv/7/{zid}/0/0/NN/%/%/endplate"));
    assert_eq!(
        tokens[1],
        format!(
            "@ros2_lv/7/{zid}/0/1/MP/%/%/endplate/%endplate%joint_command/{}/{}/::,1:,:,:,,",
            JOINT_STATE.dds_name, JOINT_STATE.hash
        )
    );
    let identity = gid(&tokens[1]);

    // A subscription takes a moment to reach the publisher: commands until then have no reader.
    let mut filter = filter();
    let rest = filter.brake(clock.now(), endplate_hal::HeldCause::Asked).0;
    assert_eq!(rest.velocity_rad_s(), [0.0; 3]);
    eventually("the first message", || {
        let now = clock.now();
        sink.publish(&command(&mut filter, now, CommandMode::Velocity, [0.0; 3]));
        subscriber.recv_timeout(Duration::from_millis(20)).unwrap().is_some()
    });
    while subscriber.recv_timeout(Duration::from_millis(100)).unwrap().is_some() {}

    let before = sink.counts().sent as i64;
    let mut expected = Vec::new();
    for tick in 0..200u32 {
        let mode = if tick < 150 { CommandMode::Position } else { CommandMode::Velocity };
        let at = filter.motion().position_rad;
        let target = match mode {
            CommandMode::Position => [at[0] + 0.001, at[1] - 0.0003, 1.0],
            CommandMode::Velocity => [0.05, 0.0, -0.1],
        };
        let now = clock.now();
        let command = command(&mut filter, now, mode, target);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        sink.publish(&command);
        expected.push((command, wall));
        // A busy machine must not overrun the ring: half of it may be under way.
        eventually("the sending", || sink.counts().sent as i64 - before + 8 > i64::from(tick));
        std::thread::sleep(Duration::from_millis(2));
    }
    for (index, (command, wall)) in expected.iter().enumerate() {
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("a message for every command");
        let message = JointStateMessage::decode(&sample.payload().to_bytes()).unwrap();
        assert_eq!(message.names, JOINTS);
        assert_eq!(message.velocity, command.velocity_rad_s());
        match command.mode() {
            CommandMode::Position => assert_eq!(message.position, command.position_rad()),
            CommandMode::Velocity => assert!(message.position.is_empty()),
        }
        let stamp = Duration::new(message.stamp.seconds as u64, message.stamp.nanoseconds);
        assert!(stamp.abs_diff(*wall) < Duration::from_millis(500), "stamped {stamp:?}, made {wall:?}");
        let attachment = Attachment::decode(&sample.attachment().unwrap().to_bytes()).unwrap();
        assert_eq!(attachment.sequence, before + 1 + index as i64);
        assert_eq!(attachment.gid, identity);
        assert!(u128::try_from(attachment.source_time_ns).unwrap() >= stamp.as_nanos());
    }
    assert_eq!(sink.dropped(), 0);
    assert!(expected.iter().any(|(command, _)| command.velocity_rad_s()[0] > 0.04), "the commands moved");

    drop(sink);
    eventually("the node's leaving", || {
        session.liveliness().get("@ros2_lv/7/**").wait().unwrap().into_iter().next().is_none()
    });
}

#[test]
fn a_router_that_comes_later_is_found() {
    let port = free_port();
    let clock = Arc::new(MonotonicClock::new());
    let options = ZenohOptions { connect: vec![format!("tcp/127.0.0.1:{port}")], ..options(0, 8) };
    let mut sink = ZenohCommandSink::open(options, clock.clone()).unwrap();
    let router = peer("router", &[format!("tcp/127.0.0.1:{port}")], &[]);
    let subscriber = router.declare_subscriber(topic(8)).wait().unwrap();
    let mut filter = filter();
    eventually("a message through the router", || {
        sink.publish(&command(&mut filter, clock.now(), CommandMode::Position, [0.25, -0.5, 1.0]));
        subscriber.recv_timeout(Duration::from_millis(20)).unwrap().is_some()
    });
}

#[test]
fn a_full_ring_drops_and_counts() {
    let clock = Arc::new(MonotonicClock::new());
    let options = ZenohOptions { poll: Duration::from_secs(2), ..options(0, 9) };
    let mut sink = ZenohCommandSink::open(options, clock.clone()).unwrap();
    let mut filter = filter();
    sink.publish(&command(&mut filter, clock.now(), CommandMode::Position, [0.25, -0.5, 1.0]));
    eventually("the first command", || sink.counts().sent + sink.counts().expired == 1);
    std::thread::sleep(Duration::from_millis(100)); // the side thread has found the ring empty and sleeps
    let before = sink.counts();
    for _ in 0..40 {
        sink.publish(&command(&mut filter, clock.now(), CommandMode::Position, [0.25, -0.5, 1.0]));
    }
    assert_eq!(sink.counts(), SinkCounts { full: 24, ..before });
    assert_eq!(sink.dropped(), before.dropped() + 24);
}

#[test]
fn an_expired_command_and_one_for_other_joints_are_dropped_and_counted() {
    let clock = Arc::new(SimulatedClock::starting_at(Instant::from_nanos(10_000_000_000)));
    let mut sink = ZenohCommandSink::open(options(0, 10), clock.clone()).unwrap();
    let mut filter = filter();
    let old = Instant::from_nanos(9_000_000_000);
    sink.publish(&command(&mut filter, old, CommandMode::Position, [0.25, -0.5, 1.0]));
    eventually("the count", || sink.counts() == SinkCounts { expired: 1, ..SinkCounts::default() });
    sink.publish(&command(&mut filter, clock.now(), CommandMode::Position, [0.25, -0.5, 1.0]));
    eventually("the count", || sink.counts() == SinkCounts { expired: 1, sent: 1, ..SinkCounts::default() });

    let limits = SafetyLimits { joints: vec![filter.limits().joints[0]; 2], ..filter.limits().clone() };
    let two_joints = SafetyFilter::new(limits, &[0.0; 2]).unwrap().brake(clock.now(), endplate_hal::HeldCause::Asked).0;
    sink.publish(&two_joints);
    assert_eq!(sink.counts(), SinkCounts { expired: 1, sent: 1, mismatched: 1, ..SinkCounts::default() });
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = ZenohCommandSink::open(options(port, 11), Arc::new(MonotonicClock::new())).err().unwrap();
    assert!(error.to_string().contains(&format!("tcp/127.0.0.1:{port}")), "{error}");
}
