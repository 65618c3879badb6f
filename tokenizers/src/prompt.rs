//! π0-FAST's prompt pieces: state bins, the prefix text, and FAST ids inside PaliGemma's vocabulary.
//!
//! As in openpi's `FASTTokenizer` (`src/openpi/models/tokenizer.py`): the prefix is `<bos>` and
//! [`fast_prefix`], the answer [`ACTION_PREFIX`], the action ids and [`ACTION_END`].

/// Text between the prefix and the action ids.
pub const ACTION_PREFIX: &str = "Action: ";

/// Token that training appends after the action ids.
pub const ACTION_END: &str = "|";

/// PaliGemma's vocabulary size in openpi's map.
const PALIGEMMA_VOCABULARY: u32 = 257_152;

/// Tokens at the end of PaliGemma's vocabulary (`<seg>`) that the map leaves alone.
const SKIPPED: u32 = 128;

/// Bin of a normalised state value: `count(edges ≤ s) − 1` over the edges `−1 + k/128`, k = 0..=255.
///
/// Values below −1 give −1, not 0, and values from 127/128 give 255: models are trained with
/// exactly that, so nothing is clamped here. NaN counts no edge and gives −1; refuse it before.
///
/// # Real-time
/// Does not allocate.
pub fn discretise_state(s: f64) -> i32 {
    if s.is_nan() {
        return -1;
    }
    // Scaling by a power of two and `floor` are exact, so this is the count of edges.
    ((s * 128.0).floor().clamp(-129.0, 127.0) + 128.0) as i32
}

/// [`discretise_state`] clamped to 0..=255: for models trained with clipped states.
///
/// # Real-time
/// Does not allocate.
pub fn discretise_state_clamped(s: f64) -> i32 {
    discretise_state(s).max(0)
}

/// The instruction as π0-FAST sees it: lower case, stripped, `_` as a space.
fn cleaned(instruction: &str) -> String {
    instruction.to_lowercase().trim().replace('_', " ")
}

fn joined(bins: &[i32]) -> String {
    let bins: Vec<String> = bins.iter().map(i32::to_string).collect();
    bins.join(" ")
}

/// Whose layout of prompt and answer the checkpoint was trained with.
///
/// | | openpi π0-FAST | LeRobot π0-FAST | π0.5 |
/// |---|---|---|---|
/// | prompt | `<bos>` + `Task: …, State: …;\n` | the same, padded to 200, then a second `<bos>` | `<bos>` + `Task: …, State: …;\nAction: ` |
/// | instruction | lower case | case kept, line feeds as spaces | case kept |
/// | answer | `Action: ` + ids + `\|` + `<eos>` | `Action: ` + ids + `\|` | none: a flow head |
/// | position of answer token t | length + t **+ 1** | contiguous | – |
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum PromptForm {
    /// openpi's `FASTTokenizer`.
    OpenPiFast,
    /// LeRobot's `pi0_fast`.
    LeRobotFast,
    /// openpi's π0.5.
    Pi05,
}

impl PromptForm {
    /// Text between the first `<bos>` and the answer; `bins` are the [`discretise_state`] of each state value.
    pub fn prompt(self, instruction: &str, bins: &[i32]) -> String {
        match self {
            Self::OpenPiFast => fast_prefix(instruction, bins),
            Self::LeRobotFast => {
                format!("Task: {}, State: {};\n", instruction.trim().replace(['_', '\n'], " "), joined(bins))
            }
            Self::Pi05 => pi05_prompt(instruction, bins),
        }
    }

    /// Text that the answer begins with and that stands before the action ids.
    pub const fn answer_prefix(self) -> &'static str {
        match self {
            Self::OpenPiFast | Self::LeRobotFast => ACTION_PREFIX,
            Self::Pi05 => "",
        }
    }

    /// Length the prompt is padded to, special tokens included, where the layout has one.
    pub const fn padded_length(self) -> Option<usize> {
        match self {
            Self::OpenPiFast => Some(250),
            Self::LeRobotFast => Some(200),
            Self::Pi05 => None,
        }
    }

    /// Whether a second `<bos>` stands between prompt and answer.
    pub const fn has_second_bos(self) -> bool {
        matches!(self, Self::LeRobotFast)
    }

    /// Position id of answer token `t` after a prefix of `prefix` tokens, images included.
    pub const fn answer_position(self, prefix: usize, t: usize) -> usize {
        match self {
            // openpi leaves a gap of one, and its weights expect it.
            Self::OpenPiFast => prefix + t + 1,
            Self::LeRobotFast | Self::Pi05 => prefix + t,
        }
    }
}

/// π0.5's prompt: `Task: {instruction}, State: {bins};\nAction: `, the instruction stripped and `_` as a space, but its
/// case kept.
pub fn pi05_prompt(instruction: &str, bins: &[i32]) -> String {
    format!("Task: {}, State: {};\n{ACTION_PREFIX}", instruction.trim().replace('_', " "), joined(bins))
}

/// OpenVLA's prompt (`vla-scripts/deploy.py`), in lower case; the instruction's outer blanks are left out, since they are
/// no word.
pub fn openvla_prompt(instruction: &str) -> String {
    format!("In: What action should the robot take to {}?\nOut:", instruction.to_lowercase().trim())
}

/// FAST ids at the end of a Qwen vocabulary: FAST id `a` is `last − a`, as UniVLA places them (`last` = 151642).
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct QwenMap {
    last: u32,
    vocab_size: u32,
}

impl QwenMap {
    /// For a FAST vocabulary of `vocab_size` ending at `last`; `None` when it does not fit below it.
    pub const fn new(last: u32, vocab_size: u32) -> Option<Self> {
        if vocab_size == 0 || vocab_size - 1 > last { None } else { Some(Self { last, vocab_size }) }
    }

    /// Model id of FAST id `action_id`; `None` outside the vocabulary.
    pub const fn from_action(self, action_id: u32) -> Option<u32> {
        if action_id < self.vocab_size { Some(self.last - action_id) } else { None }
    }

    /// FAST id behind a model id; `None` where it is none.
    pub const fn to_action(self, id: u32) -> Option<u32> {
        if id <= self.last && self.last - id < self.vocab_size { Some(self.last - id) } else { None }
    }
}

/// The FAST ids of a π0-FAST answer: what stands between `prefix` (the ids of [`ACTION_PREFIX`]) and the first `end` id
/// (those of [`ACTION_END`] and `<eos>`), by ids and not by text. `to_action` maps a model id to a FAST id.
///
/// Writes them into `ids`, replacing its content; after `Err` it is empty.
///
/// # Errors
/// [`AnswerError`] where upstream would answer zeros or drop ids.
///
/// # Real-time
/// Allocates only when `ids` has to grow.
pub fn extract_action_ids(
    answer: &[u32],
    prefix: &[u32],
    end: &[u32],
    to_action: impl Fn(u32) -> Option<u32>,
    ids: &mut Vec<u32>,
) -> Result<(), AnswerError> {
    ids.clear();
    let Some(rest) = answer.strip_prefix(prefix) else { return Err(AnswerError::NoPrefix) };
    let Some(length) = rest.iter().position(|id| end.contains(id)) else { return Err(AnswerError::NoEnd) };
    for (at, &id) in rest[..length].iter().enumerate() {
        match to_action(id) {
            Some(action_id) => ids.push(action_id),
            None => {
                ids.clear();
                return Err(AnswerError::NotAnAction { id, position: prefix.len() + at });
            }
        }
    }
    Ok(())
}

/// Why an answer holds no action ids.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
pub enum AnswerError {
    /// It does not begin with the ids of `Action: `.
    #[error("the answer does not begin with the action prefix")]
    NoPrefix,
    /// No end id: it was cut.
    #[error("the answer has no end id")]
    NoEnd,
    /// An id between prefix and end that is no FAST id.
    #[error("id {id} at position {position} of the answer is no action id")]
    NotAnAction {
        /// The id.
        id: u32,
        /// Its position.
        position: usize,
    },
}

/// π0-FAST's prefix text: `Task: {instruction}, State: {bins};\n`.
///
/// The instruction is lower-cased and stripped, then `_` becomes a space; `bins` are
/// [`discretise_state`] of each state value in order.
pub fn fast_prefix(instruction: &str, bins: &[i32]) -> String {
    format!("Task: {}, State: {};\n", cleaned(instruction), joined(bins))
}

/// PaliGemma's id for FAST id `action_id`: `257152 − 1 − 128 − action_id`. `None` below 0.
pub fn paligemma_from_action(action_id: u32) -> Option<u32> {
    (PALIGEMMA_VOCABULARY - 1 - SKIPPED).checked_sub(action_id)
}

/// FAST id behind a PaliGemma id; `None` where it is no action of a FAST vocabulary of
/// `vocab_size` (2048 for FAST+: PaliGemma ids 254976..=257023).
pub fn action_from_paligemma(id: u32, vocab_size: u32) -> Option<u32> {
    (PALIGEMMA_VOCABULARY - 1 - SKIPPED).checked_sub(id).filter(|action_id| *action_id < vocab_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_edges(s: f64) -> i32 {
        (0..=255).filter(|&k| -1.0 + f64::from(k) / 128.0 <= s).count() as i32 - 1
    }

    #[test]
    fn bins_count_the_edges_also_beside_them() {
        for k in -20..=280 {
            let edge = -1.0 + f64::from(k) / 128.0;
            for s in [edge.next_down(), edge, edge.next_up(), edge + 1e-3] {
                assert_eq!(discretise_state(s), count_edges(s), "{s:e}");
            }
        }
        for s in [-1e-300, 1e-300, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(discretise_state(s), count_edges(s), "{s:e}");
        }
    }

    #[test]
    fn the_paligemma_map_is_its_own_inverse_within_the_vocabulary() {
        for action_id in 0..2048 {
            let id = paligemma_from_action(action_id).unwrap();
            assert_eq!(action_from_paligemma(id, 2048), Some(action_id));
        }
        assert_eq!(action_from_paligemma(254_975, 2048), None);
        assert_eq!(action_from_paligemma(257_024, 2048), None);
        assert_eq!(paligemma_from_action(257_024), None);
    }

    #[test]
    fn pi05_keeps_the_case_and_asks_for_the_action() {
        let text = PromptForm::Pi05.prompt(" Pick_up the RED cup ", &[-1, 255]);
        assert_eq!(text, "Task: Pick up the RED cup, State: -1 255;\nAction: ");
        // LeRobot 0.6.1, `processor_pi0_fast.py`.
        let text = PromptForm::LeRobotFast.prompt(" Pick_up\nthe RED cup ", &[0]);
        assert_eq!(text, "Task: Pick up the RED cup, State: 0;\n");
        let text = PromptForm::OpenPiFast.prompt(" Pick_up the RED cup ", &[0]);
        assert_eq!(text, "Task: pick up the red cup, State: 0;\n");
        assert_eq!(
            openvla_prompt(" Pick up the RED cup"),
            "In: What action should the robot take to pick up the red cup?\nOut:"
        );
        let position = |form: PromptForm| form.answer_position(10, 2);
        assert_eq!([PromptForm::OpenPiFast, PromptForm::LeRobotFast].map(position), [13, 12]);
        assert_eq!([-2.0, -1.0, 5.0].map(discretise_state_clamped), [0, 0, 255]);
    }

    #[test]
    fn the_qwen_map_is_a_bijection_on_the_vocabulary() {
        let map = QwenMap::new(crate::univla::LAST_TEXT, 2048).unwrap();
        assert_eq!(
            (map.from_action(0), map.from_action(2047), map.from_action(2048)),
            (Some(151_642), Some(149_595), None)
        );
        for action_id in 0..2048 {
            assert_eq!(map.to_action(map.from_action(action_id).unwrap()), Some(action_id));
        }
        assert_eq!((map.to_action(149_594), map.to_action(151_643)), (None, None));
        assert!(QwenMap::new(100, 102).is_none() && QwenMap::new(100, 0).is_none());
    }

    #[test]
    fn an_answer_is_read_by_ids_and_refused_where_upstream_makes_zeros() {
        let (prefix, end) = ([7, 8], [235_371, 1]);
        let mut ids = vec![9];
        let mut read = |answer: &[u32]| {
            let result = extract_action_ids(answer, &prefix, &end, |id| action_from_paligemma(id, 2048), &mut ids);
            (result, ids.clone())
        };
        assert_eq!(read(&[7, 8, 257_023, 254_976, 235_371, 1]), (Ok(()), vec![0, 2047]));
        assert_eq!(read(&[7, 8, 257_023, 1]), (Ok(()), vec![0]));
        assert_eq!(read(&[8, 257_023, 1]), (Err(AnswerError::NoPrefix), vec![]));
        assert_eq!(read(&[7, 8, 257_023]), (Err(AnswerError::NoEnd), vec![]));
        assert_eq!(read(&[7, 8, 257_023, 5, 1]), (Err(AnswerError::NotAnAction { id: 5, position: 3 }), vec![]));
    }
}
