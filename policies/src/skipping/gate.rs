//! How often an answer may be skipped, whatever the signals say.

/// Computed answers in a row before each skip: the signals are about two.
const COMPUTED: u32 = 2;

/// Counts computed answers since the last that was skipped.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    computed: u32,
}

impl Gate {
    /// Whether the next answer may be skipped: so no more than one in three ever is.
    pub(super) fn may_skip(&self) -> bool {
        self.computed >= COMPUTED
    }

    /// The next answer was skipped, or computed.
    pub(super) fn note(&mut self, skipped: bool) {
        self.computed = if skipped { 0 } else { self.computed.saturating_add(1) };
    }

    /// Nothing is known.
    pub(super) fn reset(&mut self) {
        self.computed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_always_say_skip_still_have_two_answers_of_three_computed() {
        let mut gate = Gate::default();
        let mut skipped = Vec::new();
        for _ in 0..300 {
            let skip = gate.may_skip();
            gate.note(skip);
            skipped.push(skip);
        }
        assert_eq!(skipped.iter().filter(|skip| **skip).count(), 100);
        assert!(skipped.windows(3).all(|three| three.iter().filter(|skip| **skip).count() <= 1));
    }

    #[test]
    fn a_reset_asks_for_two_computed_answers() {
        let mut gate = Gate::default();
        gate.note(false);
        assert!(!gate.may_skip());
        gate.note(false);
        assert!(gate.may_skip());
        gate.reset();
        assert!(!gate.may_skip());
    }
}
