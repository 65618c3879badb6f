//! Motion JPEG: frames as UVC cameras send them, with or without Huffman tables.

use super::decode::DecodeError;
use super::jpeg::{Baseline, Outcome};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// The tables of ITU-T T.81, annex K.3, as the contents of one DHT segment: luminance and chrominance, DC and AC. A
/// frame without tables means these (USB Video Class, payload MJPEG).
const HUFFMAN: [u8; 416] = [
    0x00, 0x00, 0x01, 0x05, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
    0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x10, 0x00, 0x02, 0x01, 0x03, 0x03, 0x02, 0x04, 0x03,
    0x05, 0x05, 0x04, 0x04, 0x00, 0x00, 0x01, 0x7D, 0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41,
    0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52,
    0xD1, 0xF0, 0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28, 0x29,
    0x2A, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55,
    0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78,
    0x79, 0x7A, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A,
    0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2,
    0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
    0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA, 0x01,
    0x00, 0x03, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02,
    0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x11, 0x00, 0x02, 0x01, 0x02, 0x04, 0x04, 0x03, 0x04, 0x07,
    0x05, 0x04, 0x04, 0x00, 0x01, 0x02, 0x77, 0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41,
    0x51, 0x07, 0x61, 0x71, 0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52,
    0xF0, 0x15, 0x62, 0x72, 0xD1, 0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26, 0x27, 0x28,
    0x29, 0x2A, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55,
    0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78,
    0x79, 0x7A, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    0x9A, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA,
    0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE2,
    0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
];

const SOI: [u8; 2] = [0xFF, 0xD8];
const DHT: u8 = 0xC4;
const SOS: u8 = 0xDA;

/// Where a frame's tables belong when it has none: right before its scan. `None` when it has tables, or is no JPEG.
fn missing_tables(jpeg: &[u8]) -> Option<usize> {
    let mut at = if jpeg.starts_with(&SOI) { 2 } else { return None };
    loop {
        let (&[0xFF, marker], rest) = (jpeg.get(at..at + 2)?, jpeg.get(at + 2..at + 4)?) else { return None };
        match marker {
            DHT => return None,
            SOS => return Some(at),
            0xFF => at += 1,
            _ => at += 2 + usize::from(u16::from_be_bytes([rest[0], rest[1]])),
        }
    }
}

/// Decodes frames, as libjpeg-turbo does by default; keeps its buffers.
#[derive(Default)]
pub struct MjpegDecoder {
    baseline: Box<Baseline>,
    scratch: Vec<u8>,
}

impl MjpegDecoder {
    /// Decodes one frame into `[h, w, 3]` RGB. Bytes after its end are ignored, as drivers pad.
    ///
    /// # Errors
    /// [`DecodeError`]; `rgb` is undefined then.
    ///
    /// # Real-time
    /// Does not allocate for baseline frames (4:4:4, 4:2:2, 4:2:0) of one size after the first; other kinds allocate inside
    /// `zune-jpeg`. Takes milliseconds: for camera threads.
    pub fn decode(&mut self, jpeg: &[u8], size: (u32, u32), rgb: &mut [u8]) -> Result<(), DecodeError> {
        if self.baseline.decode(jpeg, &HUFFMAN, size, rgb)? == Outcome::Decoded {
            return Ok(());
        }
        let whole = match missing_tables(jpeg) {
            None => jpeg,
            Some(at) => {
                let length = (HUFFMAN.len() as u16 + 2).to_be_bytes();
                self.scratch.clear();
                for part in [&jpeg[..at], &[0xFF, DHT], &length, &HUFFMAN, &jpeg[at..]] {
                    self.scratch.extend_from_slice(part);
                }
                &self.scratch
            }
        };
        let options = DecoderOptions::new_fast().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(whole), options);
        decoder.decode_headers().map_err(|_| DecodeError::Damaged)?;
        let (width, height) = (size.0 as usize, size.1 as usize);
        let found = decoder.info().map(|info| (usize::from(info.width), usize::from(info.height)));
        if found != Some((width, height)) || rgb.len() != width * height * 3 {
            return Err(DecodeError::Size);
        }
        // Strict, so that a damaged scan is an error, and cleared, so that no pixel is ever that of another frame.
        rgb.fill(0);
        decoder.decode_into(rgb).map_err(|_| DecodeError::Damaged)
    }
}

/// Width and height that a JPEG names.
///
/// # Errors
/// [`DecodeError::Damaged`].
pub fn jpeg_size(jpeg: &[u8]) -> Result<(u32, u32), DecodeError> {
    let mut decoder = JpegDecoder::new(ZCursor::new(jpeg));
    decoder.decode_headers().map_err(|_| DecodeError::Damaged)?;
    let info = decoder.info().ok_or(DecodeError::Damaged)?;
    Ok((u32::from(info.width), u32::from(info.height)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (u32, u32) = (48, 32);

    /// Frames and reference pixels made by `hal/tests/jpeg/make.py` with libjpeg-turbo.
    const CASES: [(&str, &[u8], &[u8]); 3] = [
        ("4:2:0", include_bytes!("../../tests/jpeg/420.jpg"), include_bytes!("../../tests/jpeg/420.rgb")),
        ("4:2:2", include_bytes!("../../tests/jpeg/422.jpg"), include_bytes!("../../tests/jpeg/422.rgb")),
        ("4:4:4", include_bytes!("../../tests/jpeg/444.jpg"), include_bytes!("../../tests/jpeg/444.rgb")),
    ];

    /// As a UVC camera sends it.
    fn without_tables(jpeg: &[u8]) -> Vec<u8> {
        let (mut out, mut at) = (SOI.to_vec(), 2);
        loop {
            let len = 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
            if jpeg[at + 1] == SOS {
                out.extend_from_slice(&jpeg[at..]);
                return out;
            }
            if jpeg[at + 1] != DHT {
                out.extend_from_slice(&jpeg[at..at + len]);
            }
            at += len;
        }
    }

    #[test]
    fn frames_decode_bit_for_bit_as_libjpeg_turbo_does_with_and_without_tables() {
        let mut decoder = MjpegDecoder::default();
        for (name, jpeg, reference) in CASES {
            let mut rgb = vec![0; reference.len()];
            decoder.decode(jpeg, SIZE, &mut rgb).unwrap();
            assert!(rgb == reference, "{name}: not what libjpeg-turbo gives");
            let bare = without_tables(jpeg);
            assert!(missing_tables(&bare).is_some() && missing_tables(jpeg).is_none());
            let mut again = vec![0; reference.len()];
            decoder.decode(&bare, SIZE, &mut again).unwrap();
            assert_eq!(rgb, again, "{name}");
        }
    }

    #[test]
    fn broken_frames_are_errors() {
        let mut decoder = MjpegDecoder::default();
        let mut rgb = vec![0; 48 * 32 * 3];
        let (_, jpeg, _) = CASES[0];
        assert_eq!(decoder.decode(&jpeg[..20], SIZE, &mut rgb), Err(DecodeError::Damaged));
        assert_eq!(decoder.decode(b"", SIZE, &mut rgb), Err(DecodeError::Damaged));
        assert_eq!(decoder.decode(jpeg, (32, 48), &mut rgb), Err(DecodeError::Size));
        let mut state = 1u64;
        for _ in 0..3000 {
            let mut broken = jpeg.to_vec();
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % broken.len();
                broken[at] = (state >> 20) as u8;
            }
            let _ = decoder.decode(&broken, SIZE, &mut rgb);
            let _ = missing_tables(&broken);
        }
    }
}
