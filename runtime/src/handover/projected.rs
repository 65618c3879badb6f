//! The projected state (VLASH): the joint state an answer starts from is rolled forward by the rows
//! that will be played until it comes, so that its first row and the arm meet.

use super::track::Track;
use core::time::Duration;
use endplate_hal::{JointState, MotionTime};

/// Rolls `state`, observed at `motion`, forward by `delay` of the planned motion; the motion time it then stands for.
/// What the plan moves the joints by is added to what was measured, so a joint that pushes against something stays where
/// it is seen. Where the plan ends earlier, so does the projection; without a plan nothing is projected.
pub(crate) fn project(plan: &Track, motion: MotionTime, delay: Duration, state: &mut JointState) -> MotionTime {
    if !plan.covers(motion) {
        return motion;
    }
    let from = plan.row_at(motion);
    let period = plan.period().as_secs_f64();
    let to = (from + delay.as_secs_f64() / period).min(plan.last_row());
    for (dim, position) in state.position_rad.iter_mut().enumerate().take(plan.dims()) {
        *position += plan.value(to, dim) - plan.value(from, dim);
    }
    motion.saturating_add(Duration::from_secs_f64((to - from) * period))
}
