//! Third-party peers: readers and writers of messages, Zenoh, ROS 2 (rclpy) and Cyclone DDS. Not run without being asked
//! for, as they need Python packages:
//!
//! ```text
//! python3 -m venv target/peers && target/peers/bin/pip install eclipse-zenoh rosbags pycdr2 mcap-ros2-support
//! python3 -m venv target/ros-peers && target/ros-peers/bin/pip install ros-jazzy-rclpy ros-jazzy-common-interfaces \
//!     ros-jazzy-rmw-fastrtps-cpp cyclonedds
//! cargo test --release -p endplate-ros2 --features dds --test peers -- --ignored --test-threads 1
//! ```
//!
//! Another place for the interpreters: `ENDPLATE_PEERS`, `ENDPLATE_ROS_PEERS`.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn python(variable: &str, usual: &str) -> PathBuf {
    let python = std::env::var_os(variable).map_or_else(|| root().join(usual), PathBuf::from);
    assert!(python.exists(), "{}: no such interpreter: see the head of this file, or set {variable}", python.display());
    python
}

/// An example of this package, as `cargo test` built it.
fn example(name: &str) -> PathBuf {
    let of_tests = std::env::current_exe().unwrap();
    of_tests.parent().unwrap().parent().unwrap().join("examples").join(name)
}

/// A command in a network of its own with nothing but a loopback, where this machine allows that.
fn alone(program: &Path) -> Command {
    let allowed = Command::new("unshare").args(["-rn", "true"]).status().is_ok_and(|status| status.success());
    if !allowed {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["-rn", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(program);
    command
}

fn agrees(python: &Path, script: &str, example_name: &str) {
    agrees_over(python, script, example_name, &[]);
}

fn agrees_over(python: &Path, script: &str, example_name: &str, words: &[&str]) {
    let script = root().join("ros2/tests/peers").join(script);
    let status = alone(python).arg(&script).arg(example(example_name)).args(words).status().unwrap();
    assert!(status.success(), "{}: {status}", script.display());
}

#[test]
#[ignore = "needs rosbags, pycdr2 and mcap-ros2-support"]
fn independent_readers_and_writers_agree_on_every_message() {
    agrees(&python("ENDPLATE_PEERS", "target/peers/bin/python"), "cdr_peers.py", "recode");
}

#[test]
#[cfg(feature = "zenoh")]
#[ignore = "needs eclipse-zenoh and rosbags"]
fn eclipse_zenoh_loses_nothing() {
    agrees(&python("ENDPLATE_PEERS", "target/peers/bin/python"), "zenoh_peers.py", "echo_node");
}

#[test]
#[cfg(feature = "dds")]
#[ignore = "needs rclpy"]
fn rclpy_on_fast_dds_loses_nothing() {
    agrees(&python("ENDPLATE_ROS_PEERS", "target/ros-peers/bin/python"), "dds_rclpy.py", "echo_node");
}

#[test]
#[cfg(feature = "r2r")]
#[ignore = "needs rclpy, and the environment of ros2/tests/r2r/run.sh"]
fn rclpy_and_a_node_over_r2r_lose_nothing() {
    agrees_over(&python("ENDPLATE_ROS_PEERS", "target/ros-peers/bin/python"), "dds_rclpy.py", "echo_node", &["r2r"]);
}

#[test]
#[cfg(feature = "dds")]
#[ignore = "needs cyclonedds"]
fn cyclone_dds_loses_nothing() {
    agrees(&python("ENDPLATE_ROS_PEERS", "target/ros-peers/bin/python"), "dds_cyclone.py", "echo_node");
}
