//! A ROS 2 node on DDS, as rmw_fastrtps and rmw_cyclonedds make it: topics, types, the graph of nodes, services.

mod bytes;
mod dispatch;
mod names;
mod policy;
mod service;

pub use service::ServiceMapping;

use crate::graph::{Finding, findings, needs_peer};
use crate::interface::ServiceType;
use crate::message::MessageType;
use crate::rmw::discovery::{self, Gid, GidBytes, NodeEntities, ParticipantEntities};
use crate::rmw::{EndpointKind, EndpointToken, Hashes, NameError, Node, NodeToken, Qos};
use crate::transport::{Client, Endpoint, OnMessage, OnRequest, Publisher, Transport, TransportError};
use bytes::{AsIs, Message, Reader, Writer};
use dispatch::{Dispatch, Place, Take};
use rustdds::{DomainParticipant, DomainParticipantBuilder, GUID, RTPSEntity, Timestamp, Topic, TopicKind};
use service::{Answers, DdsClient};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a node takes part in DDS and what it is called there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DdsOptions {
    /// ROS_DOMAIN_ID, 0 to 232; above 101 the ports are those the system hands out to others.
    pub domain: u32,
    /// The node's namespace, `/` or `/some/name`.
    pub namespace: String,
    /// The node's name.
    pub node: String,
    /// Topics and services under other names, from and to.
    pub remaps: Vec<(String, String)>,
    /// Whether other machines are announced to. Without it only this machine hears of the node; but the sockets take what
    /// comes to their ports from anywhere, so this is no access control.
    pub allow_remote: bool,
    /// Whose services are spoken.
    pub mapping: ServiceMapping,
    /// Humble says who is who in longer words.
    pub hashes: Hashes,
}

impl Default for DdsOptions {
    fn default() -> Self {
        Self {
            domain: 0,
            namespace: "/".into(),
            node: "endplate".into(),
            remaps: Vec::new(),
            allow_remote: false,
            mapping: ServiceMapping::FastDds,
            hashes: Hashes::Rihs01,
        }
    }
}

/// Why a node cannot be put on DDS.
#[derive(Debug, thiserror::Error)]
pub enum DdsError {
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A domain DDS has no ports for.
    #[error("domain {0}: DDS has ports for 0 to 232; set ROS_DOMAIN_ID to one of these")]
    Domain(u32),
    /// The participant.
    #[error("no DDS participant on domain {domain}: {reason}")]
    Participant {
        /// The domain.
        domain: u32,
        /// The middleware's reason.
        reason: String,
    },
    /// The thread that takes messages in.
    #[error("the receiving thread could not be started: is the process's thread limit reached?")]
    Thread(#[source] std::io::Error),
    /// The topic that shows nodes.
    #[error(transparent)]
    Graph(#[from] TransportError),
}

/// What this node has, and the message that says so.
struct Owned {
    endpoints: BTreeMap<Gid, EndpointToken>,
    readers: Vec<Gid>,
    writers: Vec<Gid>,
    announcements: Option<Writer>,
}

struct Shared {
    owned: Mutex<Owned>,
    peers: Arc<Mutex<BTreeMap<Gid, ParticipantEntities>>>,
    dispatch: Dispatch,
    subscriber: rustdds::Subscriber,
    publisher: rustdds::Publisher,
    participant: DomainParticipant,
    node: Node,
    identity: NodeToken,
    gid_bytes: GidBytes,
}

/// A node on DDS.
pub struct DdsTransport {
    shared: Arc<Shared>,
    remaps: Vec<(String, String)>,
    mapping: ServiceMapping,
    _nodes: Option<Place>,
}

fn prefix(gid: &Gid) -> String {
    gid[..12].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refused(endpoint: EndpointKind, name: &str) -> impl Fn(String) -> TransportError + use<> {
    let name = name.to_owned();
    move |reason| TransportError::Declare { endpoint: endpoint.name(), name: name.clone(), reason }
}

impl DdsTransport {
    /// Opens a participant and shows the node in the graph.
    ///
    /// # Errors
    /// [`DdsError`].
    ///
    /// # Real-time
    /// Blocks, allocates, and starts three threads.
    pub fn open(options: &DdsOptions) -> Result<Self, DdsError> {
        let node = Node::new(options.domain, String::new(), &options.namespace, &options.node)?;
        let remaps = options
            .remaps
            .iter()
            .map(|(from, to)| Ok((node.topic(from)?, node.topic(to)?)))
            .collect::<Result<_, NameError>>()?;
        let domain = u16::try_from(options.domain).ok().filter(|domain| *domain <= 232);
        let mut builder = DomainParticipantBuilder::new(domain.ok_or(DdsError::Domain(options.domain))?);
        if !options.allow_remote {
            builder = builder.with_only_networks([Ipv4Addr::LOCALHOST]);
        }
        let failed = |reason: String| DdsError::Participant { domain: options.domain, reason };
        let participant = builder.build().map_err(|error| failed(error.to_string()))?;
        let quality = policy::to_dds(Qos::DEFAULT);
        let publisher = participant.create_publisher(&quality).map_err(|error| failed(error.to_string()))?;
        let subscriber = participant.create_subscriber(&quality).map_err(|error| failed(error.to_string()))?;
        let identity = NodeToken {
            domain: options.domain,
            zid: prefix(&participant.guid().to_bytes()),
            node_id: 0,
            entity_id: 0,
            enclave: "/".into(),
            namespace: options.namespace.clone(),
            name: options.node.clone(),
        };
        let shared = Arc::new(Shared {
            owned: Mutex::new(Owned {
                endpoints: BTreeMap::new(),
                readers: Vec::new(),
                writers: Vec::new(),
                announcements: None,
            }),
            peers: Arc::default(),
            dispatch: Dispatch::start().map_err(DdsError::Thread)?,
            subscriber,
            publisher,
            participant,
            node,
            identity,
            gid_bytes: if options.hashes == Hashes::Humble { GidBytes::HUMBLE } else { GidBytes::IRON },
        });
        let mut transport = Self { shared, remaps, mapping: options.mapping, _nodes: None };
        transport.watch_nodes()?;
        Ok(transport)
    }

    /// Announces this node, and hears of the others.
    fn watch_nodes(&mut self) -> Result<(), TransportError> {
        let shared = &self.shared;
        let announce = shared.writer(discovery::TOPIC, discovery::TYPE, Qos::LATCHED, EndpointKind::Publisher)?;
        // Each participant latches one message, and the depth counts them all.
        let every = Qos { depth: 256, ..Qos::LATCHED };
        let reader = shared.reader(discovery::TOPIC, discovery::TYPE, every, EndpointKind::Subscription)?;
        let (peers, gid_bytes) = (Arc::clone(&shared.peers), shared.gid_bytes);
        let take: Take = Box::new(move |arrived| {
            if let Ok(info) = ParticipantEntities::decode(&arrived.bytes, gid_bytes) {
                lock(&peers).insert(info.gid, info);
            }
        });
        lock(&shared.owned).announcements = Some(announce);
        self._nodes = Some(shared.dispatch.add(reader, take));
        shared.announce();
        Ok(())
    }

    fn resolved(&self, name: &str) -> Result<String, TransportError> {
        let name = self.shared.node.topic(name)?;
        Ok(self.remaps.iter().find(|(from, _)| *from == name).map_or(name, |(_, to)| to.clone()))
    }
}

impl Shared {
    fn topic(&self, topic: &str, dds_type: &str, qos: Qos) -> Result<Topic, String> {
        self.participant
            .create_topic(topic.to_owned(), dds_type.to_owned(), &policy::to_dds(qos), TopicKind::NoKey)
            .map_err(|error| error.to_string())
    }

    fn writer(&self, topic: &str, dds_type: &str, qos: Qos, kind: EndpointKind) -> Result<Writer, TransportError> {
        let made = self.topic(topic, dds_type, qos).and_then(|topic| {
            self.publisher
                .create_datawriter_no_key::<Message, AsIs>(&topic, Some(policy::to_dds(qos)))
                .map_err(|error| error.to_string())
        });
        made.map_err(refused(kind, topic))
    }

    fn reader(&self, topic: &str, dds_type: &str, qos: Qos, kind: EndpointKind) -> Result<Reader, TransportError> {
        let made = self.topic(topic, dds_type, qos).and_then(|topic| {
            self.subscriber
                .create_simple_datareader_no_key::<Message, AsIs>(&topic, Some(policy::to_dds(qos)))
                .map_err(|error| error.to_string())
        });
        made.map_err(refused(kind, topic))
    }

    /// Says which endpoints this node has.
    fn announce(&self) {
        let owned = lock(&self.owned);
        let node = NodeEntities {
            namespace: self.identity.namespace.clone(),
            name: self.identity.name.clone(),
            readers: owned.readers.clone(),
            writers: owned.writers.clone(),
        };
        let info = ParticipantEntities { gid: self.participant.guid().to_bytes(), nodes: vec![node] };
        if let (Some(writer), Ok(bytes)) = (&owned.announcements, info.encode(self.gid_bytes)) {
            let _ = writer.write(Message(bytes), Some(Timestamp::now())); // the next change says it all again
        }
    }

    /// Puts endpoints of this node into the graph, until the value is dropped.
    fn own(self: &Arc<Self>, token: EndpointToken, reader: Option<GUID>, writer: Option<GUID>) -> Own {
        let reader = reader.map(|guid| guid.to_bytes());
        let writer = writer.map(|guid| guid.to_bytes());
        {
            let mut owned = lock(&self.owned);
            owned.readers.extend(reader);
            owned.writers.extend(writer);
            if let Some(key) = writer.or(reader) {
                owned.endpoints.insert(key, token);
            }
        }
        self.announce();
        Own { shared: Arc::downgrade(self), reader, writer }
    }

    fn token(&self, kind: EndpointKind, name: &str, type_: MessageType, qos: Qos) -> EndpointToken {
        EndpointToken {
            node: self.identity.clone(),
            kind,
            topic: name.to_owned(),
            dds_name: type_.dds_name.to_owned(),
            hash: type_.hash.to_owned(),
            qos,
        }
    }

    /// The node a peer's endpoint belongs to.
    fn node_of(&self, gid: &Gid) -> NodeToken {
        let peers = lock(&self.peers);
        let is_its = |node: &&NodeEntities| node.readers.contains(gid) || node.writers.contains(gid);
        let node = peers.values().flat_map(|peer| &peer.nodes).find(is_its);
        let (namespace, name) = match node {
            Some(node) => (node.namespace.clone(), node.name.clone()),
            None => ("/".to_owned(), "(a DDS participant that is no ROS 2 node)".to_owned()),
        };
        NodeToken { zid: prefix(gid), namespace, name, ..self.identity.clone() }
    }

    /// Every endpoint of ROS 2 there is, this node's own first.
    fn endpoints(&self) -> Vec<EndpointToken> {
        let mut all: Vec<EndpointToken> = lock(&self.owned).endpoints.values().cloned().collect();
        let mut add = |gid: Gid, topic: &str, dds_type: &str, user_data: &[u8], qos: Qos, is_reader: bool| {
            let Some(named) = names::ros_endpoint(topic, dds_type, is_reader) else { return };
            let node = self.node_of(&gid);
            if node.zid != self.identity.zid {
                let hash = names::type_hash(user_data).unwrap_or_default().to_owned();
                let names::RosEndpoint { kind, name: topic, dds_name } = named;
                all.push(EndpointToken { node, kind, topic, dds_name, hash, qos });
            }
        };
        for reader in self.participant.discovered_readers() {
            let data = &reader.subscription_topic_data;
            let qos = policy::from_dds(&data.qos(), false);
            add(data.key().to_bytes(), data.topic_name(), data.type_name(), &reader.user_data, qos, true);
        }
        for writer in self.participant.discovered_writers() {
            let data = &writer.publication_topic_data;
            let qos = policy::from_dds(&data.qos(), true);
            add(data.key.to_bytes(), data.topic_name(), &data.type_name, &writer.user_data, qos, false);
        }
        all
    }
}

/// An endpoint's entry in the graph.
pub(crate) struct Own {
    shared: Weak<Shared>,
    reader: Option<Gid>,
    writer: Option<Gid>,
}

impl Drop for Own {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        {
            let mut owned = lock(&shared.owned);
            owned.readers.retain(|gid| Some(*gid) != self.reader);
            owned.writers.retain(|gid| Some(*gid) != self.writer);
            if let Some(key) = self.writer.or(self.reader) {
                owned.endpoints.remove(&key);
            }
        }
        shared.announce();
    }
}

struct DdsPublisher {
    _own: Own,
    writer: Writer,
    name: String,
}

impl Publisher for DdsPublisher {
    fn publish(&mut self, message: &[u8]) -> Result<(), TransportError> {
        self.writer
            .write(Message(message.to_vec()), Some(Timestamp::now()))
            .map_err(|error| TransportError::Send { name: self.name.clone(), reason: error.to_string() })
    }
}

struct Held {
    _own: Own,
    _place: Place,
    name: String,
}

impl Endpoint for Held {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Transport for DdsTransport {
    fn node(&self) -> String {
        self.shared.node.full_name()
    }

    fn publisher(&self, topic: &str, kind: MessageType, qos: Qos) -> Result<Box<dyn Publisher>, TransportError> {
        let (shared, endpoint) = (&self.shared, EndpointKind::Publisher);
        let name = self.resolved(topic)?;
        let writer = shared.writer(&names::topic(&name), kind.dds_name, qos, endpoint)?;
        let own = shared.own(shared.token(endpoint, &name, kind, qos), None, Some(writer.guid()));
        Ok(Box::new(DdsPublisher { _own: own, writer, name }))
    }

    fn subscribe(
        &self,
        topic: &str,
        kind: MessageType,
        qos: Qos,
        mut on: OnMessage,
    ) -> Result<Box<dyn Endpoint>, TransportError> {
        let (shared, endpoint) = (&self.shared, EndpointKind::Subscription);
        let name = self.resolved(topic)?;
        let reader = shared.reader(&names::topic(&name), kind.dds_name, qos, endpoint)?;
        let own = shared.own(shared.token(endpoint, &name, kind, qos), Some(reader.guid()), None);
        let take: Take = Box::new(move |arrived| on(&arrived.bytes, arrived.id.writer_guid.to_bytes()));
        Ok(Box::new(Held { _own: own, _place: shared.dispatch.add(reader, take), name }))
    }

    fn serve(&self, service: &str, kind: ServiceType, on: OnRequest) -> Result<Box<dyn Endpoint>, TransportError> {
        let (shared, endpoint) = (&self.shared, EndpointKind::Server);
        let name = self.resolved(service)?;
        let ([asked_on, answered_on], [asked, answered]) = (names::service(&name), names::service_types(kind.dds_name));
        let writer = shared.writer(&answered_on, &answered, Qos::DEFAULT, endpoint)?;
        let requests = shared.reader(&asked_on, &asked, Qos::DEFAULT, endpoint)?;
        let token = shared.token(endpoint, &name, kind.as_message(), Qos::DEFAULT);
        let own = shared.own(token, Some(requests.guid()), Some(writer.guid()));
        let answers =
            Answers { writer, topic: answered_on, participant: shared.participant.clone(), met: BTreeSet::new() };
        let take: Take = Box::new(service::on_requests(self.mapping, name.clone(), answers, on));
        Ok(Box::new(Held { _own: own, _place: shared.dispatch.add(requests, take), name }))
    }

    fn client(&self, service: &str, kind: ServiceType) -> Result<Box<dyn Client>, TransportError> {
        let (shared, endpoint) = (&self.shared, EndpointKind::Client);
        let name = self.resolved(service)?;
        let ([asked_on, answered_on], [asked, answered]) = (names::service(&name), names::service_types(kind.dds_name));
        let requests = shared.writer(&asked_on, &asked, Qos::DEFAULT, endpoint)?;
        let reader = shared.reader(&answered_on, &answered, Qos::DEFAULT, endpoint)?;
        let token = shared.token(endpoint, &name, kind.as_message(), Qos::DEFAULT);
        let own = shared.own(token, Some(reader.guid()), Some(requests.guid()));
        let (to_client, answers) = channel();
        let take: Take = Box::new(move |arrived| drop(to_client.send(arrived)));
        Ok(Box::new(DdsClient {
            participant: shared.participant.clone(),
            mapping: self.mapping,
            name,
            topics: [asked_on, answered_on],
            met: false,
            requests,
            answers,
            sequence: 0,
            _held: (shared.dispatch.add(reader, take), own),
        }))
    }

    fn nodes(&self) -> Vec<String> {
        let shared = &self.shared;
        let readers = shared.participant.discovered_readers().into_iter().map(|one| one.subscription_topic_data.key());
        let writers = shared.participant.discovered_writers().into_iter().map(|one| one.publication_topic_data.key);
        // A participant that left without a word leaves its announcement behind, and no endpoints.
        let there: Vec<String> = readers.chain(writers).map(|guid| prefix(&guid.to_bytes())).collect();
        let mut names = vec![self.node()];
        for (gid, peer) in &*lock(&shared.peers) {
            let zid = prefix(gid);
            if zid != shared.identity.zid && there.contains(&zid) {
                names.extend(
                    peer.nodes.iter().map(|node| format!("{}/{}", node.namespace.trim_end_matches('/'), node.name)),
                );
            }
        }
        names.sort();
        names
    }

    fn findings(&self) -> Vec<Finding> {
        let endpoints = self.shared.endpoints();
        findings(&endpoints.iter().collect::<Vec<_>>(), &self.shared.identity.zid, needs_peer)
    }

    fn malformed(&self) -> u64 {
        self.shared.dispatch.malformed()
    }
}
