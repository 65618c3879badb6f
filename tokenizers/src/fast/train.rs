//! Learns merges from weighted pieces: byte-pair encoding, most frequent pair first.
//!
//! The result is a function of the multiset of pieces alone. Equally frequent pairs are taken in
//! ascending order of `(left id, right id)`, as Hugging Face's trainer does, so both learn the
//! same merges. Hash order is never visible: a pair's place comes from its count and ids.

use super::bpe::{Bpe, Merge};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

type Pair = (u32, u32);

/// A distinct piece as ids, and how often it occurs.
struct Word {
    symbols: Vec<u32>,
    count: i64,
}

#[derive(Default)]
struct PairUse {
    count: i64,
    /// Words that hold it, or held it once.
    words: Vec<u32>,
}

/// What is learned, and from where.
pub(crate) struct Goal {
    /// First tokens, in id order; every byte of the pieces has its printable character among them.
    pub(crate) alphabet: Vec<String>,
    pub(crate) vocab_size: usize,
    /// A pair seen less often is not merged (at least 1).
    pub(crate) min_frequency: u64,
    /// Pairs that come up during training and would make a token of this many bytes or more are not counted.
    pub(crate) length_limit: usize,
}

/// Trains on `pieces` (UTF-8 bytes → occurrences) until the vocabulary has `vocab_size` tokens or
/// no pair occurs `min_frequency` times.
pub(crate) fn train(pieces: &BTreeMap<Vec<u8>, u64>, goal: Goal) -> Bpe {
    let Goal { alphabet: mut names, vocab_size, min_frequency, length_limit } = goal;
    let alphabet = Bpe::new(names.clone(), Vec::new());
    let mut lengths: Vec<usize> = vec![1; names.len()];
    let mut ids: HashMap<String, u32> = names.iter().cloned().zip(0..).collect();
    let mut words: Vec<Word> = pieces
        .iter()
        .map(|(bytes, &count)| Word {
            symbols: bytes.iter().filter_map(|&byte| alphabet.id_of_byte(byte)).collect(),
            count: i64::try_from(count).unwrap_or(i64::MAX),
        })
        .collect();

    let mut uses: HashMap<Pair, PairUse> = HashMap::new();
    for (index, word) in (0u32..).zip(&words) {
        for pair in word.symbols.windows(2) {
            record(uses.entry((pair[0], pair[1])).or_default(), index, word.count);
        }
    }
    let mut queue: BinaryHeap<(i64, Reverse<Pair>)> =
        uses.iter().map(|(&pair, used)| (used.count, Reverse(pair))).collect();

    let mut merges: Vec<Merge> = Vec::new();
    let mut known: HashMap<Pair, u32> = HashMap::new();
    let least = i64::try_from(min_frequency.max(1)).unwrap_or(i64::MAX);
    while names.len() < vocab_size {
        let Some((count, Reverse(pair))) = queue.pop() else { break };
        let Some(used) = uses.get_mut(&pair) else { continue };
        if used.count != count {
            // The entry is out of date: the pair became rarer, or a newer entry exists.
            if used.count > 0 && used.count < count {
                queue.push((used.count, Reverse(pair)));
            }
            continue;
        }
        if count < least {
            break;
        }
        let holders = std::mem::take(&mut used.words);
        used.count = 0;
        // A pair can come back when one of its sides is spelled in two ways; it stays one merge.
        let merged = *known.entry(pair).or_insert_with(|| {
            let name = format!("{}{}", names[pair.0 as usize], names[pair.1 as usize]);
            let merged = *ids.entry(name.clone()).or_insert_with(|| {
                lengths.push(lengths[pair.0 as usize] + lengths[pair.1 as usize]);
                names.push(name);
                (names.len() - 1) as u32
            });
            merges.push(Merge { left: pair.0, right: pair.1, merged });
            merged
        });
        let mut grown: Vec<Pair> = Vec::new();
        for index in holders {
            let word = &mut words[index as usize];
            let count = word.count;
            merge_word(&mut word.symbols, pair, merged, |changed, is_new| {
                if changed == pair {
                    return;
                }
                let length = lengths[changed.0 as usize] + lengths[changed.1 as usize];
                if is_new && length >= length_limit {
                    return;
                }
                let used = uses.entry(changed).or_default();
                if is_new {
                    record(used, index, count);
                    grown.push(changed);
                } else {
                    used.count -= count;
                }
            });
        }
        grown.sort_unstable();
        grown.dedup();
        queue.extend(grown.into_iter().map(|pair| (uses.get(&pair).map_or(0, |used| used.count), Reverse(pair))));
    }
    Bpe::new(names, merges)
}

fn record(used: &mut PairUse, word: u32, count: i64) {
    used.count += count;
    if used.words.last() != Some(&word) {
        used.words.push(word);
    }
}

/// Replaces `pair` by `merged` from the left; reports each neighbouring pair that goes (`false`)
/// or comes (`true`).
fn merge_word(symbols: &mut Vec<u32>, pair: Pair, merged: u32, mut change: impl FnMut(Pair, bool)) {
    let (mut read, mut write) = (0, 0);
    while read < symbols.len() {
        if symbols[read] == pair.0 && symbols.get(read + 1) == Some(&pair.1) {
            if write > 0 {
                change((symbols[write - 1], pair.0), false);
                change((symbols[write - 1], merged), true);
            }
            if let Some(&next) = symbols.get(read + 2) {
                change((pair.1, next), false);
                change((merged, next), true);
            }
            symbols[write] = merged;
            read += 2;
        } else {
            symbols[write] = symbols[read];
            read += 1;
        }
        write += 1;
    }
    symbols.truncate(write);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(pieces: &[(&str, u64)], vocab_size: usize, min_frequency: u64) -> Vec<String> {
        let pieces = pieces.iter().map(|(text, count)| (text.as_bytes().to_vec(), *count)).collect();
        let alphabet = Bpe::alphabet();
        let bpe = train(&pieces, Goal { alphabet, vocab_size, min_frequency, length_limit: usize::MAX });
        bpe.merges()
            .iter()
            .map(|m| format!("{} {}", bpe.names()[m.left as usize], bpe.names()[m.right as usize]))
            .collect()
    }

    #[test]
    fn the_most_frequent_pair_goes_first() {
        assert_eq!(learn(&[("abc", 3), ("bcd", 2)], 300, 2), ["b c", "a bc", "bc d"]);
    }

    #[test]
    fn equals_go_in_order_of_their_ids() {
        assert_eq!(learn(&[("cd", 2), ("ab", 2)], 300, 2), ["a b", "c d"]);
    }

    #[test]
    fn rare_pairs_and_full_vocabularies_stop_it() {
        assert_eq!(learn(&[("ab", 1)], 300, 2), Vec::<String>::new());
        assert_eq!(learn(&[("abcd", 5)], 257, 2), ["a b"]);
    }

    #[test]
    fn pair_counts_stay_exact_on_runs() {
        // Every window is counted anew after each merge and must agree with the running counts:
        // seen through the merges a brute-force learner makes.
        let pieces = [("aaaaaaab", 4u64), ("aaab", 3), ("baaaab", 2), ("abababa", 5), ("aabbaabb", 3)];
        assert_eq!(learn(&pieces, 270, 2), brute_force(&pieces, 14));
    }

    fn brute_force(pieces: &[(&str, u64)], merges: usize) -> Vec<String> {
        let alphabet = Bpe::alphabet();
        let mut order: HashMap<String, usize> = alphabet.into_iter().zip(0..).collect();
        let mut words: Vec<(Vec<String>, u64)> =
            pieces.iter().map(|(text, count)| (text.chars().map(String::from).collect(), *count)).collect();
        let mut learned = Vec::new();
        while learned.len() < merges {
            let mut counts: HashMap<(String, String), u64> = HashMap::new();
            for (word, count) in &words {
                for pair in word.windows(2) {
                    *counts.entry((pair[0].clone(), pair[1].clone())).or_default() += count;
                }
            }
            let best = counts
                .into_iter()
                .filter(|(_, count)| *count >= 2)
                .min_by_key(|((left, right), count)| (Reverse(*count), order[left], order[right]));
            let Some(((left, right), _)) = best else { break };
            let merged = format!("{left}{right}");
            let next = order.len();
            order.entry(merged.clone()).or_insert(next);
            for (word, _) in &mut words {
                let mut at = 0;
                while at + 1 < word.len() {
                    if word[at] == left && word[at + 1] == right {
                        word[at] = merged.clone();
                        word.remove(at + 1);
                    }
                    at += 1;
                }
            }
            learned.push(format!("{left} {right}"));
        }
        learned
    }
}
