//! `calibrate camera`.

use crate::cli::error::{CliError, read_text, write};
use clap::Args;
use endplate_calibration::camera::{CameraFit, CameraInfo, CornerFile, fit_camera};
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `calibrate camera`.
#[derive(Args)]
pub struct CameraArguments {
    /// Corners of a board, as `calibration/scripts/board_corners.py` finds them in images (ChArUco or chessboard):
    /// `{"width", "height", "views": [{"image", "corners": [{"object_m": [x, y], "pixel": [u, v]}]}]}`.
    corners: PathBuf,
    /// Name of the camera in the file written.
    #[arg(long, default_value = "camera")]
    name: String,
    /// Write ROS's `camera_info` YAML.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// A `camera_info` YAML to compare with: a camera that has moved in its mount, or another lens, shows.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// The result as JSON, nothing else.
    #[arg(long)]
    json: bool,
}

const NAMES: [&str; 9] = ["fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3"];

fn values(fit: &CameraInfo) -> [f64; 9] {
    let camera = fit.intrinsics;
    let [k1, k2, p1, p2, k3] = camera.distortion;
    [camera.fx, camera.fy, camera.cx, camera.cy, k1, k2, p1, p2, k3]
}

/// Fits, reports, writes.
pub fn fit(arguments: &CameraArguments) -> Result<(), CliError> {
    let source = arguments.corners.display().to_string();
    let file = CornerFile::from_json(&read_text(&arguments.corners)?, &source).map_err(CliError::input)?;
    let fit = fit_camera(&file).map_err(|error| CliError::Input(format!("{source}: {error}")))?;
    let info =
        CameraInfo { name: arguments.name.clone(), width: file.width, height: file.height, intrinsics: fit.intrinsics };
    let other = arguments
        .compare
        .as_ref()
        .map(|path| CameraInfo::from_yaml(&read_text(path)?, &path.display().to_string()).map_err(CliError::input))
        .transpose()?;
    if let Some(path) = &arguments.write {
        write(path, info.to_yaml())?;
    }
    if arguments.json {
        println!(
            "{}",
            json!({
                "camera": NAMES.iter().zip(values(&info)).collect::<std::collections::BTreeMap<_, _>>(),
                "deviation": NAMES.iter().zip(fit.deviations).collect::<std::collections::BTreeMap<_, _>>(),
                "rms_px": fit.rms_px,
                "max_px": fit.max_px,
                "kept": fit.views.iter().map(|view| view.kept).sum::<usize>(),
                "rejected": fit.views.iter().map(|view| view.rejected).sum::<usize>(),
                "dropped_views": fit.dropped,
                "coverage": fit.coverage,
                "warnings": fit.warnings,
            })
        );
    } else {
        report(&info, &fit, other.as_ref());
    }
    Ok(())
}

fn report(info: &CameraInfo, fit: &CameraFit, other: Option<&CameraInfo>) {
    println!("{:<4} {:>12} {:>12}{}", "", "value", "1 σ", if other.is_some() { "      compared" } else { "" });
    for (index, (name, value)) in NAMES.iter().zip(values(info)).enumerate() {
        let compared = other.map(|other| format!(" {:>13.5}", values(other)[index])).unwrap_or_default();
        println!("{name:<4} {value:>12.5} {:>12.5}{compared}", fit.deviations[index]);
    }
    println!("{:<28} {:>7} {:>8} {:>9}", "view", "kept", "rejected", "rms px");
    for view in &fit.views {
        println!("{:<28} {:>7} {:>8} {:>9.3}", view.image, view.kept, view.rejected, view.rms_px);
    }
    for (image, reason) in &fit.dropped {
        println!("{image:<28} left out: {reason}");
    }
    let [across, down] = fit.coverage.map(|share| share * 100.0);
    println!("rms {:.3} px, largest {:.3} px; corners span {across:.0} % × {down:.0} %", fit.rms_px, fit.max_px);
    for warning in &fit.warnings {
        println!("warning: {warning}");
    }
}
