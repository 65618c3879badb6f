//! Generation token by token, whatever the tokens mean: the body of every family that speaks in action tokens.
//!
//! Generated token `t` stands in slab row `S + t` at position `Nv + T + t`. Generation is greedy over the action ids
//! and ends when the tokenizer says that the chunk is exactly complete; no end token is needed or believed. A pass
//! takes one token, or verifies a block of guesses ([`decoding`](crate::decoding)). Where time is running out, blocks give
//! way to single tokens, whose cost is known, and where it is up a family that can be cut off is ([`Anytime`]).

mod halves;
mod trees;

use core::time::Duration;
use std::time::Instant as WallInstant;

use endplate_tokenizers::{ActionTokenizer, BinCodec, DecodeError, FastCodec, Progress};

use super::answer::Answer as Whole;
use super::decoder::{Decoder, OnRows, row_contracts};
use super::prefix::{Ask, Parts, Prefix};
use super::split::Split;
use super::{Graphs, Inspect, Lap};
use crate::action_space::{ActionKind, NormalisedRows};
use crate::bundle::{FamilySpec, PolicySpec, Strategy, TokenSpec};
use crate::chunk::{ActionChunk, Stages};
use crate::decoding::{Acceptance, Drafter, ExitGate, Sampler, Trigrams};
use crate::engine::{Engine, EngineError};
use crate::load::LoadError;
use crate::observation::{Budget, Committed, Continuation, Epoch, Meter, Observation};
use crate::planner::{Plan, Work};
use crate::policy::{OutputFault, Policy, PolicyError, Stage, StopReason};
use crate::thresholds::TRIGRAMS_FILE;
use halves::Halves;

/// An action tokenizer whose beginnings may say something.
pub(crate) trait Anytime: ActionTokenizer {
    /// Writes what the ids pushed so far say, `[H, D]`, and gives the largest possible error, normalised units. Cuts nothing
    /// off unless it says so.
    ///
    /// # Errors
    /// [`DecodeError::WrongLength`] where a beginning says nothing, as by default; else as when it is whole.
    fn finish_beginning(&mut self, _out: &mut [f64]) -> Result<f64, DecodeError> {
        Err(DecodeError::WrongLength { needed: self.horizon() * self.dims(), got: self.coefficients() })
    }
}

impl Anytime for BinCodec {}

impl Anytime for FastCodec {
    fn finish_beginning(&mut self, out: &mut [f64]) -> Result<f64, DecodeError> {
        // The bound decides what is enough, not the share.
        Ok(self.finish_anytime(out, 0.0)?.error_bound)
    }
}

impl<T: Anytime> Anytime for Whole<T> {
    fn finish_beginning(&mut self, out: &mut [f64]) -> Result<f64, DecodeError> {
        self.action_mut()?.finish_beginning(out)
    }
}

/// A policy that generates action tokens of the tokenizer `T`.
pub(crate) struct TokenPolicy<T> {
    prefix: Prefix,
    rules: TokenSpec,
    tokenizer: T,
    /// How many ids an injected garbage sequence draws from.
    garbage_ids: u32,
    /// One token a pass.
    decode: Decoder,
    /// A block of guesses a pass, for a technique that guesses.
    block: Option<Decoder>,
    /// The decoder in two halves, for a technique that uses the auxiliary head.
    halves: Option<Halves>,
    plan: Plan,
    /// The largest error bound that a chunk cut off at the deadline may have.
    anytime_bound: Option<f64>,
    tokens: Vec<u32>,
    guesses: Vec<u32>,
    /// Tokens of the rows that are given, which decoding goes on from; empty for none.
    forced: Vec<u32>,
    drafter: Drafter,
    acceptance: Acceptance,
    exits: ExitGate,
    /// Draws tokens, where they are not the likeliest.
    sampler: Option<Sampler>,
    /// The epoch that the gate has learned and the sampler has drawn in.
    epoch: Epoch,
    /// The chunk that guesses are made from, if one was answered in this epoch.
    last: Option<ActionChunk>,
    /// Whether guesses are only taken when they are right, whatever the bundle says.
    exact: bool,
    passes: u32,
    /// Of these, passes that verified a block, and beside them rounds of the halves; and the time of both.
    blocks: u32,
    in_blocks: Duration,
    /// Of the tokens, those that were not the most likely.
    constrained: u32,
    normalised: NormalisedRows,
    fault: OutputFault,
}

impl<T: Anytime + Clone> TokenPolicy<T> {
    /// Loads the graphs. `garbage_ids`: the ids that a model gone mad could name; `row`: tokens of a row of time-major
    /// tokens, else 1.
    ///
    /// # Errors
    /// [`LoadError`] naming the graph and the tensor.
    pub(crate) fn new(
        parts: Parts,
        rules: TokenSpec,
        tokenizer: T,
        garbage_ids: u32,
        row: usize,
        engine: &dyn Engine,
        graphs: &Graphs<'_>,
    ) -> Result<Self, LoadError> {
        let m = parts.shape.model;
        let (horizon, dims) = (parts.spec.chunk.horizon, parts.spec.actions.dims().len());
        let decoding = rules.decoding;
        let rows = rules.block.filter(|_| decoding.is_in_blocks()).map(|block| block.rows);
        let (prefix, decode, block) = match row_contracts(&rules, rows) {
            None => {
                let prefix = Prefix::new(parts, engine, graphs, true)?;
                let decode = Decoder::load(engine, graphs, m, 1, rules.slab)?;
                let block = rows.map(|rows| Decoder::load(engine, graphs, m, rows, rules.slab)).transpose()?;
                (prefix, decode, block)
            }
            Some(contracts) => {
                let OnRows { one, block, prefill } = OnRows::load(engine, graphs, &rules, rows, &contracts)?;
                // Visual tokens are left out by graphs of their own.
                let prefix = match prefill.filter(|_| parts.spec.pruning.is_off()) {
                    Some(prefill) => Prefix::on(parts, engine, graphs, prefill)?,
                    None => Prefix::new(parts, engine, graphs, true)?,
                };
                (prefix, one, block)
            }
        };
        let halves = match rules.split.filter(|_| decoding.is_split()) {
            None => None,
            Some(declared) => {
                let split = Split::load(engine, graphs, m, declared, rules.exit_layer, rules.slab)?;
                Some(Halves::new(split, declared, decoding.shallow.unwrap_or(0), prefix.spec()))
            }
        };
        let rows = rows.or(halves.as_ref().and(rules.split).map(|split| split.rows)).unwrap_or(1);
        let seeded = match graphs.optional(TRIGRAMS_FILE).filter(|_| rules.decoding.trigram) {
            None => Trigrams::default(),
            Some(bytes) => Trigrams::from_bytes(bytes)
                .map_err(|error| LoadError::Tokenizer { file: TRIGRAMS_FILE, message: error.to_string() })?,
        };
        let fitted = prefix.spec().thresholds.as_ref().and_then(|fitted| fitted.anytime.as_ref());
        let grippers = prefix.spec().actions.dims().iter().map(|dim| dim.kind == ActionKind::Gripper).collect();
        Ok(Self {
            decode,
            block,
            halves,
            exits: ExitGate::new(decoding.layer_exit),
            sampler: decoding.temperature.map(|thousandths| Sampler::new(f64::from(thousandths) / 1e3)),
            epoch: Epoch::default(),
            plan: Plan::UNLIMITED,
            anytime_bound: fitted.map(|anytime| anytime.bound),
            guesses: Vec::with_capacity(rows),
            forced: Vec::with_capacity(rules.max_tokens),
            drafter: Drafter::new(rules.decoding, rules.max_tokens, row, seeded),
            acceptance: rules
                .decoding
                .bin_distance
                .map_or_else(Acceptance::default, |radius| Acceptance::within(radius, grippers)),
            last: None,
            exact: false,
            passes: 0,
            blocks: 0,
            in_blocks: Duration::ZERO,
            tokens: Vec::with_capacity(rules.max_tokens + rows),
            constrained: 0,
            normalised: NormalisedRows::new(horizon, dims),
            fault: OutputFault::None,
            prefix,
            rules,
            tokenizer,
            garbage_ids,
        })
    }

    /// Turns what was answered before into guesses: its rows from this observation's anchor on, seen from its state.
    fn begin_guesses(&mut self, observation: &Observation<'_>, epoch: Epoch) {
        if self.last.as_ref().is_some_and(|last| last.epoch() != epoch) {
            self.forget();
        }
        let previous = self.drafter.begin();
        let Some(last) = self.last.as_ref().filter(|_| self.rules.decoding.previous) else { return };
        let passed = observation.anchor.motion.seconds_since(last.anchor().motion).max(0.0);
        let shift = passed / last.period().as_secs_f64();
        let dims = last.dims();
        let mut rows = vec![0.0; last.rows().len()];
        for (index, row) in rows.chunks_exact_mut(dims).enumerate() {
            last.row_at(index as f64 + shift, row);
        }
        let values: Vec<f64> = self.prefix.spec().actions.normalised(&rows, &observation.state.position_rad).collect();
        // A chunk that cannot be said in tokens from here is no guess: `encode` leaves none, and nothing is lost.
        let _ = self.tokenizer.encode(&values, previous);
    }

    /// Turns the rows that are given into tokens; a value outside the policy's range is told as its edge, as in training.
    /// Families whose tokens are time-major only.
    fn force(&mut self, observation: &Observation<'_>, committed: &Committed<'_>) {
        self.forced.clear();
        let spec = self.prefix.spec();
        let (horizon, dims) = (spec.chunk.horizon, spec.actions.dims().len());
        let given = committed.delay_rows.min(committed.rows.len() / dims).min(horizon);
        if committed.continuation != Continuation::Prefix || given == 0 {
            return;
        }
        let given = &committed.rows[..given * dims];
        let values = self.normalised.values_mut();
        values.fill(0.0);
        for (slot, value) in values.iter_mut().zip(spec.actions.normalised(given, &observation.state.position_rad)) {
            *slot = value;
        }
        // Only a value that is not finite cannot be told: then nothing is given, and nothing is taken over below.
        if self.tokenizer.encode(values, &mut self.forced).is_ok() {
            self.forced.truncate(given.len());
        } else {
            self.forced.clear();
        }
    }

    /// The likeliest token behind those taken.
    fn guess(&self) -> u32 {
        let forced = self.forced.get(self.tokens.len()).copied();
        forced.unwrap_or_else(|| self.drafter.guess(&self.tokens))
    }

    /// A new epoch: what was learned is forgotten and what is drawn starts over.
    fn enter(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.exits.reset();
        if let Some(sampler) = &mut self.sampler {
            sampler.reset(epoch);
        }
    }

    /// How tokens are to be distributed by `logits`, `[V]`, with the tokenizer where they go; `None` where the likeliest is
    /// taken, or nothing can be.
    fn wanted(&self, logits: &[f32]) -> Option<Vec<f64>> {
        let sampler = self.sampler.as_ref().filter(|_| !self.exact)?;
        let is_free = self.rules.strategy != Strategy::GreedyConstrained;
        let logits = &logits[self.rules.action_offset..];
        let p = sampler.probabilities(logits, |id| is_free || self.tokenizer.allows(id));
        p.iter().any(|p| *p > 0.0).then_some(p)
    }

    /// Takes the answer to token number `self.tokens.len()`, or what is drawn from `wanted` in its place, or its guess where
    /// that is as good. Says the same as [`take`](Self::take).
    fn settle(
        &mut self,
        answer: Answer,
        wanted: Option<&[f64]>,
        guess: Option<u32>,
    ) -> Result<(bool, bool), PolicyError> {
        let is_given = self.tokens.len() < self.forced.len();
        let (Some(wanted), Some(sampler), false) = (wanted, &mut self.sampler, is_given) else {
            return self.take(answer, guess);
        };
        let (token, right) = match guess {
            Some(guess) => sampler.accept_certain(wanted, guess),
            None => (sampler.draw(wanted), false),
        };
        let (over, _) = self.take(Answer { token, constrained: false }, None)?;
        Ok((over, right))
    }

    fn forget(&mut self) {
        self.last = None;
        self.drafter.reset();
    }

    /// Takes the answer to token number `self.tokens.len()` or its guess. Says whether the chunk is complete or as long
    /// as it may be, and whether the guess was right.
    fn take(&mut self, answer: Answer, guess: Option<u32>) -> Result<(bool, bool), PolicyError> {
        let index = self.tokens.len();
        let forced = self.forced.get(index).copied();
        let guess = guess.filter(|guess| {
            forced.is_some()
                || *guess == answer.token
                || (!self.exact && self.acceptance.takes(index, *guess, answer.token))
        });
        let token = forced.or(guess).unwrap_or(answer.token);
        self.constrained += u32::from(answer.constrained && forced.is_none());
        self.tokens.push(token);
        self.drafter.took(&self.tokens);
        let progress = self.tokenizer.push(token)?;
        // An incomplete sequence is refused when it is decoded.
        let over = progress == Progress::Complete || self.tokens.len() == self.rules.max_tokens;
        Ok((over, guess.is_some()))
    }

    /// Generates until the chunk is complete.
    fn generate(&mut self, meter: &mut Meter<'_>) -> Result<StopReason, PolicyError> {
        self.tokens.clear();
        self.constrained = 0;
        self.passes = 0;
        self.blocks = 0;
        self.in_blocks = Duration::ZERO;
        if let Some(halves) = &mut self.halves {
            halves.begin();
        }
        self.tokenizer.reset();
        let logits = self.prefix.logits()?;
        let first = answer(logits, &self.rules, &self.tokenizer, 0)?;
        let wanted = self.wanted(logits);
        let (mut over, _) = self.settle(first, wanted.as_deref(), None)?;
        meter.charge(Stage::Decode)?;
        let mut drafts = self.drafts();
        while !over {
            let left = meter.left();
            if drafts && self.rules.decoding.early_exit.is_none_or(|_| self.exact) {
                let rest = (self.rules.max_tokens - self.tokens.len()) as u32;
                if !self.plan.affords_block(left, rest) {
                    self.give_up_drafts()?;
                    drafts = false;
                }
            }
            if self.anytime_bound.is_some() && !self.plan.affords_pass(left, drafts) {
                return Ok(StopReason::Deadline);
            }
            if drafts && self.rules.decoding.early_exit.is_some_and(|most| !self.exact && self.passes == most) {
                while !over {
                    let token = self.guess();
                    (over, _) = self.take(Answer { token, constrained: false }, None)?;
                }
                return Ok(StopReason::EarlyExit);
            }
            over = match (drafts, self.halves.is_some()) {
                (false, _) => self.step(meter)?,
                (true, false) => self.verify(meter)?,
                (true, true) => self.round_in_halves(meter)?,
            };
        }
        Ok(StopReason::Complete)
    }

    /// Whether this inference verifies blocks.
    fn drafts(&self) -> bool {
        (self.block.is_some() || self.halves.is_some()) && self.plan.drafts
    }

    /// The rest is generated one by one.
    fn give_up_drafts(&mut self) -> Result<(), PolicyError> {
        match (&mut self.block, &mut self.halves) {
            (Some(block), _) => self.decode.take_over(block, self.prefix.padding()),
            (None, Some(halves)) => self.decode.take_over(halves.split_mut(), self.prefix.padding()),
            (None, None) => Ok(()),
        }
    }

    /// One pass of one token. Says whether the chunk is complete.
    fn step(&mut self, meter: &mut Meter<'_>) -> Result<bool, PolicyError> {
        let taken = self.tokens.len();
        let last = self.tokens.last().copied().unwrap_or_default();
        let embedding = self.prefix.embedding(self.rules.action_offset as u32 + last);
        self.decode.run(core::iter::once(embedding), self.prefix.end_position() + taken - 1)?;
        self.passes += 1;
        let logits = self.decode.logits()?;
        let answer = answer(logits, &self.rules, &self.tokenizer, taken)?;
        let wanted = self.wanted(logits);
        let (over, _) = self.settle(answer, wanted.as_deref(), None)?;
        meter.charge(Stage::Decode)?;
        if !over {
            self.decode.keep(1)?;
        }
        Ok(over)
    }

    /// One pass: the last token taken and guesses behind it. Says whether the chunk is complete.
    fn verify(&mut self, meter: &mut Meter<'_>) -> Result<bool, PolicyError> {
        let Some(mut decode) = self.block.take() else { return self.step(meter) };
        let began = WallInstant::now();
        let over = self.verify_on(&mut decode, meter);
        self.in_blocks += began.elapsed();
        self.block = Some(decode);
        over
    }

    fn verify_on(&mut self, decode: &mut Decoder, meter: &mut Meter<'_>) -> Result<bool, PolicyError> {
        let (taken, rows) = (self.tokens.len(), decode.rows());
        // Guesses build on guesses, so for a moment they stand as if they were taken.
        while self.tokens.len() < taken + rows - 1 {
            let guess = self.guess();
            self.tokens.push(guess);
        }
        self.guesses.clear();
        self.guesses.extend_from_slice(&self.tokens[taken..]);
        let offset = self.rules.action_offset as u32;
        let prefix = &self.prefix;
        let embeddings = self.tokens[taken - 1..].iter().map(|token| prefix.embedding(offset + token));
        decode.run(embeddings, prefix.end_position() + taken - 1)?;
        self.tokens.truncate(taken);
        self.passes += 1;
        self.blocks += 1;

        let (mut over, mut row) = (false, 0);
        while row < rows && !over {
            let logits = row_of(decode.logits()?, row, rows);
            let answer = answer(logits, &self.rules, &self.tokenizer, taken + row)?;
            let wanted = self.wanted(logits);
            let (complete, right) = self.settle(answer, wanted.as_deref(), self.guesses.get(row).copied())?;
            over = complete;
            row += 1;
            if !right {
                break;
            }
        }
        let cost = self.rules.block.map_or(Duration::ZERO, |block| block.cost);
        meter.charge_block((self.tokens.len() - taken) as u32, cost)?;
        if over {
            return Ok(true);
        }
        decode.keep(row)?;
        for behind in row..rows {
            let logits = row_of(decode.logits()?, behind, rows);
            let likely = most_likely(&logits[self.rules.action_offset..], None);
            self.drafter.answered(taken + behind, likely.unwrap_or_default());
        }
        Ok(false)
    }

    /// Tokens to absolute rows, with the injected fault where a broken model would show it.
    /// Tokens cut off at the deadline give their error bound.
    fn decode_rows(
        &mut self,
        stop: StopReason,
        observation: &Observation<'_>,
        rows: &mut [f64],
    ) -> Result<Option<f64>, PolicyError> {
        let faulty: Option<Vec<u32>> = match self.fault {
            OutputFault::TokensGarbage => Some(garbage(self.garbage_ids, self.rules.max_tokens)),
            OutputFault::TokensTruncated => Some(self.tokens[..self.tokens.len() / 2].to_vec()),
            OutputFault::None | OutputFault::Nan | OutputFault::Inf | OutputFault::Huge => None,
        };
        let mut error_bound = None;
        match (faulty, self.anytime_bound.filter(|_| stop == StopReason::Deadline)) {
            (Some(ids), _) => self.tokenizer.decode(&ids, self.normalised.values_mut())?,
            (None, None) => self.tokenizer.finish(self.normalised.values_mut())?,
            (None, Some(limit)) => {
                let bound = self.tokenizer.finish_beginning(self.normalised.values_mut())?;
                if bound > limit {
                    return Err(PolicyError::TooVague { tokens: self.tokens.len() as u32, bound, limit });
                }
                error_bound = Some(bound);
            }
        }
        self.fault.strike(self.normalised.values_mut());
        self.prefix.spec().actions.to_absolute(&self.normalised, &observation.state.position_rad, rows)?;
        Ok(error_bound)
    }
}

impl<T: Anytime + Clone + Send> Policy for TokenPolicy<T> {
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
        let ask = Ask { epoch: committed.epoch, visual: self.plan.visual };
        self.prefix.observe(observation, chunk, ask, &mut meter, &mut stages, &mut lap)?;

        match (self.plan.drafts, &mut self.block, &mut self.halves) {
            (true, Some(block), _) => block.take_prefix(&self.prefix)?,
            (true, None, Some(halves)) => halves.split_mut().take_prefix(&self.prefix)?,
            _ => self.decode.take_prefix(&self.prefix)?,
        }
        if self.epoch != committed.epoch {
            self.enter(committed.epoch);
        }
        self.exits.refit();
        if !self.rules.decoding.is_plain() {
            self.begin_guesses(observation, committed.epoch);
        }
        self.force(observation, committed);
        let stop = self.generate(&mut meter)?;
        stages.decode = lap.take();
        stages.tokens = self.tokens.len() as u32;
        stages.constrained = self.constrained;
        stages.passes = f64::from(self.passes);
        stages.blocks = self.blocks;
        stages.passes_in_blocks = f64::from(self.blocks);
        if let Some(halves) = &self.halves {
            stages.passes_in_blocks = halves.passes(self.rules.exit_layer, self.prefix.model().layers);
            stages.passes += stages.passes_in_blocks;
            (stages.shallow, stages.deep, stages.exited) = (halves.shallow, halves.deep, halves.exited);
        }
        stages.in_blocks = self.in_blocks;

        let error_bound = self.decode_rows(stop, observation, chunk.rows_mut())?;
        // The rows themselves, rather than the middles of their bins.
        let given = self.forced.len();
        if self.fault == OutputFault::None {
            chunk.rows_mut()[..given].copy_from_slice(&committed.rows[..given]);
        }
        stages.postprocess = lap.take();
        chunk.set(self.spec().chunk.row_period, observation.anchor, committed.epoch, error_bound, stages);
        if self.rules.decoding.previous {
            match &mut self.last {
                Some(last) => last.copy_from(chunk),
                None => self.last = Some(chunk.clone()),
            }
        }
        Ok(stop)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.prefix.prompt_ids(instruction, &vec![0; self.spec().state.len()]).map(drop)
    }

    fn reset(&mut self, epoch: Epoch) {
        // Guesses link one inference to the next, and the token count behind the cost model.
        self.forget();
        self.prefix.forget();
        self.enter(epoch);
        self.tokens.clear();
        self.decode.clear();
        if let Some(block) = &mut self.block {
            block.clear();
        }
        if let Some(halves) = &mut self.halves {
            halves.split_mut().clear();
        }
    }

    fn inject(&mut self, fault: OutputFault) {
        self.fault = fault;
    }

    fn modelled_cost(&self) -> Duration {
        let costs = self.spec().costs;
        let tokens = if self.tokens.is_empty() { self.rules.max_tokens } else { self.tokens.len() };
        let before = costs.vision + self.prefix.cost();
        if let Some(halves) = self.halves.as_ref().filter(|_| self.drafts()) {
            let leaves = self.rules.decoding.layer_exit.is_some();
            return before
                + costs.step
                + if self.tokens.is_empty() {
                    halves.worst_token(leaves) * (tokens as u32 - 1)
                } else {
                    costs.step * self.passes + halves.charged
                };
        }
        match self.rules.block.filter(|_| self.drafts()) {
            None => before + costs.step * tokens as u32,
            // At worst every guess is wrong and a pass takes one token.
            Some(block) if self.tokens.is_empty() => before + costs.step + block.cost * (tokens as u32 - 1),
            Some(block) => before + costs.step * (1 + self.passes - self.blocks) + block.cost * self.blocks,
        }
    }

    fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn work(&self) -> Work {
        let decoding = self.rules.decoding;
        Work::Tokens {
            most: self.rules.max_tokens as u32 - 1,
            is_fixed: !matches!(self.spec().family, FamilySpec::Pi0Fast(_)),
            drafts: self.block.is_some() || self.halves.is_some(),
            is_planned: decoding.planned,
            exit: decoding.early_exit,
            anytime: self.anytime_bound.is_some(),
        }
    }

    fn prepare(&mut self, observation: &Observation<'_>, _budget: Budget<'_>) {
        self.prefix.prepare(observation);
    }

    fn set_plan(&mut self, plan: Plan) {
        self.plan = plan;
    }
}

impl<T: Anytime + Clone + Send> Inspect for TokenPolicy<T> {
    fn set_exact(&mut self, exact: bool) {
        self.exact = exact;
    }

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

/// What the model says a token is.
struct Answer {
    token: u32,
    /// Whether it is not the most likely id, because the tokenizer could not take that.
    constrained: bool,
}

/// The answer in `logits`, `[V]`, to token number `index`, with the tokenizer where that token goes.
fn answer(
    logits: &[f32],
    rules: &TokenSpec,
    tokenizer: &impl ActionTokenizer,
    index: usize,
) -> Result<Answer, PolicyError> {
    let logits = &logits[rules.action_offset..];
    if !logits.iter().all(|value| value.is_finite()) {
        return Err(PolicyError::NonFiniteLogits { token: index });
    }
    let first = most_likely(logits, None);
    let mut chosen = first;
    if rules.strategy == Strategy::GreedyConstrained {
        while let Some(token) = chosen.filter(|token| !tokenizer.allows(*token)) {
            chosen = most_likely(logits, Some(token));
        }
    }
    // No id at all can be taken when a character was begun that no id ends: the first is pushed and refused.
    Ok(Answer { token: chosen.or(first).unwrap_or_default(), constrained: chosen != first })
}

fn row_of(logits: &[f32], row: usize, rows: usize) -> &[f32] {
    let width = logits.len() / rows;
    &logits[row * width..(row + 1) * width]
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
