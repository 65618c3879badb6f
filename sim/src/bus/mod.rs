//! Emulated servo buses on a pseudo-terminal: a driver opens the path as it would a serial port.
//!
//! The emulator has codecs of its own: shared ones would hide a mistake in both ends. It keeps wire time, turn-around
//! and the rules real servos follow: a goal switches torque on, a locked EEPROM drops writes and answers OK, a
//! Feetech position is taken modulo a turn, Dynamixel's bus watchdog trips.

mod dynamixel;
mod fault;
mod feetech;
mod plant;
mod pty;
mod servo;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_pcg::Pcg64;

pub use fault::{BusFaults, EmulatorCounts};
pub use plant::{FreeJoints, Plant, RobotJoints};
use pty::Pty;
use servo::{Reply, Request, Servo};

/// Make of the emulated servos.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Make {
    /// STS3215.
    Feetech,
    /// XL330-M288.
    Dynamixel,
}

/// How a bus is emulated.
#[derive(Clone, Debug, PartialEq)]
pub struct BusOptions {
    /// Make of all servos.
    pub make: Make,
    /// Ids by joint; two equal ids are two servos that both answer.
    pub ids: Vec<u8>,
    /// Baud rate, for the time on the wire.
    pub baud: u32,
    /// Whether a servo is deaf to a driver whose port has another baud rate than its register; a pseudo-terminal itself
    /// carries bytes at any.
    pub minds_baud: bool,
    /// From the end of a request to the first byte of an answer.
    pub turn_around: Duration,
    /// What goes wrong.
    pub faults: BusFaults,
    /// Seed of the faults.
    pub seed: u64,
}

impl BusOptions {
    /// `joints` servos with ids from 1 on, 1 Mbaud, 50 µs turn-around, nothing wrong.
    pub fn new(make: Make, joints: usize) -> Self {
        let ids = (1..=joints as u8).collect();
        Self {
            make,
            ids,
            baud: 1_000_000,
            minds_baud: false,
            turn_around: Duration::from_micros(50),
            faults: BusFaults::default(),
            seed: 0,
        }
    }
}

struct Shared {
    running: AtomicBool,
    counts: Mutex<EmulatorCounts>,
    supply: Mutex<(f64, f64)>,
    faults: Mutex<BusFaults>,
}

/// A bus that is served by a thread until this is dropped; dropping it unplugs the bus.
pub struct EmulatedBus {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
    path: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EmulatedBus {
    /// Starts a bus over joints.
    ///
    /// # Errors
    /// The system's error when it gives no pseudo-terminal.
    pub fn start(options: BusOptions, plant: Box<dyn Plant>) -> io::Result<Self> {
        let pty = Pty::open()?;
        let path = pty.path().to_owned();
        let shared = Arc::new(Shared {
            running: AtomicBool::new(true),
            counts: Mutex::default(),
            supply: Mutex::new(match options.make {
                Make::Feetech => (12.1, 35.0),
                Make::Dynamixel => (5.0, 30.0),
            }),
            faults: Mutex::new(options.faults.clone()),
        });
        let mut bus = Bus::new(options, plant, Arc::clone(&shared), pty);
        let thread = std::thread::Builder::new().name("emulated-bus".into()).spawn(move || bus.serve())?;
        Ok(Self { shared, thread: Some(thread), path })
    }

    /// What a driver opens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What happened so far.
    pub fn counts(&self) -> EmulatorCounts {
        *lock(&self.shared.counts)
    }

    /// Changes what goes wrong.
    pub fn set_faults(&self, faults: BusFaults) {
        *lock(&self.shared.faults) = faults;
    }

    /// Changes supply voltage, V, and temperature, °C, of all servos.
    pub fn set_supply(&self, voltage_v: f64, temperature_c: f64) {
        *lock(&self.shared.supply) = (voltage_v, temperature_c);
    }
}

impl Drop for EmulatedBus {
    fn drop(&mut self) {
        self.shared.running.store(false, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic of the emulator has been printed already.
            let _ = thread.join();
        }
    }
}

struct Bus {
    options: BusOptions,
    plant: Box<dyn Plant>,
    servos: Vec<Box<dyn Servo>>,
    shared: Arc<Shared>,
    pty: Pty,
    rng: Pcg64,
    counts: EmulatorCounts,
    started: Instant,
    dark: bool,
}

impl Bus {
    fn new(options: BusOptions, plant: Box<dyn Plant>, shared: Arc<Shared>, pty: Pty) -> Self {
        let servos = options.ids.iter().enumerate().map(|(joint, &id)| -> Box<dyn Servo> {
            match options.make {
                Make::Feetech => Box::new(feetech::Sts::new(id, joint)),
                Make::Dynamixel => Box::new(dynamixel::Xl330::new(id, joint)),
            }
        });
        Self {
            servos: servos.collect(),
            rng: Pcg64::seed_from_u64(options.seed),
            options,
            plant,
            shared,
            pty,
            counts: EmulatorCounts::default(),
            started: Instant::now(),
            dark: false,
        }
    }

    fn wire(&self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 10_000_000_000 / u64::from(self.options.baud.max(1)))
    }

    fn serve(&mut self) {
        let (mut buffer, mut bytes) = (Vec::new(), [0; 4096]);
        while self.shared.running.load(Ordering::Acquire) {
            let Ok(count) = self.pty.read(&mut bytes, Duration::from_millis(5)) else { return };
            let arrived = Instant::now();
            self.plant.advance();
            self.brown_out();
            buffer.extend_from_slice(&bytes[..count]);
            loop {
                let taken = match self.options.make {
                    Make::Feetech => feetech::take(&buffer),
                    Make::Dynamixel => dynamixel::take(&buffer),
                };
                match taken {
                    Err(garbage) => {
                        self.counts.garbage_bytes += garbage as u64;
                        buffer.drain(..garbage);
                        break;
                    }
                    Ok((request, garbage, end)) => {
                        self.counts.garbage_bytes += garbage as u64;
                        let packet: Vec<u8> = buffer.drain(..end).skip(garbage).collect();
                        if self.answer(&request, &packet, arrived).is_err() {
                            return;
                        }
                    }
                }
            }
            *lock(&self.shared.counts) = self.counts;
        }
    }

    /// Power comes and goes for all servos at once.
    fn brown_out(&mut self) {
        let faults = lock(&self.shared.faults).brown_out;
        let Some((every, lasting)) = faults else {
            self.dark = false;
            return;
        };
        let phase = self.started.elapsed().as_nanos() % every.as_nanos().max(1);
        let is_dark = phase + lasting.as_nanos() >= every.as_nanos();
        if is_dark && !self.dark {
            self.counts.brown_outs += 1;
            for (joint, servo) in self.servos.iter_mut().enumerate() {
                servo.power_up();
                self.plant.set_torque(joint, false);
            }
        }
        self.dark = is_dark;
    }

    fn answer(&mut self, request: &Request, packet: &[u8], arrived: Instant) -> io::Result<()> {
        let faults = lock(&self.shared.faults).clone();
        if faults.echo {
            self.pty.write(packet)?;
        }
        self.counts.requests += 1;
        if self.dark || self.plant.is_silent() {
            return Ok(());
        }
        let (voltage, temperature) = *lock(&self.shared.supply);
        let mut replies: Vec<Reply> = Vec::new();
        let spoken = if self.options.minds_baud { self.pty.baud() } else { None };
        for servo in self.servos.iter_mut().filter(|servo| spoken.is_none_or(|spoken| spoken == servo.baud())) {
            servo.set_supply(voltage, temperature);
            servo.refresh(&*self.plant);
            replies.extend(servo.handle(request, &mut *self.plant));
        }
        if let Some(order) = request.listed(self.options.make == Make::Feetech) {
            let place = |id: u8| order.iter().position(|&listed| listed == id).unwrap_or(usize::MAX);
            replies.sort_by_key(|reply| place(reply.id));
        } else if request.id != 0xFE && replies.len() > 1 {
            replies = vec![collide(replies)];
        }
        // The bytes of the request were on the wire before it could be read.
        let mut due = arrived + self.wire(packet.len());
        for reply in replies {
            self.counts.answers += 1;
            due += self.options.turn_around + self.wire(reply.bytes.len());
            if let Some((_, delay)) = faults.slow.filter(|(id, _)| *id == reply.id) {
                due += delay;
            }
            let mut bytes = reply.bytes.clone();
            let corrupted = self.counts.corrupted;
            if !faults.spoil(&mut self.rng, &mut bytes, &mut self.counts) {
                continue;
            }
            if self.counts.corrupted > corrupted {
                let is_whole = match self.options.make {
                    Make::Feetech => feetech::is_whole(&bytes, &reply.bytes),
                    Make::Dynamixel => dynamixel::is_whole(&bytes, &reply.bytes),
                };
                self.counts.escapes += u64::from(is_whole);
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.pty.write(&bytes)?;
        }
        Ok(())
    }
}

/// Two servos that answer at once pull one wire: a dominant 0 wins where they differ.
fn collide(replies: Vec<Reply>) -> Reply {
    let id = replies[0].id;
    let len = replies.iter().map(|reply| reply.bytes.len()).max().unwrap_or(0);
    let mut bytes = vec![0xFF; len];
    for (index, reply) in replies.iter().enumerate() {
        // Their turn-arounds differ by a bit or two.
        for (at, &byte) in reply.bytes.iter().enumerate() {
            bytes[at] &= byte.rotate_left(index as u32);
        }
    }
    Reply { id, bytes }
}
