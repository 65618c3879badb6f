//! The two loops of a robot and a policy, the same wherever they run: simulated, on hardware, over topics.

use super::bundle::bound;
use super::error::CliError;
use super::run::RunArguments;
use endplate_hal::{Robot, RobotSpec};
use endplate_policies::{Bundle, Policy};
use endplate_runtime::handover::Handover;
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

/// A baseline plays worse than it could; only an evaluation may want that.
pub fn refuse_baseline(arguments: &RunArguments, bundle: &Bundle) -> Result<(), CliError> {
    if handover(arguments, bundle)?.is_baseline() {
        return Err(CliError::Input(
            "--handover: a baseline is there to compare with: use it in `evaluate`".to_owned(),
        ));
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
