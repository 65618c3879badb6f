//! Joints for a pose of the tool: damped least squares from where the arm is, inside the joint limits, or an error.
//!
//! Each step minimises `|W·(e − J·Δq)|² + λ·|Δq|²` in the dual form `Δq = (WJ)ᵀ(WJ·(WJ)ᵀ + λ)⁻¹·We` (Wampler 1986), with
//! Levenberg–Marquardt's rule for λ, so that nothing blows up near a singularity or where no solution is. A joint that would
//! leave its limits is stopped there and the others go on without it. There is no search from other starts: a solution on
//! another branch would be a jump.

use nalgebra::{Isometry3, SMatrix, SVector, Vector3, Vector6};

use super::{Chain, Kinematics, KinematicsError};
use crate::joints::{JointVec, MAX_JOINTS};

/// What counts as reached, and by which way.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct InverseRules {
    /// The tool may end this far from where it is wanted, m.
    pub position_tolerance_m: f64,
    /// The tool may end turned by this much, rad, about the axes that have a weight.
    pub rotation_tolerance_rad: f64,
    /// How a turn about each axis of the tool weighs against a shift, m per rad. 0 leaves the axis free: an arm of fewer
    /// than six joints cannot reach every orientation, and does not try about a free axis. A small weight is served as far
    /// as it does not cost position.
    pub orientation_weight_m: [f64; 3],
    /// A joint may move this far from one pose of a sequence to the next, rad: more is a jump through a singularity.
    pub max_step_rad: f64,
    /// Steps before a pose counts as out of reach.
    pub iterations: u32,
}

impl Default for InverseRules {
    /// 1 mm, 0.02 rad, weights of 0.01 m/rad, steps of at most 0.5 rad, 100 iterations.
    fn default() -> Self {
        Self {
            position_tolerance_m: 1e-3,
            rotation_tolerance_rad: 0.02,
            orientation_weight_m: [0.01; 3],
            max_step_rad: 0.5,
            iterations: 100,
        }
    }
}

/// Why a pose has no joints. Holds no strings, so that it can be made on any path.
#[derive(Copy, Clone, Debug, PartialEq, thiserror::Error)]
pub enum InverseError {
    /// No joints inside the limits bring the tool there, as far as going downhill finds them.
    #[error(
        "out of reach: the tool ends {position_m:.4} m and {rotation_rad:.3} rad away{}",
        .at_limit.map_or(String::new(), |joint| format!(", joint {joint} at its limit"))
    )]
    Unreachable {
        /// Distance left, m.
        position_m: f64,
        /// Turn left about the axes that have a weight, rad.
        rotation_rad: f64,
        /// A joint that stands at its limit there.
        at_limit: Option<usize>,
    },
    /// The way there leads through a singularity or to another branch.
    #[error(
        "joint {joint} would move {step_rad:.3} rad from one pose to the next, and at most {allowed_rad} are allowed"
    )]
    Jump {
        /// The joint.
        joint: usize,
        /// How far, rad.
        step_rad: f64,
        /// The limit, rad.
        allowed_rad: f64,
    },
    /// The pose holds a value that is not finite.
    #[error("the pose is not finite")]
    NonFinite,
    /// The joints to start from are unusable.
    #[error(transparent)]
    Start(#[from] KinematicsError),
}

/// Finds joints for poses of one chain's tool.
///
/// # Real-time
/// Neither allocates nor blocks; a pose takes at most [`InverseRules::iterations`] steps of some µs.
#[derive(Clone, Debug)]
pub struct InverseKinematics {
    chain: Chain,
    lower_rad: JointVec,
    upper_rad: JointVec,
    rules: InverseRules,
}

/// Squared size of an error, weighted, at which going on changes nothing that a joint could show.
const SETTLED: f64 = 1e-20;

impl InverseKinematics {
    /// A solver for `chain` of a robot whose joints stay between `lower_rad` and `upper_rad`, `[D]` each.
    pub fn new(chain: Chain, lower_rad: JointVec, upper_rad: JointVec, rules: InverseRules) -> Self {
        Self { chain, lower_rad, upper_rad, rules }
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The rules.
    pub fn rules(&self) -> &InverseRules {
        &self.rules
    }

    /// `[D]` joints that bring the tool to `target` (base frame), going from `from` (`[D]`, rad). Joints outside the chain
    /// stay as they are. A start outside the limits is first brought to the nearest limit, as part of the step.
    ///
    /// # Errors
    /// [`InverseError`]; joints are returned only inside the limits and within the tolerances.
    pub fn solve(&self, target: &Isometry3<f64>, from: &JointVec) -> Result<JointVec, InverseError> {
        if !target.translation.vector.iter().chain(target.rotation.coords.iter()).all(|value| value.is_finite()) {
            return Err(InverseError::NonFinite);
        }
        self.chain.forward(from)?;
        let mut at = *from;
        for joint in self.chain.joints() {
            at[joint] = at[joint].clamp(self.lower_rad[joint], self.upper_rad[joint]);
        }
        let mut error = self.error(target, &at)?;
        let mut damping = 1e-4;
        for _ in 0..self.rules.iterations {
            if error.norm_squared() < SETTLED {
                break;
            }
            let next = self.stepped(&at, &error, damping)?;
            let moved = next.iter().zip(at.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let after = self.error(target, &next)?;
            if after.norm_squared() < error.norm_squared() {
                (at, error) = (next, after);
                damping = f64::max(damping * 0.1, 1e-12);
            } else {
                damping *= 10.0;
            }
            if moved < 1e-12 {
                break;
            }
        }
        self.judge(target, from, at)
    }

    /// Whether joints that the search ended with are what was asked.
    fn judge(&self, target: &Isometry3<f64>, from: &JointVec, at: JointVec) -> Result<JointVec, InverseError> {
        let (position_m, rotation_rad) = self.residual(target, &at)?;
        if position_m > self.rules.position_tolerance_m || rotation_rad > self.rules.rotation_tolerance_rad {
            let at_limit = self
                .chain
                .joints()
                .find(|joint| at[*joint] <= self.lower_rad[*joint] || at[*joint] >= self.upper_rad[*joint]);
            return Err(InverseError::Unreachable { position_m, rotation_rad, at_limit });
        }
        let allowed_rad = self.rules.max_step_rad;
        for joint in self.chain.joints() {
            let step_rad = (at[joint] - from[joint]).abs();
            if step_rad > allowed_rad {
                return Err(InverseError::Jump { joint, step_rad, allowed_rad });
            }
        }
        Ok(at)
    }

    /// How far the tool is from `target`: m, and rad about the axes that have a weight.
    ///
    /// # Errors
    /// As [`Kinematics::forward`].
    pub fn residual(&self, target: &Isometry3<f64>, at: &JointVec) -> Result<(f64, f64), KinematicsError> {
        let pose = self.chain.forward(at)?;
        let turn = self.turn(target, &pose);
        let counted = turn.zip_map(&self.weights(), |t, w| if w > 0.0 { t } else { 0.0 });
        Ok(((target.translation.vector - pose.translation.vector).norm(), counted.norm()))
    }

    fn weights(&self) -> Vector3<f64> {
        Vector3::from(self.rules.orientation_weight_m)
    }

    /// The turn from `pose` to `target` in the tool's own frame, a rotation vector, rad.
    fn turn(&self, target: &Isometry3<f64>, pose: &Isometry3<f64>) -> Vector3<f64> {
        (pose.rotation.inverse() * target.rotation).scaled_axis()
    }

    /// What is left to `target`, weighted, in the tool's own frame, m.
    fn error(&self, target: &Isometry3<f64>, at: &JointVec) -> Result<Vector6<f64>, KinematicsError> {
        let pose = self.chain.forward(at)?;
        let shift = pose.rotation.inverse() * (target.translation.vector - pose.translation.vector);
        let turn = self.turn(target, &pose).component_mul(&self.weights());
        Ok(Vector6::new(shift.x, shift.y, shift.z, turn.x, turn.y, turn.z))
    }

    /// One step: all joints that are free to take it.
    fn stepped(&self, at: &JointVec, error: &Vector6<f64>, damping: f64) -> Result<JointVec, KinematicsError> {
        let pose = self.chain.forward(at)?;
        let base = self.chain.jacobian(at)?;
        let mut jacobian = SMatrix::<f64, 6, MAX_JOINTS>::zeros();
        let back = pose.rotation.inverse();
        for joint in self.chain.joints() {
            let linear = back * base.fixed_view::<3, 1>(0, joint).into_owned();
            let angular = back * base.fixed_view::<3, 1>(3, joint).into_owned();
            jacobian.fixed_view_mut::<3, 1>(0, joint).copy_from(&linear);
            let weighted = angular.component_mul(&self.weights());
            jacobian.fixed_view_mut::<3, 1>(3, joint).copy_from(&weighted);
        }
        let mut stopped = [false; MAX_JOINTS];
        loop {
            let square = jacobian * jacobian.transpose() + SMatrix::<f64, 6, 6>::identity() * damping;
            // The sum is positive definite as long as the damping is felt; without it there is no step to take.
            let Some(factor) = square.cholesky() else { return Ok(*at) };
            let step: SVector<f64, MAX_JOINTS> = jacobian.transpose() * factor.solve(error);
            let outward = self.chain.joints().find(|joint| {
                let joint = *joint;
                let at_lower = at[joint] <= self.lower_rad[joint] && step[joint] < 0.0;
                let at_upper = at[joint] >= self.upper_rad[joint] && step[joint] > 0.0;
                !stopped[joint] && (at_lower || at_upper)
            });
            if let Some(joint) = outward {
                stopped[joint] = true;
                jacobian.column_mut(joint).fill(0.0);
                continue;
            }
            let mut next = *at;
            for joint in self.chain.joints().filter(|joint| !stopped[*joint]) {
                next[joint] = (at[joint] + step[joint]).clamp(self.lower_rad[joint], self.upper_rad[joint]);
            }
            return Ok(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::UnitQuaternion;

    use super::*;
    use crate::robots::SO101_SIM;
    use crate::spec::RobotSpec;

    /// A small generator, so that the test says the same every time.
    struct Draw(u64);

    impl Draw {
        fn unit(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }

        fn between(&mut self, low: f64, high: f64) -> f64 {
            low + (high - low) * self.unit()
        }
    }

    fn so101() -> InverseKinematics {
        RobotSpec::from_toml_str(SO101_SIM, "so101_sim").unwrap().inverse_kinematics().unwrap()
    }

    /// Six joints with a spherical wrist, about as long as a small industrial arm.
    fn six() -> InverseKinematics {
        use crate::kinematics::ChainLink;
        let link = |joint, z: f64, axis| ChainLink { joint, origin_m: [0.0, 0.0, z], rpy_rad: [0.0; 3], axis };
        let (y, z) = ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]);
        let links =
            [link(0, 0.1, z), link(1, 0.1, y), link(2, 0.3, y), link(3, 0.15, z), link(4, 0.15, y), link(5, 0.1, z)];
        let limit = |x: f64| JointVec::from_fn(6, |_| x);
        InverseKinematics::new(
            Chain::new(&links, [0.0, 0.0, 0.05]).unwrap(),
            limit(-2.6),
            limit(2.6),
            InverseRules::default(),
        )
    }

    fn drawn(solver: &InverseKinematics, draw: &mut Draw, margin: f64) -> JointVec {
        JointVec::from_fn(solver.lower_rad.len(), |j| {
            draw.between(solver.lower_rad[j] + margin, solver.upper_rad[j] - margin)
        })
    }

    #[test]
    fn reachable_poses_are_reached_from_near_by() {
        for (solver, joints) in [(so101(), 5), (six(), 6)] {
            let mut draw = Draw(7);
            let mut solved = 0;
            for _ in 0..2_000 {
                let wanted = drawn(&solver, &mut draw, 0.3);
                let mut start = wanted;
                for value in start.iter_mut().take(joints) {
                    *value += draw.between(-0.15, 0.15);
                }
                let target = solver.chain.forward(&wanted).unwrap();
                match solver.solve(&target, &start) {
                    Ok(found) => {
                        let (position_m, rotation_rad) = solver.residual(&target, &found).unwrap();
                        assert!(position_m < 1e-6 && rotation_rad < 1e-4, "{position_m} {rotation_rad}");
                        solved += 1;
                    }
                    // Near a singularity the same pose can lie a jump away.
                    Err(InverseError::Jump { .. } | InverseError::Unreachable { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(solved >= 1_980, "{solved} of 2000");
        }
    }

    #[test]
    fn a_path_of_poses_gives_back_the_joints_it_was_made_from() {
        let solver = so101();
        let mut draw = Draw(3);
        for _ in 0..50 {
            let (from, to) = (drawn(&solver, &mut draw, 0.4), drawn(&solver, &mut draw, 0.4));
            let mut at = from;
            for row in 1..=50 {
                let share = f64::from(row) / 50.0;
                let mut wanted = JointVec::from_fn(6, |j| from[j] + (to[j] - from[j]) * share);
                wanted[5] = from[5];
                // The wrist turned past its zero is a singularity of this arm's position; stay on one side.
                let target = solver.chain.forward(&wanted).unwrap();
                at = match solver.solve(&target, &at) {
                    Ok(at) => at,
                    Err(error) => panic!("row {row}: {error}"),
                };
                for joint in 0..6 {
                    assert!((at[joint] - wanted[joint]).abs() < 1e-4, "row {row} joint {joint}: {at:?} {wanted:?}");
                }
            }
        }
    }

    #[test]
    fn whatever_is_asked_the_joints_stay_finite_and_inside_the_limits() {
        let mut draw = Draw(11);
        for solver in [so101(), six()] {
            let (mut reached, mut refused) = (0, 0);
            for _ in 0..5_000 {
                let start = drawn(&solver, &mut draw, -0.1);
                let direction = [0; 3].map(|_| draw.between(-1.0, 1.0));
                let axis = Vector3::from([0; 3].map(|_| draw.between(-3.0, 3.0)));
                let near = solver.chain.forward(&start).unwrap();
                let step = draw.between(0.0, 0.1) * if draw.unit() < 0.2 { 100.0 } else { 1.0 };
                let target = Isometry3::from_parts(
                    (near.translation.vector + Vector3::from(direction) * step).into(),
                    UnitQuaternion::from_scaled_axis(axis * step * 3.0) * near.rotation,
                );
                match solver.solve(&target, &start) {
                    Ok(found) => {
                        reached += 1;
                        assert!(found.is_finite());
                        for joint in solver.chain.joints() {
                            assert!((solver.lower_rad[joint]..=solver.upper_rad[joint]).contains(&found[joint]));
                        }
                    }
                    Err(InverseError::Unreachable { position_m, rotation_rad, .. }) => {
                        refused += 1;
                        assert!(position_m.is_finite() && rotation_rad.is_finite());
                    }
                    Err(InverseError::Jump { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(reached > 100 && refused > 100, "{reached} reached, {refused} refused");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let solver = so101();
        let home = JointVec::from_slice(&[0.0, 0.3, 1.2, 1.4, 0.0, 0.0]).unwrap();
        let here = solver.chain.forward(&home).unwrap();
        let mut far = here;
        far.translation.vector.x += 2.0;
        let error = solver.solve(&far, &home).unwrap_err();
        assert!(matches!(error, InverseError::Unreachable { position_m, .. } if position_m > 1.0), "{error}");
        far.translation.vector.x = f64::NAN;
        assert_eq!(solver.solve(&far, &home), Err(InverseError::NonFinite));
        // Half a turn about the tool's own axis is one joint's way, and too far for one row.
        let turned = here * UnitQuaternion::from_euler_angles(0.0, 0.0, 1.5);
        let error = solver.solve(&turned, &home).unwrap_err();
        assert!(matches!(error, InverseError::Jump { joint: 4, .. }), "{error}");
        let torn = JointVec::from_slice(&[0.0, f64::NAN, 0.0, 0.0, 0.0, 0.0]).unwrap();
        assert_eq!(solver.solve(&here, &torn), Err(InverseError::Start(KinematicsError::NonFinite { joint: 1 })));
    }

    #[test]
    fn an_arm_of_five_joints_serves_position_first_and_a_free_axis_is_not_asked_for() {
        let mut solver = so101();
        let home = JointVec::from_slice(&[0.0, 0.3, 1.2, 1.4, 0.0, 0.0]).unwrap();
        // The tool points down; leaning it sideways is what five joints cannot do.
        let tilted = solver.chain.forward(&home).unwrap() * UnitQuaternion::from_euler_angles(0.15, 0.0, 0.0);
        let error = solver.solve(&tilted, &home).unwrap_err();
        let InverseError::Unreachable { position_m, rotation_rad, at_limit: None } = error else { panic!("{error}") };
        assert!(position_m < 2e-3 && rotation_rad > 0.05, "{error}");
        solver.rules.orientation_weight_m[0] = 0.0;
        let found = solver.solve(&tilted, &home).unwrap();
        assert!(solver.residual(&tilted, &found).unwrap().0 < 1e-6);
    }
}
