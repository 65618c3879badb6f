//! Damaged calibration files: an error or a calibration, never a panic.
#![allow(clippy::unwrap_used)]

#[path = "common/fuzzed.rs"]
mod fuzzed;

use serde_json::{Value, json};

const CAMERA: &str = "image_width: 640
image_height: 480
camera_name: wrist
camera_matrix: {rows: 3, cols: 3, data: [438.7, 0, 305.5, 0, 437.3, 243.7, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.36, 0.11, 0.001, 0.0005, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [438.7, 0, 305.5, 0, 0, 437.3, 243.7, 0, 0, 0, 1, 0]}
";

fn seeds() -> Vec<String> {
    let sets: Vec<Value> = serde_json::from_str(include_str!("data/hand_eye_opencv.json")).unwrap();
    let poses: Vec<Value> = sets[0]["poses"].as_array().unwrap()[..4].to_vec();
    let view = |tilt: f64| {
        let corners = (0..12).map(|index| {
            let (x, y) = (f64::from(index % 4) * 0.02, f64::from(index / 4) * 0.02);
            let depth = 0.3 + tilt * x;
            json!({"object_m": [x, y], "pixel": [300.0 + 500.0 * x / depth, 200.0 + 500.0 * y / depth]})
        });
        json!({"image": "a.png", "corners": corners.collect::<Vec<_>>()})
    };
    let corners = json!({"width": 640, "height": 480, "views": [view(0.4), view(-0.3), view(0.1)]});
    vec![
        include_str!("data/lerobot_so101.json").into(),
        CAMERA.into(),
        json!({"poses": poses}).to_string(),
        corners.to_string(),
    ]
}

#[test]
fn damaged_files_never_panic() {
    let mut state = 11u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let pieces = [
        "1e308",
        "-1e308",
        "0",
        "nan",
        "null",
        "[]",
        "{}",
        "\"",
        ",",
        "-",
        "1e-320",
        "99999999999",
        "id",
        ".inf",
        "\u{0}",
    ];
    for seed in seeds() {
        fuzzed::calibration_files(seed.as_bytes());
        for _ in 0..400 {
            let mut bytes = seed.clone().into_bytes();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                    1 => drop(bytes.drain(at..(at + random(8)).min(bytes.len()))),
                    2 => bytes.truncate(at),
                    _ => {
                        drop(bytes.splice(at..(at + random(6)).min(bytes.len()), pieces[random(pieces.len())].bytes()))
                    }
                }
                if bytes.is_empty() {
                    break;
                }
            }
            fuzzed::calibration_files(&bytes);
        }
    }
}
