//! A node for third-party peers: echoes `/joint_states` positions, doubled, on `/position_controller/commands`, counts
//! `/camera/image_raw`, and answers `~/estop`, until standard input ends. With a third word it asks `/robot/reset` first.
//!
//! `echo_node zenoh:ROUTER_ENDPOINT|dds|dds-cyclone|r2r DOMAIN [ask]`; r2r is in the domain of the environment.

use endplate_ros2::interface::*;
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::{Client, Transport};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[cfg(feature = "zenoh")]
fn zenoh(router: &str, domain: u32) -> Result<Box<dyn Transport>, Box<dyn Error>> {
    use endplate_ros2::{SessionOptions, ZenohTransport};
    let connect = vec![router.to_owned()];
    let options = SessionOptions { connect, domain, node: "policy".into(), ..SessionOptions::default() };
    Ok(Box::new(ZenohTransport::open(&options)?))
}

#[cfg(not(feature = "zenoh"))]
fn zenoh(_: &str, _: u32) -> Result<Box<dyn Transport>, Box<dyn Error>> {
    Err("built without the feature zenoh".into())
}

#[cfg(feature = "dds")]
fn dds(domain: u32, is_cyclone: bool) -> Result<Box<dyn Transport>, Box<dyn Error>> {
    use endplate_ros2::{DdsOptions, DdsTransport, ServiceMapping};
    let mapping = if is_cyclone { ServiceMapping::Cyclone } else { ServiceMapping::FastDds };
    let options = DdsOptions { domain, mapping, node: "policy".into(), ..DdsOptions::default() };
    Ok(Box::new(DdsTransport::open(&options)?))
}

#[cfg(not(feature = "dds"))]
fn dds(_: u32, _: bool) -> Result<Box<dyn Transport>, Box<dyn Error>> {
    Err("built without the feature dds".into())
}

#[cfg(feature = "r2r")]
fn r2r() -> Result<Box<dyn Transport>, Box<dyn Error>> {
    use endplate_ros2::{R2rOptions, R2rTransport};
    Ok(Box::new(R2rTransport::open(&R2rOptions { node: "policy".into(), ..R2rOptions::default() })?))
}

#[cfg(not(feature = "r2r"))]
fn r2r() -> Result<Box<dyn Transport>, Box<dyn Error>> {
    Err("built without the feature r2r".into())
}

fn open(transport: &str, domain: u32) -> Result<Box<dyn Transport>, Box<dyn Error>> {
    match (transport, transport.strip_prefix("zenoh:")) {
        (_, Some(router)) => zenoh(router, domain),
        ("dds" | "dds-cyclone", _) => dds(domain, transport == "dds-cyclone"),
        ("r2r", _) => r2r(),
        _ => Err(format!("{transport}: zenoh:ROUTER_ENDPOINT, dds, dds-cyclone or r2r").into()),
    }
}

fn ask(client: &mut dyn Client) -> Result<String, Box<dyn Error>> {
    let mut buffer = Vec::new();
    let answer = client.call(encode_into(&Empty, &mut buffer)?, Duration::from_secs(20))?;
    let outcome: Outcome = decode(&answer)?;
    Ok(format!("{} {}", outcome.success, outcome.message))
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (name, domain) = (words.first().map_or("", String::as_str), words.get(1).and_then(|word| word.parse().ok()));
    let transport = open(name, domain.unwrap_or(0))?;
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
        Qos::SENSOR,
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
    if words.get(2).is_some_and(|word| word == "ask") {
        let mut client = transport.client("/robot/reset", Trigger::TYPE)?;
        println!("answer {}", ask(&mut *client)?);
    }
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    println!("images {}", images.load(Ordering::Relaxed));
    println!("malformed {}", transport.malformed());
    println!("findings {}", transport.findings().len());
    Ok(())
}
