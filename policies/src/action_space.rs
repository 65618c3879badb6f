//! What the numbers of a state or an action row mean, and the way from normalised rows to joint positions.

use crate::end_effector::{Component, PoseDims, PoseFrame};
use crate::normalisation::Normalisation;
use crate::policy::PolicyError;

/// Unit of a state or action dimension.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Radians.
    Rad,
    /// Metres.
    M,
}

impl Unit {
    /// Its name in `policy.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rad => "rad",
            Self::M => "m",
        }
    }
}

/// What an action dimension commands. The end-effector kinds become joints through the robot's kinematics
/// ([`bind`](crate::bind)); base velocities are not built and refused at load.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// A joint position.
    JointAbs,
    /// A joint position minus the position observed at the anchor.
    JointRel,
    /// A gripper position.
    Gripper,
    /// A component of the tool's pose in the base frame.
    EeAbs,
    /// A component of the tool's pose as a difference to the pose observed at the anchor.
    EeRel,
    /// A component of the tool's pose as a difference to the row before; the first row's, to the pose observed at the anchor.
    EeDelta,
}

impl ActionKind {
    /// Whether it is about the tool's pose.
    pub const fn is_end_effector(self) -> bool {
        matches!(self, Self::EeAbs | Self::EeRel | Self::EeDelta)
    }
}

/// How to go from one row to the next.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// A smooth curve through the rows.
    Smooth,
    /// Spherical, for rotations.
    Slerp,
    /// The row's value until the next row.
    Hold,
}

/// How to go from one chunk to the next.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Blending {
    /// Weighted average where both have rows.
    Average,
    /// One or the other, never between.
    Latch,
}

/// One dimension of the observed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDim {
    /// Joint name, or the checkpoint's name of a component of the tool's pose.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// Which component of the tool's pose in the base frame it is; `None` for a joint.
    pub component: Option<Component>,
}

/// One dimension of an action row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionDim {
    /// Joint name, or the checkpoint's name of a component of the tool's pose.
    pub name: String,
    /// What it commands.
    pub kind: ActionKind,
    /// Its unit.
    pub unit: Unit,
    /// Between rows.
    pub interpolation: Interpolation,
    /// Between chunks.
    pub blending: Blending,
    /// Which component of the tool's pose it is, for the end-effector kinds.
    pub component: Option<Component>,
    /// For a relative dimension, the state dimension of the same name.
    anchor: Option<usize>,
}

/// The dimensions of an action row, their statistics and the state they are relative to.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionSpace {
    dims: Vec<ActionDim>,
    normalisation: Normalisation,
    end_effector: Option<EndEffectorRows>,
    /// Values in a row of the network.
    model_dims: usize,
}

/// How the rows of an action space say the tool's pose.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndEffectorRows {
    pub(crate) pose: PoseDims,
    /// One of the end-effector kinds.
    pub(crate) kind: ActionKind,
    /// Whose axes differences are said in.
    pub(crate) frame: PoseFrame,
}

/// Rows as the model makes them, `[H, D]`, normalised. Never leaves this crate: it cannot be written to an arm.
#[derive(Clone, Debug)]
pub(crate) struct NormalisedRows {
    values: Vec<f64>,
    dims: usize,
}

impl NormalisedRows {
    pub(crate) fn new(horizon: usize, dims: usize) -> Self {
        Self { values: vec![0.0; horizon * dims], dims }
    }

    /// `[H, D]` row-major.
    pub(crate) fn values_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }
}

impl ActionDim {
    /// A dimension; `states` are searched for the joint a relative dimension belongs to. `None` when there is none.
    pub(crate) fn new(
        name: String,
        kind: ActionKind,
        unit: Unit,
        interpolation: Interpolation,
        blending: Blending,
        states: &[StateDim],
    ) -> Option<Self> {
        let anchor = match kind {
            ActionKind::JointRel => Some(states.iter().position(|state| state.name == name && state.unit == unit)?),
            _ => None,
        };
        Some(Self { name, kind, unit, interpolation, blending, component: None, anchor })
    }
}

impl ActionSpace {
    /// An action space; the statistics have one entry per dimension.
    pub(crate) fn new(
        dims: Vec<ActionDim>,
        normalisation: Normalisation,
        end_effector: Option<EndEffectorRows>,
    ) -> Self {
        Self { model_dims: dims.len(), dims, normalisation, end_effector }
    }

    /// The joint space that rows of `inner` become: absolute rows, in the robot's units.
    pub(crate) fn of_joints(dims: Vec<ActionDim>, inner: &Self) -> Self {
        Self { dims, normalisation: Normalisation::Identity, end_effector: None, model_dims: inner.model_dims }
    }

    /// Whether a row is a value for every joint; else it holds the tool's pose, which [`bind`](crate::bind) makes joints of.
    pub fn commands_joints(&self) -> bool {
        self.end_effector.is_none()
    }

    /// How the rows say the tool's pose, where they do.
    pub(crate) fn end_effector(&self) -> Option<EndEffectorRows> {
        self.end_effector
    }

    /// Values in a row of the network.
    pub(crate) fn model_dims(&self) -> usize {
        self.model_dims
    }

    /// The dimensions, in order.
    pub fn dims(&self) -> &[ActionDim] {
        &self.dims
    }

    /// The statistics the rows were normalised with.
    pub fn normalisation(&self) -> &Normalisation {
        &self.normalisation
    }

    /// Turns normalised rows into rows in the dimensions' units, `[H, D]`, joints absolute, with `state` (`[S]`, same
    /// units) observed at the anchor.
    ///
    /// # Errors
    /// [`PolicyError::NonFinite`] and [`PolicyError::OutOfRange`] with the first row and dimension concerned.
    pub(crate) fn to_absolute(
        &self,
        normalised: &NormalisedRows,
        state: &[f64],
        rows: &mut [f64],
    ) -> Result<(), PolicyError> {
        debug_assert_eq!(normalised.values.len(), rows.len());
        debug_assert_eq!(normalised.dims, self.dims.len());
        let limit = self.normalisation.limit();
        let rows = rows.chunks_exact_mut(self.dims.len());
        for (row, (from, into)) in normalised.values.chunks_exact(normalised.dims).zip(rows).enumerate() {
            for (dim, (action, (value, slot))) in self.dims.iter().zip(from.iter().zip(into)).enumerate() {
                if !value.is_finite() {
                    return Err(PolicyError::NonFinite { row, dim });
                }
                if value.abs() > limit {
                    return Err(PolicyError::OutOfRange { row, dim, value: *value, limit });
                }
                let origin = action.anchor.map_or(0.0, |joint| state[joint]);
                *slot = self.normalisation.denormalise(dim, *value) + origin;
                if !slot.is_finite() {
                    return Err(PolicyError::NonFinite { row, dim });
                }
            }
        }
        Ok(())
    }

    /// The way back: normalised values of absolute joint rows, `[n, D]`, as they look from another observation's `state`.
    pub(crate) fn normalised<'a>(&'a self, rows: &'a [f64], state: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        rows.chunks_exact(self.dims.len()).flat_map(move |row| {
            self.dims.iter().zip(row).enumerate().map(move |(dim, (action, value))| {
                let origin = action.anchor.map_or(0.0, |joint| state[joint]);
                self.normalisation.normalise(dim, value - origin)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use endplate_calibration::Quantiles;

    use super::*;

    fn space() -> ActionSpace {
        let states = ["pan", "lift"].map(|name| StateDim { name: name.into(), unit: Unit::Rad, component: None });
        let dim = |name: &str, kind| {
            ActionDim::new(name.into(), kind, Unit::Rad, Interpolation::Smooth, Blending::Average, &states)
        };
        let dims = vec![dim("lift", ActionKind::JointRel).unwrap(), dim("jaw", ActionKind::Gripper).unwrap()];
        assert!(dim("elbow", ActionKind::JointRel).is_none(), "a relative dimension needs an observed joint");
        let quantiles = Quantiles::new(vec![-0.5, 0.0], vec![0.5, 1.6]).unwrap();
        ActionSpace::new(dims, Normalisation::Quantiles(quantiles), None)
    }

    #[test]
    fn relative_rows_are_added_to_the_observed_joint_and_absolute_ones_are_not() {
        let mut normalised = NormalisedRows::new(2, 2);
        normalised.values_mut().copy_from_slice(&[-1.0, -1.0, 0.0, 1.0]);
        let mut rows = [0.0; 4];
        space().to_absolute(&normalised, &[7.0, 0.25], &mut rows).unwrap();
        for (got, want) in rows.iter().zip([-0.25, 0.0, 0.25, 1.6]) {
            assert!((got - want).abs() < 2e-6, "{rows:?}");
        }
    }

    #[test]
    fn absolute_rows_look_from_another_state_as_they_would_have_been_said_there() {
        let rows = [0.25, 0.8, 0.35, 1.6];
        let values: Vec<f64> = space().normalised(&rows, &[7.0, 0.1]).collect();
        let mut normalised = NormalisedRows::new(2, 2);
        normalised.values_mut().copy_from_slice(&values);
        let mut back = [0.0; 4];
        space().to_absolute(&normalised, &[7.0, 0.1], &mut back).unwrap();
        for (got, want) in back.iter().zip(rows) {
            assert!((got - want).abs() < 1e-12, "{back:?}");
        }
    }

    #[test]
    fn nan_inf_and_far_values_refuse_the_chunk_with_their_place() {
        for (value, kind) in
            [(f64::NAN, "non_finite"), (f64::INFINITY, "non_finite"), (1e6, "out_of_range"), (-3.1, "out_of_range")]
        {
            let mut normalised = NormalisedRows::new(2, 2);
            normalised.values_mut()[3] = value;
            let error = space().to_absolute(&normalised, &[0.0, 0.0], &mut [0.0; 4]).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains("row 1, dimension 1"), "{error}");
        }
    }
}
