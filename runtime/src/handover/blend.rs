//! Weighted blends: where two chunks have rows for the same motion time, one number says how much of each is played
//! (LeRobot's asynchronous client offers 0.3, 0.5 and 0.7 of the old chunk).

use super::track::Track;
use endplate_hal::MotionTime;
use endplate_policies::Blending;

/// Blends `old` into the rows of `new` that both have, from `motion` on. Dimensions that latch keep the new rows.
pub(crate) fn join(old: &Track, new: &mut Track, motion: MotionTime, old_share: f64, blending: &[Blending]) {
    weighted(old, new, motion, blending, |_| old_share);
}

/// As [`join`], with the share of the old chunk at each row of the new one.
pub(crate) fn weighted(
    old: &Track,
    new: &mut Track,
    motion: MotionTime,
    blending: &[Blending],
    old_share: impl Fn(usize) -> f64,
) {
    // Row `r` of the new chunk is row `r + shift` of the old one.
    let shift = old.row_at(motion) - new.row_at(motion);
    for row in 0..new.horizon() {
        let at = row as f64 + shift;
        if at < 0.0 || at > old.last_row() {
            continue;
        }
        let share = old_share(row);
        for dim in (0..new.dims()).filter(|&dim| blending.get(dim) == Some(&Blending::Average)) {
            let value = new.value_mut(row, dim);
            *value = share * old.value(at, dim) + (1.0 - share) * *value;
        }
    }
}
