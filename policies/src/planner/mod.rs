//! What an inference does with its budget, decided before it begins.
//!
//! [`plan`] is a function of the costs it is given: on a real clock those of the newest inferences, in simulated time
//! the bundle's cost model, so that a run replays. It chooses
//!
//! - the denoising steps that fit, between the fewest that were fitted as good enough and the family's own number;
//! - whether blocks of guesses are verified: never where a first block that gains nothing would leave too little for the
//!   tokens one by one, and with `planned` in the technique only where blocks are expected to take less time;
//! - with `planned` in the way of pruning, the most visual tokens with which the rest still fits at worst.
//!
//! While tokens are generated the same costs guard the rest: before every block there must be time for it and for
//! everything that is left one by one, or the rest is generated one by one ([`Plan::affords_block`]). So a chunk never
//! takes longer than unaccelerated generation could, as far as costs repeat.

mod costs;
mod planned;
mod visual;

use core::fmt;
use core::time::Duration;

pub(crate) use costs::CostWindows;
pub use costs::{Demand, StageCosts};
pub(crate) use planned::Planned;
pub(crate) use visual::Visual;

/// Inferences without a block after which one is verified again, so that what blocks gain stays known.
const PROBE_AFTER: u32 = 32;

/// What a policy's inference is made of, behind the prefix.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// Nothing: one pass and no more.
    #[default]
    Once,
    /// Action tokens.
    Tokens {
        /// Passes of one token each that the longest answer takes.
        most: u32,
        /// Whether every answer takes as many.
        is_fixed: bool,
        /// Whether blocks of guesses can be verified.
        drafts: bool,
        /// Whether the planner is to decide by expected time whether they are.
        is_planned: bool,
        /// Passes after which guesses are taken unverified.
        exit: Option<u32>,
        /// Whether a part of the tokens can be taken for the answer.
        anytime: bool,
    },
    /// Denoising steps.
    Steps {
        /// The family's own number.
        most: u32,
        /// Fewest that are good enough.
        least: u32,
    },
}

/// What was chosen.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whether blocks of guesses are verified.
    pub drafts: bool,
    /// Denoising steps.
    pub steps: u32,
    /// Visual tokens kept, where some may be left out; `None` for as many as the bundle says.
    pub visual: Option<u32>,
    /// Whether the answer fits the budget at worst, by the costs below.
    pub fits: bool,
    /// What it was decided by.
    pub costs: StageCosts,
}

impl Plan {
    /// Everything as the bundle says, for a budget without end.
    pub const UNLIMITED: Self =
        Self { drafts: true, steps: u32::MAX, visual: None, fits: true, costs: StageCosts::ZERO };

    /// Whether `left` is enough for one block and, if that gained nothing, for `rest` tokens one by one.
    pub fn affords_block(&self, left: Duration, rest: u32) -> bool {
        self.costs.block + self.costs.after + self.costs.step * rest <= left
    }

    /// Whether `left` is enough for one more pass, of a block or of one token.
    pub fn affords_pass(&self, left: Duration, is_block: bool) -> bool {
        self.costs.after + if is_block { self.costs.block } else { self.costs.step } <= left
    }
}

/// Chooses for one inference of `work` within `budget`. `unprobed`: inferences since blocks were last verified.
pub fn plan(budget: Duration, work: Work, costs: StageCosts, demand: Demand, unprobed: u32) -> Plan {
    let left = budget.saturating_sub(costs.before + costs.after);
    let in_time = costs.before + costs.after <= budget;
    match work {
        Work::Once => Plan { drafts: false, steps: 0, visual: None, fits: in_time, costs },
        Work::Steps { most, least } => {
            let fit = if costs.step.is_zero() { most } else { whole(left.as_nanos() / costs.step.as_nanos()) };
            Plan { drafts: false, steps: fit.clamp(least, most), visual: None, fits: in_time && fit >= least, costs }
        }
        Work::Tokens { most, drafts, is_planned, exit, .. } => {
            let one_by_one = costs.step * most;
            let is_safe = in_time && one_by_one <= left;
            let exit_cost = exit.map(|passes| costs.block * passes);
            let exits_in_time = in_time && exit_cost.is_some_and(|cost| cost <= left);
            let is_bounded = exits_in_time || costs.block + one_by_one <= left;
            let in_blocks = exit_cost.unwrap_or_else(|| costs.block.mul_f64(demand.blocks()));
            let pays = in_blocks < costs.step.mul_f64(demand.passes);
            // Where not even one by one fits, what is expected to take less time is the better chance.
            let drafts = drafts
                && if is_safe {
                    is_bounded && (!is_planned || pays || unprobed >= PROBE_AFTER)
                } else {
                    exits_in_time || pays
                };
            Plan { drafts, steps: 0, visual: None, fits: is_safe || (drafts && exits_in_time), costs }
        }
    }
}

fn whole(number: u128) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A budget that not even the fastest answer seen meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impossible {
    budget: Duration,
    costs: StageCosts,
    passes: u32,
    is_block: bool,
}

/// Refuses a budget that the least acceptable answer, at the fastest costs measured, does not meet.
///
/// # Errors
/// [`Impossible`], with the figures.
pub fn check_budget(budget: Duration, work: Work, fastest: StageCosts, demand: Demand) -> Result<(), Impossible> {
    let (passes, is_block) = match work {
        Work::Once => (0, false),
        Work::Steps { least, .. } => (least, false),
        Work::Tokens { drafts: true, exit: Some(exit), .. } => (exit, true),
        Work::Tokens { anytime: true, .. } => (1, false),
        Work::Tokens { most, is_fixed: true, .. } => (most, false),
        Work::Tokens { .. } => (demand.passes.floor() as u32, false),
    };
    let pass = if is_block { fastest.block } else { fastest.step };
    if fastest.before + pass * passes + fastest.after <= budget {
        return Ok(());
    }
    Err(Impossible { budget, costs: fastest, passes, is_block })
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |span: Duration| span.as_secs_f64() * 1e3;
        let pass = if self.is_block { self.costs.block } else { self.costs.step };
        write!(
            f,
            "an inference may take {:.1} ms, and on this machine the fastest takes {:.1} ms: {:.1} up to the first token or \
             step, {} passes of {:.2}, {:.2} afterwards; allow more time, or take a faster policy, engine or machine",
            ms(self.budget),
            ms(self.costs.before + pass * self.passes + self.costs.after),
            ms(self.costs.before),
            self.passes,
            ms(pass),
            ms(self.costs.after)
        )
    }
}

impl std::error::Error for Impossible {}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(span: f64) -> Duration {
        Duration::from_secs_f64(span / 1e3)
    }

    /// 8 ms up to the first token, 1 ms a token, 2 ms afterwards.
    fn costs(block: f64) -> StageCosts {
        StageCosts { before: ms(8.0), step: ms(1.0), block: ms(block), after: ms(2.0) }
    }

    fn tokens(is_planned: bool, exit: Option<u32>) -> Work {
        Work::Tokens { most: 40, is_fixed: true, drafts: true, is_planned, exit, anytime: false }
    }

    const DEMAND: Demand = Demand { passes: 40.0, per_block: 4.0 };

    #[test]
    fn as_many_steps_as_fit_and_never_fewer_than_are_good_enough() {
        let work = Work::Steps { most: 10, least: 4 };
        for (budget, steps, fits) in
            [(100.0, 10, true), (17.0, 7, true), (14.0, 4, true), (13.9, 4, false), (5.0, 4, false)]
        {
            let plan = plan(ms(budget), work, costs(0.0), DEMAND, 0);
            assert_eq!((plan.steps, plan.fits), (steps, fits), "{budget} ms");
        }
    }

    #[test]
    fn blocks_are_verified_only_where_the_rest_still_fits_one_by_one() {
        // 10 ms around the tokens, 40 one by one, 6 for a block that gains nothing.
        for (budget, drafts, fits) in [(56.0, true, true), (55.0, false, true), (50.0, false, true)] {
            let plan = plan(ms(budget), tokens(false, None), costs(6.0), DEMAND, 0);
            assert_eq!((plan.drafts, plan.fits), (drafts, fits), "{budget} ms");
        }
        // Not even one by one fits: 10 blocks of 3 ms are the better chance, 10 of 6 are not.
        let late = |block| plan(ms(45.0), tokens(false, None), costs(block), DEMAND, 0);
        assert_eq!((late(3.0).drafts, late(3.0).fits), (true, false));
        assert_eq!((late(6.0).drafts, late(6.0).fits), (false, false));
        // Five passes of 6 ms end in any case.
        let plan = plan(ms(45.0), tokens(false, Some(5)), costs(6.0), DEMAND, 0);
        assert!(plan.drafts && plan.fits);
    }

    #[test]
    fn a_planned_technique_follows_the_costs_and_looks_again_after_a_while() {
        let at = |block, unprobed| plan(ms(500.0), tokens(true, None), costs(block), DEMAND, unprobed).drafts;
        assert!(at(3.9, 0), "10 blocks of 3.9 ms against 40 tokens of 1 ms");
        assert!(!at(4.1, 0));
        assert!(!at(4.1, PROBE_AFTER - 1) && at(4.1, PROBE_AFTER), "costs may have changed");
        assert!(plan(ms(500.0), tokens(false, None), costs(4.1), DEMAND, 0).drafts, "as the technique says");
    }

    #[test]
    fn a_block_is_afforded_while_the_rest_fits_behind_it() {
        let plan = plan(ms(500.0), tokens(false, None), costs(6.0), DEMAND, 0);
        assert!(plan.affords_block(ms(18.0), 10) && !plan.affords_block(ms(17.9), 10));
        assert!(plan.affords_pass(ms(3.0), false) && !plan.affords_pass(ms(2.9), false));
        assert!(plan.affords_pass(ms(8.0), true) && !plan.affords_pass(ms(7.9), true));
        assert!(Plan::UNLIMITED.affords_block(Duration::ZERO, u32::MAX));
    }

    #[test]
    fn impossible_budgets_are_refused_with_the_figures() {
        check_budget(ms(50.0), tokens(false, None), costs(6.0), DEMAND).unwrap();
        let error = check_budget(ms(49.0), tokens(false, None), costs(6.0), DEMAND).unwrap_err().to_string();
        for figure in ["49.0 ms", "50.0 ms", "8.0 up to", "40 passes of 1.00", "2.00 afterwards"] {
            assert!(error.contains(figure), "{error}");
        }
        check_budget(ms(40.0), tokens(false, Some(5)), costs(6.0), DEMAND).unwrap();
        check_budget(ms(14.0), Work::Steps { most: 10, least: 4 }, costs(0.0), DEMAND).unwrap();
        assert!(check_budget(ms(13.0), Work::Steps { most: 10, least: 4 }, costs(0.0), DEMAND).is_err());
        let anytime =
            Work::Tokens { most: 95, is_fixed: false, drafts: false, is_planned: false, exit: None, anytime: true };
        check_budget(ms(11.0), anytime, costs(0.0), DEMAND).unwrap();
    }
}
