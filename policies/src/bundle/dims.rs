//! `[[state]]` and `[[action]]`: what every number of a state and of an action row is.

use endplate_hal::MAX_JOINTS;

use super::BundleError;
use super::raw::{RawAction, RawState};
use super::spec::{choose, invalid, unique};
use crate::action_space::{ActionDim, ActionKind, Blending, EndEffectorRows, Interpolation, StateDim, Unit};
use crate::end_effector::{Component, PoseDims, PoseFrame};

/// Checks the observed dimensions.
pub(super) fn checked_states(raw: &[RawState]) -> Result<Vec<StateDim>, BundleError> {
    let mut state = Vec::with_capacity(raw.len());
    for (i, dim) in raw.iter().enumerate() {
        let entry = format!("state[{i}]");
        let unit = checked_unit(&entry, &dim.unit)?;
        let component = checked_component(&entry, dim.component.as_deref(), unit)?;
        state.push(StateDim { name: dim.name.clone(), unit, component });
    }
    unique("state", state.iter().map(|dim| dim.name.as_str()))?;
    if state.is_empty() {
        return Err(invalid("state", "[]", "declare the joints that are observed"));
    }
    let components = state.iter().enumerate().filter_map(|(dim, state)| Some((dim, state.component?)));
    PoseDims::find(components).map_err(|remedy| invalid("state.component", "the pose", remedy))?;
    if state.len() > MAX_JOINTS && state.iter().any(|dim| dim.component.is_some()) {
        return Err(invalid(
            "state",
            state.len(),
            format!("with a pose, at most {MAX_JOINTS} dimensions are observed"),
        ));
    }
    Ok(state)
}

/// Checks the dimensions of an action row, and how they say the tool's pose, where they do.
pub(super) fn checked_actions(
    raw: &[RawAction],
    states: &[StateDim],
) -> Result<(Vec<ActionDim>, Option<EndEffectorRows>), BundleError> {
    let dims =
        raw.iter().enumerate().map(|(i, action)| checked_action(i, action, states)).collect::<Result<Vec<_>, _>>()?;
    unique("action", dims.iter().map(|dim| dim.name.as_str()))?;
    if dims.is_empty() {
        return Err(invalid("action", "[]", "declare the dimensions of an action row"));
    }
    let end_effector = checked_pose(raw, &dims)?;
    if end_effector.is_none() && states.iter().any(|dim| dim.component.is_some()) {
        let remedy = "a state with the tool's pose belongs to actions that move the tool; joint actions read joints";
        return Err(invalid("state.component", "the pose", remedy));
    }
    Ok((dims, end_effector))
}

fn checked_pose(raw: &[RawAction], dims: &[ActionDim]) -> Result<Option<EndEffectorRows>, BundleError> {
    let components = dims.iter().enumerate().filter_map(|(dim, action)| Some((dim, action.component?)));
    let found = PoseDims::find(components).map_err(|remedy| invalid("action.component", "the pose", remedy))?;
    let Some(pose) = found else { return Ok(None) };
    let mut of_pose = dims.iter().zip(raw).enumerate().filter(|(_, (dim, _))| dim.component.is_some());
    let Some((first, (kind, frame))) = of_pose.next().map(|(i, (dim, raw))| (i, (dim.kind, &raw.frame))) else {
        return Ok(None);
    };
    for (i, (dim, raw)) in of_pose {
        if dim.kind != kind || raw.frame != *frame {
            let remedy =
                format!("all components of the pose are of one kind and frame: write what action[{first}] has");
            return Err(invalid(format!("action[{i}].kind"), &raw.kind, remedy));
        }
    }
    let key = format!("action[{first}].frame");
    let frame = match (kind, frame.as_deref()) {
        (ActionKind::EeAbs, None) => PoseFrame::Base,
        (ActionKind::EeAbs, Some("base")) => PoseFrame::Base,
        (ActionKind::EeAbs, Some(other)) => {
            return Err(invalid(key, other, "poses stand in the base frame: write base"));
        }
        (_, None) => return Err(invalid(key, "missing", "differences are said in some axes: write base or tool")),
        (_, Some(name)) => choose(&key, name, &[("base", PoseFrame::Base), ("tool", PoseFrame::Tool)])?,
    };
    Ok(Some(EndEffectorRows { pose, kind, frame }))
}

fn checked_unit(entry: &str, unit: &str) -> Result<Unit, BundleError> {
    choose(&format!("{entry}.unit"), unit, &[("rad", Unit::Rad), ("m", Unit::M)])
}

fn checked_component(entry: &str, given: Option<&str>, unit: Unit) -> Result<Option<Component>, BundleError> {
    let Some(name) = given else { return Ok(None) };
    let component = choose(&format!("{entry}.component"), name, &Component::NAMES)?;
    if component.unit() != unit {
        let remedy = format!("{name} is in {}", component.unit().name());
        return Err(invalid(format!("{entry}.unit"), unit.name(), remedy));
    }
    Ok(Some(component))
}

fn checked_action(index: usize, raw: &RawAction, states: &[StateDim]) -> Result<ActionDim, BundleError> {
    let entry = format!("action[{index}]");
    let key = |name: &str| format!("{entry}.{name}");
    if raw.kind == "base_vel" {
        return Err(invalid(key("kind"), &raw.kind, "this action kind is not built yet; export joint or tool actions"));
    }
    let kinds = [
        ("joint_abs", ActionKind::JointAbs),
        ("joint_rel", ActionKind::JointRel),
        ("gripper", ActionKind::Gripper),
        ("ee_abs", ActionKind::EeAbs),
        ("ee_rel", ActionKind::EeRel),
        ("ee_delta", ActionKind::EeDelta),
    ];
    let kind = choose(&key("kind"), &raw.kind, &kinds)?;
    let unit = checked_unit(&entry, &raw.unit)?;
    let component = checked_component(&entry, raw.component.as_deref(), unit)?;
    match (kind.is_end_effector(), component) {
        (true, None) => {
            let names = Component::NAMES.map(|(name, _)| name).join(", ");
            return Err(invalid(key("component"), "missing", format!("say which number of the pose it is: {names}")));
        }
        (false, Some(_)) => {
            return Err(invalid(key("component"), "given", "a joint is no component of the tool's pose: remove it"));
        }
        _ => {}
    }
    if !kind.is_end_effector() && raw.frame.is_some() {
        return Err(invalid(key("frame"), "given", "a joint has no frame: remove it"));
    }
    let interpolations =
        [("smooth", Interpolation::Smooth), ("slerp", Interpolation::Slerp), ("hold", Interpolation::Hold)];
    let interpolation = choose(&key("interpolation"), &raw.interpolation, &interpolations)?;
    let blending =
        choose(&key("blending"), &raw.blending, &[("average", Blending::Average), ("latch", Blending::Latch)])?;
    let is_turn = component.is_some_and(|component| component.unit() == Unit::Rad);
    if interpolation == Interpolation::Slerp && !is_turn {
        let remedy = "only the rotation of the tool is interpolated so: use smooth or hold";
        return Err(invalid(key("interpolation"), &raw.interpolation, remedy));
    }
    if interpolation == Interpolation::Smooth && is_turn {
        return Err(invalid(key("interpolation"), &raw.interpolation, "a rotation goes by slerp or hold"));
    }
    if kind == ActionKind::Gripper && blending == Blending::Average {
        return Err(invalid(key("blending"), &raw.blending, "a gripper is never averaged: use latch"));
    }
    let mut dim = ActionDim::new(raw.name.clone(), kind, unit, interpolation, blending, states).ok_or_else(|| {
        invalid(key("name"), &raw.name, "a relative action needs a state entry of the same name and unit")
    })?;
    dim.component = component;
    Ok(dim)
}
