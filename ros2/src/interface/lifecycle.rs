//! Managed nodes: states, transitions and the services about them.

use super::{Empty, Seq, interface, service, topic};

interface!(
    /// A state of a managed node.
    State<'a> = "lifecycle_msgs/msg/State" {
        /// 1 unconfigured, 2 inactive, 3 active, 4 finalized; 10 to 15 between them.
        id: u8,
        /// Name.
        label: &'a str,
    }
);

interface!(
    /// A step between states.
    Transition<'a> = "lifecycle_msgs/msg/Transition" {
        /// 1 configure, 2 cleanup, 3 activate, 4 deactivate, 5 to 7 shutdown.
        id: u8,
        /// Name.
        label: &'a str,
    }
);

interface!(
    /// A step and where it leads.
    TransitionDescription<'a> = "lifecycle_msgs/msg/TransitionDescription" {
        /// The step.
        transition: Transition<'a>,
        /// From where.
        start_state: State<'a>,
        /// To where.
        goal_state: State<'a>,
    }
);

interface!(
    /// A step was taken.
    TransitionEvent<'a> = "lifecycle_msgs/msg/TransitionEvent" {
        /// When, ns since the Unix epoch.
        timestamp: u64,
        /// The step.
        transition: Transition<'a>,
        /// From where.
        start_state: State<'a>,
        /// To where.
        goal_state: State<'a>,
    }
);
topic!(
    TransitionEvent<'a>,
    "lifecycle_msgs",
    "TransitionEvent",
    "d5f8873a2f0146498f812d7885c7327ce27e463d36811d8792f35ee38c0d6c38"
);

interface!(
    /// Ask for a step.
    ChangeStateRequest<'a> = "lifecycle_msgs/srv/ChangeState_Request" {
        /// By label where it has one, else by id.
        transition: Transition<'a>,
    }
);
interface!(
    /// Whether it was taken.
    ChangeStateResponse = "lifecycle_msgs/srv/ChangeState_Response" {
        /// Whether it was taken.
        success: bool,
    }
);
service!(
    /// Take a step.
    ChangeState, ChangeStateRequest<'a>, ChangeStateResponse, "lifecycle_msgs", "ChangeState",
    "356fe34f0475a43acf54542013af4167b0e729f77ea22ffb045c6ad8e20668e5"
);

interface!(
    /// The present state.
    GetStateResponse<'a> = "lifecycle_msgs/srv/GetState_Response" {
        /// The present state.
        current_state: State<'a>,
    }
);
service!(
    /// Which state?
    GetState, Empty, GetStateResponse<'a>, "lifecycle_msgs", "GetState",
    "800a0a5aae599782b02932de0caf563f6dc4e7e94b794eadde075ba2cbef9795"
);

interface!(
    /// All states.
    GetAvailableStatesResponse<'a> = "lifecycle_msgs/srv/GetAvailableStates_Response" {
        /// All states.
        available_states: Seq<'a, State<'a>>,
    }
);
service!(
    /// Which states are there?
    GetAvailableStates, Empty, GetAvailableStatesResponse<'a>, "lifecycle_msgs", "GetAvailableStates",
    "00a07d79d2207d71e81a8cbc1880e5d924cc16d4688ea8e8e06e443dc8f8aa1d"
);

interface!(
    /// Steps.
    GetAvailableTransitionsResponse<'a> = "lifecycle_msgs/srv/GetAvailableTransitions_Response" {
        /// Steps.
        available_transitions: Seq<'a, TransitionDescription<'a>>,
    }
);
service!(
    /// Which steps are there?
    GetAvailableTransitions, Empty, GetAvailableTransitionsResponse<'a>, "lifecycle_msgs", "GetAvailableTransitions",
    "59b7ecefce0982a8a844b9f2c4f14764c1c4543cc55e72924e2aa4adad83e9bc"
);
