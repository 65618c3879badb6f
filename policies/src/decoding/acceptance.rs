//! Whether a guess may stand for the answer.

/// The rule a guess is judged by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acceptance {
    /// Bins a guess may be off; 0 is equality.
    radius: u32,
    /// `[D]`: dimensions whose guesses must be equal in any case.
    exact: Vec<bool>,
}

impl Acceptance {
    /// Guesses within `radius` ids are taken, except in the dimensions marked `exact`, `[D]`, of time-major tokens.
    pub(crate) fn within(radius: u32, exact: Vec<bool>) -> Self {
        Self { radius, exact }
    }

    /// Whether `guess` may stand for `answer` as token number `index`.
    pub(crate) fn takes(&self, index: usize, guess: u32, answer: u32) -> bool {
        let exact = self.exact.is_empty() || self.exact[index % self.exact.len()];
        guess == answer || (!exact && guess.abs_diff(answer) <= self.radius)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_is_the_default_and_a_gripper_is_always_exact() {
        assert!(!Acceptance::default().takes(0, 9, 10));
        assert!(Acceptance::default().takes(0, 10, 10));
        let relaxed = Acceptance::within(2, vec![false, true]);
        assert!(relaxed.takes(0, 8, 10) && relaxed.takes(2, 12, 10));
        assert!(!relaxed.takes(0, 7, 10));
        assert!(!relaxed.takes(1, 9, 10) && !relaxed.takes(3, 11, 10), "the gripper");
    }
}
