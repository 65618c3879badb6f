//! Poses of the tool as numbers of a state or an action row.
//!
//! A pose is three places (`x`, `y`, `z`, m) and, where the policy turns the tool, three angles (rad) in one of two forms:
//! `roll`, `pitch`, `yaw` about fixed axes (`Rz·Ry·Rx`; the RLDS and OpenVLA convention), or `wx`, `wy`, `wz`, a rotation
//! vector, axis times angle (robosuite, LIBERO, LeRobot). A difference of poses has the same numbers, said in the axes of
//! the base (shifts add, turns multiply from the left) or of the tool (both as seen from the tool).

use nalgebra::{Isometry3, Translation3, UnitQuaternion, Vector3};

use crate::action_space::Unit;

/// Which number of a pose a dimension is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// Place along the base's x.
    X,
    /// Place along the base's y.
    Y,
    /// Place along the base's z.
    Z,
    /// Turn about the fixed x axis, taken first.
    Roll,
    /// Turn about the fixed y axis, taken second.
    Pitch,
    /// Turn about the fixed z axis, taken last.
    Yaw,
    /// First number of the rotation vector.
    Wx,
    /// Second number of the rotation vector.
    Wy,
    /// Third number of the rotation vector.
    Wz,
}

impl Component {
    /// All of them, with their names in `policy.toml`.
    pub const NAMES: [(&'static str, Self); 9] = [
        ("x", Self::X),
        ("y", Self::Y),
        ("z", Self::Z),
        ("roll", Self::Roll),
        ("pitch", Self::Pitch),
        ("yaw", Self::Yaw),
        ("wx", Self::Wx),
        ("wy", Self::Wy),
        ("wz", Self::Wz),
    ];

    /// Its unit.
    pub const fn unit(self) -> Unit {
        match self {
            Self::X | Self::Y | Self::Z => Unit::M,
            _ => Unit::Rad,
        }
    }

    const fn place(self) -> (Triple, usize) {
        match self {
            Self::X => (Triple::Position, 0),
            Self::Y => (Triple::Position, 1),
            Self::Z => (Triple::Position, 2),
            Self::Roll => (Triple::Euler, 0),
            Self::Pitch => (Triple::Euler, 1),
            Self::Yaw => (Triple::Euler, 2),
            Self::Wx => (Triple::Vector, 0),
            Self::Wy => (Triple::Vector, 1),
            Self::Wz => (Triple::Vector, 2),
        }
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Triple {
    Position,
    Euler,
    Vector,
}

/// Whose axes a difference of poses is said in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PoseFrame {
    /// The base's.
    Base,
    /// The tool's own.
    Tool,
}

impl PoseFrame {
    /// The pose that a difference leads to from another one.
    pub(crate) fn compose(self, from: &Isometry3<f64>, difference: &Isometry3<f64>) -> Isometry3<f64> {
        match self {
            Self::Base => Isometry3::from_parts(
                Translation3::from(from.translation.vector + difference.translation.vector),
                difference.rotation * from.rotation,
            ),
            Self::Tool => from * difference,
        }
    }

    /// The difference that leads from one pose to another.
    pub(crate) fn difference(self, from: &Isometry3<f64>, to: &Isometry3<f64>) -> Isometry3<f64> {
        match self {
            Self::Base => Isometry3::from_parts(
                Translation3::from(to.translation.vector - from.translation.vector),
                to.rotation * from.rotation.inverse(),
            ),
            Self::Tool => from.inverse() * to,
        }
    }
}

/// Where the numbers of a pose stand in a row.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoseDims {
    position: [usize; 3],
    rotation: Option<(Triple, [usize; 3])>,
}

impl PoseDims {
    /// Finds them among the dimensions that have a component; `None` when none has.
    ///
    /// # Errors
    /// What is missing or given twice.
    pub(crate) fn find(components: impl Iterator<Item = (usize, Component)>) -> Result<Option<Self>, String> {
        let mut found = [[None; 3]; 3];
        let mut is_any = false;
        for (dim, component) in components {
            let (triple, index) = component.place();
            let slot = &mut found[triple as usize][index];
            if slot.replace(dim).is_some() {
                return Err("one component of the pose stands there twice: a policy moves one tool".to_owned());
            }
            is_any = true;
        }
        let whole = |slots: [Option<usize>; 3], names: &str| match slots {
            [Some(a), Some(b), Some(c)] => Ok(Some([a, b, c])),
            [None, None, None] => Ok(None),
            _ => Err(format!("of {names} all three or none must be given")),
        };
        let position = whole(found[Triple::Position as usize], "x, y, z")?;
        let euler = whole(found[Triple::Euler as usize], "roll, pitch, yaw")?;
        let vector = whole(found[Triple::Vector as usize], "wx, wy, wz")?;
        let rotation = match (euler, vector) {
            (Some(_), Some(_)) => {
                return Err("write the rotation as roll, pitch, yaw or as wx, wy, wz, not as both".to_owned());
            }
            (Some(dims), None) => Some((Triple::Euler, dims)),
            (None, Some(dims)) => Some((Triple::Vector, dims)),
            (None, None) => None,
        };
        match position {
            Some(position) => Ok(Some(Self { position, rotation })),
            None if is_any => Err("x, y and z are missing: a turn alone is no pose".to_owned()),
            None => Ok(None),
        }
    }

    /// Whether the rows turn the tool.
    pub(crate) fn has_rotation(&self) -> bool {
        self.rotation.is_some()
    }

    /// The pose in a row; without a rotation, no turn.
    pub(crate) fn read(&self, row: &[f64]) -> Isometry3<f64> {
        let of = |dims: [usize; 3]| dims.map(|dim| row[dim]);
        let rotation = match self.rotation {
            None => UnitQuaternion::identity(),
            Some((Triple::Euler, dims)) => {
                let [roll, pitch, yaw] = of(dims);
                UnitQuaternion::from_euler_angles(roll, pitch, yaw)
            }
            Some((_, dims)) => UnitQuaternion::from_scaled_axis(Vector3::from(of(dims))),
        };
        Isometry3::from_parts(Translation3::from(Vector3::from(of(self.position))), rotation)
    }

    /// Puts a pose into a row.
    pub(crate) fn write(&self, pose: &Isometry3<f64>, row: &mut [f64]) {
        let mut put = |dims: [usize; 3], values: [f64; 3]| {
            for (dim, value) in dims.into_iter().zip(values) {
                row[dim] = value;
            }
        };
        put(self.position, pose.translation.vector.into());
        match self.rotation {
            None => {}
            Some((Triple::Euler, dims)) => put(dims, pose.rotation.euler_angles().into()),
            Some((_, dims)) => put(dims, pose.rotation.scaled_axis().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(names: &[&str]) -> Result<Option<PoseDims>, String> {
        let component = |name: &str| Component::NAMES.iter().find(|(known, _)| *known == name).map(|(_, c)| *c);
        PoseDims::find(names.iter().enumerate().filter_map(|(dim, name)| Some((dim, component(name)?))))
    }

    #[test]
    fn a_pose_comes_back_from_a_row_in_either_form() {
        let pose = Isometry3::new(Vector3::new(0.1, -0.2, 0.3), Vector3::new(0.4, -1.1, 0.7));
        for names in [["x", "y", "z", "roll", "pitch", "yaw", "jaw"], ["jaw", "wz", "wy", "wx", "z", "y", "x"]] {
            let mut row = [9.0; 7];
            let dims = dims(&names).unwrap().unwrap();
            dims.write(&pose, &mut row);
            let apart = dims.read(&row).inverse() * pose;
            assert!(apart.translation.vector.norm() < 1e-12 && apart.rotation.angle() < 1e-7);
            assert_eq!(row[names.iter().position(|name| *name == "jaw").unwrap()], 9.0);
        }
    }

    #[test]
    fn euler_angles_turn_about_fixed_axes_roll_first() {
        let pose = dims(&["x", "y", "z", "roll", "pitch", "yaw"]).unwrap().unwrap();
        let quarter = core::f64::consts::FRAC_PI_2;
        // scipy: Rotation.from_euler("xyz", [90, 0, 90], degrees=True).apply([0, 1, 0]) is [0, 0, 1].
        let turned = pose.read(&[0.0, 0.0, 0.0, quarter, 0.0, quarter]).rotation * Vector3::y();
        assert!((turned - Vector3::z()).norm() < 1e-12, "{turned}");
    }

    #[test]
    fn a_difference_leads_where_it_came_from_in_both_frames() {
        let from = Isometry3::new(Vector3::new(0.1, 0.0, 0.2), Vector3::new(0.0, 0.0, core::f64::consts::FRAC_PI_2));
        let to = Isometry3::new(Vector3::new(0.2, 0.0, 0.2), Vector3::new(0.3, 0.0, 1.0));
        for frame in [PoseFrame::Base, PoseFrame::Tool] {
            let difference = frame.difference(&from, &to);
            let apart = frame.compose(&from, &difference).inverse() * to;
            assert!(apart.translation.vector.norm() < 1e-12 && apart.rotation.angle() < 1e-7);
        }
        assert!((PoseFrame::Base.difference(&from, &to).translation.x - 0.1).abs() < 1e-12);
        assert!((PoseFrame::Tool.difference(&from, &to).translation.y + 0.1).abs() < 1e-12);
    }

    #[test]
    fn half_a_pose_or_two_of_them_are_refused() {
        assert_eq!(dims(&["pan", "lift"]), Ok(None));
        assert!(dims(&["x", "y"]).unwrap_err().contains("x, y, z"));
        assert!(dims(&["x", "y", "z", "roll"]).unwrap_err().contains("roll, pitch, yaw"));
        assert!(dims(&["wx", "wy", "wz"]).unwrap_err().contains("missing"));
        assert!(dims(&["x", "y", "z", "x"]).unwrap_err().contains("twice"));
        assert!(dims(&["x", "y", "z", "roll", "pitch", "yaw", "wx", "wy", "wz"]).unwrap_err().contains("not as both"));
    }
}
