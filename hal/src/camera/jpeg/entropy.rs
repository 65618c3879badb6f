//! Huffman codes and the bits of a scan.

use super::super::decode::DecodeError;

/// Codes up to this length are looked up at once.
const SHORT: u32 = 9;

/// One Huffman table.
#[derive(Clone)]
pub(super) struct Huffman {
    /// By the next `SHORT` bits: length and symbol; length 0 for longer codes.
    short: [(u8, u8); 1 << SHORT],
    /// By length: one more than the largest code of that length, left-aligned to 16 bits, and what to add to a code for
    /// the place of its symbol.
    ends: [u32; 17],
    shifts: [i32; 17],
    symbols: [u8; 256],
    is_there: bool,
}

impl Default for Huffman {
    fn default() -> Self {
        Self { short: [(0, 0); 1 << SHORT], ends: [0; 17], shifts: [0; 17], symbols: [0; 256], is_there: false }
    }
}

impl Huffman {
    /// Takes a table from its counts by length and its symbols; the bytes it took. `None` where it is none.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<usize> {
        let counts = bytes.get(..16)?;
        let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
        let symbols = bytes.get(16..16 + total).filter(|_| total <= 256)?;
        self.symbols[..total].copy_from_slice(symbols);
        self.short.fill((0, 0));
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            if code + count > 1 << length {
                return None;
            }
            self.shifts[length as usize] = place as i32 - code as i32;
            if length <= SHORT {
                for index in 0..count {
                    let first = ((code + index) << (SHORT - length)) as usize;
                    let entry = (length as u8, symbols[place + index as usize]);
                    self.short[first..first + (1 << (SHORT - length))].fill(entry);
                }
            }
            code += count;
            place += count as usize;
            self.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        self.is_there = true;
        Some(16 + total)
    }

    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    pub(super) fn forget(&mut self) {
        self.is_there = false;
    }
}

/// The bits of a scan, stuffing removed.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
    /// Bits made up behind the end of the data.
    made_up: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, held: 0, count: 0, made_up: 0 }
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xFF), Some(0)) => {
                    self.at += 2;
                    0xFF
                }
                // A marker, or the end: nothing more belongs to this stretch.
                (Some(0xFF), _) | (None, _) => {
                    self.made_up += 8;
                    0
                }
                (Some(&byte), _) => {
                    self.at += 1;
                    byte
                }
            };
            self.held = self.held << 8 | u64::from(byte);
            self.count += 8;
        }
    }

    fn peek(&mut self, count: u32) -> u32 {
        if self.count < count {
            self.fill();
        }
        ((self.held >> (self.count - count)) & ((1 << count) - 1)) as u32
    }

    /// Takes bits; those behind the end are an error.
    fn take(&mut self, count: u32) -> Result<(), DecodeError> {
        self.count -= count;
        if self.made_up > self.count { Err(DecodeError::Damaged) } else { Ok(()) }
    }

    pub(super) fn symbol(&mut self, table: &Huffman) -> Result<u8, DecodeError> {
        let next = self.peek(16);
        let (length, symbol) = table.short[(next >> (16 - SHORT)) as usize];
        if length > 0 {
            self.take(u32::from(length))?;
            return Ok(symbol);
        }
        for length in SHORT + 1..=16 {
            if next < table.ends[length as usize] {
                let place = (next >> (16 - length)) as i32 + table.shifts[length as usize];
                let symbol = usize::try_from(place).ok().and_then(|place| table.symbols.get(place).copied());
                self.take(length)?;
                return symbol.ok_or(DecodeError::Damaged);
            }
        }
        Err(DecodeError::Damaged)
    }

    /// A number of `size` bits; the smaller half of them are negative.
    pub(super) fn value(&mut self, size: u8) -> Result<i32, DecodeError> {
        if size == 0 {
            return Ok(0);
        }
        let size = u32::from(size);
        let bits = self.peek(size) as i32;
        self.take(size)?;
        Ok(if bits < 1 << (size - 1) { bits - (1 << size) + 1 } else { bits })
    }

    /// Goes on behind the next restart marker.
    pub(super) fn restart(&mut self) -> Result<(), DecodeError> {
        (self.held, self.count, self.made_up) = (0, 0, 0);
        // Bytes held ahead belong to the stretch before: the marker has not been passed.
        while let Some(&byte) = self.bytes.get(self.at) {
            match (byte, self.bytes.get(self.at + 1)) {
                (0xFF, Some(0xD0..=0xD7)) => {
                    self.at += 2;
                    return Ok(());
                }
                (0xFF, Some(0 | 0xFF)) => self.at += 1,
                (0xFF, _) => return Err(DecodeError::Damaged),
                _ => self.at += 1,
            }
        }
        Err(DecodeError::Damaged)
    }
}
