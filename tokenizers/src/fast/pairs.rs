//! Open-addressing tables with keys that are integers: what byte-pair encoding asks at every step.
//!
//! Linear probing in a power-of-two array at most half full; multiplicative hashing (Knuth, *The Art of Computer
//! Programming* vol. 3, §6.4). Built once, then read only, so that a look-up is a multiplication and usually one load.

/// Marks an empty slot; no key takes this value.
const EMPTY: u64 = u64::MAX;

/// 2⁶⁴ over the golden ratio, made odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bits of a value.
const VALUE_BITS: u32 = 24;
/// Keys are below this.
pub(crate) const KEY_LIMIT: u64 = 1 << 40;
/// Values are below this.
pub(crate) const VALUE_LIMIT: u32 = 1 << VALUE_BITS;

/// A map from integers below 2⁴⁰ to integers below 2²⁴, eight bytes a slot: small tables stay in the first cache.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) struct IntMap {
    /// Key above, value below.
    slots: Vec<u64>,
    shift: u32,
    mask: usize,
}

impl IntMap {
    /// The map of `entries`, of equal keys the first; `None` where a key or value is too large.
    pub(crate) fn new(entries: &[(u64, u32)]) -> Option<Self> {
        let size = (2 * entries.len()).next_power_of_two().max(2);
        let mut map = Self { slots: vec![EMPTY; size], shift: 64 - size.trailing_zeros(), mask: size - 1 };
        for &(key, value) in entries {
            // The largest key with the largest value would be the mark of an empty slot.
            if key >= KEY_LIMIT - 1 || value >= VALUE_LIMIT {
                return None;
            }
            let mut at = map.home(key);
            while map.slots[at] != EMPTY && map.slots[at] >> VALUE_BITS != key {
                at = (at + 1) & map.mask;
            }
            if map.slots[at] == EMPTY {
                map.slots[at] = (key << VALUE_BITS) | u64::from(value);
            }
        }
        Some(map)
    }

    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(MULTIPLIER) >> self.shift) as usize & self.mask
    }

    /// The value of `key`.
    #[inline]
    pub(crate) fn get(&self, key: u64) -> Option<u32> {
        let mut at = self.home(key);
        loop {
            let slot = *self.slots.get(at)?;
            if slot >> VALUE_BITS == key {
                return Some(slot as u32 & (VALUE_LIMIT - 1));
            }
            if slot == EMPTY {
                return None;
            }
            at = (at + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        let entries: Vec<(u64, u32)> = (0..5000u32).map(|n| (u64::from(n % 71) << 20 | u64::from(n * 3), n)).collect();
        let map = IntMap::new(&entries).unwrap();
        for &(key, value) in &entries {
            assert_eq!(map.get(key), Some(value));
            assert_eq!(map.get(key + 1), None);
        }
        assert_eq!(IntMap::new(&[]).unwrap().get(0), None);
    }

    #[test]
    fn the_first_of_equal_keys_counts() {
        assert_eq!(IntMap::new(&[(7, 1), (7, 2)]).unwrap().get(7), Some(1));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(IntMap::new(&[(KEY_LIMIT - 1, 0)]).is_none());
        assert!(IntMap::new(&[(0, VALUE_LIMIT)]).is_none());
        let edge = [(KEY_LIMIT - 2, VALUE_LIMIT - 1)];
        assert_eq!(IntMap::new(&edge).unwrap().get(KEY_LIMIT - 2), Some(VALUE_LIMIT - 1));
    }
}
