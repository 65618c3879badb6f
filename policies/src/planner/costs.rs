//! What the stages of an inference cost: by the bundle's model, or as the newest inferences measured it.

use core::time::Duration;
use std::collections::VecDeque;

use crate::bundle::{PolicySpec, TokenSpec};
use crate::chunk::Stages;

/// Inferences remembered.
const WINDOW: usize = 32;
/// The quantile that is planned with.
const QUANTILE: f64 = 0.9;

/// Costs of the parts of an inference.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct StageCosts {
    /// Everything up to the first token or step.
    pub before: Duration,
    /// One token or one denoising step.
    pub step: Duration,
    /// A pass that verifies a block, or a round of a decoder in two halves.
    pub block: Duration,
    /// From the last token or step to rows.
    pub after: Duration,
}

impl StageCosts {
    /// Nothing costs anything.
    pub const ZERO: Self =
        Self { before: Duration::ZERO, step: Duration::ZERO, block: Duration::ZERO, after: Duration::ZERO };

    /// What the bundle's cost model says.
    pub(crate) fn modelled(spec: &PolicySpec) -> Self {
        let block = spec.family.tokens().and_then(TokenSpec::round_cost).unwrap_or_default();
        // The model charges the first token, which comes with the prefix, as a step of its own.
        let first = if spec.family.has_tokens() { spec.costs.step } else { Duration::ZERO };
        Self {
            before: spec.costs.vision + spec.costs.prefill + first,
            step: spec.costs.step,
            block,
            after: Duration::ZERO,
        }
    }
}

/// How much there is to do.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Demand {
    /// Passes of one token each that an answer takes.
    pub passes: f64,
    /// Tokens a block gives.
    pub per_block: f64,
}

impl Demand {
    /// Blocks that an answer takes.
    pub fn blocks(self) -> f64 {
        (self.passes / self.per_block.max(1.0)).ceil()
    }
}

/// The newest costs of one stage.
#[derive(Clone, Debug)]
struct Window {
    spans: VecDeque<Duration>,
}

impl Window {
    fn new() -> Self {
        Self { spans: VecDeque::with_capacity(WINDOW) }
    }

    fn record(&mut self, span: Duration) {
        if self.spans.len() == WINDOW {
            self.spans.pop_front();
        }
        self.spans.push_back(span);
    }

    /// The planning quantile by nearest rank; zero of nothing.
    fn usual(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.spans.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * QUANTILE).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn fastest(&self) -> Duration {
        self.spans.iter().min().copied().unwrap_or_default()
    }
}

/// The newest costs of all stages.
#[derive(Clone, Debug)]
pub(crate) struct CostWindows {
    /// By visual tokens, of which some may be left out.
    before: Vec<(u32, Window)>,
    step: Window,
    block: Window,
    after: Window,
}

impl CostWindows {
    pub(crate) fn new() -> Self {
        Self { before: Vec::new(), step: Window::new(), block: Window::new(), after: Window::new() }
    }

    /// Learns from an answered inference.
    pub(crate) fn record(&mut self, stages: &Stages) {
        // Images loaded ahead count: the next may come too late for it.
        let before = stages.ahead + stages.preprocess + stages.vision + stages.prefill;
        match self.before.iter_mut().find(|(tokens, _)| *tokens == stages.visual_tokens) {
            Some((_, window)) => window.record(before),
            None => {
                let mut window = Window::new();
                window.record(before);
                self.before.push((stages.visual_tokens, window));
            }
        }
        self.after.record(stages.postprocess);
        if stages.blocks > 0 {
            self.block.record(stages.in_blocks / stages.blocks);
        }
        // Halves add up to whole passes only nearly.
        let others = (stages.passes - stages.passes_in_blocks).round();
        if others > 0.0 {
            self.step.record(stages.decode.saturating_sub(stages.in_blocks).div_f64(others));
        }
    }

    /// Everything measured so far counts `factor` times.
    pub(crate) fn rescale(&mut self, factor: f64) {
        let before = self.before.iter_mut().map(|(_, window)| window);
        for window in before.chain([&mut self.step, &mut self.block, &mut self.after]) {
            for span in &mut window.spans {
                *span = span.mul_f64(factor);
            }
        }
    }

    /// What the next inference is planned with; with the most visual tokens.
    pub(crate) fn usual(&self) -> StageCosts {
        let most = self.before.iter().max_by_key(|(tokens, _)| *tokens);
        self.each(most.map(|(_, window)| window.usual()), Window::usual)
    }

    /// What comes before the first token or step with so many visual tokens, if they were ever left out so.
    pub(crate) fn usual_before(&self, visual_tokens: u32) -> Option<Duration> {
        let of = |(tokens, window): &(u32, Window)| (*tokens == visual_tokens).then(|| window.usual());
        self.before.iter().find_map(of)
    }

    /// The fastest of each stage.
    pub(crate) fn fastest(&self) -> StageCosts {
        self.each(self.before.iter().map(|(_, window)| window.fastest()).min(), Window::fastest)
    }

    fn each(&self, before: Option<Duration>, of: fn(&Window) -> Duration) -> StageCosts {
        StageCosts {
            before: before.unwrap_or_default(),
            step: of(&self.step),
            block: of(&self.block),
            after: of(&self.after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_spike_in_many_is_not_planned_with_and_leaves_the_window() {
        let mut windows = CostWindows::new();
        let stages = |decode: u32| Stages { decode: MS * decode, passes: 10.0, ..Stages::default() };
        windows.record(&stages(900));
        assert_eq!(windows.usual().step, MS * 90, "nothing else is known");
        for _ in 0..WINDOW - 1 {
            windows.record(&stages(20));
        }
        assert_eq!((windows.usual().step, windows.fastest().step), (MS * 2, MS * 2));
        for _ in 0..WINDOW {
            windows.record(&stages(30));
        }
        assert_eq!(windows.fastest().step, MS * 3);
    }

    #[test]
    fn blocks_and_single_tokens_are_told_apart() {
        let mut windows = CostWindows::new();
        windows.record(&Stages {
            decode: MS * 26,
            in_blocks: MS * 18,
            blocks: 3,
            passes_in_blocks: 3.0,
            passes: 7.0,
            ..Stages::default()
        });
        assert_eq!((windows.usual().block, windows.usual().step), (MS * 6, MS * 2));
        windows.record(&Stages {
            decode: MS * 12,
            in_blocks: MS * 12,
            blocks: 2,
            passes_in_blocks: 2.0,
            passes: 2.0,
            ..Stages::default()
        });
        assert_eq!(windows.usual().step, MS * 2, "nothing was generated one by one");
    }

    #[test]
    fn a_slower_machine_is_planned_with_before_it_has_been_measured() {
        let mut windows = CostWindows::new();
        windows.record(&Stages { decode: MS * 20, passes: 10.0, vision: MS * 3, ..Stages::default() });
        windows.rescale(2.0);
        assert_eq!((windows.usual().step, windows.usual().before), (MS * 4, MS * 6));
        windows.rescale(0.5);
        assert_eq!(windows.usual().step, MS * 2);
    }

    #[test]
    fn prefixes_of_fewer_visual_tokens_have_costs_of_their_own() {
        let mut windows = CostWindows::new();
        let stages = |visual_tokens, ms: u32| Stages { visual_tokens, prefill: MS * ms, ..Stages::default() };
        windows.record(&stages(24, 2));
        windows.record(&stages(78, 5));
        assert_eq!((windows.usual_before(24), windows.usual_before(48)), (Some(MS * 2), None));
        assert_eq!((windows.usual().before, windows.fastest().before), (MS * 5, MS * 2));
    }

    #[test]
    fn blocks_of_a_demand_are_whole() {
        assert_eq!(Demand { passes: 47.0, per_block: 4.0 }.blocks(), 12.0);
        assert_eq!(Demand { passes: 47.0, per_block: 0.5 }.blocks(), 47.0, "a block gives a token at least");
    }
}
