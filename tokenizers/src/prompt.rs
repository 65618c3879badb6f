//! π0-FAST's prompt pieces: state bins, the prefix text, and FAST ids inside PaliGemma's vocabulary.
//!
//! As in openpi's `FASTTokenizer` (`src/openpi/models/tokenizer.py`): the prefix is `<bos>` and
//! [`fast_prefix`], the answer [`ACTION_PREFIX`], the action ids and [`ACTION_END`].

/// Text between the prefix and the action ids.
pub const ACTION_PREFIX: &str = "Action: ";

/// Token that training appends after the action ids.
pub const ACTION_END: &str = "|";

/// PaliGemma's vocabulary size in openpi's map.
const PALIGEMMA_VOCABULARY: u32 = 257_152;

/// Tokens at the end of PaliGemma's vocabulary (`<seg>`) that the map leaves alone.
const SKIPPED: u32 = 128;

/// Bin of a normalised state value: `count(edges ≤ s) − 1` over the edges `−1 + k/128`, k = 0..=255.
///
/// Values below −1 give −1, not 0, and values from 127/128 give 255: models are trained with
/// exactly that, so nothing is clamped here. NaN counts no edge and gives −1; refuse it before.
///
/// # Real-time
/// Does not allocate.
pub fn discretise_state(s: f64) -> i32 {
    if s.is_nan() {
        return -1;
    }
    // Scaling by a power of two and `floor` are exact, so this is the count of edges.
    ((s * 128.0).floor().clamp(-129.0, 127.0) + 128.0) as i32
}

/// π0-FAST's prefix text: `Task: {instruction}, State: {bins};\n`.
///
/// The instruction is lower-cased and stripped, then `_` becomes a space; `bins` are
/// [`discretise_state`] of each state value in order.
pub fn fast_prefix(instruction: &str, bins: &[i32]) -> String {
    let instruction = instruction.to_lowercase();
    let instruction = instruction.trim().replace('_', " ");
    let bins: Vec<String> = bins.iter().map(i32::to_string).collect();
    format!("Task: {instruction}, State: {};\n", bins.join(" "))
}

/// PaliGemma's id for FAST id `action_id`: `257152 − 1 − 128 − action_id`. `None` below 0.
pub fn paligemma_from_action(action_id: u32) -> Option<u32> {
    (PALIGEMMA_VOCABULARY - 1 - SKIPPED).checked_sub(action_id)
}

/// FAST id behind a PaliGemma id; `None` where it is no action of a FAST vocabulary of
/// `vocab_size` (2048 for FAST+: PaliGemma ids 254976..=257023).
pub fn action_from_paligemma(id: u32, vocab_size: u32) -> Option<u32> {
    (PALIGEMMA_VOCABULARY - 1 - SKIPPED).checked_sub(id).filter(|action_id| *action_id < vocab_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_edges(s: f64) -> i32 {
        (0..=255).filter(|&k| -1.0 + f64::from(k) / 128.0 <= s).count() as i32 - 1
    }

    #[test]
    fn bins_count_the_edges_also_beside_them() {
        for k in -20..=280 {
            let edge = -1.0 + f64::from(k) / 128.0;
            for s in [edge.next_down(), edge, edge.next_up(), edge + 1e-3] {
                assert_eq!(discretise_state(s), count_edges(s), "{s:e}");
            }
        }
        for s in [-1e-300, 1e-300, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(discretise_state(s), count_edges(s), "{s:e}");
        }
    }

    #[test]
    fn the_paligemma_map_is_its_own_inverse_within_the_vocabulary() {
        for action_id in 0..2048 {
            let id = paligemma_from_action(action_id).unwrap();
            assert_eq!(action_from_paligemma(id, 2048), Some(action_id));
        }
        assert_eq!(action_from_paligemma(254_975, 2048), None);
        assert_eq!(action_from_paligemma(257_024, 2048), None);
        assert_eq!(paligemma_from_action(257_024), None);
    }
}
