//! An answer in the model's own ids: what it says before the action, the action ids at their place in its vocabulary, and
//! what ends it.
//!
//! The action alone does not complete an answer that has an end: a model that goes on where it should end did not mean
//! this action.

use endplate_tokenizers::{ActionTokenizer, DecodeError, EncodeError, Encoded, Progress};

use crate::bundle::AnswerSpec;

/// How far an answer has come.
#[derive(Copy, Clone, Debug, PartialEq)]
enum State {
    /// So many ids of the prefix.
    Prefix(usize),
    /// Action ids.
    Action,
    /// All of them; the end is missing.
    Whole,
    Ended,
    Failed(DecodeError),
}

/// An action tokenizer over the ids of a whole vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Answer<T> {
    action: T,
    rules: AnswerSpec,
    vocabulary: u32,
    state: State,
    /// Ids pushed.
    position: usize,
    most: usize,
}

impl<T: ActionTokenizer> Answer<T> {
    /// `most`: ids that may be generated, prefix and end included.
    pub(super) fn new(action: T, rules: AnswerSpec, vocabulary: u32, most: usize) -> Self {
        let mut answer = Self { action, rules, vocabulary, state: State::Action, position: 0, most };
        answer.reset();
        answer
    }

    /// The action, once it has begun and as long as nothing was wrong.
    ///
    /// # Errors
    /// What was wrong, or [`DecodeError::WrongLength`] inside the prefix.
    pub(super) fn action_mut(&mut self) -> Result<&mut T, DecodeError> {
        match self.state {
            State::Failed(error) => Err(error),
            State::Prefix(_) => Err(DecodeError::WrongLength { needed: self.horizon() * self.dims(), got: 0 }),
            State::Action | State::Whole | State::Ended => Ok(&mut self.action),
        }
    }

    fn action_id(&self, id: u32) -> Option<u32> {
        self.rules.action_zero.checked_sub(id).filter(|action| *action < self.action.vocab_size())
    }

    fn is_end(&self, id: u32) -> bool {
        self.rules.end.as_slice().contains(&id)
    }

    fn not_an_action(&self, id: u32, first: u32, last: u32) -> DecodeError {
        DecodeError::NotAnAction { id, position: self.position, first, last }
    }

    fn advance(&mut self, id: u32) -> Result<State, DecodeError> {
        if id >= self.vocabulary {
            return Err(DecodeError::UnknownId { id, vocabulary: self.vocabulary });
        }
        let needed = self.horizon() * self.dims();
        match self.state {
            State::Failed(error) => Err(error),
            State::Prefix(said) => {
                let wanted = self.rules.prefix.as_slice();
                match wanted.get(said) {
                    Some(next) if *next == id => {
                        Ok(if said + 1 == wanted.len() { State::Action } else { State::Prefix(said + 1) })
                    }
                    next => Err(self.not_an_action(id, *next.unwrap_or(&id), *next.unwrap_or(&id))),
                }
            }
            State::Action if self.is_end(id) => {
                Err(DecodeError::WrongLength { needed, got: self.action.coefficients() })
            }
            State::Action => match self.action_id(id) {
                Some(action) => Ok(match self.action.push(action)? {
                    Progress::More { .. } => State::Action,
                    Progress::Complete if self.rules.end.as_slice().is_empty() => State::Ended,
                    Progress::Complete => State::Whole,
                }),
                None => {
                    let zero = self.rules.action_zero;
                    Err(self.not_an_action(id, (zero + 1).saturating_sub(self.action.vocab_size()), zero))
                }
            },
            State::Whole if self.is_end(id) => Ok(State::Ended),
            State::Whole | State::Ended => Err(DecodeError::WrongLength { needed, got: needed + 1 }),
        }
    }
}

impl<T: ActionTokenizer> ActionTokenizer for Answer<T> {
    fn horizon(&self) -> usize {
        self.action.horizon()
    }

    fn dims(&self) -> usize {
        self.action.dims()
    }

    fn vocab_size(&self) -> u32 {
        self.vocabulary
    }

    fn encode(&mut self, chunk: &[f64], ids: &mut Vec<u32>) -> Result<Encoded, EncodeError> {
        let encoded = self.action.encode(chunk, ids)?;
        for id in ids.iter_mut() {
            *id = self.rules.action_zero - *id;
        }
        ids.splice(0..0, self.rules.prefix.as_slice().iter().copied());
        ids.extend(self.rules.end.as_slice().first());
        Ok(encoded)
    }

    fn decode(&mut self, ids: &[u32], out: &mut [f64]) -> Result<(), DecodeError> {
        self.reset();
        for id in ids {
            let _ = self.push(*id)?;
        }
        self.finish(out)
    }

    fn reset(&mut self) {
        self.action.reset();
        self.position = 0;
        self.state = if self.rules.prefix.as_slice().is_empty() { State::Action } else { State::Prefix(0) };
    }

    fn push(&mut self, id: u32) -> Result<Progress, DecodeError> {
        let result = self.advance(id);
        self.position += 1;
        self.state = result.unwrap_or_else(State::Failed);
        let coefficients = self.action.coefficients();
        result.map(|state| if state == State::Ended { Progress::Complete } else { Progress::More { coefficients } })
    }

    fn allows(&self, id: u32) -> bool {
        match self.state {
            State::Prefix(said) => self.rules.prefix.as_slice().get(said) == Some(&id),
            State::Action => {
                // Room must remain for the end.
                let room = self.position + 1 < self.most || self.rules.end.as_slice().is_empty();
                room && self.action_id(id).is_some_and(|action| self.action.allows(action))
            }
            State::Whole => self.is_end(id),
            State::Ended | State::Failed(_) => false,
        }
    }

    fn coefficients(&self) -> usize {
        self.action.coefficients()
    }

    fn finish(&mut self, out: &mut [f64]) -> Result<(), DecodeError> {
        match self.state {
            State::Ended => self.action.finish(out),
            State::Failed(error) => Err(error),
            State::Prefix(_) | State::Action | State::Whole => Err(DecodeError::WrongLength {
                needed: self.horizon() * self.dims(),
                // A whole action without its end was cut as well: the end may have been something else.
                got: self.action.coefficients(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use endplate_tokenizers::BinCodec;

    use super::*;
    use crate::bundle::Ids;

    /// `[1, 2]` in bins whose ids lie at 44..=299, between the words 5 6 and 7 or 1.
    fn answer() -> Answer<BinCodec> {
        let ids = |given: &[u32]| Ids::new(given).unwrap();
        let rules = AnswerSpec { prefix: ids(&[5, 6]), end: ids(&[7, 1]), action_zero: 299 };
        Answer::new(BinCodec::open_pi(1, 2).unwrap(), rules, 300, 8)
    }

    #[test]
    fn an_answer_is_words_action_and_end() {
        let mut out = [9.0; 2];
        let mut answer = answer();
        answer.decode(&[5, 6, 299, 299 - 128, 7], &mut out).unwrap();
        assert_eq!(out, [-1.0, 0.0]);
        answer.decode(&[5, 6, 44, 299, 1], &mut out).unwrap();
        assert_eq!(out, [127.0 / 128.0, -1.0]);
        let mut ids = Vec::new();
        answer.encode(&[-1.0, 0.0], &mut ids).unwrap();
        assert_eq!(ids, [5, 6, 299, 171, 7]);
    }

    #[test]
    fn what_is_no_answer_is_refused_by_what_is_wrong() {
        let not = |id, position, first, last| DecodeError::NotAnAction { id, position, first, last };
        let cases: [(&[u32], DecodeError); 8] = [
            (&[6, 5, 299, 299, 7], not(6, 0, 5, 5)),
            (&[5, 6, 299, 43, 7], not(43, 3, 44, 299)),
            (&[5, 6, 299, 7], DecodeError::WrongLength { needed: 2, got: 1 }),
            (&[5, 6, 299, 299, 299, 7], DecodeError::WrongLength { needed: 2, got: 3 }),
            (&[5, 6, 299, 299], DecodeError::WrongLength { needed: 2, got: 2 }),
            (&[5, 6, 299, 299, 7, 7], DecodeError::WrongLength { needed: 2, got: 3 }),
            (&[5, 300], DecodeError::UnknownId { id: 300, vocabulary: 300 }),
            (&[], DecodeError::WrongLength { needed: 2, got: 0 }),
        ];
        for (ids, wanted) in cases {
            let mut out = [9.0; 2];
            assert_eq!(answer().decode(ids, &mut out), Err(wanted), "{ids:?}");
            assert_eq!(out, [9.0; 2]);
        }
    }

    #[test]
    fn every_allowed_id_is_taken_and_every_other_refused() {
        for start in [&[][..], &[5], &[5, 6], &[5, 6, 100], &[5, 6, 100, 100], &[5, 6, 100, 100, 7]] {
            for id in 0..300 {
                let mut answer = answer();
                for id in start {
                    let _ = answer.push(*id).unwrap();
                }
                let allowed = answer.allows(id);
                assert_eq!(answer.push(id).is_ok(), allowed, "{id} after {start:?}");
            }
        }
    }
}
