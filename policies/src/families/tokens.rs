//! Generation token by token, whatever the tokens mean: the body of every family that speaks in action tokens.
//!
//! Generated token `t` stands in slab row `S + t` at position `Nv + T + t`. Generation is greedy over the action ids
//! and ends when the tokenizer says that the chunk is exactly complete; no end token is needed or believed.

use core::time::Duration;

use endplate_tokenizers::{ActionTokenizer, Progress};

use super::decoder::Decoder;
use super::prefix::{Parts, Prefix};
use super::{Graphs, Inspect, Lap};
use crate::action_space::NormalisedRows;
use crate::bundle::{PolicySpec, Strategy, TokenSpec};
use crate::chunk::{ActionChunk, Stages};
use crate::engine::{Engine, EngineError};
use crate::load::LoadError;
use crate::observation::{Budget, Committed, Epoch, Meter, Observation};
use crate::policy::{OutputFault, Policy, PolicyError, Stage, StopReason};

/// A policy that generates action tokens of the tokenizer `T`.
pub(crate) struct TokenPolicy<T> {
    prefix: Prefix,
    rules: TokenSpec,
    tokenizer: T,
    /// How many ids an injected garbage sequence draws from.
    garbage_ids: u32,
    decode: Decoder,
    tokens: Vec<u32>,
    /// Of these, those that were not the most likely.
    constrained: u32,
    normalised: NormalisedRows,
    fault: OutputFault,
}

impl<T: ActionTokenizer> TokenPolicy<T> {
    /// Loads the graphs. `garbage_ids`: the ids that a model gone mad could name.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(crate) fn new(
        parts: Parts,
        rules: TokenSpec,
        tokenizer: T,
        garbage_ids: u32,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
    ) -> Result<Self, LoadError> {
        let m = parts.shape.model;
        let (horizon, dims) = (parts.spec.chunk.horizon, parts.spec.actions.dims().len());
        let prefix = Prefix::new(parts, engine, graphs, true)?;
        let decode = Decoder::load(engine, graphs, m, rules.slab)?;
        Ok(Self {
            decode,
            tokens: Vec::with_capacity(rules.max_tokens),
            constrained: 0,
            normalised: NormalisedRows::new(horizon, dims),
            fault: OutputFault::None,
            prefix,
            rules,
            tokenizer,
            garbage_ids,
        })
    }

    /// Runs generated token number `index` through the decoder.
    fn run_decode(&mut self, index: usize, token: u32) -> Result<(), PolicyError> {
        let row = self.prefix.embedding(self.rules.action_offset as u32 + token);
        self.decode.step(row, self.prefix.end_position() + index)
    }

    /// Generates until the chunk is complete.
    fn generate(&mut self, meter: &mut Meter<'_>) -> Result<(), PolicyError> {
        self.tokens.clear();
        self.constrained = 0;
        self.tokenizer.reset();
        loop {
            let index = self.tokens.len();
            let logits = if index == 0 { self.prefix.logits()? } else { self.decode.logits()? };
            let logits = &logits[self.rules.action_offset..];
            if !logits.iter().all(|value| value.is_finite()) {
                return Err(PolicyError::NonFiniteLogits { token: index });
            }
            let first = most_likely(logits, None);
            let mut chosen = first;
            if self.rules.strategy == Strategy::GreedyConstrained {
                while let Some(token) = chosen.filter(|token| !self.tokenizer.allows(*token)) {
                    chosen = most_likely(logits, Some(token));
                }
            }
            // No id at all can be taken when a character was begun that no id ends: the first is pushed and refused.
            let token = chosen.or(first).unwrap_or_default();
            self.constrained += u32::from(chosen != first);
            self.tokens.push(token);
            let progress = self.tokenizer.push(token)?;
            meter.charge(Stage::Decode)?;
            if progress == Progress::Complete || self.tokens.len() == self.rules.max_tokens {
                // An incomplete sequence is refused when it is decoded.
                return Ok(());
            }
            self.run_decode(index, token)?;
        }
    }

    /// Tokens to absolute rows, with the injected fault where a broken model would show it.
    fn decode_rows(&mut self, observation: &Observation<'_>, rows: &mut [f64]) -> Result<(), PolicyError> {
        let faulty: Option<Vec<u32>> = match self.fault {
            OutputFault::TokensGarbage => Some(garbage(self.garbage_ids, self.rules.max_tokens)),
            OutputFault::TokensTruncated => Some(self.tokens[..self.tokens.len() / 2].to_vec()),
            OutputFault::None | OutputFault::Nan | OutputFault::Inf | OutputFault::Huge => None,
        };
        match faulty {
            Some(ids) => self.tokenizer.decode(&ids, self.normalised.values_mut())?,
            None => self.tokenizer.finish(self.normalised.values_mut())?,
        }
        self.fault.strike(self.normalised.values_mut());
        self.prefix.spec().actions.to_absolute(&self.normalised, &observation.state.position_rad, rows)
    }
}

impl<T: ActionTokenizer + Send> Policy for TokenPolicy<T> {
    fn spec(&self) -> &PolicySpec {
        self.prefix.spec()
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        let mut meter = Meter::new(budget, self.spec().costs);
        let mut stages = Stages::default();
        let mut lap = Lap::start();
        self.prefix.observe(observation, chunk, &mut meter, &mut stages, &mut lap)?;

        self.decode.take_prefix(&self.prefix)?;
        self.generate(&mut meter)?;
        stages.decode = lap.take();
        stages.tokens = self.tokens.len() as u32;
        stages.constrained = self.constrained;
        stages.passes = self.tokens.len().saturating_sub(1) as f64;

        self.decode_rows(observation, chunk.rows_mut())?;
        stages.postprocess = lap.take();
        chunk.set(self.spec().chunk.row_period, observation.anchor, committed.epoch, None, stages);
        Ok(StopReason::Complete)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.prefix.prompt_ids(instruction, &vec![0; self.spec().state.len()]).map(drop)
    }

    fn reset(&mut self, _epoch: Epoch) {
        // Nothing links one inference to the next; the token count behind the cost model starts over.
        self.tokens.clear();
        self.decode.clear();
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        let costs = self.spec().costs;
        let tokens = if self.tokens.is_empty() { self.rules.max_tokens } else { self.tokens.len() };
        costs.vision + costs.prefill + costs.step * tokens as u32
    }

    fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

impl<T: ActionTokenizer + Send> Inspect for TokenPolicy<T> {
    fn text_ids(&self) -> &[u32] {
        self.prefix.text_ids()
    }

    fn first(&self) -> Result<&[f32], EngineError> {
        self.prefix.visual()
    }

    fn head(&self) -> Result<&[f32], EngineError> {
        self.prefix.logits()
    }
}

/// The id with the largest logit, or of those that rank behind `after`; the smaller id ranks first of equals.
fn most_likely(logits: &[f32], after: Option<u32>) -> Option<u32> {
    let behind = |id: usize, value: f32| match after {
        None => true,
        Some(last) => {
            let limit = logits[last as usize];
            value < limit || (value == limit && id > last as usize)
        }
    };
    let mut best: Option<usize> = None;
    for (id, &value) in logits.iter().enumerate() {
        if behind(id, value) && best.is_none_or(|best| value > logits[best]) {
            best = Some(id);
        }
    }
    best.map(|id| id as u32)
}

/// A fixed sequence of ids no policy meant (a linear congruential generator, Numerical Recipes' constants).
fn garbage(vocabulary: u32, count: usize) -> Vec<u32> {
    let mut state = 1u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % vocabulary
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_ranked_by_logit_then_by_id() {
        let logits = [0.0, 3.0, -1.0, 3.0];
        let mut ranked = Vec::new();
        let mut last = None;
        while let Some(id) = most_likely(&logits, last) {
            ranked.push(id);
            last = Some(id);
        }
        assert_eq!(ranked, [1, 3, 0, 2]);
    }

    #[test]
    fn garbage_is_the_same_every_time_and_inside_the_vocabulary() {
        let ids = garbage(1024, 48);
        assert_eq!(ids, garbage(1024, 48));
        assert!(ids.iter().all(|id| *id < 1024));
    }
}
