//! Everything before the scan.

use super::super::decode::DecodeError;
use super::entropy::Huffman;

/// One of the three components.
#[derive(Copy, Clone, Default)]
pub(super) struct Part {
    id: u8,
    /// Blocks across and down in one unit.
    pub(super) h: usize,
    pub(super) v: usize,
    /// Its tables.
    pub(super) scale: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// Sizes and tables of a frame.
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) parts: [Part; 3],
    /// In the order coefficients are sent.
    pub(super) scales: [[i32; 64]; 4],
    pub(super) dc: [Huffman; 4],
    pub(super) ac: [Huffman; 4],
    /// Units between restart markers; 0 for none.
    pub(super) restart: u32,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            width: 0,
            height: 0,
            parts: Default::default(),
            scales: [[0; 64]; 4],
            dc: Default::default(),
            ac: Default::default(),
            restart: 0,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 2).map(|pair| usize::from(u16::from_be_bytes([pair[0], pair[1]])))
}

impl Header {
    /// Reads up to the scan; where it begins. `None` for a JPEG that is not decoded here.
    pub(super) fn read(&mut self, jpeg: &[u8], tables: &[u8]) -> Result<Option<usize>, DecodeError> {
        let damaged = DecodeError::Damaged;
        if !jpeg.starts_with(&[0xFF, 0xD8]) {
            return Err(damaged);
        }
        self.restart = 0;
        self.dc.iter_mut().chain(&mut self.ac).for_each(Huffman::forget);
        let (mut at, mut has_frame) = (2, false);
        loop {
            let (Some(0xFF), Some(&marker)) = (jpeg.get(at).copied(), jpeg.get(at + 1)) else { return Err(damaged) };
            if marker == 0xFF {
                at += 1;
                continue;
            }
            let length = word(jpeg, at + 2).filter(|length| *length >= 2).ok_or(damaged)?;
            let segment = jpeg.get(at + 4..at + 2 + length).ok_or(damaged)?;
            at += 2 + length;
            match marker {
                0xDB => self.scales(segment).ok_or(damaged)?,
                0xC4 => self.codes(segment).ok_or(damaged)?,
                0xC0 | 0xC1 => {
                    if !self.frame(segment).ok_or(damaged)? {
                        return Ok(None);
                    }
                    has_frame = true;
                }
                // Progressive, lossless, arithmetic.
                0xC2 | 0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => return Ok(None),
                0xDD => self.restart = word(segment, 0).ok_or(damaged)? as u32,
                // Adobe: 1 is YCbCr, anything else another colour space.
                0xEE if segment.starts_with(b"Adobe") && segment.get(11) != Some(&1) => return Ok(None),
                0xDA if has_frame => {
                    if !self.dc.iter().chain(&self.ac).any(Huffman::is_there) {
                        self.codes(tables).ok_or(damaged)?;
                    }
                    return Ok(self.scan(segment).ok_or(damaged)?.then_some(at));
                }
                0xDA => return Err(damaged),
                _ => {}
            }
        }
    }

    /// The largest sampling factors, across and down.
    pub(super) fn largest(&self) -> (usize, usize) {
        let most = |of: fn(&Part) -> usize| self.parts.iter().map(of).max().unwrap_or(1);
        (most(|part| part.h), most(|part| part.v))
    }

    fn scales(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&first, rest)) = segment.split_first() {
            let table = self.scales.get_mut(usize::from(first & 15))?;
            let wide = first >> 4 != 0;
            let bytes = if wide { 128 } else { 64 };
            let values = rest.get(..bytes)?;
            for (index, value) in table.iter_mut().enumerate() {
                *value = if wide { word(values, 2 * index)? as i32 } else { i32::from(values[index]) };
            }
            segment = &rest[bytes..];
        }
        Some(())
    }

    fn codes(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&first, rest)) = segment.split_first() {
            let tables = if first >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let taken = tables.get_mut(usize::from(first & 15))?.read(rest)?;
            segment = &rest[taken..];
        }
        Some(())
    }

    /// Whether the frame is one that is decoded here.
    fn frame(&mut self, segment: &[u8]) -> Option<bool> {
        let &[bits, _, _, _, _, count, ref rest @ ..] = segment else { return None };
        (self.height, self.width) = (word(segment, 1)?, word(segment, 3)?);
        if bits != 8 || count != 3 {
            return Some(false);
        }
        for (part, described) in self.parts.iter_mut().zip(rest.get(..9)?.chunks_exact(3)) {
            let (h, v) = (usize::from(described[1] >> 4), usize::from(described[1] & 15));
            *part = Part { id: described[0], h, v, scale: usize::from(described[2]), dc: 0, ac: 0 };
            if part.scale > 3 {
                return None;
            }
        }
        let [y, cb, cr] = self.parts;
        let is_alike = (cb.h, cb.v) == (cr.h, cr.v) && cb.h > 0 && cb.v > 0 && y.h <= 2 && y.v <= 2;
        let known = is_alike
            && y.h % cb.h == 0
            && y.v % cb.v == 0
            && [(1, 1), (2, 1), (2, 2)].contains(&(y.h / cb.h, y.v / cb.v));
        Some(known && self.width > 0 && self.height > 0)
    }

    /// Whether the scan has all three components at once.
    fn scan(&mut self, segment: &[u8]) -> Option<bool> {
        let (&count, rest) = segment.split_first()?;
        if count != 3 {
            return Some(false);
        }
        for (part, chosen) in self.parts.iter_mut().zip(rest.get(..6)?.chunks_exact(2)) {
            (part.dc, part.ac) = (usize::from(chosen[1] >> 4), usize::from(chosen[1] & 15));
            if chosen[0] != part.id {
                return Some(false);
            }
            let is_there = |tables: &[Huffman], index: usize| tables.get(index).is_some_and(Huffman::is_there);
            if !is_there(&self.dc, part.dc) || !is_there(&self.ac, part.ac) {
                return None;
            }
        }
        Some(true)
    }
}
