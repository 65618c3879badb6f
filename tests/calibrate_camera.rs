//! `calibrate board` and `calibrate camera`: a board drawn, rendered through a known camera, found in images and live,
//! and the camera it was rendered through.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "common/hardware.rs"]
mod hardware;

use endplate_calibration::camera::CharucoBoard;
use hardware::Robot;
use std::path::Path;
use std::process::{Command, Output};

const BOARD: [&str; 6] = ["--squares", "8x6", "--square-m", "0.025", "--marker-m", "0.018"];
const SIZE: (usize, usize) = (480, 360);
/// Focal lengths and principal point.
const CAMERA: [f64; 4] = [455.0, 452.0, 243.5, 176.0];

fn board() -> CharucoBoard {
    CharucoBoard::new((8, 6), 0.025, 0.018, "DICT_4X4_250".parse().unwrap()).unwrap()
}

/// A view of the board from a tilt about both axes, `[h, w]`: 3 × 3 samples a pixel.
fn view(tilt: [f64; 2], at: [f64; 3]) -> Vec<u8> {
    let board = board();
    let ((sx, cx), (sy, cy)) = (tilt[0].sin_cos(), tilt[1].sin_cos());
    // Columns of the rotation Ry·Rx: the board's axes in the camera's frame.
    let (x_axis, y_axis) = ([cy, 0.0, -sy], [sy * sx, cx, cy * sx]);
    let normal = [
        x_axis[1] * y_axis[2] - x_axis[2] * y_axis[1],
        x_axis[2] * y_axis[0] - x_axis[0] * y_axis[2],
        x_axis[0] * y_axis[1] - x_axis[1] * y_axis[0],
    ];
    let dot = |a: [f64; 3], b: [f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    let [width_m, height_m] = board.size_m();
    let mut image = Vec::with_capacity(SIZE.0 * SIZE.1);
    for index in 0..SIZE.0 * SIZE.1 {
        let (x, y) = ((index % SIZE.0) as f64, (index / SIZE.0) as f64);
        let mut sum = 0.0;
        for sample in 0..9 {
            let (u, v) = (x + f64::from(sample % 3) / 3.0 - 1.0 / 3.0, y + f64::from(sample / 3) / 3.0 - 1.0 / 3.0);
            let ray = [(u - CAMERA[2]) / CAMERA[0], (v - CAMERA[3]) / CAMERA[1], 1.0];
            let far = dot(at, normal) / dot(ray, normal);
            let from = [ray[0] * far - at[0], ray[1] * far - at[1], ray[2] * far - at[2]];
            let place = [dot(from, x_axis) + width_m / 2.0, dot(from, y_axis) + height_m / 2.0];
            sum += if board.is_white(place) { 215.0 } else { 25.0 };
        }
        image.push((sum / 9.0_f64).round() as u8);
    }
    image
}

const VIEWS: usize = 16;

/// As many as the warning of the command asks for: fewer do not tell the centre of the image to 0.2 %.
fn views() -> Vec<Vec<u8>> {
    (0..VIEWS)
        .map(|index| {
            let turn = std::f64::consts::TAU * index as f64 / VIEWS as f64;
            let tilt = [0.55 * turn.cos(), 0.55 * turn.sin()];
            let aside = [0.05, -0.05][index % 2];
            let low = [0.035, -0.035][index / 2 % 2];
            view(tilt, [aside, low, 0.22 + 0.006 * index as f64])
        })
        .collect()
}

fn write_png(path: &Path, image: &[u8]) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), SIZE.0 as u32, SIZE.1 as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(image).unwrap();
}

fn calibrate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_endplate")).arg("calibrate").args(arguments).output().unwrap()
}

fn assert_fitted(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let fit: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, exact) in ["fx", "fy", "cx", "cy"].iter().zip(CAMERA) {
        let fitted = fit["camera"][name].as_f64().unwrap();
        assert!((fitted / exact - 1.0).abs() < 0.002, "{name} {fitted} of {exact}: {fit}");
    }
}

#[test]
fn a_camera_is_fitted_to_images_of_a_board() {
    let folder = tempfile::tempdir().unwrap();
    for (index, image) in views().iter().enumerate() {
        write_png(&folder.path().join(format!("{index}.png")), image);
    }
    let (images, yaml) = (folder.path().to_str().unwrap(), folder.path().join("camera.yaml"));
    let arguments = [&["camera", "--json", "--images", images, "--write", yaml.to_str().unwrap()][..], &BOARD].concat();
    assert_fitted(&calibrate(&arguments));
    assert!(std::fs::read_to_string(yaml).unwrap().contains("plumb_bob"));
    // A board that is not in the images.
    let other = calibrate(&[
        "camera",
        "--images",
        images,
        "--squares",
        "8x6",
        "--square-m",
        "0.025",
        "--marker-m",
        "0.018",
        "--dictionary",
        "DICT_6X6_250",
    ]);
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.code() == Some(2) && said.contains("0 views"), "{said}");
    std::fs::write(folder.path().join("broken.jpg"), b"\xff\xd8broken").unwrap();
    let broken = calibrate(&[&["camera", "--images", images][..], &BOARD].concat());
    assert!(String::from_utf8_lossy(&broken.stderr).contains("broken.jpg"));
}

#[test]
fn a_camera_is_fitted_live_while_the_board_is_moved() {
    let header = format!(
        "{:<117}\n",
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({VIEWS}, {}, {}, 3), }}", SIZE.1, SIZE.0)
    );
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(views().iter().flatten().flat_map(|&grey| [grey; 3]));
    let robot = Robot::new(Path::new("/dev/null"), |text| {
        text.replace("black.npy", "moved.npy")
            .replace("width = 96", "width = 480")
            .replace("height = 96", "height = 360")
            .replace("rate_hz = 30.0", "rate_hz = 4.0")
            .replace("max_age_ms = 150.0", "max_age_ms = 500.0")
    });
    std::fs::write(robot.path("moved.npy"), bytes).unwrap();
    let file = robot.file();
    let arguments =
        [&["camera", "--json", "--camera", "wrist", "--robot", &file, "--views", "14"][..], &BOARD].concat();
    assert_fitted(&calibrate(&arguments));
}

#[test]
fn a_board_that_is_drawn_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (picture, corners) = (folder.path().join("board.png"), folder.path().join("corners.json"));
    let picture = picture.to_str().unwrap();
    let drawn = calibrate(&[&["board", "--write", picture, "--dpi", "100"][..], &BOARD].concat());
    let said = String::from_utf8_lossy(&drawn.stdout);
    assert!(drawn.status.success() && said.contains("225.0 × 175.0 mm"), "{said}");
    let found = calibrate(
        &[&["camera", "--images", picture, "--write-corners", corners.to_str().unwrap()][..], &BOARD].concat(),
    );
    assert!(String::from_utf8_lossy(&found.stdout).contains("35 corners"));
    // One view is no calibration.
    assert_eq!(found.status.code(), Some(2));
    assert!(std::fs::read_to_string(corners).unwrap().contains("\"object_m\":[0.025,0.025]"));
}
