//! A node and its peers over loopback Zenoh, as rmw_zenoh would have them.
#![allow(clippy::unwrap_used)]

mod exchange;

use endplate_ros2::interface::*;
use endplate_ros2::rmw::{Hashes, Qos};
use endplate_ros2::transport::Transport;
use endplate_ros2::{PlainTransport, SessionMode, SessionOptions, ZenohTransport};
use exchange::{eventually, state};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zenoh::Wait;

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A robot that is the router of its machine, and a node that connects to it.
fn pair(domain: u32) -> (Arc<ZenohTransport>, Arc<ZenohTransport>) {
    let port = free_port();
    let robot = SessionOptions {
        mode: SessionMode::Router,
        listen: vec![format!("tcp/127.0.0.1:{port}")],
        connect: Vec::new(),
        domain,
        node: "robot".into(),
        ..SessionOptions::default()
    };
    let policy = SessionOptions {
        connect: vec![format!("tcp/127.0.0.1:{port}")],
        domain,
        node: "policy".into(),
        ..SessionOptions::default()
    };
    let both = (ZenohTransport::open(&robot).unwrap(), ZenohTransport::open(&policy).unwrap());
    let (robot, policy) = (Arc::new(both.0), Arc::new(both.1));
    eventually("both nodes in both graphs", || robot.nodes().len() == 2 && policy.nodes().len() == 2);
    assert_eq!(policy.nodes(), ["/policy", "/robot"]);
    (robot, policy)
}

#[test]
fn two_thousand_round_trips_lose_nothing() {
    let (robot, policy) = pair(31);
    exchange::two_thousand_round_trips_lose_nothing((robot, policy));
}

#[test]
fn every_reason_for_silence_is_a_finding() {
    let (robot, policy) = pair(32);
    exchange::every_reason_for_silence_is_a_finding((robot, policy), true);
}

#[test]
fn lifecycle_parameters_and_switches_are_served_and_become_orders() {
    let (robot, policy) = pair(35);
    exchange::lifecycle_parameters_and_switches_are_served_and_become_orders((robot, policy));
}

#[test]
fn an_arm_over_topics_reads_by_name_commands_only_when_open_and_closes_when_the_robot_is_replaced() {
    let (robot, policy) = pair(36);
    exchange::an_arm_over_topics_reads_by_name_commands_only_when_open_and_closes_when_the_robot_is_replaced((
        robot, policy,
    ));
}

#[test]
fn images_at_thirty_hertz_arrive_and_a_frozen_or_foreign_one_is_refused() {
    let (robot, policy) = pair(37);
    exchange::images_at_thirty_hertz_arrive_and_a_frozen_or_foreign_one_is_refused((robot, policy));
}

#[test]
fn a_late_reader_gets_what_was_latched() {
    let (robot, policy) = pair(38);
    exchange::a_late_reader_gets_what_was_latched((robot, policy));
}

#[test]
fn a_message_or_request_without_an_attachment_is_counted_and_dropped() {
    let (robot, policy) = pair(33);
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let _states = policy
        .subscribe(
            "/joint_states",
            JointState::TYPE,
            Qos::LATEST,
            Box::new(move |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            }),
        )
        .unwrap();
    let key = format!("33/joint_states/{}/{}", JointState::TYPE.dds_name, JointState::TYPE.hash);
    eventually("the count", || {
        robot.session().put(key.as_str(), state(&["a"], &[0.0])).wait().unwrap();
        policy.malformed() > 0
    });
    assert_eq!(taken.load(Ordering::Relaxed), 0);
}

#[test]
fn humbles_keys_have_no_hash_and_a_mismatch_with_them_is_named() {
    let port = free_port();
    let listen = vec![format!("tcp/127.0.0.1:{port}")];
    let (connect, mode) = (Vec::new(), SessionMode::Router);
    let options = SessionOptions {
        mode,
        listen: listen.clone(),
        connect,
        hashes: Hashes::Humble,
        domain: 34,
        ..Default::default()
    };
    let humble = ZenohTransport::open(&options).unwrap();
    let _publisher = humble.publisher("/joint_states", JointState::TYPE, Qos::SYSTEM).unwrap();
    let options = SessionOptions { connect: listen, domain: 34, node: "jazzy".into(), ..Default::default() };
    let jazzy = ZenohTransport::open(&options).unwrap();
    let on = Box::new(|_: &[u8], _| {});
    let _states = jazzy.subscribe("/joint_states", JointState::TYPE, Qos::LATEST, on).unwrap();
    eventually("the finding", || {
        jazzy.findings().iter().any(|finding| finding.to_string().ends_with("(one side is Humble)"))
    });
}

/// The same two on plain keys.
fn plain_pair() -> exchange::Pair {
    let router = vec![format!("tcp/127.0.0.1:{}", free_port())];
    let (mode, connect) = (SessionMode::Router, Vec::new());
    let robot = SessionOptions { mode, listen: router.clone(), connect, node: "robot".into(), ..Default::default() };
    let policy = SessionOptions { connect: router, node: "policy".into(), ..SessionOptions::default() };
    (Arc::new(PlainTransport::open(&robot).unwrap()), Arc::new(PlainTransport::open(&policy).unwrap()))
}

#[test]
fn plain_keys_lose_nothing_either() {
    exchange::two_thousand_round_trips_lose_nothing(plain_pair());
    exchange::images_at_thirty_hertz_arrive_and_a_frozen_or_foreign_one_is_refused(plain_pair());
}

#[test]
fn on_plain_keys_a_late_reader_gets_what_was_latched_and_switches_are_text() {
    exchange::a_late_reader_gets_what_was_latched(plain_pair());
    let (robot, policy) = plain_pair();
    let _enable = policy
        .serve(
            "~/enable",
            SetBool::TYPE,
            Box::new(|request| {
                let asked: SetBoolRequest = decode(&request.bytes).unwrap();
                let outcome = Outcome { success: asked.data, message: "a \"word\"" };
                (request.answer)(&exchange::bytes(&outcome)).unwrap();
            }),
        )
        .unwrap();
    let mut client = robot.client("/policy/enable", SetBool::TYPE).unwrap();
    for data in [true, false] {
        let request = exchange::bytes(&SetBoolRequest { data });
        let mut answer = None;
        eventually("an answer", || {
            answer = client.call(&request, std::time::Duration::from_secs(1)).ok();
            answer.is_some()
        });
        let answer = answer.unwrap();
        assert_eq!(decode::<Outcome>(&answer), Ok(Outcome { success: data, message: "a \"word\"" }));
    }
    assert_eq!(policy.malformed(), 0);
}
