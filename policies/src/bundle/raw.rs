//! `policy.toml` as it is written: raw serde structs that refuse unknown keys. [`super::spec`] validates them.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub format: u32,
    pub name: String,
    pub family: String,
    pub robot: String,
    pub precision: String,
    #[serde(default)]
    pub description: String,
    pub engines: BTreeMap<String, RawTolerance>,
    pub files: BTreeMap<String, String>,
    pub cameras: Vec<RawCamera>,
    pub state: Vec<RawState>,
    pub action: Vec<RawAction>,
    pub chunk: RawChunk,
    /// Kinds of the statistics; without it both are `quantiles`.
    #[serde(default)]
    pub normalisation: Option<RawNormalisation>,
    /// Families around a prefix of visual tokens and a prompt.
    #[serde(default)]
    pub prompt: Option<RawPrompt>,
    /// Families `pi0_fast` of somebody else's checkpoint and `openvla`.
    #[serde(default)]
    pub answer: Option<RawAnswer>,
    /// As `prompt`.
    #[serde(default)]
    pub model: Option<RawModel>,
    /// Token families.
    #[serde(default)]
    pub decoding: Option<RawDecoding>,
    /// Family `bins`.
    #[serde(default)]
    pub bins: Option<RawBins>,
    /// Family `flow`.
    #[serde(default)]
    pub flow: Option<RawFlow>,
    /// Family `diffusion`.
    #[serde(default)]
    pub diffusion: Option<RawDiffusion>,
    /// Families `smolvla`, `pi0` and `pi05`.
    #[serde(default)]
    pub vla: Option<RawVla>,
    /// Family `openvla_oft`.
    #[serde(default)]
    pub oft: Option<RawOft>,
    pub budget: RawBudget,
    /// What quantising changed, one entry an engine.
    #[serde(default)]
    pub quantisation: Vec<RawQuantisation>,
    #[serde(default)]
    pub handover: Option<RawHandover>,
    #[serde(default)]
    pub skipping: Option<RawSkipping>,
    /// Families around a prefix.
    #[serde(default)]
    pub pruning: Option<RawPruning>,
    #[serde(default)]
    pub training: Option<RawTraining>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPruning {
    pub layer: usize,
    pub grid: usize,
    pub keep: Vec<usize>,
    pub prefill_ms: Vec<f64>,
    /// SHA-256 of the graph that was split.
    pub prefill: String,
    #[serde(default)]
    pub technique: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSkipping {
    pub technique: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHandover {
    pub mode: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTolerance {
    #[serde(default)]
    pub visual: Option<f64>,
    #[serde(default)]
    pub logits: Option<f64>,
    #[serde(default)]
    pub velocity: Option<f64>,
    #[serde(default)]
    pub output: Option<f64>,
    #[serde(default)]
    pub condition: Option<f64>,
    #[serde(default)]
    pub epsilon: Option<f64>,
    pub action_rad: f64,
    /// Least share of every graph's nodes, by execution provider.
    #[serde(default)]
    pub share: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCamera {
    pub name: String,
    pub width: u32,
    pub height: u32,
    pub resize: String,
    pub pad: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNormalisation {
    pub state: String,
    pub action: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawState {
    pub name: String,
    pub unit: String,
    /// Of the tool's pose; without it the entry is a joint.
    #[serde(default)]
    pub component: Option<String>,
    #[serde(default)]
    pub q01: Option<f64>,
    #[serde(default)]
    pub q99: Option<f64>,
    #[serde(default)]
    pub low: Option<f64>,
    #[serde(default)]
    pub high: Option<f64>,
    #[serde(default)]
    pub mean: Option<f64>,
    #[serde(default)]
    pub std: Option<f64>,
}

impl RawState {
    pub(super) fn statistics(&self) -> RawStatistics {
        let Self { q01, q99, low, high, mean, std, .. } = *self;
        RawStatistics([("q01", q01), ("q99", q99), ("low", low), ("high", high), ("mean", mean), ("std", std)])
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAction {
    pub name: String,
    pub kind: String,
    pub unit: String,
    /// Of the tool's pose, for the end-effector kinds.
    #[serde(default)]
    pub component: Option<String>,
    /// Whose axes a difference is said in, for `ee_rel` and `ee_delta`.
    #[serde(default)]
    pub frame: Option<String>,
    pub interpolation: String,
    pub blending: String,
    #[serde(default)]
    pub q01: Option<f64>,
    #[serde(default)]
    pub q99: Option<f64>,
    #[serde(default)]
    pub low: Option<f64>,
    #[serde(default)]
    pub high: Option<f64>,
    #[serde(default)]
    pub mean: Option<f64>,
    #[serde(default)]
    pub std: Option<f64>,
}

impl RawAction {
    pub(super) fn statistics(&self) -> RawStatistics {
        let Self { q01, q99, low, high, mean, std, .. } = *self;
        RawStatistics([("q01", q01), ("q99", q99), ("low", low), ("high", high), ("mean", mean), ("std", std)])
    }
}

/// The statistics of one entry, of whatever kind.
pub(super) struct RawStatistics([(&'static str, Option<f64>); 6]);

impl RawStatistics {
    pub(super) fn pairs(&self) -> [(&'static str, Option<f64>); 6] {
        self.0
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChunk {
    pub horizon: usize,
    pub row_period_s: f64,
    pub execute_rows: usize,
    pub observation_lag_s: f64,
    pub max_skew_s: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrompt {
    pub max_text_tokens: usize,
    #[serde(default)]
    pub state_bins: Option<usize>,
    #[serde(default)]
    pub form: Option<String>,
    #[serde(default)]
    pub bos: Option<u32>,
    #[serde(default)]
    pub suffix: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAnswer {
    pub prefix: Vec<u32>,
    pub end: Vec<u32>,
    pub action_zero: u32,
    pub position_gap: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub width: usize,
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub visual_tokens: usize,
    pub prefix: usize,
    pub vocabulary: usize,
    #[serde(default)]
    pub max_tokens: Option<usize>,
    #[serde(default)]
    pub slab: Option<usize>,
    #[serde(default)]
    pub action_offset: Option<usize>,
    #[serde(default)]
    pub exit_layer: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDecoding {
    pub strategy: String,
    #[serde(default)]
    pub technique: Option<String>,
    #[serde(default)]
    pub block: Option<usize>,
    #[serde(default)]
    pub block_ms: Option<f64>,
    /// Numbers of rows that `decode.onnx` is run with, where it is one graph for all of them.
    #[serde(default)]
    pub rows: Option<Vec<usize>>,
    #[serde(default)]
    pub split: Option<usize>,
    #[serde(default)]
    pub split_ms: Option<Vec<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBins {
    pub scheme: String,
    pub count: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFlow {
    pub steps: usize,
    pub time: String,
    pub max_prefix_rows: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDiffusion {
    pub observation_steps: usize,
    pub horizon: usize,
    pub condition: usize,
    pub scheduler: String,
    pub steps: usize,
    pub train_steps: usize,
    pub beta_schedule: String,
    pub beta_start: f64,
    pub beta_end: f64,
    pub prediction: String,
    #[serde(default)]
    pub clip: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVla {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub prefix: usize,
    pub vocabulary: usize,
    pub max_text_tokens: usize,
    pub action_width: usize,
    pub steps: usize,
    #[serde(default)]
    pub bos: Option<u32>,
    #[serde(default)]
    pub clean_instruction: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOft {
    pub vocabulary: usize,
    pub max_text_tokens: usize,
    pub bos: u32,
    pub suffix: Vec<u32>,
    pub reads_state: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBudget {
    #[serde(default)]
    pub vision_ms: Option<f64>,
    #[serde(default)]
    pub prefill_ms: Option<f64>,
    #[serde(default)]
    pub forward_ms: Option<f64>,
    #[serde(default)]
    pub condition_ms: Option<f64>,
    #[serde(default)]
    pub token_ms: Option<f64>,
    #[serde(default)]
    pub step_ms: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuantisation {
    pub engine: String,
    pub from: String,
    pub observations: u64,
    pub recording_digest: String,
    pub action_error_p99_rad: f64,
    pub action_error_max_rad: f64,
    #[serde(default)]
    pub argmax_agreement: Option<f64>,
    pub speed: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTraining {
    pub script: String,
    pub seed: u64,
    pub dataset_digest: String,
    pub steps: u64,
}
