//! `thresholds.toml` of a bundle: numbers that trade exactness for time, fitted from recordings of the very graphs.
//!
//! A threshold is a property of one graph in one precision: quantising moves the margins it was fitted to. So the file
//! names the graphs it was fitted on, and one that was fitted on others is refused when the bundle is opened.
//! `endplate calibrate thresholds` writes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::bundle::{BundleError, FamilySpec, PolicySpec};
use crate::decoding::{MAX_BIN_DISTANCE, MAX_PASSES};
use crate::families::SHALLOW;

/// The file's name in a bundle.
pub const THRESHOLDS_FILE: &str = "thresholds.toml";
/// The tri-gram table's name in a bundle.
pub const TRIGRAMS_FILE: &str = "trigrams.table";
/// The format this build reads and writes.
const FORMAT: u32 = 1;
/// Normalised actions span −1..1: a bound as wide as the range bounds nothing.
const WIDEST_BOUND: f64 = 2.0;
/// Faster than any joint of an arm moves.
const FASTEST_RAD_S: f64 = 100.0;

/// Fitted thresholds, and what they were fitted on. A part that is missing was not fitted, and what needs it is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Format of the file.
    pub format: u32,
    /// [`graph_digest`] of the graphs and weights.
    pub graph_digest: String,
    /// Numbers they compute in, as `policy.toml` writes them.
    pub precision: String,
    /// SHA-256 of the recordings, one after the other.
    pub recording_digest: String,
    /// Observations in them.
    pub observations: u64,
    /// p99 of the largest difference of a joint in the rows that are played, rad, which the bounded losses were fitted to.
    pub tolerance_rad: f64,
    /// FAST: when a part of the tokens is taken for the chunk at the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anytime: Option<AnytimeThreshold>,
    /// Flow: how few denoising steps the planner may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoising: Option<DenoisingThreshold>,
    /// Bins: when a Jacobi iteration may end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_exit: Option<EarlyExitThreshold>,
    /// Bins: how far a guess may be off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bin_distance: Option<BinDistanceThreshold>,
    /// How many visual tokens are kept or computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<PruningThresholds>,
    /// When the auxiliary head's token is taken without the deep half of the decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_exit: Option<LayerExitThreshold>,
    /// When the chunk before is continued instead of asking the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<ReuseThresholds>,
    /// When the motion is extrapolated instead of asking the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extrapolation: Option<ExtrapolationThresholds>,
}

/// See [`Thresholds::anytime`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnytimeThreshold {
    /// The largest stated error bound that is accepted, normalised units, above 0 and at most 2.
    pub bound: f64,
    /// `[H, D]` row-major: the largest |quantised coefficient| of each frequency and dimension in the recorded chunks, which
    /// the bound presupposes of what is missing.
    pub coefficient_limits: Vec<u32>,
}

/// See [`Thresholds::denoising`].
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenoisingThreshold {
    /// Fewest Euler steps, at least 1 and at most the family's.
    pub least_steps: u32,
}

/// See [`Thresholds::early_exit`].
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyExitThreshold {
    /// Passes after which guesses are taken as they are.
    pub passes: u32,
}

/// See [`Thresholds::bin_distance`].
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinDistanceThreshold {
    /// Bins a guess may be off.
    pub bins: u32,
}

/// See [`Thresholds::pruning`]; each is a number that the bundle has graphs for, and missing where none kept the tolerance.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruningThresholds {
    /// Of `ics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ics: Option<u32>,
    /// Of `ics` with `edges`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ics_edges: Option<u32>,
    /// Of `cache`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<u32>,
}

/// See [`Thresholds::layer_exit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerExitThreshold {
    /// λ: the gap between the head's two likeliest tokens must be above it, 0.001 to 0.999 in thousandths.
    pub confidence: f64,
    /// [`halves_digest`] of the graphs.
    pub halves_digest: String,
}

impl LayerExitThreshold {
    /// The confidence in thousandths.
    pub fn thousandths(&self) -> u32 {
        (self.confidence * 1e3).round() as u32
    }
}

/// See [`Thresholds::reuse`].
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReuseThresholds {
    /// ε₁: the motions of the last two computed chunks lie within this angle, above 0 and at most π, rad.
    pub angle_rad: f64,
    /// ε₂: at least this share of the image patches is as it was when the chunk was computed, 0 to 1.
    pub still_share: f64,
}

/// See [`Thresholds::extrapolation`].
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtrapolationThresholds {
    /// Slowest motion that is extrapolated, norm of all joints but the grippers, rad/s.
    pub speed_min_rad_s: f64,
    /// Fastest.
    pub speed_max_rad_s: f64,
    /// Largest residual of the line through the last rows, rad.
    pub residual_rad: f64,
}

/// SHA-256 over name and digest of every graph and weights file that a bundle lists, in the order of their names. The halves
/// of a decoder are not among them: nothing but [`LayerExitThreshold`], which names them, is fitted on them.
pub fn graph_digest(files: &BTreeMap<String, String>) -> String {
    digest_of(files, |name| {
        let is_weights = !name.contains('/') && (name.ends_with(".safetensors") || name.ends_with(".bin"));
        (name.ends_with(".onnx") && !is_half(name)) || is_weights
    })
}

/// The same over the halves of the decoder.
pub fn halves_digest(files: &BTreeMap<String, String>) -> String {
    digest_of(files, is_half)
}

/// Whether a file is a graph of one half of the decoder.
pub(crate) fn is_half(name: &str) -> bool {
    name == SHALLOW || (name.starts_with("decode_b_k") && name.ends_with(".onnx"))
}

fn digest_of(files: &BTreeMap<String, String>, is_meant: impl Fn(&str) -> bool) -> String {
    let mut hash = Sha256::new();
    for (name, digest) in files.iter().filter(|(name, _)| is_meant(name)) {
        hash.update(format!("{name} {digest}\n"));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Thresholds {
    /// Nothing fitted yet, for the graphs of a bundle.
    pub fn for_bundle(spec: &PolicySpec, recording_digest: String, observations: u64, tolerance_rad: f64) -> Self {
        Self {
            format: FORMAT,
            graph_digest: graph_digest(&spec.files),
            precision: spec.precision.name().to_owned(),
            recording_digest,
            observations,
            tolerance_rad,
            anytime: None,
            denoising: None,
            early_exit: None,
            bin_distance: None,
            pruning: None,
            layer_exit: None,
            reuse: None,
            extrapolation: None,
        }
    }

    /// Reads the file's text for a bundle that it must have been fitted on.
    ///
    /// # Errors
    /// [`BundleError::Parse`] and [`BundleError::Invalid`], naming the key.
    pub fn from_toml_str(text: &str, spec: &PolicySpec) -> Result<Self, BundleError> {
        let read: Self = toml::from_str(text)
            .map_err(|error| BundleError::Parse { file: THRESHOLDS_FILE.to_owned(), message: error.to_string() })?;
        read.check(spec)?;
        Ok(read)
    }

    /// The text of the file.
    ///
    /// # Errors
    /// [`BundleError::Parse`] for a number TOML cannot say.
    pub fn to_toml_string(&self) -> Result<String, BundleError> {
        toml::to_string(self)
            .map_err(|error| BundleError::Parse { file: THRESHOLDS_FILE.to_owned(), message: error.to_string() })
    }

    /// Refuses what was fitted on another graph, in another precision, or cannot be.
    ///
    /// # Errors
    /// [`BundleError::Invalid`], naming the key.
    pub fn check(&self, spec: &PolicySpec) -> Result<(), BundleError> {
        const REMEDY: &str = "fit them again with `endplate calibrate thresholds`";
        if self.format != FORMAT {
            return Err(invalid("format", self.format, format!("this build reads format {FORMAT}: {REMEDY}")));
        }
        if self.precision != spec.precision.name() {
            let remedy = format!("the bundle computes in {}: {REMEDY}", spec.precision.name());
            return Err(invalid("precision", &self.precision, remedy));
        }
        let graphs = graph_digest(&spec.files);
        if self.graph_digest != graphs {
            let remedy = format!("fitted on other graphs, the bundle's are {graphs}: {REMEDY}");
            return Err(invalid("graph_digest", &self.graph_digest, remedy));
        }
        let within = |key: &str, value: f64, low: f64, high: f64| {
            // Written so that a value that is no number is refused too.
            if value > low && value <= high {
                return Ok(());
            }
            Err(invalid(key, value, format!("must lie above {low} and at most at {high}: {REMEDY}")))
        };
        let has_bins = matches!(spec.family, FamilySpec::Bins(_));
        let parts = [
            ("anytime", self.anytime.is_some(), matches!(spec.family, FamilySpec::Pi0Fast(_))),
            ("denoising", self.denoising.is_some(), spec.family.denoising_steps().is_some()),
            ("early_exit", self.early_exit.is_some(), has_bins),
            ("bin_distance", self.bin_distance.is_some(), has_bins),
            ("pruning", self.pruning.is_some(), spec.family.prunable().is_some()),
            ("layer_exit", self.layer_exit.is_some(), spec.family.tokens().is_some()),
        ];
        if let Some((part, ..)) = parts.into_iter().find(|(_, given, fits)| *given && !fits) {
            let remedy = format!("is not for the family {}: remove it", spec.family.name());
            return Err(invalid(&format!("[{part}]"), "given", remedy));
        }
        within("tolerance_rad", self.tolerance_rad, 0.0, core::f64::consts::PI)?;
        if let Some(anytime) = &self.anytime {
            within("anytime.bound", anytime.bound, 0.0, WIDEST_BOUND)?;
            let (got, needed) = (anytime.coefficient_limits.len(), spec.chunk.horizon * spec.actions.dims().len());
            if got != needed {
                let remedy = format!("a chunk has {needed} coefficients: {REMEDY}");
                return Err(invalid("anytime.coefficient_limits", format!("{got} numbers"), remedy));
            }
        }
        if let Some(denoising) = self.denoising {
            let most = spec.family.denoising_steps().unwrap_or(0);
            within("denoising.least_steps", f64::from(denoising.least_steps), 0.0, most as f64)?;
        }
        if let Some(exit) = self.early_exit {
            within("early_exit.passes", f64::from(exit.passes), 0.0, f64::from(MAX_PASSES))?;
        }
        if let Some(distance) = self.bin_distance {
            within("bin_distance.bins", f64::from(distance.bins), 0.0, f64::from(MAX_BIN_DISTANCE))?;
        }
        if let Some(PruningThresholds { ics, ics_edges, cache }) = self.pruning {
            for (key, tokens) in [("ics", ics), ("ics_edges", ics_edges), ("cache", cache)] {
                let has = |tokens: u32| spec.split.as_ref().is_some_and(|split| split.cost(tokens as usize).is_some());
                if let Some(tokens) = tokens.filter(|tokens| !has(*tokens)) {
                    let remedy = format!("the bundle has no graphs for so many visual tokens: {REMEDY}");
                    return Err(invalid(&format!("pruning.{key}"), tokens, remedy));
                }
            }
        }
        if let Some(exit) = &self.layer_exit {
            within("layer_exit.confidence", exit.confidence, 0.0, 0.999)?;
            if (exit.confidence * 1e3 - f64::from(exit.thousandths())).abs() > 1e-6 || exit.thousandths() == 0 {
                let remedy = format!("must be a number of thousandths: {REMEDY}");
                return Err(invalid("layer_exit.confidence", exit.confidence, remedy));
            }
            if spec.family.tokens().is_none_or(|rules| rules.split.is_none()) {
                let remedy = "the bundle declares no decoding.split: remove it".to_owned();
                return Err(invalid("[layer_exit]", "given", remedy));
            }
            let halves = halves_digest(&spec.files);
            if exit.halves_digest != halves {
                let remedy = format!("fitted on other graphs, the bundle's are {halves}: {REMEDY}");
                return Err(invalid("layer_exit.halves_digest", &exit.halves_digest, remedy));
            }
        }
        if let Some(reuse) = self.reuse {
            within("reuse.angle_rad", reuse.angle_rad, 0.0, core::f64::consts::PI)?;
            if !(0.0..=1.0).contains(&reuse.still_share) {
                return Err(invalid("reuse.still_share", reuse.still_share, format!("is no share: {REMEDY}")));
            }
        }
        if let Some(rules) = self.extrapolation {
            within("extrapolation.speed_max_rad_s", rules.speed_max_rad_s, 0.0, FASTEST_RAD_S)?;
            if !(0.0..rules.speed_max_rad_s).contains(&rules.speed_min_rad_s) {
                let remedy = format!("must lie between 0 and speed_max_rad_s: {REMEDY}");
                return Err(invalid("extrapolation.speed_min_rad_s", rules.speed_min_rad_s, remedy));
            }
            within("extrapolation.residual_rad", rules.residual_rad, 0.0, core::f64::consts::PI)?;
        }
        Ok(())
    }
}

fn invalid(key: &str, value: impl core::fmt::Display, remedy: String) -> BundleError {
    BundleError::Invalid { file: THRESHOLDS_FILE.to_owned(), key: key.to_owned(), value: value.to_string(), remedy }
}
