//! Boards rendered through known cameras, found, and the cameras fitted to what was found.
#![allow(clippy::unwrap_used)]

use endplate_calibration::camera::{CharucoBoard, Corner, CornerFile, Grey, Intrinsics, View, fit_camera};
use nalgebra::{Isometry3, Point3, Vector3};

const CAMERA: Intrinsics =
    Intrinsics { fx: 612.3, fy: 609.8, cx: 326.4, cy: 236.9, distortion: [-0.28, 0.09, 0.0012, -0.0007, 0.01] };
const SIZE: (usize, usize) = (640, 480);

/// Uniform numbers of a fixed generator.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn within(&mut self, half: f64) -> f64 {
        (2.0 * self.uniform() - 1.0) * half
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// The direction of a pixel: the distortion undone by iteration.
fn ray([u, v]: [f64; 2]) -> Vector3<f64> {
    let target = [(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy];
    let mut at = target;
    for _ in 0..30 {
        let there = CAMERA.distort(at);
        at = [at[0] + target[0] - there[0], at[1] + target[1] - there[1]];
    }
    Vector3::new(at[0], at[1], 1.0)
}

/// Where every sample of every pixel looks: 5 × 5 a pixel.
fn rays() -> Vec<Vec<Vector3<f64>>> {
    (0..SIZE.0 * SIZE.1)
        .map(|index| {
            let (x, y) = ((index % SIZE.0) as f64, (index / SIZE.0) as f64);
            (0..25)
                .map(|sample| ray([x + f64::from(sample % 5) / 5.0 - 0.4, y + f64::from(sample / 5) / 5.0 - 0.4]))
                .collect()
        })
        .collect()
}

/// A view of a board whose black is at `dark` and white at `light`, with noise, its light falling off to one side.
fn render(
    board: &CharucoBoard,
    pose: &Isometry3<f64>,
    rays: &[Vec<Vector3<f64>>],
    (dark, light): (f64, f64),
    noise: f64,
    random: &mut Random,
) -> Grey {
    let (normal, origin) = (pose * Vector3::z(), pose.translation.vector);
    let margin = 0.01;
    let size = board.size_m();
    let data: Vec<u8> = rays
        .iter()
        .enumerate()
        .map(|(index, samples)| {
            let sum: f64 = samples
                .iter()
                .map(|ray| {
                    let at = pose.inverse() * Point3::from(ray * (origin.dot(&normal) / ray.dot(&normal)));
                    let paper =
                        (-margin..size[0] + margin).contains(&at.x) && (-margin..size[1] + margin).contains(&at.y);
                    match paper {
                        true if board.is_white([at.x, at.y]) => light,
                        true => dark,
                        false => 110.0,
                    }
                })
                .sum();
            let shade = 0.7 + 0.3 * (index % SIZE.0) as f64 / SIZE.0 as f64;
            (sum / 25.0 * shade + noise * random.normal()).round().clamp(0.0, 255.0) as u8
        })
        .collect();
    Grey::from_luma(SIZE.0, SIZE.1, &data).unwrap()
}

fn pose(board: &CharucoBoard, random: &mut Random, tilt: f64, roll: f64) -> Isometry3<f64> {
    let size = board.size_m();
    let turn = Vector3::new(random.within(tilt), random.within(tilt), roll);
    let at = Vector3::new(random.within(0.10), random.within(0.07), 0.25 + 0.13 * random.uniform());
    Isometry3::new(at, turn) * Isometry3::translation(-size[0] / 2.0, -size[1] / 2.0, 0.0)
}

fn charuco() -> CharucoBoard {
    CharucoBoard::new((11, 8), 0.02, 0.015, "DICT_4X4_250".parse().unwrap()).unwrap()
}

/// Largest distance of a corner from where it was rendered, pixels.
fn worst(corners: &[Corner], pose: &Isometry3<f64>) -> f64 {
    let off = corners.iter().map(|corner| {
        let [u, v] = CAMERA.project(&(pose * Point3::new(corner.object_m[0], corner.object_m[1], 0.0))).unwrap();
        (u - corner.pixel[0]).hypot(v - corner.pixel[1])
    });
    off.fold(0.0, f64::max)
}

#[test]
fn a_camera_is_fitted_to_a_rendered_board_within_two_thousandths() {
    let (board, rays, mut random) = (charuco(), rays(), Random(11));
    let mut views = Vec::new();
    let mut found = 0;
    for index in 0..20 {
        // The board is seen from every side, also upside down.
        let roll = f64::from(index % 4) * std::f64::consts::FRAC_PI_2 + random.within(0.3);
        let pose = pose(&board, &mut random, 0.6, roll);
        let image = render(&board, &pose, &rays, (20.0, 220.0), 2.0, &mut random);
        let detection = board.detect(&image);
        let off = worst(&detection.corners, &pose);
        assert!(off < 0.6, "view {index}: a corner {off} px off, {} corners", detection.corners.len());
        found += detection.corners.len();
        views.push(View { image: format!("{index}"), corners: detection.corners });
    }
    assert!(found > 20 * 45, "{found} corners");
    let fit = fit_camera(&CornerFile { width: 640, height: 480, views }).unwrap();
    for (name, fitted, exact) in [
        ("fx", fit.intrinsics.fx, CAMERA.fx),
        ("fy", fit.intrinsics.fy, CAMERA.fy),
        ("cx", fit.intrinsics.cx, CAMERA.cx),
        ("cy", fit.intrinsics.cy, CAMERA.cy),
    ] {
        println!("{name} {fitted:.3} of {exact:.3}: {:+.4} %", 100.0 * (fitted / exact - 1.0));
        assert!((fitted / exact - 1.0).abs() < 0.002, "{name} {fitted} of {exact}");
    }
    println!("rms {:.4} px over {found} corners", fit.rms_px);
    assert!(fit.rms_px < 0.1, "rms {}", fit.rms_px);
}

#[test]
fn a_dim_or_partly_hidden_board_gives_right_corners_or_none() {
    let (board, rays, mut random) = (charuco(), rays(), Random(5));
    for (index, light) in [(40.0, 90.0), (5.0, 60.0), (30.0, 200.0)].into_iter().enumerate() {
        let pose = pose(&board, &mut random, 0.4, 0.2);
        let image = render(&board, &pose, &rays, light, 1.5, &mut random);
        let detection = board.detect(&image);
        assert!(detection.corners.len() > 20, "view {index}: {}", detection.corners.len());
        assert!(worst(&detection.corners, &pose) < 1.0);
    }
    // Another board, and none: nothing is made up.
    let other = CharucoBoard::new((11, 8), 0.02, 0.015, "DICT_6X6_250".parse().unwrap()).unwrap();
    let view = pose(&board, &mut random, 0.3, 0.0);
    let image = render(&other, &view, &rays, (20.0, 220.0), 2.0, &mut random);
    assert!(board.detect(&image).corners.is_empty(), "{:?}", board.detect(&image).markers);
    let noise: Vec<u8> = (0..SIZE.0 * SIZE.1).map(|_| (random.uniform() * 255.0) as u8).collect();
    assert!(board.detect(&Grey::from_luma(SIZE.0, SIZE.1, &noise).unwrap()).corners.is_empty());
    let flat = Grey::from_luma(SIZE.0, SIZE.1, &vec![90; SIZE.0 * SIZE.1]).unwrap();
    assert!(board.detect(&flat).corners.is_empty());
}

#[test]
fn a_chessboard_needs_no_markers() {
    let board = CharucoBoard::chessboard((9, 7), 0.022).unwrap();
    let (rays, mut random) = (rays(), Random(3));
    let mut views = Vec::new();
    for index in 0..8 {
        let roll = random.within(0.3);
        let pose = pose(&board, &mut random, 0.5, roll);
        let image = render(&board, &pose, &rays, (20.0, 220.0), 2.0, &mut random);
        views.push(View { image: format!("{index}"), corners: board.detect(&image).corners });
    }
    assert!(
        views.iter().all(|view| view.corners.len() >= 20),
        "{:?}",
        views.iter().map(|v| v.corners.len()).collect::<Vec<_>>()
    );
    let fit = fit_camera(&CornerFile { width: 640, height: 480, views }).unwrap();
    let share = (fit.intrinsics.fx / CAMERA.fx - 1.0).abs();
    assert!(share < 0.005 && fit.rms_px < 0.1, "{share} {}", fit.rms_px);
}
