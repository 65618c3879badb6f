//! Observation to action chunk: engines, model families, bundles.
//!
//! [`Bundle::open`] reads and checks a policy bundle, [`load_policy`] builds it on an engine and replays its golden
//! samples, and the [`Policy`] it returns turns an [`Observation`] into an [`ActionChunk`] of absolute joint rows.
//! Normalised values, tokens and tensors never leave this crate.
//!
//! Shapes: `H` horizon, `D` action dimensions, `S` state dimensions (`S` rows of the prefix where graphs are
//! meant), `T` tokens, `h w c` image, `V` vocabulary, `d` model width, `L` layers, `Nv` visual tokens.
#![cfg_attr(test, allow(clippy::unwrap_used))]
// An engine that is left out leaves parts of what serves both without a caller.
#![cfg_attr(not(all(feature = "tract", feature = "ort")), allow(dead_code, unused_variables))]

#[cfg(not(any(feature = "tract", feature = "ort")))]
compile_error!("a policy needs an engine: build with the feature `tract`, `ort` or both");

mod action_space;
mod bind;
pub mod bundle;
mod chunk;
mod decoding;
mod end_effector;
pub mod engine;
mod families;
mod image;
pub mod kv;
mod load;
mod memory;
mod normalisation;
mod observation;
mod open_loop;
pub mod planner;
mod policy;
pub mod pruning;
pub mod skipping;
mod stopwatch;
mod thresholds;

pub use action_space::{ActionDim, ActionKind, ActionSpace, Blending, Interpolation, StateDim, Unit};
pub use bind::bind;
pub use bundle::{Arrays, Bundle, BundleError, BundleSource, Mismatch, PolicySpec, check_robot};
pub use chunk::{ActionChunk, Stages, Trace};
pub use decoding::{Decoding, DecodingError, LayerExit, NoTrigrams, Trigrams};
pub use end_effector::{Component, PoseFrame};
pub use image::{CameraSlot, ImageLoader, Pad, Resize};
pub use load::{
    Deviations, EngineChoice, EngineInfo, LoadError, Loaded, golden_inputs, load_policy, load_policy_capturing,
    load_policy_timed,
};
pub use memory::{MemoryBound, available_memory};
pub use normalisation::Normalisation;
pub use observation::{Anchor, Budget, Committed, Continuation, Epoch, MAX_OBSERVATIONS, Moment, Observation};
pub use open_loop::{OpenLoopInputs, OpenLoopOutput, infer_open_loop, infer_open_loop_into};
pub use policy::{ObservationError, OutputFault, Policy, PolicyError, Stage, StopReason};
pub use pruning::{Pruning, PruningError};
pub use skipping::{Skipping, SkippingError};
pub use stopwatch::{EngineRun, EngineRuns};
pub use thresholds::{
    AnytimeThreshold, BinDistanceThreshold, DenoisingThreshold, EarlyExitThreshold, ExtrapolationThresholds,
    LayerExitThreshold, PruningThresholds, ReuseThresholds, THRESHOLDS_FILE, TRIGRAMS_FILE, Thresholds, graph_digest,
    halves_digest,
};

#[cfg(feature = "ort")]
pub use engine::ort::OrtOptions;
