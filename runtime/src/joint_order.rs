//! An advisory finger-print of the joint order, from what a policy answers and what it was trained on.
//!
//! Two mistakes are looked for. *State and action bound in different orders*: a policy plans on from where the joint
//! stands, so when the reading of joint `j` is moved, the expected position of joint `j` follows; where another joint's
//! follows instead, the two are exchanged. *Two joints exchanged altogether* (cables, ids): the readings then leave the
//! range the policy was trained on, and come back into it when the two are exchanged again. Neither always shows, so the
//! answer may be [`JointOrder::Undetermined`].
//!
//! The same measurement finds **dead inputs**: a state dimension or a camera the policy does not react to.

use endplate_hal::{Frame, Instant, JointState, JointVec, MAX_JOINTS};
use endplate_policies::{
    ActionChunk, Anchor, Budget, Committed, Epoch, Normalisation, Observation, Policy, PolicyError, PolicySpec,
};

/// One moment to ask the policy about.
#[derive(Clone, Debug)]
pub struct Sample {
    /// One frame per camera slot, in the bundle's order.
    pub frames: Vec<Frame>,
    /// `[D]` rad, as the robot reads it.
    pub state_rad: Vec<f64>,
    /// What to do.
    pub instruction: String,
}

/// What a policy shows of its joint order on some samples.
#[derive(Clone, Debug, PartialEq)]
pub struct JointOrderEvidence {
    dims: usize,
    /// `[D, D]` row-major: by how much the expected position of joint `k` (row) moves for 1 rad at joint `j` (column).
    response: Vec<f64>,
    /// How far the readings lie outside what was trained on, in half ranges, summed over joints, mean over samples.
    outside: f64,
    /// The same with joints `j < k` exchanged, in the order of [`pairs`].
    outside_exchanged: Vec<f64>,
    /// Largest change of any expected position beyond the joint's own, by state dimension, rad per step.
    reaction_rad: Vec<f64>,
    /// Largest change of any expected position when a camera goes black, rad.
    camera_reaction_rad: Vec<f64>,
    /// Samples on which the policy's answer was refused, which say nothing of its response.
    refused: usize,
}

/// What the evidence says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JointOrder {
    /// Every exchange of two joints is excluded.
    AsDescribed,
    /// These two joints are exchanged.
    Exchanged(usize, usize),
    /// These exchanges are neither seen nor excluded.
    Undetermined(Vec<(usize, usize)>),
}

/// Smallest step that moves expected actions clear of their resolution, rad.
const STEP_RAD: f64 = 0.15;
/// Rows of the chunk whose mean is the expected position: those nearest to the state.
const ROWS: usize = 4;
/// Response that tells two joints apart: half a radian per radian, of two joints together.
const RESPONSE: f64 = 0.5;
/// Half ranges beyond which a reading counts as outside: statistics are quantiles, so a few lie beyond 1.
const RANGE: f64 = 1.3;
/// Half ranges outside that count as a finding.
const OUTSIDE: f64 = 0.3;
/// A reaction below this is none, rad: less than a servo's dead zone.
const DEAD_RAD: f64 = 2e-3;

/// Pairs of joints, first below second.
pub fn pairs(dims: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..dims).flat_map(move |j| (j + 1..dims).map(move |k| (j, k)))
}

impl JointOrderEvidence {
    /// Asks the policy about the samples with every reading moved a step up and down; `state_order[i]` is the reading
    /// given to the policy as its state `i` (the identity, but for a planted fault).
    ///
    /// # Errors
    /// [`PolicyError`] of an inference that failed; an answer that is refused is counted instead.
    pub fn measure(policy: &mut dyn Policy, samples: &[Sample], state_order: &[usize]) -> Result<Self, PolicyError> {
        let spec = policy.spec().clone();
        let dims = spec.actions.dims().len().min(MAX_JOINTS);
        let mut chunk = ActionChunk::for_spec(&spec);
        let mut act = |frames: &[Frame], reading: &[f64], instruction: &str| -> Result<Vec<f64>, PolicyError> {
            let ordered: Vec<f64> = state_order.iter().map(|&from| reading[from]).collect();
            expected(policy, &mut chunk, frames, &ordered, instruction)
        };
        let mut response = vec![0.0; dims * dims];
        let mut reaction_rad = vec![0.0f64; dims];
        let mut camera_reaction_rad = vec![0.0f64; spec.cameras.len()];
        let share = 1.0 / samples.len().max(1) as f64;
        let mut refused = 0;
        for sample in samples {
            let mut ask = || -> Result<_, PolicyError> {
                let base = act(&sample.frames, &sample.state_rad, &sample.instruction)?;
                let moved = (0..dims)
                    .map(|j| {
                        let mut at = |step: f64| {
                            let mut moved = sample.state_rad.clone();
                            moved[j] += step;
                            act(&sample.frames, &moved, &sample.instruction)
                        };
                        Ok((at(STEP_RAD)?, at(-STEP_RAD)?))
                    })
                    .collect::<Result<Vec<_>, PolicyError>>()?;
                let black = (0..spec.cameras.len())
                    .map(|slot| {
                        let mut frames = sample.frames.clone();
                        frames[slot].data.fill(0);
                        act(&frames, &sample.state_rad, &sample.instruction)
                    })
                    .collect::<Result<Vec<_>, PolicyError>>()?;
                Ok((base, moved, black))
            };
            let (base, moved, black) = match ask() {
                Ok(answers) => answers,
                // What the policy itself does not believe says nothing of how it responds.
                Err(
                    PolicyError::OutOfRange { .. }
                    | PolicyError::Undecodable(_)
                    | PolicyError::NonFinite { .. }
                    | PolicyError::NonFiniteLogits { .. },
                ) => {
                    refused += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (j, (up, down)) in moved.iter().enumerate() {
                for k in 0..dims {
                    response[k * dims + j] += (up[k] - down[k]) / (2.0 * STEP_RAD);
                    // A joint that merely carries its own reading on does not react.
                    let carried = if state_order.get(k) == Some(&j) { 2.0 * STEP_RAD } else { 0.0 };
                    reaction_rad[j] = reaction_rad[j].max((up[k] - down[k] - carried).abs());
                }
            }
            for (reaction, black) in camera_reaction_rad.iter_mut().zip(&black) {
                let change = black.iter().zip(&base).map(|(black, base)| (black - base).abs()).fold(0.0, f64::max);
                *reaction = reaction.max(change);
            }
        }
        let answered = samples.len() - refused;
        response.iter_mut().for_each(|slope| *slope /= answered.max(1) as f64);
        let outside = |exchange: Option<(usize, usize)>| -> f64 {
            samples
                .iter()
                .map(|sample| {
                    let mut state = sample.state_rad.clone();
                    if let Some((j, k)) = exchange {
                        state.swap(j, k);
                    }
                    share * beyond(&spec, &state)
                })
                .sum()
        };
        Ok(Self {
            dims,
            response,
            outside: outside(None),
            outside_exchanged: pairs(dims).map(|pair| outside(Some(pair))).collect(),
            reaction_rad,
            camera_reaction_rad,
            refused,
        })
    }

    /// The verdict.
    pub fn verdict(&self) -> JointOrder {
        let response = |k: usize, j: usize| self.response[k * self.dims + j];
        let own = |j: usize, k: usize| response(j, j) + response(k, k);
        let crossed = |j: usize, k: usize| response(j, k) + response(k, j);
        let crossed_pairs: Vec<_> = pairs(self.dims).filter(|&(j, k)| crossed(j, k) - own(j, k) > RESPONSE).collect();
        let explaining: Vec<_> = pairs(self.dims)
            .zip(&self.outside_exchanged)
            .filter(|(_, outside)| self.outside > OUTSIDE && **outside < self.outside / 3.0)
            .map(|(pair, _)| pair)
            .collect();
        match (&crossed_pairs[..], &explaining[..]) {
            (&[(j, k)], []) | ([], &[(j, k)]) => return JointOrder::Exchanged(j, k),
            (&[one], &[other]) if one == other => return JointOrder::Exchanged(one.0, one.1),
            ([], []) if self.outside <= OUTSIDE && self.refused == 0 => {}
            // Several explanations, or none for readings far outside.
            _ => return JointOrder::Undetermined(pairs(self.dims).collect()),
        }
        let open: Vec<_> = pairs(self.dims)
            .zip(&self.outside_exchanged)
            .filter(|&((j, k), outside)| own(j, k) - crossed(j, k) <= RESPONSE || outside - self.outside <= OUTSIDE)
            .map(|(pair, _)| pair)
            .collect();
        if open.is_empty() { JointOrder::AsDescribed } else { JointOrder::Undetermined(open) }
    }

    /// Samples on which the policy's answer was refused.
    pub fn refused(&self) -> usize {
        self.refused
    }

    /// State dimensions the policy does not react to.
    pub fn dead_states(&self) -> Vec<usize> {
        dead(&self.reaction_rad)
    }

    /// Camera slots the policy does not react to.
    pub fn dead_cameras(&self) -> Vec<usize> {
        dead(&self.camera_reaction_rad)
    }
}

fn dead(reactions_rad: &[f64]) -> Vec<usize> {
    reactions_rad.iter().enumerate().filter(|(_, reaction)| **reaction < DEAD_RAD).map(|(index, _)| index).collect()
}

/// How far readings lie outside what was trained on, in half ranges (three standard deviations where those are the
/// statistics), summed over joints; one joint counts 3 at most. Without statistics nothing is outside.
fn beyond(spec: &PolicySpec, state: &[f64]) -> f64 {
    let half_range = match &spec.state_normalisation {
        Normalisation::Quantiles(_) | Normalisation::Range { .. } => 1.0,
        Normalisation::MeanStd { .. } => 3.0,
        Normalisation::Identity => f64::INFINITY,
    };
    let of = |dim: usize| {
        let normalised = spec.state_normalisation.normalise(dim, state[dim]).abs() / half_range;
        (normalised - RANGE).clamp(0.0, 3.0)
    };
    (0..state.len().min(spec.state.len())).map(of).sum()
}

/// Mean of the first rows, `[D]` absolute; noise is the same every time.
fn expected(
    policy: &mut dyn Policy,
    chunk: &mut ActionChunk,
    frames: &[Frame],
    state_rad: &[f64],
    instruction: &str,
) -> Result<Vec<f64>, PolicyError> {
    policy.reset(Epoch(1));
    let position = JointVec::from_fn(state_rad.len(), |joint| state_rad[joint]);
    let observation = Observation {
        frames,
        state: JointState {
            stamp: Instant::ZERO,
            position_rad: position,
            velocity_rad_s: JointVec::zeros(state_rad.len()),
            effort_nm: None,
        },
        past: &[],
        instruction,
        anchor: Anchor::default(),
    };
    policy.infer(&observation, &Committed::none(Epoch(1)), Budget::unlimited(Instant::ZERO), chunk)?;
    let dims = chunk.dims();
    let rows = ROWS.min(chunk.horizon()).max(1);
    Ok((0..dims).map(|dim| (0..rows).map(|row| chunk.rows()[row * dims + dim]).sum::<f64>() / rows as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(response: [f64; 9], outside: f64, exchanged: [f64; 3]) -> JointOrderEvidence {
        JointOrderEvidence {
            dims: 3,
            response: response.to_vec(),
            outside,
            outside_exchanged: exchanged.to_vec(),
            reaction_rad: vec![0.1, 0.0, 0.1],
            camera_reaction_rad: vec![0.0, 0.2],
            refused: 0,
        }
    }

    const OWN: [f64; 9] = [0.8, 0.0, 0.1, 0.0, 0.9, 0.0, -0.1, 0.0, 0.7];

    #[test]
    fn exchanges_are_named_only_where_one_explanation_is_left() {
        assert_eq!(evidence(OWN, 0.0, [2.0, 1.0, 0.9]).verdict(), JointOrder::AsDescribed);
        assert_eq!(evidence(OWN, 0.0, [2.0, 0.1, 0.9]).verdict(), JointOrder::Undetermined(vec![(0, 2)]));
        assert_eq!(evidence(OWN, 2.0, [0.1, 4.0, 3.0]).verdict(), JointOrder::Exchanged(0, 1));
        let all = JointOrder::Undetermined(vec![(0, 1), (0, 2), (1, 2)]);
        assert_eq!(evidence(OWN, 2.0, [0.1, 0.2, 3.0]).verdict(), all);
        assert_eq!(evidence(OWN, 2.0, [1.5, 4.0, 3.0]).verdict(), all);
        let crossed = [0.1, 0.0, 0.8, 0.0, 0.9, 0.0, 0.7, 0.0, 0.1];
        assert_eq!(evidence(crossed, 0.0, [2.0, 1.0, 0.9]).verdict(), JointOrder::Exchanged(0, 2));
        assert_eq!(evidence([0.0; 9], 0.0, [2.0, 1.0, 0.9]).verdict(), all);
        let quiet = evidence(OWN, 0.0, [2.0; 3]);
        assert_eq!((quiet.dead_states(), quiet.dead_cameras()), (vec![1], vec![0]));
    }
}
