//! Histograms of fixed size: the whole run, and the newest window.

use super::Percentiles;
use core::time::Duration;
use endplate_hal::Instant;
use hdrhistogram::Histogram;

/// Shares of the window; it forgets by whole shares.
const SHARES: usize = 6;
/// Length of a share.
const SHARE: Duration = Duration::from_secs(10);
/// The window: the last share is still filling.
pub const WINDOW: Duration = Duration::from_secs(SHARES as u64 * SHARE.as_secs());
/// Longest span told apart, ns (18 minutes); longer ones count as this long.
const HIGHEST: u64 = 1 << 40;

/// Spans to two significant digits, over the whole run and over the newest [`WINDOW`].
///
/// # Real-time
/// Recording does not allocate: all room is taken at the start.
#[derive(Clone, Debug)]
pub struct Windowed {
    whole: Histogram<u64>,
    shares: Vec<Histogram<u64>>,
    share: u64,
    sum_ns: u128,
}

impl Windowed {
    /// Empty.
    pub fn new() -> Self {
        Self { whole: empty(), shares: (0..SHARES).map(|_| empty()).collect(), share: 0, sum_ns: 0 }
    }

    /// Records a span that ended at `now`.
    pub fn record(&mut self, now: Instant, span: Duration) {
        let share = now.as_nanos() / SHARE.as_nanos() as u64;
        // Shares that nothing fell into are forgotten too; none that lies ahead is older than a full turn.
        for passed in (self.share + 1..=share).rev().take(SHARES) {
            self.shares[passed as usize % SHARES].reset();
        }
        self.share = self.share.max(share);
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns += u128::from(nanos);
        self.whole.saturating_record(nanos);
        self.shares[share as usize % SHARES].saturating_record(nanos);
    }

    /// Spans recorded.
    pub fn len(&self) -> u64 {
        self.whole.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }

    /// The sum of all spans, s.
    pub fn sum_s(&self) -> f64 {
        self.sum_ns as f64 * 1e-9
    }

    /// Quantiles of the whole run in units of `unit`; `None` of nothing.
    pub fn whole(&self, unit: Duration) -> Option<Percentiles> {
        percentiles(&self.whole, unit)
    }

    /// Quantiles of the newest window in units of `unit`; `None` of nothing.
    pub fn window(&self, unit: Duration) -> Option<Percentiles> {
        let mut sum = empty();
        for share in &self.shares {
            // Same bounds: cannot fail.
            let _ = sum.add(share);
        }
        percentiles(&sum, unit)
    }
}

impl Default for Windowed {
    fn default() -> Self {
        Self::new()
    }
}

#[allow(clippy::expect_used)]
fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HIGHEST, 2).expect("constant bounds are valid")
}

fn percentiles(histogram: &Histogram<u64>, unit: Duration) -> Option<Percentiles> {
    if histogram.is_empty() {
        return None;
    }
    let at = |share: f64| histogram.value_at_quantile(share) as f64 / unit.as_nanos() as f64;
    Some(Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_spike_leaves_the_window_and_stays_in_the_whole() {
        let mut spans = Windowed::new();
        assert_eq!(spans.whole(Duration::from_millis(1)), None);
        spans.record(at(1), Duration::from_millis(900));
        for second in 2..200 {
            spans.record(at(second), Duration::from_millis(10));
        }
        let (whole, window) = (spans.whole(Duration::from_millis(1)), spans.window(Duration::from_millis(1)));
        assert!((whole.unwrap().max / 900.0 - 1.0).abs() < 0.01);
        assert!((window.unwrap().max / 10.0 - 1.0).abs() < 0.01);
        assert_eq!(spans.len(), 199);
        assert!((spans.sum_s() - 2.88).abs() < 1e-9);
    }

    #[test]
    fn after_a_long_silence_nothing_old_is_in_the_window() {
        let mut spans = Windowed::new();
        spans.record(at(5), Duration::from_secs(1));
        spans.record(at(100_000), Duration::from_millis(1));
        assert!(spans.window(Duration::from_millis(1)).unwrap().max < 1.1);
        spans.record(at(100_001), Duration::from_secs(1 << 40));
        assert!(spans.window(Duration::from_secs(1)).unwrap().max > 1_000.0, "held at the longest span told apart");
    }
}
