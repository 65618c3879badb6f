//! The one who asks: transactions on a bus, with time-outs, bounded retries and counters.

use super::frame::{BROADCAST, EncodeError, Found, Instruction, MAX_PACKET, Protocol, Status, Stream};
use super::port::{Port, PortError};
use super::table::Register;
use super::{dynamixel, feetech};
use core::time::Duration;
use std::time::Instant as Wall;

/// How long to wait and how often to ask again.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Timing {
    /// Baud rate, for the time bytes need on the wire.
    pub baud: u32,
    /// Wait for an answer beyond the time on the wire: servo, adapter and USB.
    pub reply: Duration,
    /// How often a failed read is repeated.
    pub retries: u8,
}

impl Timing {
    /// Time so many bytes need on the wire: ten bits each.
    pub fn wire(&self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 10_000_000_000 / u64::from(self.baud.max(1)))
    }
}

/// Why a transaction failed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// No answer.
    #[error("servo {id} did not answer")]
    Timeout {
        /// Who was asked.
        id: u8,
    },
    /// Damaged answers only.
    #[error("the answer of servo {id} arrived damaged")]
    Damaged {
        /// Who was asked.
        id: u8,
    },
    /// The servo refused.
    #[error("servo {id} refused: {}", dynamixel::error_text(*code).unwrap_or("no reason given"))]
    Refused {
        /// Who was asked.
        id: u8,
        /// The protocol's error number.
        code: u8,
    },
    /// What was written does not read back.
    #[error(
        "servo {id}: register {address} was written and reads back otherwise: is its EEPROM locked or its torque on?"
    )]
    NotKept {
        /// Who was asked.
        id: u8,
        /// The register.
        address: u16,
    },
    /// The port is gone.
    #[error("the bus is disconnected (error code {0})")]
    Gone(i32),
    /// The request cannot be said.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// What happened on a bus so far.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct BusCounts {
    /// Requests sent, repeats included.
    pub requests: u64,
    /// Answers taken.
    pub answers: u64,
    /// Repeats of a failed read.
    pub retries: u64,
    /// Answers that did not come.
    pub timeouts: u64,
    /// Answers with a wrong checksum.
    pub damaged: u64,
    /// Answers of a servo that was not asked, or of another length.
    pub foreign: u64,
    /// Refusals.
    pub refused: u64,
    /// Answers that raise an alarm.
    pub alarms: u64,
    /// Bytes that belonged to no packet.
    pub garbage_bytes: u64,
    /// Requests that came back as an echo.
    pub echoes: u64,
}

/// How long an answer may take where nothing is in a hurry: adapters hold bytes back for 16 ms, and machines are busy.
const UNHURRIED: Duration = Duration::from_millis(40);

/// Most servos of one sync read.
pub const MAX_SERVOS: usize = crate::joints::MAX_JOINTS;

/// What a scan finds of one servo.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its id.
    pub id: u8,
    /// Its model number.
    pub model: u16,
}

/// A bus and its only master.
///
/// # Real-time
/// No method allocates; all block, for at most the declared time: they belong to the bus's own thread.
pub struct Master<P> {
    protocol: Protocol,
    port: P,
    timing: Timing,
    stream: Stream,
    counts: BusCounts,
    request: [u8; MAX_PACKET],
    echoes: bool,
}

impl<P: Port> Master<P> {
    /// A master on an open port.
    pub fn new(protocol: Protocol, port: P, timing: Timing) -> Self {
        Self {
            protocol,
            port,
            timing,
            stream: Stream::new(protocol),
            counts: BusCounts::default(),
            request: [0; MAX_PACKET],
            echoes: false,
        }
    }

    /// The language of the bus.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How long it waits, and how often it asks.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Waits and asks otherwise from now on; the port keeps its baud rate.
    pub(super) fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// What happened so far.
    pub fn counts(&self) -> BusCounts {
        BusCounts { garbage_bytes: self.stream.garbage(), ..self.counts }
    }

    /// Sends a request; old input is forgotten first, so that a late answer is not taken for a new one.
    fn send(&mut self, id: u8, instruction: &Instruction<'_>, most: usize) -> Result<usize, TransactionError> {
        let len = self.protocol.encode(id, instruction, &mut self.request)?;
        self.port.discard().map_err(|error| gone(error, id))?;
        self.stream.expect(most);
        self.port.send(&self.request[..len]).map_err(|error| gone(error, id))?;
        self.counts.requests += 1;
        Ok(len)
    }

    /// The next answer before `until`.
    fn answer(&mut self, until: Wall, sent: usize) -> Result<Option<Found>, PortError> {
        let mut bytes = [0; 128];
        loop {
            if self.stream.strip_echo(&self.request[..sent]) {
                self.counts.echoes += u64::from(!self.echoes);
                self.echoes = true;
            }
            if let Some(found) = self.stream.next() {
                self.counts.damaged += u64::from(found == Found::Damaged);
                return Ok(Some(found));
            }
            let left = until.saturating_duration_since(Wall::now());
            if left.is_zero() {
                return Ok(self.stream.give_up_first());
            }
            match self.port.receive(&mut bytes, left) {
                Ok(count) => self.stream.push(&bytes[..count]),
                Err(PortError::Timeout) => {}
                Err(gone) => return Err(gone),
            }
        }
    }

    fn until(&self, sent: usize, received: usize) -> Wall {
        Wall::now() + self.timing.wire(sent + received) + self.timing.reply
    }

    /// One request to one servo, with the declared repeats.
    fn ask(
        &mut self,
        id: u8,
        instruction: &Instruction<'_>,
        params: Option<usize>,
    ) -> Result<Status, TransactionError> {
        let most = params.unwrap_or(8);
        let mut failure = TransactionError::Timeout { id };
        for attempt in 0..=self.timing.retries {
            self.counts.retries += u64::from(attempt > 0);
            let sent = self.send(id, instruction, most)?;
            let until = self.until(sent, self.protocol.status_len(most));
            failure = TransactionError::Timeout { id };
            while let Some(found) = self.answer(until, sent).map_err(|error| gone(error, id))? {
                match found {
                    Found::Damaged => failure = TransactionError::Damaged { id },
                    Found::Status(status) if status.id != id => self.counts.foreign += 1,
                    Found::Status(status) => match self.judge(&status) {
                        Err(refused) => return Err(refused),
                        Ok(()) if params.is_some_and(|len| status.params().len() != len) => self.counts.foreign += 1,
                        Ok(()) => return Ok(status),
                    },
                }
            }
            self.counts.timeouts += u64::from(matches!(failure, TransactionError::Timeout { .. }));
        }
        Err(failure)
    }

    /// Counts alarms; an error number of Dynamixel is a refusal.
    fn judge(&mut self, status: &Status) -> Result<(), TransactionError> {
        self.counts.answers += 1;
        match self.protocol {
            Protocol::Feetech => self.counts.alarms += u64::from(status.error != 0),
            Protocol::Dynamixel => {
                self.counts.alarms += u64::from(status.error & dynamixel::ALERT != 0);
                let code = status.error & !dynamixel::ALERT;
                if code != 0 {
                    self.counts.refused += 1;
                    return Err(TransactionError::Refused { id: status.id, code });
                }
            }
        }
        Ok(())
    }

    /// Whether a servo answers, and its model number.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn ping(&mut self, id: u8) -> Result<Present, TransactionError> {
        let status = self.ask(id, &Instruction::Ping, None)?;
        let model = match self.protocol {
            Protocol::Dynamixel => status.params().get(..2).map(|model| u16::from_le_bytes([model[0], model[1]])),
            Protocol::Feetech => None,
        };
        match model {
            Some(model) => Ok(Present { id, model }),
            None => self.read(id, feetech::register::MODEL).map(|model| Present { id, model: model as u16 }),
        }
    }

    /// Everyone who answers a broadcast ping within `wait`: `(id, answers)`. Two answers of one id, or damaged answers
    /// with few servos, mean that two servos share an id.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn broadcast_ping(&mut self, wait: Duration) -> Result<(Vec<(u8, usize)>, usize), TransactionError> {
        let sent = self.send(BROADCAST, &Instruction::Ping, 8)?;
        let until = Wall::now() + wait;
        let (mut seen, mut damaged): (Vec<(u8, usize)>, usize) = (Vec::new(), 0);
        while let Some(found) = self.answer(until, sent).map_err(|error| gone(error, BROADCAST))? {
            match found {
                Found::Damaged => damaged += 1,
                Found::Status(status) => match seen.iter_mut().find(|(id, _)| *id == status.id) {
                    Some((_, count)) => *count += 1,
                    None => seen.push((status.id, 1)),
                },
            }
        }
        seen.sort_unstable();
        Ok((seen, damaged))
    }

    /// How many answers a ping of one id brings, whole and damaged: two, or damaged ones, where two servos share it. Waits
    /// long enough for late answers, so that none is taken for that of a twin.
    ///
    /// # Errors
    /// [`TransactionError::Gone`].
    pub fn count_answers(&mut self, id: u8) -> Result<(usize, usize), TransactionError> {
        let sent = self.send(id, &Instruction::Ping, 8)?;
        let until = Wall::now() + self.timing.reply.max(UNHURRIED);
        let garbage = self.stream.garbage();
        let (mut whole, mut damaged) = (0, 0);
        while let Some(found) = self.answer(until, sent).map_err(|error| gone(error, id))? {
            match found {
                Found::Status(status) if status.id == id => whole += 1,
                _ => damaged += 1,
            }
        }
        Ok((whole, damaged + usize::from(self.stream.garbage() > garbage)))
    }

    /// One register of one servo.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn read(&mut self, id: u8, register: Register) -> Result<i32, TransactionError> {
        let request = Instruction::Read { address: register.address, len: register.len };
        let status = self.ask(id, &request, Some(usize::from(register.len)))?;
        register.decode(status.params()).ok_or(TransactionError::Damaged { id })
    }

    /// Writes one register of one servo. An answer is waited for, as servos give one unless told not to.
    ///
    /// # Errors
    /// [`TransactionError`]; [`EncodeError::Shape`] for a number the register cannot hold.
    pub fn write(&mut self, id: u8, register: Register, value: i32) -> Result<(), TransactionError> {
        let bytes = register.encode(value).ok_or(EncodeError::Shape)?;
        let request = Instruction::Write { address: register.address, data: &bytes[..usize::from(register.len)] };
        self.ask(id, &request, Some(0)).map(|_| ())
    }

    /// Writes and reads back. A repeated write of one value is harmless, and an answer that was lost is found here.
    ///
    /// # Errors
    /// [`TransactionError::NotKept`] when the servo holds another value.
    pub fn write_checked(&mut self, id: u8, register: Register, value: i32) -> Result<(), TransactionError> {
        match self.write(id, register, value) {
            Ok(()) | Err(TransactionError::Timeout { .. } | TransactionError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.read(id, register)? {
            found if found == value => Ok(()),
            _ => Err(TransactionError::NotKept { id, address: register.address }),
        }
    }

    /// Writes registers that survive power-off: torque off, unlock, write, read back, lock. Where it fails halfway the
    /// lock is closed again all the same.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn write_eeprom(&mut self, id: u8, values: &[(Register, i32)]) -> Result<(), TransactionError> {
        match self.protocol {
            Protocol::Dynamixel => {
                self.write_checked(id, dynamixel::register::TORQUE, 0)?;
                values.iter().try_for_each(|&(register, value)| self.write_checked(id, register, value))
            }
            Protocol::Feetech => {
                self.write_checked(id, feetech::register::TORQUE, 0)?;
                self.write_checked(id, feetech::register::LOCK, 0)?;
                let written = values.iter().try_for_each(|&(register, value)| self.write_checked(id, register, value));
                let locked = self.write_checked(id, feetech::register::LOCK, 1);
                written.and(locked)
            }
        }
    }

    /// Gives a servo another id, kept over power-off. The servo must be the only one with its id, and nobody may have
    /// the new one.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn set_id(&mut self, id: u8, new: u8) -> Result<(), TransactionError> {
        let (register, _) = self.open_setup(id)?;
        self.write_unanswered(id, register, i32::from(new))?;
        match self.read(new, register)? {
            found if found == i32::from(new) => self.close_setup(new),
            _ => Err(TransactionError::NotKept { id: new, address: register.address }),
        }
    }

    /// Sets a servo's baud rate, by its index; it speaks at that rate from then on, so the port must be opened anew, and
    /// [`Master::close_setup`] called there.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn set_baud(&mut self, id: u8, index: u8) -> Result<(), TransactionError> {
        let (_, register) = self.open_setup(id)?;
        self.write_unanswered(id, register, i32::from(index))
    }

    /// Makes the EEPROM writable; the registers of id and baud rate.
    fn open_setup(&mut self, id: u8) -> Result<(Register, Register), TransactionError> {
        match self.protocol {
            Protocol::Dynamixel => {
                self.write_checked(id, dynamixel::register::TORQUE, 0)?;
                Ok((dynamixel::register::ID, dynamixel::register::BAUD))
            }
            Protocol::Feetech => {
                self.write_checked(id, feetech::register::TORQUE, 0)?;
                self.write_checked(id, feetech::register::LOCK, 0)?;
                Ok((feetech::register::ID, feetech::register::BAUD))
            }
        }
    }

    /// Locks the EEPROM where the family has a lock.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn close_setup(&mut self, id: u8) -> Result<(), TransactionError> {
        match self.protocol {
            Protocol::Dynamixel => Ok(()),
            Protocol::Feetech => self.write_checked(id, feetech::register::LOCK, 1),
        }
    }

    /// Writes a register whose write changes how the servo answers: the answer is not waited for.
    fn write_unanswered(&mut self, id: u8, register: Register, value: i32) -> Result<(), TransactionError> {
        let bytes = register.encode(value).ok_or(EncodeError::Shape)?;
        let request = Instruction::Write { address: register.address, data: &bytes[..usize::from(register.len)] };
        let sent = self.send(id, &request, 0)?;
        let until = self.until(sent, 16);
        while let Some(_answer) = self.answer(until, sent).map_err(|error| gone(error, id))? {}
        Ok(())
    }

    /// Writes `len` bytes from `address` on to every servo at once; nobody answers. `data` is `[ids, len]`.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn sync_write(&mut self, address: u16, len: u16, ids: &[u8], data: &[u8]) -> Result<(), TransactionError> {
        self.send(BROADCAST, &Instruction::SyncWrite { address, len, ids, data }, 0).map(|_| ())
    }

    /// Reads `len` bytes from `address` on of the servos `wanted` points at (by index into `ids`), and calls `take` with
    /// index and status for each answer; those for which `take` says false are asked again with those that were silent.
    ///
    /// # Errors
    /// The first servo that still has not given an acceptable answer after the declared repeats.
    pub fn sync_read(
        &mut self,
        address: u16,
        len: u16,
        ids: &[u8],
        take: &mut dyn FnMut(usize, &Status) -> bool,
    ) -> Result<(), TransactionError> {
        let mut missing = [false; MAX_SERVOS];
        missing[..ids.len().min(MAX_SERVOS)].fill(true);
        let mut failure = None;
        for attempt in 0..=self.timing.retries {
            let (mut asked, mut count) = ([0; MAX_SERVOS], 0);
            for (&id, _) in ids.iter().zip(missing).filter(|(_, missing)| *missing) {
                asked[count] = id;
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.counts.retries += u64::from(attempt > 0);
            let request = Instruction::SyncRead { address, len, ids: &asked[..count] };
            let sent = self.send(BROADCAST, &request, usize::from(len))?;
            let until = self.until(sent, count * self.protocol.status_len(usize::from(len)));
            let mut left = count;
            let mut damaged = false;
            while left > 0 {
                let Some(found) = self.answer(until, sent).map_err(|error| gone(error, asked[0]))? else { break };
                let Found::Status(status) = found else {
                    damaged = true;
                    continue;
                };
                let index = ids.iter().position(|&id| id == status.id).filter(|&index| missing[index]);
                let Some(index) = index.filter(|_| status.params().len() == usize::from(len)) else {
                    self.counts.foreign += 1;
                    continue;
                };
                // A refusal is an answer without data, which the length has sorted out already.
                self.judge(&status)?;
                left -= 1;
                missing[index] = !take(index, &status);
            }
            self.counts.timeouts += left as u64;
            failure = ids.iter().zip(missing).find(|(_, missing)| *missing).map(|(&id, _)| match damaged {
                true => TransactionError::Damaged { id },
                false => TransactionError::Timeout { id },
            });
        }
        failure.map_or(Ok(()), Err)
    }
}

fn gone(error: PortError, id: u8) -> TransactionError {
    match error {
        PortError::Timeout => TransactionError::Timeout { id },
        PortError::Gone(code) => TransactionError::Gone(code),
    }
}
