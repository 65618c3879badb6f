//! Fitting: range of the coefficients, then merges over their text.

use super::dct::Dct;
use super::pretokenize::pieces;
use super::{FastTokenizer, FitError, MAX_VALUES, Tables, train};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`FastTokenizer::fit`]; the defaults are those of the released FAST processor.
#[derive(Clone, PartialEq, Debug)]
pub struct FitOptions {
    /// Factor on the DCT coefficients before rounding: larger is finer and longer. Above 0, with
    /// at most 15 significant digits (so that JSON keeps it exactly).
    pub scale: f64,
    /// Tokens wanted, 256 bytes and the rest merges; fewer come out when the data has no more
    /// pairs. Also the widest range of coefficients allowed.
    pub vocab_size: u32,
    /// A pair seen less often than this is not merged.
    pub min_frequency: u64,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self { scale: 10.0, vocab_size: 1024, min_frequency: 2 }
    }
}

/// Code points from here to U+DFFF are surrogates.
const FIRST_SURROGATE: u32 = 0xd800;

pub(super) fn fit<'a>(
    chunks: impl IntoIterator<Item = &'a [f64]>,
    horizon: usize,
    dims: usize,
    options: &FitOptions,
) -> Result<FastTokenizer, FitError> {
    let needed = check_options(horizon, dims, options)?;
    let dct = Dct::new(horizon);
    let mut spectrum = vec![0.0; needed];
    let mut coefficients: Vec<i32> = Vec::new();
    for (chunk, actions) in chunks.into_iter().enumerate() {
        if actions.len() != needed {
            return Err(FitError::WrongShape { chunk, needed, got: actions.len() });
        }
        if let Some(at) = actions.iter().position(|value| !value.is_finite()) {
            return Err(FitError::NotFinite { chunk, row: at / dims, dim: at % dims });
        }
        dct.forward(dims, actions, &mut spectrum);
        for value in &spectrum {
            let value = (value * options.scale).round_ties_even();
            if value.is_nan() || value.abs() > f64::from(FIRST_SURROGATE) {
                return Err(FitError::CoefficientTooLarge { chunk, value });
            }
            coefficients.push(value as i32);
        }
    }
    let (Some(&min), Some(&max)) = (coefficients.iter().min(), coefficients.iter().max()) else {
        return Err(FitError::NoData);
    };
    let limit = options.vocab_size.min(FIRST_SURROGATE - 1);
    if max.abs_diff(min) > limit {
        return Err(FitError::RangeTooWide { min, max, limit });
    }

    let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut codes = Vec::with_capacity(needed);
    for chunk in coefficients.chunks_exact(needed) {
        codes.clear();
        codes.extend(chunk.iter().map(|coefficient| coefficient.abs_diff(min)));
        for piece in pieces(&codes) {
            let text: String = codes[piece].iter().copied().filter_map(char::from_u32).collect();
            *counts.entry(text.into_bytes()).or_default() += 1;
        }
    }
    let bpe = train::train(&counts, options.vocab_size as usize, options.min_frequency);
    let tables = Tables {
        bpe,
        scale: options.scale,
        min_token: min,
        max_token: max,
        is_max_declared: true,
        horizon: Some(horizon),
        dims: Some(dims),
    };
    Ok(FastTokenizer { tables: Arc::new(tables) })
}

/// Checks the options; returns `H·D`.
fn check_options(horizon: usize, dims: usize, options: &FitOptions) -> Result<usize, FitError> {
    let refuse = |option, value, remedy| Err(FitError::Option { option, value, remedy });
    if !(options.scale.is_normal() && options.scale > 0.0) {
        return refuse("scale", options.scale, "it must be a finite number above 0 (usually 10)");
    }
    if options.vocab_size < 256 {
        return refuse("vocab_size", f64::from(options.vocab_size), "it must hold at least the 256 bytes");
    }
    if options.vocab_size > 1 << 24 {
        return refuse("vocab_size", f64::from(options.vocab_size), "it must be at most 16777216");
    }
    match horizon.checked_mul(dims) {
        Some(needed) if (1..=MAX_VALUES).contains(&needed) => Ok(needed),
        _ => refuse("horizon · dims", horizon as f64 * dims as f64, "it must be between 1 and 65536"),
    }
}
