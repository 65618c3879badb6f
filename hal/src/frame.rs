//! Camera frames and the trait cameras stand behind.

use crate::time::Instant;

/// One colour image with the instants that make it usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// `[h, w, 3]` row-major RGB, u8.
    pub data: Vec<u8>,
    /// When the sensor captured the image, from the driver and mapped to the monotonic clock; not its arrival. A
    /// driver may stamp into the future, so never assume `now − captured ≥ 0`.
    pub captured: Instant,
    /// When the image could first be read.
    pub available: Instant,
    /// The driver's sequence number; 0 means that nothing has been captured into this buffer.
    pub sequence: u64,
}

impl Frame {
    /// An empty buffer of the given size: black, sequence 0.
    pub fn new(width: u32, height: u32) -> Self {
        let bytes = width as usize * height as usize * 3;
        Self { width, height, data: vec![0; bytes], captured: Instant::ZERO, available: Instant::ZERO, sequence: 0 }
    }

    /// Copies `other` into this buffer; allocates only when the sizes differ.
    pub fn copy_from(&mut self, other: &Self) {
        self.width = other.width;
        self.height = other.height;
        self.data.clear();
        self.data.extend_from_slice(&other.data);
        self.captured = other.captured;
        self.available = other.available;
        self.sequence = other.sequence;
    }
}

/// The name of a frame: what a command says about where its data came from.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct FrameStamp {
    /// Which camera, in the order of the policy's slots.
    pub camera: u8,
    /// The driver's sequence number.
    pub sequence: u64,
    /// When the sensor captured it.
    pub captured: Instant,
    /// When it could first be read.
    pub available: Instant,
}

impl FrameStamp {
    /// The name of the oldest of a set of frames: data are as old as their oldest part.
    pub fn oldest(frames: &[Frame]) -> Option<Self> {
        let (camera, frame) = frames.iter().enumerate().min_by_key(|(_, frame)| frame.captured)?;
        Some(Self::of(camera, frame))
    }

    /// The name of a slot's frame.
    pub fn of(camera: usize, frame: &Frame) -> Self {
        let camera = u8::try_from(camera).unwrap_or(u8::MAX);
        Self { camera, sequence: frame.sequence, captured: frame.captured, available: frame.available }
    }
}

/// Why a camera gave no frame.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CameraError {
    /// The device is gone.
    #[error("the camera is disconnected")]
    Disconnected,
    /// The caller's buffer has another size than the camera's images.
    #[error("the camera gives {width}×{height} images and the buffer is for another size")]
    WrongSize {
        /// Pixels across, as the camera gives them.
        width: u32,
        /// Pixels down, as the camera gives them.
        height: u32,
    },
    /// The driver failed.
    #[error("the camera driver failed with error code {code}")]
    Io {
        /// The driver's own code.
        code: i32,
    },
}

/// A source of frames. Cameras run on side threads, never on the control thread.
pub trait Camera: Send {
    /// The camera's name, as the robot description has it.
    fn name(&self) -> &str;

    /// Width and height of its images, in pixels.
    fn size(&self) -> (u32, u32);

    /// Copies the newest image available at `now` into `frame` when its sequence differs from the one already there;
    /// `Ok(true)` means that the buffer changed.
    ///
    /// # Errors
    /// [`CameraError`]; the buffer is left as it was.
    ///
    /// # Real-time
    /// Does not allocate when the buffer has the right size; may block for a driver's lock.
    fn capture(&mut self, now: Instant, frame: &mut Frame) -> Result<bool, CameraError>;

    /// Fills in the pixels of a frame that this camera handed out, before someone looks at them: for a camera that puts
    /// that off, as a simulated one does whose images nobody sees. Every other has nothing to do.
    fn develop(&mut self, _frame: &mut Frame) {}
}
