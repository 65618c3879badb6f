//! FAST: action chunks as a short sequence of tokens (Pertsch et al., "FAST: Efficient Action
//! Tokenization for Vision-Language-Action Models", arXiv 2501.09747, section "FAST: Efficient
//! Action Tokenization via Compression").
//!
//! ```text
//! chunk [H, D] ─ DCT-II over time ─ × scale, round half to even ─ coefficients [H, D] (i32)
//!       ─ row-major: all D values of frequency 0, then of frequency 1, … ─ − min_token
//!       ─ one Unicode character each ─ GPT-2 split ─ byte-level BPE ─ ids
//! ```
//! Rounding is the only lossy step; each coefficient comes back within half a step, `0.5 / scale`.
//! Decoding runs backwards and checks everything: see [`DecodeError`](crate::DecodeError).
//!
//! **Speed.** Each token's coefficients are known from loading, so decoding adds one half column of
//! cosines for each coefficient that is not zero; encoding takes the longest token that fits, see
//! `matcher.rs`. `README.md` of the crate has the measurements.
//!
//! **Range.** A fitted tokenizer records the largest coefficient of its data (`max_token` in
//! `processor_config.json`); encoding and decoding refuse more. A file without `max_token` (FAST+
//! and every other published one) gets the largest coefficient its vocabulary can spell, which for
//! a full byte alphabet is all of Unicode. Set [`FastCodec::with_action_margin`] for those. Below
//! `min_token` encoding clamps, by FAST's definition, and [`Encoded`](crate::Encoded) counts it.
//!
//! **Reproducibility.** Ids depend on `cos` of the platform's mathematics library only where a
//! scaled coefficient lies within about 1e-13 of a half. They do not depend on the processor: where
//! a rounding is close, the plain sum in the order of time decides.

mod bpe;
mod bytes;
mod codec;
mod dct;
mod error;
mod file;
mod fit;
mod matcher;
mod modes;
mod pairs;
mod pretokenize;
mod runs;
mod simd;
mod train;
mod unicode;
#[cfg(test)]
mod vectors;

pub(crate) use bytes::byte_to_char;
pub use codec::FastCodec;
pub use error::{CodecError, FitError, LoadError, SaveError};
pub use fit::FitOptions;
pub use modes::{Anytime, Repair, Repaired};

use bpe::Bpe;
use matcher::Matcher;
use runs::Runs;
use std::path::Path;
use std::sync::Arc;

/// Most values of one chunk (`H·D`) a codec accepts.
const MAX_VALUES: usize = 1 << 16;

/// Most rows of one chunk: the cosine table grows with the square.
const MAX_HORIZON: usize = 1 << 10;

/// Whether a chunk may have this shape.
fn is_shape(horizon: usize, dims: usize) -> bool {
    let values = horizon.checked_mul(dims);
    horizon <= MAX_HORIZON && values.is_some_and(|values| (1..=MAX_VALUES).contains(&values))
}

/// A FAST tokenizer: vocabulary, merges, scale and coefficient range. Cheap to clone.
///
/// It has no chunk shape and no working memory; [`codec`](Self::codec) makes the object that
/// encodes and decodes chunks of one shape.
#[derive(Clone, PartialEq, Debug)]
pub struct FastTokenizer {
    tables: Arc<Tables>,
}

/// Everything the two files say, checked.
#[derive(Clone, PartialEq, Debug)]
struct Tables {
    bpe: Bpe,
    scale: f64,
    min_token: i32,
    max_token: i32,
    is_max_declared: bool,
    horizon: Option<usize>,
    dims: Option<usize>,
    /// Largest |coefficient| by frequency and dimension, `[H, D]` of the declared shape.
    limits: Option<Vec<u32>>,
    runs: Runs,
    /// Absent where the merges are not as training makes them.
    matcher: Option<Matcher>,
}

/// What [`Tables`] are made of.
struct Parts {
    bpe: Bpe,
    scale: f64,
    min_token: i32,
    max_token: i32,
    is_max_declared: bool,
    horizon: Option<usize>,
    dims: Option<usize>,
    limits: Option<Vec<u32>>,
}

impl Tables {
    fn new(parts: Parts) -> Self {
        let Parts { bpe, scale, min_token, max_token, is_max_declared, horizon, dims, limits } = parts;
        let runs = Runs::new(&bpe, min_token, max_token);
        // A code point no text has stands for "zero" where zero is below the range.
        let matcher = bpe.matcher(u32::try_from(-min_token).unwrap_or(u32::MAX));
        Self { bpe, scale, min_token, max_token, is_max_declared, horizon, dims, limits, runs, matcher }
    }
}

impl FastTokenizer {
    /// Loads `tokenizer.json` and `processor_config.json` from a directory.
    ///
    /// # Errors
    /// Unreadable files, and all of [`from_bytes`](Self::from_bytes).
    pub fn from_dir(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        file::read_dir(path.as_ref())
    }

    /// Loads the same two files from memory; `label` stands before their names in errors.
    ///
    /// # Errors
    /// [`LoadError`] where the files would give other ids than the tokenizer they were saved from
    /// (unknown BPE options, another splitter, added tokens), contradict themselves, or carry a
    /// scale, range or shape that cannot be used; [`LoadError::MissingByte`] where a coefficient in
    /// range has no spelling. Bytes that no coefficient in range needs may be missing, see
    /// [`missing_bytes`](Self::missing_bytes).
    pub fn from_bytes(tokenizer_json: &[u8], processor_config: &[u8], label: &str) -> Result<Self, LoadError> {
        file::parse(tokenizer_json, processor_config, label)
    }

    /// Fits a tokenizer on normalised chunks, each `[H, D]` row-major (H = `horizon`, D = `dims`).
    ///
    /// The same chunks in any order give the same tokenizer, bit for bit. Its alphabet holds all
    /// 256 bytes, so nothing can be dropped; upstream's holds only what the data showed.
    ///
    /// # Errors
    /// See [`FitError`].
    pub fn fit<'a>(
        chunks: impl IntoIterator<Item = &'a [f64]>,
        horizon: usize,
        dims: usize,
        options: &FitOptions,
    ) -> Result<Self, FitError> {
        fit::fit(chunks, horizon, dims, options, fit::Alphabet::Bytes)
    }

    /// Fits as the released processor's `fit` does: the same vocabulary and merges, id by id.
    ///
    /// Its alphabet is `chr(0) ..= chr(max − min)` as they are, beside the printable characters of the bytes that the
    /// data showed. So a byte the data did not show has no token, and a coefficient in range may have no spelling.
    /// [`fit`](Self::fit) has neither gap; use this one to train what upstream will read, or to compare.
    ///
    /// # Errors
    /// See [`FitError`]; where the gaps leave a coefficient in range without spelling,
    /// [`FitError::Unspellable`] says which, as loading the files would.
    pub fn fit_upstream<'a>(
        chunks: impl IntoIterator<Item = &'a [f64]>,
        horizon: usize,
        dims: usize,
        options: &FitOptions,
    ) -> Result<Self, FitError> {
        fit::fit(chunks, horizon, dims, options, fit::Alphabet::Upstream)
    }

    /// Writes `tokenizer.json` (which Hugging Face `tokenizers` loads) and `processor_config.json`
    /// into `dir`, which is made if missing.
    ///
    /// What is written has been read back first and equals `self`; the bytes are a function of the
    /// tokenizer alone.
    ///
    /// # Errors
    /// See [`SaveError`].
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), SaveError> {
        file::save(self, dir.as_ref())
    }

    /// The two files in memory: `tokenizer.json`, `processor_config.json`.
    ///
    /// # Errors
    /// See [`SaveError`].
    pub fn to_bytes(&self) -> Result<(Vec<u8>, Vec<u8>), SaveError> {
        file::to_bytes(self)
    }

    /// A codec for chunks of `horizon` rows of `dims` values.
    ///
    /// # Errors
    /// [`CodecError`]: an empty or absurd shape, or another one than the tokenizer declares.
    pub fn codec(&self, horizon: usize, dims: usize) -> Result<FastCodec, CodecError> {
        FastCodec::new(Arc::clone(&self.tables), horizon, dims)
    }

    /// Number of ids; valid ones are `0..vocab_size`.
    pub fn vocab_size(&self) -> u32 {
        self.tables.bpe.len() as u32
    }

    /// Factor on the DCT coefficients before rounding.
    pub fn scale(&self) -> f64 {
        self.tables.scale
    }

    /// Smallest quantised coefficient; smaller ones are clamped to it.
    pub fn min_token(&self) -> i32 {
        self.tables.min_token
    }

    /// Largest quantised coefficient that encoding and decoding accept.
    pub fn max_token(&self) -> i32 {
        self.tables.max_token
    }

    /// Whether the files name [`max_token`](Self::max_token), or it is only what the vocabulary
    /// can spell.
    pub fn is_max_token_declared(&self) -> bool {
        self.tables.is_max_declared
    }

    /// Largest |quantised coefficient| of each frequency and dimension in the data the tokenizer was fitted on,
    /// `[H, D]` row-major, if the files declare them. They are what bounds the error of an
    /// [anytime](FastCodec::finish_anytime) chunk; checked decoding does not use them.
    pub fn coefficient_limits(&self) -> Option<&[u32]> {
        self.tables.limits.as_deref()
    }

    /// H the files declare, if they do.
    pub fn horizon(&self) -> Option<usize> {
        self.tables.horizon
    }

    /// D the files declare, if they do.
    pub fn dims(&self) -> Option<usize> {
        self.tables.dims
    }

    /// Bytes without a token, ascending. Empty for a full alphabet. No coefficient in range needs
    /// one of them: loading checks that.
    pub fn missing_bytes(&self) -> Vec<u8> {
        (0..=255u8).filter(|&byte| self.tables.bpe.id_of_byte(byte).is_none()).collect()
    }
}
