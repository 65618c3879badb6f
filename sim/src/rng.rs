//! The one source of randomness: a seeded PCG, the same numbers on every machine.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// A seeded generator with the three draws this crate needs.
#[derive(Clone, Debug)]
pub(crate) struct Random(Pcg64Mcg);

impl Random {
    /// `stream` keeps draws of different purposes apart under one seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        // SplitMix64's finaliser spreads (seed, stream) over 64 bits.
        let mut z = seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self(Pcg64Mcg::seed_from_u64(z ^ (z >> 31)))
    }

    /// Uniform in `[low, high)`.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.random::<f64>()
    }

    /// Standard normal (Box and Muller, 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.0.random::<f64>()).ln()).sqrt();
        radius * (core::f64::consts::TAU * self.0.random::<f64>()).cos()
    }

    /// Uniform in `0..n`; `n` must not be 0.
    pub(crate) fn index(&mut self, n: usize) -> usize {
        self.0.random_range(0..n as u64) as usize
    }
}
