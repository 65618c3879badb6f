//! The two loops of a robot and a policy, the same wherever they run: simulated, on hardware, over topics.

use super::bundle::bound;
use super::error::CliError;
use super::run::RunArguments;
use endplate_hal::{Robot, RobotSpec};
use endplate_policies::bundle::FamilySpec;
use endplate_policies::{Bundle, Policy};
use endplate_runtime::handover::{Handover, Mode};
use endplate_runtime::{ControlLoop, InferenceLoop, PlayRules};

/// The robot with the cameras the policy looks through, in the order of the bundle's slots.
pub fn with_cameras_of(bundle: &Bundle, robot: &RobotSpec) -> RobotSpec {
    let of_slot = |name: &str| robot.cameras.iter().find(|camera| camera.name == name).cloned();
    let cameras = bundle.spec().cameras.iter().filter_map(|slot| of_slot(&slot.name)).collect();
    RobotSpec { cameras, ..robot.clone() }
}

/// The handover asked for, else the bundle's own, else switching.
fn handover(arguments: &RunArguments, bundle: &Bundle) -> Result<Handover, CliError> {
    let own = bundle.spec().handover.as_deref();
    match arguments.handover.as_deref() {
        Some(text) => Handover::parse(text).map_err(CliError::input),
        None => own.map_or(Ok(Handover::default()), |text| {
            Handover::parse(text)
                .map_err(|error| CliError::Refused(format!("{}: policy.toml: {error}", bundle.source())))
        }),
    }
}

/// A baseline plays worse than it could; only an evaluation may want that. Says it where rows are given to bins whose
/// bundle does not ask for it: a policy that has always seen the right rows may believe wrong ones.
pub fn look_at_handover(arguments: &RunArguments, bundle: &Bundle) -> Result<(), CliError> {
    let chosen = handover(arguments, bundle)?;
    if chosen.is_baseline() {
        return Err(CliError::Input(
            "--handover: a baseline is there to compare with: use it in `evaluate`".to_owned(),
        ));
    }
    let spec = bundle.spec();
    let asks_for_it = spec.handover.as_deref().is_some_and(|own| own.starts_with("prefix"));
    if chosen.mode == Mode::Prefix && !asks_for_it && matches!(spec.family, FamilySpec::Bins(_)) {
        remark!(
            "handover   prefix: nothing says that {} was trained to doubt the rows it is given, and one that was not copies \
             them (HANDOVER.md): evaluate it first; a bundle that was says so in [handover]",
            spec.name
        );
    }
    Ok(())
}

/// Both loops, the control loop unconfigured.
///
/// # Errors
/// Limits that are not those of the arms; a handover that does not go with the policy.
pub fn loops(
    arguments: &RunArguments,
    spec: &RobotSpec,
    bundle: &Bundle,
    policy: Box<dyn Policy>,
    arms: Robot,
) -> Result<(ControlLoop, InferenceLoop), CliError> {
    // In joints from here on, whatever the policy's own actions are.
    let policy = bound(policy, spec)?;
    let dims = policy.spec().actions.dims().to_vec();
    let rules = PlayRules {
        interpolation: dims.iter().map(|dim| dim.interpolation).collect(),
        execute_rows: bundle.spec().chunk.execute_rows,
        max_age: spec.control.max_chunk_age,
    };
    let handover = handover(arguments, bundle)?;
    let blending: Vec<_> = dims.iter().map(|dim| dim.blending).collect();
    let mut control = ControlLoop::new(spec.clone(), arms, rules).map_err(CliError::failed)?;
    control.set_handover(handover, &blending);
    let mut inference = InferenceLoop::new(policy, "", spec.control.deadline, spec.control.state_max_age);
    inference.set_handover(handover).map_err(|error| CliError::Refused(error.to_string()))?;
    Ok((control, inference))
}
