//! A node of the ROS 2 that is sourced, through r2r (rcl): on whichever middleware `RMW_IMPLEMENTATION` names.
//!
//! Messages cross as bytes, so the codec is that of every other transport; services are bridged to r2r's types. What r2r
//! does not offer is absent: the publisher of a message (the graph is asked instead), the names of nodes that publish
//! nothing, subscribers and servers of others but whether there are any, and type hashes. A subscription or service that is
//! dropped is silent at once, and leaves the graph with the next message or request; a client stays until the node goes.

mod graph;
mod quality;
mod service;
mod spinner;

use crate::graph::{Finding, findings, needs_peer};
use crate::interface::ServiceType;
use crate::message::MessageType;
use crate::rmw::{EndpointKind, NameError, Node, NodeToken, Qos};
use crate::transport::{Client, Endpoint, OnMessage, OnRequest, Publisher, Transport, TransportError};
use core::time::Duration;
use futures::future::AbortHandle;
use futures::stream::StreamExt;
use graph::{Others, Own, Sender};
use r2r::PublisherUntyped;
use service::{Ask, bridge_of};
use spinner::{NoNode, Orders, Spinner};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How a node is called. Its domain and middleware are those of the environment (`ROS_DOMAIN_ID`, `RMW_IMPLEMENTATION`),
/// and the same for all nodes of a process: rcl has one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct R2rOptions {
    /// The node's namespace, `/` or `/some/name`.
    pub namespace: String,
    /// The node's name.
    pub node: String,
    /// Topics and services under other names, from and to. rcl reads the `--ros-args` of this process by itself as well.
    pub remaps: Vec<(String, String)>,
    /// Whether other machines may hear of the node. Without it the environment must keep it here, as it is the middleware
    /// that binds: `ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST`, before Iron `ROS_LOCALHOST_ONLY=1`.
    pub allow_remote: bool,
}

impl Default for R2rOptions {
    fn default() -> Self {
        Self { namespace: "/".into(), node: "endplate".into(), remaps: Vec::new(), allow_remote: false }
    }
}

/// Why a node cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum R2rError {
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The environment lets other machines in.
    #[error(
        "other machines would hear of the node: set ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST (before Iron \
         ROS_LOCALHOST_ONLY=1) and no ROS_STATIC_PEERS, or allow remote endpoints"
    )]
    Remote,
    /// A rule of `--ros-args` that would be applied to what another made.
    #[error(
        "--ros-args: {from}:={to} leads to a name that another rule changes, and rcl would apply both: name the last one"
    )]
    Chained {
        /// From.
        from: String,
        /// To.
        to: String,
    },
    /// The thread that owns the node.
    #[error("the thread of r2r could not be started: is the process's thread limit reached?")]
    Thread(#[source] std::io::Error),
    /// rcl was not initialised; its own message stands on standard error.
    #[error(
        "rcl did not start, as said above: is the ROS this was built with sourced, and does it know every word of --ros-args?"
    )]
    Context,
    /// The node.
    #[error("no node {node}: {reason}")]
    Node {
        /// Its full name.
        node: String,
        /// rcl's reason.
        reason: String,
    },
}

/// A node of the sourced ROS 2.
pub struct R2rTransport {
    spinner: Spinner,
    node: Node,
    token: NodeToken,
    remaps: Vec<(String, String)>,
    malformed: Arc<AtomicU64>,
}

/// Whether the environment keeps the node on this machine.
fn is_local(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is = |name: &str, values: &[&str]| variable(name).is_some_and(|value| values.contains(&&*value));
    let has_peers = variable("ROS_STATIC_PEERS").is_some_and(|peers| !peers.is_empty());
    is("ROS_LOCALHOST_ONLY", &["1"]) || (is("ROS_AUTOMATIC_DISCOVERY_RANGE", &["LOCALHOST", "OFF"]) && !has_peers)
}

/// The first rule that makes a name which another rule changes.
fn chained(remaps: &[(String, String)]) -> Option<&(String, String)> {
    remaps.iter().find(|(from, to)| from != to && remaps.iter().any(|(other, _)| other == to))
}

impl R2rTransport {
    /// Makes the node.
    ///
    /// # Errors
    /// [`R2rError`].
    ///
    /// # Real-time
    /// Blocks, allocates, and starts a thread beside those of the middleware.
    pub fn open(options: &R2rOptions) -> Result<Self, R2rError> {
        let node = Node::new(0, String::new(), &options.namespace, &options.node)?;
        let remaps = options
            .remaps
            .iter()
            .map(|(from, to)| Ok((node.topic(from)?, node.topic(to)?)))
            .collect::<Result<Vec<_>, NameError>>()?;
        if std::env::args().any(|word| word == "--ros-args")
            && let Some((from, to)) = chained(&remaps)
        {
            return Err(R2rError::Chained { from: from.clone(), to: to.clone() });
        }
        if !options.allow_remote && !is_local(|name| std::env::var(name).ok()) {
            return Err(R2rError::Remote);
        }
        let started = Spinner::start(options.node.clone(), options.namespace.clone());
        let spinner = started.map_err(|error| match error {
            NoNode::Thread(error) => R2rError::Thread(error),
            NoNode::Context => R2rError::Context,
            NoNode::Node(error) => R2rError::Node { node: node.full_name(), reason: error.to_string() },
        })?;
        let token = NodeToken {
            domain: 0,
            zid: node.full_name(),
            node_id: 0,
            entity_id: 0,
            enclave: "/".into(),
            namespace: options.namespace.clone(),
            name: options.node.clone(),
        };
        Ok(Self { spinner, node, token, remaps, malformed: Arc::default() })
    }

    fn resolved(&self, name: &str) -> Result<String, TransportError> {
        let name = self.node.topic(name)?;
        Ok(self.remaps.iter().find(|(from, _)| *from == name).map_or(name, |(_, to)| to.clone()))
    }

    /// Makes an endpoint on the thread that owns the node.
    fn make<T: Send + 'static>(
        &self,
        kind: EndpointKind,
        name: &str,
        make: impl FnOnce(&mut spinner::Spun) -> Result<T, r2r::Error> + Send + 'static,
    ) -> Result<T, TransportError> {
        let refused = |reason| TransportError::Declare { endpoint: kind.name(), name: name.to_owned(), reason };
        match self.spinner.orders.ask(make) {
            Some(made) => made.map_err(|error| refused(error.to_string())),
            None => Err(refused("the thread of r2r is gone, or is the one that asks".to_owned())),
        }
    }

    fn unbridged(kind: EndpointKind, name: &str, type_: ServiceType) -> TransportError {
        let reason = format!("r2r was built without {}", type_.ros_name);
        TransportError::Declare { endpoint: kind.name(), name: name.to_owned(), reason }
    }
}

struct R2rPublisher {
    publisher: PublisherUntyped,
    name: String,
    key: u64,
    orders: Orders,
}

impl Publisher for R2rPublisher {
    fn publish(&mut self, message: &[u8]) -> Result<(), TransportError> {
        self.publisher
            .publish_raw(message)
            .map_err(|error| TransportError::Send { name: self.name.clone(), reason: error.to_string() })
    }
}

impl Drop for R2rPublisher {
    fn drop(&mut self) {
        let (key, publisher) = (self.key, self.publisher.clone());
        self.orders.send(move |spun| {
            drop(spun.own.remove(key));
            spun.node.borrow_mut().destroy_publisher_untyped(publisher);
        });
    }
}

/// A subscription or a service.
struct Held {
    task: AbortHandle,
    name: String,
    key: u64,
    orders: Orders,
}

impl Endpoint for Held {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
        let key = self.key;
        self.orders.send(move |spun| drop(spun.own.remove(key)));
    }
}

struct R2rClient {
    ask: Ask,
    /// A server was there at the last look.
    met: bool,
    name: String,
    key: u64,
    orders: Orders,
}

impl Client for R2rClient {
    fn call(&mut self, request: &[u8], timeout: Duration) -> Result<Vec<u8>, TransportError> {
        let start = Instant::now();
        let silent = |name: &str| TransportError::NoAnswer { name: name.to_owned(), timeout };
        // A request to a server not yet discovered would be lost.
        while !self.met {
            let key = self.key;
            let ask = move |spun: &mut spinner::Spun| spun.own.is_served(key, &spun.node);
            self.met = self.orders.ask(ask).unwrap_or(false);
            if !self.met && start.elapsed() > timeout {
                return Err(silent(&self.name));
            }
            if !self.met {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let failed = |error: r2r::Error| TransportError::Send { name: self.name.clone(), reason: error.to_string() };
        let pending = (self.ask)(request).map_err(failed)?;
        match service::wait(pending, start + timeout) {
            Some(answer) => answer.map_err(failed),
            None => {
                self.met = false;
                Err(silent(&self.name))
            }
        }
    }
}

impl Drop for R2rClient {
    fn drop(&mut self) {
        let key = self.key;
        self.orders.send(move |spun| drop(spun.own.remove(key)));
    }
}

impl Transport for R2rTransport {
    fn node(&self) -> String {
        self.node.full_name()
    }

    fn publisher(&self, topic: &str, kind: MessageType, qos: Qos) -> Result<Box<dyn Publisher>, TransportError> {
        let name = self.resolved(topic)?;
        let of_thread = name.clone();
        let (publisher, key) = self.make(EndpointKind::Publisher, &name, move |spun| {
            let quality = quality::to_r2r(qos);
            let publisher = spun.node.borrow_mut().create_publisher_untyped(&of_thread, kind.ros_name, quality)?;
            let others = Others::Subscriptions(publisher.clone());
            let own = Own { kind: EndpointKind::Publisher, name: of_thread, type_: kind, qos, others };
            Ok((publisher, spun.own.add(own)))
        })?;
        Ok(Box::new(R2rPublisher { publisher, name, key, orders: self.spinner.orders.clone() }))
    }

    fn subscribe(
        &self,
        topic: &str,
        kind: MessageType,
        qos: Qos,
        mut on: OnMessage,
    ) -> Result<Box<dyn Endpoint>, TransportError> {
        let name = self.resolved(topic)?;
        let of_thread = name.clone();
        let (task, key) = self.make(EndpointKind::Subscription, &name, move |spun| {
            let quality = quality::to_r2r(qos);
            let messages = spun.node.borrow_mut().subscribe_raw(&of_thread, kind.ros_name, quality)?;
            let (node, mut sender) = (Rc::clone(&spun.node), Sender::new(of_thread.clone(), kind, qos));
            let task = spun.run(messages.for_each(move |bytes| {
                let source = sender.of_message(&node.borrow());
                on(&bytes, source);
                core::future::ready(())
            }));
            let others = Others::Publishers;
            Ok((
                task,
                spun.own.add(Own { kind: EndpointKind::Subscription, name: of_thread, type_: kind, qos, others }),
            ))
        })?;
        Ok(Box::new(Held { task, name, key, orders: self.spinner.orders.clone() }))
    }

    fn serve(&self, service: &str, kind: ServiceType, on: OnRequest) -> Result<Box<dyn Endpoint>, TransportError> {
        let (endpoint, name) = (EndpointKind::Server, self.resolved(service)?);
        let bridge = bridge_of(kind).ok_or_else(|| Self::unbridged(endpoint, &name, kind))?;
        let (of_thread, malformed) = (name.clone(), Arc::clone(&self.malformed));
        let (task, key) = self.make(endpoint, &name, move |spun| {
            let task = (bridge.serve)(spun, &of_thread, on, malformed)?;
            let (type_, others) = (kind.as_message(), Others::Clients);
            Ok((task, spun.own.add(Own { kind: endpoint, name: of_thread, type_, qos: Qos::DEFAULT, others })))
        })?;
        Ok(Box::new(Held { task, name, key, orders: self.spinner.orders.clone() }))
    }

    fn client(&self, service: &str, kind: ServiceType) -> Result<Box<dyn Client>, TransportError> {
        let (endpoint, name) = (EndpointKind::Client, self.resolved(service)?);
        let bridge = bridge_of(kind).ok_or_else(|| Self::unbridged(endpoint, &name, kind))?;
        let of_thread = name.clone();
        let (ask, key) = self.make(endpoint, &name, move |spun| {
            let (ask, is_served) = (bridge.client)(spun, &of_thread)?;
            let (type_, others) = (kind.as_message(), Others::Servers(is_served));
            Ok((ask, spun.own.add(Own { kind: endpoint, name: of_thread, type_, qos: Qos::DEFAULT, others })))
        })?;
        Ok(Box::new(R2rClient { ask, met: false, name, key, orders: self.spinner.orders.clone() }))
    }

    /// Those that publish `/parameter_events` or `/rosout`, as every node of rclcpp and rclpy does, or a topic of this node.
    fn nodes(&self) -> Vec<String> {
        let me = self.node();
        let alone = vec![me.clone()];
        self.spinner.orders.ask(move |spun| graph::nodes(&spun.node.borrow(), &spun.own, me)).unwrap_or(alone)
    }

    /// Of a publisher that nobody can take for its type or quality of service, only that nobody takes it.
    fn findings(&self) -> Vec<Finding> {
        let token = self.token.clone();
        let endpoints = self.spinner.orders.ask(move |spun| spun.own.endpoints(&spun.node, &token));
        let endpoints = endpoints.unwrap_or_default();
        findings(&endpoints.iter().collect::<Vec<_>>(), &self.token.zid, needs_peer)
    }

    /// Requests that r2r could not write as bytes. A message that cannot be taken never comes this far.
    fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_keeps_the_node_here_or_it_is_refused() {
        let of = |set: &[(&str, &str)], name: &str| {
            set.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned())
        };
        let range = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST");
        for (set, local) in [
            (&[][..], false),
            (&[range][..], true),
            (&[("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")][..], false),
            (&[range, ("ROS_STATIC_PEERS", "10.0.0.2")][..], false),
            (&[("ROS_LOCALHOST_ONLY", "1")][..], true),
            (&[("ROS_LOCALHOST_ONLY", "0")][..], false),
        ] {
            assert_eq!(is_local(|name| of(set, name)), local, "{set:?}");
        }
    }

    #[test]
    fn a_rule_that_leads_to_another_is_found() {
        let rules = |rules: &[(&str, &str)]| -> Vec<(String, String)> {
            rules.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
        };
        assert_eq!(chained(&rules(&[("/a", "/b"), ("/c", "/d")])), None);
        assert_eq!(chained(&rules(&[("/a", "/b"), ("/b", "/c")])), Some(&("/a".into(), "/b".into())));
        assert_eq!(chained(&rules(&[("/a", "/a")])), None);
    }
}
