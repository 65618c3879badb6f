//! The prompt of the families whose graph holds the embedding table: text to ids, and ids to a tensor of fixed length.

use endplate_tokenizers::PromptTokenizer;

use crate::bundle::Bundle;
use crate::load::LoadError;
use crate::policy::PolicyError;

const TEXT_TOKENIZER: &str = "text/tokenizer.json";

/// A prompt's tokenizer and the ids around it.
pub(super) struct Prompt {
    tokenizer: PromptTokenizer,
    bos: Option<u32>,
    suffix: Vec<u32>,
    room: usize,
}

impl Prompt {
    /// Reads the tokenizer, whose ids must be rows of an embedding table of `vocabulary`; a prompt has `room` for ids.
    ///
    /// # Errors
    /// [`LoadError`] naming the file.
    pub(super) fn load(
        bundle: &Bundle,
        vocabulary: usize,
        bos: Option<u32>,
        suffix: &[u32],
        room: usize,
    ) -> Result<Self, LoadError> {
        let bad = |message: String| LoadError::Tokenizer { file: TEXT_TOKENIZER, message };
        let tokenizer = PromptTokenizer::from_bytes(bundle.file(TEXT_TOKENIZER)?, TEXT_TOKENIZER)
            .map_err(|error| bad(error.to_string()))?;
        if tokenizer.ids_end() > vocabulary {
            return Err(bad(format!(
                "has ids up to {} and the embedding table {vocabulary} rows",
                tokenizer.ids_end()
            )));
        }
        if bos.is_some_and(|id| id as usize >= vocabulary) {
            return Err(bad(format!("the embedding table of {vocabulary} has no id {bos:?}")));
        }
        Ok(Self { tokenizer, bos, suffix: suffix.to_vec(), room })
    }

    /// The ids of a text with those around it, or which word the policy does not know.
    ///
    /// # Errors
    /// [`PolicyError::UnknownInstruction`], [`PolicyError::PromptTooLong`].
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>, PolicyError> {
        let mut ids = self.tokenizer.encode(text)?;
        if let Some(bos) = self.bos {
            ids.insert(0, bos);
        }
        ids.extend_from_slice(&self.suffix);
        let (tokens, room) = (ids.len(), self.room);
        if tokens > room { Err(PolicyError::PromptTooLong { tokens, room }) } else { Ok(ids) }
    }
}
