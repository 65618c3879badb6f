//! A ROS 2 node on Zenoh, as rmw_zenoh would make it: keys, attachments, liveliness tokens, services.

use crate::graph::{Finding, Graph, needs_peer};
use crate::interface::ServiceType;
use crate::message::MessageType;
use crate::rmw::{Attachment, Durability, EndpointKind, History, Node, Publication, Qos, Reliability};
use crate::transport::{Client, Endpoint, OnMessage, OnRequest, Publisher, Request, Transport, TransportError};
use crate::zenoh_session::{SessionError, SessionOptions};
use core::time::Duration;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::qos::CongestionControl;
use zenoh::query::{ConsolidationMode, Query, QueryTarget, Queryable};
use zenoh::sample::{Sample, SampleKind};
use zenoh::{Session, Wait};
use zenoh_ext::{
    AdvancedPublisher, AdvancedPublisherBuilderExt, AdvancedSubscriber, AdvancedSubscriberBuilderExt, CacheConfig,
    HistoryConfig, MissDetectionConfig,
};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wall_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// How often a reliable latched publisher says which message was its last, as rmw_zenoh does.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// A node on Zenoh.
pub struct ZenohTransport {
    session: Session,
    node: Node,
    zid: String,
    remaps: Vec<(String, String)>,
    next_entity: AtomicU32,
    graph: Arc<Mutex<Graph>>,
    malformed: Arc<AtomicU64>,
    _graph_watch: Subscriber<()>,
    _node_token: LivelinessToken,
}

impl ZenohTransport {
    /// Opens a session and shows the node in the graph.
    ///
    /// # Errors
    /// [`SessionError`]; a bad name is refused before anything is opened.
    pub fn open(options: &SessionOptions) -> Result<Self, ZenohTransportError> {
        let named = |zid: String| {
            Node::new(options.domain, zid, &options.namespace, &options.node)
                .map(|node| node.with_hashes(options.hashes))
        };
        resolved(&named(String::new())?, &options.remaps)?;
        let session = options.open()?;
        let zid = session.zid().to_string();
        let node = named(zid.clone())?;
        let remaps = resolved(&node, &options.remaps)?;
        let graph = Arc::new(Mutex::new(Graph::default()));
        let seen = Arc::clone(&graph);
        let key = format!("@ros2_lv/{}/**", options.domain);
        let declare = |source: zenoh::Error| ZenohTransportError::Graph(source.to_string());
        let graph_watch = session
            .liveliness()
            .declare_subscriber(key)
            .history(true)
            .callback(move |sample| {
                lock(&seen).update(sample.key_expr().as_str(), sample.kind() == SampleKind::Put);
            })
            .wait()
            .map_err(declare)?;
        let node_token = session.liveliness().declare_token(node.token()).wait().map_err(declare)?;
        Ok(Self {
            session,
            node,
            zid,
            remaps,
            next_entity: AtomicU32::new(1),
            graph,
            malformed: Arc::default(),
            _graph_watch: graph_watch,
            _node_token: node_token,
        })
    }

    /// The session's Zenoh id, as it stands in liveliness tokens.
    pub fn zid(&self) -> &str {
        &self.zid
    }

    /// The session, for plain Zenoh keys beside ROS 2.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Liveliness tokens that could not be read.
    pub fn unreadable_tokens(&self) -> u64 {
        lock(&self.graph).unreadable()
    }

    fn publication(
        &self,
        endpoint: EndpointKind,
        topic: &str,
        kind: MessageType,
        qos: Qos,
    ) -> Result<(Publication, String), TransportError> {
        let entity = self.next_entity.fetch_add(1, Ordering::Relaxed);
        let mut name = self.node.topic(topic)?;
        if let Some((_, to)) = self.remaps.iter().find(|(from, _)| *from == name) {
            name.clone_from(to);
        }
        Ok((self.node.endpoint(endpoint, entity, &name, kind, qos)?, name))
    }

    fn token(&self, publication: &Publication, endpoint: EndpointKind) -> Result<LivelinessToken, TransportError> {
        let token = publication.token.clone();
        self.session.liveliness().declare_token(token).wait().map_err(refused(endpoint, &publication.key))
    }
}

/// Remappings with full names on both sides.
pub(crate) fn resolved(
    node: &Node,
    remaps: &[(String, String)],
) -> Result<Vec<(String, String)>, crate::rmw::NameError> {
    remaps.iter().map(|(from, to)| Ok((node.topic(from)?, node.topic(to)?))).collect()
}

fn refused(endpoint: EndpointKind, name: &str) -> impl Fn(zenoh::Error) -> TransportError + use<> {
    refused_by(endpoint.name(), name)
}

pub(crate) fn refused_by(endpoint: &'static str, name: &str) -> impl Fn(zenoh::Error) -> TransportError + use<> {
    let name = name.to_owned();
    move |source| TransportError::Declare { endpoint, name: name.clone(), reason: source.to_string() }
}

/// Why a node cannot be put on Zenoh.
#[derive(Debug, thiserror::Error)]
pub enum ZenohTransportError {
    /// The session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A name.
    #[error(transparent)]
    Name(#[from] crate::rmw::NameError),
    /// The graph.
    #[error("the ROS graph cannot be watched: {0}")]
    Graph(String),
}

/// Where messages are put.
enum Outlet {
    Plain(zenoh::pubsub::Publisher<'static>),
    /// Keeps the last ones for readers that come late.
    Latched(Box<AdvancedPublisher<'static>>),
}

struct ZenohPublisher {
    outlet: Outlet,
    gid: [u8; 16],
    sequence: i64,
    name: String,
    _token: LivelinessToken,
}

impl Publisher for ZenohPublisher {
    fn publish(&mut self, message: &[u8]) -> Result<(), TransportError> {
        let attachment = Attachment { sequence: self.sequence + 1, source_time_ns: wall_ns(), gid: self.gid };
        let attachment = &attachment.encode()[..];
        let put = match &self.outlet {
            Outlet::Plain(publisher) => publisher.put(message).attachment(attachment).wait(),
            Outlet::Latched(publisher) => publisher.put(message).attachment(attachment).wait(),
        };
        put.map_err(|source| TransportError::Send { name: self.name.clone(), reason: source.to_string() })?;
        self.sequence += 1;
        Ok(())
    }
}

/// A subscription or a service; its token goes first, so that no peer waits for one that is gone.
struct Held<T: Send + Sync> {
    token: Option<LivelinessToken>,
    name: String,
    _held: T,
}

impl<T: Send + Sync> Endpoint for Held<T> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl<T: Send + Sync> Drop for Held<T> {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            let _ = token.undeclare().wait(); // the session may be gone, and then the token is too
        }
    }
}

struct ZenohClient {
    session: Session,
    key: String,
    gid: [u8; 16],
    sequence: i64,
    name: String,
    _token: LivelinessToken,
}

impl Client for ZenohClient {
    fn call(&mut self, request: &[u8], timeout: Duration) -> Result<Vec<u8>, TransportError> {
        self.sequence += 1;
        let attachment = Attachment { sequence: self.sequence, source_time_ns: wall_ns(), gid: self.gid };
        let failed =
            |source: zenoh::Error| TransportError::Send { name: self.name.clone(), reason: source.to_string() };
        let replies = self
            .session
            .get(self.key.as_str())
            .payload(request)
            .attachment(&attachment.encode()[..])
            .target(QueryTarget::AllComplete)
            .consolidation(ConsolidationMode::None)
            .timeout(timeout)
            .wait()
            .map_err(failed)?;
        let start = std::time::Instant::now();
        while let Some(left) = timeout.checked_sub(start.elapsed()) {
            let Ok(Some(reply)) = replies.recv_timeout(left) else { break };
            let Ok(sample) = reply.result() else { continue };
            let of_ours = sample.attachment().and_then(|attachment| Attachment::decode(&attachment.to_bytes()));
            // An answer to somebody else, or of a server that is not of ROS 2, is no answer.
            if of_ours.is_some_and(|answer| (answer.sequence, answer.gid) == (self.sequence, self.gid)) {
                return Ok(sample.payload().to_bytes().into_owned());
            }
        }
        Err(TransportError::NoAnswer { name: self.name.clone(), timeout })
    }
}

fn to_request(query: Query, name: &str) -> Option<Request> {
    let asked = query.attachment().and_then(|attachment| Attachment::decode(&attachment.to_bytes()))?;
    let bytes = query.payload()?.to_bytes().into_owned();
    let name = name.to_owned();
    let answer = Box::new(move |response: &[u8]| {
        let attachment = Attachment { source_time_ns: wall_ns(), ..asked };
        let key = query.key_expr().clone();
        query
            .reply(key, response)
            .attachment(&attachment.encode()[..])
            .wait()
            .map_err(|source| TransportError::Send { name, reason: source.to_string() })
    });
    Some(Request { bytes, answer })
}

impl Transport for ZenohTransport {
    fn node(&self) -> String {
        self.node.full_name()
    }

    fn publisher(&self, topic: &str, kind: MessageType, qos: Qos) -> Result<Box<dyn Publisher>, TransportError> {
        let endpoint = EndpointKind::Publisher;
        let (publication, name) = self.publication(endpoint, topic, kind, qos)?;
        let congestion = match (qos.reliability, qos.history) {
            (Reliability::Reliable, History::KeepAll) => CongestionControl::Block,
            _ => CongestionControl::Drop,
        };
        let declared = self.session.declare_publisher(publication.key.clone()).congestion_control(congestion);
        let outlet = match qos.durability {
            Durability::Volatile => declared.wait().map(Outlet::Plain),
            Durability::TransientLocal => {
                let kept = CacheConfig::default().max_samples(qos.depth as usize);
                let mut latched = declared.cache(kept).publisher_detection();
                if qos.reliability == Reliability::Reliable {
                    latched =
                        latched.sample_miss_detection(MissDetectionConfig::default().sporadic_heartbeat(HEARTBEAT));
                }
                latched.wait().map(|publisher| Outlet::Latched(Box::new(publisher)))
            }
        };
        let outlet = outlet.map_err(refused(endpoint, &publication.key))?;
        let token = self.token(&publication, endpoint)?;
        Ok(Box::new(ZenohPublisher { outlet, gid: publication.gid, sequence: 0, name, _token: token }))
    }

    fn subscribe(
        &self,
        topic: &str,
        kind: MessageType,
        qos: Qos,
        on: OnMessage,
    ) -> Result<Box<dyn Endpoint>, TransportError> {
        let endpoint = EndpointKind::Subscription;
        let (publication, name) = self.publication(endpoint, topic, kind, qos)?;
        let (malformed, on) = (Arc::clone(&self.malformed), Mutex::new(on));
        let take = move |sample: Sample| {
            let attachment = sample.attachment().and_then(|bytes| Attachment::decode(&bytes.to_bytes()));
            match attachment {
                Some(attachment) => lock(&on)(&sample.payload().to_bytes(), attachment.gid),
                None => {
                    malformed.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let declared = self.session.declare_subscriber(publication.key.clone()).callback(take);
        match qos.durability {
            Durability::Volatile => {
                let held = declared.wait().map_err(refused(endpoint, &publication.key))?;
                let token = Some(self.token(&publication, endpoint)?);
                Ok(Box::new(Held::<Subscriber<()>> { token, name, _held: held }))
            }
            Durability::TransientLocal => {
                let history = HistoryConfig::default().detect_late_publishers().max_samples(qos.depth as usize);
                let held = declared.history(history).wait().map_err(refused(endpoint, &publication.key))?;
                let token = Some(self.token(&publication, endpoint)?);
                Ok(Box::new(Held::<AdvancedSubscriber<()>> { token, name, _held: held }))
            }
        }
    }

    fn serve(&self, service: &str, kind: ServiceType, on: OnRequest) -> Result<Box<dyn Endpoint>, TransportError> {
        let endpoint = EndpointKind::Server;
        let (publication, name) = self.publication(endpoint, service, kind.as_message(), Qos::DEFAULT)?;
        let (malformed, of_service) = (Arc::clone(&self.malformed), name.clone());
        let queryable = self
            .session
            .declare_queryable(publication.key.clone())
            .complete(true)
            .callback(move |query| match to_request(query, &of_service) {
                Some(request) => on(request),
                None => {
                    malformed.fetch_add(1, Ordering::Relaxed);
                }
            })
            .wait()
            .map_err(refused(endpoint, &publication.key))?;
        let token = self.token(&publication, endpoint)?;
        Ok(Box::new(Held::<Queryable<()>> { token: Some(token), name, _held: queryable }))
    }

    fn client(&self, service: &str, kind: ServiceType) -> Result<Box<dyn Client>, TransportError> {
        let endpoint = EndpointKind::Client;
        let (publication, name) = self.publication(endpoint, service, kind.as_message(), Qos::DEFAULT)?;
        let token = self.token(&publication, endpoint)?;
        let (session, key) = (self.session.clone(), publication.key);
        Ok(Box::new(ZenohClient { session, key, gid: publication.gid, sequence: 0, name, _token: token }))
    }

    fn nodes(&self) -> Vec<String> {
        lock(&self.graph).nodes()
    }

    fn findings(&self) -> Vec<Finding> {
        lock(&self.graph).findings(&self.zid, needs_peer)
    }

    fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }
}
