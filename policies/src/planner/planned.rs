//! A policy whose inferences are planned.

use core::time::Duration;

use super::{CostWindows, Demand, Impossible, Plan, StageCosts, Visual, Work, check_budget, plan};
use crate::bundle::PolicySpec;
use crate::chunk::{ActionChunk, Stages};
use crate::observation::{Budget, Committed, Epoch, Observation};
use crate::policy::{OutputFault, Policy, PolicyError, StopReason};
use crate::pruning::Bucket;

/// How much a new answer counts in what is expected of the next.
const NEW: f64 = 0.1;

/// Plans before every inference of the policy inside and learns from its answer.
pub(crate) struct Planned {
    inner: Box<dyn Policy>,
    work: Work,
    modelled: StageCosts,
    measured: CostWindows,
    /// What is expected of the first inference of an epoch.
    first: Demand,
    demand: Demand,
    unprobed: u32,
    /// Where visual tokens are left out.
    visual: Option<Visual>,
    /// For the next inference, instead of a planned one.
    given: Option<Plan>,
}

impl Planned {
    /// `replayed`: what the golden samples took.
    pub(crate) fn new(inner: Box<dyn Policy>, replayed: &[Stages]) -> Self {
        let work = inner.work();
        let modelled = StageCosts::modelled(inner.spec());
        let mut measured = CostWindows::new();
        let mut first = match work {
            Work::Tokens { most, .. } => Demand { passes: f64::from(most), per_block: 1.0 },
            Work::Once | Work::Steps { .. } => Demand { passes: 0.0, per_block: 1.0 },
        };
        let mut tokens = Vec::new();
        for stages in replayed {
            measured.record(stages);
            tokens.push(f64::from(stages.tokens) - 1.0);
            if stages.blocks > 0 {
                first.per_block = per_block(stages);
            }
        }
        if let (Work::Tokens { is_fixed: false, .. }, false) = (work, tokens.is_empty()) {
            first.passes = tokens.iter().sum::<f64>() / tokens.len() as f64;
        }
        let visual = Visual::new(inner.spec());
        Self { inner, work, modelled, measured, first, demand: first, unprobed: 0, visual, given: None }
    }

    /// Chooses for one inference; `None` where there is nothing to choose.
    fn choose(&mut self, observation: &Observation<'_>, epoch: Epoch, budget: Budget<'_>) -> Option<Plan> {
        let has_deadline = !budget.is_unlimited();
        let range = self.visual.as_mut().map(|visual| visual.next(epoch, observation.instruction, has_deadline));
        let visual = self.visual.as_ref().zip(range);
        if !has_deadline {
            let (visual, range) = visual?;
            let tokens = visual.buckets()[range.start].tokens as u32;
            return Some(Plan { visual: Some(tokens), ..Plan::UNLIMITED });
        }
        let costs = if budget.clock.is_some() { self.measured.usual() } else { self.modelled };
        let span = budget.deadline.duration_since(budget.start);
        let plan_for = |costs| plan(span, self.work, costs, self.demand, self.unprobed);
        let Some((visual, range)) = visual else { return Some(plan_for(costs)) };
        let with = |bucket: &Bucket| {
            let tokens = bucket.tokens as u32;
            let before = match budget.clock {
                None => visual.modelled(*bucket, costs.before),
                Some(_) => self.measured.usual_before(tokens).unwrap_or(costs.before),
            };
            Plan { visual: Some(tokens), ..plan_for(StageCosts { before, ..costs }) }
        };
        let mut plans = visual.buckets()[range].iter().map(with);
        let mut chosen = plans.next();
        while !chosen.is_some_and(|plan| plan.fits) {
            match plans.next() {
                None => break,
                fewer => chosen = fewer,
            }
        }
        chosen
    }

    fn learn(&mut self, stages: &Stages) {
        self.measured.record(stages);
        let Work::Tokens { .. } = self.work else { return };
        self.demand.passes += NEW * (f64::from(stages.tokens) - 1.0 - self.demand.passes);
        self.unprobed = self.unprobed.saturating_add(1);
        if stages.blocks > 0 {
            self.unprobed = 0;
            self.demand.per_block += NEW * (per_block(stages) - self.demand.per_block);
        }
    }
}

/// Tokens a block gave; the tokens of other passes are not its merit.
fn per_block(stages: &Stages) -> f64 {
    let others = (stages.passes - stages.passes_in_blocks).round();
    (f64::from(stages.tokens) - 1.0 - others) / f64::from(stages.blocks.max(1))
}

impl Policy for Planned {
    fn spec(&self) -> &PolicySpec {
        self.inner.spec()
    }

    fn infer(
        &mut self,
        observation: &Observation<'_>,
        committed: &Committed<'_>,
        budget: Budget<'_>,
        chunk: &mut ActionChunk,
    ) -> Result<StopReason, PolicyError> {
        let chosen = self.choose(observation, committed.epoch, budget);
        let given = self.given.take();
        let is_told = given.is_some() || !budget.is_unlimited();
        let chosen = given.or(chosen);
        self.inner.set_plan(chosen.unwrap_or(Plan::UNLIMITED));
        let stop = self.inner.infer(observation, committed, budget, chunk)?;
        chunk.stages_mut().plan = chosen.filter(|_| is_told);
        self.learn(chunk.stages());
        Ok(stop)
    }

    fn prepare(&mut self, observation: &Observation<'_>, budget: Budget<'_>) {
        // The choice of visual tokens remembers its answers, which this is none of.
        if self.visual.is_none() {
            self.choose(observation, Epoch(0), budget);
        }
        self.inner.prepare(observation, budget);
    }

    fn inner(&self) -> Option<&dyn Policy> {
        Some(&*self.inner)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Policy> {
        Some(&mut *self.inner)
    }

    fn check_instruction(&self, instruction: &str) -> Result<(), PolicyError> {
        self.inner.check_instruction(instruction)
    }

    fn reset(&mut self, epoch: Epoch) {
        // What the machine costs stays known; what the task asks for may be another.
        self.demand = self.first;
        self.unprobed = 0;
        if let Some(visual) = &mut self.visual {
            visual.forget();
        }
        self.inner.reset(epoch);
    }

    fn inject(&mut self, fault: OutputFault) {
        self.inner.inject(fault);
    }

    fn modelled_cost(&self) -> Duration {
        self.inner.modelled_cost()
    }

    fn work(&self) -> Work {
        self.work
    }

    fn set_plan(&mut self, plan: Plan) {
        self.given = Some(plan);
    }

    fn rescale_costs(&mut self, factor: f64) {
        self.measured.rescale(factor);
    }

    fn check_budget(&self, budget: Duration) -> Result<(), Impossible> {
        check_budget(budget, self.work, self.measured.fastest(), self.first)
    }
}
