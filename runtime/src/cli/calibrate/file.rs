//! `calibrate file`: a LeRobot calibration against a robot description.

use crate::cli::bundle::open_robot;
use crate::cli::error::{CliError, read_text, write};
use clap::Args;
use endplate_calibration::MotorCalibrations;
use endplate_calibration::plausibility::{Finding, Tolerances, against_robot, in_known_pose, span, standing};
use endplate_hal::RobotSpec;
use endplate_hal::servo::{Count, Direction};
use std::path::PathBuf;

/// Arguments of `calibrate file`.
#[derive(Args)]
pub struct FileArguments {
    /// LeRobot's calibration, `<id>.json`.
    file: PathBuf,
    /// Robot description to hold it against.
    #[arg(long)]
    robot: Option<PathBuf>,
    /// Where a joint stands now, as a tool of the servo's maker reads it: `NAME=COUNT`; may be given again.
    #[arg(long, value_name = "NAME=COUNT", requires = "robot")]
    stands: Vec<String>,
    /// Where it truly stands, measured or parked: `NAME=DEGREES` from the middle of its travel, with `--stands`.
    #[arg(long, value_name = "NAME=DEGREES", requires = "stands")]
    known: Vec<String>,
    /// Write it again, byte for byte as LeRobot writes it.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Reads, checks, tells, writes.
pub fn check(arguments: &FileArguments) -> Result<(), CliError> {
    let name = arguments.file.display().to_string();
    let file = MotorCalibrations::from_json(&read_text(&arguments.file)?, &name).map_err(CliError::input)?;
    say!("{:<16} {:>3} {:>10} {:>8} {:>6} {:>6} {:>9}", "motor", "id", "drive_mode", "offset", "min", "max", "range");
    for (motor, entry) in file.iter() {
        say!(
            "{motor:<16} {:>3} {:>10} {:>8} {:>6} {:>6} {:>8.1}°",
            entry.id,
            entry.drive_mode,
            entry.homing_offset,
            entry.range_min,
            entry.range_max,
            f64::from(entry.range_max - entry.range_min) * 360.0 / 4096.0
        );
    }
    if let Some(path) = &arguments.robot {
        let robot = open_robot(Some(path))?;
        let mut findings = against_robot(&file, &robot);
        for (index, joint) in robot.joints.iter().enumerate() {
            let found = file.get(&joint.name).and_then(|motor| span(&robot, index, motor, &Tolerances::default()));
            findings.extend(found);
        }
        findings.extend(where_joints_stand(arguments, &file, &robot)?);
        if !findings.is_empty() {
            let lines: Vec<String> = findings.iter().map(|finding| format!("{name}: {finding}")).collect();
            return Err(CliError::Refused(lines.join("\n")));
        }
        say!("fits {}", robot.name);
    }
    arguments.write.as_ref().map_or(Ok(()), |path| write(path, file.to_json()))
}

/// `NAME=VALUE` of an argument.
fn named<T: core::str::FromStr>(key: &str, text: &str) -> Result<(String, T), CliError> {
    text.split_once('=')
        .and_then(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .ok_or_else(|| CliError::Input(format!("{key} {text:?}: write a joint's name, `=` and a number")))
}

/// What speaks against the calibration in where the joints stand.
fn where_joints_stand(
    arguments: &FileArguments,
    file: &MotorCalibrations,
    robot: &RobotSpec,
) -> Result<Vec<Finding>, CliError> {
    let tolerances = Tolerances::default();
    let mut findings = Vec::new();
    // Joints that are not spoken of stand where they are known to: nothing is found there.
    let (mut read_rad, mut known_rad) = (vec![0.0; robot.joints.len()], vec![0.0; robot.joints.len()]);
    let index = |key: &str, name: &str| {
        robot
            .joints
            .iter()
            .position(|joint| joint.name == name)
            .ok_or_else(|| CliError::Input(format!("{key}: {} has no joint {name:?}", robot.source)))
    };
    for text in &arguments.stands {
        let (name, count): (String, i32) = named("--stands", text)?;
        let joint = index("--stands", &name)?;
        let Some(motor) = file.get(&name) else { continue };
        findings.extend(standing(&name, motor, Count(count), &tolerances));
        let map = motor.servo_map(Direction::Forward, 4096).map_err(CliError::input)?;
        read_rad[joint] = map.rad(Count(count));
        known_rad[joint] = read_rad[joint];
    }
    for text in &arguments.known {
        let (name, degrees): (String, f64) = named("--known", text)?;
        if !arguments.stands.iter().any(|stands| stands.split('=').next() == Some(name.as_str())) {
            return Err(CliError::Input(format!("--known {text}: say where {name} stands as well, with --stands")));
        }
        known_rad[index("--known", &name)?] = degrees.to_radians();
    }
    findings.extend(in_known_pose(robot, &read_rad, &known_rad, &tolerances));
    Ok(findings)
}
