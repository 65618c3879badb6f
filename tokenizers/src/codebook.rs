//! Codebooks: ids that stand for code vectors. Finite scalar quantisation (Mentzer et al., arXiv 2309.15505), as in
//! OmniJARVIS, and vector quantisation by table, with UniVLA's places for image and action ids.

use crate::bins::{Pushed, ShapeError, check_chunk, decode_by_pushing, values};
use crate::{ActionTokenizer, DecodeError, EncodeError, Encoded, Progress};
use thiserror::Error;

/// Why no codebook was made.
#[derive(Copy, Clone, PartialEq, Debug, Error)]
pub enum CodebookError {
    /// See [`ShapeError`].
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A dimension needs at least two levels, and their product must be a u32.
    #[error("level {levels} of dimension {dim}: at least 2 are needed, and a product below 2^32")]
    Levels {
        /// Dimension.
        dim: usize,
        /// Levels given.
        levels: u32,
    },
    /// The table is empty, no whole number of rows, or holds a number that is not finite.
    #[error("a table of {values} numbers is not rows of {width} finite numbers (first bad one at {bad})")]
    Table {
        /// Numbers given.
        values: usize,
        /// Numbers in a row.
        width: usize,
        /// Index of the first number that is not finite, or the length.
        bad: usize,
    },
}

/// Finite scalar quantisation: each of D dimensions has a few levels.
///
/// A code is one number `Σ level_d · Π_{e<d} levels_e` or, spread over the vocabulary as OmniJARVIS does it, one id for
/// each dimension. Level `l` of `L` has the value `(l − ⌊L/2⌋) / ⌊L/2⌋`, as in the authors' code.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Fsq {
    levels: Vec<u32>,
    codes: u32,
}

impl Fsq {
    /// A quantiser of these levels.
    ///
    /// # Errors
    /// [`CodebookError::Levels`].
    pub fn new(levels: &[u32]) -> Result<Self, CodebookError> {
        let mut codes = 1u32;
        for (dim, &levels) in levels.iter().enumerate() {
            let refuse = CodebookError::Levels { dim, levels };
            if levels < 2 {
                return Err(refuse);
            }
            codes = codes.checked_mul(levels).ok_or(refuse)?;
        }
        if levels.is_empty() {
            return Err(CodebookError::Levels { dim: 0, levels: 0 });
        }
        Ok(Self { levels: levels.to_vec(), codes })
    }

    /// OmniJARVIS: 8·8·8·6·5 = 15,360 codes, 35 ids.
    pub fn omni_jarvis() -> Self {
        Self { levels: vec![8, 8, 8, 6, 5], codes: 15_360 }
    }

    /// D.
    pub fn dims(&self) -> usize {
        self.levels.len()
    }

    /// Number of codes.
    pub fn codes(&self) -> u32 {
        self.codes
    }

    /// Writes the `[D]` values of a code into `out`.
    ///
    /// # Errors
    /// [`DecodeError::UnknownId`] for a code that is none, [`DecodeError::WrongShape`]. `out` is written only on `Ok`.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    pub fn decode_code(&self, code: u32, out: &mut [f64]) -> Result<(), DecodeError> {
        if code >= self.codes {
            return Err(DecodeError::UnknownId { id: code, vocabulary: self.codes });
        }
        if out.len() != self.dims() {
            return Err(DecodeError::WrongShape { needed: self.dims(), got: out.len() });
        }
        let mut rest = code;
        for (out, &levels) in out.iter_mut().zip(&self.levels) {
            *out = level_value(rest % levels, levels);
            rest /= levels;
        }
        Ok(())
    }

    /// The code nearest to `[D]` values.
    ///
    /// # Errors
    /// See [`EncodeError`]: a value more than half a level outside is refused.
    ///
    /// # Real-time
    /// Does not allocate, block or panic.
    pub fn encode_code(&self, values: &[f64]) -> Result<u32, EncodeError> {
        check_chunk(values, self.dims(), self.dims())?;
        let (mut code, mut basis) = (0, 1);
        for (dim, (&value, &levels)) in values.iter().zip(&self.levels).enumerate() {
            code += basis * level(value, levels, 0, dim)?;
            // Past the last dimension this is the number of codes, which is a u32.
            basis *= levels;
        }
        Ok(code)
    }

    /// A codec of one id per dimension for `horizon` codes, ids from `first_id` on: dimension after dimension,
    /// level after level. For OmniJARVIS the 35 new ids of its vocabulary.
    ///
    /// # Errors
    /// [`CodebookError::Shape`].
    pub fn codec(&self, horizon: usize, first_id: u32) -> Result<FsqCodec, CodebookError> {
        let needed = values(horizon, self.dims())?;
        let ids: u64 = self.levels.iter().map(|&levels| u64::from(levels)).sum();
        if u64::from(first_id) + ids > u64::from(u32::MAX) {
            let needed = u32::try_from(ids).unwrap_or(u32::MAX);
            return Err(ShapeError::Vocabulary { vocabulary: first_id, needed }.into());
        }
        let mut firsts = Vec::with_capacity(self.dims());
        let mut next = first_id;
        for &levels in &self.levels {
            firsts.push(next);
            next += levels;
        }
        Ok(FsqCodec { levels: self.levels.clone(), firsts, end: next, horizon, pushed: Pushed::new(needed) })
    }
}

fn level_value(level: u32, levels: u32) -> f64 {
    let half = f64::from(levels / 2);
    (f64::from(level) - half) / half
}

fn level(value: f64, levels: u32, row: usize, dim: usize) -> Result<u32, EncodeError> {
    let half = f64::from(levels / 2);
    let level = (value * half + half).round_ties_even();
    if !(level >= 0.0 && level <= f64::from(levels - 1)) {
        let (low, high) = (-1.0, level_value(levels - 1, levels));
        return Err(EncodeError::ActionOutOfRange { row, dim, value, low, high });
    }
    Ok(level as u32)
}

/// FSQ codes spelled with one id per dimension; see [`Fsq::codec`]. The methods are those of [`ActionTokenizer`].
#[derive(Clone, Debug)]
pub struct FsqCodec {
    levels: Vec<u32>,
    /// First id of each dimension.
    firsts: Vec<u32>,
    end: u32,
    horizon: usize,
    pushed: Pushed,
}

impl FsqCodec {
    /// First and last id of a position.
    fn range(&self, position: usize) -> (u32, u32) {
        let dim = position % self.levels.len();
        (self.firsts[dim], self.firsts[dim] + self.levels[dim] - 1)
    }
}

impl ActionTokenizer for FsqCodec {
    fn horizon(&self) -> usize {
        self.horizon
    }
    fn dims(&self) -> usize {
        self.levels.len()
    }
    fn vocab_size(&self) -> u32 {
        self.end
    }
    fn encode(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError> {
        ids.clear();
        let dims = self.levels.len();
        check_chunk(chunk, self.horizon * dims, dims)?;
        for (at, &value) in chunk.iter().enumerate() {
            match level(value, self.levels[at % dims], at / dims, at % dims) {
                Ok(level) => ids.push(self.firsts[at % dims] + level),
                Err(error) => {
                    ids.clear();
                    return Err(error);
                }
            }
        }
        Ok(Encoded { clamped: 0 })
    }
    fn decode(&mut self, ids: &[u32], out: &mut [f64]) -> Result<(), DecodeError> {
        decode_by_pushing(self, ids, out)
    }
    fn reset(&mut self) {
        self.pushed.reset();
    }
    fn push(&mut self, id: u32) -> Result<Progress, DecodeError> {
        let position = self.pushed.values.len();
        let (first, last) = self.range(position);
        let value = if (first..=last).contains(&id) {
            Ok(level_value(id - first, last - first + 1))
        } else {
            Err(DecodeError::NotAnAction { id, position, first, last })
        };
        self.pushed.take(value)
    }
    fn allows(&self, id: u32) -> bool {
        let (first, last) = self.range(self.pushed.values.len());
        self.pushed.failed.is_none() && !self.pushed.is_complete() && (first..=last).contains(&id)
    }
    fn coefficients(&self) -> usize {
        self.pushed.values.len()
    }
    fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        self.pushed.finish(out)
    }
}

/// Vector quantisation by table: each id is a row of D numbers. The methods are those of [`ActionTokenizer`].
///
/// # Real-time
/// After construction decoding does not allocate, block or panic.
#[derive(Clone, Debug)]
pub struct VqCodec {
    /// `[K, D]` row-major.
    table: Vec<f64>,
    width: usize,
    first_id: u32,
    horizon: usize,
    pushed: Vec<u32>,
    failed: Option<DecodeError>,
}

impl VqCodec {
    /// A table of K rows of `width` numbers (`[K, D]` row-major) whose ids begin at `first_id`, for `horizon` ids.
    ///
    /// # Errors
    /// See [`CodebookError`].
    pub fn new(table: &[f64], width: usize, first_id: u32, horizon: usize) -> Result<Self, CodebookError> {
        values(horizon, width)?;
        let bad = table.iter().position(|value| !value.is_finite());
        if table.is_empty() || !table.len().is_multiple_of(width) || bad.is_some() {
            return Err(CodebookError::Table { values: table.len(), width, bad: bad.unwrap_or(table.len()) });
        }
        let rows = u32::try_from(table.len() / width).ok().filter(|rows| first_id.checked_add(*rows).is_some());
        if rows.is_none() {
            return Err(ShapeError::Vocabulary { vocabulary: first_id, needed: u32::MAX }.into());
        }
        let pushed = Vec::with_capacity(horizon);
        Ok(Self { table: table.to_vec(), width, first_id, horizon, pushed, failed: None })
    }

    fn last_id(&self) -> u32 {
        self.first_id + (self.table.len() / self.width) as u32 - 1
    }

    /// The id of the row nearest to `values` (Euclidean; of equals the smallest).
    fn nearest(&self, values: &[f64]) -> u32 {
        let distance = |row: &[f64]| -> f64 { row.iter().zip(values).map(|(a, b)| (a - b) * (a - b)).sum() };
        let mut best = (f64::INFINITY, self.first_id);
        for (row, id) in self.table.chunks_exact(self.width).zip(self.first_id..) {
            let distance = distance(row);
            if distance < best.0 {
                best = (distance, id);
            }
        }
        best.1
    }
}

impl ActionTokenizer for VqCodec {
    fn horizon(&self) -> usize {
        self.horizon
    }
    fn dims(&self) -> usize {
        self.width
    }
    fn vocab_size(&self) -> u32 {
        self.last_id() + 1
    }
    fn encode(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError> {
        ids.clear();
        check_chunk(chunk, self.horizon * self.width, self.width)?;
        ids.extend(chunk.chunks_exact(self.width).map(|row| self.nearest(row)));
        Ok(Encoded { clamped: 0 })
    }
    fn decode(&mut self, ids: &[u32], out: &mut [f64]) -> Result<(), DecodeError> {
        decode_by_pushing(self, ids, out)
    }
    fn reset(&mut self) {
        self.pushed.clear();
        self.failed = None;
    }
    fn push(&mut self, id: u32) -> Result<Progress, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (position, first, last) = (self.pushed.len(), self.first_id, self.last_id());
        let needed = self.horizon * self.width;
        let error = if position == self.horizon {
            Some(DecodeError::WrongLength { needed, got: needed + self.width })
        } else if !(first..=last).contains(&id) {
            Some(DecodeError::NotAnAction { id, position, first, last })
        } else {
            None
        };
        if let Some(error) = error {
            self.failed = Some(error);
            return Err(error);
        }
        self.pushed.push(id);
        if self.pushed.len() == self.horizon {
            return Ok(Progress::Complete);
        }
        Ok(Progress::More { coefficients: self.coefficients() })
    }
    fn allows(&self, id: u32) -> bool {
        self.failed.is_none() && self.pushed.len() < self.horizon && (self.first_id..=self.last_id()).contains(&id)
    }
    fn coefficients(&self) -> usize {
        self.pushed.len() * self.width
    }
    fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (needed, got) = (self.horizon * self.width, self.coefficients());
        if got != needed {
            return Err(DecodeError::WrongLength { needed, got });
        }
        if out.len() != needed {
            return Err(DecodeError::WrongShape { needed, got: out.len() });
        }
        for (out, &id) in out.chunks_exact_mut(self.width).zip(&self.pushed) {
            let start = (id - self.first_id) as usize * self.width;
            out.copy_from_slice(&self.table[start..start + self.width]);
        }
        Ok(())
    }
}

/// UniVLA's vocabulary: where its image and action ids are.
pub mod univla {
    /// The id of FAST id 0; FAST id `a` is `LAST_TEXT − a`, as in [`QwenMap`](crate::QwenMap).
    pub const LAST_TEXT: u32 = 151_642;
    /// Ends an action.
    pub const END_OF_ACTION: u32 = 151_845;
    /// Begins an image.
    pub const BEGIN_OF_IMAGE: u32 = 151_852;
    /// Ends an image.
    pub const END_OF_IMAGE: u32 = 151_853;
    /// Pixels of a side that one image id stands for.
    pub const PIXELS: u32 = 8;

    /// Image ids of a `width × height` picture, `[⌊h/8⌋, ⌊w/8⌋]`.
    pub const fn image_ids(width: u32, height: u32) -> (u32, u32) {
        (height / PIXELS, width / PIXELS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omni_jarvis_has_15360_codes_and_35_ids() {
        let fsq = Fsq::omni_jarvis();
        assert_eq!(Fsq::new(&[8, 8, 8, 6, 5]).unwrap(), fsq);
        let mut seen = std::collections::BTreeSet::new();
        let mut values = [0.0; 5];
        for code in 0..fsq.codes() {
            fsq.decode_code(code, &mut values).unwrap();
            assert!(values.iter().all(|value| (-1.0..=1.0).contains(value)));
            assert_eq!(fsq.encode_code(&values), Ok(code));
            assert!(seen.insert(values.map(f64::to_bits)));
        }
        assert_eq!(seen.len(), 15_360);
        assert!(fsq.decode_code(15_360, &mut values).is_err());
        // By hand: 1 + 8 · (2 + 8 · (3 + 8 · (4 + 6 · 0))).
        fsq.decode_code(1 + 8 * (2 + 8 * (3 + 8 * 4)), &mut values).unwrap();
        assert_eq!(values, [-0.75, -0.5, -0.25, 1.0 / 3.0, -1.0]);
        assert_eq!(fsq.codec(2, 0).unwrap().vocab_size(), 35);
    }

    #[test]
    fn one_id_per_dimension_is_only_taken_in_its_place() {
        let mut codec = Fsq::omni_jarvis().codec(2, 1000).unwrap();
        let chunk = [-0.75, -0.5, -0.25, 1.0 / 3.0, -1.0, 0.75, 0.0, -1.0, 2.0 / 3.0, 1.0];
        let mut ids = Vec::new();
        codec.encode(&chunk, &mut ids).unwrap();
        assert_eq!(ids, [1001, 1010, 1019, 1028, 1030, 1007, 1012, 1016, 1029, 1034]);
        let mut out = [0.0; 10];
        codec.decode(&ids, &mut out).unwrap();
        assert_eq!(out, chunk);
        ids.swap(0, 1);
        let wrong = DecodeError::NotAnAction { id: 1010, position: 0, first: 1000, last: 1007 };
        assert_eq!(codec.decode(&ids, &mut out), Err(wrong));
        assert!(matches!(
            codec.encode(&[1.1; 10], &mut ids),
            Err(EncodeError::ActionOutOfRange { row: 0, dim: 0, .. })
        ));
        assert!(ids.is_empty());
    }

    #[test]
    fn a_table_decodes_its_rows_and_encodes_the_nearest() {
        let mut codec = VqCodec::new(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 2, 500, 2).unwrap();
        let (mut ids, mut out) = (Vec::new(), [0.0; 4]);
        codec.encode(&[0.9, 0.2, 0.1, 0.7], &mut ids).unwrap();
        assert_eq!(ids, [501, 502]);
        codec.decode(&ids, &mut out).unwrap();
        assert_eq!(out, [1.0, 0.0, 0.0, 1.0]);
        assert!(matches!(
            codec.decode(&[501, 503], &mut out),
            Err(DecodeError::NotAnAction { id: 503, position: 1, .. })
        ));
        assert!(matches!(codec.decode(&[501], &mut out), Err(DecodeError::WrongLength { needed: 4, got: 2 })));
        assert!(matches!(codec.decode(&[501; 3], &mut out), Err(DecodeError::WrongLength { needed: 4, got: 6 })));
    }

    #[test]
    fn bad_codebooks_are_named() {
        assert_eq!(Fsq::new(&[]), Err(CodebookError::Levels { dim: 0, levels: 0 }));
        assert_eq!(Fsq::new(&[8, 1]), Err(CodebookError::Levels { dim: 1, levels: 1 }));
        assert!(Fsq::new(&[65_536, 65_536]).is_err());
        assert!(matches!(VqCodec::new(&[1.0, 2.0, 3.0], 2, 0, 1), Err(CodebookError::Table { values: 3, .. })));
        assert!(matches!(VqCodec::new(&[1.0, f64::NAN], 2, 0, 1), Err(CodebookError::Table { bad: 1, .. })));
        assert!(VqCodec::new(&[1.0], 1, u32::MAX, 1).is_err());
        assert!(VqCodec::new(&[1.0], 0, 0, 1).is_err());
        assert!(VqCodec::new(&[1.0], 1, 0, usize::MAX).is_err());
    }
}
