//! Publishes ten seconds of a slow swing as `/endplate/joint_command`, at 100 Hz.
//!
//! `cargo run --release -p endplate-ros2 --example joint_command -- [listen endpoint]`; then, on this machine with
//! rmw_zenoh and its router: `ros2 topic echo /endplate/joint_command`.

use endplate_hal::{
    Clock, CommandMode, CommandSink, JointCommand, JointLimits, JointVec, MonotonicClock, SafetyFilter, SafetyLimits,
};
use endplate_ros2::{ZenohCommandSink, ZenohOptions};
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let joint = JointLimits {
        lower_rad: -1.0,
        upper_rad: 1.0,
        velocity_rad_s: 1.0,
        acceleration_rad_s2: 10.0,
        jerk_rad_s3: 100.0,
    };
    let period = Duration::from_millis(10);
    let limits =
        SafetyLimits { period, command_valid: Duration::from_millis(50), joints: vec![joint; 2], workspace: None };
    let mut filter = SafetyFilter::new(limits, &[0.0; 2])?;
    let clock = Arc::new(MonotonicClock::new());
    let mut options = ZenohOptions::for_joints(["pan", "lift"]);
    if let Some(endpoint) = std::env::args().nth(1) {
        options.listen = vec![endpoint];
    }
    let mut sink = ZenohCommandSink::open(options, clock.clone())?;
    let start = clock.now();
    for tick in 0..1000u32 {
        let deadline = start.saturating_add(period * tick);
        clock.sleep_until(deadline);
        let now = clock.now();
        let phase = deadline.seconds_since(start);
        // Raised from rest by a smooth start, so that no limit is met.
        let swing = 0.3 * (1.0 - phase.cos()) * (1.0 - (-phase).exp());
        let target = JointVec::from_fn(2, |joint| if joint == 0 { swing } else { -swing });
        let command = JointCommand { mode: CommandMode::Position, target, valid_until: now.saturating_add(period) };
        sink.publish(&filter.filter(now, &command).0);
    }
    std::thread::sleep(2 * period);
    println!("{:?}", sink.counts());
    Ok(())
}
