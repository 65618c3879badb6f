//! A table of what followed two tokens: the draft source of ADED, which needs no draft network.

use std::collections::BTreeMap;

/// Contexts kept: 16 bytes each in a file, so at most 64 kB.
const ROOM: usize = 4096;
/// What a bundle's table starts with.
const MAGIC: &[u8; 8] = b"EPTRIG1\n";
/// How firmly a learned follower is believed at most when a bundle's table is read: what is seen on the robot must be able
/// to replace it.
const FIRMEST: u32 = 8;

/// The latest token after a context and how firmly it is believed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Follower {
    token: u32,
    strength: u32,
}

/// Majority by challenge: a follower seen again grows stronger, another weakens it and replaces it at nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trigrams {
    followers: BTreeMap<(u32, u32), Follower>,
}

/// Why bytes are no table.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no tri-gram table of this build: make it again with `endplate calibrate thresholds`")]
pub struct NoTrigrams;

impl Trigrams {
    /// Learns a whole chunk. Time-major tokens have a `row` of that many; other tokens 1.
    pub fn learn_chunk(&mut self, tokens: &[u32], row: usize) {
        for end in 0..tokens.len() {
            if let Some(context) = context(&tokens[..end], row) {
                self.learn(context, tokens[end]);
            }
        }
    }

    /// Contexts known.
    pub fn len(&self) -> usize {
        self.followers.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.followers.is_empty()
    }

    /// The table as a file: the magic, then context, token and strength of each entry, u32 little-endian, in the order of
    /// the contexts.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for ((first, second), follower) in &self.followers {
            for number in [*first, *second, follower.token, follower.strength.min(FIRMEST)] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    /// [`NoTrigrams`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoTrigrams> {
        let body = bytes.strip_prefix(MAGIC).ok_or(NoTrigrams)?;
        let (entries, rest) = body.as_chunks::<16>();
        if !rest.is_empty() || entries.len() > ROOM {
            return Err(NoTrigrams);
        }
        let mut followers = BTreeMap::new();
        for entry in entries {
            let (numbers, _) = entry.as_chunks::<4>();
            let [first, second, token, strength] = core::array::from_fn(|at| u32::from_le_bytes(numbers[at]));
            let is_next = followers.last_key_value().is_none_or(|(last, _)| *last < (first, second));
            if !is_next || !(1..=FIRMEST).contains(&strength) {
                return Err(NoTrigrams);
            }
            followers.insert((first, second), Follower { token, strength });
        }
        Ok(Self { followers })
    }

    /// What is believed to follow.
    pub(super) fn follower(&self, context: (u32, u32)) -> Option<u32> {
        self.followers.get(&context).map(|follower| follower.token)
    }

    /// `token` followed `context`. A full table takes no new context.
    pub(super) fn learn(&mut self, context: (u32, u32), token: u32) {
        if let Some(known) = self.followers.get_mut(&context) {
            if known.token == token {
                known.strength = known.strength.saturating_add(1);
            } else if known.strength > 1 {
                known.strength -= 1;
            } else {
                *known = Follower { token, strength: 1 };
            }
        } else if self.followers.len() < ROOM {
            self.followers.insert(context, Follower { token, strength: 1 });
        }
    }
}

/// The token before and the one before that; of time-major tokens with a `row` of that many, the same dimension's of the
/// row before, with the dimension told apart.
pub(super) fn context(taken: &[u32], row: usize) -> Option<(u32, u32)> {
    let last = *taken.last()?;
    if row == 1 {
        return Some((last, *taken.get(taken.len().checked_sub(2)?)?));
    }
    let above = *taken.get(taken.len().checked_sub(row)?)?;
    Some((above.checked_mul(row as u32)?.checked_add((taken.len() % row) as u32)?, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_is_kept_and_replaced_when_it_is_outvoted() {
        let mut table = Trigrams::default();
        assert_eq!(table.follower((1, 2)), None);
        for token in [7, 7, 9] {
            table.learn((1, 2), token);
        }
        assert_eq!(table.follower((1, 2)), Some(7));
        table.learn((1, 2), 9);
        assert_eq!(table.follower((1, 2)), Some(9));
    }

    #[test]
    fn the_table_never_outgrows_its_room() {
        let mut table = Trigrams::default();
        for id in 0..2 * ROOM as u32 {
            table.learn((id, 0), 1);
        }
        assert_eq!(table.len(), ROOM);
    }

    #[test]
    fn a_table_is_read_as_it_was_written_and_nothing_else_is_one() {
        let mut table = Trigrams::default();
        table.learn_chunk(&[1, 2, 3, 1, 2, 3, 1, 2], 1);
        table.learn_chunk(&[5, 6, 5, 7, 5, 8], 2);
        let bytes = table.to_bytes();
        assert_eq!(Trigrams::from_bytes(&bytes).unwrap(), table);
        assert_eq!(Trigrams::from_bytes(MAGIC).unwrap(), Trigrams::default());
        for cut in 1..bytes.len() {
            let cut = &bytes[..cut];
            let is_shorter_table = cut.len() >= MAGIC.len() && (cut.len() - MAGIC.len()).is_multiple_of(16);
            assert_eq!(Trigrams::from_bytes(cut).is_ok(), is_shorter_table, "{} bytes", cut.len());
        }
        let mut swapped = bytes[..MAGIC.len()].to_vec();
        swapped.extend_from_slice(&bytes[MAGIC.len() + 16..MAGIC.len() + 32]);
        swapped.extend_from_slice(&bytes[MAGIC.len()..MAGIC.len() + 16]);
        assert_eq!(Trigrams::from_bytes(&swapped), Err(NoTrigrams));
    }

    #[test]
    fn contexts_tell_dimensions_apart() {
        assert_eq!(context(&[3, 4], 1), Some((4, 3)));
        assert_eq!(context(&[3], 1), None);
        assert_eq!(context(&[10, 20], 2), Some((20, 20)), "above 10 of dimension 0, last 20");
        assert_eq!(context(&[10, 20, 11], 2), Some((41, 11)), "above 20 of dimension 1, last 11");
    }
}
