//! An arm whose servo bus has a thread of its own; control and bus meet in the latest value only.
//!
//! The bus thread does one write and one read in each of its periods. The control loop never waits for it: it leaves a
//! goal with its `valid_until`, and takes the newest joint state or the newest error. A goal past its time is not sent. A
//! bus that is gone is looked for again; its servos then need torque switched on anew.

use crate::crossing::{Reader, Writer, triple_buffer};
use crate::metrics::Samples;
use core::time::Duration;
use endplate_hal::servo::{
    BusCounts, HealthLimits, Master, SerialPort, Servo, ServoArm, ServoArmOptions, ServoCounts, ServoHealth,
    SetupError, Timing,
};
use endplate_hal::{
    Arm, ArmSpec, BusError, BusSpec, Clock, Instant, JointSpec, JointState, JointVec, OnSilence, SafeCommand, Sent,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Between two looks for a bus that is gone.
const REOPEN: Duration = Duration::from_millis(250);
/// How long switching torque on may take: six servos, each with repeats.
const TORQUE_LIMIT: Duration = Duration::from_secs(2);

/// Why an arm cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device does not open.
    #[error("{port}: {error}: is it plugged in, and may this user open it (on Debian: group dialout)?")]
    Port {
        /// The device.
        port: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// What is on the bus is not what was described.
    #[error("arm {arm} on {port}: {error}")]
    Setup {
        /// The arm.
        arm: String,
        /// The device.
        port: String,
        /// What is wrong, and the remedy.
        error: SetupError,
    },
    /// The description has no bus or no servos.
    #[error("arm {0}: the description has no bus and servos for it")]
    NotDescribed(String),
    /// No thread.
    #[error("the bus thread cannot start: {0}")]
    Thread(std::io::Error),
}

/// What a bus did so far; for summaries, never for control.
#[derive(Clone)]
pub struct BusReport {
    /// Bus periods.
    pub periods: u64,
    /// Periods without a joint state.
    pub failed_reads: u64,
    /// Goals sent.
    pub goals: u64,
    /// Goals past their time when their turn came, and not sent.
    pub expired: u64,
    /// Times the commands fell silent with torque on.
    pub silences: u64,
    /// Times the bus was lost.
    pub unplugged: u64,
    /// Times it was found again.
    pub replugged: u64,
    /// Transactions.
    pub bus: BusCounts,
    /// What was not believed.
    pub servos: ServoCounts,
    /// What each servo said of itself last.
    pub health: Vec<ServoHealth>,
    /// The extremes of that so far.
    pub extremes: Vec<Extremes>,
    /// What one read of all servos needs on the wire.
    pub read_wire: Duration,
    /// Time of each read that gave a state.
    pub reads: Samples,
}

/// The extremes of what a servo said of itself in reads that gave a state.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Extremes {
    /// Lowest supply voltage, V.
    pub lowest_voltage_v: f64,
    /// Highest temperature, °C.
    pub highest_temperature_c: f64,
    /// Largest load by its amount: see [`ServoHealth::load`].
    pub largest_load: f64,
}

impl Extremes {
    const NONE: Self =
        Self { lowest_voltage_v: f64::INFINITY, highest_temperature_c: f64::NEG_INFINITY, largest_load: 0.0 };

    fn take(&mut self, health: &ServoHealth) {
        self.lowest_voltage_v = self.lowest_voltage_v.min(health.voltage_v);
        self.highest_temperature_c = self.highest_temperature_c.max(health.temperature_c);
        self.largest_load = self.largest_load.max(health.load.abs());
    }
}

/// A goal on its way to the bus.
#[derive(Copy, Clone)]
struct Goal {
    number: u64,
    position_rad: JointVec,
    valid_until: Instant,
}

/// What the bus thread knows.
#[derive(Copy, Clone)]
struct News {
    state: Option<JointState>,
    /// Of the newest period.
    read_error: Option<BusError>,
    write_error: Option<BusError>,
    torque_on: bool,
    /// The request for torque that was carried out last, and how it ended.
    torque: (u64, Result<(), BusError>),
}

struct Shared {
    running: AtomicBool,
    /// Number of the newest request for torque, shifted left by one; the low bit is what is wanted.
    torque: AtomicU64,
    report: Mutex<BusReport>,
}

/// The control side of a bus.
pub struct BusArm {
    servos: Vec<Servo>,
    goals: Writer<Goal>,
    news: Reader<News>,
    number: u64,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    clock: Arc<dyn Clock>,
}

impl BusArm {
    /// Opens an arm at `path`, looks at its servos, and starts its thread. Torque stays as it is.
    ///
    /// # Errors
    /// [`OpenError`], naming device, servo and remedy; nothing has been written to a servo then.
    pub fn open(
        arm: &ArmSpec,
        joints: &[JointSpec],
        margin_rad: f64,
        path: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let bus = arm.bus.clone().ok_or_else(|| OpenError::NotDescribed(arm.name.clone()))?;
        let options = servo_options(arm, joints, margin_rad)?;
        let servos = options.servos.clone();
        let port = path.display().to_string();
        let mut servo_arm = connect(arm, joints, margin_rad, path)?;
        servo_arm.check(bus.baud).map_err(|error| OpenError::Setup {
            arm: arm.name.clone(),
            port: port.clone(),
            error,
        })?;
        let joints = servos.len();
        let first = Goal { number: 0, position_rad: JointVec::zeros(joints), valid_until: Instant::ZERO };
        let (goals, goal_reader) = triple_buffer(|| first);
        let nothing = News {
            state: None,
            read_error: Some(BusError::Timeout { servo: 0 }),
            write_error: None,
            torque_on: false,
            torque: (0, Ok(())),
        };
        let (news_writer, news) = triple_buffer(|| nothing);
        let shared = Arc::new(Shared {
            running: AtomicBool::new(true),
            torque: AtomicU64::new(0),
            report: Mutex::new(BusReport {
                periods: 0,
                failed_reads: 0,
                goals: 0,
                expired: 0,
                silences: 0,
                unplugged: 0,
                replugged: 0,
                bus: BusCounts::default(),
                servos: ServoCounts::default(),
                health: Vec::with_capacity(joints),
                extremes: vec![Extremes::NONE; joints],
                read_wire: servo_arm.read_wire(),
                reads: Samples::with_capacity(1 << 18),
            }),
        });
        let mut thread = BusThread {
            path: path.to_owned(),
            bus,
            options,
            arm: Some(servo_arm),
            past: (BusCounts::default(), ServoCounts::default()),
            goals: goal_reader,
            news: news_writer,
            now_known: nothing,
            last_goal: 0,
            heard: Instant::ZERO,
            is_silent: false,
            clock: Arc::clone(&clock),
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name(format!("bus-{}", arm.name))
            .spawn(move || thread.run())
            .map_err(OpenError::Thread)?;
        let mut opened = Self { servos, goals, news, number: 0, shared, thread: Some(thread), clock };
        opened.await_state();
        Ok(opened)
    }

    /// Waits for the first state, so that a robot can be configured right after.
    fn await_state(&mut self) {
        let limit = self.clock.now().saturating_add(TORQUE_LIMIT);
        while self.news.value().state.is_none() && self.clock.now() < limit {
            self.clock.sleep_until(self.clock.now().saturating_add(Duration::from_millis(1)));
            self.news.update();
        }
    }

    /// Something that can tell what the bus did, also when the arm has been handed over.
    pub fn reporter(&self) -> impl Fn() -> BusReport + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for BusArm {
    /// Ends the bus thread, which first does what `on_silence` declares.
    fn drop(&mut self) {
        self.shared.running.store(false, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

impl Arm for BusArm {
    fn joints(&self) -> usize {
        self.servos.len()
    }

    fn read(&mut self, _now: Instant) -> Result<JointState, BusError> {
        self.news.update();
        let news = self.news.value();
        match (news.read_error, news.state) {
            (Some(error), _) => Err(error),
            (None, Some(state)) => Ok(state),
            (None, None) => Err(BusError::Timeout { servo: 0 }),
        }
    }

    /// Leaves the command for the bus; [`Sent`] is what it is in whole counts. An error is that of the newest command
    /// the bus tried to send.
    fn write(&mut self, now: Instant, command: &SafeCommand) -> Result<Sent, BusError> {
        let (needed, got) = (self.servos.len(), command.position_rad().len());
        if needed != got {
            return Err(BusError::Joints { needed, got });
        }
        if now > command.valid_until() {
            return Err(BusError::Expired);
        }
        let position_rad = ServoArm::<SerialPort>::quantise(&self.servos, command.position_rad())?;
        self.news.update();
        let news = *self.news.value();
        if news.read_error == Some(BusError::Disconnected) {
            return Err(BusError::Disconnected);
        }
        if !news.torque_on {
            return Err(BusError::Refused { servo: 0 });
        }
        self.number += 1;
        *self.goals.slot() = Goal { number: self.number, position_rad, valid_until: command.valid_until() };
        self.goals.publish();
        match news.write_error {
            Some(error) => Err(error),
            None => Ok(Sent { stamp: now, position_rad }),
        }
    }

    /// Switching on waits for the servos' confirmation, at most two seconds: it happens before a robot is active.
    /// Switching off never waits: it is `Ok` once the bus has confirmed it, and `Err` until then; ask again.
    fn set_torque(&mut self, _now: Instant, on: bool) -> Result<(), BusError> {
        self.news.update();
        let asked = self.shared.torque.load(Ordering::Acquire);
        let is_asked_already = asked != 0 && asked & 1 == u64::from(on) && !on;
        if is_asked_already && self.news.value().torque.0 == asked >> 1 {
            let result = self.news.value().torque.1;
            if result.is_ok() {
                return Ok(());
            }
        }
        let is_under_way = is_asked_already && self.news.value().torque.0 != asked >> 1;
        let number = if is_under_way { asked >> 1 } else { (asked >> 1) + 1 };
        self.shared.torque.store(number << 1 | u64::from(on), Ordering::Release);
        if !on {
            return Err(BusError::Timeout { servo: 0 });
        }
        let limit = self.clock.now().saturating_add(TORQUE_LIMIT);
        while self.news.value().torque.0 != number {
            if self.clock.now() > limit {
                return Err(BusError::Timeout { servo: 0 });
            }
            self.clock.sleep_until(self.clock.now().saturating_add(Duration::from_millis(1)));
            self.news.update();
        }
        self.news.value().torque.1
    }
}

/// The servos of an arm, and how they are driven, as described.
fn servo_options(arm: &ArmSpec, joints: &[JointSpec], margin_rad: f64) -> Result<ServoArmOptions, OpenError> {
    let none = || OpenError::NotDescribed(arm.name.clone());
    let bus = arm.bus.as_ref().ok_or_else(none)?;
    let servos: Option<Vec<Servo>> = joints
        .iter()
        .map(|joint| {
            let servo = joint.servo?;
            let velocity_rad_s = joint.limits.velocity_rad_s;
            Some(Servo { id: servo.id, model: servo.model, map: servo.map, held: servo.held, velocity_rad_s })
        })
        .collect();
    Ok(ServoArmOptions {
        servos: servos.filter(|servos| !servos.is_empty()).ok_or_else(none)?,
        margin_rad,
        health: HealthLimits { temperature_c: bus.max_temperature_c, load: bus.max_load, voltage_v: bus.voltage_v },
        watchdog: bus.watchdog,
    })
}

/// Opens the port of an arm for a caller that asks its servos itself; nothing is sent.
///
/// # Errors
/// [`OpenError`].
pub fn connect(
    arm: &ArmSpec,
    joints: &[JointSpec],
    margin_rad: f64,
    path: &Path,
) -> Result<ServoArm<SerialPort>, OpenError> {
    let bus = arm.bus.as_ref().ok_or_else(|| OpenError::NotDescribed(arm.name.clone()))?;
    let options = servo_options(arm, joints, margin_rad)?;
    open_port(path, bus, &options).map_err(|error| OpenError::Port { port: path.display().to_string(), error })
}

fn open_port(path: &Path, bus: &BusSpec, options: &ServoArmOptions) -> std::io::Result<ServoArm<SerialPort>> {
    let timing = Timing { baud: bus.baud, reply: bus.reply_timeout, retries: bus.retries };
    let port = SerialPort::open(path, bus.baud)?;
    Ok(ServoArm::new(Master::new(bus.protocol, port, timing), options.clone()))
}

struct BusThread {
    path: PathBuf,
    bus: BusSpec,
    options: ServoArmOptions,
    /// `None` while the bus is gone.
    arm: Option<ServoArm<SerialPort>>,
    /// Counts of connections before this one.
    past: (BusCounts, ServoCounts),
    goals: Reader<Goal>,
    news: Writer<News>,
    now_known: News,
    last_goal: u64,
    /// When a valid goal was last sent.
    heard: Instant,
    is_silent: bool,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
}

impl BusThread {
    fn run(&mut self) {
        // Granted or not as for the control thread, whose rights the summary tells. It waits for bytes most of its time.
        let _ = crate::realtime::request(&endplate_hal::RealtimeSpec::default());
        let mut deadline = self.clock.now();
        let mut reopen = deadline;
        while self.shared.running.load(Ordering::Acquire) {
            self.clock.sleep_until(deadline);
            let now = self.clock.now();
            if self.arm.is_none() && now >= reopen {
                reopen = now.saturating_add(REOPEN);
                self.reconnect();
            }
            self.switch_torque(now);
            self.send_goal(now);
            self.read();
            *self.news.slot() = self.now_known;
            self.news.publish();
            self.report();
            // A missed period is skipped, never caught up in a burst.
            deadline = deadline.saturating_add(self.bus.period).max(self.clock.now());
        }
        let now = self.clock.now();
        if let (OnSilence::TorqueOff, Some(arm)) = (self.bus.on_silence, &mut self.arm)
            && arm.is_torque_on()
        {
            // Nobody is left to tell; the servos keep their last goal then.
            let _ = arm.set_torque(now, false);
        }
    }

    fn reconnect(&mut self) {
        let Ok(mut arm) = open_port(&self.path, &self.bus, &self.options) else { return };
        if arm.check(self.bus.baud).is_ok() {
            self.arm = Some(arm);
            self.lock().replugged += 1;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BusReport> {
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn switch_torque(&mut self, now: Instant) {
        let asked = self.shared.torque.load(Ordering::Acquire);
        let (number, on) = (asked >> 1, asked & 1 == 1);
        if number == self.now_known.torque.0 {
            return;
        }
        let result = match &mut self.arm {
            Some(arm) => arm.set_torque(now, on),
            None => Err(BusError::Disconnected),
        };
        if on {
            (self.heard, self.is_silent) = (self.clock.now(), false);
            self.now_known.write_error = None;
        }
        self.now_known.torque = (number, result);
    }

    fn send_goal(&mut self, now: Instant) {
        let Some(arm) = &mut self.arm else { return };
        if !arm.is_torque_on() {
            return;
        }
        if self.goals.update() && self.goals.value().number != self.last_goal {
            let goal = *self.goals.value();
            self.last_goal = goal.number;
            if now > goal.valid_until {
                self.now_known.write_error = Some(BusError::Expired);
                self.lock().expired += 1;
            } else {
                let result = arm.write(now, &goal.position_rad);
                self.now_known.write_error = result.err();
                if result.is_ok() {
                    (self.heard, self.is_silent) = (now, false);
                    self.lock().goals += 1;
                }
            }
        }
        if now.duration_since(self.heard) > self.bus.silence && !self.is_silent {
            self.is_silent = true;
            self.lock().silences += 1;
            if let (OnSilence::TorqueOff, Some(arm)) = (self.bus.on_silence, &mut self.arm) {
                self.now_known.write_error = arm.set_torque(now, false).err();
            }
        }
    }

    fn read(&mut self) {
        let Some(arm) = &mut self.arm else { return };
        let now = self.clock.now();
        let result = arm.read(now);
        let took = self.clock.now().duration_since(now);
        self.now_known.torque_on = arm.is_torque_on();
        self.now_known.read_error = result.err();
        if let Ok(state) = result {
            self.now_known.state = Some(state);
        }
        if result == Err(BusError::Disconnected) {
            self.lose();
        }
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.periods += 1;
        if let (Ok(_), Some(arm)) = (result, &self.arm) {
            for (extremes, health) in report.extremes.iter_mut().zip(arm.health()) {
                extremes.take(health);
            }
        }
        match result {
            Ok(_) => report.reads.record(took),
            Err(_) => report.failed_reads += 1,
        }
    }

    /// The port is gone: it is closed, and looked for again. What the servos do meanwhile is their own business.
    fn lose(&mut self) {
        if let Some(arm) = self.arm.take() {
            self.past = (sum(self.past.0, arm.bus_counts()), sum_servos(self.past.1, arm.counts()));
        }
        self.now_known.torque_on = false;
        self.lock().unplugged += 1;
    }

    fn report(&mut self) {
        let (bus, servos) = match &self.arm {
            Some(arm) => (sum(self.past.0, arm.bus_counts()), sum_servos(self.past.1, arm.counts())),
            None => self.past,
        };
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner);
        (report.bus, report.servos) = (bus, servos);
        if let Some(arm) = &self.arm {
            report.health.clear();
            report.health.extend_from_slice(arm.health());
        }
    }
}

fn sum(a: BusCounts, b: BusCounts) -> BusCounts {
    BusCounts {
        requests: a.requests + b.requests,
        answers: a.answers + b.answers,
        retries: a.retries + b.retries,
        timeouts: a.timeouts + b.timeouts,
        damaged: a.damaged + b.damaged,
        foreign: a.foreign + b.foreign,
        refused: a.refused + b.refused,
        alarms: a.alarms + b.alarms,
        garbage_bytes: a.garbage_bytes + b.garbage_bytes,
        echoes: a.echoes + b.echoes,
    }
}

fn sum_servos(a: ServoCounts, b: ServoCounts) -> ServoCounts {
    ServoCounts {
        implausible: a.implausible + b.implausible,
        unhealthy: a.unhealthy + b.unhealthy,
        watchdog_trips: a.watchdog_trips + b.watchdog_trips,
    }
}
