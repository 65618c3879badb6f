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
//! - `shallow`, or `shallow:N` for at most N guesses a round: the model's own shallow half with its auxiliary head, one guess
//!   after the other; the deep half verifies the hidden rows that this left, so that nothing is computed twice. Each guess is
//!   the head's or another source's, whichever has the better record.
//!
//! - `shallow+tree:T`: instead of one guess a place a tree of them, grown while it adds more than T tokens to what is to be
//!   expected ([`tree`]).
//!
//! With `temperature:T` tokens are drawn instead of taken by their likelihood ([`sampling`]), and guesses are accepted so
//! that this does not change how chunks are distributed; `shallow+drafts:N` then draws N guesses a place (SpecTr).
//!
//! Two rules give equality up for fewer passes, and are for bins alone, whose ids are ordered and which are always a chunk:
//!
//! - `bin_distance:R`: a guess is taken when it lies within R bins of the answer (Spec-VLA, arXiv 2507.22424); a
//!   gripper's must be equal.
//! - `early_exit:N`: after N passes the guesses that are left are taken as they are (CEED-VLA, arXiv 2506.13725).
//!
//! One more gives it up without guessing: `layer_exit:P` takes the auxiliary head's token where its confidence is above P
//! ([`layer_exit`]); a gripper's bins always go deep.

mod acceptance;
mod drafts;
mod layer_exit;
mod sampling;
mod tree;
mod trigram;

use core::fmt;
use core::str::FromStr;

pub(crate) use acceptance::Acceptance;
pub(crate) use drafts::Drafter;
pub(crate) use layer_exit::ExitGate;
pub use layer_exit::LayerExit;
pub(crate) use sampling::{Sampler, probabilities};
pub(crate) use tree::Growth;
pub use trigram::{NoTrigrams, Trigrams};

use crate::bundle::{BundleError, FamilySpec, MAX_BLOCK, POLICY_FILE, SplitSpec};
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
    /// Guess with the model's own shallow half, at most so many tokens a round; 0 stands for as many as the deep half verifies.
    pub shallow: Option<u32>,
    /// Guess a tree with it, while a node adds more than so many thousandths of a token.
    pub tree: Option<u32>,
    /// Draw so many guesses a place from it.
    pub drafts: Option<u32>,
    /// Draw tokens at this temperature, in thousandths, instead of taking the likeliest.
    pub temperature: Option<u32>,
    /// Take the auxiliary head's token where it is sure enough.
    pub layer_exit: Option<LayerExit>,
    /// Bins a guess may be off; 0 stands for the fitted number until the bundle is known.
    pub bin_distance: Option<u32>,
    /// Passes after which guesses are taken unverified; 0 as above.
    pub early_exit: Option<u32>,
    /// Whether blocks are verified only where the planner expects that to take less time.
    pub planned: bool,
}

/// Stands for a fitted number in a name.
const FITTED: u32 = 0;
/// How a threshold is written that is adapted while running.
const ADAPTIVE: &str = "adaptive";
/// Highest temperature, in thousandths: beyond, next to nothing is left of what the model says.
const HOTTEST: u32 = 5000;
/// OPT-Tree's own threshold, in thousandths.
const TREE: u32 = 500;

/// Why a way of decoding cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodingError {
    /// A word that names no technique.
    #[error(
        "`{0}` is not a way of decoding: write `plain`, or join `previous`, `trigram`, `jacobi`, `shallow`, `tree`, `drafts:N`, `bin_distance:R`, `early_exit:N`, `layer_exit:P`, `temperature:T` and `planned` with `+`"
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
    /// The bundle has no halves for it.
    #[error(
        "`{0}` runs the decoder in two halves: `[decoding]` of {POLICY_FILE} declares no `split`; add the graphs with endplate-split (policies/export)"
    )]
    NoSplit(Decoding),
    /// More guesses a round than the deep half verifies.
    #[error(
        "`{decoding}`: the deep half of the bundle verifies {rows} rows a pass (decoding.split): write at most shallow:{rows}, and drafts of fewer"
    )]
    Rows {
        /// What was asked for.
        decoding: Decoding,
        /// Rows there are.
        rows: usize,
    },
}

impl Decoding {
    /// Whether it is one token a pass.
    pub fn is_plain(self) -> bool {
        self == Self::default()
    }

    /// Whether its chunks equal the plain ones.
    pub const fn is_lossless(self) -> bool {
        self.bin_distance.is_none()
            && self.early_exit.is_none()
            && self.layer_exit.is_none()
            && self.temperature.is_none()
    }

    /// Whether it verifies blocks of guesses with the whole decoder.
    pub const fn is_in_blocks(self) -> bool {
        (self.previous || self.trigram || self.jacobi) && !self.is_split()
    }

    /// Whether it runs the decoder in two halves.
    pub const fn is_split(self) -> bool {
        self.shallow.is_some() || self.layer_exit.is_some()
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
        let layer_exit = match self.layer_exit {
            Some(LayerExit::Fitted) => match fitted.and_then(|fitted| fitted.layer_exit.as_ref()) {
                Some(fitted) => Some(LayerExit::Above(fitted.thousandths())),
                None => return Err(DecodingError::NotFitted { decoding: self, word: "layer_exit" }),
            },
            written => written,
        };
        Ok(Self {
            layer_exit,
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
            FamilySpec::Bins(rules) if self.is_split() => self.check_split(rules.split),
            FamilySpec::Bins(rules) if rules.block.is_some() || !self.is_in_blocks() => Ok(()),
            FamilySpec::Pi0Fast(_) if self.bin_distance.is_some() => {
                refuse("FAST ids are not ordered: a neighbouring id is another motion")
            }
            FamilySpec::Pi0Fast(_) if self.early_exit.is_some() => {
                refuse("unverified FAST tokens need not make a chunk at all")
            }
            FamilySpec::Pi0Fast(rules) if self.is_split() => self.check_split(rules.split),
            FamilySpec::Pi0Fast(rules) if rules.block.is_some() || !self.is_in_blocks() => Ok(()),
            FamilySpec::Bins(_) | FamilySpec::Pi0Fast(_) => Err(DecodingError::NoBlock(self)),
            _ => refuse("it has no tokens"),
        }
    }

    fn check_split(self, split: Option<SplitSpec>) -> Result<(), DecodingError> {
        match split {
            None => Err(DecodingError::NoSplit(self)),
            Some(split)
                if self.shallow.is_some_and(|most| most as usize > split.rows)
                    || self.drafts.is_some_and(|drafts| drafts as usize >= split.rows) =>
            {
                Err(DecodingError::Rows { decoding: self, rows: split.rows })
            }
            Some(_) => Ok(()),
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
        let numbers = [
            (self.shallow, "shallow"),
            (self.drafts, "drafts"),
            (self.bin_distance, "bin_distance"),
            (self.early_exit, "early_exit"),
        ];
        for (number, word) in numbers {
            if let Some(number) = number {
                write!(f, "{joint}{word}")?;
                if number != FITTED {
                    write!(f, ":{number}")?;
                }
                joint = "+";
            }
        }
        if let Some(exit) = self.layer_exit {
            match exit {
                LayerExit::Fitted => write!(f, "{joint}layer_exit")?,
                LayerExit::Adaptive => write!(f, "{joint}layer_exit:{ADAPTIVE}")?,
                LayerExit::Above(thousandths) => write!(f, "{joint}layer_exit:{}", f64::from(thousandths) / 1e3)?,
            }
            joint = "+";
        }
        for (thousandths, word) in [(self.tree, "tree"), (self.temperature, "temperature")] {
            if let Some(thousandths) = thousandths {
                write!(f, "{joint}{word}:{}", f64::from(thousandths) / 1e3)?;
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
            let (name, given) = match word.split_once(':') {
                Some((name, given)) => (name, Some(given)),
                None => (word, None),
            };
            let number = |least: u32, most: u32| match given {
                None => Ok(FITTED),
                Some(text) => text.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
                    DecodingError::Number {
                        word: word.to_owned(),
                        remedy: format!("write {name}:N with N between {least} and {most}, or {name} for the fitted"),
                    }
                }),
            };
            match name {
                "shallow" => {
                    decoding.shallow = Some(number(1, MAX_BLOCK as u32).map_err(|_| DecodingError::Number {
                        word: word.to_owned(),
                        remedy: "write shallow, or shallow:N for at most N guesses a round".to_owned(),
                    })?);
                }
                "layer_exit" => decoding.layer_exit = Some(layer_exit(word, given)?),
                "tree" => {
                    let threshold = given.map_or(Some(TREE), |given| thousandths(given, 999));
                    decoding.tree = Some(threshold.ok_or_else(|| DecodingError::Number {
                        word: word.to_owned(),
                        remedy: "write tree, or tree:T with T tokens from 0.001 to 0.999".to_owned(),
                    })?);
                }
                "drafts" => {
                    let drafts = given.and_then(|given| given.parse().ok()).filter(|drafts| (2..=64).contains(drafts));
                    decoding.drafts = Some(drafts.ok_or_else(|| DecodingError::Number {
                        word: word.to_owned(),
                        remedy: "write drafts:N with N from 2 to 64".to_owned(),
                    })?);
                }
                "temperature" => {
                    let degree = given.and_then(|given| thousandths(given, HOTTEST));
                    decoding.temperature = Some(degree.ok_or_else(|| DecodingError::Number {
                        word: word.to_owned(),
                        remedy: "write temperature:T with T from 0.001 to 5; without the word the likeliest token is taken"
                            .to_owned(),
                    })?);
                }
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
        decoding.check_together()?;
        Ok(decoding)
    }
}

impl Decoding {
    /// Refuses words that exclude each other, and one that needs another.
    fn check_together(self) -> Result<(), DecodingError> {
        let decoding = self;
        let refuse = |reason| Err(DecodingError::Together(decoding, reason));
        let other_guesses = decoding.previous || decoding.trigram || decoding.jacobi;
        let is_judged =
            decoding.bin_distance.is_some() || decoding.early_exit.is_some() || decoding.layer_exit.is_some();
        if decoding.temperature.is_some() && (is_judged || decoding.tree.is_some()) {
            return refuse(
                "bin_distance, early_exit, layer_exit and tree are about the likeliest token, and temperature draws another: \
                 leave one out",
            );
        }
        if decoding.drafts.is_some() {
            if decoding.temperature.is_none() {
                return refuse("drafts draws several guesses a place: without temperature all of them are the same");
            }
            if decoding.shallow.is_none() || other_guesses {
                return refuse(
                    "drafts are drawn from the auxiliary head and from nothing else: write shallow beside it alone",
                );
            }
        }
        if decoding.tree.is_some() && (decoding.shallow.is_none() || other_guesses) {
            return refuse(
                "a tree grows by the auxiliary head's probabilities and by nothing else: write shallow beside it alone",
            );
        }
        let has_guesses = decoding.previous || decoding.trigram || decoding.jacobi || decoding.shallow.is_some();
        if decoding.layer_exit.is_some() {
            let others = has_guesses || decoding.bin_distance.is_some() || decoding.early_exit.is_some();
            if others {
                return Err(DecodingError::Together(
                    decoding,
                    "layer_exit takes tokens one by one as the auxiliary head says them, so that there are no guesses to verify: \
                     leave the others out",
                ));
            }
            return Ok(());
        }
        if !has_guesses && decoding.temperature.is_none() {
            return Err(DecodingError::Together(
                decoding,
                "needs a source of guesses: previous, trigram, jacobi or shallow",
            ));
        }
        if decoding.early_exit.is_some() && decoding.shallow.is_some() {
            return Err(DecodingError::Together(
                decoding,
                "early_exit counts passes of whole blocks, and shallow has none: leave one out",
            ));
        }
        if decoding.early_exit.is_some() && !decoding.jacobi {
            return Err(DecodingError::Together(
                decoding,
                "early_exit ends a Jacobi iteration: without `jacobi` the guesses never improve",
            ));
        }
        Ok(())
    }
}

/// A decimal in thousandths, from 1 to `most`.
fn thousandths(text: &str, most: u32) -> Option<u32> {
    let value: f64 = text.parse().ok()?;
    let whole = (value * 1e3).round();
    (whole >= 1.0 && whole <= f64::from(most)).then_some(whole as u32)
}

/// The threshold written behind `layer_exit`.
fn layer_exit(word: &str, given: Option<&str>) -> Result<LayerExit, DecodingError> {
    let Some(given) = given else { return Ok(LayerExit::Fitted) };
    if given == ADAPTIVE {
        return Ok(LayerExit::Adaptive);
    }
    thousandths(given, 999).map(LayerExit::Above).ok_or_else(|| DecodingError::Number {
        word: word.to_owned(),
        remedy: format!(
            "write layer_exit:P with a confidence P from 0.001 to 0.999, layer_exit:{ADAPTIVE}, or layer_exit for the fitted"
        ),
    })
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
            "shallow",
            "previous+trigram+shallow:3+bin_distance:1",
            "layer_exit",
            "layer_exit:0.85",
            "layer_exit:adaptive+planned",
            "shallow+tree:0.25",
            "shallow:4+drafts:2+temperature:0.7",
            "temperature:1",
            "trigram+temperature:0.5",
        ] {
            assert_eq!(name.parse::<Decoding>().unwrap().to_string(), name);
        }
        assert!("previous+jacobi".parse::<Decoding>().unwrap().is_lossless());
        assert!("shallow+trigram".parse::<Decoding>().unwrap().is_lossless());
        assert!(!"layer_exit:0.9".parse::<Decoding>().unwrap().is_lossless());
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
            ("shallow:0", "at most N guesses"),
            ("shallow+jacobi+early_exit:3", "passes of whole blocks"),
            ("layer_exit:1.5", "0.001 to 0.999"),
            ("layer_exit:0", "0.001 to 0.999"),
            ("layer_exit:sure", "0.001 to 0.999"),
            ("layer_exit:0.9+shallow", "no guesses to verify"),
            ("layer_exit+bin_distance:1", "no guesses to verify"),
            ("temperature:0", "from 0.001 to 5"),
            ("temperature", "from 0.001 to 5"),
            ("jacobi+bin_distance:2+temperature:1", "about the likeliest"),
            ("layer_exit:0.9+temperature:1", "about the likeliest"),
            ("shallow+tree+temperature:1", "about the likeliest"),
            ("shallow+drafts:2", "without temperature"),
            ("drafts:2+temperature:1", "from nothing else"),
            ("shallow+trigram+drafts:2+temperature:1", "from nothing else"),
            ("shallow+drafts:1+temperature:1", "from 2 to 64"),
            ("tree", "by nothing else"),
            ("shallow+trigram+tree", "by nothing else"),
            ("shallow+tree:1", "0.001 to 0.999"),
        ] {
            let error = name.parse::<Decoding>().unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
    }
}
