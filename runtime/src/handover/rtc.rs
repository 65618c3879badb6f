//! Real-time chunking's soft weights (Black et al., arXiv 2506.07339, eq. 5), and its form for policies that cannot be
//! guided while they denoise: the answer is blended into the rows still to be played by the same weights.

use super::blend;
use super::track::Track;
use crate::scheduler::ChunkRefusal;
use endplate_hal::{JointVec, MotionTime};
use endplate_policies::Blending;

/// How firmly row `row` is held when `delay` rows will have been played and rows below `end` are still known: 1 below
/// the delay, then falling to 0 at `end`.
pub(crate) fn weight(row: usize, delay: usize, end: usize) -> f64 {
    if row >= end {
        return 0.0;
    }
    if row < delay {
        return 1.0;
    }
    let c = (end - row) as f64 / (end - delay + 1) as f64;
    c * c.exp_m1() / (core::f64::consts::E - 1.0)
}

/// Blends `new` into `old` from `motion` on.
///
/// # Errors
/// [`ChunkRefusal::Jump`] when the new chunk is further from the old one, at the row to be played next, than a joint
/// travels in a row period.
pub(crate) fn join(
    old: &Track,
    new: &mut Track,
    motion: MotionTime,
    velocity_rad_s: &JointVec,
    blending: &[Blending],
) -> Result<(), ChunkRefusal> {
    let delay = new.row_at(motion).max(0.0).ceil() as usize;
    let shift = old.row_at(motion) - new.row_at(motion);
    let end = (old.last_row() - shift).floor().max(0.0) as usize + 1;
    let reach = new.period().as_secs_f64();
    if delay < new.horizon() && (delay as f64) + shift <= old.last_row() {
        for dim in (0..new.dims()).filter(|&dim| blending.get(dim) == Some(&Blending::Average)) {
            let step = new.value(delay as f64, dim) - old.value(delay as f64 + shift, dim);
            if step.abs() > velocity_rad_s[dim] * reach {
                return Err(ChunkRefusal::Jump { joint: dim });
            }
        }
    }
    blend::weighted(old, new, motion, blending, |row| weight(row, delay, end));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_hold_what_is_played_and_fade_over_what_is_known() {
        let weights: Vec<f64> = (0..10).map(|row| weight(row, 3, 8)).collect();
        assert_eq!(weights[..3], [1.0; 3]);
        assert_eq!(weights[8..], [0.0; 2]);
        assert!(weights[3] < 1.0 && weights.windows(2).all(|pair| pair[1] <= pair[0]));
        // c = 5/6 at the first row after the delay.
        let c = 5.0f64 / 6.0;
        assert!((weights[3] - c * (c.exp() - 1.0) / (1f64.exp() - 1.0)).abs() < 1e-12);
        assert_eq!(weight(0, 0, 0), 0.0);
    }
}
