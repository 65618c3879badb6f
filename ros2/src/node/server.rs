//! The services and topics of a managed node: what is asked of it becomes orders, which its owner carries out.

use super::lifecycle::{STATES, Step, label};
use super::lock;
use super::parameters::{ParameterStore, Value};
use super::time::NodeTime;
use crate::cdr::CdrError;
use crate::interface::*;
use crate::rmw::Qos;
use crate::transport::{Endpoint, Publisher, Request, Transport, TransportError};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// Why a node's services are not there.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The middleware.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Answers whoever gave an order: whether it was carried out, and what there is to say.
pub type Reply = Box<dyn FnOnce(bool, &str) + Send>;

/// What the node is asked to do. Orders are carried out in the order they came.
pub enum Order {
    /// Take a lifecycle step, which starts from the state the node had.
    Step(Step, Reply),
    /// Stop now and latch it.
    Estop(Reply),
    /// Leave a latched stop.
    Reset(Reply),
    /// Let motion begin, or end it.
    Enable(bool, Reply),
    /// Another instruction.
    Instruct(String),
    /// A parameter was set.
    Set(&'static str, Value),
}

struct Shared {
    state: AtomicU8,
    parameters: Mutex<ParameterStore>,
    refused: AtomicU64,
    time: NodeTime,
}

/// The services of a managed node.
pub struct NodeServer {
    node: String,
    shared: Arc<Shared>,
    transitions: Mutex<Box<dyn Publisher>>,
    diagnostics: Mutex<Box<dyn Publisher>>,
    log: Mutex<Box<dyn Publisher>>,
    status: Mutex<Box<dyn Publisher>>,
    _endpoints: Vec<Box<dyn Endpoint>>,
}

fn answer<'a>(request: Request, response: &impl Wire<'a>) {
    let mut buffer = Vec::new();
    if let Ok(bytes) = encode_into(response, &mut buffer) {
        let _ = (request.answer)(bytes); // who asked may be gone
    }
}

impl NodeServer {
    /// Shows the node's services and topics; the orders given through them.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(
        transport: &dyn Transport,
        parameters: ParameterStore,
        time: NodeTime,
    ) -> Result<(Self, Receiver<Order>), ServerError> {
        let (orders, inbox) = channel();
        let shared = Arc::new(Shared {
            state: AtomicU8::new(1),
            parameters: Mutex::new(parameters),
            refused: AtomicU64::new(0),
            time,
        });
        let mut endpoints = Vec::new();
        lifecycle_services(transport, &shared, &orders, &mut endpoints)?;
        parameter_services(transport, &shared, &orders, &mut endpoints)?;
        robot_services(transport, &shared, &orders, &mut endpoints)?;
        let publisher = |topic: &str, kind, qos| transport.publisher(topic, kind, qos).map(Mutex::new);
        let server = Self {
            node: transport.node(),
            transitions: publisher("~/transition_event", TransitionEvent::TYPE, Qos::DEFAULT)?,
            diagnostics: publisher("/diagnostics", DiagnosticArray::TYPE, Qos::DEFAULT)?,
            status: publisher("~/status", Text::TYPE, Qos::LATCHED)?,
            log: publisher("/rosout", Log::TYPE, Qos { depth: 1000, ..Qos::LATCHED })?,
            shared,
            _endpoints: endpoints,
        };
        Ok((server, inbox))
    }

    /// The node's full name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The lifecycle state shown, by id.
    pub fn state(&self) -> u8 {
        self.shared.state.load(Ordering::Acquire)
    }

    /// Shows another state and tells of the step that led there.
    pub fn enter(&self, step: Step) {
        self.shared.state.store(step.to, Ordering::Release);
        let TransitionDescription { transition, start_state, goal_state } = step.description();
        let timestamp = self.shared.time.now().as_nanos();
        let mut buffer = Vec::new();
        if let Ok(bytes) = encode_into(&TransitionEvent { timestamp, transition, start_state, goal_state }, &mut buffer)
        {
            let _ = lock(&self.transitions).publish(bytes); // seen by get_state too
        }
    }

    /// Requests that were refused because they could not be read.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// A parameter's value.
    pub fn parameter(&self, name: &str) -> Option<Value> {
        lock(&self.shared.parameters).get(name).map(|parameter| parameter.value.clone())
    }

    /// Shows a parameter's value that came about in another way, such as an instruction on its topic.
    pub fn show(&self, name: &str, value: Value) {
        lock(&self.shared.parameters).set(name, value);
    }

    /// Publishes the parts of the node on `/diagnostics`, and the same as one JSON object on `~/status`, where a reader
    /// that comes late gets it too.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn report(&self, robot: &str, parts: &[super::Part]) -> Result<(), TransportError> {
        let mut buffer = Vec::new();
        let data = super::status_json(self.state(), robot, parts);
        if let Ok(bytes) = encode_into(&Text { data: &data }, &mut buffer) {
            lock(&self.status).publish(bytes)?;
        }
        let stamp = self.shared.time.now();
        match super::encode_report(&self.node, robot, parts, stamp, &mut buffer) {
            Ok(bytes) => lock(&self.diagnostics).publish(bytes),
            Err(error) => Err(TransportError::Send { name: "/diagnostics".into(), reason: error.to_string() }),
        }
    }

    /// Publishes a line on `/rosout`: 20 information, 30 warning, 40 error.
    pub fn log(&self, level: u8, line: &str) {
        let mut buffer = Vec::new();
        let message = Log {
            stamp: self.shared.time.now(),
            level,
            name: self.node.trim_start_matches('/'),
            msg: line,
            ..Default::default()
        };
        if let Ok(bytes) = encode_into(&message, &mut buffer) {
            let _ = lock(&self.log).publish(bytes); // the log is a courtesy
        }
    }
}

fn refuse(shared: &Shared, _: CdrError) {
    shared.refused.fetch_add(1, Ordering::Relaxed);
}

type Endpoints = Vec<Box<dyn Endpoint>>;

fn lifecycle_services(
    transport: &dyn Transport,
    shared: &Arc<Shared>,
    orders: &Sender<Order>,
    endpoints: &mut Endpoints,
) -> Result<(), TransportError> {
    let (of_change, to_owner) = (Arc::clone(shared), orders.clone());
    endpoints.push(transport.serve(
        "~/change_state",
        ChangeState::TYPE,
        Box::new(move |request| {
            let asked = match decode::<ChangeStateRequest>(&request.bytes) {
                Ok(asked) => Step::asked(asked.transition, of_change.state.load(Ordering::Acquire)),
                Err(error) => return refuse(&of_change, error),
            };
            let Some(step) = asked else { return answer(request, &ChangeStateResponse { success: false }) };
            let reply: Reply = Box::new(move |success, _| answer(request, &ChangeStateResponse { success }));
            // The owner is gone only when the node ends, and then nobody waits for an answer.
            let _ = to_owner.send(Order::Step(step, reply));
        }),
    )?);
    let of_state = Arc::clone(shared);
    endpoints.push(transport.serve(
        "~/get_state",
        GetState::TYPE,
        Box::new(move |request| {
            let id = of_state.state.load(Ordering::Acquire);
            answer(request, &GetStateResponse { current_state: State { id, label: label(id) } });
        }),
    )?);
    endpoints.push(transport.serve(
        "~/get_available_states",
        GetAvailableStates::TYPE,
        Box::new(move |request| {
            let states = STATES.map(|(id, label)| State { id, label });
            answer(request, &GetAvailableStatesResponse { available_states: (&states).into() });
        }),
    )?);
    for (name, all) in [("~/get_available_transitions", false), ("~/get_transition_graph", true)] {
        let shared = Arc::clone(shared);
        endpoints.push(transport.serve(
            name,
            GetAvailableTransitions::TYPE,
            Box::new(move |request| {
                let now = shared.state.load(Ordering::Acquire);
                let steps: Vec<_> =
                    Step::ALL.iter().filter(|step| all || step.from == now).map(|step| step.description()).collect();
                answer(request, &GetAvailableTransitionsResponse { available_transitions: (&steps).into() });
            }),
        )?);
    }
    Ok(())
}

/// Applies one or all of the parameters of a request; one result each.
fn apply(
    shared: &Shared,
    orders: &Sender<Order>,
    asked: &SetParametersRequest,
    atomic: bool,
) -> Vec<Result<(), String>> {
    let is_active = shared.state.load(Ordering::Acquire) == 3;
    let mut store = lock(&shared.parameters);
    let checked: Vec<_> = asked
        .parameters
        .iter()
        .map(|parameter| {
            let value = Value::from_message(&parameter.value);
            store
                .check(parameter.name, value.as_ref(), parameter.value.r#type, is_active)
                .map(|()| value)
                .map_err(|error| error.to_string())
        })
        .collect();
    if atomic && let Some(Err(error)) = checked.iter().find(|result| result.is_err()) {
        return vec![Err(error.clone())];
    }
    let mut results = Vec::new();
    for (parameter, result) in asked.parameters.iter().zip(checked) {
        results.push(result.map(|value| {
            if let (Some(value), Some(name)) = (value, store.get(parameter.name).map(|known| known.name)) {
                store.set(name, value.clone());
                let _ = orders.send(Order::Set(name, value)); // as above
            }
        }));
    }
    results
}

fn parameter_services(
    transport: &dyn Transport,
    shared: &Arc<Shared>,
    orders: &Sender<Order>,
    endpoints: &mut Endpoints,
) -> Result<(), TransportError> {
    let of = Arc::clone(shared);
    endpoints.push(transport.serve(
        "~/get_parameters",
        GetParameters::TYPE,
        Box::new(move |request| {
            let store = lock(&of.parameters).clone();
            let names: Vec<String> = match decode::<NamesRequest>(&request.bytes) {
                Ok(asked) => asked.names.iter().map(str::to_owned).collect(),
                Err(error) => return refuse(&of, error),
            };
            let found: Vec<_> = names.iter().map(|name| store.get(name)).collect();
            let texts: Vec<Vec<&str>> =
                found.iter().map(|known| known.map_or_else(Vec::new, |known| known.value.texts())).collect();
            let values: Vec<_> = found
                .iter()
                .zip(&texts)
                .map(|(known, texts)| known.map_or_else(ParameterValue::default, |known| known.value.to_message(texts)))
                .collect();
            answer(request, &GetParametersResponse { values: (&values).into() });
        }),
    )?);
    let of = Arc::clone(shared);
    endpoints.push(transport.serve(
        "~/get_parameter_types",
        GetParameterTypes::TYPE,
        Box::new(move |request| {
            let types: Vec<u8> = match decode::<NamesRequest>(&request.bytes) {
                Ok(asked) => {
                    let store = lock(&of.parameters);
                    asked.names.iter().map(|name| store.get(name).map_or(0, |known| known.value.kind())).collect()
                }
                Err(error) => return refuse(&of, error),
            };
            answer(request, &GetParameterTypesResponse { types: &types });
        }),
    )?);
    let of = Arc::clone(shared);
    endpoints.push(transport.serve(
        "~/list_parameters",
        ListParameters::TYPE,
        Box::new(move |request| {
            let prefixes: Vec<String> = match decode::<ListParametersRequest>(&request.bytes) {
                Ok(asked) => asked.prefixes.iter().map(str::to_owned).collect(),
                Err(error) => return refuse(&of, error),
            };
            let store = lock(&of.parameters).clone();
            let has_prefix = |name: &str| {
                prefixes.is_empty()
                    || prefixes.iter().any(|prefix| name == prefix || name.starts_with(&format!("{prefix}.")))
            };
            let names: Vec<&str> = store.iter().map(|known| known.name).filter(|name| has_prefix(name)).collect();
            let result = ListParametersResult { names: (&names).into(), ..Default::default() };
            answer(request, &ListParametersResponse { result });
        }),
    )?);
    let of = Arc::clone(shared);
    endpoints.push(transport.serve(
        "~/describe_parameters",
        DescribeParameters::TYPE,
        Box::new(move |request| {
            let store = lock(&of.parameters).clone();
            let names: Vec<String> = match decode::<NamesRequest>(&request.bytes) {
                Ok(asked) => asked.names.iter().map(str::to_owned).collect(),
                Err(error) => return refuse(&of, error),
            };
            let descriptors: Vec<_> = names
                .iter()
                .map(|name| {
                    let unknown = ParameterDescriptor { name, ..Default::default() };
                    store.get(name).map_or(unknown, |known| known.descriptor())
                })
                .collect();
            answer(request, &DescribeParametersResponse { descriptors: (&descriptors).into() });
        }),
    )?);
    let events =
        Arc::new(Mutex::new(transport.publisher("/parameter_events", ParameterEvent::TYPE, Qos::PARAMETERS)?));
    let node = transport.node();
    for (name, atomic) in [("~/set_parameters", false), ("~/set_parameters_atomically", true)] {
        let (of, to_owner, events, node) = (Arc::clone(shared), orders.clone(), Arc::clone(&events), node.clone());
        let kind = if atomic { SetParametersAtomically::TYPE } else { SetParameters::TYPE };
        endpoints.push(transport.serve(
            name,
            kind,
            Box::new(move |request| {
                let results = match decode::<SetParametersRequest>(&request.bytes) {
                    Ok(asked) => {
                        let results = apply(&of, &to_owner, &asked, atomic);
                        let changed: Vec<Parameter> = asked
                            .parameters
                            .iter()
                            .zip(&results)
                            .filter(|(_, result)| result.is_ok())
                            .map(|(parameter, _)| parameter)
                            .collect();
                        if !changed.is_empty() {
                            let event = ParameterEvent {
                                stamp: of.time.now(),
                                node: &node,
                                changed_parameters: (&changed).into(),
                                ..Default::default()
                            };
                            let mut buffer = Vec::new();
                            if let Ok(bytes) = encode_into(&event, &mut buffer) {
                                let _ = lock(&events).publish(bytes); // an event is a courtesy
                            }
                        }
                        results
                    }
                    Err(error) => return refuse(&of, error),
                };
                let messages: Vec<_> = results
                    .iter()
                    .map(|result| SetParametersResult {
                        successful: result.is_ok(),
                        reason: result.as_ref().err().map_or("", String::as_str),
                    })
                    .collect();
                if atomic {
                    let failed = messages.iter().find(|message| !message.successful).copied();
                    let result = failed.unwrap_or(SetParametersResult { successful: true, reason: "" });
                    answer(request, &SetParametersAtomicallyResponse { result });
                } else {
                    answer(request, &SetParametersResponse { results: (&messages).into() });
                }
            }),
        )?);
    }
    Ok(())
}

fn robot_services(
    transport: &dyn Transport,
    shared: &Arc<Shared>,
    orders: &Sender<Order>,
    endpoints: &mut Endpoints,
) -> Result<(), TransportError> {
    let reply_to = |request: Request| -> Reply {
        Box::new(move |success, message| answer(request, &Outcome { success, message }))
    };
    type Make = fn(Reply) -> Order;
    for (name, make) in [("~/estop", Order::Estop as Make), ("~/reset", Order::Reset as Make)] {
        let to_owner = orders.clone();
        endpoints.push(transport.serve(
            name,
            Trigger::TYPE,
            Box::new(move |request| drop(to_owner.send(make(reply_to(request))))),
        )?);
    }
    let (of_enable, to_owner) = (Arc::clone(shared), orders.clone());
    endpoints.push(transport.serve(
        "~/enable",
        SetBool::TYPE,
        Box::new(move |request| match decode::<SetBoolRequest>(&request.bytes) {
            Ok(asked) => drop(to_owner.send(Order::Enable(asked.data, reply_to(request)))),
            Err(error) => refuse(&of_enable, error),
        }),
    )?);
    let (of_text, to_owner) = (Arc::clone(shared), orders.clone());
    endpoints.push(transport.subscribe(
        "~/instruction",
        Text::TYPE,
        Qos::DEFAULT,
        Box::new(move |bytes, _| match decode::<Text>(bytes) {
            Ok(text) => drop(to_owner.send(Order::Instruct(text.data.to_owned()))),
            Err(error) => refuse(&of_text, error),
        }),
    )?);
    Ok(())
}
