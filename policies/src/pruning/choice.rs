//! Which visual tokens are kept.

/// Least share of edge pixels of a patch that is kept for its edges.
const LEAST_EDGES: f64 = 0.05;

/// Picks visual tokens and remembers them.
///
/// # Real-time
/// Allocates at construction only.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// By token.
    is_kept: Vec<bool>,
    order: Vec<usize>,
}

impl Choice {
    /// Of `tokens`.
    pub(crate) fn new(tokens: usize) -> Self {
        Self { is_kept: vec![false; tokens], order: Vec::with_capacity(tokens) }
    }

    /// Keeps all.
    pub(crate) fn all(&mut self) {
        self.is_kept.fill(true);
    }

    /// Keeps exactly `keep`: those that belong to none of the first `patches`, then of `edges`, shares by token, the largest
    /// that are edges enough, for at most half the places left (SP-VLA's union, arXiv 2506.12723, in a fixed number of places),
    /// then those with the highest scores. Of equals the first.
    pub(crate) fn by_score(&mut self, scores: &[f64], edges: &[f64], patches: usize, keep: usize) {
        self.is_kept.fill(true);
        self.is_kept[..patches].fill(false);
        self.rank(edges);
        let places = keep.saturating_sub(self.kept()) / 2;
        for &token in self.order.iter().take(places) {
            self.is_kept[token] = edges[token] >= LEAST_EDGES;
        }
        let mut left = keep.saturating_sub(self.kept());
        self.rank(scores);
        for &token in &self.order {
            if left == 0 {
                break;
            }
            if !self.is_kept[token] {
                self.is_kept[token] = true;
                left -= 1;
            }
        }
    }

    /// Keeps all but the `others` tokens most alike what they were; −1 is unlike. Says whether there are as many.
    pub(crate) fn but_still(&mut self, stillness: &[f64], others: usize) -> bool {
        self.is_kept.fill(true);
        self.rank(stillness);
        let mut still = self.order.iter().take(others).filter(|token| stillness[**token] > 0.0);
        still.by_ref().for_each(|token| self.is_kept[*token] = false);
        self.kept() + others == self.is_kept.len()
    }

    /// Largest first.
    fn rank(&mut self, values: &[f64]) {
        self.order.clear();
        self.order.extend(0..values.len());
        self.order.sort_unstable_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.is_kept.len()
    }

    /// How many are kept.
    pub(crate) fn kept(&self) -> usize {
        self.is_kept.iter().filter(|kept| **kept).count()
    }

    /// Whether a token is.
    pub(crate) fn keeps(&self, token: usize) -> bool {
        self.is_kept.get(token).copied().unwrap_or(false)
    }

    /// Kept tokens in their order.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = usize> {
        self.is_kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(token, _)| token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(choice: &Choice) -> Vec<usize> {
        choice.tokens().collect()
    }

    #[test]
    fn the_highest_scores_stand_in_their_original_order() {
        let mut choice = Choice::new(5);
        choice.by_score(&[1.0, 5.0, 3.0, 5.0, 0.0], &[], 5, 3);
        assert_eq!(kept(&choice), [1, 2, 3]);
        choice.by_score(&[1.0; 5], &[], 5, 2);
        assert_eq!(kept(&choice), [0, 1], "of equals the first");
        choice.by_score(&[1.0, 5.0, 3.0, 5.0, 0.0], &[], 4, 3);
        assert_eq!(kept(&choice), [1, 3, 4], "the last is of no patch");
    }

    #[test]
    fn edges_take_half_the_places_at_most_and_only_where_there_are_edges() {
        let mut choice = Choice::new(6);
        let scores = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0];
        choice.by_score(&scores, &[0.0, 0.0, 0.3, 0.2, 0.5, 0.4], 6, 4);
        assert_eq!(kept(&choice), [0, 1, 4, 5], "the two with most edges, and the two highest scores");
        choice.by_score(&scores, &[0.0, 0.0, 0.01, 0.0, 0.0, 0.4], 6, 4);
        assert_eq!(kept(&choice), [0, 1, 2, 5], "one has edges");
        choice.by_score(&scores, &[0.9, 0.0, 0.0, 0.0], 4, 4);
        assert_eq!(kept(&choice), [0, 1, 4, 5], "a token may be both, and those of no patch have no edges");
    }

    #[test]
    fn what_is_still_enough_is_left_out() {
        let mut choice = Choice::new(4);
        assert!(choice.but_still(&[0.999, 0.997, -1.0, 1.0], 2));
        assert_eq!(kept(&choice), [1, 2]);
        assert!(!choice.but_still(&[0.999, -1.0, -1.0, -1.0], 2), "one is not two");
        assert!(!choice.but_still(&[], 1), "tokens of no patch are never still");
    }
}
