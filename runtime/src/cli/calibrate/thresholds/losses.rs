//! Losses that are bounded by a tolerance: passes, bins, denoising steps, frequencies left out.

use super::{Answered, Fitting, largest, quantile};
use crate::cli::error::CliError;
use endplate_policies::bundle::FamilySpec;
use endplate_policies::planner::Plan;
use endplate_policies::{
    AnytimeThreshold, BinDistanceThreshold, Decoding, DenoisingThreshold, EarlyExitThreshold, LayerExit,
    LayerExitThreshold, halves_digest,
};
use endplate_tokenizers::{FastCodec, FastTokenizer};

/// Most passes tried before an early exit: beyond, nothing is gained.
const MOST_PASSES: u32 = 16;
/// Most bins tried: Spec-VLA's largest.
const MOST_BINS: u32 = 9;
/// Confidences tried, in thousandths; heads trained on smoothed labels are never sure.
const CONFIDENCES: [u32; 14] = [950, 900, 800, 700, 600, 500, 400, 300, 200, 150, 100, 50, 20, 10];
/// A bound this wide bounds nothing.
const WIDEST_BOUND: f64 = 2.0;

/// What guesses are made of while these are fitted.
const GUESSES: Decoding = Decoding {
    previous: true,
    trigram: false,
    jacobi: true,
    shallow: None,
    tree: None,
    drafts: None,
    temperature: None,
    layer_exit: None,
    bin_distance: None,
    early_exit: None,
    planned: false,
};

fn has_blocks(fitting: &Fitting<'_>) -> bool {
    matches!(fitting.bundle.spec().family, FamilySpec::Bins(rules) if rules.block.is_some())
}

/// The fewest passes that stay within the tolerance.
pub(super) fn early_exit(
    fitting: &Fitting<'_>,
    plain: &[Option<Answered>],
) -> Result<Option<EarlyExitThreshold>, CliError> {
    if !has_blocks(fitting) {
        return Ok(None);
    }
    for passes in 2..=MOST_PASSES {
        let exit = Decoding { early_exit: Some(passes), ..GUESSES };
        let apart = fitting.apart_rad(plain, &fitting.answer(exit, Plan::UNLIMITED)?);
        say!("early exit         {passes:>3} passes: p99 {apart:.4} rad");
        if apart <= fitting.tolerance_rad {
            return Ok(Some(EarlyExitThreshold { passes }));
        }
    }
    Ok(None)
}

/// The widest distance that stays within the tolerance.
pub(super) fn bin_distance(
    fitting: &Fitting<'_>,
    plain: &[Option<Answered>],
) -> Result<Option<BinDistanceThreshold>, CliError> {
    let mut widest = None;
    if has_blocks(fitting) {
        for bins in 1..=MOST_BINS {
            let near = Decoding { bin_distance: Some(bins), ..GUESSES };
            let apart = fitting.apart_rad(plain, &fitting.answer(near, Plan::UNLIMITED)?);
            say!("bin distance       {bins:>3} bins: p99 {apart:.4} rad");
            if apart > fitting.tolerance_rad {
                break;
            }
            widest = Some(BinDistanceThreshold { bins });
        }
    }
    Ok(widest)
}

/// The lowest confidence that stays within the tolerance, if a token leaves at it at all.
pub(super) fn layer_exit(
    fitting: &Fitting<'_>,
    plain: &[Option<Answered>],
) -> Result<Option<LayerExitThreshold>, CliError> {
    let mut lowest = None;
    if fitting.bundle.spec().family.tokens().is_none_or(|rules| rules.split.is_none()) {
        return Ok(None);
    }
    for thousandths in CONFIDENCES {
        let confidence = f64::from(thousandths) / 1e3;
        let exit = Decoding { layer_exit: Some(LayerExit::Above(thousandths)), ..Decoding::default() };
        let answers = fitting.answer(exit, Plan::UNLIMITED)?;
        let stages = || answers.iter().flatten().map(|answered| answered.chunk.stages());
        let (left, tokens) = stages().fold((0, 0), |(left, all), each| (left + each.exited, all + each.tokens));
        let apart = fitting.apart_rad(plain, &answers);
        say!("layer exit         above {confidence:.3}: {left} of {tokens} tokens leave, p99 {apart:.4} rad");
        if apart > fitting.tolerance_rad {
            break;
        }
        let halves_digest = halves_digest(&fitting.bundle.spec().files);
        lowest = Some(LayerExitThreshold { confidence, halves_digest }).filter(|_| left > 0);
    }
    Ok(lowest)
}

/// The fewest denoising steps that stay within the tolerance.
pub(super) fn denoising(
    fitting: &Fitting<'_>,
    plain: &[Option<Answered>],
) -> Result<Option<DenoisingThreshold>, CliError> {
    let Some(most) = fitting.bundle.spec().family.denoising_steps() else { return Ok(None) };
    let mut least = None;
    for steps in (1..most as u32).rev() {
        let plan = Plan { steps, ..Plan::UNLIMITED };
        let apart = fitting.apart_rad(plain, &fitting.answer(Decoding::default(), plan)?);
        say!("denoising          {steps:>3} steps: p99 {apart:.4} rad");
        if apart > fitting.tolerance_rad {
            break;
        }
        least = Some(DenoisingThreshold { least_steps: steps });
    }
    Ok(least)
}

/// The limits that the policy's own chunks keep, and the bound of the fewest frequencies that stay within the tolerance.
pub(super) fn anytime(
    fitting: &Fitting<'_>,
    plain: &[Option<Answered>],
    declared: Option<f64>,
) -> Result<Option<AnytimeThreshold>, CliError> {
    let spec = fitting.bundle.spec();
    // Somebody else's checkpoint speaks the model's own ids, which this does not read.
    if !matches!(spec.family, FamilySpec::Pi0Fast(rules) if rules.answer.is_none()) {
        return Ok(None);
    }
    let file = |name| fitting.bundle.file(name).map_err(CliError::failed);
    let (tokenizer, processor) = (file("tokenizer/tokenizer.json")?, file("tokenizer/processor_config.json")?);
    let fast = FastTokenizer::from_bytes(tokenizer, processor, "tokenizer").map_err(CliError::failed)?;
    let (horizon, dims) = (spec.chunk.horizon, spec.actions.dims().len());
    let mut codec = fast.codec(horizon, dims).map_err(CliError::failed)?;
    let mut spectra = Vec::new();
    let mut values = vec![0.0; horizon * dims];
    for answered in plain.iter().flatten() {
        codec.decode(&answered.tokens, &mut values).map_err(CliError::failed)?;
        spectra.push(spectrum(&values, horizon, dims, fast.scale()));
    }
    let mut limits = vec![0_u32; horizon * dims];
    for spectrum in &spectra {
        for (limit, coefficient) in limits.iter_mut().zip(spectrum) {
            *limit = (*limit).max(coefficient.round().abs() as u32);
        }
    }
    let codec = codec.with_coefficient_limits(&limits).map_err(CliError::failed)?;
    let played = spec.chunk.execute_rows * dims;
    let apart = |frequencies: usize| {
        let each = spectra.iter().map(|spectrum| {
            let mut cut = spectrum.clone();
            cut[frequencies * dims..].fill(0.0);
            let rows = |of: &[f64]| radians(spec, &synthesis(of, horizon, dims, fast.scale()));
            largest(&rows(spectrum)[..played], &rows(&cut)[..played])
        });
        quantile(each.collect(), 0.99)
    };
    let mut accepted = None;
    for frequencies in (1..horizon).rev() {
        let (apart, bound) = (apart(frequencies), worst_bound(&codec, frequencies, dims));
        say!(
            "anytime            {frequencies:>3} of {horizon} frequencies: p99 {apart:.4} rad, stated bound {bound:.3}"
        );
        if apart > fitting.tolerance_rad || bound > WIDEST_BOUND {
            break;
        }
        accepted = Some(bound);
    }
    Ok(declared.or(accepted).map(|bound| AnytimeThreshold { bound, coefficient_limits: limits }))
}

fn worst_bound(codec: &FastCodec, frequencies: usize, dims: usize) -> f64 {
    (0..dims).filter_map(|dim| codec.error_bound(frequencies, dim)).fold(0.0, f64::max)
}

fn cosine(horizon: usize, frequency: usize, time: usize) -> f64 {
    let scale = if frequency == 0 { 1.0 } else { 2.0 };
    let angle = core::f64::consts::PI * (2 * time + 1) as f64 * frequency as f64 / (2 * horizon) as f64;
    (scale / horizon as f64).sqrt() * angle.cos()
}

/// Coefficients of `[H, D]` values times `scale`, frequency by frequency.
fn spectrum(values: &[f64], horizon: usize, dims: usize, scale: f64) -> Vec<f64> {
    let one = |frequency: usize, dim: usize| {
        scale * (0..horizon).map(|time| values[time * dims + dim] * cosine(horizon, frequency, time)).sum::<f64>()
    };
    (0..horizon * dims).map(|at| one(at / dims, at % dims)).collect()
}

fn synthesis(spectrum: &[f64], horizon: usize, dims: usize, scale: f64) -> Vec<f64> {
    let one = |time: usize, dim: usize| {
        (0..horizon).map(|frequency| spectrum[frequency * dims + dim] * cosine(horizon, frequency, time)).sum::<f64>()
            / scale
    };
    (0..horizon * dims).map(|at| one(at / dims, at % dims)).collect()
}

/// Normalised values in radians, without the joint they are relative to.
fn radians(spec: &endplate_policies::PolicySpec, values: &[f64]) -> Vec<f64> {
    let dims = spec.actions.dims().len();
    values.iter().enumerate().map(|(at, value)| spec.actions.normalisation().denormalise(at % dims, *value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spectrum_is_undone_by_its_synthesis() {
        let values: Vec<f64> = (0..8).map(|at| f64::from(at * at % 5) - 2.0).collect();
        let spectrum = spectrum(&values, 4, 2, 10.0);
        assert!((spectrum[0] - 10.0 * (values[0] + values[2] + values[4] + values[6]) / 2.0).abs() < 1e-9);
        for (back, value) in synthesis(&spectrum, 4, 2, 10.0).iter().zip(&values) {
            assert!((back - value).abs() < 1e-12);
        }
    }
}
