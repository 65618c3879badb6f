//! The commands sent to the arm, as a ROS 2 topic that an rmw_zenoh node can subscribe to.
//!
//! ```text
//! control thread: publish ──ring of 16──▶ side thread: still valid? ─▶ CDR ─▶ Zenoh put
//! ```
//!
//! The control thread only copies a command into the ring. The side thread looks at the ring every
//! [`ZenohOptions::poll`], so that publishing costs no system call either; a command that outlived its `valid_until`
//! there, behind a stall, is counted and never sent.

use crate::message::{JOINT_STATE, JointStateView, MessageError, Stamp, joint_state_capacity};
use crate::rmw::{Attachment, NameError, Node, Publication, Qos};
use crate::zenoh_session::{SessionError, SessionOptions};
use core::time::Duration;
use endplate_hal::{Clock, CommandMode, CommandSink, MAX_JOINTS, SafeCommand};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Publisher;
use zenoh::qos::CongestionControl;
use zenoh::{Session, Wait};

/// Commands the ring holds.
const RING: usize = 16;

/// The entity number of the sink's publisher; the node itself is 0.
const PUBLISHER: u32 = 1;

/// How a sink reaches the robot's network, and what it is called there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZenohOptions {
    /// Endpoints to accept peers at, `tcp/<address>:<port>`; port 0 takes any free one.
    pub listen: Vec<String>,
    /// Endpoints to connect to, retried for ever: the router of rmw_zenoh.
    pub connect: Vec<String>,
    /// Whether endpoints beyond this machine are allowed. Zenoh here has neither encryption nor access control: whoever
    /// reaches the endpoint can read.
    pub allow_remote: bool,
    /// ROS_DOMAIN_ID; 0 to 101 where DDS nodes share it.
    pub domain: u32,
    /// The node's namespace, `/` or `/some/name`.
    pub namespace: String,
    /// The node's name.
    pub node: String,
    /// The topic: relative to the namespace, or full with a leading `/`.
    pub topic: String,
    /// `[D]` names of the joints, in the order of the commands; 1 to [`MAX_JOINTS`].
    pub joints: Vec<String>,
    /// How often the side thread looks for commands: the delay it adds, at most. Zero keeps a core busy.
    pub poll: Duration,
}

impl ZenohOptions {
    /// The usual options for these joints: a node `/endplate` on this machine's rmw_zenoh router, publishing
    /// `/endplate/joint_command`.
    pub fn for_joints<S: Into<String>>(joints: impl IntoIterator<Item = S>) -> Self {
        Self {
            listen: vec!["tcp/127.0.0.1:0".into()],
            connect: vec!["tcp/127.0.0.1:7447".into()],
            allow_remote: false,
            domain: 0,
            namespace: "/".into(),
            node: "endplate".into(),
            topic: "endplate/joint_command".into(),
            joints: joints.into_iter().map(Into::into).collect(),
            poll: Duration::from_millis(1),
        }
    }
}

/// Why a sink cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ZenohError {
    /// The session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A node, namespace or topic name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No joint, or too many.
    #[error("{0} joint names were given: give 1 to {MAX_JOINTS}, in the order of the commands")]
    Joints(usize),
    /// A publisher or token could not be declared.
    #[error("Zenoh refused to declare {key}")]
    Declare {
        /// The key expression.
        key: String,
        /// Zenoh's reason.
        source: zenoh::Error,
    },
    /// The side thread could not be started.
    #[error("the publishing thread could not be started: is the process's thread limit reached?")]
    Thread(#[source] std::io::Error),
}

/// What became of the commands handed to a sink.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkCounts {
    /// Put on the network. Zenoh itself may still drop one under congestion, and does not say so.
    pub sent: u64,
    /// Dropped: the ring was full.
    pub full: u64,
    /// Dropped: for another number of joints than there are names.
    pub mismatched: u64,
    /// Dropped: past `valid_until` when the side thread got to it.
    pub expired: u64,
    /// Dropped: Zenoh refused the put, or the wall clock is outside 1970 to 2038.
    pub failed: u64,
}

impl SinkCounts {
    /// Commands dropped, for whatever cause.
    pub fn dropped(&self) -> u64 {
        self.full + self.mismatched + self.expired + self.failed
    }
}

/// Counters and stop flag, shared with the side thread.
#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    full: AtomicU64,
    mismatched: AtomicU64,
    expired: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

/// Publishes every command as `sensor_msgs/msg/JointState`, from a thread of its own.
///
/// In position mode the message holds positions and the velocities to pass them with; in velocity mode velocities only.
/// Its stamp is the wall-clock time at which the safety filter made the command. A message does not carry
/// `valid_until`: whoever drives an arm from it needs a time-out of its own.
///
/// Dropping the sink sends what is in the ring and still valid, withdraws the node from the ROS graph and joins the
/// thread.
pub struct ZenohCommandSink {
    ring: rtrb::Producer<SafeCommand>,
    shared: Arc<Shared>,
    joints: usize,
    zid: String,
    thread: Option<JoinHandle<()>>,
}

impl ZenohCommandSink {
    /// Opens a Zenoh session, shows the node and its publisher in the ROS graph and starts the side thread. `clock` is
    /// the one that stamps the commands.
    ///
    /// A router that is not there yet is no error: it is tried again for ever, and commands until then reach only peers
    /// that connect to [`ZenohOptions::listen`]. Nothing is scouted by multicast.
    ///
    /// # Errors
    /// [`ZenohError`], before any thread of ours runs.
    ///
    /// # Real-time
    /// Blocks and allocates: call it before activation, and not from a thread of an asynchronous runtime.
    pub fn open(options: ZenohOptions, clock: Arc<dyn Clock>) -> Result<Self, ZenohError> {
        let joints = options.joints.len();
        if !(1..=MAX_JOINTS).contains(&joints) {
            return Err(ZenohError::Joints(joints));
        }
        let of_session = SessionOptions {
            listen: options.listen.clone(),
            connect: options.connect.clone(),
            allow_remote: options.allow_remote,
            ..SessionOptions::default()
        };
        of_session.check()?;
        let named = |zid: String| -> Result<(Node, Publication), NameError> {
            let node = Node::new(options.domain, zid, &options.namespace, &options.node)?;
            let publication = node.publisher(PUBLISHER, &options.topic, JOINT_STATE, Qos::COMMAND)?;
            Ok((node, publication))
        };
        named(String::new())?; // a bad name is refused before anything is opened

        let session = of_session.open()?;
        let zid = session.zid().to_string();
        let (node, Publication { key, token, gid }) = named(zid.clone())?;
        let declared = |key: &str| {
            let key = key.to_owned();
            move |source| ZenohError::Declare { key, source }
        };
        let of_node = session.liveliness().declare_token(node.token()).wait().map_err(declared(&node.token()))?;
        let publisher = session
            .declare_publisher(key.clone())
            .congestion_control(CongestionControl::Drop)
            .wait()
            .map_err(declared(&key))?;
        // A peer that sees the publisher's token may rely on the publisher: so the token comes last.
        let of_publisher = session.liveliness().declare_token(token.clone()).wait().map_err(declared(&token))?;

        let shared = Arc::new(Shared::default());
        let (ring, commands) = rtrb::RingBuffer::new(RING);
        let wire = Wire {
            commands,
            shared: shared.clone(),
            clock,
            poll: options.poll,
            buffer: vec![0; joint_state_capacity("", &options.joints)],
            joints: options.joints,
            gid,
            sequence: 0,
            publisher,
            tokens: [of_publisher, of_node],
            session,
        };
        let thread = std::thread::Builder::new()
            .name("ros2-commands".into())
            .spawn(move || wire.run())
            .map_err(ZenohError::Thread)?;
        Ok(Self { ring, shared, joints, zid, thread: Some(thread) })
    }

    /// The session's Zenoh id, as it stands in liveliness tokens.
    pub fn zid(&self) -> &str {
        &self.zid
    }

    /// What became of the commands so far. A command still in the ring is in no count.
    ///
    /// # Real-time
    /// Does not allocate, lock or block.
    pub fn counts(&self) -> SinkCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SinkCounts {
            sent: read(&self.shared.sent),
            full: read(&self.shared.full),
            mismatched: read(&self.shared.mismatched),
            expired: read(&self.shared.expired),
            failed: read(&self.shared.failed),
        }
    }
}

impl CommandSink for ZenohCommandSink {
    /// Copies the command into the ring; drops and counts it when the ring is full or the joints are not those named.
    ///
    /// # Real-time
    /// Does not allocate, lock, block or enter the kernel.
    fn publish(&mut self, command: &SafeCommand) {
        if command.position_rad().len() != self.joints {
            count(&self.shared.mismatched);
        } else if self.ring.push(*command).is_err() {
            count(&self.shared.full);
        }
    }

    fn dropped(&self) -> u64 {
        self.counts().dropped()
    }
}

impl Drop for ZenohCommandSink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join(); // a panic there has been printed by the runtime, and a drop has nobody to tell
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The side thread's half.
struct Wire {
    commands: rtrb::Consumer<SafeCommand>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    poll: Duration,
    joints: Vec<String>,
    buffer: Vec<u8>,
    gid: [u8; 16],
    sequence: i64,
    publisher: Publisher<'static>,
    tokens: [LivelinessToken; 2],
    session: Session,
}

/// Why one command was not sent.
enum Unsent {
    Expired,
    Failed,
}

impl From<MessageError> for Unsent {
    fn from(_: MessageError) -> Self {
        Self::Failed
    }
}

impl Wire {
    fn run(mut self) {
        loop {
            // Read before the ring is drained: what was published before the stop is then seen.
            let stop = self.shared.stop.load(Ordering::Acquire);
            while let Ok(command) = self.commands.pop() {
                match self.send(&command) {
                    Ok(()) => count(&self.shared.sent),
                    Err(Unsent::Expired) => count(&self.shared.expired),
                    Err(Unsent::Failed) => count(&self.shared.failed),
                }
            }
            if stop {
                break;
            }
            std::thread::park_timeout(self.poll);
        }
        // The session is going away: a peer that misses one of these sees its end instead.
        for token in self.tokens {
            let _ = token.undeclare().wait();
        }
        let _ = self.publisher.undeclare().wait();
        let _ = self.session.close().wait();
    }

    fn send(&mut self, command: &SafeCommand) -> Result<(), Unsent> {
        let now = self.clock.now();
        if now > command.valid_until() {
            return Err(Unsent::Expired);
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| Unsent::Failed)?;
        let made = wall.checked_sub(now.duration_since(command.stamp())).and_then(Stamp::since_epoch);
        let message = JointStateView {
            stamp: made.ok_or(Unsent::Failed)?,
            frame_id: "",
            names: &self.joints,
            position: match command.mode() {
                CommandMode::Position => command.position_rad(),
                CommandMode::Velocity => &[],
            },
            velocity: command.velocity_rad_s(),
            effort: &[],
        };
        let written = message.encode(&mut self.buffer)?;
        let attachment = Attachment {
            sequence: self.sequence + 1,
            source_time_ns: i64::try_from(wall.as_nanos()).map_err(|_| Unsent::Failed)?,
            gid: self.gid,
        };
        let put = self.publisher.put(&self.buffer[..written]).attachment(&attachment.encode()[..]);
        put.wait().map_err(|_| Unsent::Failed)?;
        self.sequence += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use endplate_hal::SimulatedClock;

    #[test]
    fn wrong_options_are_refused_before_a_session_is_opened() {
        let open = |options| {
            let clock = Arc::new(SimulatedClock::default());
            ZenohCommandSink::open(options, clock).map(|_| ()).map_err(|error| error.to_string())
        };
        let good = ZenohOptions::for_joints(["a"]);
        assert_eq!(
            open(ZenohOptions { joints: vec![], ..good.clone() }),
            Err("0 joint names were given: give 1 to 16, in the order of the commands".into())
        );
        assert_eq!(
            open(ZenohOptions { topic: "a b".into(), ..good.clone() }),
            Err("topic \"a b\" is not a ROS 2 name: use letters, digits and '_', no digit first, parts separated by \
                 '/'"
            .into())
        );
        assert_eq!(
            open(ZenohOptions { listen: vec!["tcp/0.0.0.0:0".into()], ..good }),
            Err("endpoint \"tcp/0.0.0.0:0\" is not on the loopback interface: use tcp/127.0.0.1:<port>, or allow \
                 remote peers"
                .into())
        );
    }
}
