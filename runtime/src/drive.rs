//! The outer drivers: they own the clock and the threads and call the loop bodies.
//!
//! [`simulated`] runs everything on one thread in simulated time, with a latency model for inference, and replays bit
//! for bit. [`realtime`] runs camera, inference and control threads on the machine's clock.

pub mod control_thread;
pub mod orders;
pub mod realtime;
pub mod simulated;

use crate::control::{CameraHealth, ControlLoop, Tick};
use crate::crossing::{Reader, Writer, triple_buffer};
use control_thread::Shared;
use endplate_hal::{Camera, CameraError, Frame, Instant, JointVec};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a run goes on.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// End the run.
    Stop,
}

/// What the owner of a robot sees of its running threads.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The newest period; `None` while the robot is not active.
    pub tick: Option<Tick>,
    /// The motion commanded last, rad.
    pub commanded_rad: JointVec,
    /// Whether that is at rest.
    pub at_rest: bool,
    /// Whether a stop is latched.
    pub latched: bool,
    /// Measured positions, rad; `None` before the first.
    pub measured_rad: Option<JointVec>,
    /// Control periods missed so far.
    pub overruns: u64,
    /// Chunks answered so far.
    pub chunks: u64,
    /// Chunks whose first command came after the deadline.
    pub deadline_misses: u64,
}

impl Sight {
    fn new() -> Self {
        Self {
            tick: None,
            commanded_rad: JointVec::zeros(0),
            at_rest: true,
            latched: false,
            measured_rad: None,
            overruns: 0,
            chunks: 0,
            deadline_misses: 0,
        }
    }

    /// After a period, on the control thread.
    fn take(&mut self, tick: Option<Tick>, control: &ControlLoop, shared: &Shared) {
        let (motion, counts) = (control.commanded(), control.counts());
        *self = Self {
            tick,
            commanded_rad: motion.position_rad,
            at_rest: motion.is_at_rest(),
            latched: control.latched().is_some(),
            measured_rad: control.measured().copied(),
            overruns: counts.overruns,
            chunks: shared.answered.load(Ordering::Relaxed),
            deadline_misses: counts.deadline_misses,
        };
    }
}

impl Default for Sight {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads one camera and passes its newest frame on.
pub struct CameraLoop {
    camera: Box<dyn Camera>,
    scratch: Frame,
    frames: Writer<Frame>,
    health: Arc<AtomicHealth>,
    last_sequence: u64,
    /// Sequence number of the frame developed last.
    developed: u64,
    counts: CameraCounts,
}

/// What happened at a camera.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct CameraCounts {
    /// New images.
    pub frames: u64,
    /// Images handed out again with the sequence number of the one before: not news, so their stamp does not count.
    pub repeated: u64,
    /// Reads that failed.
    pub errors: u64,
}

#[derive(Default)]
struct AtomicHealth {
    captured: AtomicU64,
    sequence: AtomicU64,
}

/// The receiving ends of a set of cameras, in the order of the bundle's slots.
pub struct CameraBank {
    readers: Vec<Reader<Frame>>,
    frames: Vec<Frame>,
    black: bool,
}

/// The health of a set of cameras, readable without waiting.
#[derive(Clone)]
pub struct CameraWatch(Vec<Arc<AtomicHealth>>);

/// Loops for the cameras, the bank the policy reads and the watch the control loop reads, all in the order given. With
/// `black`, the policy sees black images (an ablation: a policy that still succeeds does not look).
pub fn camera_loops(cameras: Vec<Box<dyn Camera>>, black: bool) -> (Vec<CameraLoop>, CameraBank, CameraWatch) {
    let mut bank = CameraBank { readers: Vec::new(), frames: Vec::new(), black };
    let mut watch = CameraWatch(Vec::new());
    let loops = cameras
        .into_iter()
        .map(|camera| {
            let (width, height) = camera.size();
            let (writer, reader) = triple_buffer(|| Frame::new(width, height));
            let health = Arc::new(AtomicHealth::default());
            bank.readers.push(reader);
            bank.frames.push(Frame::new(width, height));
            watch.0.push(Arc::clone(&health));
            CameraLoop {
                camera,
                scratch: Frame::new(width, height),
                frames: writer,
                health,
                last_sequence: 0,
                developed: 0,
                counts: CameraCounts::default(),
            }
        })
        .collect();
    (loops, bank, watch)
}

impl CameraLoop {
    /// Looks for a new frame; images cross by trading buffers, nothing is copied. A failed read is counted and the old frame grows older, as it does when the driver hands
    /// the same sequence number out again under a fresh stamp.
    pub fn step(&mut self, now: Instant) {
        match self.camera.capture(now, &mut self.scratch) {
            Ok(false) => {}
            Ok(true) if self.scratch.sequence == self.last_sequence => self.counts.repeated += 1,
            Ok(true) => {
                self.last_sequence = self.scratch.sequence;
                self.counts.frames += 1;
                // The buffers change hands; the camera keeps knowing what it handed out last.
                let (captured, available, sequence) =
                    (self.scratch.captured, self.scratch.available, self.scratch.sequence);
                std::mem::swap(self.frames.slot(), &mut self.scratch);
                self.frames.publish();
                (self.scratch.captured, self.scratch.available, self.scratch.sequence) =
                    (captured, available, sequence);
                self.health.captured.store(captured.as_nanos(), Ordering::Release);
                self.health.sequence.store(sequence, Ordering::Release);
            }
            Err(CameraError::Disconnected | CameraError::WrongSize { .. } | CameraError::Io { .. }) => {
                self.counts.errors += 1;
            }
        }
    }

    /// Fills in the pixels of a frame of this camera, where it puts that off.
    fn develop(&mut self, frame: &mut Frame) {
        if frame.sequence != self.developed {
            self.developed = frame.sequence;
            self.camera.develop(frame);
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> CameraCounts {
        self.counts
    }

    /// A new episode: frames from before are gone.
    pub fn restart(&mut self) {
        self.health.sequence.store(0, Ordering::Release);
    }

    /// The camera's name.
    pub fn name(&self) -> &str {
        self.camera.name()
    }
}

impl CameraBank {
    /// Takes the newest frames over.
    pub fn refresh(&mut self) -> &[Frame] {
        for (reader, frame) in self.readers.iter_mut().zip(&mut self.frames) {
            if reader.update() {
                std::mem::swap(frame, reader.slot());
                if self.black {
                    frame.data.fill(0);
                }
            }
        }
        &self.frames
    }

    /// Fills in the pixels of the frames taken over, where a camera puts that off; `cameras` are this bank's.
    pub fn develop(&mut self, cameras: &mut [CameraLoop]) -> &[Frame] {
        for (frame, camera) in self.frames.iter_mut().zip(cameras).filter(|_| !self.black) {
            camera.develop(frame);
        }
        &self.frames
    }
}

impl CameraWatch {
    /// The present health of every camera.
    ///
    /// # Real-time
    /// Does not allocate, lock or wait.
    pub fn read(&self, health: &mut [CameraHealth]) {
        for (out, shared) in health.iter_mut().zip(&self.0) {
            // The writer stores the stamp first: whoever sees a sequence number sees its stamp, or a newer one.
            let sequence = shared.sequence.load(Ordering::Acquire);
            *out = CameraHealth { captured: Instant::from_nanos(shared.captured.load(Ordering::Acquire)), sequence };
        }
    }

    /// Number of cameras.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no camera.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
