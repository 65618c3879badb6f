//! Decoding what is not a whole chunk: a prefix with its error bound, and, for comparison only, what others make of it.

use super::FastCodec;
use super::bytes::Utf8Reader;
use super::simd::Term;
use crate::DecodeError;

/// What an anytime chunk is worth.
///
/// Both errors are in normalised units and hold against the chunk that was encoded, provided that nothing was clamped
/// and that every coefficient not seen is within its limit: the tokenizer's
/// [`coefficient_limits`](super::FastTokenizer::coefficient_limits), those of
/// [`FastCodec::with_coefficient_limits`], or else its range, which checked decoding enforces.
#[derive(Copy, Clone, PartialEq, Debug)]
#[must_use]
pub struct Anytime {
    /// Whole frequencies decoded, lowest first, 0..=H; the rest is taken as zero.
    pub frequencies: usize,
    /// Share of the coefficients used, `frequencies / H`.
    pub share: f64,
    /// Largest possible error of an action.
    pub error_bound: f64,
    /// Largest possible root mean square error over time of one dimension.
    pub rms_bound: f64,
    /// Why the ids ended: [`DecodeError::UnknownId`] (such as an end token) or surplus coefficients
    /// ([`DecodeError::WrongLength`]); both are left out. `None` when the ids themselves ended.
    pub ended_by: Option<DecodeError>,
}

/// Whose treatment of damaged ids to repeat. For comparison only: both invent coefficients.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum Repair {
    /// The released processor (and openpi): unknown ids vanish, broken bytes become U+FFFD, a wrong number of
    /// coefficients becomes all zeros.
    Upstream,
    /// LeRobot and UniVLA: as upstream, but a wrong number is cut or filled with zeros.
    Relaxed,
}

/// What a [`Repair`] made up. All zero means: the ids were a chunk.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug, Default)]
#[must_use]
pub struct Repaired {
    /// Ids outside the vocabulary, dropped.
    pub dropped_ids: usize,
    /// Broken byte sequences read as the coefficient of U+FFFD.
    pub replaced_characters: usize,
    /// Coefficients missing.
    pub missing: usize,
    /// Coefficients too many.
    pub surplus: usize,
}

impl Repaired {
    /// Whether the number of coefficients was wrong: where [`Repair::Upstream`] answers zeros.
    pub fn is_wrong_length(&self) -> bool {
        self.missing + self.surplus > 0
    }
}

impl FastCodec {
    /// Sets the largest |quantised coefficient| of each frequency and dimension, `[H, D]` row-major: what bounds the
    /// error of anytime chunks. A fitted tokenizer declares its own; for published ones, which declare none, take the
    /// maxima over the policy's training chunks.
    ///
    /// # Errors
    /// [`CodecError::Limits`](super::CodecError::Limits) when the slice is not `[H, D]`.
    pub fn with_coefficient_limits(mut self, limits: &[u32]) -> Result<Self, super::CodecError> {
        let (needed, got) = (self.needed(), limits.len());
        if got != needed {
            return Err(super::CodecError::Limits { needed, got });
        }
        self.bound_errors_by(|at| f64::from(limits[at]));
        Ok(self)
    }

    /// Bounds by the declared limits, else by the range.
    pub(super) fn bound_errors(&mut self) {
        let tables = std::sync::Arc::clone(&self.tables);
        let range = tables.min_token.unsigned_abs().max(tables.max_token.unsigned_abs());
        self.bound_errors_by(|at| f64::from(tables.limits.as_ref().map_or(range, |limits| limits[at])));
    }

    /// `limit` gives the largest |coefficient| M by index.
    ///
    /// A coefficient that was read is off by at most half a step of `1 / scale`, one that was not by at most
    /// `(M + ½) / scale`. The error at a time is the sum of these against the |cosines| of that time, and by Parseval
    /// the squares add up in the root mean square.
    fn bound_errors_by(&mut self, limit: impl Fn(usize) -> f64) {
        let (horizon, dims, scale) = (self.horizon, self.dims, self.tables.scale);
        let mut errors = vec![0.0; horizon];
        for dim in 0..dims {
            errors.fill(0.0);
            for frequency in 0..horizon {
                for (time, error) in errors.iter_mut().enumerate() {
                    *error += 0.5 * self.dct.entry(frequency, time).abs() / scale;
                }
            }
            let mut squares = 0.25 * horizon as f64;
            for frequencies in (0..=horizon).rev() {
                if frequencies < horizon {
                    let limit = limit(frequencies * dims + dim);
                    for (time, error) in errors.iter_mut().enumerate() {
                        *error += limit * self.dct.entry(frequencies, time).abs() / scale;
                    }
                    squares += (limit + 0.5) * (limit + 0.5) - 0.25;
                }
                // What rounding in these sums and in decoding can add is far below this.
                let slack = 1.0 + 1e-9;
                self.bounds[frequencies * dims + dim] = slack * errors.iter().copied().fold(0.0, f64::max);
                self.rms_bounds[frequencies * dims + dim] = slack * (squares / horizon as f64).sqrt() / scale;
            }
        }
    }

    /// Largest possible error of dimension `dim` when `frequencies` of the H are decoded, as in
    /// [`Anytime::error_bound`], which takes the worst dimension. `None` outside the shape.
    pub fn error_bound(&self, frequencies: usize, dim: usize) -> Option<f64> {
        if dim >= self.dims { None } else { self.bounds.get(frequencies * self.dims + dim).copied() }
    }

    /// Writes what the ids pushed so far say: the whole frequencies, with the higher ones taken as zero, which is a
    /// smooth approximation of the chunk. Pushing may go on afterwards.
    ///
    /// `min_share` is the least share of frequencies accepted, 0..=1. It has no default: a low-pass chunk of too few
    /// frequencies is a motion nobody meant, and with none it is the middle of every range. Only 0 accepts that.
    ///
    /// # Errors
    /// A broken character, a coefficient or an action out of range, and [`DecodeError::TooFew`] below `min_share` (or
    /// when that is no share). An unknown id and surplus coefficients only end the prefix. `out` is written only on `Ok`.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    pub fn finish_anytime(&mut self, out: &mut [f64], min_share: f64) -> Result<Anytime, DecodeError> {
        let (needed, got) = (self.needed(), self.seen);
        let surplus = (got > needed).then_some(DecodeError::WrongLength { needed, got });
        let ended_by = match self.failed {
            None => surplus,
            Some(end @ (DecodeError::UnknownId { .. } | DecodeError::WrongLength { .. })) => Some(end),
            Some(error) => return Err(error),
        };
        if let Some(error) = self.too_large {
            return Err(error);
        }
        let frequencies = (got / self.dims).min(self.horizon);
        let share = frequencies as f64 / self.horizon as f64;
        if !(share >= min_share && (0.0..=1.0).contains(&min_share)) {
            return Err(DecodeError::TooFew { frequencies, horizon: self.horizon, min_share });
        }
        self.synthesise(frequencies, out)?;
        let worst = |bounds: &[f64]| bounds[frequencies * self.dims..][..self.dims].iter().copied().fold(0.0, f64::max);
        let (error_bound, rms_bound) = (worst(&self.bounds), worst(&self.rms_bounds));
        Ok(Anytime { frequencies, share, error_bound, rms_bound, ended_by })
    }

    /// Resets, then pushes `ids` up to the first unknown one and does [`finish_anytime`](Self::finish_anytime).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    pub fn decode_anytime(&mut self, ids: &[u32], out: &mut [f64], min_share: f64) -> Result<Anytime, DecodeError> {
        self.reset();
        self.failed = ids.iter().try_for_each(|&id| self.read(id)).err();
        self.finish_anytime(out, min_share)
    }

    /// Decodes any ids as other implementations do, invented coefficients and all: to compare with them, never to
    /// move an arm. [`Repaired`] says what was made up; values can lie far outside the tokenizer's range, and
    /// are not finite where the scale is absurdly small.
    ///
    /// # Errors
    /// Only [`DecodeError::WrongShape`].
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    pub fn decode_repaired(&mut self, ids: &[u32], repair: Repair, out: &mut [f64]) -> Result<Repaired, DecodeError> {
        let (needed, got) = (self.needed(), out.len());
        if got != needed {
            return Err(DecodeError::WrongShape { needed, got });
        }
        self.reset();
        let mut repaired = Repaired::default();
        for &id in ids {
            let Some(length) = self.tables.bpe.bytes_of(id).map(<[u8]>::len) else {
                repaired.dropped_ids += 1;
                continue;
            };
            for at in 0..length {
                let byte = self.tables.bpe.bytes_of(id).unwrap_or_default()[at];
                self.read_lossily(byte, &mut repaired);
            }
        }
        if self.reader.is_dangling() {
            self.replace(&mut repaired);
        }
        repaired.missing = needed.saturating_sub(self.seen);
        repaired.surplus = self.seen.saturating_sub(needed);
        if repair == Repair::Upstream && repaired.is_wrong_length() {
            self.reset();
        }
        self.sum_terms(self.horizon);
        self.write_actions(out);
        // What was made up must not be finished as a checked chunk.
        self.reset();
        Ok(repaired)
    }

    /// As `String::from_utf8_lossy`: the longest beginning of a character that goes wrong is replaced as one.
    fn read_lossily(&mut self, byte: u8, repaired: &mut Repaired) {
        let was_inside = self.reader.is_dangling();
        match self.reader.push(byte) {
            Ok(None) => {}
            Ok(Some(code)) => self.take(code),
            Err(_) => {
                self.replace(repaired);
                // The byte that did not continue may itself begin a character.
                if was_inside {
                    self.read_lossily(byte, repaired);
                }
            }
        }
    }

    fn replace(&mut self, repaired: &mut Repaired) {
        self.reader = Utf8Reader::default();
        repaired.replaced_characters += 1;
        self.take(u32::from(char::REPLACEMENT_CHARACTER));
    }
}

// A term is copied for every coefficient that is not zero.
const _: () = assert!(size_of::<Term>() == 16);
