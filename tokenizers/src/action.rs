//! What every action tokenizer offers: ids to and from a normalised action chunk.

use thiserror::Error;

/// Ids ↔ action chunk of one fixed shape `[H, D]` (horizon, action dimension), normalised units.
///
/// Implemented by [`FastCodec`](crate::FastCodec), [`BinCodec`](crate::BinCodec),
/// [`DigitCodec`](crate::DigitCodec), [`FsqCodec`](crate::FsqCodec) and [`VqCodec`](crate::VqCodec).
///
/// Values are f64, row-major: the D values of row 0, then of row 1. Normalised means the form the
/// policy was trained in, about −1..1; it is not a joint position and never goes to an arm.
///
/// Two ways to decode. [`decode`](Self::decode) takes a finished sequence.
/// [`push`](Self::push) takes ids as a model generates them and says when the chunk is complete,
/// so that generation never depends on an end token; [`finish`](Self::finish) then writes it.
/// Both are total: any id sequence gives a checked chunk or an error, never a repaired chunk.
pub trait ActionTokenizer {
    /// H, rows of a chunk.
    fn horizon(&self) -> usize;

    /// D, values of a row.
    fn dims(&self) -> usize;

    /// Every id this tokenizer knows is below this; not every id below it need be one.
    fn vocab_size(&self) -> u32;

    /// Encodes `chunk` (`[H, D]` row-major, normalised) into `ids`, replacing their content.
    ///
    /// After `Ok`, [`decode`](Self::decode) accepts `ids`. After `Err`, `ids` is empty.
    ///
    /// # Errors
    /// See [`EncodeError`]: nothing is dropped or repaired, except what [`Encoded`] counts.
    ///
    /// # Real-time
    /// Allocates only when `ids` has to grow.
    fn encode(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError>;

    /// Decodes a whole sequence into `out` (`[H, D]` row-major, normalised).
    ///
    /// Discards what was pushed before. `out` is written only on `Ok`.
    ///
    /// # Errors
    /// See [`DecodeError`]. The first unknown id or broken character wins, then the length, then
    /// the coefficient range, then the action range.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    fn decode(&mut self, ids: &[u32], out: &mut [f64]) -> Result<(), DecodeError>;

    /// Forgets what was pushed.
    fn reset(&mut self);

    /// Takes the next generated id.
    ///
    /// # Errors
    /// Unknown id, broken character, coefficient out of range, or more coefficients than `H·D`
    /// (so also any id after [`Progress::Complete`]). The error stays until [`reset`](Self::reset).
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    fn push(&mut self, id: u32) -> Result<Progress, DecodeError>;

    /// Whether [`push`](Self::push) would take `id` now: what constrained decoding asks of each candidate.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    fn allows(&self, id: u32) -> bool;

    /// [`allows`](Self::allows) of every id at once; `mask` is `[V]`, V = [`vocab_size`](Self::vocab_size).
    /// Returns how many ids are allowed.
    ///
    /// # Errors
    /// [`DecodeError::WrongMask`] when `mask` has another length; it is then untouched.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    fn allowed(&self, mask: &mut [bool]) -> Result<usize, DecodeError> {
        let (needed, got) = (self.vocab_size() as usize, mask.len());
        if got != needed {
            return Err(DecodeError::WrongMask { needed, got });
        }
        let mut allowed = 0;
        for (id, slot) in (0u32..).zip(mask) {
            *slot = self.allows(id);
            allowed += usize::from(*slot);
        }
        Ok(allowed)
    }

    /// Whole coefficients (for FAST) or actions (for the others) pushed so far.
    fn coefficients(&self) -> usize;

    /// Writes the pushed chunk into `out` (`[H, D]` row-major, normalised); may be repeated.
    ///
    /// # Errors
    /// The error of an earlier push, [`DecodeError::WrongLength`] before
    /// [`Progress::Complete`], or an action out of range. `out` is written only on `Ok`.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError>;
}

/// How far the pushed ids have come.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
#[must_use]
pub enum Progress {
    /// More ids are needed.
    More {
        /// Whole coefficients so far, less than `H·D` (one may be begun).
        coefficients: usize,
    },
    /// Exactly `H·D` coefficients and no byte left over: stop generating.
    Complete,
}

/// What encoding did besides rounding.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct Encoded {
    /// Values beyond what the tokenizer knows that were moved to its edge, where that is the tokenizer's definition:
    /// coefficients below FAST's smallest one, actions outside the bins. Not 0 means: the chunk is outside what the tokenizer was made for.
    pub clamped: usize,
}

/// Why a chunk has no ids.
#[derive(Copy, Clone, PartialEq, Debug, Error)]
pub enum EncodeError {
    /// The slice is not `[H, D]`.
    #[error("the chunk has {got} values, {needed} (horizon · dims) are needed")]
    WrongShape {
        /// H·D.
        needed: usize,
        /// Length of the slice.
        got: usize,
    },
    /// NaN or infinite action.
    #[error("action at row {row}, dim {dim} is not finite")]
    NotFinite {
        /// Row, 0..H.
        row: usize,
        /// Dimension, 0..D.
        dim: usize,
    },
    /// A quantised coefficient above what the tokenizer holds (or beyond all numbers).
    #[error("coefficient of frequency {frequency}, dim {dim} is {value}, the tokenizer's largest is {max}")]
    CoefficientOutOfRange {
        /// Frequency, 0..H.
        frequency: usize,
        /// Dimension, 0..D.
        dim: usize,
        /// The coefficient after scaling and rounding.
        value: f64,
        /// Largest coefficient of the tokenizer.
        max: i32,
    },
    /// An action for which the tokenizer has no id.
    #[error("action {value} at row {row}, dim {dim} is outside {low}..={high}")]
    ActionOutOfRange {
        /// Row, 0..H.
        row: usize,
        /// Dimension, 0..D.
        dim: usize,
        /// Normalised action.
        value: f64,
        /// Smallest action with an id.
        low: f64,
        /// Largest action with an id.
        high: f64,
    },
    /// The coefficient falls on a code point that is no Unicode scalar value.
    #[error("coefficient {coefficient} of frequency {frequency}, dim {dim} falls on the surrogate {code:#x}")]
    Surrogate {
        /// Frequency, 0..H.
        frequency: usize,
        /// Dimension, 0..D.
        dim: usize,
        /// The quantised coefficient.
        coefficient: i32,
        /// Its code point, 0xD800..=0xDFFF.
        code: u32,
    },
    /// The vocabulary lacks a byte; upstream would drop it and shorten the chunk.
    #[error("the vocabulary has no token for byte {byte:#04x} of code point {code:#x}")]
    MissingByte {
        /// The byte without a token.
        byte: u8,
        /// Code point it belongs to.
        code: u32,
    },
    /// The ids do not spell the coefficients again: the tokenizer file contradicts itself.
    #[error("the ids do not decode to coefficient {index} again")]
    NotReversible {
        /// Index into the row-major coefficients.
        index: usize,
    },
}

/// Why ids are no chunk.
#[derive(Copy, Clone, PartialEq, Debug, Error)]
pub enum DecodeError {
    /// The output slice is not `[H, D]`.
    #[error("the output has room for {got} values, {needed} (horizon · dims) are needed")]
    WrongShape {
        /// H·D.
        needed: usize,
        /// Length of the slice.
        got: usize,
    },
    /// An id past the vocabulary.
    #[error("id {id} is unknown, the vocabulary has {vocabulary}")]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of ids.
        vocabulary: u32,
    },
    /// An id that stands for no action here.
    #[error("id {id} is no action at position {position}: {first}..={last} are")]
    NotAnAction {
        /// The id.
        id: u32,
        /// Its position in the sequence.
        position: usize,
        /// First id allowed there.
        first: u32,
        /// Last id allowed there.
        last: u32,
    },
    /// Text that is no list of numbers: a number is empty, has leading zeros or too many digits.
    #[error("broken number at position {position}")]
    BrokenNumber {
        /// Position in the sequence.
        position: usize,
    },
    /// The bytes are no UTF-8, or end inside a character.
    #[error("broken character after {coefficients} whole coefficients")]
    InvalidUtf8 {
        /// Whole coefficients before it.
        coefficients: usize,
    },
    /// Too few or too many coefficients.
    #[error("{got} coefficients, {needed} (horizon · dims) are needed")]
    WrongLength {
        /// H·D.
        needed: usize,
        /// Coefficients found; while pushing, a begun one beyond the last counts.
        got: usize,
    },
    /// A coefficient the tokenizer never produces.
    #[error("coefficient {coefficient} of frequency {frequency}, dim {dim} is above the largest, {max}")]
    CoefficientOutOfRange {
        /// Frequency, 0..H.
        frequency: usize,
        /// Dimension, 0..D.
        dim: usize,
        /// The quantised coefficient.
        coefficient: i32,
        /// Largest coefficient of the tokenizer.
        max: i32,
    },
    /// An anytime chunk of fewer frequencies than were declared to be enough.
    #[error("{frequencies} of {horizon} frequencies are decoded, less than the declared share {min_share}")]
    TooFew {
        /// Whole frequencies decoded.
        frequencies: usize,
        /// H.
        horizon: usize,
        /// Least share asked for.
        min_share: f64,
    },
    /// The mask is not `[V]`.
    #[error("the mask has {got} entries, {needed} (one per id) are needed")]
    WrongMask {
        /// V.
        needed: usize,
        /// Length of the mask.
        got: usize,
    },
    /// A decoded action beyond the configured margin (or not finite).
    #[error("action {value} at row {row}, dim {dim} is beyond ±{limit}")]
    ActionOutOfRange {
        /// Row, 0..H.
        row: usize,
        /// Dimension, 0..D.
        dim: usize,
        /// Normalised action.
        value: f64,
        /// 1 + margin.
        limit: f64,
    },
}

impl EncodeError {
    /// The name of the kind, for counters and machine-readable output.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::WrongShape { .. } => "shape",
            Self::NotFinite { .. } => "non_finite",
            Self::CoefficientOutOfRange { .. } | Self::ActionOutOfRange { .. } | Self::Surrogate { .. } => "range",
            Self::MissingByte { .. } | Self::NotReversible { .. } => "vocabulary",
        }
    }
}

impl DecodeError {
    /// The name of the kind, for counters and machine-readable output.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::WrongShape { .. } | Self::WrongMask { .. } => "shape",
            Self::UnknownId { .. } | Self::NotAnAction { .. } => "unknown_id",
            Self::BrokenNumber { .. } => "number",
            Self::TooFew { .. } => "share",
            Self::InvalidUtf8 { .. } => "utf8",
            Self::WrongLength { .. } => "length",
            Self::CoefficientOutOfRange { .. } | Self::ActionOutOfRange { .. } => "range",
        }
    }
}
