//! A policy that moves the tool, on a robot: its poses become joints once a chunk.
//!
//! The policy itself works in its own words: the state it was trained on (joints, or the tool's pose) and rows of poses.
//! Around it, the robot's kinematics say the joints as that state, and the rows as joints: row by row from where the arm
//! stands, each row's search starting at the joints of the row before. One row without joints refuses the whole chunk.

use core::time::Duration;

use endplate_hal::{InverseKinematics, JointState, JointVec, Kinematics, RobotSpec};
use nalgebra::Isometry3;

use crate::action_space::{
    ActionDim, ActionKind, ActionSpace, Blending, EndEffectorRows, Interpolation, StateDim, Unit,
};
use crate::bundle::{Mismatch, PolicySpec};
use crate::chunk::ActionChunk;
use crate::end_effector::PoseDims;
use crate::normalisation::Normalisation;
use crate::observation::{Budget, Committed, Epoch, Moment, Observation};
use crate::policy::{ObservationError, OutputFault, Policy, PolicyError, StopReason};

/// Makes a policy command the joints of `robot`. A policy that does so already comes back as it is; one that moves the tool
/// does so from then on through the robot's kinematics, and its [`spec`](Policy::spec) says so.
///
/// # Errors
/// What in the robot's description does not fit, as [`check_robot`](crate::check_robot) says it.
pub fn bind(policy: Box<dyn Policy>, robot: &RobotSpec) -> Result<Box<dyn Policy>, Vec<Mismatch>> {
    let Some(rows) = policy.spec().actions.end_effector() else { return Ok(policy) };
    let wiring = Wiring::new(policy.spec(), robot)?;
    Ok(Box::new(EndEffectorPolicy::new(policy, rows, wiring, robot)))
}

/// Which joint every number is, and the solver for the rest.
#[derive(Clone, Debug)]
pub(crate) struct Wiring {
    solver: InverseKinematics,
    /// `[S]`: the joint a state dimension is; `None` for a component of the pose.
    state: Vec<Option<usize>>,
    state_pose: Option<PoseDims>,
    /// `[D]`: the joint an action dimension commands; `None` for a component of the pose.
    action: Vec<Option<usize>>,
}

impl Wiring {
    /// Finds every joint by name.
    ///
    /// # Errors
    /// Every [`Mismatch`].
    pub(crate) fn new(policy: &PolicySpec, robot: &RobotSpec) -> Result<Self, Vec<Mismatch>> {
        let mut found = Vec::new();
        let mut joint = |list, name: &str, unit: Unit| {
            let joint = name.to_owned();
            let index = robot.joints.iter().position(|joint| joint.name == name);
            match index {
                None => found.push(Mismatch::NoSuchJoint { list, joint }),
                Some(_) if unit != Unit::Rad => found.push(Mismatch::JointUnit { list, joint, policy: unit }),
                Some(_) => {}
            }
            index
        };
        let state: Vec<Option<usize>> = policy
            .state
            .iter()
            .map(|dim| if dim.component.is_some() { None } else { joint("state", &dim.name, dim.unit) })
            .collect();
        let action: Vec<Option<usize>> = policy
            .actions
            .dims()
            .iter()
            .map(|dim| if dim.component.is_some() { None } else { joint("action", &dim.name, dim.unit) })
            .collect();
        let Some(solver) = robot.inverse_kinematics() else {
            found.push(Mismatch::NoChain);
            return Err(found);
        };
        for (index, described) in robot.joints.iter().enumerate() {
            let joint = described.name.clone();
            match (solver.chain().joints().any(|joint| joint == index), action.contains(&Some(index))) {
                (true, true) => found.push(Mismatch::TwiceCommanded { joint }),
                (false, false) => found.push(Mismatch::Uncommanded { joint }),
                _ => {}
            }
        }
        let components = policy.state.iter().enumerate().filter_map(|(dim, state)| Some((dim, state.component?)));
        let state_pose = PoseDims::find(components).unwrap_or_default();
        if found.is_empty() { Ok(Self { solver, state, state_pose, action }) } else { Err(found) }
    }

    /// The joints as the policy was trained to see them, `[S]`.
    fn seen(&self, joints: &JointVec) -> Result<JointVec, PolicyError> {
        let mut state = JointVec::from_fn(self.state.len(), |dim| self.state[dim].map_or(0.0, |joint| joints[joint]));
        if let Some(dims) = self.state_pose {
            dims.write(&self.solver.chain().forward(joints)?, &mut state);
        }
        Ok(state)
    }
}

/// A policy of poses around a robot's kinematics.
struct EndEffectorPolicy {
    policy: Box<dyn Policy>,
    /// As seen from the robot: joints in, joints out.
    spec: PolicySpec,
    rows: EndEffectorRows,
    wiring: Wiring,
    /// The policy's own answer.
    answer: ActionChunk,
    /// `[n, D]`: committed rows in the policy's own words.
    committed: Vec<f64>,
}

impl EndEffectorPolicy {
    fn new(policy: Box<dyn Policy>, rows: EndEffectorRows, wiring: Wiring, robot: &RobotSpec) -> Self {
        let spec = seen_from_robot(policy.spec(), &wiring, robot);
        let answer = ActionChunk::for_spec(policy.spec());
        let committed = Vec::with_capacity(answer.rows().len());
        Self { policy, spec, rows, wiring, answer, committed }
    }

    /// The policy's rows as joints, `[H, J]`, from the joints observed.
    fn resolve(&self, joints: &JointVec, into: &mut [f64]) -> Result<(), PolicyError> {
        let observed = self.wiring.solver.chain().forward(joints)?;
        let (mut target, mut at) = (observed, *joints);
        let own = self.answer.dims();
        let columns = into.chunks_exact_mut(joints.len());
        for (row, (said, into)) in self.answer.rows().chunks_exact(own).zip(columns).enumerate() {
            target = self.target(said, &observed, &target);
            at = self.wiring.solver.solve(&target, &at).map_err(|error| PolicyError::Kinematics { row, error })?;
            into.copy_from_slice(&at);
            for (dim, joint) in self.wiring.action.iter().enumerate() {
                if let Some(joint) = joint {
                    into[*joint] = said[dim];
                }
            }
        }
        Ok(())
    }

    /// The pose a row asks for.
    fn target(&self, said: &[f64], observed: &Isometry3<f64>, before: &Isometry3<f64>) -> Isometry3<f64> {
        let EndEffectorRows { pose, kind, frame } = self.rows;
        let said = pose.read(said);
        match kind {
            ActionKind::EeRel => frame.compose(observed, &said),
            ActionKind::EeDelta => frame.compose(before, &said),
            _ if pose.has_rotation() => said,
            // A policy that does not turn the tool leaves it turned as it is.
            _ => Isometry3::from_parts(said.translation, observed.rotation),
        }
    }

    /// Joint rows that will still be played, in the policy's own words.
    fn express(&mut self, rows: &[f64], joints: &JointVec) -> Result<(), PolicyError> {
        let chain = self.wiring.solver.chain();
        let EndEffectorRows { pose, kind, frame } = self.rows;
        let observed = chain.forward(joints)?;
        let mut before = observed;
        let own = self.wiring.action.len();
        self.committed.clear();
        for row in rows.chunks_exact(joints.len()) {
            let start = self.committed.len();
            self.committed.extend(self.wiring.action.iter().map(|joint| joint.map_or(0.0, |joint| row[joint])));
            let here = chain.forward(row)?;
            let said = match kind {
                ActionKind::EeRel => frame.difference(&observed, &here),
                ActionKind::EeDelta => frame.difference(&before, &here),
                _ => here,
            };
            before = here;
            pose.write(&said, &mut self.committed[start..start + own]);
        }
        Ok(())
    }

    fn seen(&self, state: &JointState) -> Result<JointState, PolicyError> {
        let needed = self.spec.state.len();
        let got = state.position_rad.len();
        if got != needed {
            return Err(ObservationError::Joints { needed, got }.into());
        }
        let position_rad = self.wiring.seen(&state.position_rad)?;
        Ok(JointState { position_rad, velocity_rad_s: JointVec::zeros(position_rad.len()), effort_nm: None, ..*state })
    }
}

impl Policy for EndEffectorPolicy {
    fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        let (needed_horizon, needed_dims) = (self.spec.chunk.horizon, self.spec.actions.dims().len());
        let (horizon, dims) = (chunk.horizon(), chunk.dims());
        if (horizon, dims) != (needed_horizon, needed_dims) {
            return Err(ObservationError::Chunk { horizon, dims, needed_horizon, needed_dims }.into());
        }
        let joints = &observation.state.position_rad;
        let seen = self.seen(&observation.state)?;
        let past = observation
            .past
            .iter()
            .map(|moment| Ok(Moment { frames: moment.frames, state: self.seen(&moment.state)? }))
            .collect::<Result<Vec<_>, PolicyError>>()?;
        self.express(committed.rows, joints)?;
        let own = Observation { state: seen, past: &past, ..*observation };
        let said = Committed { rows: &self.committed, ..*committed };
        let stop = self.policy.infer(&own, &said, budget, &mut self.answer)?;
        let begin = std::time::Instant::now();
        self.resolve(joints, chunk.rows_mut())?;
        let mut stages = *self.answer.stages();
        stages.postprocess += begin.elapsed();
        let answer = &self.answer;
        chunk.set(answer.period(), answer.anchor(), answer.epoch(), answer.error_bound(), stages);
        Ok(stop)
    }

    fn prepare(&mut self, observation: &Observation<'_>, budget: Budget<'_>) {
        if let Ok(state) = self.seen(&observation.state) {
            self.policy.prepare(&Observation { state, past: &[], ..*observation }, budget);
        }
    }

    fn inner(&self) -> Option<&dyn Policy> {
        Some(&*self.policy)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Policy> {
        Some(&mut *self.policy)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.policy.check_instruction(instruction)
    }

    fn reset(&mut self, epoch: Epoch) {
        self.policy.reset(epoch);
    }

    fn inject(&mut self, fault: OutputFault) {
        self.policy.inject(fault);
    }

    fn modelled_cost(&self) -> Duration {
        self.policy.modelled_cost()
    }
}

/// The description of a bound policy: it observes and commands every joint of the robot, absolute and in its units.
fn seen_from_robot(own: &PolicySpec, wiring: &Wiring, robot: &RobotSpec) -> PolicySpec {
    let state: Vec<StateDim> = robot
        .joints
        .iter()
        .map(|joint| StateDim { name: joint.name.clone(), unit: Unit::Rad, component: None })
        .collect();
    let poses = || own.actions.dims().iter().filter(|dim| dim.component.is_some());
    // Between rows the joints go smoothly, which is what a smooth way of the pose becomes; unless the pose is held.
    let interpolation = if poses().all(|dim| dim.interpolation == Interpolation::Hold) {
        Interpolation::Hold
    } else {
        Interpolation::Smooth
    };
    let blending =
        if poses().all(|dim| dim.blending == Blending::Average) { Blending::Average } else { Blending::Latch };
    let dims = robot.joints.iter().enumerate().filter_map(|(index, joint)| {
        let direct = wiring.action.iter().position(|joint| *joint == Some(index)).map(|dim| &own.actions.dims()[dim]);
        let (kind, interpolation, blending) = match direct {
            Some(dim) if dim.kind == ActionKind::Gripper => (ActionKind::Gripper, dim.interpolation, dim.blending),
            Some(dim) => (ActionKind::JointAbs, dim.interpolation, dim.blending),
            None => (ActionKind::JointAbs, interpolation, blending),
        };
        ActionDim::new(joint.name.clone(), kind, Unit::Rad, interpolation, blending, &state)
    });
    let actions = ActionSpace::of_joints(dims.collect(), &own.actions);
    PolicySpec { state, state_normalisation: Normalisation::Identity, actions, ..own.clone() }
}
