//! Handing over from one chunk to the next: one file a mode.
//!
//! Every mode plays rows on motion time, so none skips or repeats a row; they differ in what the next chunk is asked to
//! continue and in how the rows of two chunks are joined. A gripper latches in all of them: its rows come from one chunk
//! or the other, never from between. `HANDOVER.md` beside this crate has the table, the pairings and the measurements.

pub(crate) mod blend;
pub(crate) mod commitment;
pub(crate) mod ensemble;
pub(crate) mod naive;
pub(crate) mod projected;
pub(crate) mod rtc;
pub(crate) mod track;
mod trigger;

use core::fmt;
use core::time::Duration;
use endplate_policies::bundle::FamilySpec;
use endplate_policies::{Continuation, PolicySpec};
pub use trigger::Trigger;

/// Which chunk the joints follow while two have rows for the same motion time, and what the next one is told.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Mode {
    /// The next chunk takes over at its row of the present motion time.
    Switch,
    /// Rows both chunks have are averaged: `old_share` of the old, the rest of the new.
    Blend {
        /// 0..1.
        old_share: f64,
    },
    /// All chunks that have a row are averaged with weights `exp(−decay·i)`, the oldest first (ACT).
    Ensemble {
        /// Larger trusts older chunks more.
        decay: f64,
    },
    /// Real-time chunking: a flow policy is guided towards the rows still to be played; of any other policy the answer is
    /// blended into them by the same soft weights, and refused where it leaves them faster than a joint can follow.
    Rtc {
        /// Largest guidance gain; at least the number of denoising steps.
        beta: f64,
    },
    /// The rows that will have been played when the answer comes are given: they enter a flow clean (training-time
    /// real-time chunking), or are a prefix that bins are decoded behind.
    Prefix,
    /// For comparison only: stop when the planned rows are played, wait for the next chunk, go on.
    NaiveSynchronous,
    /// For comparison only: drop `ceil(latency / row period)` rows of an answer, whatever was really played.
    NaiveAsynchronous,
}

/// A handover: the mode, when the next chunk is asked for, and from which joint state.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Handover {
    /// How chunks are joined.
    pub mode: Mode,
    /// When the next chunk is asked for.
    pub trigger: Trigger,
    /// Roll the joint state forward by the rows that will be played until the answer comes (VLASH).
    pub project_state: bool,
    /// Every row is due that much earlier, by motion time: for the time from a command to the joint's motion (UMI, arXiv
    /// 2402.10329, matching of action latency).
    pub lead: Duration,
    /// How much faster than planned rows may be played while the motion is behind the clock of the chunk's observation,
    /// as a share; 0 never makes up for time lost.
    pub catch_up: f64,
}

impl Default for Handover {
    fn default() -> Self {
        Self {
            mode: Mode::Switch,
            trigger: Trigger::Executed,
            project_state: false,
            lead: Duration::ZERO,
            catch_up: 0.0,
        }
    }
}

/// Why a handover cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// It was not understood.
    #[error("handover `{text}`: {remedy}")]
    Text {
        /// As written.
        text: String,
        /// What to write.
        remedy: String,
    },
    /// The policy cannot do it.
    #[error("handover `{handover}` does not go with the policy {policy}: {reason}")]
    Pairing {
        /// The handover.
        handover: String,
        /// The policy's name.
        policy: String,
        /// What is in the way, and the remedy.
        reason: String,
    },
}

const MODES: &str = "switch, blend, ensemble, rtc, prefix";
const OPTIONS: &str = "project, lead=Nms, catch_up=SHARE, ask=every, ask=each_row, ask=executed, ask=N_rows, ask=Nms, old=SHARE (blend), decay=M (ensemble), \
                       beta=B (rtc)";

impl Handover {
    /// Reads `MODE[:OPTION]…`, for example `rtc:beta=10:ask=every`.
    ///
    /// # Errors
    /// [`HandoverError::Text`].
    pub fn parse(text: &str) -> Result<Self, HandoverError> {
        let wrong = |remedy: String| HandoverError::Text { text: text.to_owned(), remedy };
        let mut parts = text.split(':');
        let mut handover = Self::default();
        handover.mode = match parts.next().unwrap_or_default() {
            "switch" => Mode::Switch,
            "blend" => Mode::Blend { old_share: 0.3 },
            "ensemble" => {
                handover.trigger = Trigger::EachRow;
                Mode::Ensemble { decay: 0.01 }
            }
            "rtc" => Mode::Rtc { beta: 10.0 },
            "prefix" => Mode::Prefix,
            "naive_synchronous" => Mode::NaiveSynchronous,
            "naive_asynchronous" => Mode::NaiveAsynchronous,
            _ => return Err(wrong(format!("use one of {MODES}"))),
        };
        for option in parts {
            let number = |value: &str, low: f64, high: f64| {
                let value: Option<f64> = value.parse().ok().filter(|value| (low..=high).contains(value));
                value.ok_or_else(|| wrong(format!("`{option}`: write a number between {low} and {high}")))
            };
            match (option.split_once('='), &mut handover.mode) {
                (None, _) if option == "project" => handover.project_state = true,
                (Some(("ask", value)), _) => {
                    handover.trigger = Trigger::parse(value).ok_or_else(|| wrong(format!("`{option}`: {OPTIONS}")))?;
                }
                (Some(("lead", value)), _) => {
                    let Some(millis) = value.strip_suffix("ms") else {
                        return Err(wrong(format!("`{option}`: write a time, such as lead=50ms")));
                    };
                    handover.lead = Duration::from_secs_f64(number(millis, 0.0, 1000.0)? / 1e3);
                }
                (Some(("catch_up", value)), _) => handover.catch_up = number(value, 0.0, 0.5)?,
                (Some(("old", value)), Mode::Blend { old_share }) => *old_share = number(value, 0.0, 1.0)?,
                (Some(("decay", value)), Mode::Ensemble { decay }) => *decay = number(value, -10.0, 10.0)?,
                (Some(("beta", value)), Mode::Rtc { beta }) => *beta = number(value, 0.1, 1000.0)?,
                _ => return Err(wrong(format!("`{option}` is no option of this mode; options are {OPTIONS}"))),
            }
        }
        Ok(handover)
    }

    /// Whether the mode is there to compare with, and never to run a robot with.
    pub const fn is_baseline(&self) -> bool {
        matches!(self.mode, Mode::NaiveSynchronous | Mode::NaiveAsynchronous)
    }

    /// What a policy of this description is told about the rows still to be played.
    pub fn continuation(&self, spec: &PolicySpec) -> Continuation {
        match (self.mode, &spec.family) {
            (Mode::Rtc { beta }, FamilySpec::Flow(_)) => Continuation::Guided { beta },
            (Mode::Prefix, _) => Continuation::Prefix,
            _ => Continuation::Free,
        }
    }

    /// Whether it goes with the policy.
    ///
    /// # Errors
    /// [`HandoverError::Pairing`] with the reason and the remedy.
    pub fn check(&self, spec: &PolicySpec) -> Result<(), HandoverError> {
        let refuse = |reason: String| {
            Err(HandoverError::Pairing { handover: self.to_string(), policy: spec.name.clone(), reason })
        };
        if self.project_state && matches!(self.mode, Mode::Rtc { .. } | Mode::Prefix) {
            return refuse(
                "a chunk from a projected state starts after the rows it would continue: drop `project`".into(),
            );
        }
        if self.project_state && self.is_baseline() {
            return refuse("a baseline plays from the observed state: drop `project`".into());
        }
        if self.is_baseline() && (self.catch_up > 0.0 || !self.lead.is_zero()) {
            return refuse("a baseline plays rows as they are: drop `lead` and `catch_up`".into());
        }
        if !self.lead.is_zero() {
            if self.project_state || self.continuation(spec) != Continuation::Free {
                return refuse("what a chunk continues is where rows are when they are due: drop `lead`".into());
            }
            if self.lead >= spec.chunk.row_period * (spec.chunk.execute_rows as u32) {
                let most = spec.chunk.row_period * (spec.chunk.execute_rows as u32);
                return refuse(format!("lead={:?}: the rows to be executed last {most:?}: use less", self.lead));
            }
        }
        if matches!(self.mode, Mode::Ensemble { .. }) && self.trigger != Trigger::EachRow {
            return refuse("an ensemble is of one prediction a row: use `ask=each_row`".into());
        }
        match self.trigger {
            Trigger::RowsLeft(rows) if rows >= spec.chunk.horizon => {
                let most = spec.chunk.horizon - 1;
                return refuse(format!(
                    "ask={rows}_rows: a chunk has {} rows: use {most} or fewer",
                    spec.chunk.horizon
                ));
            }
            Trigger::TimeLeft(span) if span >= spec.chunk.row_period * spec.chunk.horizon as u32 => {
                let length = spec.chunk.row_period * spec.chunk.horizon as u32;
                return refuse(format!("ask={span:?}: a chunk lasts {length:?}: use less"));
            }
            _ => {}
        }
        self.continuation(spec).fits(spec).or_else(refuse)
    }
}

impl fmt::Display for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::Switch => write!(f, "switch")?,
            Mode::Blend { old_share } => write!(f, "blend:old={old_share}")?,
            Mode::Ensemble { decay } => write!(f, "ensemble:decay={decay}")?,
            Mode::Rtc { beta } => write!(f, "rtc:beta={beta}")?,
            Mode::Prefix => write!(f, "prefix")?,
            Mode::NaiveSynchronous => write!(f, "naive_synchronous")?,
            Mode::NaiveAsynchronous => write!(f, "naive_asynchronous")?,
        }
        if self.trigger != Trigger::Executed {
            write!(f, ":ask={}", self.trigger)?;
        }
        if !self.lead.is_zero() {
            write!(f, ":lead={}ms", self.lead.as_secs_f64() * 1e3)?;
        }
        if self.catch_up > 0.0 {
            write!(f, ":catch_up={}", self.catch_up)?;
        }
        if self.project_state { write!(f, ":project") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handover_reads_as_it_is_written() {
        for text in [
            "switch",
            "switch:ask=every:project",
            "switch:lead=53.5ms:catch_up=0.25",
            "blend:old=0.3",
            "ensemble:decay=0.01:ask=each_row",
            "rtc:beta=12.5:ask=6_rows",
            "prefix:ask=400ms",
            "naive_synchronous",
        ] {
            assert_eq!(Handover::parse(text).unwrap().to_string(), text);
        }
        assert!(Handover::parse("naive_asynchronous").unwrap().is_baseline());
    }

    #[test]
    fn what_is_not_understood_says_what_to_write() {
        for (text, says) in [
            ("swich", "one of switch"),
            ("switch:beta=3", "no option of this mode"),
            ("rtc:beta=nan", "between 0.1 and 1000"),
            ("blend:old=2", "between 0 and 1"),
            ("switch:ask=soon", "ask=every"),
            ("switch:lead=2", "lead=50ms"),
            ("switch:lead=-1ms", "between 0 and 1000"),
            ("switch:catch_up=2", "between 0 and 0.5"),
        ] {
            let error = Handover::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
