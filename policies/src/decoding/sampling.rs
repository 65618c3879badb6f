//! Drawing tokens instead of taking the likeliest, and accepting guesses so that what comes out is distributed as if each
//! token had been drawn by itself.
//!
//! One guess is accepted as Leviathan et al. (arXiv 2211.17192) do, several drawn at the same place as SpecTr's k-SEQ does
//! (Sun et al., arXiv 2310.15141), which for one guess is the same. The generator is seeded by the epoch, so that a run
//! replays.

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use crate::observation::Epoch;

/// Apart from the noise of other families in the same epoch.
const STREAM: u64 = 0x746f_6b65_6e73;
/// Halvings of the bracket around ρ*: as many as a double holds.
const HALVINGS: usize = 60;

/// Draws the tokens of one policy.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    temperature: f64,
    random: Pcg64Mcg,
}

impl Sampler {
    /// Draws at this temperature, above 0.
    pub(crate) fn new(temperature: f64) -> Self {
        Self { temperature, random: generator(Epoch::default()) }
    }

    /// Starts over for an epoch.
    pub(crate) fn reset(&mut self, epoch: Epoch) {
        self.random = generator(epoch);
    }

    /// Probabilities of ids with these logits, of those that are `allowed`; where none is, all of them are 0.
    pub(crate) fn probabilities(&self, logits: &[f32], allowed: impl Fn(u32) -> bool) -> Vec<f64> {
        probabilities(logits, self.temperature, allowed)
    }

    /// Draws a token.
    pub(crate) fn draw(&mut self, p: &[f64]) -> u32 {
        pick(p, self.random.random())
    }

    /// The token at a place where `p` is wanted and `guesses` were drawn from `q`, and whether one of them was accepted.
    pub(crate) fn accept(&mut self, p: &[f64], q: &[f64], guesses: &[u32]) -> (u32, bool) {
        let rho = rho(p, q, guesses.len());
        for guess in guesses {
            let (wanted, drawn) = (at(p, *guess), at(q, *guess));
            if self.random.random::<f64>() * rho * drawn < wanted {
                return (*guess, true);
            }
        }
        let mut rest: Vec<f64> = p.iter().zip(q).map(|(p, q)| (p - rho * q).max(0.0)).collect();
        // Nothing is left where every guess is as wanted: then none is refused but by rounding.
        if rest.iter().sum::<f64>() <= 0.0 {
            rest.copy_from_slice(p);
        }
        normalise(&mut rest);
        (self.draw(&rest), false)
    }

    /// As [`accept`](Self::accept) for a guess that is certain to be made.
    pub(crate) fn accept_certain(&mut self, p: &[f64], guess: u32) -> (u32, bool) {
        let mut q = vec![0.0; p.len()];
        if let Some(one) = q.get_mut(guess as usize) {
            *one = 1.0;
        }
        self.accept(p, &q, &[guess])
    }
}

/// Probabilities of ids with these logits, of those that are `allowed`; where none is, all of them are 0.
pub(crate) fn probabilities(logits: &[f32], temperature: f64, allowed: impl Fn(u32) -> bool) -> Vec<f64> {
    let mut values: Vec<f64> = logits
        .iter()
        .enumerate()
        .map(|(id, logit)| if allowed(id as u32) { f64::from(*logit) } else { f64::NEG_INFINITY })
        .collect();
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for value in &mut values {
        *value = if most.is_finite() { ((*value - most) / temperature).exp() } else { 0.0 };
    }
    normalise(&mut values);
    values
}

fn generator(epoch: Epoch) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(epoch.0 ^ STREAM)
}

fn at(values: &[f64], id: u32) -> f64 {
    values.get(id as usize).copied().unwrap_or(0.0)
}

fn normalise(values: &mut [f64]) {
    let sum: f64 = values.iter().sum();
    if sum > 0.0 {
        for value in values {
            *value /= sum;
        }
    }
}

/// The id in which `place`, from 0 to 1, lies; the last that is possible where rounding leaves none.
fn pick(p: &[f64], place: f64) -> u32 {
    let mut below = 0.0;
    let mut last = 0;
    for (id, share) in p.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        below += share;
        last = id as u32;
        if place < below {
            break;
        }
    }
    last
}

/// ρ* of k-SEQ, from 1 to k: with β(ρ) = Σ min(q, p ÷ ρ), where 1 − (1 − β)ᵏ = ρ β.
fn rho(p: &[f64], q: &[f64], k: usize) -> f64 {
    let excess = |rho: f64| {
        let beta: f64 = p.iter().zip(q).map(|(p, q)| q.min(p / rho)).sum();
        1.0 - (1.0 - beta.min(1.0)).powi(k as i32) - rho * beta
    };
    let (mut low, mut high) = (1.0, k as f64);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if excess(middle) > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    if k <= 1 { 1.0 } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rho_is_what_hand_work_says() {
        // q certain of the first, p even: β = ½ ÷ ρ, so (1 − ½ ÷ ρ)² = ½ and ρ = 1 + 1 ÷ √2.
        assert!((rho(&[0.5, 0.5], &[1.0, 0.0], 2) - (1.0 + 0.5_f64.sqrt())).abs() < 1e-12);
        // p = q: β(ρ) = 1 ÷ ρ, and 1 − (1 − 1 ÷ ρ)ᵏ = 1 only for ρ = 1.
        // The root is threefold, so that a double knows it to a third of its digits.
        assert!((rho(&[0.3, 0.7], &[0.3, 0.7], 3) - 1.0).abs() < 1e-4);
        // Nothing in common: β = 0 whatever ρ is.
        assert!((1.0..=2.0).contains(&rho(&[1.0, 0.0], &[0.0, 1.0], 2)));
        assert_eq!(rho(&[0.5, 0.5], &[1.0, 0.0], 1), 1.0, "Leviathan");
    }

    #[test]
    fn probabilities_follow_the_temperature_and_the_mask() {
        let logits = [0.0, 2.0_f32.ln(), 4.0_f32.ln()];
        let close = |p: Vec<f64>, q: [f64; 3]| p.iter().zip(q).all(|(p, q)| (p - q).abs() < 1e-6);
        assert!(close(Sampler::new(1.0).probabilities(&logits, |_| true), [1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0]));
        assert!(close(Sampler::new(0.5).probabilities(&logits, |_| true), [1.0 / 21.0, 4.0 / 21.0, 16.0 / 21.0]));
        assert!(close(Sampler::new(1.0).probabilities(&logits, |id| id != 2), [1.0 / 3.0, 2.0 / 3.0, 0.0]));
        assert!(close(Sampler::new(1.0).probabilities(&logits, |_| false), [0.0; 3]));
    }

    #[test]
    fn a_place_falls_into_the_id_it_lies_in() {
        let p = [0.25, 0.0, 0.5, 0.25];
        assert_eq!([0.0, 0.24, 0.25, 0.74, 0.75, 1.0].map(|place| pick(&p, place)), [0, 0, 2, 2, 3, 3]);
    }

    /// χ² of `counts` against `p`.
    fn chi_square(counts: &[f64], p: &[f64]) -> f64 {
        let all: f64 = counts.iter().sum();
        counts.iter().zip(p).map(|(count, p)| (count - all * p).powi(2) / (all * p)).sum()
    }

    #[test]
    fn what_comes_out_is_distributed_as_if_it_had_been_drawn_plainly() {
        let p = [0.4, 0.3, 0.15, 0.1, 0.05];
        // 99.9 % quantile of χ² with four degrees of freedom.
        let limit = 18.47;
        for (q, k) in [
            ([0.1, 0.2, 0.3, 0.2, 0.2], 1),
            ([0.1, 0.2, 0.3, 0.2, 0.2], 2),
            ([0.1, 0.2, 0.3, 0.2, 0.2], 4),
            ([0.0, 0.0, 1.0, 0.0, 0.0], 1),
            ([0.0, 0.0, 1.0, 0.0, 0.0], 3),
            ([0.4, 0.3, 0.15, 0.1, 0.05], 2),
        ] {
            let (mut counts, mut accepted) = ([0.0; 5], 0);
            for seed in 0..20_000 {
                let mut sampler = Sampler::new(1.0);
                sampler.reset(Epoch(seed));
                let guesses: Vec<u32> = (0..k).map(|_| sampler.draw(&q)).collect();
                let (token, right) = sampler.accept(&p, &q, &guesses);
                assert!(!right || guesses.contains(&token));
                counts[token as usize] += 1.0;
                accepted += u32::from(right);
            }
            let apart = chi_square(&counts, &p);
            println!("{k} guesses of {q:?}: chi-square {apart:.2}, {accepted} of 20000 accepted");
            assert!(apart < limit, "{k} guesses of {q:?}: {counts:?}, {apart}");
        }
        // One that takes a guess as it is fails the same test.
        assert!(chi_square(&[2000.0, 4000.0, 6000.0, 4000.0, 4000.0], &p) > 1000.0);
    }

    #[test]
    fn more_guesses_are_accepted_more_often_and_equal_distributions_always() {
        let (p, q) = ([0.5, 0.5], [0.9, 0.1]);
        let share = |k: usize| {
            let mut sampler = Sampler::new(1.0);
            let mut accepted = 0;
            for _ in 0..20_000 {
                let guesses: Vec<u32> = (0..k).map(|_| sampler.draw(&q)).collect();
                accepted += u32::from(sampler.accept(&p, &q, &guesses).1);
            }
            f64::from(accepted) / 20_000.0
        };
        // One: Σ min(p, q) = 0.6.
        assert!((share(1) - 0.6).abs() < 0.02);
        assert!(share(3) > share(2) && share(2) > share(1) + 0.03, "{} {} {}", share(1), share(2), share(3));
        let mut sampler = Sampler::new(1.0);
        assert!((0..1000).all(|_| {
            let guess = sampler.draw(&p);
            sampler.accept(&p, &p, &[guess]) == (guess, true)
        }));
    }

    #[test]
    fn an_epoch_draws_the_same_again_and_another_another() {
        let p = [0.25; 4];
        let mut sampler = Sampler::new(1.0);
        let mut draws = |epoch| {
            sampler.reset(Epoch(epoch));
            (0..32).map(|_| sampler.draw(&p)).collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }
}
