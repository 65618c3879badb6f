//! Diffusion schedules: which times the network is asked at, and how its answer moves the sample to the next one.
//!
//! DDPM (Ho et al., arXiv 2006.11239) and DDIM with η = 0 (Song et al., arXiv 2010.02502), in the form of the
//! `diffusers` library, whose schedulers LeRobot trains and runs with: times are the multiples of
//! `train_steps / steps`, largest first; the last step goes to a noise level of exactly 0. Arithmetic is f32 in the
//! library's order of operations, because the first steps of a cosine schedule divide by numbers near 1e-4: the same
//! formulas in f64 differ visibly there.

use crate::bundle::{BetaSchedule, DiffusionSpec, Prediction, Scheduler};

/// Below this a variance counts as this, as in `diffusers`.
const LEAST_VARIANCE: f32 = 1e-20;

/// One step with its coefficients.
#[derive(Copy, Clone, Debug, PartialEq)]
struct Step {
    /// Time the network is asked at, `0..train_steps`.
    time: i64,
    /// ᾱ of this time, the share of the data's variance in the sample.
    alpha: f32,
    /// ᾱ of the next time; 1 after the last.
    next_alpha: f32,
    /// Standard deviation of the noise that is added; 0 where none is.
    sigma: f32,
}

/// The steps of one inference.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    steps: Vec<Step>,
    scheduler: Scheduler,
    prediction: Prediction,
    clip: Option<f32>,
}

impl Schedule {
    /// The steps of a checked description.
    pub(crate) fn new(spec: &DiffusionSpec) -> Self {
        let alphas = cumulative_alphas(spec);
        let stride = spec.train_steps / spec.steps;
        let steps = (0..spec.steps)
            .rev()
            .map(|index| {
                let time = index * stride;
                let (alpha, next_alpha) = (alphas[time], if index == 0 { 1.0 } else { alphas[time - stride] });
                let sigma = if spec.scheduler == Scheduler::Ddpm && time > 0 {
                    let variance = (1.0 - next_alpha) / (1.0 - alpha) * (1.0 - alpha / next_alpha);
                    variance.max(LEAST_VARIANCE).sqrt()
                } else {
                    0.0
                };
                Step { time: time as i64, alpha, next_alpha, sigma }
            })
            .collect();
        Self {
            steps,
            scheduler: spec.scheduler,
            prediction: spec.prediction,
            clip: spec.clip.map(|limit| limit as f32),
        }
    }

    /// The times to ask the network at, in order.
    pub(crate) fn times(&self) -> impl Iterator<Item = i64> + '_ {
        self.steps.iter().map(|step| step.time)
    }

    /// Moves `sample` through step number `index` with the network's answer `output`, and standard normal `noise` where
    /// the step adds some; all of one length.
    pub(crate) fn advance(&self, index: usize, sample: &mut [f32], output: &[f32], noise: &[f32]) {
        let Step { alpha, next_alpha, sigma, .. } = self.steps[index];
        let (beta, next_beta) = (1.0 - alpha, 1.0 - next_alpha);
        let (root_alpha, root_beta) = (alpha.sqrt(), beta.sqrt());
        let step_alpha = alpha / next_alpha;
        let data_share = next_alpha.sqrt() * (1.0 - step_alpha) / beta;
        let sample_share = step_alpha.sqrt() * next_beta / beta;
        for (i, (x, out)) in sample.iter_mut().zip(output).enumerate() {
            let (data, epsilon) = match self.prediction {
                Prediction::Epsilon => ((*x - root_beta * out) / root_alpha, *out),
                Prediction::Sample => (*out, (*x - root_alpha * out) / root_beta),
            };
            let data = self.clip.map_or(data, |limit| data.clamp(-limit, limit));
            *x = match self.scheduler {
                Scheduler::Ddim => next_alpha.sqrt() * data + next_beta.sqrt() * epsilon,
                Scheduler::Ddpm => {
                    let mean = data_share * data + sample_share * *x;
                    if sigma > 0.0 { mean + sigma * noise[i] } else { mean }
                }
            };
        }
    }
}

/// ᾱ of every training time: products of f32 factors, accumulated in f64 and rounded to f32 one by one.
fn cumulative_alphas(spec: &DiffusionSpec) -> Vec<f32> {
    let count = spec.train_steps;
    let line = |from: f32, to: f32| {
        // As torch's `linspace`: from both ends to the middle.
        let step = (to - from) / (count.max(2) - 1) as f32;
        (0..count).map(move |i| if i < count / 2 { from + step * i as f32 } else { to - step * (count - 1 - i) as f32 })
    };
    let betas: Vec<f32> = match spec.betas {
        BetaSchedule::Linear => line(spec.beta_start as f32, spec.beta_end as f32).collect(),
        BetaSchedule::ScaledLinear => {
            line(spec.beta_start.sqrt() as f32, spec.beta_end.sqrt() as f32).map(|root| root * root).collect()
        }
        BetaSchedule::SquaredCosine => (0..count)
            .map(|i| {
                let alpha = |at: usize| {
                    let t = at as f64 / count as f64;
                    ((t + 0.008) / 1.008 * core::f64::consts::PI / 2.0).cos().powi(2)
                };
                (1.0 - alpha(i + 1) / alpha(i)).min(0.999) as f32
            })
            .collect(),
    };
    let mut product = 1.0f64;
    betas
        .into_iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(scheduler: Scheduler, prediction: Prediction, betas: BetaSchedule) -> DiffusionSpec {
        DiffusionSpec {
            observation_steps: 1,
            horizon: 1,
            condition: 1,
            scheduler,
            steps: 10,
            train_steps: 100,
            betas,
            beta_start: 1e-4,
            beta_end: 0.02,
            prediction,
            clip: Some(1.0),
        }
    }

    // The numbers are those of diffusers 0.39.0: `DDPMScheduler(num_train_timesteps=100, beta_start=1e-4, beta_end=0.02,
    // beta_schedule=…).alphas_cumprod`, and `DDPMScheduler` and `DDIMScheduler(num_train_timesteps=100,
    // beta_schedule="squaredcos_cap_v2", prediction_type=…)` with `set_timesteps(10)` and one `step` from the sample below
    // at the first, fifth and last time.

    #[test]
    fn noise_levels_are_those_of_diffusers() {
        for (betas, want) in [
            (BetaSchedule::Linear, [0.999_9, 0.987_909_14, 0.769_291_3, 0.363_563_24]),
            (BetaSchedule::ScaledLinear, [0.999_9, 0.996_766, 0.891_545_06, 0.484_589_87]),
            (BetaSchedule::SquaredCosine, [0.999_368_7, 0.966_716_65, 0.478_264_57, 2.428_540_7e-7]),
        ] {
            let alphas = cumulative_alphas(&spec(Scheduler::Ddpm, Prediction::Epsilon, betas));
            for (time, want) in [0, 10, 50, 99].into_iter().zip(want) {
                let got: f32 = alphas[time];
                assert!((got / want - 1.0f32).abs() < 3e-7, "{betas:?} at {time}: {got} and {want}");
            }
        }
    }

    #[test]
    fn steps_are_those_of_diffusers() {
        type Case = (Scheduler, Prediction, [[f32; 3]; 3]);
        let cases: [Case; 4] = [
            (
                Scheduler::Ddpm,
                Prediction::Epsilon,
                [
                    [0.752_698_54, -1.189_698_3, 1.335_363_6],
                    [0.565_318_7, -1.313_935_5, 1.700_301_2],
                    [0.287_528_22, -1.0, 1.0],
                ],
            ),
            (
                Scheduler::Ddpm,
                Prediction::Sample,
                [[1.096_649_5, -1.017_722_8, 1.335_363_6], [0.784_063_7, -1.035_128_6, 1.700_301_2], [0.5, -0.25, 1.0]],
            ),
            (
                Scheduler::Ddim,
                Prediction::Epsilon,
                [
                    [0.186_441_75, -0.530_918_2, 1.726_518],
                    [0.232_772_13, -0.946_859_7, 1.704_615_8],
                    [0.287_528_22, -1.0, 1.0],
                ],
            ),
            (
                Scheduler::Ddim,
                Prediction::Sample,
                [[0.368_167_34, -1.198_348, 2.021_165_6], [0.359_230_3, -1.060_833_5, 1.603_217_8], [0.5, -0.25, 1.0]],
            ),
        ];
        for (scheduler, prediction, want) in cases {
            let schedule = Schedule::new(&spec(scheduler, prediction, BetaSchedule::SquaredCosine));
            assert_eq!(schedule.times().collect::<Vec<_>>(), [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]);
            for (index, want) in [0, 4, 9].into_iter().zip(want) {
                let mut sample = [0.3, -1.2, 2.0];
                schedule.advance(index, &mut sample, &[0.5, -0.25, 1.5], &[1.0, -0.5, 0.25]);
                for (got, want) in sample.iter().zip(want) {
                    assert!((got - want).abs() < 5e-7, "{scheduler:?} {prediction:?} {index}: {sample:?} and {want:?}");
                }
            }
        }
    }
}
