//! Rounds of a decoder in two halves: guesses of the shallow half that the deep half verifies, and tokens that leave after it.

use super::trees::Tree;
use super::{Answer, Anytime, TokenPolicy, WallInstant, answer, most_likely};
use crate::action_space::ActionKind;
use crate::bundle::{FamilySpec, PolicySpec, SplitSpec, Strategy};
use crate::families::split::Split;
use crate::observation::Meter;
use crate::policy::PolicyError;
use core::time::Duration;
use endplate_tokenizers::Progress;

/// What the auxiliary head says of a token.
#[derive(Copy, Clone, Debug, PartialEq)]
struct Said {
    /// The likeliest.
    token: u32,
    /// Its probability less that of the next.
    confidence: f64,
    /// Whether it is judged by what the deep half says.
    counts: bool,
}

/// The halves of one policy and what goes with them.
pub(super) struct Halves {
    split: Split,
    spec: SplitSpec,
    /// Most rows of a round.
    most: usize,
    /// `[D]`, dimensions of time-major tokens that always go deep; else empty.
    guarded: Vec<bool>,
    said: Vec<Said>,
    /// The guesses of a round that are a tree.
    pub(super) tree: Tree,
    /// Rows that were right.
    path: Vec<usize>,
    /// Passes of this inference.
    pub(super) shallow: u32,
    pub(super) deep: u32,
    /// Tokens that left after the shallow half.
    pub(super) exited: u32,
    /// What the cost model charged for its rounds.
    pub(super) charged: Duration,
}

impl Halves {
    /// Rounds of at most `most` rows; 0 for as many as the deep half takes.
    pub(super) fn new(split: Split, declared: SplitSpec, most: u32, spec: &PolicySpec) -> Self {
        let most = if most == 0 { split.rows() } else { split.rows().min(most as usize) };
        let dims = spec.actions.dims().iter();
        let guarded = match spec.family {
            FamilySpec::Bins(_) => dims.map(|dim| dim.kind == ActionKind::Gripper).collect(),
            _ => Vec::new(),
        };
        let said = Vec::with_capacity(most);
        let charged = Duration::ZERO;
        let path = Vec::with_capacity(most);
        let tree = Tree::default();
        Self { split, spec: declared, most, guarded, said, tree, path, shallow: 0, deep: 0, exited: 0, charged }
    }

    /// A new inference begins.
    pub(super) fn begin(&mut self) {
        (self.shallow, self.deep, self.exited, self.charged) = (0, 0, 0, Duration::ZERO);
    }

    pub(super) fn split_mut(&mut self) -> &mut Split {
        &mut self.split
    }

    /// What a token at worst costs by the cost model: alone in its round, or with one that left before it.
    pub(super) fn worst_token(&self, leaves: bool) -> Duration {
        let SplitSpec { shallow, deep_one, deep, .. } = self.spec;
        if leaves {
            shallow + deep_one.max(deep / 2)
        } else {
            shallow * self.most as u32 + self.spec.deep_cost(self.most)
        }
    }

    /// Passes in full-stack equivalents, of `exit_layer` of `layers` in the shallow half.
    pub(super) fn passes(&self, exit_layer: usize, layers: usize) -> f64 {
        let share = exit_layer as f64 / layers as f64;
        f64::from(self.shallow) * share + f64::from(self.deep) * (1.0 - share)
    }

    fn is_guarded(&self, index: usize) -> bool {
        !self.guarded.is_empty() && self.guarded[index % self.guarded.len()]
    }

    /// Most rows of a round where so many tokens may still be generated.
    pub(super) fn most(&self, left: usize) -> usize {
        self.most.min(left)
    }

    pub(super) fn split(&self) -> &Split {
        &self.split
    }

    /// What the cost model charges for the passes of a round, the deep one included.
    pub(super) fn cost(&self) -> Duration {
        let rows = self.split.stacked();
        self.spec.shallow * rows as u32 + self.spec.deep_cost(rows)
    }

    pub(super) fn run_shallow(&mut self, embedding: &[f32], parent: usize, position: usize) -> Result<(), PolicyError> {
        self.shallow += 1;
        self.split.run_shallow(embedding, parent, position)
    }

    /// Takes the rows that were right; a chain's are its first.
    fn keep_first(&mut self, rows: usize) -> Result<(), PolicyError> {
        self.path.clear();
        self.path.extend(0..rows);
        self.split.keep(&self.path)
    }

    /// Takes the rows on the path through the tree.
    pub(super) fn keep_path(&mut self) -> Result<(), PolicyError> {
        self.split.keep(self.tree.path())
    }

    pub(super) fn run_deep(&mut self) -> Result<Duration, PolicyError> {
        self.split.run_deep()?;
        self.deep += 1;
        Ok(self.spec.deep_cost(self.split.stacked()))
    }

    pub(super) fn charge(&mut self, meter: &mut Meter<'_>, tokens: usize, cost: Duration) -> Result<(), PolicyError> {
        self.charged += cost;
        meter.charge_block(tokens as u32, cost)
    }
}

impl<T: Anytime + Clone> TokenPolicy<T> {
    /// One round. Says whether the chunk is complete.
    pub(super) fn round_in_halves(&mut self, meter: &mut Meter<'_>) -> Result<bool, PolicyError> {
        let Some(mut halves) = self.halves.take() else { return self.step(meter) };
        let began = WallInstant::now();
        let decoding = self.rules.decoding;
        let over =
            match (decoding.layer_exit, decoding.tree.filter(|_| !self.exact), self.sampler.is_some() && !self.exact) {
                (Some(_), ..) => self.leave_early(&mut halves, meter),
                (None, Some(threshold), _) => self.draft_tree(&mut halves, meter, f64::from(threshold) / 1e3),
                (None, None, true) => self.draft_drawn(&mut halves, meter),
                (None, None, false) => self.draft(&mut halves, meter),
            };
        self.in_blocks += began.elapsed();
        self.blocks += 1;
        self.halves = Some(halves);
        over
    }

    /// Runs the last of `self.tokens` through the shallow half.
    fn run_shallow(&self, halves: &mut Halves) -> Result<(), PolicyError> {
        let last = self.tokens.last().copied().unwrap_or_default();
        let embedding = self.prefix.embedding(self.rules.action_offset as u32 + last);
        let parent = halves.split.stacked().saturating_sub(1);
        halves.run_shallow(embedding, parent, self.prefix.end_position() + self.tokens.len() - 1)
    }

    /// Guesses one after the other, then one pass that verifies them all.
    fn draft(&mut self, halves: &mut Halves, meter: &mut Meter<'_>) -> Result<bool, PolicyError> {
        let taken = self.tokens.len();
        let guessed = self.guess_in_turn(halves, taken);
        self.guesses.clear();
        self.guesses.extend_from_slice(&self.tokens[taken..]);
        self.tokens.truncate(taken);
        guessed?;
        let (rows, cost) = (halves.split.stacked(), halves.cost());
        halves.run_deep()?;

        let (mut over, mut row) = (false, 0);
        while row < rows && !over {
            let answer = answer(halves.split.deep_logits(row)?, &self.rules, &self.tokenizer, taken + row)?;
            self.drafter.judge_shallow(halves.said[row].token == answer.token);
            let (complete, right) = self.take(answer, self.guesses.get(row).copied())?;
            over = complete;
            row += 1;
            if !right {
                break;
            }
        }
        halves.charge(meter, self.tokens.len() - taken, cost)?;
        if over {
            return Ok(true);
        }
        for behind in row..rows {
            let logits = halves.split.deep_logits(behind)?;
            let likely = most_likely(&logits[self.rules.action_offset..], None);
            self.drafter.answered(taken + behind, likely.unwrap_or_default());
        }
        halves.keep_first(row)?;
        Ok(false)
    }

    /// Guesses stand behind `taken` tokens as if they were taken, until there are enough or they make a chunk.
    fn guess_in_turn(&mut self, halves: &mut Halves, taken: usize) -> Result<(), PolicyError> {
        halves.said.clear();
        let most = halves.most(self.rules.max_tokens - taken);
        let mut ahead = self.tokenizer.clone();
        while halves.split.stacked() < most {
            self.run_shallow(halves)?;
            let index = self.tokens.len();
            let Answer { token, .. } = answer(halves.split.shallow_logits()?, &self.rules, &ahead, index)?;
            halves.said.push(Said { token, confidence: 0.0, counts: true });
            let guess =
                self.forced.get(index).copied().unwrap_or_else(|| self.drafter.guess_beside(&self.tokens, token));
            self.tokens.push(guess);
            if !matches!(ahead.push(guess), Ok(Progress::More { .. })) {
                break;
            }
        }
        Ok(())
    }

    /// Takes tokens of the auxiliary head as long as it is sure of them, then one of the deep half, which catches up with
    /// those. At most as many leave as the deep half can catch up with in a pass.
    fn leave_early(&mut self, halves: &mut Halves, meter: &mut Meter<'_>) -> Result<bool, PolicyError> {
        halves.said.clear();
        loop {
            self.run_shallow(halves)?;
            let index = self.tokens.len();
            let is_given = index < self.forced.len();
            let said = self.said(halves, index, is_given)?;
            halves.said.push(said);
            let leaves = is_given || (!self.exact && said.counts && self.exits.fires(said.confidence));
            if !(leaves && halves.split.has_room()) {
                break;
            }
            halves.exited += u32::from(!is_given);
            let (over, _) = self.take(Answer { token: said.token, constrained: false }, None)?;
            halves.charge(meter, 1, halves.spec.shallow)?;
            if over {
                return Ok(true);
            }
        }
        let cost = halves.spec.shallow + halves.run_deep()?;
        for (row, said) in halves.said.iter().enumerate() {
            if said.counts {
                let likely = most_likely(&halves.split.deep_logits(row)?[self.rules.action_offset..], None);
                self.exits.learn(said.confidence, likely == Some(said.token));
            }
        }
        let rows = halves.split.stacked();
        let answer = answer(halves.split.deep_logits(rows - 1)?, &self.rules, &self.tokenizer, self.tokens.len())?;
        let (over, _) = self.take(answer, None)?;
        halves.charge(meter, 1, cost)?;
        if !over {
            halves.keep_first(rows)?;
        }
        Ok(over)
    }

    /// What the auxiliary head says of token number `index`. A token that is given, one of a gripper, and one that the
    /// tokenizer cannot take never leave and teach nothing.
    fn said(&self, halves: &Halves, index: usize, is_given: bool) -> Result<Said, PolicyError> {
        let logits = &halves.split.shallow_logits()?[self.rules.action_offset..];
        if !logits.iter().all(|value| value.is_finite()) {
            return Err(PolicyError::NonFiniteLogits { token: index });
        }
        let (token, confidence) = confidence(logits);
        let is_allowed = self.rules.strategy != Strategy::GreedyConstrained || self.tokenizer.allows(token);
        Ok(Said { token, confidence, counts: !is_given && is_allowed && !halves.is_guarded(index) })
    }
}

/// The likeliest id, and its probability less that of the next.
fn confidence(logits: &[f32]) -> (u32, f64) {
    let first = most_likely(logits, None).unwrap_or_default();
    let next = most_likely(logits, Some(first)).map_or(f32::NEG_INFINITY, |id| logits[id as usize]);
    let most = f64::from(logits[first as usize]);
    let sum: f64 = logits.iter().map(|value| (f64::from(*value) - most).exp()).sum();
    (first, (1.0 - (f64::from(next) - most).exp()) / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_is_the_gap_between_the_two_likeliest() {
        // Probabilities 1/2, 1/4, 1/4.
        let (token, gap) = confidence(&[0.0, 2.0_f32.ln(), 0.0]);
        assert_eq!(token, 1);
        assert!((gap - 0.25).abs() < 1e-6);
        assert_eq!(confidence(&[1.0, 1.0]).1, 0.0);
        assert!((confidence(&[-3.0]).1 - 1.0).abs() < 1e-12, "nothing else can be said");
    }
}
