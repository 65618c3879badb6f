//! Action tokens and prompt text.
//!
//! A vision-language-action policy that speaks in tokens needs two translations: the prompt into
//! ids ([`PromptTokenizer`], [`fast_prefix`], [`discretise_state`]), and the generated ids into an
//! action chunk `[H, D]` ([`ActionTokenizer`]). The chunk is in *normalised* units; turning those
//! into joint positions is the policy's business.
//!
//! The action tokenizer here is **FAST** (Pertsch et al., arXiv 2501.09747): a discrete cosine
//! transform over time, rounding, and byte-pair encoding; see [`FastTokenizer`]. It loads the
//! published files (FAST+ and tokenizers fitted by the official processor) and fits new ones.
//!
//! ```
//! use endplate_tokenizers::{FastTokenizer, FitOptions, Progress};
//!
//! // Two demonstrations of 8 rows of 2 joints, normalised.
//! let chunks: Vec<Vec<f64>> =
//!     (0..2).map(|n| (0..16).map(|i| (f64::from(i / 2) * 0.1 + f64::from(n)).sin()).collect()).collect();
//! let tokenizer = FastTokenizer::fit(chunks.iter().map(Vec::as_slice), 8, 2, &FitOptions::default())?;
//!
//! let mut codec = tokenizer.codec(8, 2)?;
//! let mut ids = Vec::new();
//! codec.encode(&chunks[0], &mut ids)?;
//!
//! // As a model generates: the coefficients say when to stop, not an end token.
//! let mut out = [0.0; 16];
//! codec.reset();
//! for &id in &ids {
//!     if codec.push(id)? == Progress::Complete {
//!         codec.finish(&mut out)?;
//!     }
//! }
//! assert!(out.iter().zip(&chunks[0]).all(|(a, b)| (a - b).abs() < 0.2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Checked, never repaired
//! The official decoder drops unknown ids, replaces broken characters, and answers a wrong length
//! with an all-zero chunk, which is the middle of every joint's range: a jump. Decoding here is a
//! total function into `Result` with a `Copy` error ([`DecodeError`]); the old chunk goes on
//! playing. Encoding refuses what it could not decode again ([`EncodeError`]).
//!
//! # Real-time
//! A [`FastCodec`] owns its working memory: decoding (whole or id by id) never allocates, blocks
//! or panics. Loading, fitting and prompt encoding allocate and belong before activation.

#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod action;
mod bins;
mod codebook;
pub mod fast;
mod normalise;
mod prompt;
mod text;

pub use action::{ActionTokenizer, DecodeError, EncodeError, Encoded, Progress};
pub use bins::{BinCodec, DIGITS, DigitCodec, ShapeError};
pub use codebook::{CodebookError, Fsq, FsqCodec, VqCodec, univla};
pub use fast::{
    Anytime, CodecError, FastCodec, FastTokenizer, FitError, FitOptions, LoadError, Repair, Repaired, SaveError,
};
pub use normalise::{NormaliseError, QuantileForm, QuantileNormaliser};
pub use prompt::{
    ACTION_END, ACTION_PREFIX, AnswerError, PromptForm, QwenMap, action_from_paligemma, discretise_state,
    discretise_state_clamped, extract_action_ids, fast_prefix, openvla_prompt, paligemma_from_action, pi05_prompt,
};
pub use text::{PromptError, PromptTokenizer};
