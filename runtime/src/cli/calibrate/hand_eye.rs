//! `calibrate hand-eye`.

use crate::cli::error::{CliError, read_text};
use clap::{Args, ValueEnum};
use endplate_calibration::{HandEye, HandEyeMethod, PoseFile, PoseRecord, hand_eye};
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `calibrate hand-eye`.
#[derive(Args)]
pub struct HandEyeArguments {
    /// Poses: `{"poses": [{"base_from_gripper": {"translation_m", "rotation_xyzw"}, "camera_from_target": {…}}]}`.
    file: PathBuf,
    /// Method; the others are shown for comparison.
    #[arg(long, value_enum, default_value_t = Method::Park)]
    method: Method,
    /// The camera stands beside the robot and the board is on the gripper: solve for the camera in the base frame.
    #[arg(long)]
    eye_to_hand: bool,
    /// The solution as JSON, nothing else.
    #[arg(long)]
    json: bool,
}

/// How to solve.
#[derive(Copy, Clone, PartialEq, Eq, ValueEnum)]
enum Method {
    Park,
    Tsai,
    Daniilidis,
}

impl Method {
    fn method(self) -> HandEyeMethod {
        match self {
            Self::Park => HandEyeMethod::Park,
            Self::Tsai => HandEyeMethod::Tsai,
            Self::Daniilidis => HandEyeMethod::Daniilidis,
        }
    }
}

/// Solves and tells how well it fits.
pub fn solve(arguments: &HandEyeArguments) -> Result<(), CliError> {
    let name = arguments.file.display().to_string();
    let mut poses = PoseFile::from_json(&read_text(&arguments.file)?, &name).map_err(CliError::input)?;
    if arguments.eye_to_hand {
        for pose in &mut poses {
            pose.base_from_gripper = pose.base_from_gripper.inverse();
        }
    }
    let refuse = |error| CliError::Input(format!("{name}: {error}"));
    let chosen = arguments.method.method();
    let solved = hand_eye(&poses, chosen).map_err(refuse)?;
    let warning = solved.quality.warning();
    if arguments.json {
        let pose = PoseRecord::from(&solved.gripper_from_camera);
        let left = solved.residual;
        say!(
            "{}",
            json!({
                "parent": if arguments.eye_to_hand { "base" } else { "gripper" },
                "child": "camera",
                "method": chosen.name(),
                "translation_m": pose.translation_m,
                "rotation_xyzw": pose.rotation_xyzw,
                "rotation_rms_rad": left.rotation_rms_rad,
                "translation_rms_m": left.translation_rms_m,
                "warning": warning,
            })
        );
        return Ok(());
    }
    let parent = if arguments.eye_to_hand { "base" } else { "gripper" };
    say!("camera in the {parent} frame, {} poses", poses.len());
    say!(
        "{:<12} {:>34} {:>36} {:>20} {:>20}",
        "method",
        "translation m",
        "rotation xyzw",
        "left over, deg",
        "left over, mm"
    );
    for method in HandEyeMethod::ALL {
        match hand_eye(&poses, method) {
            Ok(solved) => say!("{}{}", row(method, &solved), if method == chosen { "  ← chosen" } else { "" }),
            Err(error) => say!("{:<12} {error}", method.name()),
        }
    }
    say!(
        "turn between poses: median {:.1}°, largest {:.1}°; axis spread {:.2}",
        solved.quality.median_turn_rad.to_degrees(),
        solved.quality.largest_turn_rad.to_degrees(),
        solved.quality.axis_spread
    );
    if let Some(warning) = warning {
        say!("warning: {warning}");
    }
    Ok(())
}

fn row(method: HandEyeMethod, solved: &HandEye) -> String {
    let pose = PoseRecord::from(&solved.gripper_from_camera);
    let list = |values: &[f64]| values.iter().map(|value| format!("{value:8.5}")).collect::<Vec<_>>().join(", ");
    let left = solved.residual;
    format!(
        "{:<12} {:>34} {:>36} {:>11.3} max {:>4.3} {:>11.2} max {:>4.2}",
        method.name(),
        list(&pose.translation_m),
        list(&pose.rotation_xyzw),
        left.rotation_rms_rad.to_degrees(),
        left.rotation_max_rad.to_degrees(),
        left.translation_rms_m * 1e3,
        left.translation_max_m * 1e3
    )
}
