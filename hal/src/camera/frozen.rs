//! Frames that repeat bit for bit: no sensor does that, so the camera or its driver hangs.

use crate::frame::{Camera, CameraError, Frame};
use crate::time::Instant;

/// A camera whose frame is no news once it has come `after` times in a row with equal content, whatever its stamp and
/// number say; its age then grows, and the ladder is walked. Only for cameras with sensor noise: a picture of black, or
/// a synthetic one, may repeat rightly.
pub struct FrozenGuard {
    camera: Box<dyn Camera>,
    after: u32,
    scratch: Frame,
    digest: u64,
    equal: u32,
}

impl FrozenGuard {
    /// Guards a camera; `after` is at least 1.
    pub fn new(camera: Box<dyn Camera>, after: u32) -> Self {
        let (width, height) = camera.size();
        Self { camera, after: after.max(1), scratch: Frame::new(width, height), digest: 0, equal: 0 }
    }
}

/// FNV-1a over eight bytes at a time.
fn digest(data: &[u8]) -> u64 {
    data.chunks(8).fold(0xCBF2_9CE4_8422_2325, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

impl Camera for FrozenGuard {
    fn name(&self) -> &str {
        self.camera.name()
    }

    fn size(&self) -> (u32, u32) {
        self.camera.size()
    }

    fn capture(&mut self, now: Instant, frame: &mut Frame) -> Result<bool, CameraError> {
        if !self.camera.capture(now, &mut self.scratch)? {
            return Ok(false);
        }
        self.camera.develop(&mut self.scratch);
        let digest = digest(&self.scratch.data);
        self.equal = if digest == self.digest { self.equal.saturating_add(1) } else { 0 };
        self.digest = digest;
        if self.equal >= self.after {
            return Ok(false);
        }
        frame.copy_from(&self.scratch);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stuck(u64);

    impl Camera for Stuck {
        fn name(&self) -> &str {
            "stuck"
        }

        fn size(&self) -> (u32, u32) {
            (8, 8)
        }

        fn capture(&mut self, now: Instant, frame: &mut Frame) -> Result<bool, CameraError> {
            self.0 += 1;
            frame.data.fill(self.0.min(5) as u8);
            (frame.sequence, frame.captured) = (self.0, now);
            Ok(true)
        }
    }

    #[test]
    fn equal_content_under_fresh_stamps_stops_being_news() {
        let mut camera = FrozenGuard::new(Box::new(Stuck(0)), 3);
        let mut frame = Frame::new(8, 8);
        let news: Vec<bool> = (0..12).map(|at| camera.capture(Instant::from_nanos(at), &mut frame).unwrap()).collect();
        assert_eq!(news.iter().filter(|&&is_new| is_new).count(), 7);
        assert!(!news[11] && frame.sequence == 7);
    }
}
