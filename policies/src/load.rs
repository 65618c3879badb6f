//! From an opened bundle to a policy that has proved itself on this engine.
//!
//! After the sessions are built, every golden sample of the bundle is replayed through the very code that will run:
//! visual tokens, logits after the prefix, generated tokens and joint rows must meet what the exporting framework
//! recorded, within the tolerances the bundle declares for this engine. An engine without declared tolerances is
//! refused: nobody has said what is good enough there.

use std::sync::{Arc, Mutex};

use crate::bundle::{
    Arrays, Bundle, BundleError, GOLDEN_FILE, GoldenSample, POLICY_FILE, PolicySpec, Precision, Tolerance,
};
use crate::chunk::Stages;
use crate::engine::{
    Captured, Capturing, Engine, EngineDescription, EngineError, Placement, ProfileRows, Provider, ProviderRequest,
    ShapeProfile,
};
use crate::families::{self, Inspect};
use crate::observation::Epoch;
use crate::open_loop::{OpenLoopInputs, infer_open_loop};
use crate::planner::{Plan, Planned, Visual, Work};
use crate::policy::{Policy, PolicyError};
use crate::skipping::Skipped;
use crate::stopwatch::{self, EngineRuns};

/// The engine to run a policy on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// tract, compiled in.
    #[cfg(feature = "tract")]
    Tract,
    /// ONNX Runtime, from a library of the machine.
    #[cfg(feature = "ort")]
    Ort(crate::engine::ort::OrtOptions),
}

impl EngineChoice {
    /// The GPU the first GPU provider asks for, if there is one.
    pub fn gpu(&self) -> Option<u32> {
        match self {
            #[cfg(feature = "ort")]
            Self::Ort(options) => {
                let gpu = options.providers.requests().iter().find(|request| request.name != Provider::Cpu)?;
                Some(gpu.device_id.unwrap_or(0))
            }
            #[cfg(feature = "tract")]
            Self::Tract => None,
        }
    }

    /// Scratch that the providers are allowed, bytes.
    pub fn workspace_bytes(&self) -> u64 {
        match self {
            #[cfg(feature = "ort")]
            Self::Ort(options) => {
                let mib = options.providers.requests().iter().filter_map(|request| request.workspace_mib);
                mib.map(u64::from).sum::<u64>() << 20
            }
            #[cfg(feature = "tract")]
            Self::Tract => 0,
        }
    }

    /// Whether a graph that is run with several numbers of rows holds its weights once.
    pub const fn shares_weights(&self) -> bool {
        match self {
            #[cfg(feature = "ort")]
            Self::Ort(_) => true,
            #[cfg(feature = "tract")]
            Self::Tract => false,
        }
    }

    /// What TensorRT's providers in the list build the engine of a bundle's graph of any number of rows for, by their names;
    /// empty where either is missing.
    ///
    /// # Errors
    /// [`EngineError::Rows`] for a provider's option that does not go with the rows that the bundle runs.
    pub fn profiles(&self, spec: &PolicySpec) -> Result<Vec<(&'static str, ShapeProfile)>, EngineError> {
        let requests: &[ProviderRequest] = match self {
            #[cfg(feature = "ort")]
            Self::Ort(options) => options.providers.requests(),
            #[cfg(feature = "tract")]
            Self::Tract => &[],
        };
        let counts = spec.family.row_counts().unwrap_or_default();
        let contracts = families::row_contracts(spec);
        let mut profiles = Vec::new();
        for request in requests {
            request.check_rows(families::DYNAMIC, &counts)?;
            let builds = matches!(request.name, Provider::TensorRt | Provider::TensorRtRtx);
            if let Some(contracts) = contracts.as_ref().filter(|_| builds) {
                let rows = request.profile_rows.unwrap_or(ProfileRows::up_to(contracts.most_rows()));
                profiles.push((request.name.name(), ShapeProfile::of(contracts, rows)));
            }
        }
        Ok(profiles)
    }

    /// Starts the engine for a bundle.
    fn start_for(self, bundle: &Bundle) -> Result<Box<dyn Engine>, EngineError> {
        self.profiles(bundle.spec())?;
        self.for_bundle(bundle.digest()).start()
    }

    /// The same choice for a bundle's graphs: built engines are kept by its digest.
    fn for_bundle(self, digest: &str) -> Self {
        match self {
            #[cfg(feature = "ort")]
            Self::Ort(options) => {
                Self::Ort(crate::engine::ort::OrtOptions { bundle_digest: digest.to_owned(), ..options })
            }
            #[cfg(feature = "tract")]
            Self::Tract => self,
        }
    }

    /// Starts the engine.
    ///
    /// # Errors
    /// [`EngineError`], with the remedy where a library is missing.
    pub fn start(self) -> Result<Box<dyn Engine>, EngineError> {
        match self {
            #[cfg(feature = "tract")]
            Self::Tract => Ok(Box::new(crate::engine::tract::Tract)),
            #[cfg(feature = "ort")]
            Self::Ort(options) => Ok(Box::new(crate::engine::ort::Ort::new(&options)?)),
        }
    }
}

/// What runs the policy, in words for the log and the summaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// `"tract"` or `"ort"`.
    pub name: &'static str,
    /// The engine's version.
    pub version: String,
    /// The library in use and how it was found; empty for an engine that is compiled in.
    pub library: String,
    /// Execution providers that hold nodes of the graphs.
    pub providers: Vec<String>,
    /// Where the nodes of each graph lie; empty for an engine that has no choice.
    pub placements: Vec<Placement>,
    /// Preferred providers that could not start, with the reason.
    pub skipped: Vec<String>,
    /// Numbers the graphs compute in.
    pub precision: &'static str,
}

/// A policy ready to run.
pub struct Loaded {
    /// The policy.
    pub policy: Box<dyn Policy>,
    /// What runs it.
    pub engine: EngineInfo,
    /// Largest differences from the golden outputs, over all samples.
    pub golden: Deviations,
}

/// Largest absolute differences from recorded outputs.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Deviations {
    /// Of the visual tokens; 0 for a family without.
    pub visual: f64,
    /// Of what the head gives first: logits, a velocity, normalised rows.
    pub head: f64,
    /// Of the joint positions of the rows, rad.
    pub action_rad: f64,
    /// Samples replayed.
    pub samples: usize,
}

/// Why a policy could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bundle is not what it should be.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The engine could not start or load a graph.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The bundle declares no tolerances for the engine.
    #[error(
        "{POLICY_FILE}: [engines] does not list `{engine}` (it lists {declared:?}); run one of those, or export the bundle with tolerances for it"
    )]
    Undeclared {
        /// The engine.
        engine: &'static str,
        /// Engines with tolerances.
        declared: Vec<String>,
    },
    /// A tokenizer file cannot be used.
    #[error("{file}: {message}")]
    Tokenizer {
        /// The file.
        file: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A golden sample could not be replayed.
    #[error("golden sample {sample} fails on {engine}: {error}")]
    GoldenFailed {
        /// The sample.
        sample: usize,
        /// The engine.
        engine: &'static str,
        /// The policy's error.
        error: Box<PolicyError>,
    },
    /// A golden sample gave other numbers.
    #[error(
        "golden sample {sample} on {engine}: {what} differs by {difference:.3e} and at most {tolerance:.3e} is allowed"
    )]
    GoldenDiffers {
        /// The sample.
        sample: usize,
        /// The engine.
        engine: &'static str,
        /// Which output.
        what: &'static str,
        /// Largest absolute difference.
        difference: f64,
        /// Allowed.
        tolerance: f64,
    },
    /// A golden sample gave other ids.
    #[error("golden sample {sample} on {engine}: {what} are {got:?} and must be {expected:?}")]
    GoldenIds {
        /// The sample.
        sample: usize,
        /// The engine.
        engine: &'static str,
        /// Which ids.
        what: &'static str,
        /// Found.
        got: Vec<u32>,
        /// Recorded.
        expected: Vec<u32>,
    },
}

/// Builds the policy of a bundle on an engine and replays its golden samples.
///
/// # Errors
/// [`LoadError`]; a policy that does not reproduce its golden outputs is never returned.
///
/// # Real-time
/// Takes seconds: start-up only.
pub fn load_policy(bundle: &Bundle, choice: EngineChoice) -> Result<Loaded, LoadError> {
    load_on(bundle, &*choice.start_for(bundle)?)
}

/// As [`load_policy`], with every run of the engine timed, for benchmarks; `is_portable` leaves a graph that writes keys
/// and values in place aside where the bundle has one.
///
/// # Errors
/// As [`load_policy`].
///
/// # Real-time
/// Takes seconds: start-up only.
pub fn load_policy_timed(
    bundle: &Bundle,
    choice: EngineChoice,
    is_portable: bool,
) -> Result<(Loaded, EngineRuns), LoadError> {
    let (engine, runs) = stopwatch::timed(choice.start_for(bundle)?, is_portable);
    Ok((load_on(bundle, &*engine)?, runs))
}

/// [`load_policy`] with an engine that keeps at most `sets` sets of inputs of every graph: calibration data.
///
/// # Errors
/// As [`load_policy`].
pub fn load_policy_capturing(
    bundle: &Bundle,
    choice: EngineChoice,
    sets: usize,
) -> Result<(Loaded, Arc<Mutex<Captured>>), LoadError> {
    let (engine, captured) = Capturing::new(choice.start_for(bundle)?, sets);
    Ok((load_on(bundle, &engine)?, captured))
}

fn load_on(bundle: &Bundle, engine: &dyn Engine) -> Result<Loaded, LoadError> {
    let spec = bundle.spec();
    let description = engine.description();
    let tolerance = spec.engines.get(description.name).copied().ok_or_else(|| LoadError::Undeclared {
        engine: description.name,
        declared: spec.engines.keys().cloned().collect(),
    })?;
    let mut policy = families::load(bundle, engine)?;
    let placements = engine.placements();
    check_shares(spec, description.name, &placements)?;
    let (golden, replayed) = replay_golden(bundle, &mut *policy, description.name, tolerance)?;
    let EngineDescription { name, version, library, mut providers, skipped } = description;
    if !placements.is_empty() {
        providers.retain(|provider| placements.iter().any(|placement| placement.nodes.contains_key(provider)));
    }
    let precision = spec.precision.name();
    let engine = EngineInfo { name, version, library, providers, placements, skipped, precision };
    let policy = Skipped::around(Box::new(Planned::new(policy, &replayed)));
    Ok(Loaded { policy, engine, golden })
}

/// The inputs of a bundle's golden samples, images at model resolution.
///
/// # Errors
/// [`BundleError::Array`] naming the array.
pub fn golden_inputs(bundle: &Bundle) -> Result<Vec<OpenLoopInputs>, BundleError> {
    let arrays = Arrays::from_npz(bundle.file(GOLDEN_FILE)?, GOLDEN_FILE)?;
    let samples = GoldenSample::read_all(&arrays, bundle.spec())?;
    Ok(samples.iter().map(|golden| OpenLoopInputs::from_golden(golden, bundle.spec())).collect())
}

/// Refuses a graph of which a provider holds less than the bundle demands.
fn check_shares(spec: &PolicySpec, engine: &str, placements: &[Placement]) -> Result<(), EngineError> {
    for demand in spec.shares.iter().filter(|demand| demand.engine == engine) {
        let provider = demand.provider.ort_name();
        if let Some(placement) = placements.iter().find(|placement| placement.share(provider) < demand.least) {
            return Err(EngineError::Placement {
                graph: placement.graph.clone(),
                detail: format!(
                    "{POLICY_FILE} demands that `{}` holds {} of the nodes, and it holds {:.3}",
                    demand.provider,
                    demand.least,
                    placement.share(provider)
                ),
                placement: placement.to_string(),
            });
        }
    }
    Ok(())
}

fn replay_golden(
    bundle: &Bundle,
    policy: &mut dyn Inspect,
    engine: &'static str,
    tolerance: Tolerance,
) -> Result<(Deviations, Vec<Stages>), LoadError> {
    let arrays = Arrays::from_npz(bundle.file(GOLDEN_FILE)?, GOLDEN_FILE)?;
    let mut worst = Deviations::default();
    let mut replayed = Vec::new();
    policy.set_exact(true);
    // Where blocks can be verified, tokens are generated one by one as well: whichever the planner chooses has proved itself.
    let ways: &[bool] =
        if matches!(policy.work(), Work::Tokens { drafts: true, .. }) { &[true, false] } else { &[true] };
    let probes = bundle.spec().family.probes();
    let samples = GoldenSample::read_all(&arrays, bundle.spec())?;
    for ((sample, golden), &drafts) in samples.iter().enumerate().flat_map(|of| ways.iter().map(move |way| (of, way))) {
        policy.set_plan(Plan { drafts, visual: Some(u32::MAX), ..Plan::UNLIMITED });
        let failed = |error: PolicyError| LoadError::GoldenFailed { sample, engine, error: Box::new(error) };
        let inputs = OpenLoopInputs::from_golden(golden, bundle.spec());
        // A prompt or a visual token that differs explains a later failure, so those are compared even then.
        let result = infer_open_loop(policy, &inputs);
        let ids = |what, got: &[u32], expected: &[u32]| {
            if got == expected {
                return Ok(());
            }
            Err(LoadError::GoldenIds { sample, engine, what, got: got.to_vec(), expected: expected.to_vec() })
        };
        let close = |what, difference: f64, tolerance: f64| {
            if difference <= tolerance {
                return Ok(());
            }
            Err(LoadError::GoldenDiffers { sample, engine, what, difference, tolerance })
        };
        if let Err(
            error @ (PolicyError::Observation(_) | PolicyError::UnknownInstruction(_) | PolicyError::Engine(_)),
        ) = result
        {
            return Err(failed(error));
        }
        ids("the prompt ids", policy.text_ids(), &golden.text_ids)?;
        let visual = largest_difference(policy.first()?.iter().map(|v| f64::from(*v)), &golden.visual);
        close(probes.first.map_or("nothing", |probe| probe.what), visual, tolerance.visual)?;
        let head = largest_difference(policy.head()?.iter().map(|v| f64::from(*v)), &golden.head);
        close(probes.head.what, head, tolerance.head)?;
        if bundle.spec().precision == Precision::F32 {
            ids("the tokens", policy.tokens(), &golden.tokens)?;
        }
        let output = result.map_err(failed)?;
        let action_rad = largest_difference(output.chunk.rows().iter().copied(), &golden.actions);
        close("a joint position", action_rad, tolerance.action_rad)?;
        worst.visual = worst.visual.max(visual);
        worst.head = worst.head.max(head);
        worst.action_rad = worst.action_rad.max(action_rad);
        worst.samples += usize::from(drafts);
        replayed.push(*output.chunk.stages());
    }
    policy.set_exact(false);
    // What fewer visual tokens cost; their answers are others, and no golden ones.
    for bucket in Visual::new(bundle.spec()).iter().flat_map(|visual| &visual.buckets()[1..]) {
        let Some(golden) = samples.first() else { break };
        policy.set_plan(Plan { visual: Some(bucket.tokens as u32), ..Plan::UNLIMITED });
        match infer_open_loop(policy, &OpenLoopInputs::from_golden(golden, bundle.spec())) {
            Ok(output) => replayed.push(*output.chunk.stages()),
            // An answer that is no chunk costs as much, and is refused again when it comes up.
            Err(PolicyError::Undecodable(_) | PolicyError::OutOfRange { .. }) => {}
            Err(error) => return Err(LoadError::GoldenFailed { sample: 0, engine, error: Box::new(error) }),
        }
    }
    policy.set_plan(Plan::UNLIMITED);
    policy.reset(Epoch::default());
    Ok((worst, replayed))
}

/// The largest absolute difference; infinite for different lengths or a value that is not finite.
fn largest_difference(got: impl ExactSizeIterator<Item = f64>, expected: &[f64]) -> f64 {
    if got.len() != expected.len() {
        return f64::INFINITY;
    }
    got.zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, d| if d.is_nan() { f64::INFINITY } else { f64::max(worst, d) })
}
