//! One observation after another.
#![allow(clippy::unwrap_used)]

use endplate_hal::{Frame, Instant, JointState, JointVec, MotionTime};
use endplate_policies::bundle::Arrays;
use endplate_policies::{
    ActionChunk, Anchor, Budget, Bundle, Committed, Epoch, Observation, Policy, PolicyError, StopReason,
};

/// Observations of one epoch.
pub const EPISODE: u64 = 20;

/// Golden frames with the joints moving on from observation to observation, four rows apart.
pub struct Drive {
    samples: Vec<(Vec<Frame>, Vec<f64>, String)>,
}

impl Drive {
    pub fn of(bundle: &Bundle) -> Self {
        let golden = Arrays::from_npz(bundle.file("golden.npz").unwrap(), "golden.npz").unwrap();
        let cameras = &bundle.spec().cameras;
        let samples = (0..2)
            .map(|sample| {
                let images = golden.bytes(&format!("images_{sample}"), None).unwrap();
                let frames = images
                    .chunks_exact(images.len() / cameras.len())
                    .zip(cameras)
                    .map(|(data, slot)| Frame {
                        data: data.to_vec(),
                        sequence: 1,
                        ..Frame::new(slot.width, slot.height)
                    })
                    .collect();
                let state = golden.get(&format!("state_{sample}"), None).unwrap().to_vec();
                (frames, state, golden.text(&format!("instruction_{sample}")).unwrap())
            })
            .collect();
        Self { samples }
    }

    pub fn infer(&self, policy: &mut dyn Policy, number: u64) -> (Result<StopReason, PolicyError>, ActionChunk) {
        self.continued(policy, number, &Committed::none(Epoch(number / EPISODE)))
    }

    pub fn continued(
        &self,
        policy: &mut dyn Policy,
        number: u64,
        committed: &Committed<'_>,
    ) -> (Result<StopReason, PolicyError>, ActionChunk) {
        self.within(policy, number, committed, Budget::unlimited(Instant::ZERO))
    }

    /// As [`continued`](Self::continued), within a budget.
    pub fn within(
        &self,
        policy: &mut dyn Policy,
        number: u64,
        committed: &Committed<'_>,
        budget: Budget<'_>,
    ) -> (Result<StopReason, PolicyError>, ActionChunk) {
        let (frames, start, instruction) = &self.samples[(number / EPISODE % 2) as usize];
        let moved = |(joint, value): (usize, &f64)| value + 0.1 * (0.13 * number as f64 + joint as f64).sin();
        let position: Vec<f64> = start.iter().enumerate().map(moved).collect();
        let observation = Observation {
            frames,
            state: JointState {
                stamp: Instant::ZERO,
                position_rad: JointVec::from_slice(&position).unwrap(),
                velocity_rad_s: JointVec::zeros(position.len()),
                effort_nm: None,
            },
            past: &[],
            instruction,
            anchor: Anchor { motion: MotionTime::from_nanos(number * 400_000_000), captured: Instant::ZERO },
        };
        let mut chunk = ActionChunk::for_spec(policy.spec());
        let result = policy.infer(&observation, committed, budget, &mut chunk);
        (result, chunk)
    }
}
