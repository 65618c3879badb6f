//! Byte-pair encoding in time linear in the text: longest match first, with backtracking.
//!
//! A sequence of tokens is the byte-pair encoding of its text exactly when each neighbouring pair is: merging the
//! two tokens' own text gives the same two tokens again (the observation behind the `bpe` crate of
//! github/rust-gems, "So many tokens, so little time", 2024). So the encoding is found by taking the longest token
//! at each place, shortening it while the pair with the token before is no encoding, and stepping back where
//! nothing fits. On FAST text almost every first try is right.
//!
//! It holds for merge lists as training makes them. [`Matcher::new`] checks that and gives `None` otherwise; then
//! [`Bpe`](super::bpe::Bpe) merges by rank:
//! * every token comes from one merge at most, whose two sides come from earlier merges or are bytes;
//! * ids rise with the rank of the merge that makes them, above the ids of the bytes;
//! * a token's own text encodes to that token alone.

use super::bytes::Utf8Reader;
use super::pairs::IntMap;
use std::collections::HashMap;

const NONE: u32 = u32::MAX;

/// Most ids: pairs of ids are remembered in 15 bits each.
const MAX_IDS: usize = 1 << 15;

/// Code points whose first step is looked up directly.
const DIRECT: usize = 1024;

/// Entries of the memory of valid pairs (a power of two).
const MEMORY: usize = 1 << 13;

/// What the matcher needs to know of one token.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
struct Token {
    /// Sides of the merge that makes it; both the token itself when it is a byte.
    left: u32,
    right: u32,
    /// The longest shorter token that begins like it, or `NONE`.
    prefix: u32,
    /// Whole characters; 0 unless the bytes are whole characters and nothing else.
    characters: u32,
    bytes: u32,
}

/// A node of the tree of all tokens' bytes.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
struct Node {
    /// The longest token on the way here.
    best: u32,
    /// Where the most frequent code point, coefficient zero, leads from here.
    zero: u32,
    /// Whether a token goes on with only a part of a character's bytes.
    has_partial: bool,
    /// Whether a token goes on with another whole character than that of zero.
    has_more: bool,
}

/// Tables for the linear encoder. Immutable.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) struct Matcher {
    tokens: Vec<Token>,
    nodes: Vec<Node>,
    /// Node after one code point from the root, for small ones.
    first: Vec<u32>,
    /// `(node, code point)` to node, where neither `first` nor [`Node::zero`] says it.
    edges: IntMap,
    /// `(node, byte)` to node: for tokens that hold parts of characters.
    byte_edges: IntMap,
    /// Two ids to the id they merge to.
    merged: IntMap,
    zero_code: u32,
}

/// Working memory of the matcher.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    steps: Vec<Step>,
    /// Bit set: nothing fits from this place. Index `4 · character + byte in it`.
    dead: Vec<u64>,
    /// Pairs asked before: `left << 16 | right << 1 | is valid`, or `NONE`. Bounded, and exact: it only saves asking.
    memory: Vec<u32>,
}

#[derive(Copy, Clone, Debug)]
struct Step {
    token: u32,
    /// Where it begins.
    at: Place,
}

#[derive(Copy, Clone, Debug)]
struct Place {
    character: u32,
    byte: u32,
}

impl Place {
    fn index(self) -> usize {
        4 * self.character as usize + self.byte as usize
    }
}

impl Stack {
    pub(crate) fn new(codes: usize) -> Self {
        Self {
            steps: Vec::with_capacity(4 * codes),
            dead: vec![0; (4 * codes + 4).div_ceil(64)],
            memory: vec![NONE; MEMORY],
        }
    }
}

/// Two ids as one key.
fn pair_key(left: u32, right: u32) -> u64 {
    (u64::from(left) << 15) | u64::from(right)
}

/// A node and a code point as one key; nodes are few enough, see [`MAX_NODES`].
fn edge_key(node: u32, code: u32) -> u64 {
    (u64::from(node) << 21) | u64::from(code)
}

fn byte_key(node: u32, byte: u8) -> u64 {
    (u64::from(node) << 8) | u64::from(byte)
}

/// Most nodes, so that an edge's key has 40 bits.
const MAX_NODES: usize = 1 << 18;

impl Matcher {
    /// Tables for tokens given by their bytes (index = id), the ids of single bytes and the merges in rank order.
    /// `None` when the list is not as training makes it.
    pub(crate) fn new<'a>(
        ids: usize,
        bytes_of: impl Fn(u32) -> &'a [u8],
        byte_ids: &[Option<u32>],
        merges: &[(u32, u32, u32)],
        zero_code: u32,
    ) -> Option<Self> {
        if ids > MAX_IDS {
            return None;
        }
        let blank = Token { left: NONE, right: NONE, prefix: NONE, characters: 0, bytes: 0 };
        let mut tokens = vec![blank; ids];
        let mut newest = None;
        for &id in byte_ids.iter().flatten() {
            tokens[id as usize] = Token { left: id, right: id, bytes: 1, ..blank };
            newest = newest.max(Some(id));
        }
        for &(left, right, merged) in merges {
            let known = |id: u32| tokens[id as usize].bytes > 0;
            if !known(left) || !known(right) || known(merged) || Some(merged) <= newest {
                return None;
            }
            let bytes = tokens[left as usize].bytes + tokens[right as usize].bytes;
            if bytes_of(merged).len() != bytes as usize {
                return None;
            }
            tokens[merged as usize] = Token { left, right, bytes, ..blank };
            newest = Some(merged);
        }
        let merged: Vec<(u64, u32)> = merges.iter().map(|&(l, r, merged)| (pair_key(l, r), merged)).collect();
        let mut matcher = Self {
            tokens,
            nodes: Vec::new(),
            first: vec![NONE; DIRECT],
            edges: IntMap::new(&[])?,
            byte_edges: IntMap::new(&[])?,
            merged: IntMap::new(&merged)?,
            zero_code,
        };
        matcher.grow(bytes_of)?;
        Some(matcher)
    }

    /// Builds the tree; `None` when it would be too large.
    fn grow<'a>(&mut self, bytes_of: impl Fn(u32) -> &'a [u8]) -> Option<()> {
        let mut children: HashMap<(u32, u8), u32> = HashMap::new();
        let mut parents = vec![NONE];
        let mut ends: Vec<u32> = vec![NONE];
        let mut shortcuts: HashMap<(u32, u32), u32> = HashMap::new();
        let mut end_of = vec![NONE; self.tokens.len()];
        let mut partial: Vec<u32> = Vec::new();
        for id in 0..self.tokens.len() as u32 {
            if self.tokens[id as usize].bytes == 0 {
                continue;
            }
            let (mut node, mut boundary, mut reader, mut characters) = (0u32, 0u32, Utf8Reader::default(), 0u32);
            let mut is_at_start = true;
            if parents.len() > MAX_NODES {
                return None;
            }
            for &byte in bytes_of(id) {
                let next = *children.entry((node, byte)).or_insert_with(|| {
                    parents.push(node);
                    ends.push(NONE);
                    (parents.len() - 1) as u32
                });
                node = next;
                // Continuation bytes at the head end a character that began in the token before.
                is_at_start &= (0x80..0xc0).contains(&byte);
                if is_at_start {
                    boundary = node;
                    continue;
                }
                match reader.push(byte) {
                    Ok(Some(code)) => {
                        shortcuts.insert((boundary, code), node);
                        boundary = node;
                        characters += 1;
                    }
                    Ok(None) => {}
                    // No text has these bytes, so the rest of the path is never walked.
                    Err(_) => reader = Utf8Reader::default(),
                }
            }
            if node != boundary {
                partial.push(boundary);
            }
            if std::str::from_utf8(bytes_of(id)).is_ok() {
                self.tokens[id as usize].characters = characters;
            }
            ends[node as usize] = id;
            end_of[id as usize] = node;
        }
        // Parents come before their children.
        let mut best = vec![NONE; parents.len()];
        for node in 1..parents.len() {
            best[node] = if ends[node] == NONE { best[parents[node] as usize] } else { ends[node] };
        }
        for (token, &end) in self.tokens.iter_mut().zip(&end_of) {
            if end != NONE {
                token.prefix = best[parents[end as usize] as usize];
            }
        }
        self.nodes = best.iter().map(|&best| Node { best, zero: NONE, has_partial: false, has_more: false }).collect();
        for node in partial {
            self.nodes[node as usize].has_partial = true;
        }
        let mut edges: Vec<(u64, u32)> = Vec::new();
        for (&(node, code), &next) in &shortcuts {
            if node == 0
                && let Some(slot) = self.first.get_mut(code as usize)
            {
                *slot = next;
            }
            if code == self.zero_code {
                self.nodes[node as usize].zero = next;
            } else {
                self.nodes[node as usize].has_more = true;
                edges.push((edge_key(node, code), next));
            }
        }
        let mut byte_edges: Vec<(u64, u32)> =
            children.iter().map(|(&(node, byte), &next)| (byte_key(node, byte), next)).collect();
        // The order decides where collisions go, and so what two equal tokenizers hold.
        edges.sort_unstable();
        byte_edges.sort_unstable();
        self.edges = IntMap::new(&edges)?;
        self.byte_edges = IntMap::new(&byte_edges)?;
        Some(())
    }

    /// Whether every token that merges make encodes to itself: checked once, at load.
    pub(crate) fn covers(&self, encode: impl Fn(u32) -> bool) -> bool {
        (0u32..).zip(&self.tokens).filter(|(_, token)| token.bytes > 1).all(|(id, _)| encode(id))
    }

    /// Appends the ids of one piece; `false` when it gave up, with `ids` as before.
    pub(crate) fn encode(&self, piece: &[u32], stack: &mut Stack, ids: &mut Vec<u32>) -> bool {
        let Stack { steps, dead, memory } = stack;
        steps.clear();
        let mut is_dirty = false;
        let mut at = Place { character: 0, byte: 0 };
        let mut last = NONE;
        let end = piece.len() as u32;
        let mut token = self.longest(piece, at);
        loop {
            if token == NONE {
                // Nothing fits here: never come back, and shorten the token before.
                let Some(step) = steps.pop() else { break };
                if !is_dirty {
                    dead.fill(0);
                    is_dirty = true;
                }
                dead[at.index() / 64] |= 1 << (at.index() % 64);
                at = step.at;
                last = steps.last().map_or(NONE, |step| step.token);
                token = self.tokens[step.token as usize].prefix;
                continue;
            }
            let next = self.after(piece, at, token);
            let is_dead = is_dirty && dead[next.index() / 64] >> (next.index() % 64) & 1 == 1;
            if is_dead || !(last == NONE || self.is_pair(last, token, memory)) {
                token = self.tokens[token as usize].prefix;
                continue;
            }
            steps.push(Step { token, at });
            (at, last) = (next, token);
            if at.character == end {
                ids.extend(steps.iter().map(|step| step.token));
                return true;
            }
            token = self.longest(piece, at);
        }
        false
    }

    /// The longest token at a place, or `NONE`.
    #[inline]
    fn longest(&self, piece: &[u32], at: Place) -> u32 {
        let Some((&code, rest)) = piece.get(at.character as usize..).and_then(<[u32]>::split_first) else {
            return NONE;
        };
        let mut node = self.first.get(code as usize).copied().unwrap_or(NONE);
        if at.byte > 0 || node == NONE {
            let (stop, is_whole) = self.first_step(code, at.byte as usize);
            if !is_whole {
                return self.nodes[stop as usize].best;
            }
            node = stop;
        }
        let mut here = self.nodes[node as usize];
        for &code in rest {
            let next = if code == self.zero_code {
                here.zero
            } else if here.has_more {
                self.edges.get(edge_key(node, code)).unwrap_or(NONE)
            } else {
                NONE
            };
            if next == NONE {
                if here.has_partial {
                    return self.nodes[self.walk_bytes(node, code, 0).0 as usize].best;
                }
                break;
            }
            node = next;
            here = self.nodes[node as usize];
        }
        here.best
    }

    /// From the root: a code point without a direct entry, or the end of one begun before.
    #[cold]
    fn first_step(&self, code: u32, from: usize) -> (u32, bool) {
        match self.edges.get(edge_key(0, code)) {
            Some(node) if from == 0 => (node, true),
            _ => self.walk_bytes(0, code, from),
        }
    }

    /// Follows the bytes of `code` from its byte `from`; the node reached, and whether that is its end.
    #[cold]
    fn walk_bytes(&self, mut node: u32, code: u32, from: usize) -> (u32, bool) {
        let mut buffer = [0; 4];
        for &byte in utf8(code, &mut buffer).get(from..).unwrap_or_default() {
            let Some(next) = self.byte_edges.get(byte_key(node, byte)) else { return (node, false) };
            node = next;
        }
        (node, true)
    }

    /// The place behind `token`.
    #[inline]
    fn after(&self, piece: &[u32], at: Place, token: u32) -> Place {
        let token = &self.tokens[token as usize];
        if at.byte == 0 && token.characters > 0 {
            return Place { character: at.character + token.characters, byte: 0 };
        }
        let mut left = token.bytes;
        let Place { mut character, mut byte } = at;
        while left > 0 {
            let length = piece.get(character as usize).map_or(1, |&code| utf8_length(code));
            let taken = left.min(length - byte);
            (left, byte) = (left - taken, byte + taken);
            if byte == length {
                (character, byte) = (character + 1, 0);
            }
        }
        Place { character, byte }
    }

    /// Whether the two tokens are the encoding of their joined text.
    #[inline]
    fn is_pair(&self, left: u32, right: u32, memory: &mut [u32]) -> bool {
        let key = (left << 16) | (right << 1);
        let at = (key.wrapping_mul(0x9e37_79b1) >> 19) as usize & (MEMORY - 1);
        let seen = memory[at];
        if seen & !1 == key && seen != NONE {
            return seen & 1 == 1;
        }
        let is_pair = self.is_pair_computed(left, right);
        memory[at] = key | u32::from(is_pair);
        is_pair
    }

    /// Undoes merges on both sides of the seam, the later one first; the pair stands unless some pair across the
    /// seam would have merged before the merges that hide it.
    fn is_pair_computed(&self, mut left: u32, mut right: u32) -> bool {
        let mut limit = NONE;
        loop {
            if self.merged.get(pair_key(left, right)).is_some_and(|merged| merged < limit) {
                return false;
            }
            let (l, r) = (self.tokens[left as usize], self.tokens[right as usize]);
            let (is_left_byte, is_right_byte) = (l.right == left, r.left == right);
            if left > right {
                if !is_left_byte {
                    (limit, left) = (left, l.right);
                } else if !is_right_byte {
                    (limit, right) = (right + 1, r.left);
                } else {
                    return true;
                }
            } else if !is_right_byte {
                (limit, right) = (right + 1, r.left);
            } else if !is_left_byte {
                (limit, left) = (left, l.right);
            } else {
                return true;
            }
        }
    }
}

fn utf8(code: u32, buffer: &mut [u8; 4]) -> &[u8] {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(buffer).as_bytes()
}

fn utf8_length(code: u32) -> u32 {
    match code {
        0..=0x7f => 1,
        0x80..=0x7ff => 2,
        0x800..=0xffff => 3,
        _ => 4,
    }
}
