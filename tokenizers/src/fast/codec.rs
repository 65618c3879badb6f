//! Encoding and decoding chunks of one shape, with working memory allocated once.

use super::bpe::Scratch;
use super::bytes::Utf8Reader;
use super::dct::Dct;
use super::simd::{Build, LANES, Term};
use super::{CodecError, MAX_HORIZON, MAX_VALUES, Tables, is_shape};
use crate::{ActionTokenizer, DecodeError, EncodeError, Encoded, Progress};
use std::sync::Arc;

/// A FAST tokenizer bound to chunks of one shape `[H, D]`.
///
/// The methods are those of [`ActionTokenizer`], where their contract stands, and the decode modes beside the checked
/// one: [`finish_anytime`](Self::finish_anytime) and, for comparison only, [`decode_repaired`](Self::decode_repaired).
///
/// # Real-time
/// After construction nothing allocates, blocks or panics, except that
/// [`encode`](Self::encode) grows the caller's `ids` when they are too small. Decoding costs one look-up per id and
/// `H / 2` multiply-adds for each coefficient that is not zero, so at most `H²·D / 2`.
#[derive(Clone, Debug)]
pub struct FastCodec {
    pub(super) tables: Arc<Tables>,
    pub(super) dct: Dct,
    build: Build,
    pub(super) horizon: usize,
    pub(super) dims: usize,
    /// 1 + margin.
    action_limit: f64,
    /// Largest error of an anytime chunk, `[frequencies decoded 0..=H, D]`, and its root mean square.
    pub(super) bounds: Vec<f64>,
    pub(super) rms_bounds: Vec<f64>,

    /// Where each coefficient acts; its value is unused.
    slots: Vec<Term>,
    /// The coefficients read that are not zero, in order; the first `filled` are valid.
    terms: Vec<Term>,
    filled: usize,
    /// Whole coefficients read, also those beyond `H·D`.
    pub(super) seen: usize,
    pub(super) reader: Utf8Reader,
    /// First coefficient above the range, reported after the length.
    pub(super) too_large: Option<DecodeError>,
    /// Why the pushed ids are no chunk any more.
    pub(super) failed: Option<DecodeError>,
    /// `[D, even and odd, lanes]`.
    sums: Vec<f64>,

    /// Width of a padded row.
    columns: usize,
    folded: Vec<f64>,
    spectrum: Vec<f64>,
    quantised: Vec<i32>,
    pub(super) codes: Vec<u32>,
    scratch: Scratch,
}

impl FastCodec {
    pub(super) fn new(tables: Arc<Tables>, horizon: usize, dims: usize) -> Result<Self, CodecError> {
        if !is_shape(horizon, dims) {
            return Err(CodecError::Shape { horizon, dims, rows: MAX_HORIZON, limit: MAX_VALUES });
        }
        if tables.horizon.is_some_and(|made| made != horizon) || tables.dims.is_some_and(|made| made != dims) {
            let (made_horizon, made_dims) = (tables.horizon, tables.dims);
            return Err(CodecError::OtherShape { horizon, dims, made_horizon, made_dims });
        }
        let values = horizon * dims;
        let dct = Dct::new(horizon, tables.scale);
        let lanes = dct.lanes();
        let slots = (0..values)
            .map(|at| {
                let (frequency, dim) = (at / dims, at % dims);
                let sum = (2 * dim + frequency % 2) * lanes;
                Term { basis: (frequency * lanes) as u32, sum: sum as u32, value: 0.0 }
            })
            .collect();
        let columns = dims.next_multiple_of(LANES);
        let mut codec = Self {
            build: Build::detect(),
            horizon,
            dims,
            action_limit: f64::MAX,
            bounds: vec![0.0; (horizon + 1) * dims],
            rms_bounds: vec![0.0; (horizon + 1) * dims],
            slots,
            terms: vec![Term::default(); values],
            filled: 0,
            seen: 0,
            reader: Utf8Reader::default(),
            too_large: None,
            failed: None,
            sums: vec![0.0; dims * 2 * lanes],
            columns,
            folded: vec![0.0; 2 * dct.half() * columns],
            spectrum: vec![0.0; horizon * columns],
            quantised: vec![0; horizon * columns],
            codes: Vec::with_capacity(values),
            scratch: Scratch::new(values),
            dct,
            tables,
        };
        codec.bound_errors();
        Ok(codec)
    }

    /// Makes decoding refuse a chunk with an |action| above `1 + margin` (normalised; at least 0).
    /// Without it only non-finite actions are refused.
    ///
    /// # Errors
    /// [`CodecError::Margin`].
    pub fn with_action_margin(mut self, margin: f64) -> Result<Self, CodecError> {
        if !(margin.is_finite() && margin >= 0.0) {
            return Err(CodecError::Margin { margin });
        }
        self.action_limit = 1.0 + margin;
        Ok(self)
    }

    /// H, rows of a chunk.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    /// D, values of a row.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Number of ids; valid ones are `0..vocab_size`.
    pub fn vocab_size(&self) -> u32 {
        self.tables.bpe.len() as u32
    }

    /// H·D.
    pub(super) fn needed(&self) -> usize {
        self.slots.len()
    }

    /// Encodes `chunk` (`[H, D]` row-major, normalised) into `ids`; see [`ActionTokenizer::encode`].
    ///
    /// # Errors
    /// See [`EncodeError`]; `ids` is then empty.
    pub fn encode(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError> {
        ids.clear();
        let result = self.encode_checked(chunk, ids);
        if result.is_err() {
            ids.clear();
        }
        result
    }

    fn encode_checked(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError> {
        let (needed, got) = (self.needed(), chunk.len());
        if got != needed {
            return Err(EncodeError::WrongShape { needed, got });
        }
        let largest = self.build.fold(self.dims, chunk, self.columns, &mut self.folded);
        let largest = f64::from_bits(largest);
        if !largest.is_finite() {
            let at = chunk.iter().position(|value| !value.is_finite()).unwrap_or(0);
            return Err(EncodeError::NotFinite { row: at / self.dims, dim: at % self.dims });
        }
        self.build.transform(&self.dct, &self.folded, self.columns, &mut self.spectrum);
        let clamped = self.quantise(chunk, largest)?;
        self.tables.bpe.encode(self.tables.matcher.as_ref(), &self.codes, &mut self.scratch, ids)?;
        if self.tables.matcher.is_none() {
            self.check_reversible(ids)?;
        }
        Ok(Encoded { clamped })
    }

    /// Spectrum to code points; returns how many were clamped.
    fn quantise(&mut self, chunk: &[f64], largest: f64) -> Result<usize, EncodeError> {
        let Tables { scale, min_token: min, max_token: max, .. } = *self.tables;
        // More than two orders of a sum of H products can differ, each at most `largest`.
        let terms = self.horizon as f64;
        let margin = (4.0 * f64::EPSILON * terms * terms * largest * scale).max(1e-12);
        let seen = self.build.quantise(&self.spectrum, scale, margin, &mut self.quantised);
        let reaches_surrogates = seen.max.abs_diff(min) >= 0xd800;
        if seen.is_doubtful || seen.min < min || seen.max > max || reaches_surrogates {
            return self.quantise_slowly(chunk, margin);
        }
        self.build.pack(&self.quantised, self.columns, self.dims, min, &mut self.codes);
        Ok(0)
    }

    /// One coefficient after the other, by the plain sum where a rounding is close.
    #[cold]
    fn quantise_slowly(&mut self, chunk: &[f64], margin: f64) -> Result<usize, EncodeError> {
        let Tables { scale, min_token: min, max_token: max, .. } = *self.tables;
        let mut clamped = 0;
        self.codes.clear();
        for at in 0..self.needed() {
            let (frequency, dim) = (at / self.dims, at % self.dims);
            let mut scaled = self.spectrum[frequency * self.columns + dim] * scale;
            let is_clear = (scaled - scaled.round_ties_even()).abs() < 0.5 - margin;
            if !is_clear {
                scaled = self.dct.coefficient(frequency, dim, self.dims, chunk) * scale;
            }
            let value = scaled.round_ties_even();
            if !(value.is_finite() && value <= f64::from(max)) {
                return Err(EncodeError::CoefficientOutOfRange { frequency, dim, value, max });
            }
            let coefficient = if value < f64::from(min) {
                clamped += 1;
                min
            } else {
                value as i32
            };
            let code = coefficient.abs_diff(min);
            if char::from_u32(code).is_none() {
                return Err(EncodeError::Surrogate { frequency, dim, coefficient, code });
            }
            self.codes.push(code);
        }
        Ok(clamped)
    }

    /// Reads the ids back: every coefficient, in order, and nothing else. The linear encoder needs no such check:
    /// its tables were built from the tokens' own bytes.
    fn check_reversible(&self, ids: &[u32]) -> Result<(), EncodeError> {
        let mut reader = Utf8Reader::default();
        let mut index = 0;
        for &id in ids {
            for &byte in self.tables.bpe.bytes_of(id).unwrap_or_default() {
                match reader.push(byte) {
                    Ok(None) => {}
                    Ok(code) if code == self.codes.get(index).copied() => index += 1,
                    _ => return Err(EncodeError::NotReversible { index }),
                }
            }
        }
        if index != self.codes.len() || reader.is_dangling() {
            return Err(EncodeError::NotReversible { index });
        }
        Ok(())
    }

    /// Decodes a whole sequence into `out` (`[H, D]` row-major, normalised); see
    /// [`ActionTokenizer::decode`].
    ///
    /// # Errors
    /// See [`DecodeError`]; `out` is then untouched.
    pub fn decode(&mut self, ids: &[u32], out: &mut [f64]) -> Result<(), DecodeError> {
        self.reset();
        let result = self.read_all(ids).and_then(|()| self.synthesise(self.horizon, out));
        self.failed = result.err();
        result
    }

    fn read_all(&mut self, ids: &[u32]) -> Result<(), DecodeError> {
        for &id in ids {
            self.read(id)?;
        }
        if self.reader.is_dangling() {
            return Err(DecodeError::InvalidUtf8 { coefficients: self.seen });
        }
        let (needed, got) = (self.needed(), self.seen);
        if got != needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        self.too_large.map_or(Ok(()), Err)
    }

    /// Forgets what was pushed.
    pub fn reset(&mut self) {
        self.seen = 0;
        self.filled = 0;
        self.reader = Utf8Reader::default();
        self.too_large = None;
        self.failed = None;
    }

    /// Takes the next generated id; see [`ActionTokenizer::push`].
    ///
    /// # Errors
    /// See [`DecodeError`]; it stays until [`reset`](Self::reset).
    pub fn push(&mut self, id: u32) -> Result<Progress, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.advance(id);
        self.failed = result.err();
        result
    }

    fn advance(&mut self, id: u32) -> Result<Progress, DecodeError> {
        self.read(id)?;
        let needed = self.needed();
        // A begun coefficient counts here: none may begin after the last.
        let got = self.seen + usize::from(self.reader.is_dangling());
        if got > needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        if let Some(error) = self.too_large.or_else(|| self.begun_too_large()) {
            return Err(error);
        }
        if self.seen == needed { Ok(Progress::Complete) } else { Ok(Progress::More { coefficients: self.seen }) }
    }

    /// The begun coefficient can only end above the range: with the smallest value it could take.
    fn begun_too_large(&self) -> Option<DecodeError> {
        let Tables { min_token, max_token, .. } = *self.tables;
        let coefficient = min_token + self.reader.smallest_end()? as i32;
        (coefficient > max_token).then_some(DecodeError::CoefficientOutOfRange {
            frequency: self.seen / self.dims,
            dim: self.seen % self.dims,
            coefficient,
            max: max_token,
        })
    }

    /// Whether [`push`](Self::push) would take `id`: a known id that breaks no character, leaves the coefficient
    /// range nowhere and begins no coefficient after the last. What constrained decoding asks of each candidate.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    pub fn allows(&self, id: u32) -> bool {
        if self.failed.is_none() && !self.reader.is_dangling() {
            return self.tables.runs.allows(id, self.needed().saturating_sub(self.seen));
        }
        let Some(bytes) = self.tables.bpe.bytes_of(id) else { return false };
        let last = self.tables.max_token.abs_diff(self.tables.min_token);
        let (mut reader, mut seen) = (self.reader, self.seen);
        for &byte in bytes {
            match reader.push(byte) {
                Err(_) => return false,
                Ok(None) => {}
                Ok(Some(code)) if code > last => return false,
                Ok(Some(_)) => seen += 1,
            }
        }
        self.failed.is_none()
            && seen + usize::from(reader.is_dangling()) <= self.needed()
            && reader.smallest_end().is_none_or(|code| code <= last)
    }

    /// [`allows`](Self::allows) of every id at once, for constrained decoding: `mask` is `[V]`, V = `vocab_size`.
    /// Returns how many ids are allowed, which is 0 only after an error or [`Progress::Complete`]: a chunk can be
    /// completed from wherever allowed ids lead.
    ///
    /// # Errors
    /// [`DecodeError::WrongMask`] when `mask` has another length; it is then untouched.
    ///
    /// # Real-time
    /// Does not allocate, block or panic. Between characters one comparison per id; inside one the ids' bytes are read.
    pub fn allowed(&self, mask: &mut [bool]) -> Result<usize, DecodeError> {
        let (needed, got) = (self.tables.bpe.len(), mask.len());
        if got != needed {
            return Err(DecodeError::WrongMask { needed, got });
        }
        if self.failed.is_some() {
            mask.fill(false);
            return Ok(0);
        }
        if !self.reader.is_dangling() {
            return Ok(self.tables.runs.mark_allowed(self.needed().saturating_sub(self.seen), mask));
        }
        let mut allowed = 0;
        for (id, slot) in (0u32..).zip(mask) {
            *slot = self.allows(id);
            allowed += usize::from(*slot);
        }
        Ok(allowed)
    }

    /// Whole coefficients pushed so far.
    pub fn coefficients(&self) -> usize {
        self.seen
    }

    /// Writes the pushed chunk into `out` (`[H, D]` row-major, normalised); see
    /// [`ActionTokenizer::finish`].
    ///
    /// # Errors
    /// See [`DecodeError`]; `out` is then untouched.
    pub fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (needed, got) = (self.needed(), self.seen);
        if got != needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        self.synthesise(self.horizon, out)
    }

    /// Takes the coefficients of one token.
    pub(super) fn read(&mut self, id: u32) -> Result<(), DecodeError> {
        if !self.reader.is_dangling()
            && let Some((count, values)) = self.tables.runs.get(id)
            && let Some(slots) = self.slots.get(self.seen..self.seen + count)
        {
            // Within the terms: each coefficient takes one at most, and `slots` are as many.
            let free = &mut self.terms[self.filled..][..values.len()];
            for (term, &(at, value)) in free.iter_mut().zip(values) {
                *term = Term { value, ..slots[at as usize] };
            }
            self.filled += values.len();
            self.seen += count;
            return Ok(());
        }
        self.read_bytes(id)
    }

    /// The same byte by byte: tokens with parts of characters, and those that overrun or leave the range.
    fn read_bytes(&mut self, id: u32) -> Result<(), DecodeError> {
        let vocabulary = self.vocab_size();
        // Reading and writing `self` at once needs the bytes by index.
        let length = self.tables.bpe.bytes_of(id).ok_or(DecodeError::UnknownId { id, vocabulary })?.len();
        for at in 0..length {
            let byte = self.tables.bpe.bytes_of(id).unwrap_or_default()[at];
            match self.reader.push(byte) {
                Err(_) => return Err(DecodeError::InvalidUtf8 { coefficients: self.seen }),
                Ok(None) => {}
                Ok(Some(code)) => self.take(code),
            }
        }
        Ok(())
    }

    /// Takes one coefficient, whatever its size.
    pub(super) fn take(&mut self, code: u32) {
        let Tables { min_token, max_token: max, .. } = *self.tables;
        if let Some(&Term { basis, sum, .. }) = self.slots.get(self.seen) {
            // Both are below 2²⁵ in size, see `file::check_range`.
            let coefficient = min_token + code as i32;
            if coefficient > max && self.too_large.is_none() {
                let (frequency, dim) = (self.seen / self.dims, self.seen % self.dims);
                self.too_large = Some(DecodeError::CoefficientOutOfRange { frequency, dim, coefficient, max });
            }
            if coefficient != 0 {
                self.terms[self.filled] = Term { basis, sum, value: f64::from(coefficient) };
                self.filled += 1;
            }
        }
        self.seen += 1;
    }

    /// The first `frequencies` rows of coefficients to actions, checked, then written to `out`.
    pub(super) fn synthesise(&mut self, frequencies: usize, out: &mut [f64]) -> Result<(), DecodeError> {
        let (needed, got) = (self.needed(), out.len());
        if got != needed {
            return Err(DecodeError::WrongShape { needed, got });
        }
        self.sum_terms(frequencies);
        if !self.build.within(&self.sums, self.dct.lanes(), self.action_limit) {
            return Err(self.first_action_out_of_range());
        }
        self.write_actions(out);
        Ok(())
    }

    /// Inverse transform of the first `frequencies` rows, as even and odd halves.
    pub(super) fn sum_terms(&mut self, frequencies: usize) {
        let lanes = self.dct.lanes();
        self.sums.fill(0.0);
        let terms = &self.terms[..self.filled];
        let end = if frequencies < self.horizon {
            terms.partition_point(|term| (term.basis as usize) < frequencies * lanes)
        } else {
            terms.len()
        };
        let terms = &terms[..end];
        self.build.accumulate(terms, self.dct.basis(), lanes, &mut self.sums);
    }

    /// Unfolds the halves into `[H, D]` row-major.
    pub(super) fn write_actions(&self, out: &mut [f64]) {
        let (lanes, half, dims) = (self.dct.lanes(), self.dct.half(), self.dims);
        // The middle row of an odd number is in the first part; its odd half is zero.
        let (first, second) = out.split_at_mut(half * dims);
        for (dim, pair) in self.sums.chunks_exact(2 * lanes).enumerate() {
            let (even, odd) = pair.split_at(lanes);
            for ((row, e), o) in first.chunks_exact_mut(dims).zip(even).zip(odd) {
                row[dim] = e + o;
            }
            for ((row, e), o) in second.chunks_exact_mut(dims).rev().zip(even).zip(odd) {
                row[dim] = e - o;
            }
        }
    }

    #[cold]
    fn first_action_out_of_range(&self) -> DecodeError {
        let (lanes, limit) = (self.dct.lanes(), self.action_limit);
        let mut first = DecodeError::ActionOutOfRange { row: 0, dim: 0, value: f64::NAN, limit };
        'search: for row in 0..self.horizon {
            for dim in 0..self.dims {
                let mirrored = row.min(self.horizon - 1 - row);
                let (e, o) = (self.sums[2 * dim * lanes + mirrored], self.sums[(2 * dim + 1) * lanes + mirrored]);
                let value = if row == mirrored { e + o } else { e - o };
                if value.is_nan() || value.abs() > limit {
                    first = DecodeError::ActionOutOfRange { row, dim, value, limit };
                    break 'search;
                }
            }
        }
        first
    }

    /// The transform as encoding computes it, `[H, D]`.
    #[cfg(test)]
    pub(super) fn spectrum(&self) -> Vec<f64> {
        self.spectrum.chunks_exact(self.columns).flat_map(|row| row[..self.dims].to_vec()).collect()
    }

    /// Without the processor's wide instructions.
    #[cfg(test)]
    pub(super) fn baseline(mut self) -> Self {
        self.build = Build::baseline();
        self
    }
}

impl ActionTokenizer for FastCodec {
    fn horizon(&self) -> usize {
        self.horizon()
    }
    fn dims(&self) -> usize {
        self.dims()
    }
    fn vocab_size(&self) -> u32 {
        self.vocab_size()
    }
    fn encode(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError> {
        self.encode(chunk, ids)
    }
    fn decode(&mut self, ids: &[u32], out: &mut [f64]) -> Result<(), DecodeError> {
        self.decode(ids, out)
    }
    fn reset(&mut self) {
        self.reset();
    }
    fn push(&mut self, id: u32) -> Result<Progress, DecodeError> {
        self.push(id)
    }
    fn allows(&self, id: u32) -> bool {
        self.allows(id)
    }
    fn allowed(&self, mask: &mut [bool]) -> Result<usize, DecodeError> {
        self.allowed(mask)
    }
    fn coefficients(&self) -> usize {
        self.coefficients()
    }
    fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        self.finish(out)
    }
}
