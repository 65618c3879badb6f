//! Fewer visual tokens in the prefix, for the families around one whose bundle has the graphs (`endplate-prune`).
//!
//! - `ics:N` (FlashVLA, arXiv 2505.21200): the first layers see every visual token, the others and whatever follows the
//!   prefix only the N whose rows contribute most to what the attention of the last of these layers gave ([`Contribution`]).
//! - `edges` beside it (SP-VLA, arXiv 2506.12723): up to half of the N are the image patches with the most edges.
//! - `cache:N` (VLA-Cache, arXiv 2502.02175): N visual tokens go through all layers; the others are of patches that are as they
//!   were, and keep their keys and values of the inference before. Without the paper's test of relevance by attention.
//! - `planned` beside `ics:N`: with a deadline, the planner keeps as many as fit, from all down to N. How many `cache` may take
//!   over depends on the image, so there a deadline is planned for with all.
//!
//! Rows keep their order and positions; rows of the prompt, with the state in it, and visual tokens that belong to no patch are
//! never left out. The first inference of
//! an epoch or of an instruction sees everything; a score is of the present image alone, so nothing links one choice to the next.
//! `cache` does link them: after [`CACHED_AT_MOST`] inferences everything is computed again. The two exclude each other: one takes
//! rows away, the other needs every row in its place.

mod choice;
mod contribution;
mod eigen;
mod patches;

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

pub(crate) use choice::Choice;
pub use contribution::Contribution;
pub(crate) use patches::{copy_patch, edge_shares, stillness};

use crate::bundle::{BundleError, FamilySpec, POLICY_FILE, PolicySpec};
use crate::thresholds::{THRESHOLDS_FILE, Thresholds};

/// Inferences in a row that may take keys and values of the one before.
pub const CACHED_AT_MOST: u32 = 3;

/// Stands for a fitted number in a name.
const FITTED: u32 = 0;

/// Which visual tokens are left out. The default, `off`, is none.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pruning {
    /// Tokens the later layers see, by their contribution; 0 stands for the fitted number until the bundle is known.
    pub ics: Option<u32>,
    /// Whether patches with edges come first.
    pub edges: bool,
    /// Tokens that are computed, the others being as they were; 0 as above.
    pub cache: Option<u32>,
    /// Whether the planner may keep more.
    pub planned: bool,
}

/// The graphs of a bundle that leave tokens out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitSpec {
    /// Layers that see every visual token.
    pub layer: usize,
    /// Patches along a side of an image: the visual tokens are those of every camera, row-major, then such as belong to no
    /// patch.
    pub grid: usize,
    /// Numbers of visual tokens there are graphs for, all of them first, falling.
    pub buckets: Vec<Bucket>,
}

impl SplitSpec {
    /// What the cost model charges for a prefix of so many visual tokens, where there are graphs for it.
    pub fn cost(&self, tokens: usize) -> Option<Duration> {
        self.buckets.iter().find(|bucket| bucket.tokens == tokens).map(|bucket| bucket.cost)
    }
}

/// A number of visual tokens that graphs were made for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The number.
    pub tokens: usize,
    /// What the cost model charges for the prefix.
    pub cost: Duration,
}

/// Why tokens cannot be left out so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PruningError {
    /// A word that names no way.
    #[error(
        "`{0}` is not a way of pruning: write `off`, `cache:N`, or `ics:N` and, joined with `+`, `edges` and `planned`"
    )]
    Unknown(String),
    /// A number that is none.
    #[error("`{word}`: {remedy}")]
    Number {
        /// The word.
        word: String,
        /// What to write.
        remedy: String,
    },
    /// Two that exclude each other, or one that needs another.
    #[error("`{0}`: {1}")]
    Together(String, &'static str),
    /// A number that was to be fitted and was not.
    #[error(
        "`{0}` has no number, and {THRESHOLDS_FILE} of the bundle has none fitted: write one, or fit it with `endplate calibrate thresholds`"
    )]
    NotFitted(Pruning),
    /// Not for this family.
    #[error("`{pruning}` cannot be used with the family {family}: {reason}")]
    Family {
        /// What was asked for.
        pruning: Pruning,
        /// The family.
        family: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The bundle has no graphs for it.
    #[error(
        "`{0}` needs the prefill in parts: {POLICY_FILE} has no [pruning]; add the graphs with endplate-prune (policies/export)"
    )]
    NoGraphs(Pruning),
    /// No graph of this number.
    #[error(
        "`{pruning}`: the bundle has graphs for {buckets:?} visual tokens: write one of these, or add graphs with endplate-prune"
    )]
    NoBucket {
        /// What was asked for.
        pruning: Pruning,
        /// What there is.
        buckets: Vec<usize>,
    },
}

impl Pruning {
    /// Whether nothing is left out.
    pub fn is_off(self) -> bool {
        self == Self::default()
    }

    /// Visual tokens it keeps or computes; `None` for `off`.
    pub fn tokens(self) -> Option<usize> {
        self.ics.or(self.cache).map(|tokens| tokens as usize)
    }

    /// With the number that was fitted where none is written.
    ///
    /// # Errors
    /// [`PruningError::NotFitted`].
    pub fn resolved(self, fitted: Option<&Thresholds>) -> Result<Self, PruningError> {
        let fitted = fitted.and_then(|fitted| fitted.pruning);
        let number = |written: Option<u32>, fitted: Option<u32>| match written {
            Some(FITTED) => fitted.map(Some).ok_or(PruningError::NotFitted(self)),
            written => Ok(written),
        };
        let ics = fitted.and_then(|fitted| if self.edges { fitted.ics_edges } else { fitted.ics });
        let cache = fitted.and_then(|fitted| fitted.cache);
        Ok(Self { ics: number(self.ics, ics)?, cache: number(self.cache, cache)?, ..self })
    }

    /// Refuses what a family or the bundle's graphs cannot do.
    ///
    /// # Errors
    /// [`PruningError`] with the reason.
    pub fn check(self, spec: &PolicySpec) -> Result<(), PruningError> {
        let Some(tokens) = self.tokens() else { return Ok(()) };
        if spec.family.prunable().is_none() {
            let reason = match spec.family {
                FamilySpec::OpenVla(_) => {
                    "its prompt stands around the images and sees backwards only; no graphs are made for it"
                }
                FamilySpec::Act | FamilySpec::Diffusion(_) => "it has no visual tokens",
                _ => "its visual tokens lie inside its graphs",
            };
            return Err(PruningError::Family { pruning: self, family: spec.family.name(), reason });
        }
        let split = spec.split.as_ref().ok_or(PruningError::NoGraphs(self))?;
        let buckets = || split.buckets.iter().map(|bucket| bucket.tokens).collect::<Vec<_>>();
        if split.buckets.iter().skip(1).all(|bucket| bucket.tokens != tokens) {
            return Err(PruningError::NoBucket { pruning: self, buckets: buckets()[1..].to_vec() });
        }
        Ok(())
    }
}

impl fmt::Display for Pruning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, number) = match (self.ics, self.cache) {
            (Some(number), _) => ("ics", number),
            (None, Some(number)) => ("cache", number),
            (None, None) => return f.write_str("off"),
        };
        f.write_str(word)?;
        if number != FITTED {
            write!(f, ":{number}")?;
        }
        for (on, word) in [(self.edges, "edges"), (self.planned, "planned")] {
            if on {
                write!(f, "+{word}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Pruning {
    type Err = PruningError;

    fn from_str(text: &str) -> Result<Self, PruningError> {
        let mut pruning = Self::default();
        if text == "off" {
            return Ok(pruning);
        }
        for word in text.split('+') {
            let (name, number) = match word.split_once(':') {
                Some((name, number)) => (name, Some(number)),
                None => (word, None),
            };
            let wrong = |remedy: String| PruningError::Number { word: word.to_owned(), remedy };
            let tokens = || match number {
                None => Ok(FITTED),
                Some(text) => text.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
                    wrong(format!("write {name}:N with a number of visual tokens, or {name} for the fitted"))
                }),
            };
            match name {
                "ics" => pruning.ics = Some(tokens()?),
                "cache" => pruning.cache = Some(tokens()?),
                "edges" | "planned" | "off" if number.is_some() => {
                    return Err(wrong("no number belongs here".to_owned()));
                }
                "edges" => pruning.edges = true,
                "planned" => pruning.planned = true,
                "off" => return Err(PruningError::Together(text.to_owned(), "`off` excludes everything else")),
                _ => return Err(PruningError::Unknown(word.to_owned())),
            }
        }
        let together = |reason| Err(PruningError::Together(text.to_owned(), reason));
        match pruning {
            Self { ics: Some(_), cache: Some(_), .. } => together(
                "`ics` takes rows out of the prefix and `cache` takes their keys and values over in place: choose one",
            ),
            Self { ics: None, edges: true, .. } => together("`edges` adds to what `ics:N` keeps: write that too"),
            Self { ics: None, planned: true, .. } => {
                together("`planned` chooses how many `ics:N` keeps: write that too")
            }
            _ => Ok(pruning),
        }
    }
}

impl PruningError {
    /// The same as an error of `policy.toml`.
    pub(crate) fn in_bundle(&self, value: &str) -> BundleError {
        BundleError::Invalid {
            file: POLICY_FILE.to_owned(),
            key: "pruning.technique".to_owned(),
            value: value.to_owned(),
            remedy: self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for name in ["off", "ics", "ics:48", "ics:48+edges", "cache:36", "ics:24+edges+planned"] {
            assert_eq!(name.parse::<Pruning>().unwrap().to_string(), name);
        }
        assert_eq!("edges+ics:48".parse::<Pruning>().unwrap().to_string(), "ics:48+edges");
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_reason() {
        for (name, reason) in [
            ("magic", "not a way of pruning"),
            ("off+ics:48", "excludes"),
            ("ics:48+cache:36", "choose one"),
            ("edges", "adds to what"),
            ("cache:36+edges", "adds to what"),
            ("planned", "how many `ics:N` keeps"),
            ("cache:36+planned", "how many `ics:N` keeps"),
            ("ics:0", "a number of visual tokens"),
            ("ics:many", "a number of visual tokens"),
            ("ics:48+edges:3", "no number"),
        ] {
            let error = name.parse::<Pruning>().unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
    }
}
