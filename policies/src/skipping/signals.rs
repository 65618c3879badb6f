//! What says that little changes: how two chunks move, how alike two sets of images are, how straight a motion is.

use endplate_hal::{Frame, MotionTime};

use super::line::Line;
use crate::action_space::ActionKind;
use crate::bundle::PolicySpec;
use crate::chunk::ActionChunk;

/// Side of an image patch, pixels.
const PATCH: usize = 16;
/// A patch is still when the cosine with what it was is at least this (VLA-Cache, arXiv 2502.02175).
const STILL_COSINE: f64 = 0.996;
/// And its mean within so many grey levels: the cosine does not see a change of brightness.
const STILL_LEVELS: f64 = 8.0;
/// Shorter motions have no direction, rad.
const LEAST_MOTION: f64 = 0.01;
/// Rows of the buffer that a line is fitted to.
const BUFFER: usize = 6;
/// Fewest of them.
const FEWEST: usize = 4;
/// A gripper moves when its rows span more than this, normalised units, whose range is 2.
const GRIPPER_SPAN: f64 = 0.4;

/// A computed chunk and the images it was computed from.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The chunk.
    pub chunk: ActionChunk,
    /// The images, in the order of the camera slots.
    pub frames: Vec<Frame>,
}

/// What is known before an answer is computed.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Signals {
    /// α: between the motions of the last two computed chunks, rad; `None` where one of them hardly moves.
    pub angle_rad: Option<f64>,
    /// φ: share of image patches that are as they were.
    pub still_share: f64,
    /// Norm of the velocity of the present motion, rad/s, grippers apart.
    pub speed_rad_s: f64,
    /// Largest distance of a row from the line through the last rows, rad; `None` for fewer than four rows.
    pub residual_rad: Option<f64>,
    /// Whether a gripper moves in either chunk.
    pub gripper_moves: bool,
    /// Rows of the newest chunk that lie ahead.
    pub rows_left: f64,
}

impl Signals {
    /// Signals at `motion`, with the images of the present observation.
    pub fn of(spec: &PolicySpec, before: &Seen, last: &Seen, frames: &[Frame], motion: MotionTime) -> Self {
        let arm = arm_dims(spec);
        let gripper = |seen: &Seen| gripper_span(spec, &seen.chunk) > GRIPPER_SPAN;
        let shift = shift(&last.chunk, motion);
        let lines = recent_lines(&last.chunk, shift);
        let over_arm = |of: fn(&Line) -> f64| {
            lines.as_ref().map(|lines| arm.iter().map(|dim| of(&lines[*dim])).collect::<Vec<_>>())
        };
        Self {
            angle_rad: angle(&direction(spec, &before.chunk), &direction(spec, &last.chunk)),
            still_share: still_share(&last.frames, frames),
            speed_rad_s: over_arm(|line| line.slope)
                .map_or(0.0, |slopes| slopes.iter().map(|slope| slope * slope).sum::<f64>().sqrt()),
            residual_rad: over_arm(|line| line.residual).map(|all| all.into_iter().fold(0.0, f64::max)),
            gripper_moves: gripper(before) || gripper(last),
            rows_left: (last.chunk.horizon() as f64 - 1.0 - shift).max(0.0),
        }
    }
}

fn arm_dims(spec: &PolicySpec) -> Vec<usize> {
    let dims = spec.actions.dims().iter().enumerate();
    dims.filter(|(_, dim)| dim.kind != ActionKind::Gripper).map(|(index, _)| index).collect()
}

/// Rows of `chunk` that have passed at `motion`.
pub(super) fn shift(chunk: &ActionChunk, motion: MotionTime) -> f64 {
    motion.seconds_since(chunk.anchor().motion).max(0.0) / chunk.period().as_secs_f64()
}

/// The motion of the arm over the rows of a chunk that are planned to be played.
fn direction(spec: &PolicySpec, chunk: &ActionChunk) -> Vec<f64> {
    let end = spec.chunk.execute_rows.min(chunk.horizon() - 1);
    let (Some(from), Some(to)) = (chunk.row(0), chunk.row(end)) else { return Vec::new() };
    arm_dims(spec).into_iter().map(|dim| to[dim] - from[dim]).collect()
}

fn angle(a: &[f64], b: &[f64]) -> Option<f64> {
    let norm = |of: &[f64]| of.iter().map(|value| value * value).sum::<f64>().sqrt();
    let (length_a, length_b) = (norm(a), norm(b));
    if length_a < LEAST_MOTION || length_b < LEAST_MOTION {
        return None;
    }
    let product: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    Some((product / (length_a * length_b)).clamp(-1.0, 1.0).acos())
}

fn gripper_span(spec: &PolicySpec, chunk: &ActionChunk) -> f64 {
    let dims = spec.actions.dims().iter().enumerate().filter(|(_, dim)| dim.kind == ActionKind::Gripper);
    dims.map(|(index, _)| {
        let values = chunk
            .rows()
            .chunks_exact(chunk.dims())
            .map(|row| spec.actions.normalisation().normalise(index, row[index]));
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        high - low
    })
    .fold(0.0, f64::max)
}

/// Lines through the rows that were played last, one a dimension, or `None` for too few.
pub(super) fn recent_lines(chunk: &ActionChunk, shift: f64) -> Option<Vec<Line>> {
    let end = (shift.round() as usize).min(chunk.horizon() - 1);
    let start = (end + 1).saturating_sub(BUFFER);
    lines(chunk, start, end)
}

/// Lines through the last rows of a chunk, one a dimension.
pub(super) fn last_lines(chunk: &ActionChunk) -> Option<Vec<Line>> {
    let end = chunk.horizon() - 1;
    lines(chunk, (end + 1).saturating_sub(BUFFER), end)
}

fn lines(chunk: &ActionChunk, start: usize, end: usize) -> Option<Vec<Line>> {
    if end + 1 - start < FEWEST {
        return None;
    }
    let period_s = chunk.period().as_secs_f64();
    let column = |dim: usize| (start..=end).filter_map(|row| chunk.row(row).map(|row| row[dim])).collect::<Vec<_>>();
    Some((0..chunk.dims()).map(|dim| Line::through(&column(dim), period_s)).collect())
}

/// Pixels of a frame, by its size.
pub(super) fn pixels(frame: &Frame) -> usize {
    frame.width as usize * frame.height as usize
}

/// The share of patches of all images that are as they were; 0 where an image has another size.
fn still_share(before: &[Frame], now: &[Frame]) -> f64 {
    let (mut still, mut all) = (0_usize, 0_usize);
    if before.len() != now.len() {
        return 0.0;
    }
    for (a, b) in before.iter().zip(now) {
        let is_whole = |frame: &Frame| frame.data.len() == pixels(frame) * 3;
        if (a.width, a.height) != (b.width, b.height) || !is_whole(a) || !is_whole(b) {
            return 0.0;
        }
        let (width, height) = (a.width as usize, a.height as usize);
        for top in (0..height).step_by(PATCH) {
            for left in (0..width).step_by(PATCH) {
                let (bottom, right) = ((top + PATCH).min(height), (left + PATCH).min(width));
                let rows = (top..bottom).map(|y| (y * width + left) * 3..(y * width + right) * 3);
                all += 1;
                still += usize::from(is_still(rows, &a.data, &b.data));
            }
        }
    }
    if all == 0 { 0.0 } else { still as f64 / all as f64 }
}

fn is_still(rows: impl Iterator<Item = core::ops::Range<usize>>, a: &[u8], b: &[u8]) -> bool {
    let (mut aa, mut bb, mut ab, mut sum_a, mut sum_b, mut count) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    for row in rows {
        for (&x, &y) in a[row.clone()].iter().zip(&b[row]) {
            let (x, y) = (u64::from(x), u64::from(y));
            aa += x * x;
            bb += y * y;
            ab += x * y;
            sum_a += x;
            sum_b += y;
            count += 1;
        }
    }
    let apart = sum_a.abs_diff(sum_b) as f64 / count.max(1) as f64;
    // Two black patches have no direction and are alike.
    let cosine = if aa == 0 && bb == 0 { 1.0 } else { ab as f64 / ((aa as f64).sqrt() * (bb as f64).sqrt()).max(1.0) };
    cosine >= STILL_COSINE && apart <= STILL_LEVELS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(level: u8) -> Frame {
        let mut frame = Frame::new(32, 32);
        frame.data.fill(level);
        frame
    }

    #[test]
    fn patches_are_still_until_their_pattern_or_brightness_changes() {
        let now = frame(100);
        assert_eq!(still_share(&[frame(100)], std::slice::from_ref(&now)), 1.0);
        assert_eq!(still_share(&[frame(0)], &[frame(0)]), 1.0);
        assert_eq!(still_share(&[frame(109)], std::slice::from_ref(&now)), 0.0, "brighter, and of the same direction");
        let mut other = frame(100);
        for pixel in other.data.chunks_exact_mut(6).take(16 * 16) {
            pixel[..3].fill(10);
        }
        assert_eq!(still_share(&[other], std::slice::from_ref(&now)), 0.5, "its upper half has stripes");
        assert_eq!(still_share(&[], &[now]), 0.0);
    }

    #[test]
    fn angles_are_of_motions_long_enough_to_have_one() {
        assert!((angle(&[1.0, 0.0], &[1.0, 1.0]).unwrap() - core::f64::consts::FRAC_PI_4).abs() < 1e-12);
        assert_eq!(angle(&[0.001, 0.0], &[1.0, 1.0]), None);
        assert!(angle(&[0.3, 0.4], &[0.3, 0.4]).unwrap() < 1e-7);
    }
}
