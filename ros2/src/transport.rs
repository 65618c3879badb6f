//! What a node needs of a middleware, whichever it is: bytes in, bytes out, and who else is there.
//!
//! Everything that crosses is encapsulated CDR ([`crate::interface`]); a backend adds names, headers and quality of
//! service. Callbacks run on the middleware's own threads: they copy and leave, and never wait for the control thread.

use crate::graph::Finding;
use crate::interface::ServiceType;
use crate::message::MessageType;
use crate::rmw::Qos;
use core::time::Duration;

/// Why a backend could not do it.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A name of ROS 2.
    #[error(transparent)]
    Name(#[from] crate::rmw::NameError),
    /// The middleware refused an endpoint.
    #[error("{endpoint} on {name} could not be made: {reason}")]
    Declare {
        /// Which kind of endpoint.
        endpoint: &'static str,
        /// Its topic or service.
        name: String,
        /// The middleware's reason.
        reason: String,
    },
    /// A message was not sent.
    #[error("a message on {name} was not sent: {reason}")]
    Send {
        /// Its topic or service.
        name: String,
        /// The middleware's reason.
        reason: String,
    },
    /// Nobody answered in time.
    #[error("{name} did not answer within {timeout:?}: is its server running and in the same domain?")]
    NoAnswer {
        /// The service.
        name: String,
        /// How long was waited.
        timeout: Duration,
    },
}

/// Who sent a message, as the middleware tells publishers apart: another one means another publisher, or a restarted one.
pub type Source = [u8; 16];

/// Takes the bytes of each message and who sent it; called on the middleware's thread.
pub type OnMessage = Box<dyn FnMut(&[u8], Source) + Send>;

/// Takes each request; called on the middleware's thread.
pub type OnRequest = Box<dyn Fn(Request) + Send + Sync>;

/// Sends one answer, encapsulated CDR.
pub type Answer = Box<dyn FnOnce(&[u8]) -> Result<(), TransportError> + Send>;

/// A question asked of a service: answered once, from any thread, or dropped.
pub struct Request {
    /// The request, encapsulated CDR.
    pub bytes: Vec<u8>,
    /// Sends the answer, encapsulated CDR.
    pub answer: Answer,
}

/// Sends messages on one topic.
pub trait Publisher: Send {
    /// Sends a message; may wait for the middleware, so never call it on the control thread.
    ///
    /// # Errors
    /// [`TransportError::Send`].
    fn publish(&mut self, message: &[u8]) -> Result<(), TransportError>;
}

/// An endpoint that lives as long as the value.
pub trait Endpoint: Send + Sync {
    /// Full name of its topic or service.
    fn name(&self) -> &str;
}

/// Asks one service.
pub trait Client: Send {
    /// Asks and waits for the first answer.
    ///
    /// # Errors
    /// [`TransportError::NoAnswer`], [`TransportError::Send`].
    fn call(&mut self, request: &[u8], timeout: Duration) -> Result<Vec<u8>, TransportError>;
}

/// A node on a middleware.
pub trait Transport: Send + Sync {
    /// The node's full name.
    fn node(&self) -> String;

    /// A publisher; the name resolves as in ROS 2.
    ///
    /// # Errors
    /// [`TransportError`].
    fn publisher(&self, topic: &str, kind: MessageType, qos: Qos) -> Result<Box<dyn Publisher>, TransportError>;

    /// A subscription.
    ///
    /// # Errors
    /// [`TransportError`].
    fn subscribe(
        &self,
        topic: &str,
        kind: MessageType,
        qos: Qos,
        on: OnMessage,
    ) -> Result<Box<dyn Endpoint>, TransportError>;

    /// A service.
    ///
    /// # Errors
    /// [`TransportError`].
    fn serve(&self, service: &str, kind: ServiceType, on: OnRequest) -> Result<Box<dyn Endpoint>, TransportError>;

    /// A client of a service.
    ///
    /// # Errors
    /// [`TransportError`].
    fn client(&self, service: &str, kind: ServiceType) -> Result<Box<dyn Client>, TransportError>;

    /// Full names of the nodes seen, in order.
    fn nodes(&self) -> Vec<String>;

    /// What is amiss in the graph as seen from this node's endpoints: nobody at the other end, or somebody who never
    /// will hear or be heard.
    fn findings(&self) -> Vec<Finding>;

    /// Messages and requests refused because they came without what the middleware's ROS layer sends beside them.
    fn malformed(&self) -> u64;
}
