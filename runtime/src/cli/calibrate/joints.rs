//! `calibrate joints`: by hand, torque off, written and read back.

use crate::cli::bundle::open_robot;
use crate::cli::error::{CliError, read_text, write};
use clap::Args;
use core::time::Duration;
use endplate_calibration::MotorCalibrations;
use endplate_calibration::joints::{
    CalibrationBus, JointCalibration, JointCalibrationError, JointPlan, Phase, SimulatedBus, load,
};
use endplate_calibration::plausibility::{Tolerances, against_robot, span};
use endplate_hal::RobotSpec;
use std::path::PathBuf;
use std::sync::mpsc;

/// Arguments of `calibrate joints`.
#[derive(Args)]
pub struct JointArguments {
    /// Robot description: names, servo ids, travels.
    #[arg(long)]
    robot: Option<PathBuf>,
    /// Write the calibration, as LeRobot reads it.
    #[arg(long, value_name = "FILE", required_unless_present = "load")]
    write: Option<PathBuf>,
    /// Load this calibration into the servos instead, and read it back.
    #[arg(long, value_name = "FILE", conflicts_with = "write")]
    load: Option<PathBuf>,
    /// Ask for every joint's positive direction as well; sets `drive_mode`.
    #[arg(long)]
    direction: bool,
    /// Joints without stops, which get a whole turn.
    #[arg(long, value_name = "NAME", default_value = "wrist_roll")]
    full_turn: Vec<String>,
    /// Practise on a simulated arm that moves by itself.
    #[arg(long)]
    simulated: bool,
}

/// How often the joints are read while they are moved.
const POLL: Duration = Duration::from_millis(20);

/// Calibrates, checks against the robot, writes.
pub fn calibrate(arguments: &JointArguments) -> Result<(), CliError> {
    let robot = open_robot(arguments.robot.as_ref())?;
    if !arguments.simulated {
        return Err(CliError::Input(format!(
            "{}: this build drives no servo bus here yet: practise with --simulated",
            robot.source
        )));
    }
    let plan = plan(&robot, &arguments.full_turn)?;
    // Encoders wherever they happen to stand, one near its end.
    let mut bus = SimulatedBus::new((0..plan.len()).map(|index| (60 + 701 * index as i32) % 4096).collect());
    if let Some(path) = &arguments.load {
        let name = path.display().to_string();
        let file = MotorCalibrations::from_json(&read_text(path)?, &name).map_err(CliError::input)?;
        refuse(&name, against_robot(&file, &robot))?;
        load(&mut bus, &file).map_err(CliError::failed)?;
        println!("loaded and read back: {} servos", file.iter().len());
        return Ok(());
    }
    let travels: Vec<f64> = robot.joints.iter().map(|joint| joint.limits.upper_rad - joint.limits.lower_rad).collect();
    let middles = bus.encoders.clone();
    let mut step = 0u32;
    let mut hand = move |bus: &mut SimulatedBus, phase: Phase| -> bool {
        step += 1;
        match phase {
            Phase::Sweep => {
                let swing = (f64::from(step) * 0.1).sin();
                for (index, encoder) in bus.encoders.iter_mut().enumerate() {
                    let half = travels[index] / 2.0 * 4096.0 / core::f64::consts::TAU;
                    *encoder = (middles[index] + (half * swing).round() as i32).rem_euclid(4096);
                }
                step > 80
            }
            Phase::Direction { joint } => {
                bus.encoders[joint] = (bus.encoders[joint] + 120).rem_euclid(4096);
                true
            }
            _ => true,
        }
    };
    let mut calibration = JointCalibration::start(bus, plan, arguments.direction).map_err(CliError::failed)?;
    drive(&mut calibration, &mut hand)?;
    let (file, _) = calibration.finish();
    let mut findings = against_robot(&file, &robot);
    for (index, joint) in robot.joints.iter().enumerate() {
        findings.extend(file.get(&joint.name).and_then(|motor| span(&robot, index, motor, &Tolerances::default())));
    }
    refuse("this calibration", findings)?;
    if let Some(path) = &arguments.write {
        write(path, file.to_json())?;
        println!("written: {}", path.display());
    }
    Ok(())
}

fn refuse(what: &str, findings: Vec<endplate_calibration::plausibility::Finding>) -> Result<(), CliError> {
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(|finding| format!("{what}: {finding}")).collect();
    Err(CliError::Refused(lines.join("\n")))
}

fn plan(robot: &RobotSpec, full_turn: &[String]) -> Result<Vec<JointPlan>, CliError> {
    robot
        .joints
        .iter()
        .enumerate()
        .map(|(index, joint)| {
            let id = joint.servo_id.or_else(|| u8::try_from(index + 1).ok());
            id.map(|id| JointPlan { name: joint.name.clone(), id, is_full_turn: full_turn.contains(&joint.name) })
                .ok_or_else(|| CliError::Input(format!("{}: joint {} has no servo_id", robot.source, joint.name)))
        })
        .collect()
}

/// Shows prompts, polls, and confirms on a line of standard input, or when the simulated hand is done.
fn drive<B: CalibrationBus>(
    calibration: &mut JointCalibration<B>,
    hand: &mut dyn FnMut(&mut B, Phase) -> bool,
) -> Result<(), CliError> {
    let (sender, lines) = mpsc::channel();
    // Ends with the process: a thread that waits for a line cannot be woken.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    while calibration.phase() != Phase::Done {
        let phase = calibration.phase();
        println!("{}", calibration.prompt());
        loop {
            let done = hand(calibration.bus_mut(), phase);
            calibration.poll().map_err(CliError::failed)?;
            let confirmed = match lines.recv_timeout(POLL) {
                Ok(line) if line.trim() == "q" => {
                    calibration.abort().map_err(CliError::failed)?;
                    return Err(CliError::Failed("given up: the servos hold what they held before".into()));
                }
                Ok(_) => true,
                Err(_) => done,
            };
            if !confirmed {
                continue;
            }
            if phase == Phase::Sweep {
                for (name, low, now, high) in calibration.seen() {
                    println!("  {name:<16} {low:>5} {now:>5} {high:>5}");
                }
            }
            match calibration.confirm() {
                Ok(_) => break,
                Err(error @ JointCalibrationError::HardlyMoved { .. }) => println!("{error}"),
                Err(error) => return Err(CliError::failed(error)),
            }
        }
    }
    println!("{}", calibration.prompt());
    Ok(())
}
