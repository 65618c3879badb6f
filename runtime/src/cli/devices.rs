//! Opening the arms of a robot description: on their ports, or on emulated buses over the simulated robot.

use super::error::CliError;
use clap::ValueEnum;
#[cfg(feature = "sim")]
use endplate_hal::servo::Protocol;
use endplate_hal::{Arm, Clock, EMULATED, Robot, RobotSpec};
use endplate_runtime::robot::{BusArm, BusReport};
use std::path::Path;
use std::sync::Arc;

/// Make of emulated servos.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub enum BusMake {
    /// Feetech STS3215.
    Feetech,
    /// Dynamixel XL330, protocol 2.0.
    Dynamixel,
}

/// By arm: its name, and what tells what its bus did.
pub type Reporters = Vec<(String, Box<dyn Fn() -> BusReport + Send>)>;

/// The arms of a robot, opened, and who can tell what their buses do.
pub struct OpenArms {
    /// Under one ladder.
    pub robot: Robot,
    /// Of each arm.
    pub reporters: Reporters,
    /// Emulated buses, which end with this.
    #[cfg(feature = "sim")]
    pub emulated: Vec<endplate_sim::bus::EmulatedBus>,
}

/// Whether all of them are emulated over the simulated robot.
pub fn is_emulated(spec: &RobotSpec) -> bool {
    super::robot_file::has_buses(spec)
        && spec.arms.iter().all(|arm| arm.bus.as_ref().is_some_and(|bus| bus.port == EMULATED))
}

/// Opens every arm: looks at its servos and starts its bus thread. Nothing is written to a servo.
pub fn open_arms(
    spec: &RobotSpec,
    clock: &Arc<dyn Clock>,
    #[cfg(feature = "sim")] world: Option<&endplate_sim::robot::SimRobot>,
) -> Result<OpenArms, CliError> {
    let mut arms: Vec<Box<dyn Arm>> = Vec::new();
    let mut reporters: Reporters = Vec::new();
    #[cfg(feature = "sim")]
    let mut emulated = Vec::new();
    for arm in &spec.arms {
        let bus = arm.bus.as_ref().ok_or_else(|| {
            CliError::Input(format!("{}: arms[{}].bus: describe it, or use the simulated robot", spec.source, arm.name))
        })?;
        #[cfg(feature = "sim")]
        let port = if bus.port == EMULATED {
            let started = emulate(spec, arm, bus.protocol, world)?;
            let port = started.path().to_owned();
            emulated.push(started);
            port
        } else {
            Path::new(&bus.port).to_owned()
        };
        #[cfg(not(feature = "sim"))]
        let port = if bus.port == EMULATED {
            return Err(CliError::Input("an emulated bus needs the feature `sim`".to_owned()));
        } else {
            Path::new(&bus.port).to_owned()
        };
        let joints = &spec.joints[arm.joints.clone()];
        let margin = spec.control.implausible_margin_rad;
        let opened = BusArm::open(arm, joints, margin, &port, Arc::clone(clock)).map_err(CliError::input)?;
        reporters.push((arm.name.clone(), Box::new(opened.reporter())));
        arms.push(Box::new(opened));
    }
    Ok(OpenArms {
        robot: Robot::new(arms).map_err(CliError::failed)?,
        reporters,
        #[cfg(feature = "sim")]
        emulated,
    })
}

#[cfg(feature = "sim")]
fn emulate(
    spec: &RobotSpec,
    arm: &endplate_hal::ArmSpec,
    protocol: Protocol,
    world: Option<&endplate_sim::robot::SimRobot>,
) -> Result<endplate_sim::bus::EmulatedBus, CliError> {
    use endplate_sim::bus::{BusOptions, EmulatedBus, Make, RobotJoints};
    use endplate_sim::model::JOINTS;
    let refuse =
        |why: &str| CliError::Input(format!("{}: arms[{}].bus.port = {EMULATED:?}: {why}", spec.source, arm.name));
    let world = world.ok_or_else(|| refuse("there is no simulated robot to move here"))?;
    if spec.arms.len() != 1 || arm.joints.len() != JOINTS {
        return Err(refuse("the simulated robot is one arm of six joints"));
    }
    let make = match protocol {
        Protocol::Feetech => Make::Feetech,
        Protocol::Dynamixel => Make::Dynamixel,
    };
    let mut options = BusOptions::new(make, JOINTS);
    options.ids = spec.joints.iter().filter_map(|joint| joint.servo_id).collect();
    EmulatedBus::start(options, Box::new(RobotJoints::new(world.clone()))).map_err(CliError::failed)
}

/// One line about what a bus did.
pub fn describe(name: &str, report: &BusReport) -> String {
    let reads = report.reads.percentiles(std::time::Duration::from_millis(1));
    let reads =
        reads.map_or_else(String::new, |p| format!(", read p50 {:.2} p99 {:.2} max {:.2} ms", p.p50, p.p99, p.max));
    let (bus, servos) = (&report.bus, &report.servos);
    format!(
        "{name}: {} periods, {} goals{reads}; {} without a state, {} expired goals, {} silences, {} unplugged; answers: \
{} taken, {} damaged, {} missing, {} asked again, {} implausible, {} alarms",
        report.periods,
        report.goals,
        report.failed_reads,
        report.expired,
        report.silences,
        report.unplugged,
        bus.answers,
        bus.damaged,
        bus.timeouts,
        bus.retries,
        servos.implausible,
        bus.alarms,
    )
}
