//! Open-addressing tables with keys that are integers: what byte-pair encoding asks at every step.
//!
//! Linear probing in a power-of-two array at most half full; multiplicative hashing (Knuth, *The Art of Computer
//! Programming* vol. 3, §6.4). Built once, then read only, so that a look-up is a multiplication and usually one load.

/// Marks an empty slot; no key takes this value.
const EMPTY: u64 = u64::MAX;

/// 2⁶⁴ over the golden ratio, made odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A map from `u64` (any but `u64::MAX`) to `u32`.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) struct IntMap {
    slots: Vec<(u64, u32)>,
    shift: u32,
    mask: usize,
}

impl IntMap {
    /// The map of `entries`; of equal keys the first counts.
    pub(crate) fn new(entries: &[(u64, u32)]) -> Self {
        let size = (2 * entries.len()).next_power_of_two().max(2);
        let mut map = Self { slots: vec![(EMPTY, 0); size], shift: 64 - size.trailing_zeros(), mask: size - 1 };
        for &(key, value) in entries {
            let mut at = map.home(key);
            while map.slots[at].0 != EMPTY && map.slots[at].0 != key {
                at = (at + 1) & map.mask;
            }
            if map.slots[at].0 == EMPTY {
                map.slots[at] = (key, value);
            }
        }
        map
    }

    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(MULTIPLIER) >> self.shift) as usize & self.mask
    }

    /// The value of `key`.
    #[inline]
    pub(crate) fn get(&self, key: u64) -> Option<u32> {
        let mut at = self.home(key);
        loop {
            let (found, value) = *self.slots.get(at)?;
            if found == key {
                return Some(value);
            }
            if found == EMPTY {
                return None;
            }
            at = (at + 1) & self.mask;
        }
    }
}

/// Two ids as one key.
#[inline]
pub(crate) fn pair_key(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        let entries: Vec<(u64, u32)> = (0..5000u32).map(|n| (pair_key(n % 71, n * 3), n)).collect();
        let map = IntMap::new(&entries);
        for &(key, value) in &entries {
            assert_eq!(map.get(key), Some(value));
            assert_eq!(map.get(key + 1), None);
        }
        assert_eq!(IntMap::new(&[]).get(0), None);
    }

    #[test]
    fn the_first_of_equal_keys_counts() {
        assert_eq!(IntMap::new(&[(7, 1), (7, 2)]).get(7), Some(1));
    }
}
