//! `calibrate latency`: command to motion, and motion to frame, on the simulated robot.

use crate::cli::bundle::open_robot;
use crate::cli::error::CliError;
use clap::Args;
use core::time::Duration;
use endplate_calibration::latency::{Stamped, delay, excitation, image_signal};
use endplate_hal::{Arm, Camera, CommandMode, Frame, Instant, JointCommand, RobotSpec, SafetyFilter};
use endplate_sim::model::Model;
use endplate_sim::robot::{SimOptions, SimRobot};
use endplate_sim::scene::Scene;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `calibrate latency`.
#[derive(Args)]
pub struct LatencyArguments {
    /// Robot description; without it, the built-in simulated robot.
    #[arg(long)]
    robot: Option<PathBuf>,
    /// Joint to move.
    #[arg(long, default_value = "wrist_flex")]
    joint: String,
    /// How far to either side, rad.
    #[arg(long, default_value_t = 0.1)]
    swing_rad: f64,
    /// How long to move, s.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
}

const START: Instant = Instant::from_nanos(1_000_000_000);

/// What was seen of one camera.
struct Seen {
    camera: Box<dyn Camera>,
    frame: Frame,
    images: Vec<Vec<u8>>,
    arrived: Vec<Instant>,
}

/// What was commanded and what followed.
struct Recording {
    commands: Vec<Stamped>,
    encoders: Vec<Stamped>,
    cameras: Vec<Seen>,
}

/// Moves, records, finds the delays.
pub fn measure(arguments: &LatencyArguments) -> Result<(), CliError> {
    let robot = open_robot(arguments.robot.as_ref())?;
    if robot.cameras.iter().any(|camera| camera.driver != "sim") {
        return Err(CliError::Input(format!("{}: this build measures the driver \"sim\" only here", robot.source)));
    }
    let joint = robot.joints.iter().position(|joint| joint.name == arguments.joint).ok_or_else(|| {
        let known: Vec<_> = robot.joints.iter().map(|joint| joint.name.as_str()).collect();
        CliError::Input(format!("--joint {:?}: name one of {}", arguments.joint, known.join(", ")))
    })?;
    for (key, value, low, high) in
        [("--swing-rad", arguments.swing_rad, 0.02, 0.5), ("--seconds", arguments.seconds, 4.0, 60.0)]
    {
        if !(low..=high).contains(&value) {
            return Err(CliError::Input(format!("{key} {value}: write a number from {low} to {high}")));
        }
    }
    let model = Arc::new(Model::so101_like().map_err(CliError::failed)?);
    let world =
        SimRobot::new(model, &Scene::sample(1), SimOptions::from_spec(&robot), START).map_err(CliError::input)?;
    let cameras: Vec<Box<dyn Camera>> = world.cameras().into_iter().map(|camera| Box::new(camera) as _).collect();
    let span = Duration::from_secs_f64(arguments.seconds);
    let recorded =
        record(&robot, &mut world.arm(), cameras, joint, arguments.swing_rad, span, |now| world.advance_to(now))?;
    let period_ms = robot.control.period.as_secs_f64() * 1e3;
    println!("{:<24} {:>9} {:>12} {:>10}", "from → to", "delay ms", "correlation", "described");
    let line = |what: &str, cause: &[Stamped], effect: &[Stamped], described: String| match delay(cause, effect) {
        Ok(found) => println!("{what:<24} {:>9.1} {:>12.3} {described:>10}", found.seconds * 1e3, found.correlation),
        Err(error) => println!("{what:<24} {error}"),
    };
    line("command → motion", &recorded.commands, &recorded.encoders, "-".into());
    for (seen, described) in recorded.cameras.iter().zip(&robot.cameras) {
        let signal: Vec<Stamped> = image_signal(&seen.images)
            .into_iter()
            .zip(&seen.arrived)
            .map(|(value, at)| Stamped { at: *at, value })
            .collect();
        let name = format!("motion → {}", described.name);
        line(&name, &recorded.encoders, &signal, format!("{:.1}", described.lag.as_secs_f64() * 1e3));
    }
    println!("frames are looked for once a control period of {period_ms:.1} ms, so they seem up to that much later");
    Ok(())
}

/// The same on any arm and cameras; `advance` waits for the instant, or moves a simulated world there.
fn record(
    robot: &RobotSpec,
    arm: &mut dyn Arm,
    cameras: Vec<Box<dyn Camera>>,
    joint: usize,
    swing_rad: f64,
    span: Duration,
    mut advance: impl FnMut(Instant),
) -> Result<Recording, CliError> {
    let home = arm.read(START).map_err(CliError::failed)?.position_rad;
    let mut filter = SafetyFilter::new(robot.safety_limits(), &home).map_err(CliError::failed)?;
    arm.set_torque(START, true).map_err(CliError::failed)?;
    let mut out = Recording {
        commands: Vec::new(),
        encoders: Vec::new(),
        cameras: cameras
            .into_iter()
            .map(|camera| {
                let (width, height) = camera.size();
                Seen { frame: Frame::new(width, height), camera, images: Vec::new(), arrived: Vec::new() }
            })
            .collect(),
    };
    let mut now = START;
    while now.duration_since(START) < span {
        now = now.saturating_add(robot.control.period);
        advance(now);
        let state = arm.read(now).map_err(CliError::failed)?;
        out.encoders.push(Stamped { at: state.stamp, value: state.position_rad[joint] });
        for seen in &mut out.cameras {
            if seen.camera.capture(now, &mut seen.frame).map_err(CliError::failed)? {
                seen.images.push(seen.frame.data.clone());
                seen.arrived.push(now);
            }
        }
        let mut position = home;
        position[joint] += swing_rad * excitation(now.seconds_since(START));
        let valid_until = now.saturating_add(robot.control.command_valid);
        let asked = JointCommand { mode: CommandMode::Position, target: position, valid_until };
        let (command, _) = filter.filter(now, &asked);
        arm.write(now, &command).map_err(CliError::failed)?;
        out.commands.push(Stamped { at: now, value: command.position_rad()[joint] });
    }
    Ok(out)
}
