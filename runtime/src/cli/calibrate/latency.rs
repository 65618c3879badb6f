//! `calibrate latency`: command to motion, and motion to frame, by moving one joint and watching encoders and frames.
//!
//! On the simulated robot in simulated time; on servo buses, real or emulated, and on cameras of this machine on the real
//! clock, after everything that is looked at before torque.

use crate::cli::bundle::open_robot;
use crate::cli::error::CliError;
use clap::Args;
use core::time::Duration;
use endplate_calibration::latency::{Stamped, delay, excitation, image_signal};
use endplate_hal::{
    BusError, Camera, CommandMode, Frame, HeldCause, Instant, JointCommand, JointVec, Robot, RobotSpec, SafetyFilter,
    StopCategory,
};
use endplate_runtime::signals::StopRequest;
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
    let span = Duration::from_secs_f64(arguments.seconds);
    let swing = Swing { joint, swing_rad: arguments.swing_rad, span };
    let recorded = if crate::cli::robot_file::has_buses(&robot) {
        on_real_clock(&robot, swing)?
    } else {
        in_simulated_time(&robot, swing)?
    };
    let period_ms = robot.control.period.as_secs_f64() * 1e3;
    say!("{:<24} {:>9} {:>12} {:>10}", "from → to", "delay ms", "correlation", "described");
    let line = |what: &str, cause: &[Stamped], effect: &[Stamped], described: String| match delay(cause, effect) {
        Ok(found) => say!("{what:<24} {:>9.1} {:>12.3} {described:>10}", found.seconds * 1e3, found.correlation),
        Err(error) => say!("{what:<24} {error}"),
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
    say!("frames are looked for once a control period of {period_ms:.1} ms, so they seem up to that much later");
    Ok(())
}

/// What is to be moved, how far and how long.
#[derive(Copy, Clone)]
struct Swing {
    joint: usize,
    swing_rad: f64,
    span: Duration,
}

fn simulated(robot: &RobotSpec, at: Instant) -> Result<SimRobot, CliError> {
    let model = Arc::new(Model::so101_like().map_err(CliError::failed)?);
    SimRobot::new(model, &Scene::sample(1), SimOptions::from_spec(robot), at).map_err(CliError::input)
}

fn cameras_of(world: &SimRobot) -> Vec<Box<dyn Camera>> {
    world.cameras().into_iter().map(|camera| Box::new(camera) as _).collect()
}

fn in_simulated_time(robot: &RobotSpec, swing: Swing) -> Result<Recording, CliError> {
    if let Some(camera) = robot.cameras.iter().find(|camera| camera.driver != "sim") {
        return Err(CliError::Input(format!(
            "{}: camera {} is a real one and the arm has no servo bus: describe devices of one world",
            robot.source, camera.name
        )));
    }
    let world = simulated(robot, START)?;
    let arms = Robot::new(vec![Box::new(world.arm())]).map_err(CliError::failed)?;
    record(robot, arms, cameras_of(&world), swing, START, |now| {
        world.advance_to(now);
        now
    })
}

#[cfg(not(feature = "serial"))]
fn on_real_clock(robot: &RobotSpec, _: Swing) -> Result<Recording, CliError> {
    Err(CliError::Input(format!("{}: servo buses need the feature `serial`", robot.source)))
}

#[cfg(feature = "serial")]
fn on_real_clock(robot: &RobotSpec, swing: Swing) -> Result<Recording, CliError> {
    use super::super::{before_torque, devices};
    use endplate_hal::{Clock, MonotonicClock, camera};
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let is_emulated = devices::is_emulated(robot);
    let world = is_emulated.then(|| simulated(robot, clock.now())).transpose()?;
    if !is_emulated {
        before_torque::require_sound(robot, false)?;
    }
    let cameras = match &world {
        Some(world) => cameras_of(world),
        None => robot
            .cameras
            .iter()
            .map(|described| camera::open(described, Arc::clone(&clock)))
            .collect::<Result<_, _>>()
            .map_err(|error| CliError::Input(format!("{}: {error}", robot.source)))?,
    };
    let mut arms = devices::open_arms(robot, &clock, world.as_ref())?;
    let settled = clock.now().saturating_add(SETTLES);
    while arms.robot.read(clock.now()).is_err() && clock.now() < settled {
        if let Some(world) = &world {
            world.advance_to(clock.now());
        }
        clock.sleep_until(clock.now().saturating_add(robot.control.period));
    }
    record(robot, arms.robot, cameras, swing, clock.now(), |now| {
        clock.sleep_until(now);
        let now = clock.now();
        if let Some(world) = &world {
            world.advance_to(now);
        }
        now
    })
}

/// How long a bus may take until its joints can be read.
#[cfg(feature = "serial")]
const SETTLES: Duration = Duration::from_secs(2);

/// Moves and records, then brakes. `advance` waits for the instant, or moves a simulated world there, and says when it is.
fn record(
    robot: &RobotSpec,
    mut arms: Robot,
    cameras: Vec<Box<dyn Camera>>,
    swing: Swing,
    start: Instant,
    mut advance: impl FnMut(Instant) -> Instant,
) -> Result<Recording, CliError> {
    let stop = StopRequest::listen().map_err(|error| CliError::Failed(format!("signal handlers: {error}")))?;
    let home = arms.read(start).map_err(CliError::failed)?.position_rad;
    let limits = robot.safety_limits();
    let (at, limit) = (home[swing.joint], &limits.joints[swing.joint]);
    if at - swing.swing_rad < limit.lower_rad || at + swing.swing_rad > limit.upper_rad {
        return Err(CliError::Input(format!(
            "--swing-rad {}: joint {} stands at {at:.3} rad and may go from {} to {}: move it away from the end by hand, \
             or swing less",
            swing.swing_rad, robot.joints[swing.joint].name, limit.lower_rad, limit.upper_rad
        )));
    }
    let filter = SafetyFilter::new(limits, &home).map_err(CliError::failed)?;
    arms.set_torque(start, true).map_err(CliError::failed)?;
    let seen = |camera: Box<dyn Camera>| {
        let (width, height) = camera.size();
        Seen { frame: Frame::new(width, height), camera, images: Vec::new(), arrived: Vec::new() }
    };
    let out =
        Recording { commands: Vec::new(), encoders: Vec::new(), cameras: cameras.into_iter().map(seen).collect() };
    let mut moving = Moving { robot, arms, filter, home, swing, now: start, late: 0, out };
    let moved = moving.swing(&stop, &mut advance);
    moving.come_to_rest(&mut advance);
    moved?;
    if stop.is_asked() {
        return Err(CliError::Failed("interrupted: the arm was brought to rest, nothing is measured".to_owned()));
    }
    Ok(moving.out)
}

/// An arm that is being moved.
struct Moving<'a> {
    robot: &'a RobotSpec,
    arms: Robot,
    filter: SafetyFilter,
    home: JointVec,
    swing: Swing,
    now: Instant,
    /// Commands that had expired before they could be sent.
    late: usize,
    out: Recording,
}

impl Moving<'_> {
    /// Until the span has passed or a stop is asked for.
    fn swing(&mut self, stop: &StopRequest, advance: &mut impl FnMut(Instant) -> Instant) -> Result<(), CliError> {
        let (start, mut read) = (self.now, self.now);
        let joint = self.swing.joint;
        let control = &self.robot.control;
        while self.now.duration_since(start) < self.swing.span && !stop.is_asked() {
            self.now = advance(self.now.saturating_add(control.period));
            let now = self.now;
            match self.arms.read(now) {
                Ok(state) => {
                    read = now;
                    self.out.encoders.push(Stamped { at: state.stamp, value: state.position_rad[joint] });
                }
                // A lost answer is a hole in the encoder's signal; a silent bus is the end.
                Err(_) if now.duration_since(read) <= control.state_max_age => {}
                Err(error) => return Err(CliError::failed(error)),
            }
            for seen in &mut self.out.cameras {
                if seen.camera.capture(now, &mut seen.frame).map_err(CliError::failed)? {
                    seen.images.push(seen.frame.data.clone());
                    seen.arrived.push(now);
                }
            }
            let mut target = self.home;
            target[joint] += self.swing.swing_rad * excitation(now.seconds_since(start));
            let valid_until = now.saturating_add(control.command_valid);
            let asked = JointCommand { mode: CommandMode::Position, target, valid_until };
            let (command, _) = self.filter.filter(now, &asked);
            match self.arms.write(now, &command) {
                Ok(_) => {}
                // This machine was late: the command was not sent, and does not count.
                Err(BusError::Expired) => {
                    self.late += 1;
                    continue;
                }
                Err(error) => return Err(CliError::failed(error)),
            }
            self.out.commands.push(Stamped { at: now, value: command.position_rad()[joint] });
        }
        if self.late * 10 > self.out.commands.len() {
            return Err(CliError::Failed(format!(
                "{} of {} commands were too late to be sent: this machine is too busy to measure",
                self.late,
                self.late + self.out.commands.len()
            )));
        }
        Ok(())
    }

    /// Whatever came of the motion: brakes under the limits, then holds or lets go, as the robot declares.
    fn come_to_rest(&mut self, advance: &mut impl FnMut(Instant) -> Instant) {
        let control = &self.robot.control;
        let end = self.now.saturating_add(control.stop_time);
        while self.now < end && !self.filter.motion().is_at_rest() {
            self.now = advance(self.now.saturating_add(control.period));
            let (command, _) = self.filter.brake(self.now, HeldCause::Asked);
            // An arm that cannot be reached holds its last goal; there is nothing else to send.
            let _ = self.arms.write(self.now, &command);
        }
        if control.stop_category == StopCategory::TorqueOff {
            let patience = self.now.saturating_add(RELEASES);
            while self.arms.set_torque(self.now, false).is_err() && self.now < patience {
                self.now = advance(self.now.saturating_add(control.period));
            }
        }
    }
}

/// How long a bus may take to confirm that the torque is off.
const RELEASES: Duration = Duration::from_secs(1);
