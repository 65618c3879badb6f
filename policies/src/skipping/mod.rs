//! Answers without asking the model, where little changes: the chunk before goes on, or the motion is continued.
//!
//! - `reuse` (FlashVLA's trigger, arXiv 2505.21200): the last two computed chunks move in nearly the same direction, and the
//!   images are nearly those the last was computed from. The answer is the rest of that chunk; the rows that it lacks are
//!   a straight line on from its last ones.
//! - `extrapolate` (SP-VLA, arXiv 2506.12723): the arm moves neither slowly nor fast, and a ridge regression over the last
//!   rows says that it moves in a straight line. The answer is that line.
//!
//! Neither may feed on itself: two computed answers precede each that is not, so no more than one in three ever is, and
//! none is made of one that was not computed ([`gate`]). Nothing is skipped while a gripper moves,
//! in the first two inferences of an epoch or of an instruction, after a refused answer, while a fault is injected, or
//! where a continuation is asked for that only a computed answer gives. The thresholds are fitted and of the bundle's own
//! graphs ([`Thresholds`](crate::Thresholds)).

mod gate;
mod line;
mod signals;
mod skipped;

use core::fmt;
use core::str::FromStr;

pub use signals::{Seen, Signals};
pub(crate) use skipped::Skipped;
pub use skipped::{go_on, may_extrapolate, may_reuse, straight_on};

use crate::bundle::{BundleError, POLICY_FILE, PolicySpec};
use crate::thresholds::THRESHOLDS_FILE;

/// When the model is not asked. The default is never.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Skipping {
    /// It is always asked.
    #[default]
    Off,
    /// The chunk before goes on.
    Reuse,
    /// The motion goes on in a straight line.
    Extrapolate,
}

/// Why calls cannot be skipped so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkippingError {
    /// A word that names no way.
    #[error("`{0}` is not a way of skipping calls: write off, reuse or extrapolate")]
    Unknown(String),
    /// The bundle has no thresholds for it.
    #[error(
        "`{0}`: {THRESHOLDS_FILE} of the bundle has no thresholds for it: fit them with `endplate calibrate thresholds`"
    )]
    NotFitted(Skipping),
    /// Several moments enter an answer.
    #[error("`{0}`: the policy reads several moments, and one that was skipped would be missing: leave it off")]
    Moments(Skipping),
}

impl Skipping {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Reuse => "reuse",
            Self::Extrapolate => "extrapolate",
        }
    }

    /// Refuses what a bundle has no thresholds for.
    ///
    /// # Errors
    /// [`SkippingError`].
    pub fn check(self, spec: &PolicySpec) -> Result<(), SkippingError> {
        let fitted = spec.thresholds.as_ref();
        let is_fitted = match self {
            Self::Off => return Ok(()),
            Self::Reuse => fitted.is_some_and(|fitted| fitted.reuse.is_some()),
            Self::Extrapolate => fitted.is_some_and(|fitted| fitted.extrapolation.is_some()),
        };
        if spec.observation_steps() > 1 {
            return Err(SkippingError::Moments(self));
        }
        if is_fitted { Ok(()) } else { Err(SkippingError::NotFitted(self)) }
    }
}

impl fmt::Display for Skipping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Skipping {
    type Err = SkippingError;

    fn from_str(text: &str) -> Result<Self, SkippingError> {
        [Self::Off, Self::Reuse, Self::Extrapolate]
            .into_iter()
            .find(|way| way.name() == text)
            .ok_or_else(|| SkippingError::Unknown(text.to_owned()))
    }
}

impl SkippingError {
    /// The same as an error of `policy.toml`.
    pub(crate) fn in_bundle(&self, value: &str) -> BundleError {
        BundleError::Invalid {
            file: POLICY_FILE.to_owned(),
            key: "skipping.technique".to_owned(),
            value: value.to_owned(),
            remedy: self.to_string(),
        }
    }
}
