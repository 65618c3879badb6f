//! [`PolicySpec`]: a validated `policy.toml`. Every error names file, key, value and remedy.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fmt::Display;

use endplate_calibration::Quantiles;

use super::raw::{RawAction, RawCamera, RawChunk, RawModel, RawPolicy, RawTolerance};
use super::{BundleError, POLICY_FILE};
use crate::action_space::{ActionDim, ActionKind, ActionSpace, Blending, Interpolation, StateDim, Unit};
use crate::image::{CameraSlot, Pad, Resize};

/// The format this build reads.
const FORMAT: u32 = 1;
/// Bins of a discretised state: part of the π0-FAST prompt, the same in every bundle.
const STATE_BINS: usize = 256;
/// No dimension of a graph may exceed this: far above any policy, far below what would overflow a product.
const MAX_SIZE: usize = 1 << 20;
/// Ids of OpenVLA's bins.
pub(crate) const BIN_COUNT: usize = 256;
/// More Euler steps than any flow policy takes.
const MAX_STEPS: usize = 1000;

/// Numbers a graph's weights and activations are computed in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats: golden tokens must be met exactly.
    F32,
    /// 8-bit integers where the graph says so: golden actions must be met within the tolerance.
    Int8,
}

impl Precision {
    /// Its name in `policy.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

/// The largest differences from the golden outputs allowed on one engine.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Tolerance {
    /// Visual tokens.
    pub visual: f64,
    /// Logits after the prefix, or the velocity of the first denoising step.
    pub head: f64,
    /// Joint positions of the rows, rad.
    pub action_rad: f64,
}

/// Rows and how they are played.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ChunkSpec {
    /// `H`, rows of a chunk.
    pub horizon: usize,
    /// Motion time between rows.
    pub row_period: Duration,
    /// Rows executed before the next chunk takes over.
    pub execute_rows: usize,
    /// Lag between capture and observation the policy was trained with.
    pub observation_lag: Duration,
    /// Frames captured further apart than this refuse the observation.
    pub max_skew: Duration,
}

/// Sizes every family's graphs share.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// `d`.
    pub width: usize,
    /// `L`.
    pub layers: usize,
    /// `Hkv`.
    pub kv_heads: usize,
    /// `hd`.
    pub head_dim: usize,
    /// `Nv`.
    pub visual_tokens: usize,
    /// `S`, rows of the prefix.
    pub prefix: usize,
    /// `V`, rows of the embedding table.
    pub vocabulary: usize,
}

/// What a model family needs to know beside [`ModelShape`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum FamilySpec {
    /// FAST tokens, one by one, until the coefficients are complete.
    Pi0Fast(TokenSpec),
    /// One bin token a value, time-major, one by one.
    Bins(TokenSpec),
    /// Noise becomes a chunk in a few steps along a learned velocity.
    Flow(FlowSpec),
}

impl FamilySpec {
    /// The names of the families this build runs, as `policy.toml` writes them.
    pub const NAMES: [&'static str; 3] = ["pi0_fast", "bins", "flow"];

    /// Its name in `policy.toml`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pi0Fast(_) => Self::NAMES[0],
            Self::Bins(_) => Self::NAMES[1],
            Self::Flow(_) => Self::NAMES[2],
        }
    }
}

/// How a family that speaks in tokens generates them.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// Most action tokens generated.
    pub max_tokens: usize,
    /// `Tmax`, rows of the key-value slab.
    pub slab: usize,
    /// Vocabulary id of action token 0.
    pub action_offset: usize,
    /// Layer after which the auxiliary head sits.
    pub exit_layer: usize,
    /// How tokens are chosen.
    pub strategy: Strategy,
}

/// How a flow-matching family denoises.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// Euler steps from noise (τ = 0) to data (τ = 1).
    pub steps: usize,
    /// Committed rows the policy was trained to continue (training-time real-time chunking).
    pub max_prefix_rows: usize,
}

/// How tokens are generated.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The most likely token, one at a time.
    Greedy,
    /// The most likely token that the tokenizer can still take: one that breaks no character, leaves no range and does
    /// not overrun the chunk. How often the most likely token was not taken is counted.
    GreedyConstrained,
}

/// What a budget is charged in simulated time.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct CostModel {
    /// Images to visual tokens.
    pub vision: Duration,
    /// The prefix.
    pub prefill: Duration,
    /// One generated token or one denoising step.
    pub step: Duration,
}

/// Where the weights came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Training {
    /// Script that trained them.
    pub script: String,
    /// Its seed.
    pub seed: u64,
    /// Digest of the dataset.
    pub dataset_digest: String,
    /// Optimiser steps.
    pub steps: u64,
}

/// A validated policy description.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySpec {
    /// Name of the policy.
    pub name: String,
    /// Model family and what it needs.
    pub family: FamilySpec,
    /// Embodiment it was trained on.
    pub robot: String,
    /// Numbers it computes in.
    pub precision: Precision,
    /// For people.
    pub description: String,
    /// Tolerances by engine name; an engine not listed is refused.
    pub engines: BTreeMap<String, Tolerance>,
    /// SHA-256 (lower-case hex) of every file but `policy.toml`.
    pub files: BTreeMap<String, String>,
    /// Camera slots, in the model's order.
    pub cameras: Vec<CameraSlot>,
    /// Observed joints, in the model's order.
    pub state: Vec<StateDim>,
    /// Statistics of the state.
    pub state_quantiles: Quantiles,
    /// Action dimensions, in the model's order, with their statistics.
    pub actions: ActionSpace,
    /// Rows and how they are played.
    pub chunk: ChunkSpec,
    /// Most text tokens of a prompt.
    pub max_text_tokens: usize,
    /// Sizes of the graphs.
    pub model: ModelShape,
    /// Cost model.
    pub costs: CostModel,
    /// Where the weights came from, if it is known.
    pub training: Option<Training>,
}

impl PolicySpec {
    /// Parses and validates the text of a `policy.toml`.
    ///
    /// # Errors
    /// [`BundleError::Parse`] and [`BundleError::Invalid`].
    pub fn from_toml_str(text: &str) -> Result<Self, BundleError> {
        let raw: RawPolicy = toml::from_str(text)
            .map_err(|error| BundleError::Parse { file: POLICY_FILE.to_owned(), message: error.to_string() })?;
        validate(raw)
    }
}

fn invalid(key: impl Into<String>, value: impl Display, remedy: impl Into<String>) -> BundleError {
    BundleError::Invalid {
        file: POLICY_FILE.to_owned(),
        key: key.into(),
        value: value.to_string(),
        remedy: remedy.into(),
    }
}

fn validate(raw: RawPolicy) -> Result<PolicySpec, BundleError> {
    if raw.format != FORMAT {
        return Err(invalid(
            "format",
            raw.format,
            format!("this build reads format {FORMAT}; export the bundle again with a matching exporter"),
        ));
    }
    let precision = choose("precision", &raw.precision, &[("f32", Precision::F32), ("int8", Precision::Int8)])?;
    let model = checked_model(&raw.model, raw.prompt.max_text_tokens)?;
    let family = checked_family(&raw)?;
    let head = if matches!(family, FamilySpec::Flow(_)) { Head::Velocity } else { Head::Logits };
    let engines = raw
        .engines
        .iter()
        .map(|(name, tolerance)| Ok((name.clone(), checked_tolerance(name, tolerance, head)?)))
        .collect::<Result<_, _>>()?;
    let step = match head {
        Head::Logits => required("budget.token_ms", raw.budget.token_ms, raw.budget.step_ms.map(|_| "budget.step_ms")),
        Head::Velocity => {
            required("budget.step_ms", raw.budget.step_ms, raw.budget.token_ms.map(|_| "budget.token_ms"))
        }
    }?;
    for (path, digest) in &raw.files {
        if digest.len() != 64 || !digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid(
                format!("files.\"{path}\""),
                digest,
                "write the SHA-256 of the file as 64 lower-case hexadecimal digits",
            ));
        }
        if path.starts_with('/') || path.contains('\\') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid("files", path, "write paths relative to the bundle with `/` separators"));
        }
    }
    let cameras =
        raw.cameras.iter().enumerate().map(|(i, camera)| checked_camera(i, camera)).collect::<Result<Vec<_>, _>>()?;
    let first = cameras.first().ok_or_else(|| invalid("cameras", "[]", "declare at least one camera slot"))?;
    for (i, camera) in cameras.iter().enumerate() {
        if (camera.width, camera.height) != (first.width, first.height) {
            let size = format!("{}×{}", camera.width, camera.height);
            return Err(invalid(
                format!("cameras[{i}]"),
                size,
                format!("all slots enter one tensor: use {}×{}", first.width, first.height),
            ));
        }
    }
    unique("cameras", cameras.iter().map(|camera| camera.name.as_str()))?;

    let mut state = Vec::with_capacity(raw.state.len());
    for (i, dim) in raw.state.iter().enumerate() {
        state.push(StateDim { name: dim.name.clone(), unit: checked_unit(&format!("state[{i}]"), &dim.unit)? });
    }
    unique("state", state.iter().map(|dim| dim.name.as_str()))?;
    let state_quantiles = quantiles("state", raw.state.iter().map(|dim| (dim.name.as_str(), dim.q01, dim.q99)))?;
    let dims = raw
        .action
        .iter()
        .enumerate()
        .map(|(i, action)| checked_action(i, action, &state))
        .collect::<Result<Vec<_>, _>>()?;
    unique("action", dims.iter().map(|dim| dim.name.as_str()))?;
    let action_quantiles = quantiles("action", raw.action.iter().map(|dim| (dim.name.as_str(), dim.q01, dim.q99)))?;

    if raw.prompt.state_bins != STATE_BINS {
        return Err(invalid(
            "prompt.state_bins",
            raw.prompt.state_bins,
            format!("this family's prompt has {STATE_BINS} bins"),
        ));
    }
    let chunk = checked_chunk(&raw.chunk)?;
    let values = chunk.horizon * dims.len();
    match &family {
        FamilySpec::Bins(token) if token.max_tokens != values => {
            let remedy = format!("a bin token a value: {} rows of {} make {values}", chunk.horizon, dims.len());
            return Err(invalid("model.max_tokens", token.max_tokens, remedy));
        }
        FamilySpec::Flow(flow) if flow.max_prefix_rows >= chunk.horizon => {
            let remedy = format!("fewer than the {} rows of a chunk", chunk.horizon);
            return Err(invalid("flow.max_prefix_rows", flow.max_prefix_rows, remedy));
        }
        _ => {}
    }
    Ok(PolicySpec {
        name: raw.name,
        family,
        robot: raw.robot,
        precision,
        description: raw.description,
        engines,
        files: raw.files,
        cameras,
        state,
        state_quantiles,
        actions: ActionSpace::new(dims, action_quantiles),
        chunk,
        max_text_tokens: raw.prompt.max_text_tokens,
        model,
        costs: CostModel {
            vision: duration("budget.vision_ms", raw.budget.vision_ms, 1e-3)?,
            prefill: duration("budget.prefill_ms", raw.budget.prefill_ms, 1e-3)?,
            step: duration("budget.token_ms (step_ms)", step, 1e-3)?,
        },
        training: raw.training.map(|t| Training {
            script: t.script,
            seed: t.seed,
            dataset_digest: t.dataset_digest,
            steps: t.steps,
        }),
    })
}

fn choose<T: Copy>(key: &str, value: &str, choices: &[(&str, T)]) -> Result<T, BundleError> {
    choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        invalid(key, value, format!("use one of {}", names.join(", ")))
    })
}

fn unique<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Result<(), BundleError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if name.is_empty() || !seen.insert(name) {
            return Err(invalid(format!("{key}.name"), format!("{name:?}"), "give every entry a name of its own"));
        }
    }
    Ok(())
}

/// What a family's head puts out, and so which tolerance it needs.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Head {
    Logits,
    Velocity,
}

/// The value of a key this family needs; `other` is a key given in its place that belongs to another family.
fn required<T>(key: &str, value: Option<T>, other: Option<&str>) -> Result<T, BundleError> {
    match (value, other) {
        (Some(value), None) => Ok(value),
        (_, Some(other)) => Err(invalid(other, "given", format!("another family's key: write {key}"))),
        (None, None) => Err(invalid(key, "missing", "this family needs it")),
    }
}

fn checked_family(raw: &RawPolicy) -> Result<FamilySpec, BundleError> {
    let index = FamilySpec::NAMES
        .iter()
        .position(|name| *name == raw.family)
        .ok_or_else(|| invalid("family", &raw.family, format!("this build runs {}", FamilySpec::NAMES.join(", "))))?;
    let name = FamilySpec::NAMES[index];
    let foreign = [
        ("decoding", raw.decoding.is_some(), name != "flow"),
        ("bins", raw.bins.is_some(), name == "bins"),
        ("flow", raw.flow.is_some(), name == "flow"),
    ];
    for (table, given, wanted) in foreign {
        if given != wanted {
            let remedy = if wanted { "this family needs the table" } else { "remove the table of another family" };
            return Err(invalid(format!("[{table}]"), if given { "given" } else { "missing" }, remedy));
        }
    }
    Ok(match name {
        "pi0_fast" => FamilySpec::Pi0Fast(checked_tokens(raw)?),
        "bins" => {
            let tokens = checked_tokens(raw)?;
            if let Some(bins) = &raw.bins {
                choose("bins.scheme", &bins.scheme, &[("openvla", ())])?;
                let room = raw.model.vocabulary - tokens.action_offset;
                if bins.count != BIN_COUNT || room != BIN_COUNT {
                    let value = format!("{} with room for {room} ids", bins.count);
                    return Err(invalid("bins.count", value, format!("the scheme openvla has {BIN_COUNT} ids")));
                }
            }
            FamilySpec::Bins(tokens)
        }
        _ => FamilySpec::Flow(checked_flow(raw)?),
    })
}

fn checked_tokens(raw: &RawPolicy) -> Result<TokenSpec, BundleError> {
    let model = &raw.model;
    let size = |key: &str, value: Option<usize>| {
        let value = required(key, value, None)?;
        if value == 0 || value > MAX_SIZE {
            return Err(invalid(key, value, format!("write a size between 1 and {MAX_SIZE}")));
        }
        Ok(value)
    };
    let strategy = raw.decoding.as_ref().map_or("", |decoding| decoding.strategy.as_str());
    let tokens = TokenSpec {
        max_tokens: size("model.max_tokens", model.max_tokens)?,
        slab: size("model.slab", model.slab)?,
        action_offset: size("model.action_offset", model.action_offset)?,
        exit_layer: required("model.exit_layer", model.exit_layer, None)?,
        strategy: choose(
            "decoding.strategy",
            strategy,
            &[("greedy", Strategy::Greedy), ("greedy_constrained", Strategy::GreedyConstrained)],
        )?,
    };
    if tokens.slab != model.prefix + tokens.max_tokens {
        let remedy = format!("prefix and max_tokens make {}", model.prefix + tokens.max_tokens);
        return Err(invalid("model.slab", tokens.slab, remedy));
    }
    if tokens.action_offset >= model.vocabulary {
        let remedy = format!("action tokens must lie inside the vocabulary of {}", model.vocabulary);
        return Err(invalid("model.action_offset", tokens.action_offset, remedy));
    }
    if tokens.exit_layer > model.layers {
        return Err(invalid("model.exit_layer", tokens.exit_layer, format!("there are {} layers", model.layers)));
    }
    Ok(tokens)
}

fn checked_flow(raw: &RawPolicy) -> Result<FlowSpec, BundleError> {
    let model = &raw.model;
    let others = [
        ("max_tokens", model.max_tokens),
        ("slab", model.slab),
        ("action_offset", model.action_offset),
        ("exit_layer", model.exit_layer),
    ];
    if let Some((name, Some(value))) = others.into_iter().find(|(_, value)| value.is_some()) {
        return Err(invalid(format!("model.{name}"), value, "a flow policy has no tokens: remove the key"));
    }
    let flow = raw.flow.as_ref().map(|flow| (flow.steps, flow.time.as_str(), flow.max_prefix_rows));
    let (steps, time, max_prefix_rows) = required("[flow]", flow, None)?;
    choose("flow.time", time, &[("per_row", ())])?;
    if steps == 0 || steps > MAX_STEPS {
        return Err(invalid("flow.steps", steps, format!("write between 1 and {MAX_STEPS} Euler steps")));
    }
    Ok(FlowSpec { steps, max_prefix_rows })
}

fn checked_tolerance(engine: &str, raw: &RawTolerance, head: Head) -> Result<Tolerance, BundleError> {
    let key = |name: &str| format!("engines.{engine}.{name}");
    let (name, value) = match head {
        Head::Logits => ("logits", required(&key("logits"), raw.logits, raw.velocity.map(|_| "velocity"))?),
        Head::Velocity => ("velocity", required(&key("velocity"), raw.velocity, raw.logits.map(|_| "logits"))?),
    };
    for (name, value) in [("visual", raw.visual), (name, value), ("action_rad", raw.action_rad)] {
        if !value.is_finite() || value < 0.0 {
            return Err(invalid(key(name), value, "write the largest difference allowed, a finite number"));
        }
    }
    Ok(Tolerance { visual: raw.visual, head: value, action_rad: raw.action_rad })
}

fn checked_camera(index: usize, raw: &RawCamera) -> Result<CameraSlot, BundleError> {
    let key = |name: &str| format!("cameras[{index}].{name}");
    for (name, side) in [("width", raw.width), ("height", raw.height)] {
        if side == 0 || side as usize > MAX_SIZE {
            return Err(invalid(key(name), side, "write the size of the model's image in pixels"));
        }
    }
    Ok(CameraSlot {
        name: raw.name.clone(),
        width: raw.width,
        height: raw.height,
        resize: choose(
            &key("resize"),
            &raw.resize,
            &[("bilinear_antialiased", Resize::BilinearAntialiased), ("bilinear", Resize::Bilinear)],
        )?,
        pad: choose(&key("pad"), &raw.pad, &[("none", Pad::None), ("centre", Pad::Centre)])?,
    })
}

fn checked_unit(entry: &str, unit: &str) -> Result<Unit, BundleError> {
    choose(&format!("{entry}.unit"), unit, &[("rad", Unit::Rad), ("m", Unit::M)])
}

fn checked_action(index: usize, raw: &RawAction, states: &[StateDim]) -> Result<ActionDim, BundleError> {
    let key = |name: &str| format!("action[{index}].{name}");
    if matches!(raw.kind.as_str(), "ee_abs" | "ee_delta" | "base_vel") {
        return Err(invalid(key("kind"), &raw.kind, "this action kind is not built yet; export joint-space actions"));
    }
    let kinds =
        [("joint_abs", ActionKind::JointAbs), ("joint_rel", ActionKind::JointRel), ("gripper", ActionKind::Gripper)];
    let kind = choose(&key("kind"), &raw.kind, &kinds)?;
    let unit = checked_unit(&format!("action[{index}]"), &raw.unit)?;
    let interpolations =
        [("smooth", Interpolation::Smooth), ("slerp", Interpolation::Slerp), ("hold", Interpolation::Hold)];
    let interpolation = choose(&key("interpolation"), &raw.interpolation, &interpolations)?;
    let blending =
        choose(&key("blending"), &raw.blending, &[("average", Blending::Average), ("latch", Blending::Latch)])?;
    if interpolation == Interpolation::Slerp {
        return Err(invalid(
            key("interpolation"),
            &raw.interpolation,
            "a joint is no rotation of the tool: use smooth or hold",
        ));
    }
    if kind == ActionKind::Gripper && blending == Blending::Average {
        return Err(invalid(key("blending"), &raw.blending, "a gripper is never averaged: use latch"));
    }
    ActionDim::new(raw.name.clone(), kind, unit, interpolation, blending, states).ok_or_else(|| {
        invalid(key("name"), &raw.name, "a relative action needs a state entry of the same name and unit")
    })
}

fn quantiles<'a>(key: &str, entries: impl Iterator<Item = (&'a str, f64, f64)>) -> Result<Quantiles, BundleError> {
    let (mut low, mut high) = (Vec::new(), Vec::new());
    for (index, (name, q01, q99)) in entries.enumerate() {
        // A joint that never moved in training has equal quantiles, which the statistics allow for.
        if !(q01.is_finite() && q99.is_finite() && q01 <= q99) {
            let value = format!("q01 = {q01}, q99 = {q99}");
            return Err(invalid(
                format!("{key}[{index}] ({name})"),
                value,
                "write finite quantiles in order; fit the statistics again",
            ));
        }
        low.push(q01);
        high.push(q99);
    }
    Quantiles::new(low, high).map_err(|error| invalid(key, "the statistics", error.to_string()))
}

fn duration(key: &str, value: f64, unit_s: f64) -> Result<Duration, BundleError> {
    Duration::try_from_secs_f64(value * unit_s)
        .map_err(|_| invalid(key, value, "write a finite time that is not negative"))
}

fn checked_chunk(raw: &RawChunk) -> Result<ChunkSpec, BundleError> {
    if raw.horizon == 0 || raw.horizon > MAX_SIZE {
        return Err(invalid("chunk.horizon", raw.horizon, "write the number of rows of a chunk"));
    }
    if raw.execute_rows == 0 || raw.execute_rows > raw.horizon {
        return Err(invalid(
            "chunk.execute_rows",
            raw.execute_rows,
            format!("execute between 1 and all {} rows", raw.horizon),
        ));
    }
    let row_period = duration("chunk.row_period_s", raw.row_period_s, 1.0)?;
    if row_period.is_zero() {
        return Err(invalid("chunk.row_period_s", raw.row_period_s, "rows must be some time apart"));
    }
    Ok(ChunkSpec {
        horizon: raw.horizon,
        row_period,
        execute_rows: raw.execute_rows,
        observation_lag: duration("chunk.observation_lag_s", raw.observation_lag_s, 1.0)?,
        max_skew: duration("chunk.max_skew_s", raw.max_skew_s, 1.0)?,
    })
}

fn checked_model(raw: &RawModel, text: usize) -> Result<ModelShape, BundleError> {
    let sizes = [
        ("width", raw.width),
        ("layers", raw.layers),
        ("kv_heads", raw.kv_heads),
        ("head_dim", raw.head_dim),
        ("visual_tokens", raw.visual_tokens),
        ("prefix", raw.prefix),
        ("vocabulary", raw.vocabulary),
    ];
    for (name, value) in sizes {
        if value == 0 || value > MAX_SIZE {
            return Err(invalid(format!("model.{name}"), value, format!("write a size between 1 and {MAX_SIZE}")));
        }
    }
    if text == 0 || text > MAX_SIZE || raw.visual_tokens + text > raw.prefix {
        let remedy = format!("{} visual and {text} text tokens must fit", raw.visual_tokens);
        return Err(invalid("model.prefix", raw.prefix, remedy));
    }
    Ok(ModelShape {
        width: raw.width,
        layers: raw.layers,
        kv_heads: raw.kv_heads,
        head_dim: raw.head_dim,
        visual_tokens: raw.visual_tokens,
        prefix: raw.prefix,
        vocabulary: raw.vocabulary,
    })
}
