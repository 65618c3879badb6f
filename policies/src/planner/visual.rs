//! How many visual tokens the next inference keeps, where some are left out.

use core::ops::Range;
use core::time::Duration;

use crate::bundle::PolicySpec;
use crate::observation::Epoch;
use crate::pruning::Bucket;

/// The numbers there are, and which of them come into question.
///
/// The first inference of an epoch or of an instruction sees everything. It is noted before it is tried, so that one that fails
/// is not asked for again and again.
#[derive(Clone, Debug)]
pub(crate) struct Visual {
    /// All first, the number of the bundle last.
    buckets: Vec<Bucket>,
    /// Whether those between come into question.
    is_planned: bool,
    /// What the prefix costs with all, by the cost model.
    whole: Duration,
    seen: Option<(Epoch, String)>,
}

impl Visual {
    /// `None` where nothing is left out, or not by number.
    pub(crate) fn new(spec: &PolicySpec) -> Option<Self> {
        let least = spec.pruning.ics? as usize;
        let buckets = &spec.split.as_ref()?.buckets;
        let is_planned = spec.pruning.planned;
        let is_loaded = |index: usize, bucket: &Bucket| {
            index == 0 || bucket.tokens == least || (is_planned && bucket.tokens > least)
        };
        let buckets: Vec<Bucket> = buckets
            .iter()
            .enumerate()
            .filter(|(index, bucket)| is_loaded(*index, bucket))
            .map(|(_, bucket)| *bucket)
            .collect();
        Some(Self { buckets, is_planned, whole: spec.costs.prefill, seen: None })
    }

    /// The [`buckets`](Self::buckets) that come into question for an inference: the first that fits is to be taken, or else
    /// the last.
    pub(crate) fn next(&mut self, epoch: Epoch, instruction: &str, has_deadline: bool) -> Range<usize> {
        let is_known = self.seen.as_ref().is_some_and(|(seen, told)| *seen == epoch && told == instruction);
        if !is_known {
            self.seen = Some((epoch, instruction.to_owned()));
            return 0..1;
        }
        let end = self.buckets.len();
        if self.is_planned && has_deadline { 0..end } else { end - 1..end }
    }

    /// Most first.
    pub(crate) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Nothing was seen.
    pub(crate) fn forget(&mut self) {
        self.seen = None;
    }

    /// What a number costs by the cost model, where all cost `before` up to the first token or step.
    pub(crate) fn modelled(&self, bucket: Bucket, before: Duration) -> Duration {
        before.saturating_sub(self.whole) + bucket.cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visual(is_planned: bool) -> Visual {
        let bucket = |tokens, ms| Bucket { tokens, cost: Duration::from_millis(ms) };
        let buckets = vec![bucket(78, 6), bucket(48, 5), bucket(24, 4)];
        Visual { buckets, is_planned, whole: Duration::from_millis(6), seen: None }
    }

    fn next(visual: &mut Visual, epoch: u64, told: &str, has_deadline: bool) -> Vec<usize> {
        let range = visual.next(Epoch(epoch), told, has_deadline);
        visual.buckets()[range].iter().map(|bucket| bucket.tokens).collect()
    }

    #[test]
    fn the_first_of_an_epoch_or_of_an_instruction_sees_everything_and_no_other() {
        let mut visual = visual(false);
        let mut ask = |epoch, told| next(&mut visual, epoch, told, true);
        assert_eq!(ask(1, "red"), [78]);
        // However long it goes on: nothing accumulates that could hold it at one or the other.
        for _ in 0..100 {
            assert_eq!(ask(1, "red"), [24]);
        }
        assert_eq!([ask(1, "green"), ask(1, "green")], [[78], [24]]);
        assert_eq!([ask(2, "green"), ask(2, "green")], [[78], [24]]);
        visual.forget();
        assert_eq!(next(&mut visual, 2, "green", true), [78]);
    }

    #[test]
    fn a_planned_number_has_all_above_it_to_choose_from_only_with_a_deadline() {
        let mut visual = visual(true);
        assert_eq!(next(&mut visual, 1, "red", true), [78]);
        assert_eq!(next(&mut visual, 1, "red", true), [78, 48, 24]);
        assert_eq!(next(&mut visual, 1, "red", false), [24]);
        let bucket = visual.buckets()[1];
        assert_eq!(visual.modelled(bucket, Duration::from_millis(8)), Duration::from_millis(7));
    }
}
