//! Baseline JPEG as cameras send it, bit for bit as libjpeg-turbo decodes it by default.
//!
//! Policies are trained on images that libjpeg decoded, and its arithmetic is the reference: the integer transform
//! `islow`, triangular up-sampling of chrominance, fixed-point colour. `zune-jpeg` differs from it by up to seven levels at
//! 4:2:0, and the pure-Rust `jpeg-decoder` 0.3 by up to four. Written from ITU-T T.81 and the published transform; frames
//! of other kinds (progressive, grey, other samplings) are left to `zune-jpeg`.

mod entropy;
mod header;
mod pixels;
mod transform;

use super::decode::DecodeError;
use entropy::Bits;
use header::Header;
use pixels::Plane;

/// A decoder with its buffers.
#[derive(Default)]
pub(super) struct Baseline {
    header: Header,
    planes: [Plane; 3],
    row: pixels::Rows,
}

/// What became of a frame.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Decoded.
    Decoded,
    /// A JPEG of a kind that is not decoded here; nothing was written.
    OfAnotherKind,
}

/// The order in which coefficients are sent.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

impl Baseline {
    /// Decodes a frame of this size into `[h, w, 3]` RGB. A frame without Huffman tables means those of `tables`, the
    /// contents of one DHT segment.
    ///
    /// # Errors
    /// [`DecodeError`]; `rgb` is undefined then.
    ///
    /// # Real-time
    /// Allocates when the size or sampling is another than before only.
    pub(super) fn decode(
        &mut self,
        jpeg: &[u8],
        tables: &[u8],
        size: (u32, u32),
        rgb: &mut [u8],
    ) -> Result<Outcome, DecodeError> {
        let Some(scan) = self.header.read(jpeg, tables)? else { return Ok(Outcome::OfAnotherKind) };
        let (width, height) = (size.0 as usize, size.1 as usize);
        if (self.header.width, self.header.height) != (width, height) || rgb.len() != width * height * 3 {
            return Err(DecodeError::Size);
        }
        let (most_h, most_v) = self.header.largest();
        let (across, down) = (width.div_ceil(8 * most_h), height.div_ceil(8 * most_v));
        for (plane, part) in self.planes.iter_mut().zip(&self.header.parts) {
            plane.resize(across * part.h * 8, down * part.v * 8);
            plane.width = (width * part.h).div_ceil(most_h);
            plane.height = (height * part.v).div_ceil(most_v);
        }
        self.scan(&jpeg[scan..], across, down)?;
        let ratio = (most_h / self.header.parts[1].h, most_v / self.header.parts[1].v);
        pixels::to_rgb(&self.planes, ratio, width, &mut self.row, rgb);
        Ok(Outcome::Decoded)
    }

    fn scan(&mut self, bytes: &[u8], across: usize, down: usize) -> Result<(), DecodeError> {
        let Self { header, planes, .. } = self;
        let mut bits = Bits::new(bytes);
        let mut before = [0i32; 3];
        let mut left = header.restart;
        for unit in 0..across * down {
            if header.restart > 0 && left == 0 {
                bits.restart()?;
                (before, left) = ([0; 3], header.restart);
            }
            left = left.wrapping_sub(1);
            let (x, y) = (unit % across, unit / across);
            for (index, part) in header.parts.iter().enumerate() {
                let (dc, ac) = (&header.dc[part.dc], &header.ac[part.ac]);
                let scale = &header.scales[part.scale];
                for block in 0..part.h * part.v {
                    let mut values = [0i32; 64];
                    let size = bits.symbol(dc)?;
                    if size > 15 {
                        return Err(DecodeError::Damaged);
                    }
                    before[index] = before[index].wrapping_add(bits.value(size)?);
                    values[0] = before[index].wrapping_mul(scale[0]);
                    let mut at = 1;
                    while at < 64 {
                        let symbol = bits.symbol(ac)?;
                        let (run, size) = (usize::from(symbol >> 4), symbol & 15);
                        if size == 0 {
                            if run != 15 {
                                break;
                            }
                            at += 16;
                            continue;
                        }
                        at += run;
                        let Some(&place) = ZIGZAG.get(at) else { return Err(DecodeError::Damaged) };
                        values[usize::from(place)] = bits.value(size)?.wrapping_mul(scale[at]);
                        at += 1;
                    }
                    let column = (x * part.h + block % part.h) * 8;
                    let row = (y * part.v + block / part.h) * 8;
                    planes[index].put(column, row, &transform::inverse(&values));
                }
            }
        }
        Ok(())
    }
}
