//! `calibrate thresholds`: what a policy may leave out, fitted to what it answers itself to recorded observations.
//!
//! Every observation is answered anew, so the thresholds are of the graphs they are written beside, whoever drove the robot
//! while it was recorded. Bounded losses are fitted to a tolerance: the p99 over the observations of the largest
//! difference of a joint in the rows that are played. Skipped calls are fitted to a share: which answers change least.

mod bundle;
mod losses;
mod pruning;
mod skips;

use crate::cli::bundle::PolicyArguments;
use crate::cli::error::CliError;
use crate::cli::recorded::{Replayed, replayed};
use clap::Args;
use endplate_hal::Instant;
use endplate_policies::planner::Plan;
use endplate_policies::{
    ActionChunk, Budget, Bundle, Committed, Decoding, Policy, PolicyError, Skipping, THRESHOLDS_FILE, Thresholds,
    Trigrams,
};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;

/// Arguments of `calibrate thresholds`.
#[derive(Args)]
pub struct ThresholdArguments {
    #[command(flatten)]
    policy: PolicyArguments,
    /// A recording of `endplate run --record`; may be given again.
    #[arg(long, value_name = "FILE", required = true)]
    recording: Vec<PathBuf>,
    /// Answer only so many observations of each recording.
    #[arg(long, default_value_t = 150)]
    observations: usize,
    /// How far a joint may be off in the rows that are played, p99 over the observations, rad.
    #[arg(long, default_value_t = 0.02)]
    tolerance_rad: f64,
    /// Share of the answers that may be skipped; the cap is one in three.
    #[arg(long, default_value_t = 0.25)]
    skip_share: f64,
    /// How far a joint of a skipped answer may be off in the rows that are played, p90 over those skipped, rad.
    #[arg(long, default_value_t = 0.05)]
    skip_tolerance_rad: f64,
    /// FAST: the largest error bound of a chunk cut off at the deadline, normalised units, instead of one that keeps the
    /// tolerance.
    #[arg(long)]
    anytime_bound: Option<f64>,
    /// Write the bundle with its thresholds into this folder, which may be the bundle's own; without it, only tell.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What the policy answered to one observation, by itself.
struct Answered {
    chunk: ActionChunk,
    tokens: Vec<u32>,
}

/// Fits, tells, writes.
pub fn fit(arguments: &ThresholdArguments) -> Result<(), CliError> {
    let ThresholdArguments { tolerance_rad, skip_share, skip_tolerance_rad, .. } = *arguments;
    if !(tolerance_rad > 0.0 && tolerance_rad <= core::f64::consts::PI) {
        return Err(CliError::Input(format!("--tolerance-rad {tolerance_rad}: write an angle above 0 and at most π")));
    }
    if !(skip_tolerance_rad > 0.0 && skip_tolerance_rad.is_finite()) {
        return Err(CliError::Input(format!("--skip-tolerance-rad {skip_tolerance_rad}: write an angle above 0")));
    }
    if !(skip_share > 0.0 && skip_share <= 1.0 / 3.0) {
        return Err(CliError::Input(format!("--skip-share {skip_share}: write a share above 0 and at most a third")));
    }
    let bundle = bundle::without_thresholds(&arguments.policy)?;
    let spec = bundle.spec();
    let (mut recorded, mut hash) = (Vec::new(), Sha256::new());
    for path in &arguments.recording {
        let bytes = std::fs::read(path).map_err(|error| CliError::Input(format!("{}: {error}", path.display())))?;
        hash.update(bytes);
        let mut more = replayed(path, spec, arguments.observations)?;
        // Episodes of two recordings are two.
        let last = recorded.last().map_or(0, |each: &Replayed| each.epoch.0);
        for each in &mut more {
            each.epoch.0 += last;
        }
        recorded.extend(more);
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut fitted = Thresholds::for_bundle(spec, digest, recorded.len() as u64, tolerance_rad);
    let fitting = Fitting { policy: &arguments.policy, bundle: &bundle, recorded: &recorded, tolerance_rad };
    let plain = fitting.answer(Decoding::default(), Plan::UNLIMITED)?;
    let whole = plain.iter().flatten().count();
    say!("{} observations of {}: {whole} answered", recorded.len(), spec.name);
    if whole < 20 {
        return Err(CliError::Input(format!("{whole} answers are too few to fit anything to: record more episodes")));
    }
    let mut trigrams = None;
    if let Some(rules) = spec.family.tokens() {
        let row = if spec.family.name() == "bins" { spec.actions.dims().len() } else { 1 };
        let mut table = Trigrams::default();
        for answered in plain.iter().flatten() {
            table.learn_chunk(&answered.tokens, row);
        }
        say!("tri-grams          {} contexts, {} bytes", table.len(), table.to_bytes().len());
        trigrams = Some(table).filter(|_| rules.block.is_some());
    }
    fitted.early_exit = losses::early_exit(&fitting, &plain)?;
    fitted.bin_distance = losses::bin_distance(&fitting, &plain)?;
    fitted.layer_exit = losses::layer_exit(&fitting, &plain)?;
    fitted.denoising = losses::denoising(&fitting, &plain)?;
    fitted.pruning = pruning::pruning(&fitting, &plain)?;
    fitted.anytime = losses::anytime(&fitting, &plain, arguments.anytime_bound)?;
    let wish = skips::Wish { share: skip_share, tolerance_rad: skip_tolerance_rad };
    fitted.reuse = skips::reuse(&fitting, &plain, wish);
    fitted.extrapolation = skips::extrapolation(&fitting, &plain, wish);
    fitted.check(spec).map_err(|error| CliError::Failed(error.to_string()))?;
    if let Some(folder) = &arguments.out {
        bundle::write(&bundle, &fitted, trigrams.as_ref(), folder)?;
        say!("{}: written with {THRESHOLDS_FILE}", folder.display());
    }
    Ok(())
}

/// What everything is fitted with.
struct Fitting<'a> {
    policy: &'a PolicyArguments,
    bundle: &'a Bundle,
    recorded: &'a [Replayed],
    tolerance_rad: f64,
}

impl Fitting<'_> {
    /// Answers every observation so, in its order; `None` where the policy refuses its own answer.
    fn answer(&self, decoding: Decoding, plan: Plan) -> Result<Vec<Option<Answered>>, CliError> {
        let mut bundle = self.bundle.clone();
        if bundle.spec().family.has_tokens() {
            bundle.set_decoding(decoding).map_err(|error| CliError::Refused(error.to_string()))?;
        }
        bundle.set_skipping(Skipping::Off).map_err(CliError::failed)?;
        self.answer_as(&bundle, Some(plan))
    }

    /// The same as another bundle says; without a plan, as it plans itself.
    fn answer_as(&self, bundle: &Bundle, plan: Option<Plan>) -> Result<Vec<Option<Answered>>, CliError> {
        let loaded = endplate_policies::load_policy(bundle, self.policy.engine()?);
        let mut policy = loaded.map_err(|error| CliError::Refused(error.to_string()))?.policy;
        let mut epoch = None;
        let mut answers = Vec::with_capacity(self.recorded.len());
        for each in self.recorded {
            if epoch != Some(each.epoch) {
                // Noise follows from the epoch: the same in every pass over the observations.
                policy.reset(each.epoch);
                epoch = Some(each.epoch);
            }
            if let Some(plan) = plan {
                policy.set_plan(plan);
            }
            answers.push(answer(&mut *policy, each)?);
        }
        Ok(answers)
    }

    /// p99 over the observations of the largest difference of a joint in the rows that are played, rad.
    fn apart_rad(&self, plain: &[Option<Answered>], other: &[Option<Answered>]) -> f64 {
        let played = self.bundle.spec().chunk.execute_rows * self.bundle.spec().actions.dims().len();
        let pairs = plain.iter().zip(other).filter_map(|(a, b)| Some((a.as_ref()?, b.as_ref())));
        let apart = pairs
            .map(|(a, b)| b.map_or(f64::INFINITY, |b| largest(&a.chunk.rows()[..played], &b.chunk.rows()[..played])));
        quantile(apart.collect(), 0.99)
    }
}

fn answer(policy: &mut dyn Policy, each: &Replayed) -> Result<Option<Answered>, CliError> {
    let mut chunk = ActionChunk::for_spec(policy.spec());
    let budget = Budget::unlimited(Instant::ZERO);
    match policy.infer(&each.observation(), &Committed::none(each.epoch), budget, &mut chunk) {
        Ok(_) => Ok(Some(Answered { chunk, tokens: policy.tokens().to_vec() })),
        Err(PolicyError::Undecodable(_) | PolicyError::NonFinite { .. } | PolicyError::OutOfRange { .. }) => Ok(None),
        Err(error) => Err(CliError::Failed(format!("{}: {error}", error.kind()))),
    }
}

fn largest(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// By nearest rank; infinite of nothing, so that nothing is not taken for good.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1));
    values.get(rank - 1).copied().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank_and_of_nothing_infinite() {
        assert_eq!(quantile((1..=100).map(f64::from).collect(), 0.99), 99.0);
        assert_eq!(quantile(vec![3.0, 1.0], 0.5), 1.0);
        assert_eq!(quantile(Vec::new(), 0.5), f64::INFINITY);
    }
}
