//! An arm that is read and commanded over topics.

use super::lock;
use super::output::{OutputForm, OutputKind};
use super::stamps::StampMap;
use super::state::StateReader;
use super::time::NodeTime;
use crate::interface::{JointState as JointStateMessage, Message};
use crate::message::Stamp;
use crate::rmw::Qos;
use crate::transport::{Endpoint, Publisher, Transport, TransportError};
use core::time::Duration;
use endplate_hal::{Arm, BusError, Clock, Instant, JointState, JointVec, SafeCommand, Sent};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// States and commands a ring holds; the reader always takes the newest.
const RING: usize = 64;
/// How often the wire thread looks for a command: the delay it adds, at most.
const POLL: Duration = Duration::from_micros(500);

/// How an arm is reached.
#[derive(Clone)]
pub struct TopicArmOptions {
    /// `[D]` names in the order of the robot description.
    pub joints: Vec<String>,
    /// `[D]` velocity limits, rad/s.
    pub limits_rad_s: Vec<f64>,
    /// Where joint states come from, usually `/joint_states`.
    pub state_topic: String,
    /// The controller.
    pub output: OutputKind,
    /// Its topic.
    pub command_topic: String,
    /// The controller's joints in its configured order; empty for that of the robot description.
    pub controller_joints: Vec<String>,
    /// Control period.
    pub period: Duration,
    /// Without a joint state for this long the robot is lost: commands cease until it is enabled anew.
    pub lost_after: Duration,
    /// What commands are stamped with.
    pub time: NodeTime,
}

/// Why an arm cannot be reached over topics.
#[derive(Debug, thiserror::Error)]
pub enum TopicArmError {
    /// The middleware.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The controller's joints are not those of the robot description.
    #[error("controller joint {joint:?}: {remedy}")]
    Joints {
        /// The joint.
        joint: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// No thread.
    #[error("the wire thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// What became of states and commands.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ArmCounts {
    /// Joint states taken.
    pub states: u64,
    /// Joint states refused; [`TopicArm::complaint`] says why.
    pub refused: u64,
    /// Commands sent.
    pub sent: u64,
    /// Commands not sent: a newer one had come.
    pub superseded: u64,
    /// Commands not sent: past their `valid_until`.
    pub expired: u64,
    /// Commands not sent: the ring was full.
    pub full: u64,
    /// Commands the middleware refused.
    pub failed: u64,
    /// Explicit stops sent.
    pub stops: u64,
}

#[derive(Default)]
struct Counters {
    states: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    superseded: AtomicU64,
    expired: AtomicU64,
    full: AtomicU64,
    failed: AtomicU64,
    stops: AtomicU64,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

struct Shared {
    counters: Counters,
    complaint: Mutex<Option<String>>,
    stamps: Mutex<StampMap>,
    /// Commands flow only while open.
    open: AtomicBool,
    /// Why commands ceased by themselves.
    lost: Mutex<Option<Lost>>,
    /// Arrival of the newest joint state, ns.
    heard: AtomicU64,
    /// Where it has the joints; for the wire thread.
    measured_rad: Mutex<Option<JointVec>>,
    /// An explicit stop, holding this pose, is to be sent.
    stop: Mutex<Option<Vec<f64>>>,
    ending: AtomicBool,
}

/// Why commands ceased by themselves. What moves the arm after this may be another world: it takes an explicit enable.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// No joint state came.
    #[error("no joint state came for {0:?}")]
    Silent(Duration),
    /// Joint states come from another publisher than before.
    #[error("joint states come from another publisher: the robot was restarted, or there are two")]
    Replaced,
}

impl Shared {
    /// Closes the way to the controller.
    fn lose(&self, why: Lost) {
        if self.open.swap(false, Ordering::AcqRel) {
            *lock(&self.lost) = Some(why);
        }
    }
}

/// The arm behind the `hal` trait; the middleware never runs on the thread that calls it.
pub struct TopicArm {
    joints: usize,
    states: rtrb::Consumer<JointState>,
    newest: Option<JointState>,
    commands: rtrb::Producer<SafeCommand>,
    shared: Arc<Shared>,
}

/// The side-thread half of an arm, for the node that manages it.
pub struct ArmLink {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _states: Box<dyn Endpoint>,
}

impl TopicArm {
    /// Subscribes to the joint states and starts the wire thread; nothing is sent until [`ArmLink::open`].
    ///
    /// # Errors
    /// [`TopicArmError`].
    pub fn connect(
        transport: &dyn Transport,
        options: TopicArmOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, ArmLink), TopicArmError> {
        let order = controller_order(&options.joints, &options.controller_joints)?;
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            complaint: Mutex::default(),
            stamps: Mutex::default(),
            open: AtomicBool::new(false),
            lost: Mutex::default(),
            heard: AtomicU64::new(0),
            measured_rad: Mutex::default(),
            stop: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        let (mut producer, states) = rtrb::RingBuffer::new(RING);
        let (commands, consumer) = rtrb::RingBuffer::new(RING);
        let mut reader = StateReader::new(options.joints.clone());
        let (of_states, of_clock) = (Arc::clone(&shared), Arc::clone(&clock));
        let (mut publisher_of_states, mut last) = (None, Instant::ZERO);
        let lost_after = options.lost_after;
        let on = Box::new(move |bytes: &[u8], source| {
            let now = of_clock.now();
            if publisher_of_states.replace(source).is_some_and(|before| before != source) {
                of_states.lose(Lost::Replaced);
                *lock(&of_states.stamps) = StampMap::default();
            }
            let taken = reader.read(bytes).and_then(|values| {
                let stamp = lock(&of_states.stamps).learn(values.stamp, now)?;
                let (position_rad, velocity_rad_s) = (values.position_rad, values.velocity_rad_s);
                // A stamp may be placed a hair after its arrival; a state from the future is none.
                let stamp = stamp.min(now).max(last);
                last = stamp;
                Ok(JointState { stamp, position_rad, velocity_rad_s, effort_nm: values.effort_nm })
            });
            match taken {
                Ok(state) => {
                    count(&of_states.counters.states, 1);
                    let before = Instant::from_nanos(of_states.heard.swap(now.as_nanos(), Ordering::AcqRel));
                    let gap = now.duration_since(before);
                    if gap > lost_after {
                        of_states.lose(Lost::Silent(gap));
                    }
                    *lock(&of_states.measured_rad) = Some(state.position_rad);
                    // A full ring means that nobody reads: the state goes stale by itself.
                    let _ = producer.push(state);
                }
                Err(error) => {
                    count(&of_states.counters.refused, 1);
                    *lock(&of_states.complaint) = Some(error.to_string());
                }
            }
        });
        let states_endpoint = transport.subscribe(&options.state_topic, JointStateMessage::TYPE, Qos::LATEST, on)?;
        let publisher = transport.publisher(&options.command_topic, options.output.message_type(), Qos::COMMAND)?;
        let joints = options.joints.len();
        let wire = Wire {
            commands: consumer,
            shared: Arc::clone(&shared),
            clock,
            lost_after,
            form: OutputForm::new(options.output, options.joints, options.limits_rad_s, order, options.period),
            publisher,
            time: options.time,
        };
        let thread = std::thread::Builder::new()
            .name("endplate-wire".into())
            .spawn(move || wire.run())
            .map_err(TopicArmError::Thread)?;
        let link = ArmLink { shared: Arc::clone(&shared), thread: Some(thread), _states: states_endpoint };
        Ok((Self { joints, states, newest: None, commands, shared }, link))
    }
}

impl ArmLink {
    /// From now on commands are sent: only after an explicit enable.
    pub fn open(&self) {
        lock(&self.shared.lost).take();
        self.shared.open.store(true, Ordering::Release);
    }

    /// No command is sent from now on, and the controller is told explicitly to hold `hold_rad`.
    pub fn stop(&self, hold_rad: &[f64]) {
        self.shared.open.store(false, Ordering::Release);
        *lock(&self.shared.stop) = Some(hold_rad.to_vec());
    }

    /// No command is sent from now on, and the controller is told nothing: for a robot that was lost.
    pub fn close(&self) {
        self.shared.open.store(false, Ordering::Release);
    }

    /// Why commands ceased by themselves, once.
    pub fn lost(&self) -> Option<Lost> {
        lock(&self.shared.lost).take()
    }

    /// Arrival of the newest joint state.
    pub fn heard(&self) -> Instant {
        Instant::from_nanos(self.shared.heard.load(Ordering::Acquire))
    }

    /// Counters so far.
    pub fn counts(&self) -> ArmCounts {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ArmCounts {
            states: read(&counters.states),
            refused: read(&counters.refused),
            sent: read(&counters.sent),
            superseded: read(&counters.superseded),
            expired: read(&counters.expired),
            full: read(&counters.full),
            failed: read(&counters.failed),
            stops: read(&counters.stops),
        }
    }

    /// Why the newest refused joint state was refused, once.
    pub fn complaint(&self) -> Option<String> {
        lock(&self.shared.complaint).take()
    }

    /// Places a stamp of the robot's clock in this process's time.
    ///
    /// # Errors
    /// [`super::StampError`].
    pub fn place(&self, stamp: Stamp) -> Result<Instant, super::StampError> {
        lock(&self.shared.stamps).place(stamp)
    }

    /// A copy of what places stamps, for cameras.
    pub fn placer(&self) -> impl Fn(Stamp) -> Result<Instant, super::StampError> + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move |stamp| lock(&shared.stamps).place(stamp)
    }

    /// Forgets how the clocks differ: for a robot that was started anew.
    pub fn forget_stamps(&self) {
        *lock(&self.shared.stamps) = StampMap::default();
    }
}

impl Drop for ArmLink {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has been printed
        }
    }
}

impl Arm for TopicArm {
    fn joints(&self) -> usize {
        self.joints
    }

    /// The newest joint state that has come.
    fn read(&mut self, _: Instant) -> Result<JointState, BusError> {
        while let Ok(state) = self.states.pop() {
            self.newest = Some(state);
        }
        self.newest.ok_or(BusError::Timeout { servo: 0 })
    }

    /// Hands the command to the wire thread. What is sent is the command, or a newer one.
    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError> {
        let got = command.position_rad().len();
        if got != self.joints {
            return Err(BusError::Joints { needed: self.joints, got });
        }
        if now > command.valid_until() {
            return Err(BusError::Expired);
        }
        if self.commands.push(*command).is_err() {
            count(&self.shared.counters.full, 1);
            return Err(BusError::Disconnected);
        }
        Ok(Sent { stamp: now, position_rad: JointVec::from_fn(got, |joint| command.position_rad()[joint]) })
    }

    /// A controller keeps its own torque: there is nothing to switch.
    fn set_torque(&mut self, _: Instant, _: bool) -> Result<(), BusError> {
        Ok(())
    }
}

fn controller_order(joints: &[String], controller: &[String]) -> Result<Vec<usize>, TopicArmError> {
    if controller.is_empty() {
        return Ok((0..joints.len()).collect());
    }
    let refuse = |joint: &str, remedy| TopicArmError::Joints { joint: joint.to_owned(), remedy };
    let mut order = Vec::with_capacity(joints.len());
    for name in controller {
        let place = joints
            .iter()
            .position(|joint| joint == name)
            .ok_or_else(|| refuse(name, "it is not a joint of the robot description"))?;
        if order.contains(&place) {
            return Err(refuse(name, "it stands twice"));
        }
        order.push(place);
    }
    match joints.iter().enumerate().find(|(place, _)| !order.contains(place)) {
        Some((_, joint)) => Err(refuse(joint, "the controller does not have it: a policy must command every joint")),
        None => Ok(order),
    }
}

struct Wire {
    commands: rtrb::Consumer<SafeCommand>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    lost_after: Duration,
    form: OutputForm,
    publisher: Box<dyn Publisher>,
    time: NodeTime,
}

impl Wire {
    fn run(mut self) {
        loop {
            let ending = self.shared.ending.load(Ordering::Acquire);
            let mut newest = None;
            while let Ok(command) = self.commands.pop() {
                if newest.replace(command).is_some() {
                    count(&self.shared.counters.superseded, 1);
                }
            }
            if let Some(command) = newest {
                self.send(&command);
            }
            let hold = lock(&self.shared.stop).take();
            if let Some(hold) = hold {
                let sent =
                    self.form.stop(&hold, self.time.now()).is_ok_and(|bytes| self.publisher.publish(bytes).is_ok());
                count(if sent { &self.shared.counters.stops } else { &self.shared.counters.failed }, 1);
            }
            if ending {
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    fn send(&mut self, command: &SafeCommand) {
        let counters = &self.shared.counters;
        let heard = Instant::from_nanos(self.shared.heard.load(Ordering::Acquire));
        let silence = self.clock.now().duration_since(heard);
        if silence > self.lost_after {
            self.shared.lose(Lost::Silent(silence));
        }
        if !self.shared.open.load(Ordering::Acquire) || self.clock.now() > command.valid_until() {
            return count(&counters.expired, 1);
        }
        let measured = *lock(&self.shared.measured_rad);
        let bytes = self.form.command(command, measured.as_deref(), self.time.now());
        let sent = bytes.is_ok_and(|bytes| self.publisher.publish(bytes).is_ok());
        count(if sent { &counters.sent } else { &counters.failed }, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controllers_order_is_a_permutation_of_the_robots_joints_or_is_refused_by_name() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let order = |controller: &[&str]| {
            controller_order(&names(&["a", "b", "c"]), &names(controller)).map_err(|error| error.to_string())
        };
        assert_eq!(order(&[]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&["c", "a", "b"]), Ok(vec![2, 0, 1]));
        assert!(order(&["c", "a"]).unwrap_err().contains("\"b\""));
        assert!(order(&["c", "a", "c"]).unwrap_err().contains("twice"));
        assert!(order(&["c", "a", "x"]).unwrap_err().contains("\"x\""));
    }
}
