//! What naive stacks do, to compare with: never for a robot. The follower and the safety filter stay in force behind
//! them, so what shows is the skipped or repeated motion and not the jump it would be on a bare servo.

use super::track::Track;
use core::time::Duration;
use endplate_hal::MotionTime;

/// Counts rows off by a latency estimate: `ceil(latency / row period)` are dropped, whatever was really played since the
/// chunk was asked for. LeRobot 0.6.1 does so in `ActionQueue.merge`.
pub(crate) fn drop_rows(new: &mut Track, motion: MotionTime, latency: Duration) {
    let dropped = (latency.as_secs_f64() / new.period().as_secs_f64()).ceil();
    new.shift(motion, dropped);
}
