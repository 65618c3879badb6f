//! `calibrate camera`.

use super::board::{BoardArguments, Views, read_image};
use crate::cli::bundle::open_robot;
use crate::cli::error::{CliError, read_text, write};
use clap::Args;
use core::time::Duration;
use endplate_calibration::camera::{CameraFit, CameraInfo, CornerFile, Grey, fit_camera};
use endplate_hal::{Clock, Frame, MonotonicClock, camera};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `calibrate camera`: corners, images, or a camera of a robot.
#[derive(Args)]
pub struct CameraArguments {
    /// Corners that another detector found:
    /// `{"width", "height", "views": [{"image", "corners": [{"object_m": [x, y], "pixel": [u, v]}]}]}`.
    #[arg(required_unless_present_any = ["images", "camera"], conflicts_with_all = ["images", "camera"])]
    corners: Option<PathBuf>,
    /// Images of a board, PNG or JPEG: files, or folders of them.
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "camera")]
    images: Vec<PathBuf>,
    /// Look through this camera of the robot while the board is moved before it.
    #[arg(long, value_name = "NAME")]
    camera: Option<String>,
    /// Robot description, with `--camera`.
    #[arg(long, requires = "camera")]
    robot: Option<PathBuf>,
    /// Views to take, with `--camera`.
    #[arg(long, default_value_t = 20)]
    views: usize,
    #[command(flatten)]
    board: BoardArguments,
    /// Write the corners found.
    #[arg(long, value_name = "FILE")]
    write_corners: Option<PathBuf>,
    /// Name of the camera in the file written; without it that of `--camera`.
    #[arg(long)]
    name: Option<String>,
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

/// How long the board may be out of sight before a live calibration is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The corners, wherever they come from, and the name of that for messages.
fn corners(arguments: &CameraArguments) -> Result<(CornerFile, String), CliError> {
    if let Some(path) = &arguments.corners {
        let source = path.display().to_string();
        let file = CornerFile::from_json(&read_text(path)?, &source).map_err(CliError::input)?;
        return Ok((file, source));
    }
    let mut views = Views::new(arguments.board.board()?);
    let source = match &arguments.camera {
        Some(name) => {
            look(arguments, name, &mut views)?;
            format!("camera {name}")
        }
        None => {
            for path in image_files(&arguments.images)? {
                let name = path.display().to_string();
                let found = views.add(&name, &read_image(&path)?)?;
                if !arguments.json {
                    say!("{name}: {found} corners");
                }
            }
            "--images".to_owned()
        }
    };
    let file = views.into_file();
    if let Some(path) = &arguments.write_corners {
        write(path, serde_json::to_string(&file).map_err(CliError::failed)?)?;
    }
    Ok((file, source))
}

/// Files, and the images in folders, in the order of their names.
fn image_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let is_image = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        ["png", "jpg", "jpeg"].contains(&extension.to_lowercase().as_str())
    };
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries =
            std::fs::read_dir(path).map_err(|error| CliError::Input(format!("{}: {error}", path.display())))?;
        let mut inside: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| is_image(path)).collect();
        if inside.is_empty() {
            return Err(CliError::Input(format!("{}: there is no PNG or JPEG in it", path.display())));
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

/// Takes views from a camera of the robot until there are enough.
fn look(arguments: &CameraArguments, name: &str, views: &mut Views) -> Result<(), CliError> {
    let robot = open_robot(arguments.robot.as_ref())?;
    let spec = robot.cameras.iter().find(|camera| camera.name == name).ok_or_else(|| {
        let known: Vec<&str> = robot.cameras.iter().map(|camera| camera.name.as_str()).collect();
        CliError::Input(format!("--camera {name:?}: {} has {}", robot.source, known.join(", ")))
    })?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let mut device = camera::open(spec, Arc::clone(&clock)).map_err(CliError::input)?;
    let (width, height) = device.size();
    let mut frame = Frame::new(width, height);
    let mut taken = clock.now();
    if !arguments.json {
        say!("move the board before {name}: near and far, tilted by 30° and more, into every corner of the image");
    }
    while views.len() < arguments.views {
        let now = clock.now();
        if now.duration_since(taken) > PATIENCE {
            return Err(CliError::Failed(format!(
                "camera {name}: no new view for {} s, {} of {} taken: is the board the one described, sharp and whole?",
                PATIENCE.as_secs(),
                views.len(),
                arguments.views
            )));
        }
        match device.capture(now, &mut frame) {
            Ok(true) => {
                let grey = Grey::from_rgb(width as usize, height as usize, &frame.data)
                    .ok_or_else(|| CliError::Failed(format!("camera {name}: an empty image")))?;
                let (is_new, found) = views.offer(&format!("{}", frame.sequence), &grey);
                if is_new {
                    taken = clock.now();
                    if !arguments.json {
                        say!("view {} of {}: {found} corners", views.len(), arguments.views);
                    }
                }
            }
            Ok(false) => clock.sleep_until(now.saturating_add(Duration::from_millis(5))),
            Err(error) => return Err(CliError::Failed(format!("camera {name}: {error}"))),
        }
    }
    Ok(())
}

/// Fits, reports, writes.
pub fn fit(arguments: &CameraArguments) -> Result<(), CliError> {
    let (file, source) = corners(arguments)?;
    let name = arguments.name.clone().or_else(|| arguments.camera.clone()).unwrap_or_else(|| "camera".to_owned());
    let fit = fit_camera(&file).map_err(|error| CliError::Input(format!("{source}: {error}")))?;
    let info = CameraInfo { name, width: file.width, height: file.height, intrinsics: fit.intrinsics };
    let other = arguments
        .compare
        .as_ref()
        .map(|path| CameraInfo::from_yaml(&read_text(path)?, &path.display().to_string()).map_err(CliError::input))
        .transpose()?;
    if let Some(path) = &arguments.write {
        write(path, info.to_yaml())?;
    }
    if arguments.json {
        say!(
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
    say!("{:<4} {:>12} {:>12}{}", "", "value", "1 σ", if other.is_some() { "      compared" } else { "" });
    for (index, (name, value)) in NAMES.iter().zip(values(info)).enumerate() {
        let compared = other.map(|other| format!(" {:>13.5}", values(other)[index])).unwrap_or_default();
        say!("{name:<4} {value:>12.5} {:>12.5}{compared}", fit.deviations[index]);
    }
    say!("{:<28} {:>7} {:>8} {:>9}", "view", "kept", "rejected", "rms px");
    for view in &fit.views {
        say!("{:<28} {:>7} {:>8} {:>9.3}", view.image, view.kept, view.rejected, view.rms_px);
    }
    for (image, reason) in &fit.dropped {
        say!("{image:<28} left out: {reason}");
    }
    let [across, down] = fit.coverage.map(|share| share * 100.0);
    say!("rms {:.3} px, largest {:.3} px; corners span {across:.0} % × {down:.0} %", fit.rms_px, fit.max_px);
    for warning in &fit.warnings {
        say!("warning: {warning}");
    }
}
