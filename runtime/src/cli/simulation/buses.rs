//! Emulated servo buses between control and world.

use crate::cli::error::CliError;
use crate::cli::view::View;
#[cfg(feature = "serial")]
use endplate_hal::Clock;
use endplate_hal::{MonotonicClock, Robot, RobotSpec};
use endplate_sim::robot::SimRobot;
use std::sync::Arc;

/// The emulated buses of a run, if its robot description has any.
#[derive(Default)]
pub(super) struct Buses {
    #[cfg(feature = "serial")]
    pub(super) open: Vec<endplate_sim::bus::EmulatedBus>,
    #[cfg(feature = "serial")]
    pub(super) reporters: crate::cli::devices::Reporters,
}

impl Buses {
    /// The arms of the robot: behind their emulated buses, or the simulated arm itself.
    #[cfg(feature = "serial")]
    pub(super) fn open(
        spec: &RobotSpec,
        world: &SimRobot,
        clock: &Arc<MonotonicClock>,
        on_real_clock: bool,
    ) -> Result<(Robot, Self), CliError> {
        use crate::cli::devices::open_arms;
        use crate::cli::robot_file::has_buses;
        if !has_buses(spec) {
            return Self::none(world);
        }
        if !on_real_clock {
            return Err(CliError::Input(format!("{}: a bus runs on the real clock: add --realtime", spec.source)));
        }
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        let arms = open_arms(spec, &clock, Some(world))?;
        Ok((arms.robot, Self { open: arms.emulated, reporters: arms.reporters }))
    }

    #[cfg(not(feature = "serial"))]
    pub(super) fn open(
        _: &RobotSpec,
        world: &SimRobot,
        _: &Arc<MonotonicClock>,
        _: bool,
    ) -> Result<(Robot, Self), CliError> {
        Self::none(world)
    }

    fn none(world: &SimRobot) -> Result<(Robot, Self), CliError> {
        Ok((Robot::new(vec![Box::new(world.arm())]).map_err(CliError::failed)?, Self::default()))
    }

    #[cfg(feature = "serial")]
    pub(super) fn report(&self, view: &View) {
        for (name, report) in &self.reporters {
            view.line(&format!("bus        {}", crate::cli::devices::describe(name, &report())));
        }
        for bus in &self.open {
            view.line(&format!("emulator   {:?}", bus.counts()));
        }
    }

    #[cfg(not(feature = "serial"))]
    pub(super) fn report(&self, _: &View) {}

    /// Whether there is a bus between control and world.
    pub(super) fn stand_between(&self) -> bool {
        #[cfg(feature = "serial")]
        return !self.open.is_empty();
        #[cfg(not(feature = "serial"))]
        false
    }
}
