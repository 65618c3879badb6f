//! ROS's `camera_info` YAML, as `camera_calibration` writes it and `camera_info_manager` reads it.

use super::model::Intrinsics;
use serde::Deserialize;

/// A camera as ROS files have it.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraInfo {
    /// Name of the camera.
    pub name: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// The camera.
    pub intrinsics: Intrinsics,
}

/// Why a file is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CameraInfoError {
    /// Not YAML, a key missing or unknown, or a value of another type.
    #[error("{file}: {message}")]
    Parse {
        /// The file as the user named it.
        file: String,
        /// The parser's message.
        message: String,
    },
    /// A value that cannot be.
    #[error("{file}: {key} = {value}: {remedy}")]
    Invalid {
        /// The file as the user named it.
        file: String,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    image_width: u32,
    image_height: u32,
    camera_name: String,
    camera_matrix: Matrix,
    #[serde(alias = "camera_model")]
    distortion_model: String,
    distortion_coefficients: Matrix,
    rectification_matrix: Matrix,
    projection_matrix: Matrix,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

impl CameraInfo {
    /// Parses a file; `file` is the name to use in messages.
    ///
    /// # Errors
    /// [`CameraInfoError`], naming file, key, value and remedy: another distortion model, a skewed or rectified camera.
    pub fn from_yaml(text: &str, file: &str) -> Result<Self, CameraInfoError> {
        let raw: Raw = serde_norway::from_str(text)
            .map_err(|error| CameraInfoError::Parse { file: file.into(), message: error.to_string() })?;
        let refuse =
            |key, value: String, remedy| Err(CameraInfoError::Invalid { file: file.into(), key, value, remedy });
        if raw.distortion_model != "plumb_bob" {
            return refuse("distortion_model", raw.distortion_model, "this version reads plumb_bob");
        }
        for (key, matrix, rows, cols) in [
            ("camera_matrix", &raw.camera_matrix, 3, 3),
            ("distortion_coefficients", &raw.distortion_coefficients, 1, 5),
            ("rectification_matrix", &raw.rectification_matrix, 3, 3),
            ("projection_matrix", &raw.projection_matrix, 3, 4),
        ] {
            let finite = matrix.data.iter().all(|value| value.is_finite());
            if (matrix.rows, matrix.cols, matrix.data.len()) != (rows, cols, rows * cols) || !finite {
                let value = format!("{}×{} with {} numbers", matrix.rows, matrix.cols, matrix.data.len());
                return refuse(key, value, "write finite numbers, as many as ROS's camera_calibration does");
            }
        }
        let [fx, skew, cx, zero_a, fy, cy, zero_b, zero_c, one] = raw.camera_matrix.data[..] else {
            return refuse("camera_matrix", "other than 9 numbers".into(), "write 3×3");
        };
        if [skew, zero_a, zero_b, zero_c] != [0.0; 4] || one != 1.0 || fx <= 0.0 || fy <= 0.0 {
            let value = format!("{:?}", raw.camera_matrix.data);
            return refuse("camera_matrix", value, "write [fx, 0, cx, 0, fy, cy, 0, 0, 1] with focal lengths above 0");
        }
        if raw.rectification_matrix.data != [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0] {
            let value = format!("{:?}", raw.rectification_matrix.data);
            return refuse("rectification_matrix", value, "this version reads single cameras, which have the identity");
        }
        let mut distortion = [0.0; 5];
        distortion.copy_from_slice(&raw.distortion_coefficients.data);
        Ok(Self {
            name: raw.camera_name,
            width: raw.image_width,
            height: raw.image_height,
            intrinsics: Intrinsics { fx, fy, cx, cy, distortion },
        })
    }

    /// The file, with every number in full; the projection matrix is that of the camera itself (no rectification).
    pub fn to_yaml(&self) -> String {
        let Intrinsics { fx, fy, cx, cy, distortion } = self.intrinsics;
        let list = |values: &[f64]| values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
        let matrix = |name, rows, cols, values: &[f64]| {
            format!("{name}:\n  rows: {rows}\n  cols: {cols}\n  data: [{}]\n", list(values))
        };
        // A JSON string is a YAML string, whatever is in it.
        let name = serde_json::Value::from(self.name.as_str());
        [
            format!("image_width: {}\nimage_height: {}\ncamera_name: {name}\n", self.width, self.height),
            matrix("camera_matrix", 3, 3, &[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]),
            "distortion_model: plumb_bob\n".into(),
            matrix("distortion_coefficients", 1, 5, &distortion),
            matrix("rectification_matrix", 3, 3, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]),
            matrix("projection_matrix", 3, 4, &[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ROS's `camera_calibration` writes it.
    const ROS: &str = "image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [438.783367, 0.000000, 305.593336, 0.000000, 437.302876, 243.738352, 0.000000, 0.000000, 1.000000]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.361976, 0.110510, 0.001014, 0.000505, 0.000000]
rectification_matrix:
  rows: 3
  cols: 3
  data:
    - 1
    - 0
    - 0
    - 0
    - 1
    - 0
    - 0
    - 0
    - 1
projection_matrix:
  rows: 3
  cols: 4
  data: [393.653, 0.0, 322.797, 0.0, 0.0, 393.653, 241.09, 0.0, 0.0, 0.0, 1.0, 0.0]
";

    #[test]
    fn a_file_of_ros_is_read_and_ours_comes_back() {
        let read = CameraInfo::from_yaml(ROS, "camera.yaml").unwrap();
        assert_eq!((read.width, read.height, read.intrinsics.cx), (640, 480, 305.593336));
        assert_eq!(read.intrinsics.distortion[1], 0.11051);
        let odd = CameraInfo { name: "a: \"b\" #c".into(), ..read };
        assert_eq!(CameraInfo::from_yaml(&odd.to_yaml(), "x").unwrap(), odd);
    }

    #[test]
    fn a_bad_file_is_refused_by_key_and_value() {
        for (from, to, expected) in [
            ("plumb_bob", "equidistant", "distortion_model = equidistant"),
            ("image_width: 640", "image_width: wide", "camera.yaml: "),
            ("image_width: 640", "image_wide: 640", "image_wide"),
            ("cols: 5", "cols: 4", "distortion_coefficients = 1×4"),
            ("438.783367, 0.0", "438.783367, 0.1", "camera_matrix = ["),
            ("438.783367", ".nan", "camera_matrix = 3×3"),
            ("- 0\n", "- 2\n", "rectification_matrix = ["),
        ] {
            let text = ROS.replacen(from, to, 1);
            assert_ne!(text, ROS);
            let message = CameraInfo::from_yaml(&text, "camera.yaml").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
