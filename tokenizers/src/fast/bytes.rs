//! Bytes and text: GPT-2's printable-byte table, and a strict incremental UTF-8 reader.

/// GPT-2's table: the character that stands for a byte in a vocabulary file.
///
/// Printable Latin-1 bytes stand for themselves; the other 68 take U+0100 upwards in byte order.
pub(crate) fn byte_to_char(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        // 0x00–0x20 are the first 33, 0x7f–0xa0 the next 34, 0xad the last.
        0x00..=0x20 => offset_char(u32::from(byte)),
        0x7f..=0xa0 => offset_char(33 + u32::from(byte) - 0x7f),
        0xad => offset_char(67),
    }
}

fn offset_char(index: u32) -> char {
    char::from_u32(0x100 + index).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Inverse of [`byte_to_char`]; `None` for a character that stands for no byte.
pub(crate) fn char_to_byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Bytes a vocabulary entry stands for. As upstream: an entry with a character outside the table
/// stands for its own UTF-8 bytes.
pub(crate) fn token_bytes(token: &str) -> Vec<u8> {
    token.chars().map(char_to_byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte sequence cannot be UTF-8.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct InvalidUtf8;

/// Strict UTF-8, one byte at a time (Unicode 16, table 3-7): no overlong form, no surrogate,
/// nothing above U+10FFFF. Small enough to be copied as a whole.
#[derive(Copy, Clone, Default, Debug)]
pub(crate) struct Utf8Reader {
    code: u32,
    missing: u8,
    /// Allowed range of the next byte.
    low: u8,
    high: u8,
}

impl Utf8Reader {
    /// Feeds a byte; a scalar value comes out with its last byte.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Option<u32>, InvalidUtf8> {
        if self.missing == 0 {
            let (missing, code, low, high) = match byte {
                0x00..=0x7f => return Ok(Some(u32::from(byte))),
                0xc2..=0xdf => (1, byte & 0x1f, 0x80, 0xbf),
                0xe0 => (2, byte & 0x0f, 0xa0, 0xbf),
                0xed => (2, byte & 0x0f, 0x80, 0x9f),
                0xe1..=0xef => (2, byte & 0x0f, 0x80, 0xbf),
                0xf0 => (3, byte & 0x07, 0x90, 0xbf),
                0xf1..=0xf3 => (3, byte & 0x07, 0x80, 0xbf),
                0xf4 => (3, byte & 0x07, 0x80, 0x8f),
                _ => return Err(InvalidUtf8),
            };
            *self = Self { code: u32::from(code), missing, low, high };
            return Ok(None);
        }
        if !(self.low..=self.high).contains(&byte) {
            return Err(InvalidUtf8);
        }
        self.code = (self.code << 6) | u32::from(byte & 0x3f);
        (self.missing, self.low, self.high) = (self.missing - 1, 0x80, 0xbf);
        Ok((self.missing == 0).then_some(self.code))
    }

    /// Inside a character: the smallest scalar value it can still become.
    pub(crate) fn smallest_end(&self) -> Option<u32> {
        let rest = u32::from(self.missing.checked_sub(1)?);
        Some(((self.code << 6) | u32::from(self.low & 0x3f)) << (6 * rest))
    }

    /// True inside a character.
    pub(crate) fn is_dangling(&self) -> bool {
        self.missing > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_table_is_a_bijection() {
        let mut seen = std::collections::BTreeSet::new();
        for byte in 0..=255u8 {
            assert!(seen.insert(byte_to_char(byte)));
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
        }
        assert_eq!(byte_to_char(0), 'Ā');
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(byte_to_char(b'\n'), 'Ċ');
        assert_eq!(byte_to_char(0xad), 'Ń');
        assert_eq!(char_to_byte(' '), None);
        assert_eq!(char_to_byte('\u{144}'), None);
    }

    #[test]
    fn an_entry_outside_the_table_stands_for_its_own_bytes() {
        assert_eq!(token_bytes("Å¢"), [0xc5, 0xa2]);
        assert_eq!(token_bytes("\u{0}G"), [0, b'G']);
        assert_eq!(token_bytes("\u{80}"), [0xc2, 0x80]);
    }

    #[test]
    fn the_smallest_end_of_every_beginning_is_the_smallest_character_that_begins_so() {
        let mut smallest = std::collections::BTreeMap::new();
        for c in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            for length in 1..bytes.len() {
                smallest.entry(bytes[..length].to_vec()).or_insert(u32::from(c));
            }
        }
        for (beginning, wanted) in smallest {
            let mut reader = Utf8Reader::default();
            beginning.iter().for_each(|&byte| assert_eq!(reader.push(byte), Ok(None)));
            assert_eq!(reader.smallest_end(), Some(wanted), "{beginning:x?}");
        }
        assert_eq!(Utf8Reader::default().smallest_end(), None);
    }

    #[test]
    fn the_reader_agrees_with_the_standard_library() {
        let mut state = 1u64;
        let mut buffer = [0u8; 6];
        for round in 0..400_000u32 {
            for byte in &mut buffer {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let random = (state >> 56) as u8;
                // Favour lead and continuation bytes.
                *byte = if round % 2 == 0 { random } else { 0x80 | random };
            }
            for length in 0..=buffer.len() {
                let bytes = &buffer[..length];
                let mut reader = Utf8Reader::default();
                let read: Result<Vec<Option<u32>>, InvalidUtf8> = bytes.iter().map(|&b| reader.push(b)).collect();
                match std::str::from_utf8(bytes) {
                    Ok(text) => {
                        assert!(!reader.is_dangling());
                        let codes: Vec<u32> = read.unwrap().into_iter().flatten().collect();
                        assert_eq!(codes, text.chars().map(u32::from).collect::<Vec<_>>());
                    }
                    Err(e) if e.error_len().is_none() => assert!(read.is_ok() && reader.is_dangling()),
                    Err(_) => assert_eq!(read, Err(InvalidUtf8)),
                }
            }
        }
    }
}
