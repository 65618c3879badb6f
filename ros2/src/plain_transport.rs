//! A node as a plain Zenoh peer: keys a person can write, no type hash, no attachment, no ROS beside it.
//!
//! A topic or service `/a/b` is the key `endplate/a/b`. A message is its CDR, as on every other transport, except where
//! plain text does: a `std_msgs/String` is its text, and the switches (`Trigger`, `SetBool`) take `true`, `false` or
//! nothing and answer one JSON object, `{"success": …, "message": …}`. README.md has the keys and their schema.

use crate::graph::Finding;
use crate::interface::{
    Empty, Message, Outcome, Service, ServiceType, SetBool, SetBoolRequest, Text, Trigger, decode, encode_into,
};
use crate::message::MessageType;
use crate::rmw::{Durability, Node, Qos};
use crate::transport::{Client, Endpoint, OnMessage, OnRequest, Publisher, Request, Source, Transport, TransportError};
use crate::zenoh_session::SessionOptions;
use crate::zenoh_transport::{ZenohTransportError, lock, refused_by, resolved};
use core::time::Duration;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use zenoh::pubsub::Subscriber;
use zenoh::qos::CongestionControl;
use zenoh::query::{Query, Queryable};
use zenoh::sample::Sample;
use zenoh::{Session, Wait};

/// What every key begins with.
pub const BASE: &str = "endplate";

fn key(full_name: &str) -> String {
    format!("{BASE}{full_name}")
}

/// Whether a message of this type travels as its text.
fn is_text(kind: MessageType) -> bool {
    kind.ros_name == Text::TYPE.ros_name
}

/// Text as the message it stands for.
fn message_of(text: &[u8]) -> Option<Vec<u8>> {
    let (data, mut buffer) = (core::str::from_utf8(text).ok()?, Vec::new());
    encode_into(&Text { data }, &mut buffer).ok().map(<[u8]>::to_vec)
}

/// How a service's questions and answers are written.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Form {
    Trigger,
    SetBool,
    Cdr,
}

impl Form {
    fn of(kind: ServiceType) -> Self {
        match kind.ros_name {
            name if name == Trigger::TYPE.ros_name => Self::Trigger,
            name if name == SetBool::TYPE.ros_name => Self::SetBool,
            _ => Self::Cdr,
        }
    }

    /// A question on the wire as a request; `None` for what is none.
    fn request(self, question: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = Vec::new();
        match self {
            Self::Cdr => return Some(question.to_vec()),
            Self::Trigger => encode_into(&Empty, &mut buffer).ok()?,
            Self::SetBool => {
                let data = match question.trim_ascii() {
                    b"true" => true,
                    b"false" => false,
                    _ => return None,
                };
                encode_into(&SetBoolRequest { data }, &mut buffer).ok()?
            }
        };
        Some(buffer)
    }

    fn question(self, request: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Cdr => Some(request.to_vec()),
            Self::Trigger => Some(Vec::new()),
            Self::SetBool => Some(decode::<SetBoolRequest>(request).ok()?.data.to_string().into_bytes()),
        }
    }

    /// A response as it is answered.
    fn answer(self, response: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Cdr => Some(response.to_vec()),
            Self::Trigger | Self::SetBool => {
                let Outcome { success, message } = decode(response).ok()?;
                Some(json!({"success": success, "message": message}).to_string().into_bytes())
            }
        }
    }

    fn response(self, answer: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Cdr => Some(answer.to_vec()),
            Self::Trigger | Self::SetBool => {
                let (answered, mut buffer): (Answered, _) = (serde_json::from_slice(answer).ok()?, Vec::new());
                let outcome = Outcome { success: answered.success, message: &answered.message };
                encode_into(&outcome, &mut buffer).ok().map(<[u8]>::to_vec)
            }
        }
    }
}

/// What a switch answers.
#[derive(Deserialize)]
struct Answered {
    success: bool,
    message: String,
}

/// A node on plain Zenoh keys.
pub struct PlainTransport {
    session: Session,
    node: Node,
    remaps: Vec<(String, String)>,
    malformed: Arc<AtomicU64>,
    /// Subscriptions that nothing has come on yet, by topic: all that can be said of a graph without one.
    silent: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl PlainTransport {
    /// Opens a session.
    ///
    /// # Errors
    /// [`ZenohTransportError`].
    pub fn open(options: &SessionOptions) -> Result<Self, ZenohTransportError> {
        let node = Node::new(options.domain, String::new(), &options.namespace, &options.node)?;
        let remaps = resolved(&node, &options.remaps)?;
        let session = options.open()?;
        Ok(Self { session, node, remaps, malformed: Arc::default(), silent: Arc::default() })
    }

    fn name(&self, name: &str) -> Result<String, TransportError> {
        let name = self.node.topic(name)?;
        Ok(self.remaps.iter().find(|(from, _)| *from == name).map_or(name, |(_, to)| to.clone()))
    }
}

/// The last message, for whoever asks for the key.
struct Latch {
    last: Arc<Mutex<Option<Vec<u8>>>>,
    _queryable: Queryable<()>,
}

struct PlainPublisher {
    publisher: zenoh::pubsub::Publisher<'static>,
    latch: Option<Latch>,
    is_text: bool,
    name: String,
}

impl Publisher for PlainPublisher {
    fn publish(&mut self, message: &[u8]) -> Result<(), TransportError> {
        let failed = |reason: String| TransportError::Send { name: self.name.clone(), reason };
        let payload = match self.is_text {
            false => message,
            true => decode::<Text>(message).map_err(|error| failed(error.to_string()))?.data.as_bytes(),
        };
        if let Some(latch) = &self.latch {
            *lock(&latch.last) = Some(payload.to_vec());
        }
        self.publisher.put(payload).wait().map_err(|error| failed(error.to_string()))
    }
}

impl PlainTransport {
    fn latch(&self, name: &str) -> Result<Latch, TransportError> {
        let last = Arc::new(Mutex::new(None::<Vec<u8>>));
        let kept = Arc::clone(&last);
        let queryable = self.session.declare_queryable(key(name)).callback(move |query| {
            if let Some(last) = lock(&kept).clone() {
                let _ = query.reply(query.key_expr().clone(), last).wait(); // who asked may be gone
            }
        });
        Ok(Latch { last, _queryable: queryable.wait().map_err(refused_by("publisher", name))? })
    }
}

/// Takes what comes on one key.
struct Intake {
    on: Mutex<OnMessage>,
    is_text: bool,
    malformed: Arc<AtomicU64>,
    /// Tells that something has come.
    heard: Box<dyn Fn() + Send + Sync>,
}

impl Intake {
    fn take(&self, sample: &Sample) {
        (self.heard)();
        // Without ROS only the time stamp says whose session a message is of.
        let source: Source = sample.timestamp().map(|stamp| stamp.get_id().to_le_bytes()).unwrap_or_default();
        let payload = sample.payload().to_bytes();
        match self.is_text {
            false => lock(&self.on)(&payload, source),
            true => match message_of(&payload) {
                Some(message) => lock(&self.on)(&message, source),
                None => {
                    self.malformed.fetch_add(1, Ordering::Relaxed);
                }
            },
        }
    }
}

struct Held<T: Send + Sync> {
    name: String,
    _held: T,
}

impl<T: Send + Sync> Endpoint for Held<T> {
    fn name(&self) -> &str {
        &self.name
    }
}

struct PlainClient {
    session: Session,
    form: Form,
    name: String,
}

impl Client for PlainClient {
    fn call(&mut self, request: &[u8], timeout: Duration) -> Result<Vec<u8>, TransportError> {
        let failed = |reason: String| TransportError::Send { name: self.name.clone(), reason };
        let question = self.form.question(request).ok_or_else(|| failed("it is not a request".to_owned()))?;
        let asked = self.session.get(key(&self.name)).payload(question).timeout(timeout).wait();
        let replies = asked.map_err(|error| failed(error.to_string()))?;
        let start = std::time::Instant::now();
        while let Some(left) = timeout.checked_sub(start.elapsed()) {
            let Ok(Some(reply)) = replies.recv_timeout(left) else { break };
            let answer = reply.result().ok().and_then(|sample| self.form.response(&sample.payload().to_bytes()));
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        Err(TransportError::NoAnswer { name: self.name.clone(), timeout })
    }
}

fn to_request(query: Query, form: Form, name: &str) -> Option<Request> {
    let question = query.payload().map(|payload| payload.to_bytes().into_owned()).unwrap_or_default();
    let name = name.to_owned();
    let Some(bytes) = form.request(&question) else {
        let refused = json!({"success": false, "message": "write true or false"}).to_string();
        let _ = query.reply(query.key_expr().clone(), refused).wait(); // who asked may be gone
        return None;
    };
    let answer = Box::new(move |response: &[u8]| {
        let failed = |reason: String| TransportError::Send { name: name.clone(), reason };
        let answer = form.answer(response).ok_or_else(|| failed("it is not an answer".to_owned()))?;
        query.reply(query.key_expr().clone(), answer).wait().map_err(|error| failed(error.to_string()))
    });
    Some(Request { bytes, answer })
}

impl Transport for PlainTransport {
    fn node(&self) -> String {
        self.node.full_name()
    }

    fn publisher(&self, topic: &str, kind: MessageType, qos: Qos) -> Result<Box<dyn Publisher>, TransportError> {
        let name = self.name(topic)?;
        let publisher = self
            .session
            .declare_publisher(key(&name))
            .congestion_control(CongestionControl::Drop)
            .wait()
            .map_err(refused_by("publisher", &name))?;
        let latch = (qos.durability == Durability::TransientLocal).then(|| self.latch(&name)).transpose()?;
        Ok(Box::new(PlainPublisher { publisher, latch, is_text: is_text(kind), name }))
    }

    fn subscribe(
        &self,
        topic: &str,
        kind: MessageType,
        qos: Qos,
        on: OnMessage,
    ) -> Result<Box<dyn Endpoint>, TransportError> {
        let name = self.name(topic)?;
        lock(&self.silent).insert(name.clone(), true);
        let (silent, of_topic, is_silent) = (Arc::clone(&self.silent), name.clone(), AtomicBool::new(true));
        let heard = Box::new(move || {
            if is_silent.swap(false, Ordering::Relaxed) {
                lock(&silent).insert(of_topic.clone(), false);
            }
        });
        let malformed = Arc::clone(&self.malformed);
        let intake = Arc::new(Intake { on: Mutex::new(on), is_text: is_text(kind), malformed, heard });
        let live = Arc::clone(&intake);
        let declared = self.session.declare_subscriber(key(&name)).callback(move |sample| live.take(&sample));
        let subscriber = declared.wait().map_err(refused_by("subscription", &name))?;
        if qos.durability == Durability::TransientLocal {
            let kept = self.session.get(key(&name)).callback(move |reply| {
                if let Ok(sample) = reply.result() {
                    intake.take(sample);
                }
            });
            kept.wait().map_err(refused_by("subscription", &name))?;
        }
        Ok(Box::new(Held::<Subscriber<()>> { name, _held: subscriber }))
    }

    fn serve(&self, service: &str, kind: ServiceType, on: OnRequest) -> Result<Box<dyn Endpoint>, TransportError> {
        let (name, form, malformed) = (self.name(service)?, Form::of(kind), Arc::clone(&self.malformed));
        let of_service = name.clone();
        let queryable = self
            .session
            .declare_queryable(key(&name))
            .complete(true)
            .callback(move |query| match to_request(query, form, &of_service) {
                Some(request) => on(request),
                None => {
                    malformed.fetch_add(1, Ordering::Relaxed);
                }
            })
            .wait()
            .map_err(refused_by("service server", &name))?;
        Ok(Box::new(Held::<Queryable<()>> { name, _held: queryable }))
    }

    fn client(&self, service: &str, kind: ServiceType) -> Result<Box<dyn Client>, TransportError> {
        let name = self.name(service)?;
        Ok(Box::new(PlainClient { session: self.session.clone(), form: Form::of(kind), name }))
    }

    /// This one: there is no graph.
    fn nodes(&self) -> Vec<String> {
        vec![self.node()]
    }

    fn findings(&self) -> Vec<Finding> {
        let silent = lock(&self.silent);
        let unmatched = |topic: &String| Finding::Unmatched { own: "subscription", topic: key(topic) };
        silent.iter().filter(|(_, silent)| **silent).map(|(topic, _)| unmatched(topic)).collect()
    }

    fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_text_both_ways() {
        let request = Form::SetBool.request(b" true\n").unwrap();
        assert_eq!(decode::<SetBoolRequest>(&request), Ok(SetBoolRequest { data: true }));
        assert_eq!(Form::SetBool.question(&request).unwrap(), b"true");
        assert_eq!(Form::SetBool.request(b"yes"), None);
        assert!(Form::Trigger.request(b"").is_some());
        let mut buffer = Vec::new();
        let message = "no \"usable\" joint\nstate \\";
        let response = encode_into(&Outcome { success: false, message }, &mut buffer).unwrap().to_vec();
        let answer = Form::Trigger.answer(&response).unwrap();
        assert_eq!(
            core::str::from_utf8(&answer).unwrap(),
            r#"{"message":"no \"usable\" joint\nstate \\","success":false}"#
        );
        assert_eq!(Form::Trigger.response(&answer).unwrap(), response);
        for bad in ["", "{}", r#"{"success": "maybe", "message": ""}"#, r#"{"success": true}"#] {
            assert_eq!(Form::Trigger.response(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_string_is_its_text() {
        let message = message_of("lift the red cube".as_bytes()).unwrap();
        assert_eq!(decode::<Text>(&message), Ok(Text { data: "lift the red cube" }));
        assert_eq!(message_of(&[0xff]), None);
    }
}
