//! When calls are skipped: which answers change least, for a share of them.

use super::{Answered, Fitting, largest, quantile};
use endplate_policies::skipping::{Seen, Signals, go_on, may_extrapolate, may_reuse, straight_on};
use endplate_policies::{ActionChunk, ExtrapolationThresholds, PolicySpec, ReuseThresholds};

/// Fewer skipped answers say nothing.
const FEWEST: usize = 3;
/// Slowest and fastest share of motions that are never extrapolated: fine ones and hasty ones.
const EDGE: f64 = 0.1;

/// What was known before an answer, and how far a skipped one would have been from it in the rows that are played.
struct Case {
    signals: Signals,
    reused_rad: f64,
    extrapolated_rad: f64,
}

fn cases(fitting: &Fitting<'_>, plain: &[Option<Answered>]) -> Vec<Case> {
    let spec = fitting.bundle.spec();
    let played = spec.chunk.execute_rows * spec.actions.dims().len();
    let mut cases = Vec::new();
    for (recorded, answers) in fitting.recorded.windows(3).zip(plain.windows(3)) {
        let [before, last, now] = recorded else { continue };
        let [Some(before_answer), Some(last_answer), Some(answer)] = answers else { continue };
        if before.epoch != now.epoch {
            continue;
        }
        let seen = |answer: &Answered, frames: &[endplate_hal::Frame]| Seen {
            chunk: answer.chunk.clone(),
            frames: frames.to_vec(),
        };
        let (before, last) = (seen(before_answer, &before.frames), seen(last_answer, &last.frames));
        let motion = now.observation().anchor.motion;
        let mut rows = vec![0.0; answer.chunk.rows().len()];
        type Fill = fn(&PolicySpec, &ActionChunk, endplate_hal::MotionTime, &mut [f64]) -> Option<()>;
        let mut apart = |fill: Fill| match fill(spec, &last.chunk, motion, &mut rows) {
            Some(()) => largest(&rows[..played], &answer.chunk.rows()[..played]),
            None => f64::INFINITY,
        };
        let (reused_rad, extrapolated_rad) = (apart(go_on), apart(straight_on));
        let signals = Signals::of(spec, &before, &last, &now.frames, motion);
        cases.push(Case { signals, reused_rad, extrapolated_rad });
    }
    cases
}

fn tell(what: &str, cases: &[Case], fires: impl Fn(&Case) -> bool, of: fn(&Case) -> f64) {
    let skipped: Vec<f64> = cases.iter().filter(|case| fires(case)).map(of).collect();
    let count = skipped.len();
    say!(
        "{what:<18} fires in {count} of {}: p50 {:.4}, p99 {:.4} rad from what would have been answered",
        cases.len(),
        quantile(skipped.clone(), 0.5),
        quantile(skipped, 0.99)
    );
}

/// How much may be skipped, and how far it may be off.
#[derive(Copy, Clone)]
pub(super) struct Wish {
    /// Of all answers.
    pub(super) share: f64,
    /// p90 over those skipped, rad.
    pub(super) tolerance_rad: f64,
}

impl Wish {
    /// The largest signal up to which no more than the share is skipped and its p90 stays within the tolerance. `pairs`:
    /// signal and error.
    fn cut(self, all: usize, mut pairs: Vec<(f64, f64)>) -> Option<f64> {
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let most = ((all as f64 * self.share).ceil() as usize).min(pairs.len());
        let fits = |count: &usize| {
            quantile(pairs[..*count].iter().map(|(_, error)| *error).collect(), 0.9) <= self.tolerance_rad
        };
        (FEWEST..=most).rev().find(fits).map(|count| pairs[count - 1].0)
    }
}

/// ε₂ at the median of what may be reused, ε₁ where the wish ends.
pub(super) fn reuse(fitting: &Fitting<'_>, plain: &[Option<Answered>], wish: Wish) -> Option<ReuseThresholds> {
    let execute_rows = fitting.bundle.spec().chunk.execute_rows;
    let cases = cases(fitting, plain);
    let anything = ReuseThresholds { angle_rad: core::f64::consts::PI, still_share: 0.0 };
    let open: Vec<&Case> = cases.iter().filter(|case| may_reuse(&anything, &case.signals, execute_rows)).collect();
    let still_share = quantile(open.iter().map(|case| case.signals.still_share).collect(), 0.5);
    let still = open.iter().filter(|case| case.signals.still_share >= still_share);
    let pairs = still.filter_map(|case| Some((case.signals.angle_rad?, case.reused_rad))).collect();
    let Some(angle_rad) = wish.cut(cases.len(), pairs) else {
        say!("reuse              {} of {} answers could be reused: nothing fitted", open.len(), cases.len());
        return None;
    };
    // The angle of the last that is skipped must lie below the threshold.
    let angle_rad = (angle_rad * (1.0 + 1e-6)).clamp(1e-9, core::f64::consts::PI);
    let rules = ReuseThresholds { angle_rad, still_share };
    say!("reuse              angle below {angle_rad:.4} rad, still {still_share:.3}");
    tell("reuse", &cases, |case| may_reuse(&rules, &case.signals, execute_rows), |case| case.reused_rad);
    Some(rules)
}

/// The middle of the speeds, and the residual where the wish ends.
pub(super) fn extrapolation(
    fitting: &Fitting<'_>,
    plain: &[Option<Answered>],
    wish: Wish,
) -> Option<ExtrapolationThresholds> {
    let cases = cases(fitting, plain);
    let speeds: Vec<f64> = cases.iter().map(|case| case.signals.speed_rad_s).filter(|speed| *speed > 0.0).collect();
    if speeds.is_empty() {
        return None;
    }
    let (speed_min_rad_s, speed_max_rad_s) = (quantile(speeds.clone(), EDGE), quantile(speeds, 1.0 - EDGE));
    let any = ExtrapolationThresholds { speed_min_rad_s, speed_max_rad_s, residual_rad: f64::INFINITY };
    let open = cases.iter().filter(|case| may_extrapolate(&any, &case.signals));
    let pairs: Vec<_> = open.filter_map(|case| Some((case.signals.residual_rad?, case.extrapolated_rad))).collect();
    let count = pairs.len();
    let Some(residual_rad) = wish.cut(cases.len(), pairs) else {
        say!("extrapolation      {count} of {} answers could be extrapolated: nothing fitted", cases.len());
        return None;
    };
    let rules = ExtrapolationThresholds { speed_min_rad_s, speed_max_rad_s, residual_rad: residual_rad.max(1e-9) };
    say!(
        "extrapolation      {speed_min_rad_s:.3} to {speed_max_rad_s:.3} rad/s, residual at most {residual_rad:.5} rad"
    );
    tell("extrapolation", &cases, |case| may_extrapolate(&rules, &case.signals), |case| case.extrapolated_rad);
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_is_bounded_by_the_share_and_by_the_error() {
        let pairs: Vec<(f64, f64)> = (1..=10).map(|n| (f64::from(n), f64::from(n) / 100.0)).collect();
        let cut = |share, tolerance_rad| Wish { share, tolerance_rad }.cut(20, pairs.clone());
        assert_eq!(cut(0.25, 1.0), Some(5.0), "five of twenty");
        assert_eq!(cut(0.5, 0.055), Some(5.0), "the p90 of six is 0.06");
        assert_eq!(cut(0.5, 0.02), None, "the p90 of three is 0.03");
        assert_eq!(Wish { share: 0.3, tolerance_rad: 1.0 }.cut(20, Vec::new()), None);
    }
}
