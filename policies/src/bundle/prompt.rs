//! How a checkpoint writes its prompt and its answer: text, ids around them, and where the answer begins.

use super::BundleError;
use super::raw::{RawAnswer, RawPrompt};
use super::spec::{choose, invalid};

/// More positions than any checkpoint leaves out.
const MAX_GAP: usize = 16;

/// A few ids, in order.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    ids: [u32; Self::MOST],
    len: usize,
}

impl Ids {
    /// Most ids there can be.
    pub const MOST: usize = 8;

    /// The ids.
    pub fn as_slice(&self) -> &[u32] {
        &self.ids[..self.len]
    }

    /// These ids; `None` for more than [`MOST`](Self::MOST).
    pub(crate) fn new(given: &[u32]) -> Option<Self> {
        let mut ids = [0; Self::MOST];
        ids.get_mut(..given.len())?.copy_from_slice(given);
        Some(Self { ids, len: given.len() })
    }

    pub(super) fn checked(key: &str, given: &[u32], vocabulary: usize) -> Result<Self, BundleError> {
        if let Some(id) = given.iter().find(|id| **id as usize >= vocabulary) {
            return Err(invalid(key, id, format!("the vocabulary has {vocabulary} ids")));
        }
        Self::new(given).ok_or_else(|| invalid(key, given.len(), format!("write at most {} ids", Self::MOST)))
    }
}

/// Whose prompt a policy was trained with.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PromptText {
    /// `Task: …, State: …;\nAction: `, the instruction in lower case: the action tokens follow at once.
    Demonstration,
    /// openpi's π0-FAST: `Task: …, State: …;\n`, the instruction in lower case; the answer begins with `Action: `.
    OpenPi,
    /// LeRobot's π0-FAST: as openpi's, the instruction's case kept.
    LeRobot,
    /// OpenVLA: `In: What action should the robot take to …?\nOut:`, in lower case; images stand behind the first id and
    /// attention is causal.
    OpenVla,
}

/// How a prompt is written and laid out.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PromptSpec {
    /// Its text.
    pub text: PromptText,
    /// Id before it; without, that of `<bos>`.
    pub bos: Option<u32>,
    /// Ids behind it.
    pub suffix: Ids,
    /// Positions left out between the prefix and what follows it.
    pub position_gap: usize,
}

impl PromptSpec {
    /// Ids of the prompt that stand before the images.
    pub const fn ids_before_images(&self) -> usize {
        matches!(self.text, PromptText::OpenVla) as usize
    }

    /// Whether a row of the prefix sees only itself and those before it.
    pub const fn is_causal(&self) -> bool {
        matches!(self.text, PromptText::OpenVla)
    }
}

/// An answer in the model's own ids, with what it says around the action.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct AnswerSpec {
    /// Ids it begins with.
    pub prefix: Ids,
    /// Any of these ends it; without, it ends with the action.
    pub end: Ids,
    /// Model id of action id 0; action id `a` is `action_zero − a`.
    pub action_zero: u32,
}

pub(super) fn checked_prompt(
    raw: &RawPrompt,
    answer: Option<&RawAnswer>,
    family: &str,
    vocabulary: usize,
) -> Result<PromptSpec, BundleError> {
    let text = match (family, answer, raw.form.as_deref()) {
        ("openvla", _, None) => PromptText::OpenVla,
        ("pi0_fast", Some(_), form) => choose(
            "prompt.form",
            form.unwrap_or("missing"),
            &[("openpi", PromptText::OpenPi), ("lerobot", PromptText::LeRobot)],
        )?,
        (_, _, None) => PromptText::Demonstration,
        (_, _, Some(form)) => return Err(invalid("prompt.form", form, "goes with [answer] of the family pi0_fast")),
    };
    let position_gap = answer.map_or(0, |answer| answer.position_gap);
    if position_gap > MAX_GAP {
        return Err(invalid("answer.position_gap", position_gap, format!("write at most {MAX_GAP}")));
    }
    if let Some(bos) = raw.bos.filter(|id| *id as usize >= vocabulary) {
        return Err(invalid("prompt.bos", bos, format!("the vocabulary has {vocabulary} ids")));
    }
    let suffix = Ids::checked("prompt.suffix", &raw.suffix, vocabulary)?;
    Ok(PromptSpec { text, bos: raw.bos, suffix, position_gap })
}

pub(super) fn checked_answer(raw: &RawAnswer, vocabulary: usize) -> Result<AnswerSpec, BundleError> {
    if raw.action_zero as usize >= vocabulary {
        let remedy = format!("the vocabulary has {vocabulary} ids");
        return Err(invalid("answer.action_zero", raw.action_zero, remedy));
    }
    Ok(AnswerSpec {
        prefix: Ids::checked("answer.prefix", &raw.prefix, vocabulary)?,
        end: Ids::checked("answer.end", &raw.end, vocabulary)?,
        action_zero: raw.action_zero,
    })
}
