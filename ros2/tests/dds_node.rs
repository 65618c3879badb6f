//! A node and its peers over loopback DDS, as rmw_fastrtps and rmw_cyclonedds would have them.
#![allow(clippy::unwrap_used)]

mod exchange;

use endplate_ros2::interface::*;
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::Transport;
use endplate_ros2::{DdsOptions, DdsTransport, ServiceMapping};
use exchange::{Pair, eventually, state};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

fn node(name: &str, domain: u32, mapping: ServiceMapping) -> Arc<DdsTransport> {
    let options = DdsOptions { domain, mapping, node: name.into(), ..DdsOptions::default() };
    Arc::new(DdsTransport::open(&options).unwrap())
}

fn pair_with(domain: u32, mapping: ServiceMapping) -> Pair {
    let (robot, policy) = (node("robot", domain, mapping), node("policy", domain, mapping));
    eventually("both nodes in both graphs", || robot.nodes().len() == 2 && policy.nodes().len() == 2);
    assert_eq!(policy.nodes(), ["/policy", "/robot"]);
    (robot, policy)
}

fn pair(domain: u32) -> Pair {
    pair_with(domain, ServiceMapping::FastDds)
}

#[test]
fn two_thousand_round_trips_lose_nothing() {
    exchange::two_thousand_round_trips_lose_nothing(pair(51));
}

#[test]
fn every_reason_for_silence_is_a_finding() {
    // No hash of ours travels on DDS.
    exchange::every_reason_for_silence_is_a_finding(pair(52), false);
}

#[test]
fn lifecycle_parameters_and_switches_are_served_and_become_orders() {
    exchange::lifecycle_parameters_and_switches_are_served_and_become_orders(pair(53));
}

#[test]
fn an_arm_over_topics_reads_by_name_commands_only_when_open_and_closes_when_the_robot_is_replaced() {
    exchange::an_arm_over_topics_reads_by_name_commands_only_when_open_and_closes_when_the_robot_is_replaced(pair(54));
}

#[test]
fn images_at_thirty_hertz_arrive_and_a_frozen_or_foreign_one_is_refused() {
    exchange::images_at_thirty_hertz_arrive_and_a_frozen_or_foreign_one_is_refused(pair(55));
}

#[test]
fn services_work_in_cyclones_mapping_too() {
    exchange::lifecycle_parameters_and_switches_are_served_and_become_orders(pair_with(61, ServiceMapping::Cyclone));
}

#[test]
fn a_late_reader_gets_what_was_latched() {
    exchange::a_late_reader_gets_what_was_latched(pair(62));
}

#[test]
fn a_node_that_leaves_is_gone_and_an_endpoint_that_is_dropped_is_missed() {
    let (robot, policy) = pair(63);
    let states = robot.publisher("/joint_states", JointState::TYPE, Qos::SYSTEM).unwrap();
    let _states = policy.subscribe("/joint_states", JointState::TYPE, Qos::LATEST, Box::new(|_, _| {})).unwrap();
    eventually("the match", || policy.findings().is_empty());
    drop(states);
    eventually("the finding", || policy.findings().len() == 1);
    drop(robot);
    eventually("the farewell", || policy.nodes() == ["/policy"]);
}

#[test]
fn other_domains_and_bad_domains_are_kept_apart() {
    let there = node("robot", 64, ServiceMapping::FastDds);
    let here = node("policy", 65, ServiceMapping::FastDds);
    let mut states = there.publisher("/joint_states", JointState::TYPE, Qos::SYSTEM).unwrap();
    let (to_test, heard) = channel();
    let _states = here
        .subscribe("/joint_states", JointState::TYPE, Qos::LATEST, Box::new(move |_, _| to_test.send(()).unwrap()))
        .unwrap();
    for _ in 0..20 {
        states.publish(&state(&["a"], &[0.0])).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(heard.try_recv().is_err());
    let refused = DdsTransport::open(&DdsOptions { domain: 233, ..DdsOptions::default() });
    assert!(refused.err().unwrap().to_string().contains("domain 233"));
}
