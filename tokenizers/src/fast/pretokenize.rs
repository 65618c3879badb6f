//! GPT-2's splitter over code points, written by hand.
//!
//! The expression, alternatives tried in order:
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
//! BPE merges never cross a piece, and the code points of FAST coefficients wander over all of
//! ASCII, so the split decides the ids. Every code point falls into exactly one piece.

use super::unicode::{Class, class};
use std::ops::Range;

const SPACE: u32 = 0x20;
const APOSTROPHE: u32 = 0x27;

/// The pieces of a text, as index ranges. No allocation.
pub(crate) struct Pieces<'a> {
    codes: &'a [u32],
    at: usize,
}

/// Splits `codes` (Unicode scalar values).
pub(crate) fn pieces(codes: &[u32]) -> Pieces<'_> {
    Pieces { codes, at: 0 }
}

impl Iterator for Pieces<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let rest = self.codes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let start = self.at;
        self.at += piece_length(rest);
        Some(start..self.at)
    }
}

/// Length of the piece at the head of a non-empty text.
fn piece_length(text: &[u32]) -> usize {
    if let Some(length) = contraction(text) {
        return length;
    }
    // ` ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+`: U+0020, and no other blank, joins what follows it.
    let lead = usize::from(text[0] == SPACE);
    if let Some(&first) = text.get(lead) {
        let kind = class(first);
        if kind != Class::Space {
            return lead + run(&text[lead..], kind);
        }
    }
    // `\s+(?!\S)|\s+`: a run of blanks leaves its last one to what follows, unless it is alone.
    let blanks = run(text, Class::Space);
    if blanks < text.len() && blanks > 1 { blanks - 1 } else { blanks }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, case-sensitive.
fn contraction(text: &[u32]) -> Option<usize> {
    if text[0] != APOSTROPHE {
        return None;
    }
    let letter = |at: usize| text.get(at).copied().and_then(char::from_u32);
    match (letter(1)?, letter(2)) {
        ('s' | 't' | 'm' | 'd', _) => Some(2),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(3),
        _ => None,
    }
}

fn run(text: &[u32], kind: Class) -> usize {
    text.iter().position(|&code| class(code) != kind).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        let codes: Vec<u32> = text.chars().map(u32::from).collect();
        pieces(&codes).map(|r| codes[r].iter().filter_map(|&c| char::from_u32(c)).collect()).collect()
    }

    #[test]
    fn letters_numbers_and_marks_are_apart() {
        assert_eq!(split("GG12((G"), ["GG", "12", "((", "G"]);
        assert_eq!(split("a\u{1}\u{1f}b"), ["a", "\u{1}\u{1f}", "b"]);
        assert_eq!(split("\u{162}\u{162}é"), ["\u{162}\u{162}é"]);
        assert_eq!(split("²½x"), ["²½", "x"]);
    }

    #[test]
    fn only_the_plain_space_joins_what_follows() {
        assert_eq!(split("a b"), ["a", " b"]);
        assert_eq!(split("a\tb"), ["a", "\t", "b"]);
        assert_eq!(split("a\u{a0}b"), ["a", "\u{a0}", "b"]);
        assert_eq!(split("a (1 2"), ["a", " (", "1", " 2"]);
    }

    #[test]
    fn a_run_of_blanks_leaves_its_last_one() {
        assert_eq!(split("a  b"), ["a", " ", " b"]);
        assert_eq!(split("a \t\tb"), ["a", " \t", "\t", "b"]);
        assert_eq!(split("a \t"), ["a", " \t"]);
        assert_eq!(split("  "), ["  "]);
        assert_eq!(split(""), Vec::<String>::new());
    }

    #[test]
    fn contractions_come_first() {
        assert_eq!(split("'sx"), ["'s", "x"]);
        assert_eq!(split("'llx"), ["'ll", "x"]);
        assert_eq!(split("'lx"), ["'", "lx"]);
        assert_eq!(split("'re've"), ["'re", "'ve"]);
        assert_eq!(split("!'s"), ["!'", "s"]);
        assert_eq!(split("a's"), ["a", "'s"]);
        assert_eq!(split(" 's"), [" '", "s"]);
        assert_eq!(split("'S'"), ["'", "S", "'"]);
        assert_eq!(split("'"), ["'"]);
    }
}
