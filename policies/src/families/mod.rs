//! Model families: how observations become graph inputs and graph outputs become rows.

mod act;
mod answer;
mod bins;
mod decoder;
mod diffusion;
mod flow;
mod frame;
mod noise;
mod observation;
mod oft;
mod openvla;
mod pi0;
mod pi05;
mod pi0_fast;
mod prefix;
mod pruned;
mod schedule;
mod smolvla;
mod split;
mod text;
mod tokens;
mod vla;

use core::time::Duration;
use std::time::Instant as WallInstant;

use crate::bundle::{Bundle, BundleError, FamilySpec, PolicySpec};
use crate::engine::{Engine, EngineError, ExternalFile, GraphSource, RowContracts};
use crate::load::LoadError;
use crate::policy::Policy;
pub(crate) use decoder::DYNAMIC;
pub(crate) use observation::check as check_observation;
use prefix::Parts;
pub(crate) use split::SHALLOW;

/// What golden replay looks at beside the answer; which outputs these are, the family's
/// [`probes`](FamilySpec::probes) say.
pub(crate) trait Inspect: Policy {
    /// Whether shortcuts that change the answer are left out for now.
    fn set_exact(&mut self, _exact: bool) {}

    /// Prompt ids of the last inference; none for a family without a prompt.
    fn text_ids(&self) -> &[u32] {
        &[]
    }

    /// An intermediate output of the last inference; empty for a family without.
    ///
    /// # Errors
    /// [`EngineError`].
    fn first(&self) -> Result<&[f32], EngineError> {
        Ok(&[])
    }

    /// What the head gave first in the last inference.
    ///
    /// # Errors
    /// [`EngineError`].
    fn head(&self) -> Result<&[f32], EngineError>;
}

/// Loads the policy of a bundle.
///
/// # Errors
/// [`LoadError`] naming the file.
pub(crate) fn load(bundle: &Bundle, engine: &dyn Engine) -> Result<Box<dyn Inspect>, LoadError> {
    let external: Vec<ExternalFile> = bundle
        .weight_files()
        .map(|(name, bytes)| ExternalFile { name: name.to_owned(), bytes: bytes.clone() })
        .collect();
    let graphs = Graphs { bundle, external: &external };
    let spec = bundle.spec();
    Ok(match spec.family {
        FamilySpec::Pi0Fast(rules) => pi0_fast::load(bundle, rules, engine, &graphs)?,
        FamilySpec::Bins(rules) => {
            let parts = Parts::read(bundle, rules.prefix, rules.action_offset, "the action ids")?;
            Box::new(bins::load(rules, parts, engine, &graphs)?)
        }
        FamilySpec::Flow(rules) => {
            let room = rules.prefix.model.vocabulary;
            let parts = Parts::read(bundle, rules.prefix, room, "past the embedding table")?;
            Box::new(flow::Flow::load(rules, parts, engine, &graphs)?)
        }
        FamilySpec::Diffusion(rules) => Box::new(diffusion::load(rules, spec.clone(), engine, &graphs)?),
        FamilySpec::SmolVla(rules) => Box::new(smolvla::load(bundle, rules, engine, &graphs)?),
        FamilySpec::Pi0(rules) => Box::new(pi0::load(bundle, rules, engine, &graphs)?),
        FamilySpec::Pi05(rules) => Box::new(pi05::load(bundle, rules, engine, &graphs)?),
        FamilySpec::OpenVla(rules) => Box::new(openvla::load(bundle, rules, engine, &graphs)?),
        FamilySpec::OpenVlaOft(rules) => Box::new(oft::load(bundle, rules, engine, &graphs)?),
        FamilySpec::Act => Box::new(act::load(spec.clone(), engine, &graphs)?),
    })
}

/// The contracts of a bundle's graph of any number of rows, without a session wanted; `None` for a bundle without one.
pub(crate) fn row_contracts(spec: &PolicySpec) -> Option<RowContracts> {
    decoder::row_contracts(spec.family.token_rules()?, None)
}

/// Graphs of a bundle, by file name, and the weights they point into.
pub(crate) struct Graphs<'a> {
    bundle: &'a Bundle,
    external: &'a [ExternalFile],
}

impl<'a> Graphs<'a> {
    /// Whether the bundle has a graph of this name.
    pub(crate) fn has(&self, name: &'static str) -> bool {
        self.bundle.file(name).is_ok()
    }

    /// Whether the prefix may have fewer rows than its positions say.
    pub(crate) fn leave_rows_out(&self) -> bool {
        self.bundle.spec().pruning.ics.is_some()
    }

    /// A file that a bundle need not have.
    pub(crate) fn optional(&self, name: &str) -> Option<&[u8]> {
        self.bundle.file(name).ok().map(|bytes| &bytes[..])
    }

    pub(crate) fn source<'n>(&self, name: &'n str) -> Result<GraphSource<'n>, BundleError>
    where
        'a: 'n,
    {
        Ok(GraphSource { name, onnx: self.bundle.file(name)?, external: self.external })
    }
}

/// Measures stage after stage; for metrics only, never for control.
pub(crate) struct Lap(WallInstant);

impl Lap {
    pub(crate) fn start() -> Self {
        Self(WallInstant::now())
    }

    pub(crate) fn take(&mut self) -> Duration {
        let now = WallInstant::now();
        let lap = now - self.0;
        self.0 = now;
        lap
    }
}
