//! Pixels of cameras to RGB.

/// Why a frame could not be decoded.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame is cut off or broken.
    #[error("the frame is cut off or damaged")]
    Damaged,
    /// The frame has another size.
    #[error("the frame has another size than asked for")]
    Size,
}

/// Decodes YUYV 4:2:2 (`Y0 U Y1 V`, BT.601, studio range) with rows `stride` bytes apart into `[h, w, 3]` RGB.
///
/// # Errors
/// [`DecodeError::Size`] for an odd width or buffers of other sizes, [`DecodeError::Damaged`] for too few bytes.
///
/// # Real-time
/// Does not allocate or block.
pub fn decode_yuyv(yuyv: &[u8], size: (u32, u32), stride: usize, rgb: &mut [u8]) -> Result<(), DecodeError> {
    let (width, height) = (size.0 as usize, size.1 as usize);
    if width % 2 != 0 || stride < 2 * width || rgb.len() != width * height * 3 {
        return Err(DecodeError::Size);
    }
    for (row, out) in rgb.chunks_exact_mut(width * 3).enumerate() {
        let line = yuyv.get(row * stride..row * stride + 2 * width).ok_or(DecodeError::Damaged)?;
        for (pair, out) in line.chunks_exact(4).zip(out.chunks_exact_mut(6)) {
            let [u, v] = [i32::from(pair[1]) - 128, i32::from(pair[3]) - 128];
            for (luma, pixel) in [pair[0], pair[2]].into_iter().zip(out.chunks_exact_mut(3)) {
                // 255/219 and the chrominance weights of BT.601, in 1/65536.
                let y = (i32::from(luma) - 16) * 76_309;
                let channel = |sum: i32| ((sum + 32_768) >> 16).clamp(0, 255) as u8;
                pixel[0] = channel(y + 104_597 * v);
                pixel[1] = channel(y - 25_674 * u - 53_278 * v);
                pixel[2] = channel(y + 132_201 * u);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yuyv_equals_the_defining_formula_within_one_level() {
        let mut worst = 0.0f64;
        for y in (0..=255).step_by(3) {
            for u in (0..=255).step_by(15) {
                for v in (0..=255).step_by(15) {
                    let mut rgb = [0; 6];
                    decode_yuyv(&[y, u, y, v], (2, 1), 4, &mut rgb).unwrap();
                    let luma = (f64::from(y) - 16.0) * 255.0 / 219.0;
                    let [cb, cr] = [u, v].map(|c| (f64::from(c) - 128.0) * 255.0 / 224.0);
                    let wanted = [luma + 1.402 * cr, luma - 0.344_136 * cb - 0.714_136 * cr, luma + 1.772 * cb];
                    for (got, wanted) in rgb.iter().zip(wanted) {
                        worst = worst.max((f64::from(*got) - wanted.clamp(0.0, 255.0)).abs());
                    }
                }
            }
        }
        assert!(worst <= 1.0, "{worst}");
    }

    #[test]
    fn odd_or_short_images_are_refused() {
        let mut rgb = [0; 6];
        assert_eq!(decode_yuyv(&[0; 3], (2, 1), 4, &mut rgb), Err(DecodeError::Damaged));
        assert_eq!(decode_yuyv(&[0; 4], (1, 1), 4, &mut rgb), Err(DecodeError::Size));
        assert_eq!(decode_yuyv(&[0; 4], (2, 1), 2, &mut rgb), Err(DecodeError::Size));
    }
}
