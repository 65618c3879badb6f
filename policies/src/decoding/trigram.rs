//! A table of what followed two tokens: the draft source of ADED, which needs no draft network.

use std::collections::BTreeMap;

/// Contexts kept: 12 bytes each, so at most 48 kB.
const ROOM: usize = 4096;

/// The latest token after a context and how firmly it is believed.
#[derive(Copy, Clone, Debug)]
struct Follower {
    token: u32,
    strength: u32,
}

/// Majority by challenge: a follower seen again grows stronger, another weakens it and replaces it at nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Trigrams {
    followers: BTreeMap<(u32, u32), Follower>,
}

impl Trigrams {
    pub(super) fn clear(&mut self) {
        self.followers.clear();
    }

    /// What is believed to follow.
    pub(super) fn follower(&self, context: (u32, u32)) -> Option<u32> {
        self.followers.get(&context).map(|follower| follower.token)
    }

    /// `token` followed `context`. A full table takes no new context.
    pub(super) fn learn(&mut self, context: (u32, u32), token: u32) {
        if let Some(known) = self.followers.get_mut(&context) {
            if known.token == token {
                known.strength += 1;
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
        table.clear();
        assert_eq!(table.follower((1, 2)), None);
    }

    #[test]
    fn the_table_never_outgrows_its_room() {
        let mut table = Trigrams::default();
        for id in 0..2 * ROOM as u32 {
            table.learn((id, 0), 1);
        }
        assert_eq!(table.followers.len(), ROOM);
    }
}
