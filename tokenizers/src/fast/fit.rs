//! Fitting: range of the coefficients, then merges over their text.

use super::bpe::Bpe;
use super::bytes::byte_to_char;
use super::dct::Dct;
use super::pretokenize::pieces;
use super::train::{Goal, train};
use super::{FastTokenizer, FitError, Parts, Tables, is_shape};
use std::collections::{BTreeMap, BTreeSet};
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

/// Which tokens training begins with.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) enum Alphabet {
    /// The 256 bytes.
    Bytes,
    /// What the released processor's `fit` gives its trainer, and the bytes that the data shows.
    Upstream,
}

/// Upstream's `max_token_length`.
const UPSTREAM_LENGTH: usize = 10_000;

/// Code points from here to U+DFFF are surrogates.
const FIRST_SURROGATE: u32 = 0xd800;

pub(super) fn fit<'a>(
    chunks: impl IntoIterator<Item = &'a [f64]>,
    horizon: usize,
    dims: usize,
    options: &FitOptions,
    alphabet: Alphabet,
) -> Result<FastTokenizer, FitError> {
    let needed = check_options(horizon, dims, options)?;
    let dct = Dct::new(horizon, options.scale);
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
    let goal = Goal {
        alphabet: match alphabet {
            Alphabet::Bytes => Bpe::alphabet(),
            Alphabet::Upstream => upstream_alphabet(&counts, max.abs_diff(min)),
        },
        vocab_size: options.vocab_size as usize,
        min_frequency: options.min_frequency,
        length_limit: if alphabet == Alphabet::Upstream { UPSTREAM_LENGTH } else { usize::MAX },
    };
    let bpe = train(&counts, goal);
    if let Some((byte, code)) = bpe.first_missing(max.abs_diff(min)) {
        return Err(FitError::Unspellable { byte, coefficient: min + code as i32 });
    }
    let mut limits = vec![0; needed];
    for chunk in coefficients.chunks_exact(needed) {
        for (limit, coefficient) in limits.iter_mut().zip(chunk) {
            *limit = coefficient.unsigned_abs().max(*limit);
        }
    }
    let parts = Parts {
        bpe,
        scale: options.scale,
        min_token: min,
        max_token: max,
        is_max_declared: true,
        horizon: Some(horizon),
        dims: Some(dims),
        limits: Some(limits),
    };
    Ok(FastTokenizer { tables: Arc::new(Tables::new(parts)) })
}

/// `chr(0) ..= chr(last)` as they are and the printable characters of the bytes in the data, in order of code points.
fn upstream_alphabet(pieces: &BTreeMap<Vec<u8>, u64>, last: u32) -> Vec<String> {
    let seen = pieces.keys().flatten().map(|&byte| byte_to_char(byte));
    let characters: BTreeSet<char> = (0..=last).filter_map(char::from_u32).chain(seen).collect();
    characters.into_iter().map(String::from).collect()
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
    if is_shape(horizon, dims) {
        Ok(horizon * dims)
    } else {
        let remedy = "it must be between 1 and 65536, with at most 1024 rows";
        refuse("horizon · dims", horizon as f64 * dims as f64, remedy)
    }
}
