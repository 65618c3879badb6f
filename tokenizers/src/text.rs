//! Prompt text to ids, over Hugging Face's `tokenizers`, the checkpoints' own format.

use serde_json::Value;
use std::collections::BTreeSet;
use thiserror::Error;
use tokenizers::Tokenizer;

use crate::fast::byte_to_char;

/// Why prompt text has no ids. Not on the control path: text is encoded when a task begins.
#[derive(Debug, Error)]
pub enum PromptError {
    /// The tokenizer file cannot be used.
    #[error("{label}: not a usable tokenizer.json: {reason}")]
    Load {
        /// Name of the file.
        label: String,
        /// What is wrong.
        reason: String,
    },
    /// The file names no unknown token and does not spell every byte, so words outside the vocabulary would vanish.
    #[error(
        "{label}: model.unk_token is not a token of the vocabulary and not every byte has one; unknown words could not be told apart"
    )]
    NoUnknownToken {
        /// Name of the file.
        label: String,
    },
    /// A word the policy was never trained on.
    #[error("the word {word:?} (byte {at}) is unknown to the policy; known: {}", known.join(", "))]
    UnknownWord {
        /// The word as written.
        word: String,
        /// Byte offset in the text.
        at: usize,
        /// Known words, the most similar first; not all of them where there are many.
        known: Vec<String>,
    },
    /// The text spells a special token, which would steer the sequence.
    #[error("the text contains the special token {token:?} (byte {at}); leave it out")]
    SpecialToken {
        /// The token.
        token: String,
        /// Byte offset in the text.
        at: usize,
    },
    /// The tokenizer itself failed.
    #[error("cannot tokenize the text: {0}")]
    Tokenizer(#[source] tokenizers::Error),
}

/// Turns prompt text into ids; refuses what the vocabulary cannot say.
#[derive(Clone, Debug)]
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    /// `None` for a byte-level tokenizer, which can spell everything.
    unknown: Option<u32>,
    special: BTreeSet<u32>,
    /// Plain words of the vocabulary (with a letter in them), sorted.
    words: Vec<String>,
}

/// Most words an error lists.
const LISTED: usize = 24;

impl PromptTokenizer {
    /// Loads a `tokenizer.json`; `label` names it in errors. Truncation and padding that the file
    /// may ask for are switched off: both would change the prompt in silence.
    ///
    /// # Errors
    /// [`PromptError::Load`], [`PromptError::NoUnknownToken`].
    pub fn from_bytes(tokenizer_json: &[u8], label: &str) -> Result<Self, PromptError> {
        let refuse = |reason: String| PromptError::Load { label: label.to_owned(), reason };
        let mut tokenizer = Tokenizer::from_bytes(tokenizer_json).map_err(|error| refuse(error.to_string()))?;
        let json: Value = serde_json::from_slice(tokenizer_json).map_err(|error| refuse(error.to_string()))?;
        let model = &json["model"];
        let unknown = match (model["unk_token"].as_str(), model["unk_id"].as_u64()) {
            (Some(token), _) => tokenizer.token_to_id(token),
            (None, Some(id)) => u32::try_from(id).ok().filter(|&id| tokenizer.id_to_token(id).is_some()),
            (None, None) => None,
        };
        if unknown.is_none() && !spells_every_byte(&json) {
            return Err(PromptError::NoUnknownToken { label: label.to_owned() });
        }
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        let special: BTreeSet<u32> =
            tokenizer.get_added_tokens_decoder().iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let mut words: Vec<String> = tokenizer
            .get_vocab(false)
            .into_iter()
            .filter(|(word, id)| !special.contains(id) && Some(*id) != unknown && word.chars().any(char::is_alphabetic))
            .map(|(word, _)| word)
            .collect();
        words.sort_unstable();
        Ok(Self { tokenizer, unknown, special, words })
    }

    /// Ids of `text`, nothing added before or after: special tokens come from
    /// [`id_of`](Self::id_of).
    ///
    /// # Errors
    /// [`PromptError::UnknownWord`] names the first word outside the vocabulary,
    /// [`PromptError::SpecialToken`] the first special token spelled in the text.
    ///
    /// # Real-time
    /// Allocates; call it when a task begins, not in the control loop.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let encoding = self.tokenizer.encode(text, false).map_err(PromptError::Tokenizer)?;
        for (&id, &(at, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            let written = || text.get(at..end).unwrap_or_default().to_owned();
            // The text can spell the unknown token itself: that is a special token, not a word.
            if Some(id) == self.unknown && self.tokenizer.token_to_id(&written()) != Some(id) {
                let word = written();
                let known = self.similar_words(&word);
                return Err(PromptError::UnknownWord { word, at, known });
            }
            if Some(id) == self.unknown || self.special.contains(&id) {
                return Err(PromptError::SpecialToken { token: written(), at });
            }
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// Id of a token spelled exactly so, special tokens included.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Number of ids, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// One past the largest id that [`encode`](Self::encode) can give: special tokens, which it refuses, may lie above.
    pub fn ids_end(&self) -> usize {
        let plain = self.tokenizer.get_vocab(true).into_values().filter(|id| !self.special.contains(id));
        plain.max().map_or(0, |id| id as usize + 1)
    }

    /// Plain words the vocabulary knows, sorted; numbers and punctuation are not listed.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    fn similar_words(&self, word: &str) -> Vec<String> {
        let mut by_distance: Vec<(usize, &String)> =
            self.words.iter().map(|known| (edit_distance(word, known), known)).collect();
        by_distance.sort_unstable();
        by_distance.into_iter().take(LISTED).map(|(_, known)| known.clone()).collect()
    }
}

/// Whether a `tokenizer.json` is a byte-level BPE (GPT-2's printable bytes) whose vocabulary has all 256 of them: then every
/// text has ids, and none of it vanishes.
fn spells_every_byte(json: &Value) -> bool {
    let is_byte_level = |part: &Value| part["type"] == "ByteLevel";
    let pre = &json["pre_tokenizer"];
    let inside = pre["pretokenizers"].as_array().is_some_and(|parts| parts.iter().any(is_byte_level));
    let vocabulary = &json["model"]["vocab"];
    json["model"]["type"] == "BPE"
        && (is_byte_level(pre) || inside)
        && (0..=255u8).all(|byte| vocabulary[byte_to_char(byte).to_string()].is_u64())
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form of the demonstration policy's `text/tokenizer.json`.
    fn demonstration(edit: impl FnOnce(&mut Value)) -> Result<PromptTokenizer, PromptError> {
        let plain = ["Task", ":", ",", ";", "State", "Action", "pick", "up", "the", "red", "cube", "-1", "0", "128"];
        let special = ["<pad>", "<unk>", "<bos>", "|"];
        let vocab: serde_json::Map<String, Value> =
            special.iter().chain(&plain).enumerate().map(|(id, token)| (token.to_string(), id.into())).collect();
        let added: Vec<Value> = special
            .iter()
            .enumerate()
            .map(|(id, token)| {
                serde_json::json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let mut json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Removed", "invert": false},
                {"type": "Split", "pattern": {"Regex": "[:,;]"}, "behavior": "Isolated", "invert": false}]},
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
        });
        edit(&mut json);
        PromptTokenizer::from_bytes(json.to_string().as_bytes(), "text/tokenizer.json")
    }

    #[test]
    fn the_prompt_form_is_encoded_word_by_word() {
        let tokenizer = demonstration(|_| {}).unwrap();
        let text = crate::fast_prefix("Pick_up the RED cube ", &[-1, 0, 128]) + crate::ACTION_PREFIX;
        let words = ["Task", ":", "pick", "up", "the", "red", "cube", ",", "State", ":", "-1", "0", "128", ";"];
        let wanted: Vec<u32> =
            words.iter().chain(&["Action", ":"]).map(|word| tokenizer.id_of(word).unwrap()).collect();
        assert_eq!(tokenizer.encode(&text).unwrap(), wanted);
        assert_eq!((tokenizer.id_of("<bos>"), tokenizer.id_of("|"), tokenizer.vocab_size()), (Some(2), Some(3), 18));
    }

    #[test]
    fn an_unknown_word_is_named_with_the_known_ones() {
        let tokenizer = demonstration(|_| {}).unwrap();
        match tokenizer.encode("pick up the ded cube, now") {
            Err(PromptError::UnknownWord { word, at, known }) => {
                assert_eq!((word.as_str(), at, known[0].as_str()), ("ded", 12, "red"));
                assert_eq!(known.len(), tokenizer.words().len());
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(tokenizer.encode("pick"), Ok(ids) if ids.len() == 1));
        assert!(matches!(tokenizer.encode("the größe"), Err(PromptError::UnknownWord { word, .. }) if word == "größe"));
    }

    #[test]
    fn special_tokens_cannot_be_spelled_in_the_text() {
        let tokenizer = demonstration(|_| {}).unwrap();
        for token in ["<pad>", "<unk>", "<bos>", "|"] {
            let text = format!("pick {token} cube");
            match tokenizer.encode(&text) {
                Err(PromptError::SpecialToken { token: found, at }) => assert_eq!((found.as_str(), at), (token, 5)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn truncation_in_the_file_does_not_shorten_a_prompt() {
        let short = serde_json::json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        let tokenizer = demonstration(|json| json["truncation"] = short).unwrap();
        assert_eq!(tokenizer.encode("pick up the red cube").unwrap().len(), 5);
    }

    #[test]
    fn a_file_without_an_unknown_token_is_refused() {
        let got = demonstration(|json| json["model"]["unk_token"] = "missing".into());
        assert!(matches!(got, Err(PromptError::NoUnknownToken { .. })), "{got:?}");
        assert!(matches!(PromptTokenizer::from_bytes(b"{}", "x"), Err(PromptError::Load { .. })));
    }

    #[test]
    fn a_byte_level_file_needs_no_unknown_token_but_every_byte() {
        // The form of SmolVLM2's: digits apart, then GPT-2's bytes.
        let file = |missing: Option<u8>| {
            let vocab: serde_json::Map<String, Value> = (0..=255u8)
                .filter(|byte| Some(*byte) != missing)
                .map(|byte| (byte_to_char(byte).to_string(), byte.into()))
                .chain([("th".to_owned(), 256.into()), ("the".to_owned(), 257.into())])
                .collect();
            serde_json::json!({
                "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
                "added_tokens": [{"id": 258, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}],
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
                    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
                "decoder": null,
                "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                    "merges": ["t h", "th e"]}
            })
            .to_string()
        };
        let tokenizer = PromptTokenizer::from_bytes(file(None).as_bytes(), "x").unwrap();
        assert_eq!(tokenizer.encode("the é\n").unwrap(), [257, 32, 0xc3, 0xa9, 10]);
        assert_eq!((tokenizer.vocab_size(), tokenizer.ids_end()), (259, 258));
        assert!(matches!(tokenizer.encode("a <image>"), Err(PromptError::SpecialToken { at: 2, .. })));
        let got = PromptTokenizer::from_bytes(file(Some(0xf3)).as_bytes(), "x");
        assert!(matches!(got, Err(PromptError::NoUnknownToken { .. })), "{got:?}");
    }

    #[test]
    fn edit_distance_counts_characters() {
        assert_eq!((edit_distance("", "abc"), edit_distance("kitten", "sitting"), edit_distance("é", "e")), (3, 3, 1));
    }
}
