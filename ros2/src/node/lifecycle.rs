//! Managed nodes: which step leads from which state to which, by id or label.

use crate::interface::{State, Transition, TransitionDescription};

/// States by id, with their labels.
pub const STATES: [(u8, &str); 10] = [
    (1, "unconfigured"),
    (2, "inactive"),
    (3, "active"),
    (4, "finalized"),
    (10, "configuring"),
    (11, "cleaningup"),
    (12, "shuttingdown"),
    (13, "activating"),
    (14, "deactivating"),
    (15, "errorprocessing"),
];

/// The label of a state.
pub fn label(state: u8) -> &'static str {
    STATES.iter().find(|(id, _)| *id == state).map_or("unknown", |(_, label)| label)
}

/// A step a client may ask for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Id.
    pub id: u8,
    /// Label.
    pub label: &'static str,
    /// From where.
    pub from: u8,
    /// To where.
    pub to: u8,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 7] = [
        Self { id: 1, label: "configure", from: 1, to: 2 },
        Self { id: 2, label: "cleanup", from: 2, to: 1 },
        Self { id: 3, label: "activate", from: 2, to: 3 },
        Self { id: 4, label: "deactivate", from: 3, to: 2 },
        Self { id: 5, label: "shutdown", from: 1, to: 4 },
        Self { id: 6, label: "shutdown", from: 2, to: 4 },
        Self { id: 7, label: "shutdown", from: 3, to: 4 },
    ];

    /// The step a request names, if it starts from `state`: by label where there is one, else by id.
    pub fn asked(transition: Transition, state: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| {
            let named =
                if transition.label.is_empty() { step.id == transition.id } else { step.label == transition.label };
            named && step.from == state
        })
    }

    /// As messages have it.
    pub fn description(self) -> TransitionDescription<'static> {
        TransitionDescription {
            transition: Transition { id: self.id, label: self.label },
            start_state: State { id: self.from, label: label(self.from) },
            goal_state: State { id: self.to, label: label(self.to) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_named_by_label_or_id_and_only_from_its_state() {
        let asked = |id, label, state| Step::asked(Transition { id, label }, state).map(|step| (step.id, step.to));
        assert_eq!(asked(1, "", 1), Some((1, 2)));
        assert_eq!(asked(1, "", 2), None);
        assert_eq!(asked(0, "activate", 2), Some((3, 3)));
        assert_eq!(asked(1, "activate", 2), Some((3, 3)), "the label decides");
        assert_eq!(asked(0, "shutdown", 3), Some((7, 4)));
        assert_eq!(asked(0, "fly", 3), None);
        assert_eq!(asked(99, "", 3), None);
    }
}
