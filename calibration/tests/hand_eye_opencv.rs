//! OpenCV's own answers (4.14.0, third-party) to noisy poses, from `calibration/scripts/hand_eye_vectors.py write`.
#![allow(clippy::unwrap_used)]

use endplate_calibration::{HandEyeMethod, PoseFile, hand_eye};
use serde_json::{Value, json};

#[test]
fn noisy_poses_give_opencvs_answer_to_1e_5() {
    let sets: Vec<Value> = serde_json::from_str(include_str!("data/hand_eye_opencv.json")).unwrap();
    assert_eq!(sets.len(), 3);
    for set in sets {
        let poses = PoseFile::from_json(&json!({"poses": set["poses"]}).to_string(), "set").unwrap();
        for method in HandEyeMethod::ALL {
            let ours = hand_eye(&poses, method).unwrap().gripper_from_camera.to_homogeneous();
            for row in 0..3 {
                for column in 0..4 {
                    let theirs = set["opencv"][method.name()][row][column].as_f64().unwrap();
                    assert!((ours[(row, column)] - theirs).abs() < 1e-5, "{} {row} {column}", method.name());
                }
            }
        }
    }
}

#[test]
fn a_quaternion_that_is_none_is_named() {
    let pose = json!({"translation_m": [0, 0, 0], "rotation_xyzw": [0, 0, 0, 1]});
    let zero = json!({"translation_m": [0, 0, 0], "rotation_xyzw": [0, 0, 0, 0]});
    let text = json!({"poses": [{"base_from_gripper": pose, "camera_from_target": zero}]}).to_string();
    let error = PoseFile::from_json(&text, "poses.json").unwrap_err().to_string();
    assert!(error.contains("poses[0].camera_from_target") && error.contains("length 0"), "{error}");
}
