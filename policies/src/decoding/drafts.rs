//! Where guesses come from, and which source is believed.
//!
//! Every token taken judges the guess that each source had for it, so a source's record costs nothing to keep. The
//! source with the best record guesses; answers of the pass before (`jacobi`) know most and always come first.

use super::Decoding;
use super::trigram::{Trigrams, context};

/// How much an old judgement still counts when a new one arrives.
const MEMORY: f64 = 0.98;

/// Share of hits, with forgetting.
#[derive(Copy, Clone, Debug, Default)]
struct Track {
    hits: f64,
    tries: f64,
}

impl Track {
    fn judge(&mut self, hit: bool) {
        self.hits = self.hits * MEMORY + f64::from(u8::from(hit));
        self.tries = self.tries * MEMORY + 1.0;
    }

    /// A source that was never tried is worth a half.
    fn rate(self) -> f64 {
        (self.hits + 0.5) / (self.tries + 1.0)
    }
}

/// Guesses of one policy. Allocates at construction only, except for a growing tri-gram table.
#[derive(Clone, Debug)]
pub(crate) struct Drafter {
    decoding: Decoding,
    /// Tokens from the second of a context to its follower; 1 for text, a row for time-major tokens.
    stride: usize,
    /// Guesses from the chunk before, by token number; shorter than the chunk when it was.
    previous: Vec<u32>,
    /// Answers of the last pass behind the first difference, by token number.
    answers: Vec<Option<u32>>,
    trigrams: Trigrams,
    /// What they start with in every epoch.
    seeded: Trigrams,
    previous_track: Track,
    trigram_track: Track,
    /// Of the answers of the pass before and of the shallow half, where both guess.
    answers_track: Track,
    shallow_track: Track,
}

impl Drafter {
    /// Guesses for chunks of at most `tokens`. Time-major tokens have a `row` of that many; other tokens 1. Every epoch starts
    /// with what is `seeded`.
    pub(crate) fn new(decoding: Decoding, tokens: usize, row: usize, seeded: Trigrams) -> Self {
        Self {
            decoding,
            stride: row,
            previous: Vec::with_capacity(tokens),
            answers: vec![None; tokens],
            trigrams: seeded.clone(),
            seeded,
            previous_track: Track::default(),
            trigram_track: Track::default(),
            answers_track: Track::default(),
            shallow_track: Track::default(),
        }
    }

    /// Forgets everything but what was learned beforehand.
    pub(crate) fn reset(&mut self) {
        self.previous.clear();
        self.answers.fill(None);
        self.trigrams.clone_from(&self.seeded);
        self.previous_track = Track::default();
        self.trigram_track = Track::default();
        self.answers_track = Track::default();
        self.shallow_track = Track::default();
    }

    /// A new chunk begins; the tokens guessed from the chunk before are to be written into the answer.
    pub(crate) fn begin(&mut self) -> &mut Vec<u32> {
        self.answers.fill(None);
        self.previous.clear();
        &mut self.previous
    }

    /// The guess for the token behind `taken`.
    pub(crate) fn guess(&self, taken: &[u32]) -> u32 {
        if let Some(answer) = self.by_answers(taken.len()) {
            return answer;
        }
        let previous = self.by_previous(taken.len());
        let trigram = self.by_trigrams(taken);
        let likelier = if self.trigram_track.rate() > self.previous_track.rate() {
            trigram.or(previous)
        } else {
            previous.or(trigram)
        };
        // Time-major tokens mostly repeat the row before; elsewhere there is nothing to go by.
        likelier.or_else(|| taken.len().checked_sub(self.stride).map(|at| taken[at])).unwrap_or_default()
    }

    /// The guess for the token behind `taken` where the shallow half says `shallow`: the source with the best record guesses.
    pub(crate) fn guess_beside(&self, taken: &[u32], shallow: u32) -> u32 {
        self.guess_instead(taken).unwrap_or(shallow)
    }

    /// The guess of a source that is to be believed rather than the shallow half, which here answers of the pass before must be
    /// as well: behind a wrong guess the shallow half has the right one before it, and they have not.
    pub(crate) fn guess_instead(&self, taken: &[u32]) -> Option<u32> {
        let index = taken.len();
        let others = [
            (self.answers_track, self.by_answers(index)),
            (self.previous_track, self.by_previous(index)),
            (self.trigram_track, self.by_trigrams(taken)),
        ];
        let mut best = (self.shallow_track.rate(), None);
        for (track, guess) in others {
            if guess.is_some() && track.rate() > best.0 {
                best = (track.rate(), guess);
            }
        }
        best.1
    }

    /// The shallow half guessed a token behind tokens that were right.
    pub(crate) fn judge_shallow(&mut self, hit: bool) {
        self.shallow_track.judge(hit);
    }

    /// `answer` is what token number `index` would be if the guesses before it were right.
    pub(crate) fn answered(&mut self, index: usize, answer: u32) {
        if let Some(slot) = self.answers.get_mut(index).filter(|_| self.decoding.jacobi) {
            *slot = Some(answer);
        }
    }

    /// The last of `taken` was taken: judge the sources and learn.
    pub(crate) fn took(&mut self, taken: &[u32]) {
        let Some((&token, before)) = taken.split_last() else { return };
        if let Some(guess) = self.by_answers(before.len()) {
            self.answers_track.judge(guess == token);
        }
        if let Some(guess) = self.by_previous(before.len()) {
            self.previous_track.judge(guess == token);
        }
        if self.decoding.trigram {
            if let Some(guess) = self.by_trigrams(before) {
                self.trigram_track.judge(guess == token);
            }
            if let Some(context) = context(before, self.stride) {
                self.trigrams.learn(context, token);
            }
        }
    }

    fn by_answers(&self, index: usize) -> Option<u32> {
        self.answers.get(index).copied().flatten()
    }

    fn by_previous(&self, index: usize) -> Option<u32> {
        self.previous.get(index).copied().filter(|_| self.decoding.previous)
    }

    fn by_trigrams(&self, taken: &[u32]) -> Option<u32> {
        self.trigrams.follower(context(taken, self.stride)?).filter(|_| self.decoding.trigram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafter(name: &str, row: usize) -> Drafter {
        Drafter::new(name.parse().unwrap(), 8, row, Trigrams::default())
    }

    #[test]
    fn answers_come_before_the_chunk_before_and_end_with_the_chunk() {
        let mut drafts = drafter("previous+jacobi", 1);
        drafts.begin().extend([5, 6, 7]);
        assert_eq!(drafts.guess(&[5]), 6);
        drafts.answered(1, 9);
        assert_eq!(drafts.guess(&[5]), 9);
        drafts.begin().extend([1, 2]);
        assert_eq!(drafts.guess(&[1]), 2);
    }

    #[test]
    fn without_jacobi_answers_are_not_kept() {
        let mut drafts = drafter("previous", 1);
        drafts.begin().extend([5, 6]);
        drafts.answered(1, 9);
        assert_eq!(drafts.guess(&[5]), 6);
    }

    #[test]
    fn the_source_with_the_better_record_guesses() {
        let mut drafts = drafter("previous+trigram", 1);
        for _ in 0..4 {
            drafts.begin().extend([1, 0, 0]);
            let mut taken = Vec::new();
            for token in [1, 2, 3] {
                taken.push(token);
                drafts.took(&taken);
            }
        }
        assert_eq!(drafts.guess(&[1, 2]), 3, "the chunk before was always wrong about the third");
        drafts.reset();
        assert_eq!(drafts.guess(&[1, 2]), 2, "nothing is known: the token before is repeated");
    }

    #[test]
    fn the_shallow_half_guesses_until_another_source_has_the_better_record() {
        let mut drafts = drafter("previous+shallow", 1);
        drafts.begin().extend([1, 2]);
        assert_eq!(drafts.guess_beside(&[1], 9), 9, "nothing is known of either");
        for _ in 0..4 {
            drafts.judge_shallow(false);
            drafts.took(&[1, 2]);
        }
        assert_eq!(drafts.guess_beside(&[1], 9), 2);
        drafts.reset();
        drafts.begin().extend([1, 2]);
        assert_eq!(drafts.guess_beside(&[1], 9), 9);
        // Answers of the pass before as well.
        let mut drafts = drafter("jacobi+shallow", 1);
        for guess in [9, 2] {
            drafts.begin();
            drafts.answered(1, 2);
            assert_eq!(drafts.guess_beside(&[1], 9), guess);
            drafts.judge_shallow(false);
            drafts.took(&[1, 2]);
        }
    }

    #[test]
    fn what_was_learned_beforehand_outlives_a_reset_and_what_was_not_does_not() {
        let mut seeded = Trigrams::default();
        seeded.learn_chunk(&[1, 2, 3], 1);
        let mut drafts = Drafter::new("trigram".parse().unwrap(), 8, 1, seeded);
        assert_eq!(drafts.guess(&[1, 2]), 3);
        for _ in 0..2 {
            drafts.took(&[1, 2, 4]);
        }
        assert_eq!(drafts.guess(&[1, 2]), 4, "seen on the robot");
        drafts.reset();
        assert_eq!(drafts.guess(&[1, 2]), 3);
    }

    #[test]
    fn time_major_tokens_repeat_their_dimension() {
        let drafts = drafter("jacobi", 2);
        assert_eq!(drafts.guess(&[10, 20]), 10);
        assert_eq!(drafts.guess(&[10, 20, 11]), 20);
    }
}
