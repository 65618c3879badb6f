//! What can be wrong with a FAST tokenizer's files, training data or use. None is on the control path.

use std::path::PathBuf;
use thiserror::Error;

/// Why tokenizer files were refused.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Not the expected JSON.
    #[error("{file} is not a valid tokenizer file: {source}")]
    Json {
        /// File.
        file: String,
        /// Cause, with line and column.
        source: serde_json::Error,
    },
    /// A field has a value that would change or break the ids.
    #[error("{file}: {field} = {value}; {remedy}")]
    Field {
        /// File.
        file: String,
        /// Field, dotted path.
        field: &'static str,
        /// Value found.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The vocabulary's ids are not 0, 1, 2, … each once.
    #[error(
        "{file}: model.vocab has {tokens} tokens but none with id {missing}; number them 0..{tokens}, each id once"
    )]
    IdsNotContiguous {
        /// File.
        file: String,
        /// Tokens in the vocabulary.
        tokens: usize,
        /// Lowest id without a token.
        missing: u32,
    },
    /// A merge names a token, or makes one, that the vocabulary lacks.
    #[error("{file}: model.merges[{rank}] needs token {token:?}, which model.vocab lacks; export the file again")]
    UnknownMergeToken {
        /// File.
        file: String,
        /// Position in the list.
        rank: usize,
        /// The missing token.
        token: String,
    },
    /// A coefficient in range that no tokens can spell: upstream drops such bytes and shortens the chunk.
    #[error(
        "{file}: model.vocab has no token for byte {byte:#04x}, which coefficient {coefficient} (code point {code:#x}) \
         needs; fit the tokenizer with all 256 bytes, or declare a max_token below it"
    )]
    MissingByte {
        /// File.
        file: String,
        /// The byte without a token.
        byte: u8,
        /// Smallest coefficient that needs it.
        coefficient: i32,
        /// Its code point.
        code: u32,
    },
    /// The same pair twice: its rank would be ambiguous.
    #[error("{file}: model.merges[{rank}] repeats model.merges[{first}], {left:?} + {right:?}; remove one")]
    DuplicateMerge {
        /// File.
        file: String,
        /// Position of the repetition.
        rank: usize,
        /// Position of the first.
        first: usize,
        /// Left token.
        left: String,
        /// Right token.
        right: String,
    },
}

/// Why a tokenizer could not be fitted.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum FitError {
    /// An option is out of its range.
    #[error("{option} = {value}; {remedy}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Value given.
        value: f64,
        /// What to do.
        remedy: &'static str,
    },
    /// No chunk was given.
    #[error("no chunk to fit on")]
    NoData,
    /// A chunk is not `[H, D]`.
    #[error("chunk {chunk} has {got} values, {needed} (horizon · dims) are needed")]
    WrongShape {
        /// Index of the chunk.
        chunk: usize,
        /// H·D.
        needed: usize,
        /// Its length.
        got: usize,
    },
    /// A chunk holds NaN or an infinity.
    #[error("chunk {chunk}: action at row {row}, dim {dim} is not finite")]
    NotFinite {
        /// Index of the chunk.
        chunk: usize,
        /// Row, 0..H.
        row: usize,
        /// Dimension, 0..D.
        dim: usize,
    },
    /// A coefficient of absurd size: the chunk is not normalised.
    #[error("chunk {chunk}: coefficient {value} is too large; normalise the actions first")]
    CoefficientTooLarge {
        /// Index of the chunk.
        chunk: usize,
        /// Coefficient after scaling.
        value: f64,
    },
    /// Upstream's alphabet leaves a coefficient in range without a token for one of its bytes.
    #[error("no chunk shows byte {byte:#04x}, which coefficient {coefficient} needs; fit with all 256 bytes instead")]
    Unspellable {
        /// The byte.
        byte: u8,
        /// Smallest coefficient that needs it.
        coefficient: i32,
    },
    /// The coefficients span more values than allowed (the vocabulary size, as upstream).
    #[error("coefficients run from {min} to {max}, more than {limit} values; lower the scale or raise vocab_size")]
    RangeTooWide {
        /// Smallest quantised coefficient.
        min: i32,
        /// Largest quantised coefficient.
        max: i32,
        /// Most values allowed.
        limit: u32,
    },
}

/// Why a tokenizer could not be saved.
#[derive(Debug, Error)]
pub enum SaveError {
    /// A file or the directory could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// File or directory.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The files could not be written as JSON.
    #[error("cannot write the tokenizer as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// What was about to be written reads back as an error.
    #[error("the tokenizer would not load again: {0}")]
    Unreadable(#[from] LoadError),
    /// What was about to be written reads back differently (a scale of more than 15 digits).
    #[error("the tokenizer would read back differently (scale {scale}); use a scale of at most 15 digits")]
    NotIdentical {
        /// Scale of the tokenizer.
        scale: f64,
    },
}

/// Why no codec of that shape was made.
#[derive(Copy, Clone, PartialEq, Debug, Error)]
pub enum CodecError {
    /// A chunk of no values, or more than memory allows.
    #[error(
        "horizon {horizon} and dims {dims}: both must be at least 1, horizon at most {rows} and their product at most \
         {limit}"
    )]
    Shape {
        /// H asked for.
        horizon: usize,
        /// D asked for.
        dims: usize,
        /// Largest H.
        rows: usize,
        /// Largest H·D.
        limit: usize,
    },
    /// The tokenizer was made for another shape.
    #[error("asked for {horizon} rows of {dims}, the tokenizer was made for {} rows of {}", shown(*.made_horizon), shown(*.made_dims))]
    OtherShape {
        /// H asked for.
        horizon: usize,
        /// D asked for.
        dims: usize,
        /// H the tokenizer declares, if it does.
        made_horizon: Option<usize>,
        /// D the tokenizer declares, if it does.
        made_dims: Option<usize>,
    },
    /// The coefficient limits are not `[H, D]`.
    #[error("{got} coefficient limits, {needed} (horizon · dims) are needed")]
    Limits {
        /// H·D.
        needed: usize,
        /// Length given.
        got: usize,
    },
    /// The margin is negative or not finite.
    #[error("action margin {margin}: it must be a finite number, at least 0")]
    Margin {
        /// Margin given.
        margin: f64,
    },
}

/// A declared extent, or that any will do.
fn shown(extent: Option<usize>) -> String {
    extent.map_or_else(|| "any number".to_owned(), |extent| extent.to_string())
}
