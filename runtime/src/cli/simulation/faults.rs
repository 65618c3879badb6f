//! The faults of a run: which are asked for, whose they are, and what the policy can have.

use crate::cli::error::{CliError, read_text};
use crate::cli::run::RunArguments;
use core::time::Duration;
use endplate_hal::RobotSpec;
use endplate_policies::{Bundle, OutputFault};
use endplate_runtime::{FaultPlan, FaultWindow, RuntimeFault};
use endplate_sim::fault::{Fault, FaultKind};
use std::path::PathBuf;

pub(super) fn parse_faults(texts: &[String]) -> Result<Vec<Fault>, CliError> {
    texts
        .iter()
        .map(|text| Fault::parse(text).map_err(|error| CliError::Input(format!("--fault {text}: {error}"))))
        .collect()
}

/// The faults of `--fault-plan`; drawn ones are of kinds that the policy can have.
pub(super) fn fault_plan(arguments: &RunArguments, robot: &RobotSpec, bundle: &Bundle) -> Result<Vec<Fault>, CliError> {
    let Some(plan) = &arguments.fault_plan else { return Ok(Vec::new()) };
    if let Some(seed) = plan.strip_prefix("random:") {
        let seed = seed.parse().map_err(|_| {
            CliError::Input(format!("--fault-plan {plan}: write a whole number after random:, such as random:7"))
        })?;
        let cameras: Vec<&str> = robot.cameras.iter().map(|camera| camera.name.as_str()).collect();
        let mut faults = Fault::sample(seed, &cameras, Duration::from_secs(8));
        faults.retain(|fault| refuse_foreign_faults(core::slice::from_ref(fault), bundle).is_ok());
        return Ok(faults);
    }
    let text = read_text(&PathBuf::from(plan)).map_err(|error| match Fault::parse(plan) {
        Ok(_) => {
            CliError::Input(format!("--fault-plan {plan}: this is one fault, not a file of them: use --fault {plan}"))
        }
        Err(_) => CliError::Input(format!("--fault-plan {error}: name a file of faults, or write random:SEED")),
    })?;
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let number = number + 1;
            let fault = Fault::parse(line)
                .map_err(|error| CliError::Input(format!("--fault-plan {plan}: line {number}: {error}")))?;
            faults.push(fault);
        }
    }
    Ok(faults)
}

/// Faults of tokens need a policy that speaks in tokens.
pub(super) fn refuse_foreign_faults(faults: &[Fault], bundle: &Bundle) -> Result<(), CliError> {
    let of_tokens = |fault: &&Fault| matches!(fault.kind, FaultKind::TokensGarbage | FaultKind::TokensTruncated);
    let spec = bundle.spec();
    match faults.iter().find(of_tokens) {
        Some(fault) if !spec.family.has_tokens() => Err(CliError::Input(format!(
            "--fault {}: {} is a policy of the family {}, which has no tokens to break; use output_nan, output_inf or output_huge",
            fault.label(),
            spec.name,
            spec.family.name()
        ))),
        _ => Ok(()),
    }
}

/// The windows this crate injects itself; the simulator has the others.
pub fn runtime_faults(faults: &[Fault]) -> FaultPlan {
    let windows = faults.iter().filter_map(|fault| {
        let kind = match fault.kind {
            FaultKind::InferenceStall => RuntimeFault::InferenceStall,
            FaultKind::LatencyDrift => RuntimeFault::LatencyDrift,
            FaultKind::OutputNan => RuntimeFault::Output(OutputFault::Nan),
            FaultKind::OutputInf => RuntimeFault::Output(OutputFault::Inf),
            FaultKind::OutputHuge => RuntimeFault::Output(OutputFault::Huge),
            FaultKind::TokensGarbage => RuntimeFault::Output(OutputFault::TokensGarbage),
            FaultKind::TokensTruncated => RuntimeFault::Output(OutputFault::TokensTruncated),
            FaultKind::InstructionChange => RuntimeFault::InstructionChange,
            FaultKind::Estop => RuntimeFault::Estop,
            _ => return None,
        };
        Some(FaultWindow {
            fault: kind,
            start: fault.start,
            end: fault.duration.map(|duration| fault.start + duration),
        })
    });
    FaultPlan::new(windows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_belongs_to_the_simulator_or_to_the_runtime() {
        for kind in FaultKind::ALL {
            let fault = Fault { kind, camera: None, start: Duration::ZERO, duration: None };
            let here = !runtime_faults(&[fault]).is_empty();
            assert_ne!(here, kind.is_of_simulator(), "{}", kind.name());
        }
    }
}
