//! The noise a generative family starts from: standard normal, from a generator seeded by the epoch, so that a run
//! replays.

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use crate::observation::Epoch;
use crate::policy::ObservationError;

/// Noise of one inference after the other, drawn or given.
#[derive(Clone, Debug)]
pub(super) struct Noise {
    random: Pcg64Mcg,
    /// That of the next inference, where it was given.
    given: Option<Vec<f32>>,
    /// Values of one inference.
    needed: usize,
}

impl Noise {
    /// Draws `needed` values an inference.
    pub(super) fn new(needed: usize) -> Self {
        Self { random: generator(Epoch::default()), given: None, needed }
    }

    /// Starts over for an epoch and forgets what was given.
    pub(super) fn reset(&mut self, epoch: Epoch) {
        self.random = generator(epoch);
        self.given = None;
    }

    /// Sets the noise of the next inference.
    ///
    /// # Errors
    /// [`ObservationError::Noise`] for another size or a value that is not finite.
    pub(super) fn give(&mut self, noise: &[f64]) -> Result<(), ObservationError> {
        if noise.len() != self.needed || noise.iter().any(|value| !value.is_finite()) {
            return Err(ObservationError::Noise { needed: self.needed, got: noise.len() });
        }
        self.given = Some(noise.iter().map(|value| *value as f32).collect());
        Ok(())
    }

    /// Fills `out`, of the size one inference needs.
    pub(super) fn take(&mut self, out: &mut [f32]) {
        match self.given.take() {
            Some(noise) => out.copy_from_slice(&noise),
            None => draw_normal(&mut self.random, out),
        }
    }
}

fn generator(epoch: Epoch) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(epoch.0)
}

/// Standard normal values by Box and Muller's transform, two from two uniform ones.
fn draw_normal(random: &mut Pcg64Mcg, out: &mut [f32]) {
    for pair in out.chunks_mut(2) {
        // In (0, 1]: the logarithm of 0 is never taken.
        let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
        let (sine, cosine) = (core::f64::consts::TAU * random.random::<f64>()).sin_cos();
        for (value, part) in pair.iter_mut().zip([radius * cosine, radius * sine]) {
            *value = part as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_standard_normal_and_the_same_for_the_same_epoch() {
        let mut values = vec![0.0f32; 20_001];
        draw_normal(&mut generator(Epoch(3)), &mut values);
        let mut again = vec![0.0f32; 20_001];
        draw_normal(&mut generator(Epoch(3)), &mut again);
        assert_eq!(values, again);
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
        let fourth = values.iter().map(|v| f64::from(*v).powi(4)).sum::<f64>() / n;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05 && (fourth - 3.0).abs() < 0.3);
        draw_normal(&mut generator(Epoch(4)), &mut again);
        assert_ne!(values, again);
    }

    #[test]
    fn given_noise_is_taken_once_and_checked() {
        let mut noise = Noise::new(3);
        let mut out = [0.0; 3];
        noise.give(&[1.0, 2.0, 3.0]).unwrap();
        noise.take(&mut out);
        assert_eq!(out, [1.0, 2.0, 3.0]);
        noise.take(&mut out);
        assert_ne!(out, [1.0, 2.0, 3.0]);
        assert_eq!(noise.give(&[1.0, 2.0]), Err(ObservationError::Noise { needed: 3, got: 2 }));
        assert!(noise.give(&[1.0, f64::NAN, 2.0]).is_err());
        noise.give(&[4.0; 3]).unwrap();
        noise.reset(Epoch(1));
        noise.take(&mut out);
        assert_ne!(out, [4.0; 3]);
    }
}
