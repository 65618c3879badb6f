//! How much memory a bundle may take at most, before anything is loaded.
//!
//! An upper bound from the bundle's files and sizes: weights once for every graph that points into them, as the widest
//! numbers an engine holds them in, keys and values of the longest sequence, and the scratch the providers are allowed. A graph
//! of any number of rows counts once where the engine shares its weights, and else once for each of those numbers.

use std::fmt;

use crate::EngineChoice;
use crate::bundle::{Bundle, FamilySpec};
use crate::thresholds::is_half;

/// The parts of the bound, bytes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryBound {
    /// Weights of all graphs, in 32-bit floats.
    pub weights: u64,
    /// Keys and values.
    pub kv: u64,
    /// Scratch the execution providers are allowed.
    pub workspace: u64,
}

impl MemoryBound {
    /// The bound for a bundle on an engine.
    pub fn of(bundle: &Bundle, choice: &EngineChoice) -> Self {
        let spec = bundle.spec();
        let workspace = choice.workspace_bytes();
        // Sessions of the decoder's graph: each has a slab of its own.
        let sessions = spec.family.row_counts().map_or(1, |counts| counts.len());
        let copies = if choice.shares_weights() { 1 } else { sessions };
        let size = |path: &str| bundle.file(path).map_or(0, |bytes| bytes.len() as u64);
        // The decoder's halves are loaded for a technique that uses them alone.
        let in_halves = spec.family.tokens().is_some_and(|rules| rules.decoding.is_split());
        let is_loaded = |path: &&String| path.ends_with(".onnx") && (in_halves || !is_half(path));
        let graphs: Vec<&String> = spec.files.keys().filter(is_loaded).collect();
        let inside: u64 = graphs.iter().map(|path| size(path)).sum();
        let external: u64 = bundle.weight_files().map(|(_, bytes)| bytes.len() as u64).sum();
        // Weights beside the graphs may be stored as 16-bit floats and widened; every graph may hold its own copy.
        let holders = (graphs.len() + copies - 1) as u64;
        let weights = inside + 2 * external * holders;
        let kv = match spec.family {
            FamilySpec::Pi0Fast(rules) | FamilySpec::Bins(rules) | FamilySpec::OpenVla(rules) => {
                let m = rules.prefix.model;
                keys_and_values(m.layers, m.kv_heads, m.head_dim, rules.slab * sessions)
            }
            FamilySpec::Flow(rules) => {
                let m = rules.prefix.model;
                keys_and_values(m.layers, m.kv_heads, m.head_dim, m.prefix)
            }
            FamilySpec::SmolVla(rules) | FamilySpec::Pi0(rules) | FamilySpec::Pi05(rules) => {
                keys_and_values(rules.layers, rules.kv_heads, rules.head_dim, rules.prefix)
            }
            FamilySpec::Diffusion(_) | FamilySpec::Act | FamilySpec::OpenVlaOft(_) => 0,
        };
        Self { weights, kv, workspace }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.workspace)
    }
}

/// Bytes of the slab, which stands on both sides of a graph: as its input, and the new rows as its output.
fn keys_and_values(layers: usize, heads: usize, head_dim: usize, rows: usize) -> u64 {
    [2, 2, layers, heads, head_dim, rows, 4].into_iter().fold(1_u64, |product, n| product.saturating_mul(n as u64))
}

impl fmt::Display for MemoryBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        write!(
            f,
            "at most {:.1} MiB: weights {:.1}, keys and values {:.1}, workspace {:.1}",
            mib(self.total()),
            mib(self.weights),
            mib(self.kv),
            mib(self.workspace)
        )
    }
}

/// Memory that can be had on this machine now, bytes: of the GPU `device` where `nvidia-smi` answers for it, otherwise
/// what Linux calls available, which on a Jetson the GPU shares. `None` where neither can be read.
pub fn available_memory(device: Option<u32>) -> Option<(u64, &'static str)> {
    if let Some(free) = device.and_then(free_on_gpu) {
        return Some((free, "free on the GPU"));
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib * 1024, "available"))
}

fn free_on_gpu(device: u32) -> Option<u64> {
    let answer = std::process::Command::new("nvidia-smi")
        .args(["--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", &device.to_string()])
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    let mib: u64 = String::from_utf8(answer.stdout).ok()?.trim().parse().ok()?;
    Some(mib << 20)
}
