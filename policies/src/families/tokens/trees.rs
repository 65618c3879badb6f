//! Rounds whose guesses are a tree: the most valuable ones, or several that were drawn at the same place.

use super::halves::Halves;
use super::{Answer, Anytime, TokenPolicy, answer};
use crate::bundle::Strategy;
use crate::decoding::{Growth, probabilities};
use crate::observation::Meter;
use crate::policy::PolicyError;
use endplate_tokenizers::Progress;

/// A guess that the shallow half has run; the first is the last token taken.
struct Node {
    parent: usize,
    token: u32,
    /// The chance that it and all before it are right.
    product: f64,
    /// What was guessed behind it, once for each time.
    guesses: Vec<u32>,
    /// What they were drawn from; empty where they were certain to be made.
    drawn_from: Vec<f64>,
}

/// The guesses of a round.
#[derive(Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    growth: Growth,
    path: Vec<usize>,
}

impl Tree {
    fn begin(&mut self, token: u32) {
        self.nodes.clear();
        self.growth.begin();
        self.push(0, token, 1.0);
    }

    fn push(&mut self, parent: usize, token: u32, product: f64) {
        self.nodes.push(Node { parent, token, product, guesses: Vec::new(), drawn_from: Vec::new() });
    }

    pub(super) fn path(&self) -> &[usize] {
        &self.path
    }

    /// The node that says `token` behind `node`.
    fn child(&self, node: usize, token: u32) -> Option<usize> {
        (node + 1..self.nodes.len()).find(|at| self.nodes[*at].parent == node && self.nodes[*at].token == token)
    }
}

impl<T: Anytime + Clone> TokenPolicy<T> {
    /// Grows a tree while a node adds more than `threshold` tokens to what is to be expected, and follows the answers in it.
    pub(super) fn draft_tree(
        &mut self,
        halves: &mut Halves,
        meter: &mut Meter<'_>,
        threshold: f64,
    ) -> Result<bool, PolicyError> {
        let taken = self.tokens.len();
        let most = halves.most(self.rules.max_tokens - taken);
        halves.tree.begin(self.tokens.last().copied().unwrap_or_default());
        let mut ahead = vec![self.tokenizer.clone()];
        self.run_node(halves, 0)?;
        loop {
            let node = halves.tree.nodes.len() - 1;
            let likely = self.likely(halves.split().shallow_logits()?, None, taken + node, 1.0)?;
            halves.tree.growth.add(node, halves.tree.nodes[node].product, &likely);
            let mut next = None;
            while next.is_none() && halves.split().stacked() < most {
                let Some(candidate) = halves.tree.growth.next(threshold) else { break };
                let mut behind = ahead[candidate.parent].clone();
                // Behind the end of a chunk there is nothing to guess, nor behind what the tokenizer cannot take.
                if matches!(behind.push(candidate.token), Ok(Progress::More { .. })) {
                    ahead.push(behind);
                    next = Some(candidate);
                }
            }
            let Some(candidate) = next else { break };
            halves.tree.push(candidate.parent, candidate.token, candidate.product);
            let node = halves.tree.nodes.len() - 1;
            self.run_node(halves, node)?;
        }
        self.follow(halves, meter, taken, |policy, halves, node| {
            let answer =
                answer(halves.split().deep_logits(node)?, &policy.rules, &policy.tokenizer, policy.tokens.len())?;
            let token = answer.token;
            let (over, _) = policy.take(answer, None)?;
            Ok((over, halves.tree.child(node, token)))
        })
    }

    /// Draws guesses, as many a place as the technique says, and follows what is accepted of them.
    pub(super) fn draft_drawn(&mut self, halves: &mut Halves, meter: &mut Meter<'_>) -> Result<bool, PolicyError> {
        let taken = self.tokens.len();
        let most = halves.most(self.rules.max_tokens - taken);
        let drafts = self.rules.decoding.drafts.unwrap_or(1) as usize;
        let levels = 1 + (most - 1) / drafts;
        halves.tree.begin(self.tokens.last().copied().unwrap_or_default());
        let mut ahead = vec![self.tokenizer.clone()];
        self.run_node(halves, 0)?;
        self.expect_behind(halves, &ahead, taken, 0)?;
        let mut ends = vec![Some(0); drafts];
        for level in 1..=levels {
            for end in &mut ends {
                let Some(node) = *end else { continue };
                let guess = self.draw_behind(halves, taken, level, node);
                halves.tree.nodes[node].guesses.push(guess);
                *end = halves.tree.child(node, guess);
                let mut behind = ahead[node].clone();
                let goes_on = level < levels && end.is_none();
                if goes_on && matches!(behind.push(guess), Ok(Progress::More { .. })) {
                    halves.tree.push(node, guess, 0.0);
                    ahead.push(behind);
                    let child = halves.tree.nodes.len() - 1;
                    self.run_node(halves, child)?;
                    self.expect_behind(halves, &ahead, taken + level, child)?;
                    *end = Some(child);
                }
            }
        }
        self.follow(halves, meter, taken, |policy, halves, node| {
            let index = policy.tokens.len();
            let logits = halves.split().deep_logits(node)?;
            let answer = answer(logits, &policy.rules, &policy.tokenizer, index)?;
            let wanted = policy.wanted(logits);
            let guessed = &halves.tree.nodes[node];
            let first = guessed.guesses.first().copied();
            let is_given = index < policy.forced.len();
            let (over, right) = match (&wanted, &mut policy.sampler, is_given || guessed.drawn_from.is_empty()) {
                (Some(wanted), Some(sampler), false) => {
                    let (token, right) = sampler.accept(wanted, &guessed.drawn_from, &guessed.guesses);
                    (policy.take(Answer { token, constrained: false }, None)?.0, right)
                }
                _ => policy.settle(answer, wanted.as_deref(), first)?,
            };
            if !is_given && !guessed.drawn_from.is_empty() {
                policy.drafter.judge_shallow(right);
            }
            let token = policy.tokens.last().copied().unwrap_or_default();
            Ok((over, halves.tree.child(node, token).filter(|_| right)))
        })
    }

    /// Runs a node of the tree through the shallow half.
    fn run_node(&self, halves: &mut Halves, node: usize) -> Result<(), PolicyError> {
        let Node { parent, token, .. } = halves.tree.nodes[node];
        let embedding = self.prefix.embedding(self.rules.action_offset as u32 + token);
        halves.run_shallow(embedding, parent, self.prefix.end_position() + self.tokens.len() - 1)
    }

    /// What the auxiliary head expects behind the node that ran last.
    fn expect_behind(&self, halves: &mut Halves, ahead: &[T], index: usize, node: usize) -> Result<(), PolicyError> {
        let temperature = self.rules.decoding.temperature.map_or(1.0, |thousandths| f64::from(thousandths) / 1e3);
        halves.tree.nodes[node].drawn_from =
            self.likely(halves.split().shallow_logits()?, Some(&ahead[node]), index, temperature)?;
        Ok(())
    }

    /// A guess behind a node: drawn from what the head expects there, or another source's where that has the better record.
    fn draw_behind(&mut self, halves: &mut Halves, taken: usize, level: usize, node: usize) -> u32 {
        let index = taken + level - 1;
        if let Some(given) = self.forced.get(index) {
            return *given;
        }
        let drawn_from = &halves.tree.nodes[node].drawn_from;
        let drawn = match &mut self.sampler {
            Some(sampler) if drawn_from.iter().any(|p| *p > 0.0) => sampler.draw(drawn_from),
            _ => 0,
        };
        if self.rules.decoding.drafts.is_some() {
            return drawn;
        }
        // One guess a place: the tree is a chain, and what was guessed stands for a moment as if it had been taken.
        self.tokens.extend(halves.tree.nodes[1..].iter().map(|node| node.token));
        let guess = self.drafter.guess_instead(&self.tokens);
        self.tokens.truncate(taken);
        match guess {
            None => drawn,
            Some(guess) => {
                halves.tree.nodes[node].drawn_from.clear();
                guess
            }
        }
    }

    /// Probabilities by the auxiliary head, where a tokenizer is given of what that can take next.
    fn likely(
        &self,
        logits: &[f32],
        ahead: Option<&T>,
        index: usize,
        temperature: f64,
    ) -> Result<Vec<f64>, PolicyError> {
        let logits = &logits[self.rules.action_offset..];
        if !logits.iter().all(|value| value.is_finite()) {
            return Err(PolicyError::NonFiniteLogits { token: index });
        }
        let is_free = self.rules.strategy != Strategy::GreedyConstrained;
        Ok(probabilities(logits, temperature, |id| is_free || ahead.is_none_or(|ahead| ahead.allows(id))))
    }

    /// Verifies a tree in one pass of the deep half and goes along it: `settle` takes the token behind a node and says whether
    /// the chunk is complete and which node said so.
    fn follow(
        &mut self,
        halves: &mut Halves,
        meter: &mut Meter<'_>,
        taken: usize,
        mut settle: impl FnMut(&mut Self, &Halves, usize) -> Result<(bool, Option<usize>), PolicyError>,
    ) -> Result<bool, PolicyError> {
        let cost = halves.cost();
        halves.run_deep()?;
        halves.tree.path.clear();
        let mut node = Some(0);
        let mut over = false;
        while let Some(at) = node.filter(|_| !over) {
            halves.tree.path.push(at);
            (over, node) = settle(self, halves, at)?;
        }
        halves.charge(meter, self.tokens.len() - taken, cost)?;
        if !over {
            halves.keep_path()?;
        }
        Ok(over)
    }
}
