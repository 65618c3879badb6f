//! Encoding and decoding chunks of one shape, with working memory allocated once.

use super::bpe::Scratch;
use super::bytes::Utf8Reader;
use super::dct::Dct;
use super::{CodecError, MAX_VALUES, Tables};
use crate::{ActionTokenizer, DecodeError, EncodeError, Encoded, Progress};
use std::sync::Arc;

/// A FAST tokenizer bound to chunks of one shape `[H, D]`.
///
/// The methods are those of [`ActionTokenizer`], where their contract stands.
///
/// # Real-time
/// After construction nothing allocates, blocks or panics, except that
/// [`encode`](Self::encode) grows the caller's `ids` when they are too small. Decoding costs
/// `H²·D` multiply-adds (H = 16, D = 6: 1,536) plus a few operations per byte.
#[derive(Clone, Debug)]
pub struct FastCodec {
    tables: Arc<Tables>,
    dct: Dct,
    horizon: usize,
    dims: usize,
    /// 1 + margin.
    action_limit: f64,

    /// `[H, D]` row-major by frequency; the first `seen` are valid.
    coefficients: Vec<i32>,
    /// Whole coefficients read, also those beyond `H·D`.
    seen: usize,
    reader: Utf8Reader,
    /// First coefficient above the range, reported after the length.
    too_large: Option<DecodeError>,
    /// Why the pushed ids are no chunk any more.
    failed: Option<DecodeError>,

    pub(super) spectrum: Vec<f64>,
    actions: Vec<f64>,
    pub(super) codes: Vec<u32>,
    scratch: Scratch,
}

impl FastCodec {
    pub(super) fn new(tables: Arc<Tables>, horizon: usize, dims: usize) -> Result<Self, CodecError> {
        let values = match horizon.checked_mul(dims) {
            Some(values) if (1..=MAX_VALUES).contains(&values) => values,
            _ => return Err(CodecError::Shape { horizon, dims, limit: MAX_VALUES }),
        };
        if tables.horizon.is_some_and(|made| made != horizon) || tables.dims.is_some_and(|made| made != dims) {
            let (made_horizon, made_dims) = (tables.horizon, tables.dims);
            return Err(CodecError::OtherShape { horizon, dims, made_horizon, made_dims });
        }
        Ok(Self {
            tables,
            dct: Dct::new(horizon),
            horizon,
            dims,
            action_limit: f64::MAX,
            coefficients: vec![0; values],
            seen: 0,
            reader: Utf8Reader::default(),
            too_large: None,
            failed: None,
            spectrum: vec![0.0; values],
            actions: vec![0.0; values],
            codes: Vec::with_capacity(values),
            scratch: Scratch::new(values),
        })
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
        let (needed, got) = (self.coefficients.len(), chunk.len());
        if got != needed {
            return Err(EncodeError::WrongShape { needed, got });
        }
        if let Some(at) = chunk.iter().position(|value| !value.is_finite()) {
            return Err(EncodeError::NotFinite { row: at / self.dims, dim: at % self.dims });
        }
        self.dct.forward(self.dims, chunk, &mut self.spectrum);
        let clamped = self.quantise()?;
        self.tables.bpe.encode(&self.codes, &mut self.scratch, ids)?;
        self.check_reversible(ids)?;
        Ok(Encoded { clamped })
    }

    /// Spectrum to code points; returns how many were clamped.
    fn quantise(&mut self) -> Result<usize, EncodeError> {
        let Tables { scale, min_token: min, max_token: max, .. } = *self.tables;
        self.codes.clear();
        let mut clamped = 0;
        for (at, value) in self.spectrum.iter().enumerate() {
            let (frequency, dim) = (at / self.dims, at % self.dims);
            let value = (value * scale).round_ties_even();
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

    /// Reads the ids back: every coefficient, in order, and nothing else.
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
        let result = self.read_all(ids).and_then(|()| self.synthesise(out));
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
        let (needed, got) = (self.coefficients.len(), self.seen);
        if got != needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        self.too_large.map_or(Ok(()), Err)
    }

    /// Forgets what was pushed.
    pub fn reset(&mut self) {
        self.seen = 0;
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
        let needed = self.coefficients.len();
        // A begun coefficient counts here: none may begin after the last.
        let got = self.seen + usize::from(self.reader.is_dangling());
        if got > needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        if let Some(error) = self.too_large {
            return Err(error);
        }
        if self.seen == needed { Ok(Progress::Complete) } else { Ok(Progress::More { coefficients: self.seen }) }
    }

    /// Whether [`push`](Self::push) would take `id`: a known id that breaks no character, leaves the coefficient
    /// range nowhere and begins no coefficient after the last. What constrained decoding asks of each candidate.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    pub fn allows(&self, id: u32) -> bool {
        let Some(bytes) = self.tables.bpe.bytes_of(id) else { return false };
        let (mut reader, mut seen) = (self.reader, self.seen);
        for &byte in bytes {
            match reader.push(byte) {
                Err(_) => return false,
                Ok(None) => {}
                Ok(Some(code)) if self.tables.min_token + code as i32 > self.tables.max_token => return false,
                Ok(Some(_)) => seen += 1,
            }
        }
        self.failed.is_none() && seen + usize::from(reader.is_dangling()) <= self.coefficients.len()
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
        let (needed, got) = (self.coefficients.len(), self.seen);
        if got != needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        self.synthesise(out)
    }

    /// Reads the characters of one token into the coefficients.
    fn read(&mut self, id: u32) -> Result<(), DecodeError> {
        let Self { tables, coefficients, seen, reader, too_large, dims, .. } = self;
        let unknown = DecodeError::UnknownId { id, vocabulary: tables.bpe.len() as u32 };
        for &byte in tables.bpe.bytes_of(id).ok_or(unknown)? {
            let Some(code) = reader.push(byte).map_err(|_| DecodeError::InvalidUtf8 { coefficients: *seen })? else {
                continue;
            };
            if let Some(slot) = coefficients.get_mut(*seen) {
                // Both terms are below 2²⁵ in size, see `file::check_range`.
                *slot = tables.min_token + code as i32;
                if *slot > tables.max_token && too_large.is_none() {
                    let (frequency, dim, coefficient) = (*seen / *dims, *seen % *dims, *slot);
                    let max = tables.max_token;
                    *too_large = Some(DecodeError::CoefficientOutOfRange { frequency, dim, coefficient, max });
                }
            }
            *seen += 1;
        }
        Ok(())
    }

    /// Coefficients to actions, checked, then copied out.
    fn synthesise(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        let (needed, got) = (self.coefficients.len(), out.len());
        if got != needed {
            return Err(DecodeError::WrongShape { needed, got });
        }
        for (value, &coefficient) in self.spectrum.iter_mut().zip(&self.coefficients) {
            *value = f64::from(coefficient) / self.tables.scale;
        }
        self.dct.inverse(self.dims, &self.spectrum, &mut self.actions);
        for (at, &value) in self.actions.iter().enumerate() {
            if value.is_nan() || value.abs() > self.action_limit {
                let (row, dim, limit) = (at / self.dims, at % self.dims, self.action_limit);
                return Err(DecodeError::ActionOutOfRange { row, dim, value, limit });
            }
        }
        out.copy_from_slice(&self.actions);
        Ok(())
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
    fn coefficients(&self) -> usize {
        self.coefficients()
    }
    fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        self.finish(out)
    }
}
