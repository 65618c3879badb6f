//! [`PolicySpec`]: a validated `policy.toml`. Every error names file, key, value and remedy.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fmt::Display;

use super::dims::{checked_actions, checked_states};
use super::family::{FamilySpec, checked_family, exactly};
use super::pruning::checked_pruning;
use super::raw::{RawBudget, RawCamera, RawChunk, RawPolicy, RawQuantisation, RawTolerance};
use super::statistics::checked_statistics;
use super::{BundleError, POLICY_FILE};
use crate::action_space::{ActionSpace, StateDim};
use crate::engine::Provider;
use crate::image::{CameraSlot, Pad, Resize};
use crate::normalisation::Normalisation;
use crate::pruning::{Pruning, SplitSpec};
use crate::skipping::{Skipping, SkippingError};
use crate::thresholds::Thresholds;

/// The format this build reads.
const FORMAT: u32 = 1;
/// No dimension of a graph may exceed this: far above any policy, far below what would overflow a product.
pub(super) const MAX_SIZE: usize = 1 << 20;

/// Numbers a graph's weights and activations are computed in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats: golden tokens must be met exactly.
    F32,
    /// 16-bit floats.
    Fp16,
    /// 8-bit integers, activations scaled as they come.
    Int8,
    /// 8-bit integers, activations scaled by calibration data (quantise and dequantise nodes).
    Qdq,
    /// 8-bit weights, 32-bit arithmetic.
    Int8Weights,
    /// 4-bit weights, 32-bit arithmetic.
    Int4Weights,
}

impl Precision {
    /// Its name in `policy.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
            Self::Qdq => "qdq",
            Self::Int8Weights => "int8_weights",
            Self::Int4Weights => "int4_weights",
        }
    }

    const ALL: [Self; 6] = [Self::F32, Self::Fp16, Self::Int8, Self::Qdq, Self::Int8Weights, Self::Int4Weights];
}

/// What quantising changed against the bundle it was made from, as the exporter measured it with `endplate compare`.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantisation {
    /// Engine and version it was measured on.
    pub engine: String,
    /// Digest of the bundle it was made from.
    pub from: String,
    /// Observations compared.
    pub observations: u64,
    /// SHA-256 of the recording they came from.
    pub recording_digest: String,
    /// p99 over the observations of the largest difference of a joint position in a chunk, rad.
    pub action_error_p99_rad: f64,
    /// The largest, rad.
    pub action_error_max_rad: f64,
    /// Share of tokens chosen alike after the same tokens; `None` for a family without tokens.
    pub argmax_agreement: Option<f64>,
    /// How many times as fast.
    pub speed: f64,
}

/// The largest differences from the golden outputs allowed on one engine.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Tolerance {
    /// Visual tokens; 0 for a family without.
    pub visual: f64,
    /// What the head gives first: logits after the prefix, the velocity of the first denoising step, or the normalised
    /// rows of a family of one pass.
    pub head: f64,
    /// Joint positions of the rows, rad.
    pub action_rad: f64,
}

/// A demand on an engine: a provider holds at least this share of the nodes of every graph.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderShare {
    /// The engine.
    pub engine: String,
    /// The provider.
    pub provider: Provider,
    /// The least share, above 0 and at most 1.
    pub least: f64,
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

/// What a budget is charged in simulated time.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct CostModel {
    /// Images to visual tokens, where that is a stage of its own.
    pub vision: Duration,
    /// Everything up to the first token or step: the prefix, or the whole of a family of one pass.
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
    /// What the bundle demands of execution providers.
    pub shares: Vec<ProviderShare>,
    /// SHA-256 (lower-case hex) of every file but `policy.toml`.
    pub files: BTreeMap<String, String>,
    /// Camera slots, in the model's order.
    pub cameras: Vec<CameraSlot>,
    /// Observed joints, in the model's order.
    pub state: Vec<StateDim>,
    /// Statistics of the state.
    pub state_normalisation: Normalisation,
    /// Action dimensions, in the model's order, with their statistics.
    pub actions: ActionSpace,
    /// Rows and how they are played.
    pub chunk: ChunkSpec,
    /// Cost model.
    pub costs: CostModel,
    /// How chunks are best handed over, in the words of `--handover`; the runtime reads and checks it.
    pub handover: Option<String>,
    /// What quantising changed; empty for a bundle that was not quantised, or by an older exporter.
    pub quantisation: Vec<Quantisation>,
    /// `thresholds.toml`, if the bundle has one.
    pub thresholds: Option<Thresholds>,
    /// When the model is not asked.
    pub skipping: Skipping,
    /// Graphs that leave visual tokens out, if the bundle has them.
    pub split: Option<SplitSpec>,
    /// Which visual tokens are left out.
    pub pruning: Pruning,
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

    /// Shape of the noise an inference takes, normalised units; `None` for a family without.
    pub fn noise_shape(&self) -> Option<Vec<usize>> {
        match self.family {
            FamilySpec::Flow(_) => Some(vec![self.chunk.horizon, self.actions.model_dims()]),
            FamilySpec::Diffusion(rules) => Some(vec![rules.draws(), rules.horizon, self.actions.model_dims()]),
            FamilySpec::SmolVla(rules) | FamilySpec::Pi0(rules) | FamilySpec::Pi05(rules) => {
                Some(vec![self.chunk.horizon, rules.action_width])
            }
            FamilySpec::Pi0Fast(_)
            | FamilySpec::Bins(_)
            | FamilySpec::Act
            | FamilySpec::OpenVla(_)
            | FamilySpec::OpenVlaOft(_) => None,
        }
    }

    /// Observations an inference reads, a row apart; 1 for a family that reads the present alone.
    pub fn observation_steps(&self) -> usize {
        match self.family {
            FamilySpec::Diffusion(rules) => rules.observation_steps,
            _ => 1,
        }
    }
}

pub(super) fn invalid(key: impl Into<String>, value: impl Display, remedy: impl Into<String>) -> BundleError {
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
    let precision =
        choose("precision", &raw.precision, &Precision::ALL.map(|precision| (precision.name(), precision)))?;
    let family = checked_family(&raw)?;
    let engines = raw
        .engines
        .iter()
        .map(|(name, tolerance)| Ok((name.clone(), checked_tolerance(name, tolerance, &family)?)))
        .collect::<Result<_, _>>()?;
    let mut shares = Vec::new();
    for (engine, raw) in &raw.engines {
        for (name, least) in &raw.share {
            shares.push(checked_share(engine, name, *least)?);
        }
    }
    let costs = checked_costs(&raw.budget, &family)?;
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
        if family.shares_an_image_tensor() && (camera.width, camera.height) != (first.width, first.height) {
            let size = format!("{}×{}", camera.width, camera.height);
            return Err(invalid(
                format!("cameras[{i}]"),
                size,
                format!("all slots enter one tensor: use {}×{}", first.width, first.height),
            ));
        }
    }
    unique("cameras", cameras.iter().map(|camera| camera.name.as_str()))?;

    let state = checked_states(&raw.state)?;
    let (state_kind, action_kind) = match &raw.normalisation {
        Some(kinds) => (kinds.state.as_str(), kinds.action.as_str()),
        None => (Normalisation::NAMES[0], Normalisation::NAMES[0]),
    };
    let entries = raw.state.iter().map(|dim| (dim.name.as_str(), dim.statistics()));
    let state_normalisation = checked_statistics("state", state_kind, entries)?;
    if family.bins_the_state() && matches!(state_normalisation, Normalisation::Identity) {
        let remedy = "this family puts the state into bins between -1 and 1: use quantiles, range or mean_std";
        return Err(invalid("normalisation.state", state_kind, remedy));
    }
    let (dims, end_effector) = checked_actions(&raw.action, &state)?;
    let entries = raw.action.iter().map(|dim| (dim.name.as_str(), dim.statistics()));
    let action_normalisation = checked_statistics("action", action_kind, entries)?;
    let chunk = checked_chunk(&raw.chunk)?;
    let (split, pruning) = match &raw.pruning {
        None => (None, Pruning::default()),
        Some(pruning) => {
            let (split, pruning) = checked_pruning(pruning, &family, &raw.files, cameras.len())?;
            (Some(split), pruning)
        }
    };
    Ok(PolicySpec {
        name: raw.name,
        family,
        robot: raw.robot,
        precision,
        description: raw.description,
        engines,
        shares,
        files: raw.files,
        cameras,
        state,
        state_normalisation,
        actions: ActionSpace::new(dims, action_normalisation, end_effector),
        chunk,
        costs,
        handover: raw.handover.map(|handover| handover.mode),
        quantisation: raw.quantisation.into_iter().map(checked_quantisation).collect::<Result<_, _>>()?,
        thresholds: None,
        skipping: match raw.skipping {
            None => Skipping::Off,
            Some(raw) => raw.technique.parse().map_err(|error: SkippingError| error.in_bundle(&raw.technique))?,
        },
        split,
        pruning,
        training: raw.training.map(|t| Training {
            script: t.script,
            seed: t.seed,
            dataset_digest: t.dataset_digest,
            steps: t.steps,
        }),
    })
}

pub(super) fn choose<T: Copy>(key: &str, value: &str, choices: &[(&str, T)]) -> Result<T, BundleError> {
    choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        invalid(key, value, format!("use one of {}", names.join(", ")))
    })
}

pub(super) fn unique<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Result<(), BundleError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if name.is_empty() || !seen.insert(name) {
            return Err(invalid(format!("{key}.name"), format!("{name:?}"), "give every entry a name of its own"));
        }
    }
    Ok(())
}

fn checked_tolerance(engine: &str, raw: &RawTolerance, family: &FamilySpec) -> Result<Tolerance, BundleError> {
    let table = format!("engines.{engine}");
    let probes = family.probes();
    let given = [
        ("visual", raw.visual),
        ("logits", raw.logits),
        ("velocity", raw.velocity),
        ("output", raw.output),
        ("condition", raw.condition),
        ("epsilon", raw.epsilon),
    ];
    let [visual, head] = exactly(&table, &given, [probes.first.map(|probe| probe.key), Some(probes.head.key)])?;
    for (name, value) in [("visual", visual), (probes.head.key, head), ("action_rad", raw.action_rad)] {
        if !value.is_finite() || value < 0.0 {
            let remedy = "write the largest difference allowed, a finite number";
            return Err(invalid(format!("{table}.{name}"), value, remedy));
        }
    }
    Ok(Tolerance { visual, head, action_rad: raw.action_rad })
}

fn checked_quantisation(raw: RawQuantisation) -> Result<Quantisation, BundleError> {
    let RawQuantisation {
        engine,
        from,
        observations,
        recording_digest,
        action_error_p99_rad,
        action_error_max_rad,
        argmax_agreement,
        speed,
    } = raw;
    let figures = [
        ("action_error_p99_rad", action_error_p99_rad),
        ("action_error_max_rad", action_error_max_rad),
        ("argmax_agreement", argmax_agreement.unwrap_or_default()),
        ("speed", speed),
    ];
    for (key, value) in figures {
        if !(value.is_finite() && value >= 0.0) {
            return Err(invalid(
                format!("quantisation.{key}"),
                value,
                "quantise the bundle again: this was not measured",
            ));
        }
    }
    Ok(Quantisation {
        engine,
        from,
        observations,
        recording_digest,
        action_error_p99_rad,
        action_error_max_rad,
        argmax_agreement,
        speed,
    })
}

fn checked_share(engine: &str, provider: &str, least: f64) -> Result<ProviderShare, BundleError> {
    let key = format!("engines.{engine}.share.{provider}");
    if engine != "ort" {
        return Err(invalid(key, least, format!("`{engine}` has no execution providers: leave it out")));
    }
    let Some(provider) = Provider::from_name(provider) else {
        return Err(invalid(key, least, "name tensorrt, tensorrt_rtx, cuda or cpu"));
    };
    if !(least > 0.0 && least <= 1.0) {
        return Err(invalid(key, least, "write a share of the nodes above 0 and at most 1"));
    }
    Ok(ProviderShare { engine: engine.to_owned(), provider, least })
}

fn checked_costs(raw: &RawBudget, family: &FamilySpec) -> Result<CostModel, BundleError> {
    let keys = family.cost_keys();
    let given = [
        ("vision_ms", raw.vision_ms),
        ("prefill_ms", raw.prefill_ms),
        ("forward_ms", raw.forward_ms),
        ("condition_ms", raw.condition_ms),
        ("token_ms", raw.token_ms),
        ("step_ms", raw.step_ms),
    ];
    let wanted = [keys.vision, Some(keys.prefill), keys.step];
    let values = exactly("budget", &given, wanted)?;
    let cost = |index: usize| duration(&format!("budget.{}", wanted[index].unwrap_or_default()), values[index], 1e-3);
    Ok(CostModel { vision: cost(0)?, prefill: cost(1)?, step: cost(2)? })
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
            &[
                ("bilinear_antialiased", Resize::BilinearAntialiased),
                ("bilinear", Resize::Bilinear),
                ("bicubic_antialiased", Resize::BicubicAntialiased),
                ("lanczos3_antialiased", Resize::Lanczos3Antialiased),
                ("none", Resize::None),
            ],
        )?,
        pad: choose(
            &key("pad"),
            &raw.pad,
            &[("none", Pad::None), ("centre", Pad::Centre), ("top_left", Pad::TopLeft)],
        )?,
    })
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
