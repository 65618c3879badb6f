//! What a model family needs to know, and which keys of `policy.toml` belong to which family.

use core::time::Duration;

use super::prompt::{AnswerSpec, Ids, PromptSpec, checked_answer, checked_prompt};
use super::raw::{RawModel, RawPolicy};
use super::spec::{MAX_SIZE, choose, invalid};
use super::split::{SplitSpec, checked_split};
use super::{BundleError, POLICY_FILE};
use crate::decoding::{Decoding, DecodingError};
use crate::thresholds::Thresholds;

/// Ids of OpenVLA's bins.
pub(crate) const BIN_COUNT: usize = 256;
/// Bins of a discretised state: part of the π0-FAST prompt, the same in every bundle.
const STATE_BINS: usize = 256;
/// More Euler steps than any flow policy takes.
const MAX_STEPS: usize = 1000;
/// More noise levels than any diffusion is trained with.
const MAX_TRAIN_STEPS: usize = 100_000;

/// More rows than a block gains from.
pub(crate) const MAX_BLOCK: usize = 256;
/// A decoder that writes in place, of one row, with weights of its own.
const IN_PLACE: &str = "decode_gqa.onnx";
/// More than any pass may cost.
const MAX_BLOCK_MS: f64 = 60_000.0;

/// What a model family needs to know.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum FamilySpec {
    /// FAST tokens, one by one, until the coefficients are complete.
    Pi0Fast(TokenSpec),
    /// One bin token a value, time-major, one by one.
    Bins(TokenSpec),
    /// Noise becomes a chunk in a few steps along a learned velocity.
    Flow(FlowSpec),
    /// One pass from images and state to all rows.
    Act,
    /// Noise becomes a chunk along a diffusion schedule.
    Diffusion(DiffusionSpec),
    /// Flow matching over SmolVLM's keys and values.
    SmolVla(VlaSpec),
    /// Flow matching over PaliGemma's keys and values.
    Pi0(VlaSpec),
    /// As `Pi0`, with the state in the prompt.
    Pi05(VlaSpec),
    /// Seven bin tokens a row in the tail of a LLaMA vocabulary, one by one.
    OpenVla(TokenSpec),
    /// One pass of the same network over empty action tokens.
    OpenVlaOft(OftSpec),
}

/// An intermediate output that golden replay compares.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Golden array, without the sample's number.
    pub(crate) array: &'static str,
    /// Tolerance key in `[engines]`.
    pub(crate) key: &'static str,
    /// In words.
    pub(crate) what: &'static str,
}

/// The first and the last intermediate output of a family that golden replay compares.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probes {
    pub(crate) first: Option<Probe>,
    pub(crate) head: Probe,
}

/// The keys of `[budget]` by what they charge: images, everything up to the first token or step, each of those.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct CostKeys {
    pub(super) vision: Option<&'static str>,
    pub(super) prefill: &'static str,
    pub(super) step: Option<&'static str>,
}

impl FamilySpec {
    /// The names of the families this build runs, as `policy.toml` writes them.
    pub const NAMES: [&'static str; 10] =
        ["pi0_fast", "bins", "flow", "act", "diffusion", "smolvla", "pi0", "pi05", "openvla", "openvla_oft"];

    /// Its name in `policy.toml`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pi0Fast(_) => Self::NAMES[0],
            Self::Bins(_) => Self::NAMES[1],
            Self::Flow(_) => Self::NAMES[2],
            Self::Act => Self::NAMES[3],
            Self::Diffusion(_) => Self::NAMES[4],
            Self::SmolVla(_) => Self::NAMES[5],
            Self::Pi0(_) => Self::NAMES[6],
            Self::Pi05(_) => Self::NAMES[7],
            Self::OpenVla(_) => Self::NAMES[8],
            Self::OpenVlaOft(_) => Self::NAMES[9],
        }
    }

    /// Whether it reads the instruction.
    pub const fn reads_instruction(&self) -> bool {
        match self {
            Self::Act | Self::Diffusion(_) => false,
            Self::Pi0Fast(_) | Self::Bins(_) | Self::Flow(_) | Self::SmolVla(_) | Self::Pi0(_) | Self::Pi05(_) => true,
            Self::OpenVla(_) | Self::OpenVlaOft(_) => true,
        }
    }

    /// Whether it generates action tokens.
    pub const fn has_tokens(&self) -> bool {
        matches!(self, Self::Pi0Fast(_) | Self::Bins(_) | Self::OpenVla(_))
    }

    /// How tokens are generated, for every family that speaks in them.
    pub(crate) const fn token_rules(&self) -> Option<&TokenSpec> {
        match self {
            Self::Pi0Fast(rules) | Self::Bins(rules) | Self::OpenVla(rules) => Some(rules),
            _ => None,
        }
    }

    /// Numbers of rows that one graph, `decode.onnx`, is run with, ascending; `None` for a bundle of one graph a number.
    pub fn row_counts(&self) -> Option<Vec<usize>> {
        self.token_rules().map(TokenSpec::row_counts).filter(|counts| !counts.is_empty())
    }

    /// How tokens are generated, for a family whose decoding can be accelerated.
    pub const fn tokens(&self) -> Option<&TokenSpec> {
        match self {
            Self::Pi0Fast(rules) | Self::Bins(rules) => Some(rules),
            _ => None,
        }
    }

    /// The prefix of visual tokens and a prompt, where the runtime builds one that it can leave visual tokens out of.
    pub(crate) const fn prunable(&self) -> Option<&PrefixSpec> {
        match self {
            Self::Pi0Fast(rules) | Self::Bins(rules) => Some(&rules.prefix),
            Self::Flow(rules) => Some(&rules.prefix),
            _ => None,
        }
    }

    /// Euler steps of an inference, where the planner may take fewer.
    pub const fn denoising_steps(&self) -> Option<usize> {
        match self {
            Self::Flow(rules) => Some(rules.steps),
            _ => None,
        }
    }

    /// Puts fitted numbers where the technique of `policy.toml` asks for them.
    ///
    /// # Errors
    /// [`BundleError::Invalid`] for one that was not fitted.
    pub(super) fn resolve_decoding(&mut self, fitted: Option<&Thresholds>) -> Result<(), BundleError> {
        if let Self::Pi0Fast(rules) | Self::Bins(rules) = self {
            let resolved = rules.decoding.resolved(fitted);
            rules.decoding = resolved.map_err(|error| error.in_bundle(&rules.decoding.to_string()))?;
        }
        Ok(())
    }

    pub(super) fn set_decoding(&mut self, decoding: Decoding) -> Result<(), DecodingError> {
        decoding.check(self)?;
        if let Self::Pi0Fast(rules) | Self::Bins(rules) = self {
            rules.decoding = decoding;
        }
        Ok(())
    }

    /// Whether all cameras enter one tensor, and so must have one size.
    pub(super) const fn shares_an_image_tensor(&self) -> bool {
        matches!(self, Self::Pi0Fast(_) | Self::Bins(_) | Self::Flow(_) | Self::OpenVla(_))
    }

    /// Whether the state is written into the prompt as bins between −1 and 1.
    pub(super) const fn bins_the_state(&self) -> bool {
        matches!(self, Self::Pi0Fast(_) | Self::Bins(_) | Self::Flow(_) | Self::Pi05(_))
    }

    pub(crate) const fn probes(&self) -> Probes {
        const VISUAL: Option<Probe> = Some(Probe { array: "visual", key: "visual", what: "a visual token" });
        match self {
            Self::Pi0Fast(_) | Self::Bins(_) | Self::OpenVla(_) => Probes {
                first: VISUAL,
                head: Probe { array: "prefill_logits", key: "logits", what: "a logit after the prefix" },
            },
            Self::Flow(_) => Probes {
                first: VISUAL,
                head: Probe { array: "velocity", key: "velocity", what: "a velocity of the first step" },
            },
            Self::SmolVla(_) | Self::Pi0(_) | Self::Pi05(_) => Probes {
                first: None,
                head: Probe { array: "velocity", key: "velocity", what: "a velocity of the first step" },
            },
            Self::Act | Self::OpenVlaOft(_) => Probes {
                first: None,
                head: Probe { array: "output", key: "output", what: "a normalised value of the output" },
            },
            Self::Diffusion(_) => Probes {
                first: Some(Probe { array: "condition", key: "condition", what: "a value of the condition" }),
                head: Probe { array: "epsilon", key: "epsilon", what: "a value of the first step's prediction" },
            },
        }
    }

    pub(super) const fn cost_keys(&self) -> CostKeys {
        match self {
            Self::Pi0Fast(_) | Self::Bins(_) | Self::OpenVla(_) => {
                CostKeys { vision: Some("vision_ms"), prefill: "prefill_ms", step: Some("token_ms") }
            }
            Self::Flow(_) => CostKeys { vision: Some("vision_ms"), prefill: "prefill_ms", step: Some("step_ms") },
            Self::SmolVla(_) | Self::Pi0(_) | Self::Pi05(_) => {
                CostKeys { vision: None, prefill: "prefill_ms", step: Some("step_ms") }
            }
            Self::Act | Self::OpenVlaOft(_) => CostKeys { vision: None, prefill: "forward_ms", step: None },
            Self::Diffusion(_) => CostKeys { vision: None, prefill: "condition_ms", step: Some("step_ms") },
        }
    }
}

/// The prefix of the families that build one from visual tokens and a prompt.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PrefixSpec {
    /// Sizes of the graphs.
    pub model: ModelShape,
    /// Most text tokens of a prompt.
    pub max_text_tokens: usize,
    /// How the prompt is written and laid out.
    pub prompt: PromptSpec,
}

/// Sizes the graphs around a prefix share.
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

/// How a family that speaks in tokens generates them.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// What comes before the tokens.
    pub prefix: PrefixSpec,
    /// Most action tokens generated.
    pub max_tokens: usize,
    /// `Tmax`, rows of the key-value slab.
    pub slab: usize,
    /// Vocabulary id of action token 0; 0 where the tokens are the model's own ids.
    pub action_offset: usize,
    /// How the model's own ids make an action, where they do.
    pub answer: Option<AnswerSpec>,
    /// Layer after which the auxiliary head sits.
    pub exit_layer: usize,
    /// How tokens are chosen.
    pub strategy: Strategy,
    /// The graph that verifies several tokens a pass.
    pub block: Option<BlockSpec>,
    /// Whether one graph is run with any number of rows.
    pub rows: Option<RowsSpec>,
    /// The decoder in two halves.
    pub split: Option<SplitSpec>,
    /// How many passes are saved, and how.
    pub decoding: Decoding,
}

impl TokenSpec {
    /// Numbers of rows that `decode.onnx` is run with, ascending; empty for a bundle of one graph a number.
    pub fn row_counts(&self) -> Vec<usize> {
        let Some(rows) = self.rows else { return Vec::new() };
        let prefix = rows.prefix.then_some(self.prefix.model.prefix);
        let mut counts: Vec<usize> =
            [Some(1), self.block.map(|block| block.rows), prefix].into_iter().flatten().collect();
        counts.sort_unstable();
        counts.dedup();
        counts
    }

    /// What the cost model charges at worst for a round of guesses as tokens are generated, or would be with blocks.
    pub fn round_cost(&self) -> Option<Duration> {
        if self.decoding.is_split() {
            return self.split.map(|split| split.round(self.decoding.shallow.unwrap_or(0)));
        }
        self.block.map(|block| block.cost)
    }
}

/// One decoder graph of any number of rows, `decode.onnx`, in the place of one graph a number.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RowsSpec {
    /// Whether the prefix is run on it as well, in the place of `prefill.onnx`.
    pub prefix: bool,
}

/// A decoder graph of several rows, `decode_k{rows}.onnx` or `decode.onnx`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BlockSpec {
    /// `K`, rows of a pass.
    pub rows: usize,
    /// What the cost model charges for a pass.
    pub cost: Duration,
}

/// How a flow-matching family denoises.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// What the velocity is conditioned on.
    pub prefix: PrefixSpec,
    /// Euler steps from noise (τ = 0) to data (τ = 1).
    pub steps: usize,
    /// Committed rows the policy was trained to continue (training-time real-time chunking).
    pub max_prefix_rows: usize,
}

/// How LeRobot's flow-matching families read and denoise.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct VlaSpec {
    /// `L`, layers whose keys and values the denoising graph takes.
    pub layers: usize,
    /// `Hkv`.
    pub kv_heads: usize,
    /// `hd`.
    pub head_dim: usize,
    /// `P`, rows of the prefix.
    pub prefix: usize,
    /// `V`, rows of the embedding table, which lies in the prefix graph.
    pub vocabulary: usize,
    /// `T`, room for the prompt.
    pub max_text_tokens: usize,
    /// Id put before every prompt.
    pub bos: Option<u32>,
    /// `W`, columns of a noisy row, of which the action takes the first.
    pub action_width: usize,
    /// Euler steps from noise (t = 1) to data (t = 0).
    pub steps: usize,
    /// Whether the instruction is stripped and `_` and line feeds become spaces, as openpi's π0 does.
    pub clean_instruction: bool,
}

/// What OpenVLA-OFT reads.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct OftSpec {
    /// `V`, rows of the embedding table, which lies in the graph.
    pub vocabulary: usize,
    /// `T`, room for the prompt.
    pub max_text_tokens: usize,
    /// Id put before every prompt.
    pub bos: u32,
    /// Ids put behind it.
    pub suffix: Ids,
    /// Whether the state is a token of its own.
    pub reads_state: bool,
}

/// How a diffusion family denoises.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct DiffusionSpec {
    /// `n`, observations an inference reads, a row apart.
    pub observation_steps: usize,
    /// `M`, rows the network makes, of which the first `n − 1` lie in the past.
    pub horizon: usize,
    /// `G`, values of the condition.
    pub condition: usize,
    /// How a step goes from one noise level to the next.
    pub scheduler: Scheduler,
    /// Steps of an inference.
    pub steps: usize,
    /// Noise levels of training.
    pub train_steps: usize,
    /// The noise levels' shape.
    pub betas: BetaSchedule,
    /// First β of the two linear schedules.
    pub beta_start: f64,
    /// Last β of the two linear schedules.
    pub beta_end: f64,
    /// What the network answers with.
    pub prediction: Prediction,
    /// The largest magnitude that predicted data may have, normalised units.
    pub clip: Option<f64>,
}

impl DiffusionSpec {
    /// How many `[M, D]` an inference takes as noise: one to start from and, for DDPM, one per step but the last.
    pub const fn draws(&self) -> usize {
        match self.scheduler {
            Scheduler::Ddpm => self.steps,
            Scheduler::Ddim => 1,
        }
    }
}

/// How a diffusion step is taken.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Noise is added in every step but the last.
    Ddpm,
    /// Deterministic (η = 0).
    Ddim,
}

/// The shape of a diffusion's noise levels, by the name `diffusers` gives it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum BetaSchedule {
    /// `linear`.
    Linear,
    /// `scaled_linear`: linear in √β.
    ScaledLinear,
    /// `squaredcos_cap_v2`: ᾱ a squared cosine, β at most 0.999.
    SquaredCosine,
}

/// What a diffusion's network answers with.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise in the sample.
    Epsilon,
    /// The data behind the sample.
    Sample,
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

/// The value of a key this family needs; `other` is a key given in its place that belongs to another family.
fn required<T>(key: &str, value: Option<T>, other: Option<&str>) -> Result<T, BundleError> {
    match (value, other) {
        (Some(value), None) => Ok(value),
        (_, Some(other)) => Err(invalid(other, "given", format!("another family's key: write {key}"))),
        (None, None) => Err(invalid(key, "missing", "this family needs it")),
    }
}

/// The family with everything that depends on it alone.
pub(super) fn checked_family(raw: &RawPolicy) -> Result<FamilySpec, BundleError> {
    let name = FamilySpec::NAMES
        .into_iter()
        .find(|name| *name == raw.family)
        .ok_or_else(|| invalid("family", &raw.family, format!("this build runs {}", FamilySpec::NAMES.join(", "))))?;
    let around_a_prefix = matches!(name, "pi0_fast" | "bins" | "flow" | "openvla");
    // Somebody else's π0-FAST speaks its own ids; the demonstration's does not.
    let answers = name == "openvla" || (name == "pi0_fast" && raw.answer.is_some());
    let tables = [
        ("prompt", raw.prompt.is_some(), around_a_prefix),
        ("model", raw.model.is_some(), around_a_prefix),
        ("decoding", raw.decoding.is_some(), matches!(name, "pi0_fast" | "bins" | "openvla")),
        ("answer", raw.answer.is_some(), answers),
        ("oft", raw.oft.is_some(), name == "openvla_oft"),
        ("bins", raw.bins.is_some(), name == "bins"),
        ("flow", raw.flow.is_some(), name == "flow"),
        ("diffusion", raw.diffusion.is_some(), name == "diffusion"),
        ("vla", raw.vla.is_some(), matches!(name, "smolvla" | "pi0" | "pi05")),
    ];
    for (table, given, wanted) in tables {
        if given != wanted {
            let remedy = if wanted { "this family needs the table" } else { "remove the table of another family" };
            return Err(invalid(format!("[{table}]"), if given { "given" } else { "missing" }, remedy));
        }
    }
    let family = match name {
        "pi0_fast" => FamilySpec::Pi0Fast(checked_tokens(raw)?),
        "bins" => FamilySpec::Bins(checked_bins(raw)?),
        "flow" => FamilySpec::Flow(checked_flow(raw)?),
        "diffusion" => FamilySpec::Diffusion(checked_diffusion(raw)?),
        "smolvla" => FamilySpec::SmolVla(checked_vla(raw)?),
        "pi0" => FamilySpec::Pi0(checked_vla(raw)?),
        "pi05" => FamilySpec::Pi05(checked_vla(raw)?),
        "openvla" => FamilySpec::OpenVla(checked_openvla(raw)?),
        "openvla_oft" => FamilySpec::OpenVlaOft(checked_oft(raw)?),
        _ => FamilySpec::Act,
    };
    if let Some(rules) = family.tokens() {
        rules.decoding.check(&family).map_err(|error| error.in_bundle(&rules.decoding.to_string()))?;
    }
    Ok(family)
}

fn checked_prefix(raw: &RawPolicy) -> Result<(PrefixSpec, &RawModel), BundleError> {
    let model = required("[model]", raw.model.as_ref(), None)?;
    let prompt = required("[prompt]", raw.prompt.as_ref(), None)?;
    let wanted = (raw.family != "openvla").then_some(STATE_BINS);
    if prompt.state_bins != wanted {
        let remedy = wanted.map_or("this family's prompt has no state: remove the key".to_owned(), |bins| {
            format!("this family's prompt has {bins} bins")
        });
        let value = prompt.state_bins.map_or("missing".to_owned(), |bins| bins.to_string());
        return Err(invalid("prompt.state_bins", value, remedy));
    }
    let shape = checked_model(model, prompt.max_text_tokens)?;
    let convention = checked_prompt(prompt, raw.answer.as_ref(), &raw.family, shape.vocabulary)?;
    Ok((PrefixSpec { model: shape, max_text_tokens: prompt.max_text_tokens, prompt: convention }, model))
}

fn checked_tokens(raw: &RawPolicy) -> Result<TokenSpec, BundleError> {
    let (prefix, model) = checked_prefix(raw)?;
    let size = |key: &str, value: Option<usize>| {
        let value = required(key, value, None)?;
        if value == 0 || value > MAX_SIZE {
            return Err(invalid(key, value, format!("write a size between 1 and {MAX_SIZE}")));
        }
        Ok(value)
    };
    let strategy = raw.decoding.as_ref().map_or("", |decoding| decoding.strategy.as_str());
    let answer = raw.answer.as_ref().map(|answer| checked_answer(answer, model.vocabulary)).transpose()?;
    let action_offset = match (&answer, model.action_offset) {
        (None, offset) => size("model.action_offset", offset)?,
        (Some(_), None) => 0,
        (Some(_), Some(offset)) => {
            return Err(invalid(
                "model.action_offset",
                offset,
                "answer.action_zero says where action ids lie: remove it",
            ));
        }
    };
    let tokens = TokenSpec {
        prefix,
        max_tokens: size("model.max_tokens", model.max_tokens)?,
        slab: size("model.slab", model.slab)?,
        action_offset,
        answer,
        exit_layer: required("model.exit_layer", model.exit_layer, None)?,
        strategy: choose(
            "decoding.strategy",
            strategy,
            &[("greedy", Strategy::Greedy), ("greedy_constrained", Strategy::GreedyConstrained)],
        )?,
        block: checked_block(raw)?,
        rows: checked_rows(raw, model.prefix)?,
        split: checked_split(raw, model.exit_layer.unwrap_or(0), model.layers)?,
        decoding: checked_decoding(raw)?,
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

fn checked_block(raw: &RawPolicy) -> Result<Option<BlockSpec>, BundleError> {
    let given = raw.decoding.as_ref().map_or((None, None), |decoding| (decoding.block, decoding.block_ms));
    match given {
        (None, None) => Ok(None),
        (None, Some(cost)) => Err(invalid("decoding.block_ms", cost, "write decoding.block too, or neither")),
        (Some(rows), None) => Err(invalid("decoding.block", rows, "write decoding.block_ms too, or neither")),
        (Some(rows), Some(cost)) => {
            if !(2..=MAX_BLOCK).contains(&rows) {
                return Err(invalid("decoding.block", rows, format!("write between 2 and {MAX_BLOCK} rows")));
            }
            if !(cost.is_finite() && (0.0..=MAX_BLOCK_MS).contains(&cost)) {
                let remedy = format!("write milliseconds between 0 and {MAX_BLOCK_MS}");
                return Err(invalid("decoding.block_ms", cost, remedy));
            }
            Ok(Some(BlockSpec { rows, cost: Duration::from_secs_f64(cost / 1e3) }))
        }
    }
}

fn checked_rows(raw: &RawPolicy, prefix: usize) -> Result<Option<RowsSpec>, BundleError> {
    let Some(decoding) = raw.decoding.as_ref() else { return Ok(None) };
    let Some(given) = &decoding.rows else { return Ok(None) };
    let refused = |remedy: String| Err(invalid("decoding.rows", format!("{given:?}"), remedy));
    if !given.contains(&1) {
        return refused("a token is decoded with 1 row: add it".to_owned());
    }
    if let Some(block) = decoding.block.filter(|block| !given.contains(block)) {
        return refused(format!("decoding.block says that {block} rows are verified a pass: add {block}"));
    }
    if let Some(other) = given.iter().find(|rows| !([1, prefix].contains(rows) || decoding.block == Some(**rows))) {
        return refused(format!(
            "no pass has {other} rows: write 1, decoding.block and, where the prefix is run on the same graph, model.prefix ({prefix})"
        ));
    }
    if given.len() < 2 || !given.is_sorted_by(|one, next| one < next) {
        return refused("write at least two numbers, ascending; for one row alone leave the key out".to_owned());
    }
    if raw.files.contains_key(IN_PLACE) {
        return refused(format!("{IN_PLACE} is another decoder, with the weights once more: take it or this key out"));
    }
    Ok(Some(RowsSpec { prefix: given.contains(&prefix) }))
}

fn checked_decoding(raw: &RawPolicy) -> Result<Decoding, BundleError> {
    match raw.decoding.as_ref().and_then(|decoding| decoding.technique.as_deref()) {
        None => Ok(Decoding::default()),
        Some(name) => name.parse().map_err(|error: DecodingError| error.in_bundle(name)),
    }
}

fn checked_bins(raw: &RawPolicy) -> Result<TokenSpec, BundleError> {
    let tokens = checked_tokens(raw)?;
    if let Some(bins) = &raw.bins {
        choose("bins.scheme", &bins.scheme, &[("openvla", ())])?;
        let room = tokens.prefix.model.vocabulary - tokens.action_offset;
        if bins.count != BIN_COUNT || room != BIN_COUNT {
            let value = format!("{} with room for {room} ids", bins.count);
            return Err(invalid("bins.count", value, format!("the scheme openvla has {BIN_COUNT} ids")));
        }
    }
    let values = raw.chunk.horizon.saturating_mul(raw.action.len());
    if tokens.max_tokens != values {
        let remedy = format!("a bin token a value: {} rows of {} make {values}", raw.chunk.horizon, raw.action.len());
        return Err(invalid("model.max_tokens", tokens.max_tokens, remedy));
    }
    Ok(tokens)
}

fn checked_openvla(raw: &RawPolicy) -> Result<TokenSpec, BundleError> {
    let tokens = checked_tokens(raw)?;
    if let Some(answer) = raw.answer.as_ref() {
        if !answer.prefix.is_empty() || !answer.end.is_empty() || answer.position_gap != 0 {
            return Err(invalid(
                "answer",
                "prefix, end or position_gap",
                "OpenVLA says nothing around its action: [], [], 0",
            ));
        }
        if (answer.action_zero as usize) + 1 < BIN_COUNT {
            return Err(invalid(
                "answer.action_zero",
                answer.action_zero,
                format!("{BIN_COUNT} ids must fit below it"),
            ));
        }
    }
    let values = raw.chunk.horizon.saturating_mul(raw.action.len());
    if tokens.max_tokens != values {
        let remedy = format!("a bin token a value: {} rows of {} make {values}", raw.chunk.horizon, raw.action.len());
        return Err(invalid("model.max_tokens", tokens.max_tokens, remedy));
    }
    Ok(tokens)
}

fn checked_oft(raw: &RawPolicy) -> Result<OftSpec, BundleError> {
    let given = required("[oft]", raw.oft.as_ref(), None)?;
    for (name, value) in [("vocabulary", given.vocabulary), ("max_text_tokens", given.max_text_tokens)] {
        if value == 0 || value > MAX_SIZE {
            return Err(invalid(format!("oft.{name}"), value, format!("write a size between 1 and {MAX_SIZE}")));
        }
    }
    if given.bos as usize >= given.vocabulary {
        return Err(invalid("oft.bos", given.bos, format!("the vocabulary has {} ids", given.vocabulary)));
    }
    Ok(OftSpec {
        vocabulary: given.vocabulary,
        max_text_tokens: given.max_text_tokens,
        bos: given.bos,
        suffix: Ids::checked("oft.suffix", &given.suffix, given.vocabulary)?,
        reads_state: given.reads_state,
    })
}

fn checked_flow(raw: &RawPolicy) -> Result<FlowSpec, BundleError> {
    let (prefix, model) = checked_prefix(raw)?;
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
    if max_prefix_rows >= raw.chunk.horizon {
        let remedy = format!("fewer than the {} rows of a chunk", raw.chunk.horizon);
        return Err(invalid("flow.max_prefix_rows", max_prefix_rows, remedy));
    }
    Ok(FlowSpec { prefix, steps, max_prefix_rows })
}

fn checked_diffusion(raw: &RawPolicy) -> Result<DiffusionSpec, BundleError> {
    let given = required("[diffusion]", raw.diffusion.as_ref(), None)?;
    let key = |name: &str| format!("diffusion.{name}");
    let sizes = [
        ("observation_steps", given.observation_steps),
        ("horizon", given.horizon),
        ("condition", given.condition),
        ("steps", given.steps),
        ("train_steps", given.train_steps),
    ];
    for (name, value) in sizes {
        if value == 0 || value > MAX_SIZE {
            return Err(invalid(key(name), value, format!("write a size between 1 and {MAX_SIZE}")));
        }
    }
    if given.train_steps > MAX_TRAIN_STEPS {
        return Err(invalid(key("train_steps"), given.train_steps, format!("at most {MAX_TRAIN_STEPS} noise levels")));
    }
    if given.steps > given.train_steps {
        let remedy = format!("at most the {} noise levels of training", given.train_steps);
        return Err(invalid(key("steps"), given.steps, remedy));
    }
    let played = raw.chunk.horizon.saturating_add(given.observation_steps - 1);
    if played > given.horizon {
        let remedy = format!(
            "{} rows of a chunk behind {} observed ones make {played}",
            raw.chunk.horizon,
            given.observation_steps - 1
        );
        return Err(invalid(key("horizon"), given.horizon, remedy));
    }
    let betas = choose(
        &key("beta_schedule"),
        &given.beta_schedule,
        &[
            ("linear", BetaSchedule::Linear),
            ("scaled_linear", BetaSchedule::ScaledLinear),
            ("squaredcos_cap_v2", BetaSchedule::SquaredCosine),
        ],
    )?;
    for (name, value) in [("beta_start", given.beta_start), ("beta_end", given.beta_end)] {
        if !(value > 0.0 && value < 1.0) {
            return Err(invalid(key(name), value, "write a number between 0 and 1"));
        }
    }
    if let Some(clip) = given.clip.filter(|clip| !(clip.is_finite() && *clip > 0.0)) {
        return Err(invalid(key("clip"), clip, "write a finite number above 0, or leave it out"));
    }
    Ok(DiffusionSpec {
        observation_steps: given.observation_steps,
        horizon: given.horizon,
        condition: given.condition,
        scheduler: choose(
            &key("scheduler"),
            &given.scheduler,
            &[("ddpm", Scheduler::Ddpm), ("ddim", Scheduler::Ddim)],
        )?,
        steps: given.steps,
        train_steps: given.train_steps,
        betas,
        beta_start: given.beta_start,
        beta_end: given.beta_end,
        prediction: choose(
            &key("prediction"),
            &given.prediction,
            &[("epsilon", Prediction::Epsilon), ("sample", Prediction::Sample)],
        )?,
        clip: given.clip,
    })
}

fn checked_vla(raw: &RawPolicy) -> Result<VlaSpec, BundleError> {
    let given = required("[vla]", raw.vla.as_ref(), None)?;
    let key = |name: &str| format!("vla.{name}");
    let sizes = [
        ("layers", given.layers),
        ("kv_heads", given.kv_heads),
        ("head_dim", given.head_dim),
        ("prefix", given.prefix),
        ("vocabulary", given.vocabulary),
        ("max_text_tokens", given.max_text_tokens),
        ("action_width", given.action_width),
    ];
    for (name, value) in sizes {
        if value == 0 || value > MAX_SIZE {
            return Err(invalid(key(name), value, format!("write a size between 1 and {MAX_SIZE}")));
        }
    }
    if given.steps == 0 || given.steps > MAX_STEPS {
        return Err(invalid(key("steps"), given.steps, format!("write between 1 and {MAX_STEPS} Euler steps")));
    }
    if given.clean_instruction && raw.family != "pi0" {
        return Err(invalid(key("clean_instruction"), true, "another family's key: remove it"));
    }
    if given.max_text_tokens >= given.prefix {
        let remedy = format!("the images and {} text tokens must fit", given.max_text_tokens);
        return Err(invalid(key("prefix"), given.prefix, remedy));
    }
    if given.action_width < raw.action.len() {
        let remedy = format!("an action row has {} values", raw.action.len());
        return Err(invalid(key("action_width"), given.action_width, remedy));
    }
    Ok(VlaSpec {
        layers: given.layers,
        kv_heads: given.kv_heads,
        head_dim: given.head_dim,
        prefix: given.prefix,
        vocabulary: given.vocabulary,
        max_text_tokens: given.max_text_tokens,
        bos: given.bos,
        action_width: given.action_width,
        steps: given.steps,
        clean_instruction: given.clean_instruction,
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

/// Of the keys given in a table, exactly those the family wants, in its order.
///
/// # Errors
/// [`BundleError::Invalid`] for one that is missing or another family's.
pub(super) fn exactly<const N: usize>(
    table: &str,
    given: &[(&'static str, Option<f64>)],
    wanted: [Option<&'static str>; N],
) -> Result<[f64; N], BundleError> {
    let value_of = |key: &str| given.iter().find(|(name, _)| *name == key).and_then(|(_, value)| *value);
    for key in wanted.into_iter().flatten() {
        if value_of(key).is_none() {
            let other = given.iter().find(|(name, value)| value.is_some() && !wanted.contains(&Some(*name)));
            return Err(match other {
                Some((other, _)) => {
                    invalid(format!("{table}.{other}"), "given", format!("another family's key: write {key}"))
                }
                None => invalid(format!("{table}.{key}"), "missing", "this family needs it"),
            });
        }
    }
    if let Some((other, _)) = given.iter().find(|(name, value)| value.is_some() && !wanted.contains(&Some(*name))) {
        return Err(invalid(
            format!("{table}.{other}"),
            "given",
            format!("another family's key: remove it from {POLICY_FILE}"),
        ));
    }
    Ok(wanted.map(|key| key.and_then(value_of).unwrap_or(0.0)))
}
