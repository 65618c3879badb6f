//! How late things are: from a command to the motion, and from the motion to a camera's frame in the program.
//!
//! A joint is moved to and fro without a fixed period. Encoder readings follow the commands late, and what the camera shows
//! follows the encoders late: each delay is where the two signals correlate best. The camera's signal is the leading
//! principal component of its images, so nothing needs to be known of the scene, but that the moving arm is in sight.

use endplate_hal::Instant;
use nalgebra::DMatrix;

/// A number and when it was so.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Stamped {
    /// When.
    pub at: Instant,
    /// What.
    pub value: f64,
}

/// A delay that was found.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Delay {
    /// Seconds from cause to effect.
    pub seconds: f64,
    /// Correlation there, 0 to 1.
    pub correlation: f64,
}

/// Why no delay was found.
#[derive(Copy, Clone, Debug, PartialEq, thiserror::Error)]
pub enum LatencyError {
    /// Too few samples.
    #[error("{0} samples are too few: move for 4 s and more")]
    TooFew(usize),
    /// The signals have little in common.
    #[error("the signals correlate by {correlation:.2} only: does the joint move, and does the camera see the arm?")]
    Unlike {
        /// The best correlation.
        correlation: f64,
    },
    /// The best delay lies at the end of what was searched.
    #[error("the delay is {seconds:.3} s or more, beyond what is searched")]
    TooLong {
        /// The longest delay searched.
        seconds: f64,
    },
}

/// Fewest samples of an effect.
const LEAST_SAMPLES: usize = 40;
/// Least correlation that is believed.
const LEAST_CORRELATION: f64 = 0.8;
/// The longest delay searched, ms.
const LONGEST_MS: usize = 400;

/// By how much `effect` follows `cause`; the sign does not matter.
///
/// # Errors
/// [`LatencyError`] when the signals are too short or too unlike.
pub fn delay(cause: &[Stamped], effect: &[Stamped]) -> Result<Delay, LatencyError> {
    if cause.len() < LEAST_SAMPLES || effect.len() < LEAST_SAMPLES {
        return Err(LatencyError::TooFew(cause.len().min(effect.len())));
    }
    let at: Vec<f64> = (0..=LONGEST_MS).map(|ms| correlation(cause, effect, ms as f64 * 1e-3)).collect();
    let best = (0..at.len()).max_by(|&a, &b| at[a].total_cmp(&at[b])).unwrap_or(0);
    if at[best] < LEAST_CORRELATION || !at[best].is_finite() {
        return Err(LatencyError::Unlike { correlation: at[best] });
    }
    if best == LONGEST_MS {
        return Err(LatencyError::TooLong { seconds: LONGEST_MS as f64 * 1e-3 });
    }
    // The top of the parabola through the best and its neighbours.
    let shift = match best {
        0 => 0.0,
        _ => {
            let (left, middle, right) = (at[best - 1], at[best], at[best + 1]);
            let curve = left - 2.0 * middle + right;
            if curve < 0.0 { 0.5 * (left - right) / curve } else { 0.0 }
        }
    };
    Ok(Delay { seconds: (best as f64 + shift) * 1e-3, correlation: at[best] })
}

/// Magnitude of the correlation of the effect with the cause `seconds` before it.
fn correlation(cause: &[Stamped], effect: &[Stamped], seconds: f64) -> f64 {
    let pairs: Vec<(f64, f64)> =
        effect.iter().filter_map(|sample| Some((interpolate(cause, sample.at, seconds)?, sample.value))).collect();
    if pairs.len() < LEAST_SAMPLES / 2 {
        return 0.0;
    }
    let n = pairs.len() as f64;
    let (x, y) = pairs.iter().fold((0.0, 0.0), |(x, y), pair| (x + pair.0 / n, y + pair.1 / n));
    let (xx, yy, xy) = pairs.iter().fold((0.0, 0.0, 0.0), |(xx, yy, xy), pair| {
        let (a, b) = (pair.0 - x, pair.1 - y);
        (xx + a * a, yy + b * b, xy + a * b)
    });
    let scale = (xx * yy).sqrt();
    if scale > 0.0 { (xy / scale).abs() } else { 0.0 }
}

/// The signal `seconds` before `at`; `None` outside of it.
fn interpolate(signal: &[Stamped], at: Instant, seconds: f64) -> Option<f64> {
    let after = signal.partition_point(|sample| sample.at.seconds_since(at) <= -seconds);
    let (earlier, later) = (signal.get(after.checked_sub(1)?)?, signal.get(after)?);
    let share = -(earlier.at.seconds_since(at) + seconds) / later.at.seconds_since(earlier.at);
    Some(earlier.value + (later.value - earlier.value) * share)
}

/// The leading principal component of images of one size, one number an image: what moves in them.
pub fn image_signal(images: &[Vec<u8>]) -> Vec<f64> {
    let Some(first) = images.first() else { return Vec::new() };
    let mut mean = vec![0.0f64; first.len()];
    for image in images {
        mean.iter_mut().zip(image).for_each(|(mean, pixel)| *mean += f64::from(*pixel) / images.len() as f64);
    }
    let n = images.len();
    let mut gram = DMatrix::zeros(n, n);
    for i in 0..n {
        for j in 0..=i {
            let product: f64 = images[i]
                .iter()
                .zip(&images[j])
                .zip(&mean)
                .map(|((a, b), mean)| (f64::from(*a) - mean) * (f64::from(*b) - mean))
                .sum();
            gram[(i, j)] = product;
            gram[(j, i)] = product;
        }
    }
    let eigen = gram.symmetric_eigen();
    let top = (0..n).max_by(|&a, &b| eigen.eigenvalues[a].total_cmp(&eigen.eigenvalues[b])).unwrap_or(0);
    eigen.eigenvectors.column(top).iter().copied().collect()
}

/// Where the joint is to be after `seconds`, as a share of its swing, −1 to 1: three tones without a common period, so
/// that no delay looks like another.
pub fn excitation(seconds: f64) -> f64 {
    // Starts from rest.
    let ease = (seconds / 0.5).clamp(0.0, 1.0);
    let tone = |rate_hz: f64| (core::f64::consts::TAU * rate_hz * seconds).sin();
    ease * (0.5 * tone(0.37) + 0.3 * tone(0.83) + 0.2 * tone(1.31))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(rate_hz: f64, late_s: f64, phase_s: f64) -> Vec<Stamped> {
        (0..(6.0 * rate_hz) as usize)
            .map(|index| {
                let seconds = 1.0 + phase_s + index as f64 / rate_hz;
                Stamped { at: Instant::from_nanos((seconds * 1e9) as u64), value: excitation(seconds - late_s) }
            })
            .collect()
    }

    #[test]
    fn a_planted_delay_is_found_within_a_period() {
        let cause = sampled(100.0, 0.0, 0.0);
        for late_s in [0.0, 0.0123, 0.0831, 0.31] {
            let mut effect = sampled(30.0, late_s, 0.0071);
            // What a camera shows is turned round and scaled as it likes.
            effect.iter_mut().for_each(|sample| sample.value = 7.0 - 30.0 * sample.value);
            let found = delay(&cause, &effect).unwrap();
            assert!((found.seconds - late_s).abs() < 2e-3, "{late_s} {found:?}");
        }
    }

    #[test]
    fn what_does_not_follow_has_no_delay() {
        let cause = sampled(100.0, 0.0, 0.0);
        let still: Vec<Stamped> = cause.iter().map(|sample| Stamped { value: 1.0, ..*sample }).collect();
        assert!(matches!(delay(&cause, &still), Err(LatencyError::Unlike { .. })));
        assert_eq!(delay(&cause[..9], &cause), Err(LatencyError::TooFew(9)));
        assert!(matches!(
            delay(&cause, &sampled(30.0, 0.6, 0.0)),
            Err(LatencyError::Unlike { .. } | LatencyError::TooLong { .. })
        ));
    }

    #[test]
    fn the_signal_of_images_is_what_moves_in_them() {
        let images: Vec<Vec<u8>> =
            (0..20).map(|index| (0..64).map(|pixel| if pixel < 2 * index { 200 } else { 20 }).collect()).collect();
        let signal = image_signal(&images);
        let sign = (signal[19] - signal[0]).signum();
        assert!(signal.windows(2).all(|pair| sign * (pair[1] - pair[0]) > -1e-9), "{signal:?}");
    }
}
