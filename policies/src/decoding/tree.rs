//! Which guesses make a tree that is worth verifying (OPT-Tree: Wang et al., arXiv 2406.17276).
//!
//! A node is worth the product of the draft's probabilities on the way to it: the chance that all of it is right. The best
//! tree of n nodes holds the n largest products, and the sum of products is the number of tokens to expect of it. OPT-Tree
//! drafts a level a time, which a batch of draft passes makes cheap; here each node is a draft pass of its own, so nodes are
//! added one by one, the most valuable first. Products fall along a path, so that ends with the same tree and drafts no
//! node that is not in it. It ends as there: where the expectation would grow by no more than a threshold.

/// Children that a node can have: behind the eighth nothing is likely.
const CHILDREN: usize = 8;

/// A token that may come behind a node.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// The node before it.
    pub(crate) parent: usize,
    pub(crate) token: u32,
    /// The chance that it and all before it are right.
    pub(crate) product: f64,
}

/// A tree that grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growth {
    candidates: Vec<Candidate>,
}

impl Growth {
    /// A new tree.
    pub(crate) fn begin(&mut self) {
        self.candidates.clear();
    }

    /// The draft says `probabilities` behind `node`, which is worth `product`.
    pub(crate) fn add(&mut self, node: usize, product: f64, probabilities: &[f64]) {
        let begun = self.candidates.len();
        for (token, p) in (0..).zip(probabilities.iter().copied()).filter(|(_, p)| *p > 0.0) {
            let candidate = Candidate { parent: node, token, product: product * p };
            // Of equals the smaller id first, as greedy decoding takes it.
            let behind = self.candidates[begun..].iter().position(|other| other.product < candidate.product);
            let place = behind.map_or(self.candidates.len(), |behind| begun + behind);
            if place < begun + CHILDREN {
                self.candidates.insert(place, candidate);
                self.candidates.truncate(begun + CHILDREN);
            }
        }
    }

    /// The next node: the most valuable candidate, if it adds more than `threshold` to the tokens to expect.
    pub(crate) fn next(&mut self, threshold: f64) -> Option<Candidate> {
        let mut best: Option<usize> = None;
        for (index, candidate) in self.candidates.iter().enumerate() {
            if best.is_none_or(|best| candidate.product > self.candidates[best].product) {
                best = Some(index);
            }
        }
        best.filter(|index| self.candidates[*index].product > threshold).map(|index| self.candidates.remove(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_grows_by_the_largest_product() {
        // Behind the root 0.6 and 0.4; behind the first 0.5, 0.5; behind the second 0.9, 0.1.
        let behind = |token: u32| if token == 0 { [0.5, 0.5] } else { [0.9, 0.1] };
        let mut growth = Growth::default();
        growth.begin();
        growth.add(0, 1.0, &[0.6, 0.4]);
        let (mut nodes, mut expected) = (Vec::new(), 1.0);
        while let Some(next) = growth.next(0.2) {
            nodes.push((next.parent, next.token, (next.product * 100.0).round() as u32));
            expected += next.product;
            growth.add(nodes.len(), next.product, &behind(if next.parent == 0 { next.token } else { 0 }));
        }
        // 0.6, 0.4, 0.36 (behind 0.4), 0.3, 0.3 (behind 0.6); what follows is worth 0.18 at most.
        assert_eq!(nodes, [(0, 0, 60), (0, 1, 40), (2, 0, 36), (1, 0, 30), (1, 1, 30)]);
        assert!((expected - 2.96_f64).abs() < 1e-12, "{expected}");
    }

    #[test]
    fn above_a_half_a_tree_is_a_path_and_ends_where_it_is_not_likely() {
        let mut growth = Growth::default();
        growth.add(0, 1.0, &[0.9, 0.1]);
        let first = growth.next(0.5).unwrap();
        assert_eq!((first.parent, first.token), (0, 0));
        growth.add(1, first.product, &[0.2, 0.8]);
        let second = growth.next(0.5).unwrap();
        assert_eq!((second.parent, second.token, (second.product * 100.0).round()), (1, 1, 72.0));
        growth.add(2, second.product, &[0.6, 0.4]);
        assert_eq!(growth.next(0.5), None, "0.72 of 0.6");
        growth.begin();
        assert_eq!(growth.next(0.0), None, "nothing is left of another tree");
    }
}
