//! The servos of one bus as an arm: joint states in, goals out, one transaction each a period.

use super::frame::Protocol;
use super::map::{Count, ServoMap};
use super::master::{BusCounts, MAX_SERVOS, Master, TransactionError};
use super::port::Port;
use super::registers::ServoRegisters;
use super::table::Register;
use super::{dynamixel, feetech};
use crate::arm::{BusError, HealthFault};
use crate::joints::{JointState, JointVec};
use crate::time::Instant;
use core::time::Duration;

/// One servo of an arm.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Servo {
    /// Its id.
    pub id: u8,
    /// Its model number, where it is to be checked.
    pub model: Option<u16>,
    /// Counts ↔ rad.
    pub map: ServoMap,
    /// The calibration it must hold, where one is named.
    pub held: Option<ServoRegisters>,
    /// The joint's speed limit, rad/s: a measured step beyond it is not believed.
    pub velocity_rad_s: f64,
}

/// Thresholds beyond which an arm walks down the ladder.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct HealthLimits {
    /// Highest temperature, °C.
    pub temperature_c: f64,
    /// Highest load, 0–1 of the servo's PWM duty or, on Dynamixel, of `current_a`'s scale: see [`ServoHealth`].
    pub load: f64,
    /// Lowest and highest supply voltage, V.
    pub voltage_v: (f64, f64),
}

/// How an arm is driven.
#[derive(Clone, Debug, PartialEq)]
pub struct ServoArmOptions {
    /// In the order of the joints; at most [`MAX_SERVOS`].
    pub servos: Vec<Servo>,
    /// Added to `v_max · Δt` before a measured step is not believed, rad.
    pub margin_rad: f64,
    /// Thresholds.
    pub health: HealthLimits,
    /// Dynamixel's bus watchdog, 20 to 2540 ms; `None` leaves it off. Feetech has none.
    pub watchdog: Option<Duration>,
}

/// What a servo says of itself.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct ServoHealth {
    /// Supply voltage, V.
    pub voltage_v: f64,
    /// Temperature, °C.
    pub temperature_c: f64,
    /// Feetech: PWM duty, −1 to 1, not a torque. Dynamixel: present current over 1 A.
    pub load: f64,
    /// Current, A (Dynamixel: in the 1 mA units of the XL330; other models scale).
    pub current_a: f64,
    /// Alarm bits, or Dynamixel's alert bit.
    pub alarms: u8,
}

/// What an arm refused to believe or do.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ServoCounts {
    /// Whole-looking answers outside the plausibility gate.
    pub implausible: u64,
    /// Onsets of a health fault.
    pub unhealthy: u64,
    /// Times the bus watchdog was found tripped.
    pub watchdog_trips: u64,
}

/// A threshold must be passed this many readings in a row: an 8-bit checksum lets some noise pass.
const PERSISTENCE: u8 = 3;

/// The registers one sync read covers, and the first that holds the position.
struct Layout {
    base: u16,
    len: u16,
    position: Register,
    goal: Register,
    torque: Register,
}

const FEETECH: Layout = Layout {
    base: feetech::register::POSITION.address,
    len: 15,
    position: feetech::register::POSITION,
    goal: feetech::register::GOAL_POSITION,
    torque: feetech::register::TORQUE,
};
const DYNAMIXEL: Layout = Layout {
    base: dynamixel::register::CURRENT.address,
    len: 21,
    position: dynamixel::register::POSITION,
    goal: dynamixel::register::GOAL_POSITION,
    torque: dynamixel::register::TORQUE,
};

/// An arm on a servo bus.
///
/// # Real-time
/// `read` and `write` do not allocate; all methods block for bus transactions.
pub struct ServoArm<P> {
    pub(super) master: Master<P>,
    pub(super) options: ServoArmOptions,
    pub(super) ids: Vec<u8>,
    last: Option<JointState>,
    health: [ServoHealth; MAX_SERVOS],
    beyond: [u8; MAX_SERVOS],
    fault: Option<(usize, HealthFault)>,
    counts: ServoCounts,
    torque_on: bool,
    tripped: bool,
    spoken: Option<Instant>,
    goals: Vec<u8>,
}

impl<P: Port> ServoArm<P> {
    /// An arm on a bus; nothing is sent.
    pub fn new(master: Master<P>, options: ServoArmOptions) -> Self {
        let ids: Vec<u8> = options.servos.iter().take(MAX_SERVOS).map(|servo| servo.id).collect();
        Self {
            goals: Vec::with_capacity(4 * ids.len()),
            ids,
            master,
            options,
            last: None,
            health: [ServoHealth::default(); MAX_SERVOS],
            beyond: [0; MAX_SERVOS],
            fault: None,
            counts: ServoCounts::default(),
            torque_on: false,
            tripped: false,
            spoken: None,
        }
    }

    /// Number of joints.
    pub fn joints(&self) -> usize {
        self.ids.len()
    }

    /// What happened on the bus.
    pub fn bus_counts(&self) -> BusCounts {
        self.master.counts()
    }

    /// What was not believed.
    pub fn counts(&self) -> ServoCounts {
        self.counts
    }

    /// What each servo said of itself last, in the order of the joints.
    pub fn health(&self) -> &[ServoHealth] {
        &self.health[..self.ids.len()]
    }

    /// Whether this driver has switched the torque on.
    pub fn is_torque_on(&self) -> bool {
        self.torque_on
    }

    /// What one read of all servos needs on the wire, request and answers, without the servos' turn-around.
    pub fn read_wire(&self) -> Duration {
        let (protocol, len) = (self.master.protocol(), usize::from(self.layout().len));
        self.master.timing().wire(protocol.sync_read_len(self.ids.len()) + self.ids.len() * protocol.status_len(len))
    }

    fn layout(&self) -> &'static Layout {
        match self.master.protocol() {
            Protocol::Feetech => &FEETECH,
            Protocol::Dynamixel => &DYNAMIXEL,
        }
    }

    fn index(&self, id: u8) -> usize {
        self.ids.iter().position(|&known| known == id).unwrap_or(0)
    }

    pub(super) fn bus_error(&self, error: TransactionError) -> BusError {
        match error {
            TransactionError::Timeout { id } => BusError::Timeout { servo: self.index(id) },
            TransactionError::Damaged { id } => BusError::Checksum { servo: self.index(id) },
            TransactionError::Refused { id, .. } | TransactionError::NotKept { id, .. } => {
                BusError::Refused { servo: self.index(id) }
            }
            TransactionError::Gone(_) => BusError::Disconnected,
            TransactionError::Encode(_) => BusError::Refused { servo: 0 },
        }
    }

    /// The joint state, stamped `now`: read it right after taking the time. A position beyond what its joint can have
    /// made since the last believed one is asked for again and then refused. The first state is believed once a second
    /// reading agrees.
    ///
    /// # Errors
    /// [`BusError`]: no part of a state is made up or kept from before.
    pub fn read(&mut self, now: Instant) -> Result<JointState, BusError> {
        self.look_after_watchdog(now)?;
        if self.last.is_none() {
            let first = self.read_once(now, None)?;
            let second = self.read_once(now, Some(&first))?;
            self.last = Some(second);
        } else {
            let last = self.last;
            self.last = Some(self.read_once(now, last.as_ref())?);
        }
        self.spoken = Some(now);
        match (self.fault, self.last) {
            (Some((servo, what)), _) => Err(BusError::Unhealthy { servo, what }),
            (None, Some(state)) => Ok(state),
            (None, None) => Err(BusError::Timeout { servo: 0 }),
        }
    }

    /// The last state believed, whatever the servos' health.
    pub fn believed(&self) -> Option<&JointState> {
        self.last.as_ref()
    }

    fn read_once(&mut self, now: Instant, last: Option<&JointState>) -> Result<JointState, BusError> {
        let layout = self.layout();
        let protocol = self.master.protocol();
        let joints = self.ids.len();
        let mut state = JointState {
            stamp: now,
            position_rad: JointVec::zeros(joints),
            velocity_rad_s: JointVec::zeros(joints),
            effort_nm: None,
        };
        let span = last.map_or(0.0, |last| now.duration_since(last.stamp).as_secs_f64());
        let (servos, margin) = (&self.options.servos, self.options.margin_rad);
        let (mut read, mut refused) = ([ServoHealth::default(); MAX_SERVOS], None);
        let mut implausible = 0;
        let result = self.master.sync_read(layout.base, layout.len, &self.ids, &mut |index, status| {
            let servo = &servos[index];
            let of = |register: Register| register.decode_in(layout.base, status.params()).unwrap_or(0);
            let position = servo.map.rad(Count(of(layout.position)));
            let far = last
                .is_some_and(|last| (position - last.position_rad[index]).abs() > servo.velocity_rad_s * span + margin);
            if far {
                implausible += 1;
                refused = Some(index);
                return false;
            }
            state.position_rad[index] = position;
            let (velocity, health) = match protocol {
                Protocol::Feetech => feetech_health(&of, status.error),
                Protocol::Dynamixel => dynamixel_health(&of, status.error, servo.map.resolution()),
            };
            state.velocity_rad_s[index] = servo.map.rad_s(velocity);
            read[index] = health;
            true
        });
        self.counts.implausible += implausible;
        if let Err(error) = result {
            let error = self.bus_error(error);
            let was_refused = refused.filter(|_| error != BusError::Disconnected);
            return Err(was_refused.map_or(error, |servo| BusError::Implausible { servo }));
        }
        self.health = read;
        self.judge_health();
        Ok(state)
    }

    fn judge_health(&mut self) {
        let limits = &self.options.health;
        let mut fault = None;
        for (index, health) in self.health[..self.ids.len()].iter().enumerate() {
            let what = match () {
                () if health.alarms != 0 => Some(HealthFault::Alarm),
                () if health.temperature_c > limits.temperature_c => Some(HealthFault::Temperature),
                () if health.load.abs() > limits.load => Some(HealthFault::Load),
                () if !(limits.voltage_v.0..=limits.voltage_v.1).contains(&health.voltage_v) => {
                    Some(HealthFault::Voltage)
                }
                () => None,
            };
            // Up to the persistence and down again, so that one good reading does not end a fault.
            let beyond = &mut self.beyond[index];
            *beyond = if what.is_some() { (*beyond + 1).min(2 * PERSISTENCE) } else { beyond.saturating_sub(1) };
            if *beyond >= PERSISTENCE {
                let before = self.fault.filter(|(servo, _)| *servo == index).map(|(_, what)| what);
                fault = fault.or(Some((index, what.or(before).unwrap_or(HealthFault::Alarm))));
            }
        }
        self.counts.unhealthy += u64::from(self.fault.is_none() && fault.is_some());
        self.fault = fault;
    }

    /// Sends goals, `[D]` rad, and returns what they are in whole counts. On Feetech a goal switches the torque on, so
    /// goals leave only while this driver has switched it on.
    ///
    /// # Errors
    /// [`BusError::Refused`] with torque off or for an angle outside the servo's range; [`BusError`] of the port.
    pub fn write(&mut self, now: Instant, goal_rad: &[f64]) -> Result<JointVec, BusError> {
        if goal_rad.len() != self.ids.len() {
            return Err(BusError::Joints { needed: self.ids.len(), got: goal_rad.len() });
        }
        if !self.torque_on || self.tripped {
            return Err(BusError::Refused { servo: 0 });
        }
        self.look_after_watchdog(now)?;
        let sent = self.send_goals(goal_rad)?;
        self.spoken = Some(now);
        Ok(sent)
    }

    /// What goals are in whole counts, rad.
    ///
    /// # Errors
    /// [`BusError::Refused`] for an angle outside a servo's range.
    pub fn quantise(servos: &[Servo], goal_rad: &[f64]) -> Result<JointVec, BusError> {
        let mut sent = JointVec::zeros(goal_rad.len());
        for (index, (servo, &goal)) in servos.iter().zip(goal_rad).enumerate() {
            let count = servo.map.count(goal).map_err(|_| BusError::Refused { servo: index })?;
            sent[index] = servo.map.rad(count);
        }
        Ok(sent)
    }

    fn send_goals(&mut self, goal_rad: &[f64]) -> Result<JointVec, BusError> {
        let goal = self.layout().goal;
        let sent = Self::quantise(&self.options.servos, goal_rad)?;
        self.goals.clear();
        for (index, (servo, &goal_rad)) in self.options.servos.iter().zip(goal_rad).enumerate() {
            let refused = BusError::Refused { servo: index };
            let count = servo.map.count(goal_rad).map_err(|_| refused)?;
            let bytes = goal.encode(count.0).ok_or(refused)?;
            self.goals.extend_from_slice(&bytes[..usize::from(goal.len)]);
        }
        let result = self.master.sync_write(goal.address, goal.len, &self.ids, &self.goals);
        result.map_err(|error| self.bus_error(error))?;
        Ok(sent)
    }

    /// Torque on: goals become the present positions first, so that nothing jumps; then torque, read back from each
    /// servo; then the bus watchdog. Torque off: every servo is asked even when one fails.
    ///
    /// # Errors
    /// [`BusError`] when a servo did not confirm; torque is then asked off again where it was to go on.
    pub fn set_torque(&mut self, now: Instant, on: bool) -> Result<(), BusError> {
        if on {
            return self.enable(now).inspect_err(|_| {
                let _ = self.disable();
            });
        }
        self.disable()
    }

    fn enable(&mut self, now: Instant) -> Result<(), BusError> {
        let layout = self.layout();
        if self.master.protocol() == Protocol::Dynamixel {
            self.each(dynamixel::register::BUS_WATCHDOG, 0)?;
        }
        self.tripped = false;
        self.spoken = Some(now);
        let state = self.read(now)?;
        if self.torque_on {
            return Ok(());
        }
        // Goals are where the joints stand, also where that is outside the declared range.
        self.goals.clear();
        for (servo, &position) in self.options.servos.iter().zip(state.position_rad.iter()) {
            let count = servo.map.zero() + servo.map.direction().sign() * position / servo.map.rad_per_count();
            let refused = BusError::Refused { servo: 0 };
            let bytes = layout.goal.encode(count.round() as i32).ok_or(refused)?;
            self.goals.extend_from_slice(&bytes[..usize::from(layout.goal.len)]);
        }
        let sent = self.master.sync_write(layout.goal.address, layout.goal.len, &self.ids, &self.goals);
        sent.map_err(|error| self.bus_error(error))?;
        self.each(layout.torque, 1)?;
        self.torque_on = true;
        if let (Protocol::Dynamixel, Some(watchdog)) = (self.master.protocol(), self.options.watchdog) {
            let units = i32::try_from(watchdog.as_millis() / 20).unwrap_or(127).clamp(1, 127);
            self.each(dynamixel::register::BUS_WATCHDOG, units)?;
        }
        Ok(())
    }

    fn disable(&mut self) -> Result<(), BusError> {
        let layout = self.layout();
        let mut result = Ok(());
        if self.master.protocol() == Protocol::Dynamixel {
            result = result.and(self.each(dynamixel::register::BUS_WATCHDOG, 0));
        }
        let off = self.each(layout.torque, 0);
        if off.is_ok() {
            self.torque_on = false;
        }
        result.and(off)
    }

    /// Writes one value to a register of every servo, with read-back; all are asked even when one fails.
    fn each(&mut self, register: Register, value: i32) -> Result<(), BusError> {
        let mut result = Ok(());
        for index in 0..self.ids.len() {
            let one = self.master.write_checked(self.ids[index], register, value);
            result = result.and(one.map_err(|error| self.bus_error(error)));
        }
        result
    }

    /// After a silence as long as the bus watchdog the servos may have stopped by themselves: they refuse goals until
    /// torque is switched on again.
    fn look_after_watchdog(&mut self, now: Instant) -> Result<(), BusError> {
        let (Some(watchdog), Some(spoken)) = (self.options.watchdog, self.spoken) else { return Ok(()) };
        let is_silent = self.master.protocol() == Protocol::Dynamixel && now.duration_since(spoken) >= watchdog;
        if !self.torque_on || !is_silent {
            return Ok(());
        }
        let value = self.master.read(self.ids[0], dynamixel::register::BUS_WATCHDOG);
        if value.map_err(|error| self.bus_error(error))? < 0 {
            self.counts.watchdog_trips += u64::from(!self.tripped);
            self.tripped = true;
        }
        Ok(())
    }
}

fn feetech_health(of: &dyn Fn(Register) -> i32, error: u8) -> (f64, ServoHealth) {
    use feetech::register as r;
    let health = ServoHealth {
        voltage_v: f64::from(of(r::VOLTAGE)) * 0.1,
        temperature_c: f64::from(of(r::TEMPERATURE)),
        load: f64::from(of(r::LOAD)) * 1e-3,
        current_a: f64::from(of(r::CURRENT)) * 6.5e-3,
        alarms: error,
    };
    (f64::from(of(r::VELOCITY)), health)
}

fn dynamixel_health(of: &dyn Fn(Register) -> i32, error: u8, resolution: u32) -> (f64, ServoHealth) {
    use dynamixel::register as r;
    let current_a = f64::from(of(r::CURRENT)) * 1e-3;
    let health = ServoHealth {
        voltage_v: f64::from(of(r::VOLTAGE)) * 0.1,
        temperature_c: f64::from(of(r::TEMPERATURE)),
        load: current_a,
        current_a,
        alarms: error & dynamixel::ALERT,
    };
    (f64::from(of(r::VELOCITY)) * 0.229 / 60.0 * f64::from(resolution), health)
}
