//! Golden inputs as observations, and inferences of them.
#![allow(clippy::unwrap_used)]

use core::time::Duration;
use endplate_hal::{Instant, JointState, JointVec};
use endplate_policies::{
    ActionChunk, Anchor, Budget, Committed, Epoch, Observation, OpenLoopInputs, Policy, PolicyError, StopReason,
};

/// What was seen, at rest and at no motion time yet.
pub fn observed(inputs: &OpenLoopInputs) -> Observation<'_> {
    Observation {
        frames: &inputs.frames,
        state: JointState {
            stamp: Instant::ZERO,
            position_rad: JointVec::from_slice(&inputs.state).unwrap(),
            velocity_rad_s: JointVec::zeros(inputs.state.len()),
            effort_nm: None,
        },
        past: &[],
        instruction: &inputs.instruction,
        anchor: Anchor::default(),
    }
}

/// One inference that may take `budget` by the cost model, with the noise that was recorded.
pub fn infer(
    policy: &mut dyn Policy,
    inputs: &OpenLoopInputs,
    epoch: u64,
    budget: Option<Duration>,
) -> (Result<StopReason, PolicyError>, ActionChunk) {
    let mut chunk = ActionChunk::for_spec(policy.spec());
    let budget = budget.map_or(Budget::unlimited(Instant::ZERO), |span| Budget {
        start: Instant::ZERO,
        deadline: Instant::ZERO.saturating_add(span),
        clock: None,
    });
    if let Some(noise) = &inputs.noise {
        policy.set_noise(noise).unwrap();
    }
    let result = policy.infer(&observed(inputs), &Committed::none(Epoch(epoch)), budget, &mut chunk);
    (result, chunk)
}
