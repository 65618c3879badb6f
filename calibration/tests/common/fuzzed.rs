//! What is asked of every calibration file, whatever its bytes: the body of the fuzz target, replayed by the tests.

use endplate_calibration::camera::{CameraInfo, CornerFile, fit_camera};
use endplate_calibration::{HandEyeMethod, MotorCalibrations, PoseFile, hand_eye};

/// No file panics; what is read comes back as written.
pub fn calibration_files(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    if let Ok(file) = MotorCalibrations::from_json(text, "file") {
        let again = MotorCalibrations::from_json(&file.to_json(), "file");
        assert_eq!(again.as_ref(), Ok(&file));
    }
    if let Ok(info) = CameraInfo::from_yaml(text, "file") {
        let again = CameraInfo::from_yaml(&info.to_yaml(), "file");
        assert_eq!(again.as_ref(), Ok(&info));
    }
    if let Ok(poses) = PoseFile::from_json(text, "file")
        && poses.len() <= 20
    {
        for method in HandEyeMethod::ALL {
            let _ = hand_eye(&poses, method);
        }
    }
    if let Ok(corners) = CornerFile::from_json(text, "file")
        && corners.views.iter().map(|view| view.corners.len()).sum::<usize>() <= 200
    {
        let _ = fit_camera(&corners);
    }
}
