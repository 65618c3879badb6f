//! Actions as bins: one id per number. OpenVLA's 256 bins at the end of the vocabulary, openpi's variant, and VLA-0's
//! plain integers.

use crate::{ActionTokenizer, DecodeError, EncodeError, Encoded, Progress};
use thiserror::Error;

/// Why no codec was made.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Error)]
pub enum ShapeError {
    /// A chunk of no values, or more than memory allows.
    #[error("horizon {horizon} and dims {dims}: both must be at least 1 and their product at most {limit}")]
    Shape {
        /// H asked for.
        horizon: usize,
        /// D asked for.
        dims: usize,
        /// Largest H·D.
        limit: usize,
    },
    /// The ids of the bins do not fit the vocabulary.
    #[error("a vocabulary of {vocabulary} has no room for {needed} action ids")]
    Vocabulary {
        /// Size given.
        vocabulary: u32,
        /// Ids needed.
        needed: u32,
    },
}

const MAX_VALUES: usize = 1 << 16;

/// H·D of a shape that can be held.
pub(crate) fn values(horizon: usize, dims: usize) -> Result<usize, ShapeError> {
    match horizon.checked_mul(dims) {
        Some(values) if (1..=MAX_VALUES).contains(&values) => Ok(values),
        _ => Err(ShapeError::Shape { horizon, dims, limit: MAX_VALUES }),
    }
}

/// Bins of both layouts.
const BINS: u32 = 256;

/// Where the bins are and what they stand for.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Layout {
    /// `id = vocabulary − k`, k = 1..=256; values are the 255 centres between 256 edges over −1..=1.
    OpenVla { vocabulary: u32 },
    /// `id = 0..=255` (or mapped by the caller); the value is `id / 256 · 2 − 1`.
    OpenPi,
}

/// Bin tokens of one chunk shape `[H, D]`, row-major: seven ids an action for a single arm.
///
/// The methods are those of [`ActionTokenizer`].
///
/// # Real-time
/// After construction decoding does not allocate, block or panic.
#[derive(Clone, Debug)]
pub struct BinCodec {
    layout: Layout,
    horizon: usize,
    dims: usize,
    pushed: Pushed,
}

impl BinCodec {
    /// OpenVLA's: `vocabulary` is 32000, the base model's without its padding.
    ///
    /// Encoding clips to −1..=1 (counted) and takes `digitize`; decoding takes the bin's centre. The last two ids stand
    /// for the same centre, as upstream.
    ///
    /// # Errors
    /// See [`ShapeError`].
    pub fn open_vla(vocabulary: u32, horizon: usize, dims: usize) -> Result<Self, ShapeError> {
        if vocabulary < BINS {
            return Err(ShapeError::Vocabulary { vocabulary, needed: BINS });
        }
        Self::new(Layout::OpenVla { vocabulary }, horizon, dims)
    }

    /// openpi's binning variant: ids 0..=255, `y = id / 256 · 2 − 1`; put them into PaliGemma's vocabulary with
    /// [`paligemma_from_action`](crate::paligemma_from_action). Encoding (which openpi lacks) takes the nearest.
    ///
    /// # Errors
    /// See [`ShapeError`].
    pub fn open_pi(horizon: usize, dims: usize) -> Result<Self, ShapeError> {
        Self::new(Layout::OpenPi, horizon, dims)
    }

    fn new(layout: Layout, horizon: usize, dims: usize) -> Result<Self, ShapeError> {
        Ok(Self { layout, horizon, dims, pushed: Pushed::new(values(horizon, dims)?) })
    }

    /// First and last id.
    fn range(&self) -> (u32, u32) {
        match self.layout {
            Layout::OpenVla { vocabulary } => (vocabulary - BINS, vocabulary - 1),
            Layout::OpenPi => (0, BINS - 1),
        }
    }

    fn id(&self, value: f64, clamped: &mut usize) -> u32 {
        match self.layout {
            Layout::OpenVla { vocabulary } => {
                let clipped = value.clamp(-1.0, 1.0);
                *clamped += usize::from(clipped != value);
                // `numpy.digitize`: how many edges are at or below the value.
                let guess = (((clipped + 1.0) * 127.5).floor() as u32).min(BINS - 1);
                let mut bin = guess.saturating_sub(1);
                while bin < BINS && edge(bin) <= clipped {
                    bin += 1;
                }
                vocabulary - bin.max(1)
            }
            Layout::OpenPi => {
                let bin = ((value + 1.0) / 2.0 * f64::from(BINS)).round_ties_even();
                let limited = bin.clamp(0.0, f64::from(BINS - 1));
                *clamped += usize::from(limited != bin);
                limited as u32
            }
        }
    }

    fn value(&self, id: u32, position: usize) -> Result<f64, DecodeError> {
        let (first, last) = self.range();
        if !(first..=last).contains(&id) {
            return Err(DecodeError::NotAnAction { id, position, first, last });
        }
        Ok(match self.layout {
            Layout::OpenVla { vocabulary } => {
                let bin = (vocabulary - id - 1).min(BINS - 2);
                f64::midpoint(edge(bin), edge(bin + 1))
            }
            Layout::OpenPi => f64::from(id) / f64::from(BINS) * 2.0 - 1.0,
        })
    }
}

/// Edge `k` of `numpy.linspace(-1, 1, 256)`.
fn edge(k: u32) -> f64 {
    if k == BINS - 1 { 1.0 } else { f64::from(k) * (2.0 / f64::from(BINS - 1)) - 1.0 }
}

/// The part that all one-value-per-id tokenizers share: values in order, and the first error.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) values: Vec<f64>,
    needed: usize,
    pub(crate) failed: Option<DecodeError>,
}

impl Pushed {
    pub(crate) fn new(needed: usize) -> Self {
        Self { values: Vec::with_capacity(needed), needed, failed: None }
    }

    pub(crate) fn reset(&mut self) {
        self.values.clear();
        self.failed = None;
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.values.len() == self.needed
    }

    /// Takes one value, or the error of reading it.
    pub(crate) fn take(&mut self, value: Result<f64, DecodeError>) -> Result<Progress, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let value = value.and_then(|value| {
            let (needed, got) = (self.needed, self.values.len() + 1);
            if got > needed { Err(DecodeError::WrongLength { needed, got }) } else { Ok(value) }
        });
        match value {
            Ok(value) => self.values.push(value),
            Err(error) => {
                self.failed = Some(error);
                return Err(error);
            }
        }
        Ok(self.progress())
    }

    pub(crate) fn progress(&self) -> Progress {
        if self.is_complete() { Progress::Complete } else { Progress::More { coefficients: self.values.len() } }
    }

    pub(crate) fn finish(&self, out: &mut [f64]) -> Result<(), DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (needed, got) = (self.needed, self.values.len());
        if got != needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        if out.len() != needed {
            return Err(DecodeError::WrongShape { needed, got: out.len() });
        }
        out.copy_from_slice(&self.values);
        Ok(())
    }
}

/// Shape and finiteness of a chunk to encode.
pub(crate) fn check_chunk(chunk: &[f64], needed: usize, dims: usize) -> Result<(), EncodeError> {
    if chunk.len() != needed {
        return Err(EncodeError::WrongShape { needed, got: chunk.len() });
    }
    match chunk.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(EncodeError::NotFinite { row: at / dims, dim: at % dims }),
        None => Ok(()),
    }
}

/// Decodes a whole sequence by pushing it; a length that is wrong is reported with the whole count.
pub(crate) fn decode_by_pushing(
    tokenizer: &mut (impl ActionTokenizer + ?Sized),
    ids: &[u32],
    out: &mut [f64],
) -> Result<(), DecodeError> {
    tokenizer.reset();
    ids.iter().try_for_each(|&id| tokenizer.push(id).map(|_| ()))?;
    tokenizer.finish(out)
}

impl ActionTokenizer for BinCodec {
    fn horizon(&self) -> usize {
        self.horizon
    }
    fn dims(&self) -> usize {
        self.dims
    }
    fn vocab_size(&self) -> u32 {
        self.range().1 + 1
    }
    fn encode(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError> {
        ids.clear();
        check_chunk(chunk, self.horizon * self.dims, self.dims)?;
        let mut clamped = 0;
        ids.extend(chunk.iter().map(|&value| self.id(value, &mut clamped)));
        Ok(Encoded { clamped })
    }
    fn decode(&mut self, ids: &[u32], out: &mut [f64]) -> Result<(), DecodeError> {
        decode_by_pushing(self, ids, out)
    }
    fn reset(&mut self) {
        self.pushed.reset();
    }
    fn push(&mut self, id: u32) -> Result<Progress, DecodeError> {
        let value = self.value(id, self.pushed.values.len());
        self.pushed.take(value)
    }
    fn allows(&self, id: u32) -> bool {
        let (first, last) = self.range();
        self.pushed.failed.is_none() && !self.pushed.is_complete() && (first..=last).contains(&id)
    }
    fn coefficients(&self) -> usize {
        self.pushed.values.len()
    }
    fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        self.pushed.finish(out)
    }
}

/// Characters of VLA-0's text in the order of their ids here: ten digits and the space between numbers.
pub const DIGITS: &str = "0123456789 ";

const SPACE: u32 = 10;
/// Largest number; 0 is −1 and this is 1.
const LARGEST: u32 = 1000;

/// VLA-0: `H·D` integers 0..=1000 written as text, one space between, and nothing else.
///
/// Ids are the characters of [`DIGITS`] (0..=9 the digits, 10 the space); the caller maps its language model's single
/// tokens to them, and masks with [`allowed`](ActionTokenizer::allowed). The text has no end mark, so a last number that
/// could still grow is not complete: `push` says [`Progress::Complete`] only when the last number can take no further
/// digit, and [`finish`](ActionTokenizer::finish) takes the text as ended.
///
/// The value is `2 n / 1000 − 1`, normalised. Numbers have no leading zeros, so each chunk has one text.
///
/// # Real-time
/// After construction decoding does not allocate, block or panic.
#[derive(Clone, Debug)]
pub struct DigitCodec {
    horizon: usize,
    dims: usize,
    pushed: Pushed,
    /// The number being read; `None` where its first digit is expected.
    number: Option<u32>,
    position: usize,
}

impl DigitCodec {
    /// For chunks of `horizon` rows of `dims` numbers.
    ///
    /// # Errors
    /// [`ShapeError::Shape`].
    pub fn new(horizon: usize, dims: usize) -> Result<Self, ShapeError> {
        let pushed = Pushed::new(values(horizon, dims)?);
        Ok(Self { horizon, dims, pushed, number: None, position: 0 })
    }

    /// Decodes text; any other character than digits and single spaces between numbers is refused.
    ///
    /// # Errors
    /// As [`ActionTokenizer::decode`]; a strange character is [`DecodeError::UnknownId`] with its code point.
    pub fn decode_text(&mut self, text: &str, out: &mut [f64]) -> Result<(), DecodeError> {
        self.reset();
        for c in text.chars() {
            let id = DIGITS.chars().zip(0..).find(|(digit, _)| *digit == c).map(|(_, id)| id);
            let unknown = DecodeError::UnknownId { id: u32::from(c), vocabulary: SPACE + 1 };
            let _ = self.push(id.ok_or(unknown)?)?;
        }
        self.finish(out)
    }

    /// The text of a chunk.
    ///
    /// # Errors
    /// As [`ActionTokenizer::encode`].
    pub fn encode_text(&mut self, chunk: &[f64]) -> Result<String, EncodeError> {
        let mut ids = Vec::new();
        self.encode(chunk, &mut ids)?;
        Ok(ids.iter().filter_map(|&id| DIGITS.chars().nth(id as usize)).collect())
    }

    fn needed(&self) -> usize {
        self.horizon * self.dims
    }

    /// Which digits or space may come: the number read so far, its successor or the error.
    fn next(&self, id: u32) -> Result<Option<u32>, DecodeError> {
        let position = self.position;
        if id > SPACE {
            return Err(DecodeError::UnknownId { id, vocabulary: SPACE + 1 });
        }
        let (needed, got) = (self.needed(), self.pushed.values.len() + 1);
        match (self.number, id) {
            (None, SPACE) => Err(DecodeError::BrokenNumber { position }),
            (None, digit) => Ok(Some(digit)),
            (Some(_), SPACE) if got >= needed => Err(DecodeError::WrongLength { needed, got: got + 1 }),
            (Some(_), SPACE) => Ok(None),
            (Some(0), _) => Err(DecodeError::BrokenNumber { position }),
            (Some(number), digit) => {
                let number = number * 10 + digit;
                if number > LARGEST {
                    return Err(DecodeError::NotAnAction { id: number, position, first: 0, last: LARGEST });
                }
                Ok(Some(number))
            }
        }
    }
}

impl ActionTokenizer for DigitCodec {
    fn horizon(&self) -> usize {
        self.horizon
    }
    fn dims(&self) -> usize {
        self.dims
    }
    fn vocab_size(&self) -> u32 {
        SPACE + 1
    }
    fn encode(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError> {
        ids.clear();
        check_chunk(chunk, self.needed(), self.dims)?;
        let mut clamped = 0;
        for (at, value) in chunk.iter().enumerate() {
            let number = ((value + 1.0) / 2.0 * f64::from(LARGEST)).round_ties_even();
            let limited = number.clamp(0.0, f64::from(LARGEST));
            clamped += usize::from(limited != number);
            if at > 0 {
                ids.push(SPACE);
            }
            let number = limited as u32;
            let digits = [number / 1000, number / 100 % 10, number / 10 % 10, number % 10];
            let leading = digits[..3].iter().take_while(|digit| **digit == 0).count();
            ids.extend(&digits[leading..]);
        }
        Ok(Encoded { clamped })
    }
    fn decode(&mut self, ids: &[u32], out: &mut [f64]) -> Result<(), DecodeError> {
        decode_by_pushing(self, ids, out)
    }
    fn reset(&mut self) {
        self.pushed.reset();
        self.number = None;
        self.position = 0;
    }
    fn push(&mut self, id: u32) -> Result<Progress, DecodeError> {
        if let Some(error) = self.pushed.failed {
            return Err(error);
        }
        let next = match self.next(id) {
            Ok(next) => next,
            Err(error) => {
                self.pushed.failed = Some(error);
                return Err(error);
            }
        };
        if let (Some(number), None) = (self.number, next) {
            let _ = self.pushed.take(Ok(f64::from(number) / f64::from(LARGEST) * 2.0 - 1.0))?;
        }
        self.number = next;
        self.position += 1;
        let is_last = self.pushed.values.len() + 1 == self.needed();
        let is_grown = next.is_some_and(|number| number == 0 || 10 * number > LARGEST);
        if is_last && is_grown {
            return Ok(Progress::Complete);
        }
        Ok(Progress::More { coefficients: self.pushed.values.len() })
    }
    fn allows(&self, id: u32) -> bool {
        self.pushed.failed.is_none() && self.next(id).is_ok()
    }
    fn coefficients(&self) -> usize {
        self.pushed.values.len()
    }
    fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        if let Some(error) = self.pushed.failed {
            return Err(error);
        }
        let (needed, read) = (self.needed(), self.pushed.values.len());
        let got = read + usize::from(self.number.is_some());
        if got != needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        if out.len() != needed {
            return Err(DecodeError::WrongShape { needed, got: out.len() });
        }
        let last = f64::from(self.number.unwrap_or_default()) / f64::from(LARGEST) * 2.0 - 1.0;
        out[..read].copy_from_slice(&self.pushed.values);
        out[read] = last;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_vla_digitises_as_numpy_and_decodes_centres() {
        // numpy 2.4: e = linspace(-1, 1, 256); 32000 - digitize(clip(v, -1, 1), e), and (e[:-1] + e[1:]) / 2.
        let mut codec = BinCodec::open_vla(32_000, 1, 7).unwrap();
        let mut ids = Vec::new();
        let chunk = [-1.5, -1.0, -0.999, 0.0, 0.5, 1.0, 3.0];
        assert_eq!(codec.encode(&chunk, &mut ids).unwrap().clamped, 2);
        assert_eq!(ids, [31_999, 31_999, 31_999, 31_872, 31_808, 31_744, 31_744]);
        let mut out = [0.0; 7];
        codec.decode(&ids, &mut out).unwrap();
        let centre = 1.0 - 1.0 / 255.0;
        for (a, b) in out.iter().zip([-centre, -centre, -centre, 0.0, 0.501_960_784_313_725_6, centre, centre]) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
        // Every edge and its neighbours, counted one by one.
        for k in 0..BINS {
            for value in [edge(k).next_down(), edge(k), edge(k).next_up()] {
                let clipped = value.clamp(-1.0, 1.0);
                let count = (0..BINS).filter(|&k| edge(k) <= clipped).count() as u32;
                assert_eq!(codec.id(value, &mut 0), 32_000 - count, "{value:e}");
            }
        }
        // The last two ids share a centre.
        assert_eq!(codec.value(31_744, 0), codec.value(31_745, 0));
        let outside = DecodeError::NotAnAction { id: 32_000, position: 2, first: 31_744, last: 31_999 };
        assert_eq!(codec.decode(&[31_744, 31_999, 32_000], &mut out), Err(outside));
    }

    #[test]
    fn open_pi_s_bins_are_256ths() {
        let mut codec = BinCodec::open_pi(1, 3).unwrap();
        let mut out = [0.0; 3];
        codec.decode(&[0, 128, 255], &mut out).unwrap();
        assert_eq!(out, [-1.0, 0.0, 0.9921875]);
        let mut ids = Vec::new();
        assert_eq!(codec.encode(&[-1.0, 0.001, 1.0], &mut ids).unwrap().clamped, 1);
        assert_eq!(ids, [0, 128, 255]);
        assert!(codec.decode(&[256, 0, 0], &mut out).is_err());
    }

    #[test]
    fn digits_are_exactly_h_times_d_integers() {
        let mut codec = DigitCodec::new(2, 2).unwrap();
        let mut out = [7.0; 4];
        assert_eq!(codec.encode_text(&[-1.0, 1.0, 0.0, -0.998]).unwrap(), "0 1000 500 1");
        codec.decode_text("0 1000 500 1", &mut out).unwrap();
        assert_eq!(out, [-1.0, 1.0, 0.0, -0.998]);
        let mut refuse = |text: &str| {
            let mut out = [7.0; 4];
            let error = codec.decode_text(text, &mut out).unwrap_err();
            assert_eq!(out, [7.0; 4], "{text:?}");
            error.kind()
        };
        for (text, kind) in [
            ("", "length"),
            ("0 1 2", "length"),
            ("0 1 2 ", "length"),
            ("0 1 2 3 4", "length"),
            ("0  1 2 3", "number"),
            (" 0 1 2 3", "number"),
            ("00 1 2 3", "number"),
            ("01 1 2 3", "number"),
            ("1001 1 2 3", "unknown_id"),
            ("-1 1 2 3", "unknown_id"),
            ("0.5 1 2 3", "unknown_id"),
        ] {
            assert_eq!(refuse(text), kind, "{text:?}");
        }
        codec.reset();
        let last =
            "0 0 0 1000".chars().map(|c| DIGITS.find(c).unwrap() as u32).map(|id| codec.push(id).unwrap()).last();
        assert_eq!(last, Some(Progress::Complete));
        assert_eq!(codec.allowed(&mut [false; 11]).unwrap(), 0);
    }

    #[test]
    fn shapes_that_overflow_are_refused() {
        assert!(BinCodec::open_pi(usize::MAX, 2).is_err());
        assert!(BinCodec::open_vla(255, 1, 1).is_err());
        assert!(DigitCodec::new(0, 1).is_err());
    }
}
