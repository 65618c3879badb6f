//! `endplate stop`: what can be done for a robot whose process is gone; for systemd's `ExecStopPost=`.

use super::bundle::open_robot;
use super::error::CliError;
use clap::Args;
use endplate_hal::StopCategory;
use std::path::PathBuf;

/// Arguments of `endplate stop`.
#[derive(Args)]
pub struct StopArguments {
    /// Robot description; without it, the built-in simulated robot.
    #[arg(long)]
    robot: Option<PathBuf>,
}

/// Says what was done; an error where something should have been and could not.
pub fn stop(arguments: &StopArguments) -> Result<(), CliError> {
    // A calibration file that is gone must not keep an arm from being let go of.
    let uncalibrated = |error| arguments.robot.as_deref().map_or(Err(error), super::robot_file::open_uncalibrated);
    let robot = open_robot(arguments.robot.as_ref()).or_else(uncalibrated)?;
    let declared = match robot.control.stop_category {
        StopCategory::Hold => "hold",
        StopCategory::TorqueOff => "torque_off",
    };
    // systemd says how the process ended.
    let ended = match (std::env::var("SERVICE_RESULT"), std::env::var("EXIT_STATUS")) {
        (Ok(result), Ok(status)) => format!("the service ended with {result} ({status}); "),
        _ => String::new(),
    };
    #[cfg(feature = "serial")]
    if super::robot_file::has_buses(&robot) && !super::devices::is_emulated(&robot) {
        return buses::stop(&robot, &ended);
    }
    // A simulated arm lives in the process that has ended.
    say!(
        "{ended}{} is a simulated robot: it ended with its process and nothing is left to stop (stop_category = {declared:?})",
        robot.name
    );
    Ok(())
}

/// Arms on servo buses: the servos outlive the process and do what they were told last.
#[cfg(feature = "serial")]
mod buses {
    use super::super::error::CliError;
    use core::time::Duration;
    use endplate_hal::{ArmSpec, Clock, EMULATED, MonotonicClock, RobotSpec, StopCategory};
    use endplate_runtime::robot::connect;
    use std::path::Path;
    use std::sync::Arc;

    /// How long an arm may take to confirm.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// Every arm, whatever becomes of the others.
    pub fn stop(robot: &RobotSpec, ended: &str) -> Result<(), CliError> {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let mut failures = Vec::new();
        for arm in &robot.arms {
            match stop_arm(robot, arm, &clock) {
                Ok(done) => say!("{ended}{}: {done}", arm.name),
                Err(error) => failures.push(format!("{}: {error}", arm.name)),
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(CliError::Failed(format!("not stopped: {}; cut the power of what still moves", failures.join("; "))))
    }

    fn stop_arm(robot: &RobotSpec, arm: &ArmSpec, clock: &Arc<dyn Clock>) -> Result<String, String> {
        let port = arm.bus.as_ref().map(|bus| bus.port.as_str()).unwrap_or_default();
        if port == EMULATED {
            return Ok("its emulated bus ended with its process".to_owned());
        }
        let joints = &robot.joints[arm.joints.clone()];
        let margin = robot.control.implausible_margin_rad;
        // Not looked at as before torque: an arm is let go of whatever is wrong with its calibration.
        let mut bus = connect(arm, joints, margin, Path::new(port)).map_err(|e| e.to_string())?;
        match robot.control.stop_category {
            StopCategory::TorqueOff => {
                within(clock, || bus.set_torque(clock.now(), false).map_err(|error| error.to_string()))?;
                Ok("torque is off".to_owned())
            }
            // A servo holds the goal it was given last; giving it another would move it.
            StopCategory::Hold => {
                let state = within(clock, || bus.read(clock.now()).map_err(|error| error.to_string()))?;
                let at: Vec<String> = joints
                    .iter()
                    .zip(state.position_rad.iter())
                    .map(|(joint, rad)| format!("{} {rad:.3}", joint.name))
                    .collect();
                Ok(format!("the servos hold their last goal (stop_category = \"hold\"), at {} rad", at.join(", ")))
            }
        }
    }

    /// Tries until it is done.
    fn within<T>(clock: &Arc<dyn Clock>, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
        let end = clock.now().saturating_add(PATIENCE);
        loop {
            match attempt() {
                Err(_) if clock.now() < end => {
                    clock.sleep_until(clock.now().saturating_add(Duration::from_millis(5)));
                }
                result => return result,
            }
        }
    }
}
