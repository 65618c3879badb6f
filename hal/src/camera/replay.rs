//! A camera that plays images of a folder, or of a recorded data set.

use super::OpenError;
use crate::frame::{Camera, CameraError, Frame};
use crate::spec::CameraSpec;
use crate::time::Instant;
use core::time::Duration;
use std::path::Path;

/// Plays images at the camera's rate, from the first capture on, and begins anew at the end.
pub struct ReplayCamera {
    name: String,
    size: (u32, u32),
    period: Duration,
    images: Vec<Vec<u8>>,
    start: Option<Instant>,
}

impl ReplayCamera {
    /// Reads a folder of `.jpg` files, in the order of their names, or a `.npy` file of u8 `[n, h, w, 3]`.
    ///
    /// # Errors
    /// [`OpenError`], naming the file.
    pub fn open(spec: &CameraSpec, path: &Path) -> Result<Self, OpenError> {
        let size = (spec.width, spec.height);
        let fail = |remedy: String| OpenError::Device { camera: spec.name.clone(), path: path.to_owned(), remedy };
        let images = if path.is_dir() { jpeg_folder(path, size) } else { npy_file(path, size) }.map_err(fail)?;
        if images.is_empty() {
            return Err(OpenError::Device {
                camera: spec.name.clone(),
                path: path.to_owned(),
                remedy: "there are no images in it: write .jpg files there, or name a .npy file".into(),
            });
        }
        Ok(Self {
            name: spec.name.clone(),
            size,
            period: Duration::from_secs_f64(1.0 / spec.rate_hz),
            images,
            start: None,
        })
    }
}

#[cfg(not(feature = "mjpeg"))]
fn jpeg_folder(_: &Path, _: (u32, u32)) -> Result<Vec<Vec<u8>>, String> {
    Err("JPEG needs the feature `mjpeg`".into())
}

#[cfg(feature = "mjpeg")]
fn jpeg_folder(path: &Path, size: (u32, u32)) -> Result<Vec<Vec<u8>>, String> {
    let entries = std::fs::read_dir(path).map_err(|error| error.to_string())?;
    let is_jpeg = |file: &Path| file.extension().is_some_and(|ext| ext == "jpg" || ext == "jpeg");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|file| is_jpeg(file)).collect();
    files.sort();
    let mut decoder = super::mjpeg::MjpegDecoder::default();
    files
        .iter()
        .map(|file| {
            let mut rgb = vec![0; size.0 as usize * size.1 as usize * 3];
            let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            decoder.decode(&bytes, size, &mut rgb).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok(rgb)
        })
        .collect()
}

/// NumPy's format, version 1 to 3: magic, version, length of the header, the header as a Python literal.
fn npy_file(path: &Path, size: (u32, u32)) -> Result<Vec<Vec<u8>>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let (start, data) = match bytes.get(..8) {
        Some([0x93, b'N', b'U', b'M', b'P', b'Y', 1, _]) => (10, 8..10),
        Some([0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _]) => (12, 8..12),
        _ => return Err("not a .npy file".into()),
    };
    let cut = || "the .npy file is cut off".to_owned();
    let length = bytes.get(data).ok_or_else(cut)?.iter().rev().fold(0usize, |sum, &byte| sum << 8 | usize::from(byte));
    let header = bytes.get(start..start + length).ok_or_else(cut)?;
    let header: String = String::from_utf8_lossy(header).split_whitespace().collect();
    let image = size.0 as usize * size.1 as usize * 3;
    let shape = format!(",{},{},3)", size.1, size.0);
    if !header.contains("'descr':'|u1'") || !header.contains("'fortran_order':False") || !header.contains(&shape) {
        return Err(format!("its array is not u8 [n, {}, {}, 3]: {header}", size.1, size.0));
    }
    Ok(bytes[start + length..].chunks_exact(image).map(<[u8]>::to_vec).collect())
}

impl Camera for ReplayCamera {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn capture(&mut self, now: Instant, frame: &mut Frame) -> Result<bool, CameraError> {
        let (width, height) = self.size;
        if (frame.width, frame.height) != self.size || frame.data.len() != self.images[0].len() {
            return Err(CameraError::WrongSize { width, height });
        }
        let start = *self.start.get_or_insert(now);
        let shown = now.duration_since(start).as_nanos() / self.period.as_nanos().max(1);
        let shown = u64::try_from(shown).unwrap_or(u64::MAX);
        if frame.sequence == shown + 1 {
            return Ok(false);
        }
        frame.data.copy_from_slice(&self.images[(shown % self.images.len() as u64) as usize]);
        frame.sequence = shown + 1;
        frame.captured = start.saturating_add(Duration::from_nanos(self.period.as_nanos() as u64 * shown));
        frame.available = now;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::robots::SO101_SIM;
    use crate::spec::RobotSpec;

    #[test]
    fn an_npy_file_plays_at_its_rate_and_another_shape_is_named() {
        let mut spec = RobotSpec::from_toml_str(SO101_SIM, "so101_sim").unwrap().cameras[0].clone();
        (spec.width, spec.height, spec.rate_hz) = (8, 8, 10.0);
        let header = format!("{:<117}\n", "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8, 8, 3), }");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([[1u8; 192], [2; 192]].concat());
        let path = std::env::temp_dir().join(format!("endplate-replay-{}.npy", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let mut camera = ReplayCamera::open(&spec, &path).unwrap();
        let mut frame = Frame::new(8, 8);
        let mut seen = Vec::new();
        for millis in (0..350).step_by(10) {
            if camera.capture(Instant::from_nanos(millis * 1_000_000), &mut frame).unwrap() {
                seen.push((frame.sequence, frame.data[0]));
            }
        }
        assert_eq!(seen, [(1, 1), (2, 2), (3, 1), (4, 2)]);
        spec.width = 16;
        let error = ReplayCamera::open(&spec, &path).err().unwrap().to_string();
        assert!(error.contains("[n, 8, 16, 3]"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
