//! The key-value slab: attention memory of fixed size behind `append` and `crop`.
//!
//! Every layer's keys and values live in the engine's own input tensors, `[Hkv, Tmax, hd]` each; this type owns which
//! rows of them are real. Rejecting tokens costs nothing: the length goes down and the mask hides the rest. Shapes
//! never change, so the same graph serves an empty and a full cache.

use std::ops::Range;

/// Added to a score that must not be attended to; large enough to vanish in f32 and small enough for f16.
pub const MASKED: f32 = -1e4;

/// Shape of one tensor of the slab.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// `Hkv`, key-value heads.
    pub heads: usize,
    /// `hd`, elements of a head.
    pub head_dim: usize,
    /// `Tmax`, rows.
    pub capacity: usize,
}

impl KvShape {
    /// Elements of one tensor `[Hkv, Tmax, hd]`.
    pub const fn elements(self) -> usize {
        self.heads * self.head_dim * self.capacity
    }
}

/// Why rows cannot be appended or a mask not written.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The slab is full.
    #[error("{len} rows of {capacity} are used and {rows} more do not fit")]
    Full {
        /// Rows in use.
        len: usize,
        /// Rows there are.
        capacity: usize,
        /// Rows asked for.
        rows: usize,
    },
    /// A buffer has another length than its shape says.
    #[error("a buffer holds {got} elements where {needed} are needed")]
    Length {
        /// Elements its shape needs.
        needed: usize,
        /// Elements it has.
        got: usize,
    },
}

/// The rows of a key-value slab.
///
/// # Real-time
/// Allocates at construction only.
#[derive(Clone, Debug)]
pub struct KvSlab {
    shape: KvShape,
    /// Whether each row may be attended to.
    live: Vec<bool>,
    len: usize,
}

impl KvSlab {
    /// An empty slab.
    pub fn new(shape: KvShape) -> Self {
        Self { shape, live: vec![false; shape.capacity], len: 0 }
    }

    /// Rows in use, dead ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Rows there are.
    pub fn capacity(&self) -> usize {
        self.shape.capacity
    }

    /// Whether no row is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `rows` new rows, `[Hkv, rows, hd]`, behind the rows in use of one tensor `[Hkv, Tmax, hd]`. Call it for
    /// every tensor of every layer, then [`append`](Self::append) once.
    ///
    /// # Errors
    /// [`KvError`]; the tensor is then unchanged.
    pub fn write(&self, tensor: &mut [f32], new: &[f32], rows: usize) -> Result<(), KvError> {
        self.write_range(tensor, new, rows, 0..rows)
    }

    /// As [`write`](Self::write), but only rows `taken` of the `rows` new ones.
    ///
    /// # Errors
    /// [`KvError`]; the tensor is then unchanged.
    pub fn write_range(
        &self,
        tensor: &mut [f32],
        new: &[f32],
        rows: usize,
        taken: Range<usize>,
    ) -> Result<(), KvError> {
        self.has_room_for(taken.len())?;
        let KvShape { heads, head_dim, capacity } = self.shape;
        expect_len(tensor.len(), self.shape.elements())?;
        expect_len(new.len(), heads * rows * head_dim)?;
        expect_len(taken.end.min(rows), taken.end)?;
        if rows * head_dim == 0 {
            return Ok(());
        }
        let taken = taken.start.min(taken.end) * head_dim..taken.end * head_dim;
        for (into, from) in tensor.chunks_exact_mut(capacity * head_dim).zip(new.chunks_exact(rows * head_dim)) {
            let from = &from[taken.clone()];
            into[self.len * head_dim..][..from.len()].copy_from_slice(from);
        }
        Ok(())
    }

    /// Copies row `from` of one tensor over row `to`: of rows behind those in use, some are kept.
    ///
    /// # Errors
    /// [`KvError::Full`] for a row that there is not, [`KvError::Length`].
    pub fn copy_row(&self, tensor: &mut [f32], from: usize, to: usize) -> Result<(), KvError> {
        let KvShape { head_dim, capacity, .. } = self.shape;
        expect_len(tensor.len(), self.shape.elements())?;
        if from.max(to) >= capacity {
            return Err(KvError::Full { len: from.max(to), capacity, rows: 1 });
        }
        if head_dim > 0 {
            for head in tensor.chunks_exact_mut(capacity * head_dim) {
                head.copy_within(from * head_dim..(from + 1) * head_dim, to * head_dim);
            }
        }
        Ok(())
    }

    /// Takes `rows` written rows into use; `dead` of them, counted from the first, are padding and stay masked.
    ///
    /// # Errors
    /// [`KvError::Full`].
    pub fn append(&mut self, rows: usize, dead: Range<usize>) -> Result<(), KvError> {
        self.has_room_for(rows)?;
        for row in 0..rows {
            self.live[self.len + row] = !dead.contains(&row);
        }
        self.len += rows;
        Ok(())
    }

    /// Rejects every row from `len` on; a longer `len` changes nothing.
    pub fn crop(&mut self, len: usize) {
        if len < self.len {
            self.live[len..self.len].fill(false);
            self.len = len;
        }
    }

    /// Writes the additive mask of `queries` new rows over the slab and over each other, `[queries, Tmax + queries]`:
    /// 0 for live rows and for new rows up to the query itself, [`MASKED`] elsewhere.
    ///
    /// # Errors
    /// [`KvError::Length`] when `mask` has another size.
    pub fn causal_mask(&self, queries: usize, mask: &mut [f32]) -> Result<(), KvError> {
        let width = self.shape.capacity + queries;
        expect_len(mask.len(), queries * width)?;
        for (query, row) in mask.chunks_exact_mut(width).enumerate() {
            let (past, new) = row.split_at_mut(self.shape.capacity);
            for (score, live) in past.iter_mut().zip(&self.live) {
                *score = if *live { 0.0 } else { MASKED };
            }
            for (key, score) in new.iter_mut().enumerate() {
                *score = if key <= query { 0.0 } else { MASKED };
            }
        }
        Ok(())
    }

    /// Whether `rows` more fit.
    ///
    /// # Errors
    /// [`KvError::Full`] when they do not.
    pub fn has_room_for(&self, rows: usize) -> Result<(), KvError> {
        if self.len + rows > self.shape.capacity {
            return Err(KvError::Full { len: self.len, capacity: self.shape.capacity, rows });
        }
        Ok(())
    }
}

fn expect_len(got: usize, needed: usize) -> Result<(), KvError> {
    if got == needed { Ok(()) } else { Err(KvError::Length { needed, got }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { heads: 2, head_dim: 3, capacity: 7 };

    /// `[heads, rows, head_dim]`, every element different.
    fn rows(tag: f32, rows: usize) -> Vec<f32> {
        (0..SHAPE.heads * rows * SHAPE.head_dim).map(|i| tag + i as f32).collect()
    }

    fn row(tensor: &[f32], head: usize, row: usize, capacity: usize) -> &[f32] {
        let at = (head * capacity + row) * SHAPE.head_dim;
        &tensor[at..at + SHAPE.head_dim]
    }

    #[test]
    fn appending_equals_concatenation() {
        let mut slab = KvSlab::new(SHAPE);
        let mut tensor = vec![f32::NAN; SHAPE.elements()];
        let blocks = [rows(100.0, 3), rows(200.0, 1), rows(300.0, 2)];
        let counts = [3, 1, 2];
        for (block, count) in blocks.iter().zip(counts) {
            slab.write(&mut tensor, block, count).unwrap();
            slab.append(count, 0..0).unwrap();
        }
        let mut at = 0;
        for (block, count) in blocks.iter().zip(counts) {
            for r in 0..count {
                for head in 0..SHAPE.heads {
                    assert_eq!(row(&tensor, head, at + r, SHAPE.capacity), row(block, head, r, count));
                }
            }
            at += count;
        }
    }

    #[test]
    fn a_range_of_new_rows_is_taken_without_a_gap() {
        let mut slab = KvSlab::new(SHAPE);
        let mut tensor = vec![f32::NAN; SHAPE.elements()];
        let block = rows(100.0, 5);
        for taken in [0..2, 3..5, 4..4] {
            slab.write_range(&mut tensor, &block, 5, taken.clone()).unwrap();
            slab.append(taken.len(), 0..0).unwrap();
        }
        for (at, from) in [0, 1, 3, 4].into_iter().enumerate() {
            for head in 0..SHAPE.heads {
                assert_eq!(row(&tensor, head, at, SHAPE.capacity), row(&block, head, from, 5));
            }
        }
        let outside = slab.write_range(&mut tensor, &block, 5, 4..6);
        assert_eq!(outside, Err(KvError::Length { needed: 6, got: 5 }));
    }

    #[test]
    fn a_row_is_copied_over_another_in_every_head() {
        let slab = KvSlab::new(SHAPE);
        let mut tensor: Vec<f32> = (0..SHAPE.elements()).map(|i| i as f32).collect();
        slab.copy_row(&mut tensor, 5, 2).unwrap();
        for head in 0..SHAPE.heads {
            let from = row(&tensor, head, 5, SHAPE.capacity).to_vec();
            assert_eq!(row(&tensor, head, 2, SHAPE.capacity), from);
            assert_eq!(row(&tensor, head, 3, SHAPE.capacity)[0], ((head * SHAPE.capacity + 3) * SHAPE.head_dim) as f32);
        }
        assert!(matches!(slab.copy_row(&mut tensor, SHAPE.capacity, 0), Err(KvError::Full { .. })));
        assert!(matches!(slab.copy_row(&mut tensor[1..], 1, 0), Err(KvError::Length { .. })));
    }

    #[test]
    fn padding_and_rejected_rows_are_masked_and_can_be_overwritten() {
        let mut slab = KvSlab::new(SHAPE);
        let mut tensor = vec![0.0; SHAPE.elements()];
        slab.append(4, 1..3).unwrap();
        let mut mask = vec![0.0; 2 * (SHAPE.capacity + 2)];
        slab.causal_mask(2, &mut mask).unwrap();
        let open = |mask: &[f32]| mask.iter().map(|m| u8::from(*m == 0.0)).collect::<Vec<_>>();
        assert_eq!(open(&mask[..9]), [1, 0, 0, 1, 0, 0, 0, 1, 0]);
        assert_eq!(open(&mask[9..]), [1, 0, 0, 1, 0, 0, 0, 1, 1]);
        slab.crop(3);
        slab.crop(5);
        assert_eq!(slab.len(), 3);
        slab.write(&mut tensor, &rows(9.0, 1), 1).unwrap();
        slab.append(1, 0..0).unwrap();
        assert_eq!(row(&tensor, 1, 3, SHAPE.capacity), [12.0, 13.0, 14.0]);
        slab.causal_mask(2, &mut mask).unwrap();
        assert_eq!(open(&mask[..9]), [1, 0, 0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_numbers() {
        let mut slab = KvSlab::new(SHAPE);
        let mut tensor = vec![0.0; SHAPE.elements()];
        slab.append(6, 0..0).unwrap();
        let full = KvError::Full { len: 6, capacity: 7, rows: 2 };
        assert_eq!(slab.write(&mut tensor, &rows(0.0, 2), 2), Err(full));
        assert_eq!(slab.append(2, 0..0), Err(full));
        assert_eq!(slab.write(&mut tensor, &rows(0.0, 2), 1), Err(KvError::Length { needed: 6, got: 12 }));
        assert_eq!(slab.causal_mask(1, &mut [0.0; 3]), Err(KvError::Length { needed: 8, got: 3 }));
    }
}
