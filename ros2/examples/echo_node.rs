//! A node for third-party peers: echoes `/joint_states` positions, doubled, on `/position_controller/commands`, counts
//! `/camera/image_raw`, and answers `~/estop`, until standard input ends.
//!
//! `echo_node ROUTER_ENDPOINT DOMAIN`

use endplate_ros2::interface::*;
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::Transport;
use endplate_ros2::{SessionOptions, ZenohTransport};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let options = SessionOptions {
        connect: words.next().into_iter().collect(),
        domain: words.next().unwrap_or_default().parse().unwrap_or(0),
        node: "policy".into(),
        ..SessionOptions::default()
    };
    let transport = ZenohTransport::open(&options)?;
    let mut commands = transport.publisher("/position_controller/commands", Float64MultiArray::TYPE, Qos::COMMAND)?;
    let mut buffer = Vec::new();
    let _states = transport.subscribe(
        "/joint_states",
        JointState::TYPE,
        Qos::LATEST,
        Box::new(move |bytes, _| {
            let Ok(state) = decode::<JointState>(bytes) else { return };
            let doubled: Vec<f64> = state.position.iter().map(|value| 2.0 * value).collect();
            let message = Float64MultiArray { data: (&doubled).into(), ..Default::default() };
            if let Err(error) = encode_into(&message, &mut buffer)
                .map_err(|error| error.to_string())
                .and_then(|bytes| commands.publish(bytes).map_err(|error| error.to_string()))
            {
                eprintln!("{error}");
            }
        }),
    )?;
    let images = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&images);
    let _images = transport.subscribe(
        "/camera/image_raw",
        Image::TYPE,
        Qos::LATEST,
        Box::new(move |bytes, _| {
            count.fetch_add(u64::from(decode::<Image>(bytes).is_ok()), Ordering::Relaxed);
        }),
    )?;
    let _estop = transport.serve(
        "~/estop",
        Trigger::TYPE,
        Box::new(|request| {
            let mut buffer = Vec::new();
            if let Ok(bytes) = encode_into(&Outcome { success: true, message: "stopped" }, &mut buffer) {
                let _ = (request.answer)(bytes); // who asked may be gone
            }
        }),
    )?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    println!("images {}", images.load(Ordering::Relaxed));
    println!("malformed {}", transport.malformed());
    Ok(())
}
