//! When calls are skipped: which answers change least, for a share of them.

use super::{Answered, Fitting, largest, quantile};
use endplate_policies::skipping::{Seen, Signals, go_on, may_extrapolate, may_reuse, straight_on};
use endplate_policies::{ActionChunk, ExtrapolationThresholds, PolicySpec, ReuseThresholds};

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
    println!(
        "{what:<18} fires in {count} of {}: p50 {:.4}, p99 {:.4} rad from what would have been answered",
        cases.len(),
        quantile(skipped.clone(), 0.5),
        quantile(skipped, 0.99)
    );
}

/// ε₂ at the median of what may be reused, ε₁ where the wanted share of all answers lies below it.
pub(super) fn reuse(fitting: &Fitting<'_>, plain: &[Option<Answered>], share: f64) -> Option<ReuseThresholds> {
    let execute_rows = fitting.bundle.spec().chunk.execute_rows;
    let cases = cases(fitting, plain);
    let anything = ReuseThresholds { angle_rad: core::f64::consts::PI, still_share: 0.0 };
    let open: Vec<&Case> = cases.iter().filter(|case| may_reuse(&anything, &case.signals, execute_rows)).collect();
    let still_share = quantile(open.iter().map(|case| case.signals.still_share).collect(), 0.5);
    let mut angles: Vec<f64> = open
        .iter()
        .filter(|case| case.signals.still_share >= still_share)
        .filter_map(|case| case.signals.angle_rad)
        .collect();
    angles.sort_by(f64::total_cmp);
    let wanted = ((cases.len() as f64 * share).ceil() as usize).min(angles.len());
    // The angle of the last that is wanted must lie below the threshold.
    let angle_rad = (angles.get(wanted.checked_sub(1)?)? * (1.0 + 1e-6)).clamp(1e-9, core::f64::consts::PI);
    let rules = ReuseThresholds { angle_rad, still_share };
    println!("reuse              angle below {angle_rad:.4} rad, still {still_share:.3}");
    tell("reuse", &cases, |case| may_reuse(&rules, &case.signals, execute_rows), |case| case.reused_rad);
    Some(rules)
}

/// The middle of the speeds, and the residual where the wanted share of all answers lies below it.
pub(super) fn extrapolation(
    fitting: &Fitting<'_>,
    plain: &[Option<Answered>],
    share: f64,
) -> Option<ExtrapolationThresholds> {
    let cases = cases(fitting, plain);
    let speeds: Vec<f64> = cases.iter().map(|case| case.signals.speed_rad_s).filter(|speed| *speed > 0.0).collect();
    if speeds.is_empty() {
        return None;
    }
    let (speed_min_rad_s, speed_max_rad_s) = (quantile(speeds.clone(), EDGE), quantile(speeds, 1.0 - EDGE));
    let any = ExtrapolationThresholds { speed_min_rad_s, speed_max_rad_s, residual_rad: f64::INFINITY };
    let mut residuals: Vec<f64> = cases
        .iter()
        .filter(|case| may_extrapolate(&any, &case.signals))
        .filter_map(|case| case.signals.residual_rad)
        .collect();
    residuals.sort_by(f64::total_cmp);
    let wanted = ((cases.len() as f64 * share).ceil() as usize).min(residuals.len());
    let residual_rad = residuals.get(wanted.checked_sub(1)?)?.max(1e-9);
    let rules = ExtrapolationThresholds { speed_min_rad_s, speed_max_rad_s, residual_rad };
    println!(
        "extrapolation      {speed_min_rad_s:.3} to {speed_max_rad_s:.3} rad/s, residual at most {residual_rad:.5} rad"
    );
    tell("extrapolation", &cases, |case| may_extrapolate(&rules, &case.signals), |case| case.extrapolated_rad);
    Some(rules)
}
