//! Faults of the inference side, as time windows: what `--fault` injects behind the sensors.

use core::time::Duration;
use endplate_policies::OutputFault;

/// A fault this crate injects itself; faults of the body and its sensors are the simulator's.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum RuntimeFault {
    /// Answers due in the window arrive at its end.
    InferenceStall,
    /// Answers take longer by 100 ms for every second of the window.
    LatencyDrift,
    /// The policy's output is corrupted.
    Output(OutputFault),
    /// Another instruction, at the start of the window.
    InstructionChange,
    /// The e-stop is pressed during the window, and latches.
    Estop,
}

/// A fault with its window, relative to the start of the episode.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FaultWindow {
    /// What.
    pub fault: RuntimeFault,
    /// From.
    pub start: Duration,
    /// To; without an end, for good.
    pub end: Option<Duration>,
}

impl FaultWindow {
    fn contains(&self, at: Duration) -> bool {
        at >= self.start && self.end.is_none_or(|end| at < end)
    }
}

/// The faults of one episode.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan(Vec<FaultWindow>);

impl FaultPlan {
    /// A plan of these windows.
    pub fn new(windows: Vec<FaultWindow>) -> Self {
        Self(windows)
    }

    /// Whether nothing goes wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn active(&self, at: Duration) -> impl Iterator<Item = &FaultWindow> {
        self.0.iter().filter(move |window| window.contains(at))
    }

    /// When an answer that would be ready after `latency`, asked at `at`, really arrives.
    pub fn arrival(&self, at: Duration, latency: Duration) -> Duration {
        let drift = self
            .active(at)
            .filter(|window| window.fault == RuntimeFault::LatencyDrift)
            .map(|window| (at - window.start) / 10)
            .sum::<Duration>();
        let ready = at + latency + drift;
        self.active(ready)
            .filter(|window| window.fault == RuntimeFault::InferenceStall)
            .map(|window| window.end.unwrap_or(Duration::MAX))
            .fold(ready, Duration::max)
    }

    /// How the policy's output is to be corrupted at `at`.
    pub fn output(&self, at: Duration) -> OutputFault {
        self.active(at)
            .find_map(|window| match window.fault {
                RuntimeFault::Output(fault) => Some(fault),
                _ => None,
            })
            .unwrap_or(OutputFault::None)
    }

    /// Whether the e-stop is pressed at `at`.
    pub fn estop(&self, at: Duration) -> bool {
        self.active(at).any(|window| window.fault == RuntimeFault::Estop)
    }

    /// How many instruction changes have begun by `at`.
    pub fn instruction_changes(&self, at: Duration) -> u64 {
        self.0.iter().filter(|window| window.fault == RuntimeFault::InstructionChange && window.start <= at).count()
            as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_stall_holds_answers_back_to_its_end_and_drift_grows() {
        let window = |fault, start, end| FaultWindow { fault, start: MS(start), end: Some(MS(end)) };
        let plan = FaultPlan::new(vec![
            window(RuntimeFault::InferenceStall, 1000, 2000),
            window(RuntimeFault::LatencyDrift, 5000, 9000),
        ]);
        assert_eq!(plan.arrival(MS(100), MS(60)), MS(160));
        assert_eq!(plan.arrival(MS(980), MS(60)), MS(2000));
        assert_eq!(plan.arrival(MS(7000), MS(60)), MS(7260));
    }

    #[test]
    fn windows_open_and_close() {
        let plan = FaultPlan::new(vec![
            FaultWindow { fault: RuntimeFault::Output(OutputFault::Nan), start: MS(10), end: Some(MS(20)) },
            FaultWindow { fault: RuntimeFault::Estop, start: MS(30), end: None },
            FaultWindow { fault: RuntimeFault::InstructionChange, start: MS(15), end: None },
        ]);
        assert_eq!(plan.output(MS(9)), OutputFault::None);
        assert_eq!(plan.output(MS(19)), OutputFault::Nan);
        assert_eq!(plan.output(MS(20)), OutputFault::None);
        assert!(!plan.estop(MS(29)) && plan.estop(MS(10_000)));
        assert_eq!((plan.instruction_changes(MS(14)), plan.instruction_changes(MS(15))), (0, 1));
    }
}
