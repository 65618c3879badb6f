//! The file of hand-eye poses.

use crate::hand_eye::PosePair;
use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};
use serde::{Deserialize, Serialize};

/// A pose as files have it.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoseRecord {
    /// m.
    pub translation_m: [f64; 3],
    /// Unit quaternion, scalar last, as ROS has it.
    pub rotation_xyzw: [f64; 4],
}

/// One moment as files have it.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PosePairRecord {
    /// Gripper in the base frame.
    pub base_from_gripper: PoseRecord,
    /// Board in the camera's frame.
    pub camera_from_target: PoseRecord,
}

/// A set of moments: `{"poses": […]}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoseFile {
    /// The moments.
    pub poses: Vec<PosePairRecord>,
}

/// Why a file of poses is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PoseFileError {
    /// Not this JSON.
    #[error("{file}: {message}")]
    Parse {
        /// The file as the user named it.
        file: String,
        /// The parser's message.
        message: String,
    },
    /// A quaternion that is none.
    #[error("{file}: poses[{index}].{key}.rotation_xyzw has length {norm}: write a unit quaternion, scalar last")]
    Rotation {
        /// The file as the user named it.
        file: String,
        /// The pose.
        index: usize,
        /// Which of its two.
        key: &'static str,
        /// The quaternion's length.
        norm: f64,
    },
}

impl From<&Isometry3<f64>> for PoseRecord {
    fn from(pose: &Isometry3<f64>) -> Self {
        Self { translation_m: pose.translation.vector.into(), rotation_xyzw: pose.rotation.coords.into() }
    }
}

impl PoseRecord {
    fn pose(&self) -> Result<Isometry3<f64>, f64> {
        let quaternion = Quaternion::from(nalgebra::Vector4::from(self.rotation_xyzw));
        let norm = quaternion.norm();
        if (norm - 1.0).abs() < 1e-3 {
            Ok(Isometry3::from_parts(
                Translation3::from(self.translation_m),
                UnitQuaternion::from_quaternion(quaternion),
            ))
        } else {
            Err(norm)
        }
    }
}

impl PoseFile {
    /// Parses a file; `file` is the name to use in messages.
    ///
    /// # Errors
    /// [`PoseFileError`].
    pub fn from_json(text: &str, file: &str) -> Result<Vec<PosePair>, PoseFileError> {
        let read: Self = serde_json::from_str(text)
            .map_err(|error| PoseFileError::Parse { file: file.into(), message: error.to_string() })?;
        let pose = |index, key, record: &PoseRecord| {
            record.pose().map_err(|norm| PoseFileError::Rotation { file: file.into(), index, key, norm })
        };
        read.poses
            .iter()
            .enumerate()
            .map(|(index, pair)| {
                Ok(PosePair {
                    base_from_gripper: pose(index, "base_from_gripper", &pair.base_from_gripper)?,
                    camera_from_target: pose(index, "camera_from_target", &pair.camera_from_target)?,
                })
            })
            .collect()
    }
}
