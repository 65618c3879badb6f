//! When a token of the auxiliary head is taken for the answer (FREE: Bae et al., arXiv 2310.05424).
//!
//! The head's confidence is the gap between its two likeliest tokens. It is compared with a threshold that is given, was
//! fitted, or is adapted while running: tokens that went deep as well tell whether both halves agreed, and a Beta
//! distribution is fitted to the confidences of those that did and of those that did not, by their moments. Pairs come
//! from every deep pass, and a deep pass comes at the latest when the stack is full, so that a gate that always fires goes
//! on being told how often it is wrong.

use std::collections::VecDeque;

/// Pairs remembered.
const WINDOW: usize = 300;
/// Fewest pairs of a kind that a distribution is fitted to.
const FEWEST: usize = 8;
/// The thresholds that are tried, of the largest confidence remembered.
const GRID: (f64, f64) = (0.3, 0.9);
const GRID_POINTS: u32 = 10;
/// How likely agreement must be.
const LIKELY: f64 = 0.4;
/// No confidence is above it.
const NEVER: f64 = 1.0;

/// What decides whether the deep half is left out for a token.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum LayerExit {
    /// Above the fitted confidence; until the bundle is known.
    Fitted,
    /// Above this confidence, in thousandths.
    Above(u32),
    /// Above one that is adapted while running.
    Adaptive,
}

/// A Beta distribution.
#[derive(Copy, Clone, Debug, PartialEq)]
struct Beta {
    a: f64,
    b: f64,
}

impl Beta {
    /// By the moments of `values` between 0 and 1; `None` where they are no Beta's.
    fn fit(values: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let count = values.clone().count();
        if count < FEWEST {
            return None;
        }
        let mean = values.clone().sum::<f64>() / count as f64;
        let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / count as f64;
        let common = mean * (1.0 - mean) / variance - 1.0;
        (common.is_finite() && common > 0.0).then_some(Self { a: mean * common, b: (1.0 - mean) * common })
    }

    /// Logarithm of the density at `x` between 0 and 1.
    fn log_density(self, x: f64) -> f64 {
        let Self { a, b } = self;
        (a - 1.0) * x.ln() + (b - 1.0) * (1.0 - x).ln() + log_gamma(a + b) - log_gamma(a) - log_gamma(b)
    }
}

/// ln Γ(x) for x above 0: Stirling's series behind the recurrence.
fn log_gamma(mut x: f64) -> f64 {
    let mut below = 0.0;
    while x < 10.0 {
        below += x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series = (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * core::f64::consts::PI).ln() + series - below
}

/// The lowest threshold of the grid from which on agreement is likely enough; `None` where not even the highest is.
fn lowest(agree: Beta, disagree: Beta) -> Option<f64> {
    let at = |point: u32| GRID.0 + (GRID.1 - GRID.0) * f64::from(point) / f64::from(GRID_POINTS - 1);
    let passes = |x: &f64| {
        // lik₁ ÷ (lik₁ + lik₂), without overflow.
        1.0 / (1.0 + (disagree.log_density(*x) - agree.log_density(*x)).exp()) > LIKELY
    };
    (0..GRID_POINTS).rev().map(at).take_while(passes).last()
}

/// The gate of one policy.
#[derive(Clone, Debug)]
pub(crate) struct ExitGate {
    rule: LayerExit,
    threshold: f64,
    /// Confidence, and whether both halves agreed.
    pairs: VecDeque<(f64, bool)>,
}

impl ExitGate {
    /// A gate by `rule`; without one it never fires.
    pub(crate) fn new(rule: Option<LayerExit>) -> Self {
        let rule = rule.unwrap_or(LayerExit::Fitted);
        let room = if rule == LayerExit::Adaptive { WINDOW } else { 0 };
        let mut gate = Self { rule, threshold: NEVER, pairs: VecDeque::with_capacity(room) };
        gate.reset();
        gate
    }

    /// Forgets what was learned.
    pub(crate) fn reset(&mut self) {
        self.pairs.clear();
        self.threshold = match self.rule {
            LayerExit::Above(thousandths) => f64::from(thousandths) / 1e3,
            LayerExit::Adaptive | LayerExit::Fitted => NEVER,
        };
        self.refit();
    }

    /// Whether a token of this confidence may leave.
    pub(crate) fn fires(&self, confidence: f64) -> bool {
        confidence > self.threshold
    }

    /// A token that went through both halves.
    pub(crate) fn learn(&mut self, confidence: f64, agreed: bool) {
        if self.rule != LayerExit::Adaptive {
            return;
        }
        if self.pairs.len() == WINDOW {
            self.pairs.pop_front();
        }
        self.pairs.push_back((confidence, agreed));
    }

    /// Adapts the threshold to what was learned; between chunks.
    pub(crate) fn refit(&mut self) {
        if self.rule != LayerExit::Adaptive {
            return;
        }
        // A head trained on smoothed labels is never sure: what it says counts against the most it has said.
        let most = self.pairs.iter().map(|pair| pair.0).fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        let of = |agreed: bool| self.pairs.iter().filter(move |pair| pair.1 == agreed).map(move |pair| pair.0 / most);
        let agree = Beta::fit(of(true)).unwrap_or(Beta { a: 2.0, b: 1.0 });
        let disagree = Beta::fit(of(false)).unwrap_or(Beta { a: 1.0, b: 2.0 });
        self.threshold = lowest(agree, disagree).map_or(NEVER, |share| share * most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_of_gamma_is_that_of_factorials_and_of_a_half() {
        for (x, value) in [(1.0, 1.0_f64), (2.0, 1.0), (5.0, 24.0), (11.0, 3_628_800.0)] {
            assert!((log_gamma(x) - value.ln()).abs() < 1e-10, "{x}");
        }
        assert!((log_gamma(0.5) - core::f64::consts::PI.sqrt().ln()).abs() < 1e-10);
    }

    #[test]
    fn a_beta_is_fitted_by_its_moments() {
        // Four of ½ − ¼ and four of ½ + ¼: mean ½, variance 1/16, so a + b = ¼ · 16 − 1 = 3.
        let values = [0.25, 0.75, 0.25, 0.75, 0.25, 0.75, 0.25, 0.75];
        assert_eq!(Beta::fit(values.into_iter()), Some(Beta { a: 1.5, b: 1.5 }));
        assert_eq!(Beta::fit([0.5; 8].into_iter()), None, "no spread");
        assert_eq!(Beta::fit([0.0, 1.0].into_iter().cycle().take(8)), None, "nothing between the ends");
        assert_eq!(Beta::fit(values.into_iter().take(7)), None, "too few");
    }

    #[test]
    fn the_first_threshold_follows_from_the_distributions_to_start_with() {
        // Densities 2x and 2(1 − x): agreement is likely enough where x > 0.4, and the grid is 0.3, 0.3667, 0.4333, …
        let threshold = lowest(Beta { a: 2.0, b: 1.0 }, Beta { a: 1.0, b: 2.0 }).unwrap();
        assert!((threshold - (0.3 + 0.6 * 2.0 / 9.0)).abs() < 1e-12);
        assert!(ExitGate::new(Some(LayerExit::Adaptive)).fires(0.44));
        assert!(!ExitGate::new(Some(LayerExit::Adaptive)).fires(0.43));
    }

    #[test]
    fn the_threshold_rises_when_exits_are_wrong_and_falls_when_they_are_right() {
        let mut gate = ExitGate::new(Some(LayerExit::Adaptive));
        let spread = |middle: f64, number: u32| middle + 0.05 * f64::from(number % 5) - 0.1;
        for number in 0..WINDOW as u32 {
            gate.learn(spread(0.6, number), number % 2 == 0);
            gate.learn(spread(0.85, number), true);
        }
        gate.refit();
        assert!(!gate.fires(0.62) && gate.fires(0.8), "{}", gate.threshold);
        // Sure and wrong from now on: it stops firing. Right about everything again: it fires again.
        for number in 0..WINDOW as u32 {
            gate.learn(spread(0.85, number), false);
        }
        gate.refit();
        assert!(!gate.fires(0.9), "{}", gate.threshold);
        for number in 0..WINDOW as u32 {
            gate.learn(spread(0.85, number), true);
        }
        gate.refit();
        assert!(gate.fires(0.8), "{}", gate.threshold);
        gate.reset();
        assert!((gate.threshold - (0.3 + 0.6 * 2.0 / 9.0)).abs() < 1e-12, "forgotten");
    }

    #[test]
    fn a_head_that_is_never_sure_is_measured_against_itself() {
        let mut gate = ExitGate::new(Some(LayerExit::Adaptive));
        for number in 0..100 {
            gate.learn(0.02 + 0.001 * f64::from(number % 10), false);
            gate.learn(0.15 + 0.001 * f64::from(number % 10), true);
        }
        gate.refit();
        assert!(gate.fires(0.15) && !gate.fires(0.03), "{}", gate.threshold);
    }

    #[test]
    fn a_given_threshold_stays() {
        let mut gate = ExitGate::new(Some(LayerExit::Above(850)));
        for _ in 0..100 {
            gate.learn(0.9, false);
        }
        gate.refit();
        assert!(gate.fires(0.851) && !gate.fires(0.85));
        assert!(!ExitGate::new(None).fires(1.0), "without a rule");
    }
}
