//! Whether a policy and a robot can keep each other's times: budgets that no answer can meet, rates that skip rows.

use super::error::CliError;
use core::time::Duration;
use endplate_hal::RobotSpec;
use endplate_policies::{Loaded, PolicySpec};

/// One line for everything that cannot work, naming key, value and remedy.
pub fn problems(policy: &PolicySpec, robot: &RobotSpec) -> Vec<String> {
    let ms = |span: Duration| {
        format!("{:.4}", span.as_secs_f64() * 1e3).trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let (control, chunk) = (&robot.control, &policy.chunk);
    let mut problems = Vec::new();
    if control.period > chunk.row_period {
        problems.push(format!(
            "control.rate_hz = {:.3}: a period of {} ms would skip rows, which are {} ms apart: write at least {:.1}",
            1.0 / control.period.as_secs_f64(),
            ms(control.period),
            ms(chunk.row_period),
            1.0 / chunk.row_period.as_secs_f64()
        ));
    }
    let lag = robot
        .cameras
        .iter()
        .filter(|camera| policy.cameras.iter().any(|slot| slot.name == camera.name))
        .map(|camera| camera.lag)
        .max()
        .unwrap_or_default();
    // The least an answer can cost, by the bundle's own cost model, and the wait for the next period.
    let least = lag + policy.costs.vision + policy.costs.prefill + policy.costs.step + control.period;
    if least > control.deadline {
        problems.push(format!(
            "control.deadline_ms = {}: from capture to command takes at least {} ms (camera {}, vision {}, prefill {}, \
             one step {}, one period {}): allow that, or take a faster policy",
            ms(control.deadline),
            ms(least),
            ms(lag),
            ms(policy.costs.vision),
            ms(policy.costs.prefill),
            ms(policy.costs.step),
            ms(control.period)
        ));
    }
    if control.max_chunk_age < control.deadline {
        problems.push(format!(
            "control.max_chunk_age_ms = {}: a chunk that meets the deadline of {} ms would be refused as too old: write more",
            ms(control.max_chunk_age),
            ms(control.deadline)
        ));
    }
    let length = chunk.row_period * u32::try_from(chunk.horizon.saturating_sub(1)).unwrap_or(u32::MAX);
    if length < least {
        problems.push(format!(
            "chunk.horizon = {}: a chunk of {} ms is over before its answer can be there, {} ms after the capture: take a \
             policy with a longer horizon or a faster one",
            chunk.horizon,
            ms(length),
            ms(least)
        ));
    }
    problems
}

/// Refuses to activate a robot in real time whose deadline no answer of the loaded policy meets on this machine.
///
/// # Errors
/// [`CliError::Refused`], with the figures.
pub fn require_time(loaded: &Loaded, robot: &RobotSpec) -> Result<(), CliError> {
    let policy = loaded.policy.spec();
    let seen = robot.cameras.iter().filter(|camera| policy.cameras.iter().any(|slot| slot.name == camera.name));
    let lag = seen.map(|camera| camera.lag).max().unwrap_or_default();
    let budget = robot.control.deadline.saturating_sub(lag + robot.control.period);
    loaded.policy.check_budget(budget).map_err(|error| {
        let ms = |span: Duration| span.as_secs_f64() * 1e3;
        CliError::Refused(format!(
            "{}: control.deadline_ms = {}, less a camera's lag of {} and a period of {}: {error}",
            robot.source,
            ms(robot.control.deadline),
            ms(lag),
            ms(robot.control.period)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::bundle::{PolicyArguments, open_robot};
    use super::*;

    #[test]
    fn the_demonstration_can_keep_its_times_and_impossible_ones_are_named() {
        let bundle = PolicyArguments::default().open().unwrap();
        let robot = open_robot(None).unwrap();
        let policy = bundle.spec();
        assert_eq!(problems(policy, &robot), Vec::<String>::new());
        let with = |change: fn(&mut RobotSpec)| {
            let mut robot = robot.clone();
            change(&mut robot);
            problems(policy, &robot).join("\n")
        };
        let slow = with(|robot| robot.control.period = Duration::from_millis(500));
        assert!(slow.contains("control.rate_hz = 2.000") && slow.contains("at least"), "{slow}");
        let tight = with(|robot| robot.control.deadline = Duration::from_millis(5));
        assert!(tight.contains("control.deadline_ms = 5:") && tight.contains("prefill"), "{tight}");
        let old = with(|robot| robot.control.max_chunk_age = Duration::from_millis(100));
        assert!(old.contains("control.max_chunk_age_ms = 100:"), "{old}");
        let mut short = policy.clone();
        short.chunk.horizon = 2;
        short.chunk.row_period = Duration::from_millis(10);
        let words = problems(&short, &robot).join("\n");
        assert!(words.contains("chunk.horizon = 2"), "{words}");
    }
}
