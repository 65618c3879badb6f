//! Seeded chunks for the tests.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use endplate_tokenizers::{FastTokenizer, FitOptions};

/// A small generator (PCG's multiplier; the upper bits are good): tests need no more.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    pub fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.next()) * u64::from(end)) >> 32) as u32
    }

    /// −1..1.
    pub fn signed(&mut self) -> f64 {
        f64::from(self.next()) / f64::from(1u32 << 31) - 1.0
    }

    /// `[H, D]`: smooth motions within about ±1.1, the last dimension a gripper that may snap.
    pub fn chunk(&mut self, horizon: usize, dims: usize) -> Vec<f64> {
        let mut chunk = vec![0.0; horizon * dims];
        for dim in 0..dims {
            let (offset, slope, amplitude) = (0.5 * self.signed(), 0.4 * self.signed(), 0.2 * self.signed());
            let (phase, snap) = (3.0 * self.signed(), self.below(3 * horizon as u32) as usize);
            for row in 0..horizon {
                let t = row as f64 / horizon as f64;
                let smooth = offset + slope * t + amplitude * (6.0 * t + phase).sin();
                let gripper = if row < snap { 1.0 } else { -1.0 };
                chunk[row * dims + dim] = if dim + 1 == dims { gripper } else { smooth };
            }
        }
        chunk
    }

    pub fn chunks(&mut self, count: usize, horizon: usize, dims: usize) -> Vec<Vec<f64>> {
        (0..count).map(|_| self.chunk(horizon, dims)).collect()
    }
}

pub fn fit(chunks: &[Vec<f64>], horizon: usize, dims: usize, options: &FitOptions) -> FastTokenizer {
    FastTokenizer::fit(chunks.iter().map(Vec::as_slice), horizon, dims, options).unwrap()
}

/// A directory that goes away with the value.
pub struct TemporaryDir(pub std::path::PathBuf);

impl TemporaryDir {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("endplate-tokenizers-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
