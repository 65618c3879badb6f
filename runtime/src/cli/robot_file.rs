//! Robot descriptions by file or by name, with the calibration files they name.

use super::error::{CliError, read_text};
use endplate_calibration::MotorCalibrations;
use endplate_hal::{RobotSpec, ServoCalibration, robots};
use std::path::{Path, PathBuf};

/// Descriptions that are built in, by name. Those of arms on hardware name no port: see `--port`.
const BUILT_IN: [(&str, &str); 6] = [
    ("so101_sim", robots::SO101_SIM),
    ("so101_emulated", robots::SO101_EMULATED),
    ("so100", robots::SO100),
    ("so101", robots::SO101),
    ("koch", robots::KOCH),
    ("viperx", robots::VIPERX),
];

/// Whether the description names servo buses.
pub fn has_buses(spec: &RobotSpec) -> bool {
    spec.arms.iter().any(|arm| arm.bus.is_some())
}

/// The robot described in a file or built in under a name.
pub fn open(path: &Path) -> Result<RobotSpec, CliError> {
    open_with(path, &mut |folder, file| calibration(folder, file).map(Some))
}

/// The same without its calibration files, which may not be there yet: not for motion.
pub fn open_uncalibrated(path: &Path) -> Result<RobotSpec, CliError> {
    open_with(path, &mut |_, _| Ok(None))
}

/// Reads a calibration file named in a description of this folder.
type Load<'a> = &'a mut dyn FnMut(&Path, &Path) -> Result<Option<Vec<ServoCalibration>>, String>;

fn open_with(path: &Path, load: Load<'_>) -> Result<RobotSpec, CliError> {
    let built_in = BUILT_IN.iter().find(|(name, _)| path.as_os_str() == *name);
    if let Some((name, text)) = built_in.filter(|_| !path.exists()) {
        return RobotSpec::from_toml_str(text, name).map_err(CliError::input);
    }
    let text = read_text(path).map_err(|error| {
        let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        CliError::Input(format!("{error}: name a robot description, or one that is built in: {}", names.join(", ")))
    })?;
    let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
    let beside = |name: &str| std::fs::read_to_string(beside(&folder, Path::new(name)));
    RobotSpec::from_toml_with(&text, &path.display().to_string(), &beside, &mut |file| load(&folder, file))
        .map_err(CliError::input)
}

/// Where a file that a description in `folder` names lies.
pub fn beside(folder: &Path, file: &Path) -> PathBuf {
    match (file.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => folder.join(file),
    }
}

/// What a description holds where its owner is to write a port.
#[cfg(feature = "serial")]
pub const CHANGE_ME: &str = "CHANGE-ME";

/// Puts ports of the command line, `PATH` or `ARM=PATH`, in the place of those described.
#[cfg(feature = "serial")]
pub fn set_ports(robot: &mut RobotSpec, ports: &[String]) -> Result<(), CliError> {
    for text in ports {
        let names: Vec<&str> = robot.arms.iter().map(|arm| arm.name.as_str()).collect();
        let (name, port) = match (text.split_once('='), names.as_slice()) {
            (Some((name, port)), _) => (name.to_owned(), port),
            (None, [only]) => ((*only).to_owned(), text.as_str()),
            (None, names) => {
                return Err(CliError::Input(format!(
                    "--port {text}: write ARM=PATH, with ARM one of {}",
                    names.join(", ")
                )));
            }
        };
        let known = names.join(", ");
        let bus = robot.arms.iter_mut().find(|arm| arm.name == name).and_then(|arm| arm.bus.as_mut());
        let bus =
            bus.ok_or_else(|| CliError::Input(format!("--port {text}: no arm of a bus has that name: {known}")))?;
        port.clone_into(&mut bus.port);
    }
    Ok(())
}

/// A calibration file, beside the description unless its path is absolute; `~/` is the user's home.
fn calibration(folder: &Path, file: &Path) -> Result<Vec<ServoCalibration>, String> {
    let path = beside(folder, file);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        format!(
            "{}: {error}: name LeRobot's file, as in ~/.cache/huggingface/lerobot/calibration/robots/so101_follower/ID.json",
            path.display()
        )
    })?;
    let file = MotorCalibrations::from_json(&text, &path.display().to_string()).map_err(|error| error.to_string())?;
    Ok(file.servos())
}
