//! A node and its peer on the ROS 2 that is sourced: both in one process, so in one rcl context, one domain and one
//! participant. Run by ros2/tests/r2r/run.sh, one test after the other.
#![allow(clippy::unwrap_used)]

mod exchange;

use endplate_ros2::interface::*;
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::Transport;
use endplate_ros2::{R2rOptions, R2rTransport};
use exchange::{Pair, eventually};
use std::process::{Command, Stdio};
use std::sync::Arc;

fn node(name: &str) -> Arc<R2rTransport> {
    Arc::new(R2rTransport::open(&R2rOptions { node: name.into(), ..R2rOptions::default() }).unwrap())
}

fn pair() -> Pair {
    (node("robot"), node("policy"))
}

#[test]
fn two_thousand_round_trips_over_r2r_lose_nothing() {
    exchange::two_thousand_round_trips_lose_nothing(pair());
}

#[test]
fn lifecycle_parameters_and_switches_over_r2r_are_served_and_become_orders() {
    exchange::lifecycle_parameters_and_switches_are_served_and_become_orders(pair());
}

#[test]
fn an_arm_over_r2r_reads_by_name_commands_only_when_open_and_closes_when_the_robot_is_replaced() {
    exchange::an_arm_over_topics_reads_by_name_commands_only_when_open_and_closes_when_the_robot_is_replaced(pair());
}

#[test]
fn images_over_r2r_at_thirty_hertz_arrive_and_a_frozen_or_foreign_one_is_refused() {
    exchange::images_at_thirty_hertz_arrive_and_a_frozen_or_foreign_one_is_refused(pair());
}

#[test]
fn a_late_reader_over_r2r_gets_what_was_latched() {
    exchange::a_late_reader_gets_what_was_latched(pair());
}

/// Within one participant rmw_fastrtps refuses a second type on a topic, so the other side is a process of its own.
#[test]
fn another_type_on_a_topic_is_a_finding_over_r2r() {
    let python = std::env::var("ENDPLATE_ROS_PEERS").expect("ros2/tests/r2r/run.sh sets ENDPLATE_ROS_PEERS");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/foreign_rclpy.py");
    let mut foreign = Command::new(python).arg(script).stdin(Stdio::piped()).spawn().unwrap();
    let policy = node("policy");
    let _images = policy.subscribe("/front/image_raw", Image::TYPE, Qos::LATEST, Box::new(|_, _| {})).unwrap();
    let _commands = policy.publisher("/position_controller/commands", Float64MultiArray::TYPE, Qos::COMMAND).unwrap();
    let mut lines = Vec::new();
    let expected = [
        "publisher /position_controller/commands: nobody is at the other end",
        "subscription /front/image_raw: nobody is at the other end",
        "subscription /front/image_raw and node /foreign never meet: the type here is sensor_msgs::msg::dds_::Image_ and \
         there sensor_msgs::msg::dds_::CompressedImage_",
    ];
    eventually("the findings", || {
        lines = policy.findings().iter().map(ToString::to_string).collect();
        lines == expected
    });
    assert_eq!(policy.nodes(), ["/foreign", "/policy"]);
    drop(foreign.stdin.take());
    assert!(foreign.wait().unwrap().success());
}

#[test]
fn silence_over_r2r_is_a_finding_and_an_endpoint_that_is_dropped_is_missed() {
    let (robot, policy) = pair();
    let nothing = || Box::new(|_: &[u8], _| {}) as endplate_ros2::transport::OnMessage;
    let _images = robot.publisher("/front/image_raw", Image::TYPE, Qos::SENSOR).unwrap();
    let states = robot.publisher("/joint_states", JointState::TYPE, Qos::SYSTEM).unwrap();
    let _strict = policy.subscribe("/front/image_raw", Image::TYPE, Qos::COMMAND, nothing()).unwrap();
    let _states = policy.subscribe("/joint_states", JointState::TYPE, Qos::LATEST, nothing()).unwrap();
    let _commands = policy.publisher("/position_controller/commands", Float64MultiArray::TYPE, Qos::COMMAND).unwrap();
    let _asks = policy.client("/robot/reset", Trigger::TYPE).unwrap();
    let lines = || policy.findings().iter().map(ToString::to_string).collect::<Vec<_>>();
    let at_first = [
        "publisher /position_controller/commands: nobody is at the other end",
        "service client /robot/reset: nobody is at the other end",
        "subscription /front/image_raw: nobody is at the other end",
        "subscription /front/image_raw and node /robot never meet: reliability: best effort is offered and reliable is asked \
         for",
    ];
    eventually("the findings", || lines() == at_first);
    let _controller =
        robot.subscribe("/position_controller/commands", Float64MultiArray::TYPE, Qos::SYSTEM, nothing()).unwrap();
    let _reset = robot.serve("/robot/reset", Trigger::TYPE, Box::new(|_| {})).unwrap();
    eventually("the match", || lines() == at_first[2..]);
    drop(states);
    eventually("the loss", || lines().contains(&"subscription /joint_states: nobody is at the other end".to_owned()));
    drop((_images, robot));
    eventually("the farewell", || policy.nodes() == ["/policy"]);
}

#[test]
fn a_type_r2r_was_built_without_and_a_bad_name_are_refused_by_name_over_r2r() {
    let node = node("policy");
    let nothing = endplate_ros2::message::MessageType { ros_name: "no_msgs/msg/Nothing", ..Text::TYPE };
    let refused = node.publisher("/a", nothing, Qos::DEFAULT).err().unwrap().to_string();
    assert!(refused.contains("publisher on /a") && refused.contains("no_msgs/msg/Nothing"), "{refused}");
    let nothing = ServiceType { ros_name: "no_msgs/srv/Nothing", ..Trigger::TYPE };
    let refused = node.client("/b", nothing).err().unwrap().to_string();
    assert!(refused.contains("/b") && refused.contains("no_msgs/srv/Nothing"), "{refused}");
    assert!(node.publisher("a//b", Text::TYPE, Qos::DEFAULT).is_err());
    let bad = R2rTransport::open(&R2rOptions { node: "a b".into(), ..R2rOptions::default() });
    assert!(bad.err().unwrap().to_string().contains("a b"));
}
