//! Byte-level byte-pair encoding: inside a piece, merge the lowest-ranked adjacent pair (the
//! leftmost of equals) until none is left. The same order as Hugging Face `tokenizers`.

use super::bytes::{byte_to_char, token_bytes};
use super::matcher::{Matcher, Stack};
use super::pretokenize::pieces;
use crate::EncodeError;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A merge: two ids and the id they become. Its rank is its position in the list.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Merge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) merged: u32,
}

/// Vocabulary and merges. Immutable.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) struct Bpe {
    /// Spelling of each id in GPT-2's printable characters.
    names: Vec<String>,
    /// Bytes of all ids end to end, and where each begins (one entry more than ids).
    bytes: Vec<u8>,
    starts: Vec<usize>,
    /// Id of each single byte.
    byte_ids: Vec<Option<u32>>,
    merges: Vec<Merge>,
    /// A pair and its rank; sorted.
    ranks: Vec<((u32, u32), u32)>,
}

/// Working memory of [`Bpe::encode`], sized once.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    symbols: Vec<Symbol>,
    /// Candidate merges: lowest rank first, then leftmost.
    queue: BinaryHeap<Reverse<(u32, u32)>>,
    stack: Stack,
}

/// An element of the doubly linked list of a piece; `NONE` ends it.
#[derive(Copy, Clone, Debug)]
struct Symbol {
    id: u32,
    previous: u32,
    next: u32,
    is_merged_away: bool,
}

const NONE: u32 = u32::MAX;

impl Scratch {
    /// Room for texts of `codes` code points.
    pub(crate) fn new(codes: usize) -> Self {
        let bytes = 4 * codes;
        // A queue entry per adjacent pair, and at most two more for each merge.
        Self {
            symbols: Vec::with_capacity(bytes),
            queue: BinaryHeap::with_capacity(3 * bytes),
            stack: Stack::new(codes),
        }
    }

    /// Appends a symbol to the list of a piece.
    fn push(&mut self, id: u32) {
        let at = self.symbols.len() as u32;
        let previous = at.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { id, previous, next: at + 1, is_merged_away: false });
    }

    /// Ends the list.
    fn close(&mut self) {
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
    }
}

impl Bpe {
    /// Tables from spellings (index = id) and merges whose ids are within them, each pair once.
    pub(crate) fn new(names: Vec<String>, merges: Vec<Merge>) -> Self {
        let mut bytes = Vec::new();
        let mut starts = vec![0];
        for name in &names {
            bytes.extend(token_bytes(name));
            starts.push(bytes.len());
        }
        let mut byte_ids = vec![None; 256];
        for (id, name) in (0u32..).zip(&names) {
            // Only the printable spelling is reachable by encoding.
            let mut chars = name.chars();
            if let (Some(c), None) = (chars.next(), chars.next())
                && let Some(byte) = super::bytes::char_to_byte(c)
            {
                byte_ids[usize::from(byte)] = Some(id);
            }
        }
        let mut ranks: Vec<((u32, u32), u32)> =
            (0u32..).zip(&merges).map(|(rank, merge)| ((merge.left, merge.right), rank)).collect();
        ranks.sort_unstable();
        Self { names, bytes, starts, byte_ids, merges, ranks }
    }

    /// The 256 single-byte spellings in the order of their characters, as the trainers number them.
    pub(crate) fn alphabet() -> Vec<String> {
        let mut chars: Vec<char> = (0..=255u8).map(byte_to_char).collect();
        chars.sort_unstable();
        chars.into_iter().map(String::from).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// Bytes of `id`, at least one; `None` for an unknown id.
    pub(crate) fn bytes_of(&self, id: u32) -> Option<&[u8]> {
        let id = usize::try_from(id).ok()?;
        let (start, end) = (*self.starts.get(id)?, *self.starts.get(id + 1)?);
        self.bytes.get(start..end)
    }

    pub(crate) fn id_of_byte(&self, byte: u8) -> Option<u32> {
        self.byte_ids[usize::from(byte)]
    }

    /// The smallest code point up to `last` that the single bytes cannot spell, and the first byte it lacks.
    pub(crate) fn first_missing(&self, last: u32) -> Option<(u8, u32)> {
        if self.byte_ids.iter().all(Option::is_some) {
            return None;
        }
        (0..=last).find_map(|code| {
            let mut buffer = [0; 4];
            let text = char::from_u32(code)?.encode_utf8(&mut buffer).as_bytes();
            text.iter().find(|&&byte| self.id_of_byte(byte).is_none()).map(|&byte| (byte, code))
        })
    }

    fn rank(&self, left: u32, right: u32) -> Option<u32> {
        let at = self.ranks.binary_search_by_key(&(left, right), |entry| entry.0).ok()?;
        Some(self.ranks[at].1)
    }

    /// The linear encoder, where the merges are as training makes them; `zero_code` is the code point of
    /// coefficient zero. Checked against merging by rank for every token.
    pub(crate) fn matcher(&self, zero_code: u32) -> Option<Matcher> {
        let merges: Vec<(u32, u32, u32)> = self.merges.iter().map(|m| (m.left, m.right, m.merged)).collect();
        let bytes_of = |id| self.bytes_of(id).unwrap_or_default();
        let matcher = Matcher::new(self.len(), bytes_of, &self.byte_ids, &merges, zero_code)?;
        let longest = (0..self.len() as u32).map(|id| bytes_of(id).len()).max().unwrap_or(0);
        let scratch = std::cell::RefCell::new(Scratch::new(longest.div_ceil(4)));
        let encodes_to_itself = |id: u32| {
            let mut scratch = scratch.borrow_mut();
            scratch.symbols.clear();
            for &byte in bytes_of(id) {
                let Some(id) = self.id_of_byte(byte) else { return false };
                scratch.push(id);
            }
            scratch.close();
            self.merge(&mut scratch);
            scratch.symbols.first().is_some_and(|symbol| symbol.id == id && symbol.next == NONE)
        };
        matcher.covers(encodes_to_itself).then_some(matcher)
    }

    /// Appends the ids of `codes`, which are Unicode scalar values; by `matcher` where there is one.
    pub(crate) fn encode(
        &self,
        matcher: Option<&Matcher>,
        codes: &[u32],
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        for piece in pieces(codes) {
            let piece = &codes[piece];
            if matcher.is_some_and(|matcher| matcher.encode(piece, &mut scratch.stack, ids)) {
                continue;
            }
            self.split_bytes(piece, scratch)?;
            self.merge(scratch);
            ids.extend(scratch.symbols.iter().filter(|symbol| !symbol.is_merged_away).map(|symbol| symbol.id));
        }
        Ok(())
    }

    /// Fills the list with the single-byte ids of a piece.
    fn split_bytes(&self, piece: &[u32], scratch: &mut Scratch) -> Result<(), EncodeError> {
        scratch.symbols.clear();
        for &code in piece {
            let mut buffer = [0; 4];
            let text = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut buffer);
            for &byte in text.as_bytes() {
                let id = self.id_of_byte(byte).ok_or(EncodeError::MissingByte { byte, code })?;
                scratch.push(id);
            }
        }
        scratch.close();
        Ok(())
    }

    fn merge(&self, scratch: &mut Scratch) {
        let Scratch { symbols, queue, .. } = scratch;
        queue.clear();
        for (at, pair) in (0u32..).zip(symbols.windows(2)) {
            if let Some(rank) = self.rank(pair[0].id, pair[1].id) {
                queue.push(Reverse((rank, at)));
            }
        }
        while let Some(Reverse((rank, at))) = queue.pop() {
            let merge = self.merges[rank as usize];
            let symbol = symbols[at as usize];
            if symbol.is_merged_away || symbol.next == NONE {
                continue;
            }
            let neighbour = symbols[symbol.next as usize];
            // A queue entry outlives its pair when either side has merged since. What counts, as in
            // `tokenizers`, is the token the present pair would become.
            let becomes = self.rank(symbol.id, neighbour.id).map(|rank| self.merges[rank as usize].merged);
            if becomes != Some(merge.merged) {
                continue;
            }
            symbols[symbol.next as usize].is_merged_away = true;
            symbols[at as usize] = Symbol { id: merge.merged, next: neighbour.next, ..symbol };
            if neighbour.next != NONE {
                symbols[neighbour.next as usize].previous = at;
                if let Some(rank) = self.rank(merge.merged, symbols[neighbour.next as usize].id) {
                    queue.push(Reverse((rank, at)));
                }
            }
            if symbol.previous != NONE
                && let Some(rank) = self.rank(symbols[symbol.previous as usize].id, merge.merged)
            {
                queue.push(Reverse((rank, symbol.previous)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toy(rules: &[(&str, &str)]) -> Bpe {
        let mut names = Bpe::alphabet();
        let merges = rules
            .iter()
            .map(|(left, right)| {
                let id = |name: &str| names.iter().position(|n| n == name).unwrap() as u32;
                let (left_id, right_id) = (id(left), id(right));
                names.push(format!("{left}{right}"));
                Merge { left: left_id, right: right_id, merged: names.len() as u32 - 1 }
            })
            .collect();
        Bpe::new(names, merges)
    }

    fn spell(bpe: &Bpe, text: &str) -> Vec<String> {
        let codes: Vec<u32> = text.chars().map(u32::from).collect();
        let mut ids = Vec::new();
        bpe.encode(None, &codes, &mut Scratch::new(codes.len()), &mut ids).unwrap();
        if let Some(matcher) = bpe.matcher(97) {
            let mut linear = Vec::new();
            bpe.encode(Some(&matcher), &codes, &mut Scratch::new(codes.len()), &mut linear).unwrap();
            assert_eq!(linear, ids, "{text:?}");
        }
        ids.iter().map(|&id| bpe.names()[id as usize].clone()).collect()
    }

    #[test]
    fn the_lowest_rank_goes_first_and_the_leftmost_of_equals() {
        let bpe = toy(&[("b", "c"), ("a", "b"), ("a", "a")]);
        assert_eq!(spell(&bpe, "abc"), ["a", "bc"]);
        assert_eq!(spell(&bpe, "abab"), ["ab", "ab"]);
        assert_eq!(spell(&bpe, "aaaaa"), ["aa", "aa", "a"]);
    }

    #[test]
    fn merges_never_cross_a_piece() {
        let bpe = toy(&[("a", "1"), ("a", "Ġ"), ("Ġ", "a")]);
        assert_eq!(spell(&bpe, "a1"), ["a", "1"]);
        assert_eq!(spell(&bpe, "a a"), ["a", "Ġa"]);
    }

    #[test]
    fn the_alphabet_is_numbered_like_the_released_tokenizer() {
        let alphabet = Bpe::alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!((alphabet[0].as_str(), alphabet[1].as_str(), alphabet[255].as_str()), ("!", "\"", "Ń"));
    }

    #[test]
    fn a_missing_byte_is_an_error_not_a_shorter_text() {
        let names = Bpe::alphabet().into_iter().filter(|name| name != "b").collect();
        let bpe = Bpe::new(names, Vec::new());
        let mut ids = Vec::new();
        let got = bpe.encode(None, &[0x61, 0x62], &mut Scratch::new(2), &mut ids);
        assert_eq!(got, Err(EncodeError::MissingByte { byte: b'b', code: 0x62 }));
    }
}
