//! Fewer decoder passes for the families that speak in action tokens.
//!
//! Instead of one token a pass, a pass verifies a block: row 0 holds the last token taken, the other rows hold guesses
//! of what follows. Row `i` answers what follows row `i`, so guesses are taken as long as they equal the answers, the
//! first answer that differs is taken in place of its guess, and the keys and values of everything behind it are
//! dropped. Whatever the guesses are, the chunk is the one that decoding token by token gives (as far as the graph
//! computes a row of a block as it computes a row alone); guesses only decide how many passes it takes.
//!
//! - `previous`: the chunk answered before, shifted by the time passed, turned back into tokens.
//! - `trigram`: what followed the same two tokens before (ADED): the bundle's table, if it has one, and what is learned while
//!   running, which is forgotten with the epoch.
//! - `jacobi`: answers behind the first difference are the next pass's guesses (Jacobi decoding: Santilli et al., arXiv
//!   2305.10427; PD-VLA, arXiv 2503.02310, over a causal block, so that it ends with the greedy tokens).
//!
//! Two rules give this up for fewer passes, and are for bins alone, whose ids are ordered and which are always a chunk:
//!
//! - `bin_distance:R`: a guess is taken when it lies within R bins of the answer (Spec-VLA, arXiv 2507.22424); a
//!   gripper's must be equal.
//! - `early_exit:N`: after N passes the guesses that are left are taken as they are (CEED-VLA, arXiv 2506.13725).

mod acceptance;
mod drafts;
mod trigram;

use core::fmt;
use core::str::FromStr;

pub(crate) use acceptance::Acceptance;
pub(crate) use drafts::Drafter;
pub use trigram::{NoTrigrams, Trigrams};

use crate::bundle::{BundleError, FamilySpec, POLICY_FILE};
use crate::thresholds::{THRESHOLDS_FILE, Thresholds};

/// Most passes before an early exit.
pub(crate) const MAX_PASSES: u32 = 1024;
/// Most bins a guess may be off: beyond a tenth of the range nothing is left of the policy.
pub(crate) const MAX_BIN_DISTANCE: u32 = 25;

/// How action tokens are generated. The default, `plain`, is one token a pass.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Decoding {
    /// Guess from the chunk answered before.
    pub previous: bool,
    /// Guess from what followed the same two tokens.
    pub trigram: bool,
    /// Guess from the answers of the pass before.
    pub jacobi: bool,
    /// Bins a guess may be off; 0 stands for the fitted number until the bundle is known.
    pub bin_distance: Option<u32>,
    /// Passes after which guesses are taken unverified; 0 as above.
    pub early_exit: Option<u32>,
    /// Whether blocks are verified only where the planner expects that to take less time.
    pub planned: bool,
}

/// Stands for a fitted number in a name.
const FITTED: u32 = 0;

/// Why a way of decoding cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodingError {
    /// A word that names no technique.
    #[error(
        "`{0}` is not a way of decoding: write `plain`, or join `previous`, `trigram`, `jacobi`, `bin_distance:R` and `early_exit:N` and `planned` with `+`"
    )]
    Unknown(String),
    /// A number missing, given where none belongs, or out of range.
    #[error("`{word}`: {remedy}")]
    Number {
        /// The word.
        word: String,
        /// What to write.
        remedy: String,
    },
    /// A number that was to be fitted and was not.
    #[error(
        "`{decoding}`: {word} has no number, and {THRESHOLDS_FILE} of the bundle has none fitted: write {word}:N, or fit it with `endplate calibrate thresholds`"
    )]
    NotFitted {
        /// What was asked for.
        decoding: Decoding,
        /// The word.
        word: &'static str,
    },
    /// Two that exclude each other, or one that needs another.
    #[error("`{0}`: {1}")]
    Together(Decoding, &'static str),
    /// Not for this family.
    #[error("`{decoding}` cannot be used with the family {family}: {reason}")]
    Family {
        /// What was asked for.
        decoding: Decoding,
        /// The family.
        family: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The bundle has no graph for it.
    #[error(
        "`{0}` verifies several tokens a pass: `[decoding]` of {POLICY_FILE} declares no `block`; add the graph with endplate-block (policies/export)"
    )]
    NoBlock(Decoding),
}

impl Decoding {
    /// Whether it is one token a pass.
    pub fn is_plain(self) -> bool {
        self == Self::default()
    }

    /// Whether its chunks equal the plain ones.
    pub const fn is_lossless(self) -> bool {
        self.bin_distance.is_none() && self.early_exit.is_none()
    }

    /// With the numbers that were fitted where none is written.
    ///
    /// # Errors
    /// [`DecodingError::NotFitted`].
    pub fn resolved(self, fitted: Option<&Thresholds>) -> Result<Self, DecodingError> {
        let number = |word, written: Option<u32>, fitted: Option<u32>| match written {
            Some(FITTED) => fitted.map(Some).ok_or(DecodingError::NotFitted { decoding: self, word }),
            written => Ok(written),
        };
        let exit = fitted.and_then(|fitted| fitted.early_exit).map(|fitted| fitted.passes);
        let bins = fitted.and_then(|fitted| fitted.bin_distance).map(|fitted| fitted.bins);
        Ok(Self {
            bin_distance: number("bin_distance", self.bin_distance, bins)?,
            early_exit: number("early_exit", self.early_exit, exit)?,
            ..self
        })
    }

    /// Refuses what a family cannot be decoded with.
    ///
    /// # Errors
    /// [`DecodingError`] with the reason.
    pub fn check(self, family: &FamilySpec) -> Result<(), DecodingError> {
        let refuse = |reason| Err(DecodingError::Family { decoding: self, family: family.name(), reason });
        match family {
            _ if self.is_plain() => Ok(()),
            FamilySpec::Bins(rules) if rules.block.is_some() => Ok(()),
            FamilySpec::Pi0Fast(_) if self.bin_distance.is_some() => {
                refuse("FAST ids are not ordered: a neighbouring id is another motion")
            }
            FamilySpec::Pi0Fast(_) if self.early_exit.is_some() => {
                refuse("unverified FAST tokens need not make a chunk at all")
            }
            FamilySpec::Pi0Fast(rules) if rules.block.is_some() => Ok(()),
            FamilySpec::Bins(_) | FamilySpec::Pi0Fast(_) => Err(DecodingError::NoBlock(self)),
            _ => refuse("it has no tokens"),
        }
    }
}

impl fmt::Display for Decoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_plain() {
            return f.write_str("plain");
        }
        let mut joint = "";
        for (on, word) in [(self.previous, "previous"), (self.trigram, "trigram"), (self.jacobi, "jacobi")] {
            if on {
                write!(f, "{joint}{word}")?;
                joint = "+";
            }
        }
        for (number, word) in [(self.bin_distance, "bin_distance"), (self.early_exit, "early_exit")] {
            if let Some(number) = number {
                write!(f, "{joint}{word}")?;
                if number != FITTED {
                    write!(f, ":{number}")?;
                }
                joint = "+";
            }
        }
        if self.planned {
            f.write_str("+planned")?;
        }
        Ok(())
    }
}

impl FromStr for Decoding {
    type Err = DecodingError;

    fn from_str(text: &str) -> Result<Self, DecodingError> {
        let mut decoding = Self::default();
        if text == "plain" {
            return Ok(decoding);
        }
        for word in text.split('+') {
            let (name, number) = match word.split_once(':') {
                Some((name, number)) => (name, Some(number)),
                None => (word, None),
            };
            let number = |least: u32, most: u32| match number {
                None => Ok(FITTED),
                Some(text) => text.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
                    DecodingError::Number {
                        word: word.to_owned(),
                        remedy: format!("write {name}:N with N between {least} and {most}, or {name} for the fitted"),
                    }
                }),
            };
            match name {
                "bin_distance" => decoding.bin_distance = Some(number(1, MAX_BIN_DISTANCE)?),
                "early_exit" => decoding.early_exit = Some(number(1, MAX_PASSES)?),
                _ if word.contains(':') => {
                    return Err(DecodingError::Number {
                        word: word.to_owned(),
                        remedy: "no number belongs here".into(),
                    });
                }
                "previous" => decoding.previous = true,
                "trigram" => decoding.trigram = true,
                "jacobi" => decoding.jacobi = true,
                "planned" => decoding.planned = true,
                "plain" => return Err(DecodingError::Together(decoding, "`plain` excludes every other technique")),
                _ => return Err(DecodingError::Unknown(word.to_owned())),
            }
        }
        if !(decoding.previous || decoding.trigram || decoding.jacobi) {
            return Err(DecodingError::Together(decoding, "needs a source of guesses: previous, trigram or jacobi"));
        }
        if decoding.early_exit.is_some() && !decoding.jacobi {
            return Err(DecodingError::Together(
                decoding,
                "early_exit ends a Jacobi iteration: without `jacobi` the guesses never improve",
            ));
        }
        Ok(decoding)
    }
}

impl DecodingError {
    /// The same as an error of `policy.toml`.
    pub(crate) fn in_bundle(&self, value: &str) -> BundleError {
        BundleError::Invalid {
            file: POLICY_FILE.to_owned(),
            key: "decoding.technique".to_owned(),
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
        for name in [
            "plain",
            "previous",
            "jacobi",
            "previous+trigram+jacobi",
            "jacobi+bin_distance:3+early_exit:6",
            "jacobi+early_exit+planned",
        ] {
            assert_eq!(name.parse::<Decoding>().unwrap().to_string(), name);
        }
        assert!("previous+jacobi".parse::<Decoding>().unwrap().is_lossless());
        assert!(!"previous+bin_distance:2".parse::<Decoding>().unwrap().is_lossless());
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_reason() {
        for (name, reason) in [
            ("magic", "not a way of decoding"),
            ("plain+jacobi", "excludes"),
            ("bin_distance:3", "source of guesses"),
            ("previous+early_exit:4", "without `jacobi`"),
            ("jacobi+early_exit:0", "between 1 and"),
            ("planned", "source of guesses"),
            ("jacobi+bin_distance:26", "between 1 and 25"),
            ("jacobi:2", "no number"),
        ] {
            let error = name.parse::<Decoding>().unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
    }
}
