//! Where a serial chain's tool is, how it moves, and which joints bring it somewhere.

mod inverse;
mod model_file;

pub use inverse::{InverseError, InverseKinematics, InverseRules};
pub use model_file::{ModelFileError, ModelLink, ModelPath};

use nalgebra::{Isometry3, SMatrix, Translation3, Unit, UnitQuaternion, Vector3};

use crate::joints::MAX_JOINTS;

/// Why a pose cannot be computed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KinematicsError {
    /// The joint vector is shorter than the chain's largest joint index.
    #[error("the chain uses joint {needed} and {got} joints were given")]
    Joints {
        /// Largest joint index the chain uses.
        needed: usize,
        /// Joints given.
        got: usize,
    },
    /// A joint position is not finite.
    #[error("joint {joint} is not finite")]
    NonFinite {
        /// The joint.
        joint: usize,
    },
    /// An axis has no direction.
    #[error("link {link} has an axis of length zero")]
    Axis {
        /// The link.
        link: usize,
    },
}

/// Where a described chain's tool is, and how it moves with the joints. Failure is an error, never a guess.
pub trait Kinematics: Send {
    /// The tool's pose in the base frame (m) for `[D]` joint positions (rad).
    ///
    /// # Errors
    /// [`KinematicsError`] for too few or non-finite joints.
    fn forward(&self, position_rad: &[f64]) -> Result<Isometry3<f64>, KinematicsError>;

    /// The geometric Jacobian in the base frame: rows are linear (m/s) then angular (rad/s) velocity of the tool,
    /// column `j` is joint `j` of the robot; joints outside the chain and columns past `D` are zero.
    ///
    /// # Errors
    /// [`KinematicsError`] for too few or non-finite joints.
    fn jacobian(&self, position_rad: &[f64]) -> Result<SMatrix<f64, 6, MAX_JOINTS>, KinematicsError>;
}

/// One revolute joint of a chain: a fixed step from the joint before, then a rotation about `axis`.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct ChainLink {
    /// Index of the joint in the robot's order.
    pub joint: usize,
    /// From the previous joint's frame to this joint's, m.
    pub origin_m: [f64; 3],
    /// This joint's frame at zero as seen from the previous one: roll, pitch, yaw about fixed axes (`Rz·Ry·Rx`), rad.
    pub rpy_rad: [f64; 3],
    /// Rotation axis in this joint's frame; need not be of unit length.
    pub axis: [f64; 3],
}

/// A pose of a translation, m, and of roll, pitch and yaw about fixed axes (`Rz·Ry·Rx`, as URDF has them), rad.
pub(crate) fn pose(xyz_m: [f64; 3], rpy_rad: [f64; 3]) -> Isometry3<f64> {
    let [roll, pitch, yaw] = rpy_rad;
    Isometry3::from_parts(Translation3::from(Vector3::from(xyz_m)), UnitQuaternion::from_euler_angles(roll, pitch, yaw))
}

/// A serial chain of revolute joints.
///
/// # Real-time
/// Evaluation neither allocates nor blocks.
#[derive(Clone, Debug)]
pub struct Chain {
    links: Vec<(usize, Isometry3<f64>, Unit<Vector3<f64>>)>,
    tool: Isometry3<f64>,
}

impl Chain {
    /// A chain of these links, base first, ending in a tool frame parallel to the last joint's, `tool_m` from it.
    ///
    /// # Errors
    /// [`KinematicsError::Axis`] for an axis without direction.
    pub fn new(links: &[ChainLink], tool_m: [f64; 3]) -> Result<Self, KinematicsError> {
        Self::with_tool(links, tool_m, [0.0; 3])
    }

    /// A chain of these links, base first, ending in a tool frame with this place, m, and roll, pitch, yaw, rad, in the last
    /// joint's frame.
    ///
    /// # Errors
    /// [`KinematicsError::Axis`] for an axis without direction.
    pub fn with_tool(links: &[ChainLink], tool_m: [f64; 3], tool_rpy_rad: [f64; 3]) -> Result<Self, KinematicsError> {
        let links = links
            .iter()
            .enumerate()
            .map(|(link, described)| {
                let axis = Unit::try_new(Vector3::from(described.axis), 1e-9).ok_or(KinematicsError::Axis { link })?;
                Ok((described.joint, pose(described.origin_m, described.rpy_rad), axis))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { links, tool: pose(tool_m, tool_rpy_rad) })
    }

    /// The robot's joints the chain runs through, base first.
    pub fn joints(&self) -> impl Iterator<Item = usize> + '_ {
        self.links.iter().map(|(joint, _, _)| *joint)
    }

    /// The tool point in the base frame, m.
    ///
    /// # Errors
    /// As [`Kinematics::forward`].
    pub fn tool_m(&self, position_rad: &[f64]) -> Result<[f64; 3], KinematicsError> {
        self.forward(position_rad).map(|pose| pose.translation.vector.into())
    }

    fn position(&self, position_rad: &[f64], joint: usize) -> Result<f64, KinematicsError> {
        match position_rad.get(joint) {
            None => Err(KinematicsError::Joints { needed: joint, got: position_rad.len() }),
            Some(value) if !value.is_finite() => Err(KinematicsError::NonFinite { joint }),
            Some(&value) => Ok(value),
        }
    }
}

impl Kinematics for Chain {
    fn forward(&self, position_rad: &[f64]) -> Result<Isometry3<f64>, KinematicsError> {
        let mut pose = Isometry3::identity();
        for (joint, origin, axis) in &self.links {
            let turn = UnitQuaternion::from_axis_angle(axis, self.position(position_rad, *joint)?);
            pose = pose * *origin * turn;
        }
        Ok(pose * self.tool)
    }

    fn jacobian(&self, position_rad: &[f64]) -> Result<SMatrix<f64, 6, MAX_JOINTS>, KinematicsError> {
        let tool = self.forward(position_rad)?.translation.vector;
        let mut jacobian = SMatrix::<f64, 6, MAX_JOINTS>::zeros();
        let mut pose = Isometry3::identity();
        for (joint, origin, axis) in &self.links {
            pose *= *origin;
            let direction = pose.rotation * axis.into_inner();
            let linear = direction.cross(&(tool - pose.translation.vector));
            jacobian.fixed_view_mut::<3, 1>(0, *joint).copy_from(&linear);
            jacobian.fixed_view_mut::<3, 1>(3, *joint).copy_from(&direction);
            pose *= UnitQuaternion::from_axis_angle(axis, self.position(position_rad, *joint)?);
        }
        Ok(jacobian)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planar() -> Chain {
        let link = |joint, z| ChainLink { joint, origin_m: [0.0, 0.0, z], rpy_rad: [0.0; 3], axis: [0.0, 1.0, 0.0] };
        Chain::new(&[link(0, 0.1), link(1, 0.2)], [0.0, 0.0, 0.3]).unwrap()
    }

    #[test]
    fn a_planar_chain_reaches_where_geometry_says() {
        let (a, b) = (0.4f64, 0.9f64);
        let tool = planar().tool_m(&[a, b]).unwrap();
        assert!((tool[0] - (0.2 * a.sin() + 0.3 * (a + b).sin())).abs() < 1e-12);
        assert!((tool[2] - (0.1 + 0.2 * a.cos() + 0.3 * (a + b).cos())).abs() < 1e-12);
    }

    #[test]
    fn the_jacobian_is_the_derivative_of_the_forward_map() {
        let chain = planar();
        let at = [0.3, -0.7];
        let jacobian = chain.jacobian(&at).unwrap();
        for joint in 0..2 {
            let h = 1e-6;
            let mut moved = at;
            moved[joint] += h;
            let (p, q) = (chain.tool_m(&at).unwrap(), chain.tool_m(&moved).unwrap());
            for axis in 0..3 {
                assert!(((q[axis] - p[axis]) / h - jacobian[(axis, joint)]).abs() < 1e-5);
            }
        }
        assert_eq!(jacobian[(4, 1)], 1.0);
    }

    #[test]
    fn missing_and_non_finite_joints_are_errors() {
        assert_eq!(planar().forward(&[0.0]), Err(KinematicsError::Joints { needed: 1, got: 1 }));
        assert_eq!(planar().forward(&[0.0, f64::NAN]), Err(KinematicsError::NonFinite { joint: 1 }));
        let still = ChainLink { joint: 0, origin_m: [0.0; 3], rpy_rad: [0.0; 3], axis: [0.0; 3] };
        assert!(Chain::new(&[still], [0.0; 3]).is_err());
    }
}
