//! What each token means, read out of its bytes once: decoding is then a look-up.

use super::bpe::Bpe;
use super::bytes::Utf8Reader;

/// A token that is not whole characters only.
const BROKEN: u32 = u32::MAX;

/// All tokens' meanings, index = id.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Runs {
    runs: Vec<Run>,
    /// `(index within the token, coefficient)` of those that are not zero.
    values: Vec<(u32, f64)>,
}

/// One token, read from the beginning of a character.
#[derive(Copy, Clone, PartialEq, Debug)]
struct Run {
    start: u32,
    end: u32,
    /// Coefficients; `BROKEN` where the bytes do not begin and end with a character, or one is out of range.
    coefficients: u32,
    /// Places it takes, a begun character too; `u32::MAX` where it can never be taken there.
    needs: u32,
}

impl Runs {
    pub(super) fn new(bpe: &Bpe, min_token: i32, max_token: i32) -> Self {
        let last = max_token.abs_diff(min_token);
        let mut values = Vec::new();
        let runs = (0..bpe.len() as u32)
            .map(|id| {
                let start = values.len() as u32;
                let (mut reader, mut coefficients, mut is_good) = (Utf8Reader::default(), 0, true);
                for &byte in bpe.bytes_of(id).unwrap_or_default() {
                    match reader.push(byte) {
                        Ok(None) => {}
                        Ok(Some(code)) if code <= last => {
                            // In range: the sum is an i32 between the two.
                            let value = min_token + code as i32;
                            if value != 0 {
                                values.push((coefficients, f64::from(value)));
                            }
                            coefficients += 1;
                        }
                        Ok(Some(_)) | Err(_) => is_good = false,
                    }
                }
                is_good &= reader.smallest_end().is_none_or(|code| code <= last);
                let is_whole = is_good && !reader.is_dangling();
                if !is_whole {
                    values.truncate(start as usize);
                }
                Run {
                    start,
                    end: values.len() as u32,
                    coefficients: if is_whole { coefficients } else { BROKEN },
                    needs: if is_good { coefficients + u32::from(reader.is_dangling()) } else { u32::MAX },
                }
            })
            .collect();
        Self { runs, values }
    }

    /// Number of coefficients of a token of whole characters in range, and those that are not zero with their
    /// places. `None` for any other id: read its bytes.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<(usize, &[(u32, f64)])> {
        let run = self.runs.get(id as usize)?;
        if run.coefficients == BROKEN {
            return None;
        }
        Some((run.coefficients as usize, self.values.get(run.start as usize..run.end as usize)?))
    }

    /// Whether an id can be taken at the beginning of a character with `room` coefficients left.
    #[inline]
    pub(super) fn allows(&self, id: u32, room: usize) -> bool {
        let room = u32::try_from(room).unwrap_or(u32::MAX - 1);
        self.runs.get(id as usize).is_some_and(|run| run.needs <= room)
    }

    /// Whether each id can be taken at the beginning of a character with `room` coefficients left; returns how many.
    pub(super) fn mark_allowed(&self, room: usize, mask: &mut [bool]) -> usize {
        let room = u32::try_from(room).unwrap_or(u32::MAX - 1);
        let mut allowed = 0;
        for (slot, run) in mask.iter_mut().zip(&self.runs) {
            *slot = run.needs <= room;
            allowed += usize::from(*slot);
        }
        allowed
    }
}
