//! Policy bundles: a folder (or slices in the binary) with everything a policy needs, checked before anything runs.
//!
//! `policy.toml` lists the SHA-256 of every other file. Opening a bundle reads each file once, compares its digest
//! and keeps the bytes, so that what was checked is what is used. A file that is not listed is refused as well.

mod dims;
mod family;
mod golden;
mod prompt;
mod pruning;
mod raw;
mod robot;
pub mod safetensors;
mod source;
mod spec;
mod split;
mod statistics;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

pub(crate) use family::{BIN_COUNT, MAX_BLOCK};
pub use family::{
    BetaSchedule, BlockSpec, DiffusionSpec, FamilySpec, FlowSpec, ModelShape, OftSpec, Prediction, PrefixSpec,
    RowsSpec, Scheduler, Strategy, TokenSpec, VlaSpec,
};
pub use golden::Arrays;
pub(crate) use golden::{GOLDEN_FILE, GoldenSample, RecordedMoment};
pub use prompt::{AnswerSpec, Ids, PromptSpec, PromptText};
pub use robot::{Mismatch, check_robot};
pub use source::BundleSource;
pub use spec::{ChunkSpec, CostModel, PolicySpec, Precision, ProviderShare, Quantisation, Tolerance, Training};
pub use split::SplitSpec;

use crate::decoding::{Decoding, DecodingError};
use crate::pruning::{Pruning, PruningError};
use crate::skipping::{Skipping, SkippingError};
use crate::thresholds::{THRESHOLDS_FILE, Thresholds};

/// The file that describes the bundle.
pub const POLICY_FILE: &str = "policy.toml";

/// Why a bundle is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read.
    #[error("{file}: cannot be read: {message}")]
    Read {
        /// The file.
        file: String,
        /// The system's message.
        message: String,
    },
    /// `policy.toml` is not TOML, has an unknown key, misses one or gives one another type.
    #[error("{file}: {message}")]
    Parse {
        /// The file.
        file: String,
        /// The parser's message with line and column.
        message: String,
    },
    /// A value that cannot be.
    #[error("{file}: {key} = {value}: {remedy}")]
    Invalid {
        /// The file.
        file: String,
        /// The key, with its table and index.
        key: String,
        /// The value found.
        value: String,
        /// What to write instead.
        remedy: String,
    },
    /// A file is not the one that was exported.
    #[error("{file}: SHA-256 is {got} and {POLICY_FILE} says {expected}; export or copy the bundle again")]
    Digest {
        /// The file.
        file: String,
        /// The digest listed.
        expected: String,
        /// The digest found.
        got: String,
    },
    /// A file that `policy.toml` does not list.
    #[error("{file}: is not listed in [files] of {POLICY_FILE}; remove it or export the bundle again")]
    Unlisted {
        /// The file.
        file: String,
    },
    /// A tensor cannot be read from the weights.
    #[error("{file}: {error}")]
    Weights {
        /// The file.
        file: String,
        /// What is wrong.
        error: safetensors::SafetensorsError,
    },
    /// A recorded array is missing or has another type or shape.
    #[error("{file}: array `{array}`: {message}")]
    Array {
        /// The file.
        file: String,
        /// The array.
        array: String,
        /// What is wrong.
        message: String,
    },
}

/// An opened bundle: every file read and its digest checked.
#[derive(Clone)]
pub struct Bundle {
    source: BundleSource,
    spec: PolicySpec,
    digest: String,
    files: BTreeMap<String, Arc<[u8]>>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("source", &self.source).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Bundle {
    /// Opens a bundle: reads and validates `policy.toml`, then reads every listed file and checks its digest.
    ///
    /// # Errors
    /// [`BundleError`] naming the file.
    pub fn open(source: BundleSource) -> Result<Self, BundleError> {
        let text = source.read(POLICY_FILE)?;
        let digest = sha256_hex(&text);
        let text = String::from_utf8(text)
            .map_err(|error| BundleError::Parse { file: POLICY_FILE.to_owned(), message: error.to_string() })?;
        let mut spec = PolicySpec::from_toml_str(&text)?;
        if let Some(file) =
            source.list()?.into_iter().find(|path| path != POLICY_FILE && !spec.files.contains_key(path))
        {
            return Err(BundleError::Unlisted { file });
        }
        let mut files = BTreeMap::new();
        for (path, expected) in &spec.files {
            let bytes = source.read(path)?;
            let got = sha256_hex(&bytes);
            if got != *expected {
                return Err(BundleError::Digest { file: path.clone(), expected: expected.clone(), got });
            }
            files.insert(path.clone(), Arc::from(bytes));
        }
        if let Some(bytes) = files.get(THRESHOLDS_FILE) {
            let text = String::from_utf8_lossy(bytes);
            spec.thresholds = Some(Thresholds::from_toml_str(&text, &spec)?);
        }
        spec.family.resolve_decoding(spec.thresholds.as_ref())?;
        spec.skipping.check(&spec).map_err(|error| error.in_bundle(spec.skipping.name()))?;
        let pruning = spec.pruning.resolved(spec.thresholds.as_ref()).and_then(|resolved| {
            resolved.check(&spec)?;
            Ok(resolved)
        });
        spec.pruning = pruning.map_err(|error| error.in_bundle(&spec.pruning.to_string()))?;
        Ok(Self { source, spec, digest, files })
    }

    /// Where it was read from.
    pub fn source(&self) -> &BundleSource {
        &self.source
    }

    /// What it says about itself.
    pub fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    /// Chooses another way of decoding than `policy.toml` does, before the policy is loaded.
    ///
    /// # Errors
    /// [`DecodingError`] when the family or the bundle's graphs cannot be decoded so.
    pub fn set_decoding(&mut self, decoding: Decoding) -> Result<(), DecodingError> {
        self.spec.family.set_decoding(decoding.resolved(self.spec.thresholds.as_ref())?)
    }

    /// Chooses another way of skipping calls than `policy.toml` does, before the policy is loaded.
    ///
    /// # Errors
    /// [`SkippingError`] where nothing was fitted for it.
    pub fn set_skipping(&mut self, skipping: Skipping) -> Result<(), SkippingError> {
        skipping.check(&self.spec)?;
        self.spec.skipping = skipping;
        Ok(())
    }

    /// Chooses another way of pruning than `policy.toml` does, before the policy is loaded.
    ///
    /// # Errors
    /// [`PruningError`] where the family or the bundle's graphs cannot.
    pub fn set_pruning(&mut self, pruning: Pruning) -> Result<(), PruningError> {
        let pruning = pruning.resolved(self.spec.thresholds.as_ref())?;
        pruning.check(&self.spec)?;
        self.spec.pruning = pruning;
        Ok(())
    }

    /// SHA-256 of `policy.toml`, lower-case hex: through the digests in it, of the whole bundle.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The files that graphs may point into: weights beside `policy.toml`.
    pub(crate) fn weight_files(&self) -> impl Iterator<Item = (&str, &Arc<[u8]>)> {
        let is_weights = |path: &str| !path.contains('/') && (path.ends_with(".safetensors") || path.ends_with(".bin"));
        self.files.iter().filter(move |(path, _)| is_weights(path)).map(|(path, bytes)| (path.as_str(), bytes))
    }

    /// The contents of a listed file.
    ///
    /// # Errors
    /// [`BundleError::Read`] for a file that is not listed.
    pub fn file(&self, path: &str) -> Result<&Arc<[u8]>, BundleError> {
        self.files.get(path).ok_or_else(|| BundleError::Read {
            file: path.to_owned(),
            message: format!("it is needed and [files] of {POLICY_FILE} does not list it"),
        })
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
