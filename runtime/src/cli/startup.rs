//! From the start of the process to the first command: when each step of starting was over.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

static ENTRY: OnceLock<Instant> = OnceLock::new();
static MARKS: Mutex<BTreeMap<&'static str, f64>> = Mutex::new(BTreeMap::new());

/// Starts the clock: the first thing `main` does.
pub fn begin() {
    ENTRY.get_or_init(Instant::now);
}

/// A step is over; only its first time counts.
pub fn mark(step: &'static str) {
    mark_ago(step, Duration::ZERO);
}

/// A step was over that long ago; only its first time counts.
pub fn mark_ago(step: &'static str, ago: Duration) {
    let Some(entry) = ENTRY.get() else { return };
    let millis = entry.elapsed().saturating_sub(ago).as_secs_f64() * 1e3;
    MARKS.lock().unwrap_or_else(PoisonError::into_inner).entry(step).or_insert(millis);
}

/// Milliseconds after the start of `main`, by step.
pub fn marks() -> BTreeMap<&'static str, f64> {
    MARKS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
