//! Faults on demand, as windows of time: `camera_drop:front@2.0+0.5` drops the front camera's frames
//! for half a second, two seconds after the episode's start.
//!
//! All fault names of the product are known here, so that one parser refuses a misspelt one. Those
//! of body and sensors are injected by [`crate::robot::SimRobot`]; the others are for the runtime, which asks
//! the same [`FaultPlan`].

use crate::rng::Random;
use core::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const STREAM: u64 = 53;

/// What goes wrong.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum FaultKind {
    /// The camera's frames are lost; its sequence numbers go on.
    CameraDrop,
    /// The driver hands out its last image again and again under a fresh stamp; the sequence stands still.
    CameraFreeze,
    /// Every other frame is the one before, with its stamp and sequence.
    CameraDuplicate,
    /// Frames are stamped 179 ms into the future, as a real driver was seen to do.
    CameraFutureStamp,
    /// Joint reads time out.
    StateLoss,
    /// One joint reads 0.8 rad off.
    StateJump,
    /// Command writes fail.
    BusError,
    /// Device stamps, of joints and frames, jump back by 0.5 s.
    ClockStep,
    /// An inference does not return.
    InferenceStall,
    /// Inferences take longer and longer.
    LatencyDrift,
    /// The policy's output holds NaN.
    OutputNan,
    /// The policy's output holds an infinity.
    OutputInf,
    /// The policy's output is finite and far outside every range.
    OutputHuge,
    /// The policy's tokens are random.
    TokensGarbage,
    /// The policy's tokens end too early.
    TokensTruncated,
    /// The instruction changes.
    InstructionChange,
    /// The e-stop is pressed.
    Estop,
}

impl FaultKind {
    /// Every kind, in the order they are documented.
    pub const ALL: [Self; 17] = [
        Self::CameraDrop,
        Self::CameraFreeze,
        Self::CameraDuplicate,
        Self::CameraFutureStamp,
        Self::StateLoss,
        Self::StateJump,
        Self::BusError,
        Self::InferenceStall,
        Self::LatencyDrift,
        Self::OutputNan,
        Self::OutputInf,
        Self::OutputHuge,
        Self::TokensGarbage,
        Self::TokensTruncated,
        Self::ClockStep,
        Self::InstructionChange,
        Self::Estop,
    ];

    /// Its name on the command line and in summaries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CameraDrop => "camera_drop",
            Self::CameraFreeze => "camera_freeze",
            Self::CameraDuplicate => "camera_duplicate",
            Self::CameraFutureStamp => "camera_future_stamp",
            Self::StateLoss => "state_loss",
            Self::StateJump => "state_jump",
            Self::BusError => "bus_error",
            Self::ClockStep => "clock_step",
            Self::InferenceStall => "inference_stall",
            Self::LatencyDrift => "latency_drift",
            Self::OutputNan => "output_nan",
            Self::OutputInf => "output_inf",
            Self::OutputHuge => "output_huge",
            Self::TokensGarbage => "tokens_garbage",
            Self::TokensTruncated => "tokens_truncated",
            Self::InstructionChange => "instruction_change",
            Self::Estop => "estop",
        }
    }

    /// Whether it names a camera: `NAME:CAM`.
    pub const fn needs_camera(self) -> bool {
        matches!(self, Self::CameraDrop | Self::CameraFreeze | Self::CameraDuplicate | Self::CameraFutureStamp)
    }

    /// Whether the simulated body and sensors inject it; the runtime injects the others.
    pub const fn is_of_simulator(self) -> bool {
        self.needs_camera() || matches!(self, Self::StateLoss | Self::StateJump | Self::BusError | Self::ClockStep)
    }
}

/// A fault in a window of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// The camera concerned, for the kinds that need one.
    pub camera: Option<String>,
    /// Start of the window, from the start of the episode.
    pub start: Duration,
    /// Length of the window; `None` lasts until the episode ends.
    pub duration: Option<Duration>,
}

/// Why a fault was not understood.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FaultError {
    /// No fault has this name.
    #[error("no fault is named `{name}`; known: {}", known_names())]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The start is missing.
    #[error("`{text}`: a fault is written NAME@START_S or NAME@START_S+DURATION_S")]
    NoStart {
        /// The whole text.
        text: String,
    },
    /// A time is not a number of seconds from 0 to 1e6.
    #[error("`{value}` is not a time in seconds between 0 and 1e6")]
    Time {
        /// The part that is wrong.
        value: String,
    },
    /// The kind needs a camera.
    #[error("`{0}` needs a camera: {0}:CAM", kind.name())]
    NeedsCamera {
        /// The kind.
        kind: FaultKind,
    },
    /// The kind takes no camera.
    #[error("`{}` takes no `:CAM`", kind.name())]
    TakesNoCamera {
        /// The kind.
        kind: FaultKind,
    },
}

fn known_names() -> String {
    let names: Vec<String> = FaultKind::ALL
        .iter()
        .map(|kind| format!("{}{}", kind.name(), if kind.needs_camera() { ":CAM" } else { "" }))
        .collect();
    names.join(", ")
}

impl Fault {
    /// Reads `NAME@START_S[+DURATION_S]`.
    ///
    /// # Errors
    /// [`FaultError`]; an unknown name lists the known ones.
    pub fn parse(text: &str) -> Result<Self, FaultError> {
        let (name, times) = match text.split_once('@') {
            Some((name, times)) => (name, Some(times)),
            None => (text, None),
        };
        let (name, camera) = match name.split_once(':') {
            Some((name, camera)) => (name, Some(camera)),
            None => (name, None),
        };
        let kind = FaultKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| FaultError::Unknown { name: name.to_owned() })?;
        match camera {
            None | Some("") if kind.needs_camera() => return Err(FaultError::NeedsCamera { kind }),
            Some(_) if !kind.needs_camera() => return Err(FaultError::TakesNoCamera { kind }),
            _ => {}
        }
        let times = times.ok_or_else(|| FaultError::NoStart { text: text.to_owned() })?;
        let (start, duration) = match times.split_once('+') {
            Some((start, duration)) => (seconds(start)?, Some(seconds(duration)?)),
            None => (seconds(times)?, None),
        };
        Ok(Self { kind, camera: camera.map(str::to_owned), start, duration })
    }

    /// One to four faults of any kind drawn from a seed, somewhere in `length`; every third seed has an e-stop among them.
    pub fn sample(seed: u64, cameras: &[&str], length: Duration) -> Vec<Self> {
        let mut random = Random::new(seed, STREAM);
        let length_s = length.as_secs_f64();
        let count = 1 + random.index(4);
        let mut faults: Vec<Self> = (0..count)
            .map(|_| {
                let kinds = Self::without_estop(!cameras.is_empty());
                let kind = kinds[random.index(kinds.len())];
                let camera = kind.needs_camera().then(|| cameras[random.index(cameras.len())].to_owned());
                let start = millis(random.uniform(0.2, 0.8 * length_s));
                // As many short ones as long ones.
                let duration = millis(random.uniform(0.01f64.ln(), (0.6 * length_s).ln()).exp());
                Self { kind, camera, start, duration: Some(duration) }
            })
            .collect();
        if random.index(3) == 0 {
            let start = millis(random.uniform(0.0, length_s));
            faults.push(Self { kind: FaultKind::Estop, camera: None, start, duration: Some(millis(0.05)) });
        }
        faults
    }

    fn without_estop(with_cameras: bool) -> Vec<FaultKind> {
        let is_drawn = |kind: &FaultKind| *kind != FaultKind::Estop && (with_cameras || !kind.needs_camera());
        FaultKind::ALL.into_iter().filter(is_drawn).collect()
    }

    /// Whether the window is open `elapsed` after the start of the episode.
    pub fn is_active(&self, elapsed: Duration) -> bool {
        elapsed >= self.start && self.duration.is_none_or(|duration| elapsed - self.start < duration)
    }

    /// `NAME` or `NAME:CAM`, as in summaries.
    pub fn label(&self) -> String {
        match &self.camera {
            Some(camera) => format!("{}:{camera}", self.kind.name()),
            None => self.kind.name().to_owned(),
        }
    }
}

impl FromStr for Fault {
    type Err = FaultError;
    fn from_str(text: &str) -> Result<Self, FaultError> {
        Self::parse(text)
    }
}

fn millis(seconds: f64) -> Duration {
    Duration::from_millis((seconds * 1e3).round() as u64)
}

fn seconds(text: &str) -> Result<Duration, FaultError> {
    text.parse::<f64>()
        .ok()
        .filter(|value| (0.0..=1e6).contains(value))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| FaultError::Time { value: text.to_owned() })
}

/// The faults of a run and how often each struck. Shared by reference; counting is one atomic.
#[derive(Debug, Default)]
pub struct FaultPlan {
    faults: Vec<(Fault, AtomicU64)>,
}

impl FaultPlan {
    /// A plan of these faults, none of which has struck.
    pub fn new(faults: Vec<Fault>) -> Self {
        Self { faults: faults.into_iter().map(|fault| (fault, AtomicU64::new(0))).collect() }
    }

    /// Whether a fault of this kind (and camera) is active `elapsed` after the start of the episode; each
    /// active one is counted as having struck once.
    ///
    /// # Real-time
    /// Does not allocate, lock or block.
    pub fn strikes(&self, kind: FaultKind, camera: Option<&str>, elapsed: Duration) -> bool {
        let mut hit = false;
        for (fault, count) in &self.faults {
            if fault.kind == kind && fault.camera.as_deref() == camera && fault.is_active(elapsed) {
                count.fetch_add(1, Ordering::Relaxed);
                hit = true;
            }
        }
        hit
    }

    /// The faults.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().map(|(fault, _)| fault)
    }

    /// Each fault with the number of events (frames, reads, writes, inferences) it struck.
    pub fn counts(&self) -> Vec<(String, u64)> {
        self.faults.iter().map(|(fault, count)| (fault.label(), count.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_as_written() {
        let fault = Fault::parse("camera_drop:front@2.0+0.5").unwrap();
        assert_eq!(fault.kind, FaultKind::CameraDrop);
        assert_eq!(fault.label(), "camera_drop:front");
        assert!(!fault.is_active(Duration::from_millis(1999)));
        assert!(fault.is_active(Duration::from_millis(2000)));
        assert!(fault.is_active(Duration::from_millis(2499)));
        assert!(!fault.is_active(Duration::from_millis(2500)));
        let fault: Fault = "estop@1".parse().unwrap();
        assert!(fault.is_active(Duration::from_secs(100)) && !fault.kind.is_of_simulator());
    }

    #[test]
    fn a_wrong_fault_says_what_is_wrong() {
        let unknown = Fault::parse("camera_dorp:front@1").unwrap_err();
        assert!(unknown.to_string().contains("camera_drop:CAM") && unknown.to_string().contains("estop"));
        let kind = FaultKind::CameraFreeze;
        assert_eq!(Fault::parse("camera_freeze@1"), Err(FaultError::NeedsCamera { kind }));
        let kind = FaultKind::StateLoss;
        assert_eq!(Fault::parse("state_loss:front@1"), Err(FaultError::TakesNoCamera { kind }));
        assert!(matches!(Fault::parse("state_loss"), Err(FaultError::NoStart { .. })));
        for bad in ["state_loss@", "state_loss@-1", "state_loss@nan", "state_loss@1+x", "state_loss@1e9"] {
            assert!(matches!(Fault::parse(bad), Err(FaultError::Time { .. })), "{bad}");
        }
    }

    #[test]
    fn strikes_are_counted() {
        let plan = FaultPlan::new(vec![Fault::parse("state_loss@1+1").unwrap()]);
        for tenth in 0..30 {
            plan.strikes(FaultKind::StateLoss, None, Duration::from_millis(tenth * 100));
            assert!(!plan.strikes(FaultKind::BusError, None, Duration::from_millis(tenth * 100)));
        }
        assert_eq!(plan.counts(), [("state_loss".to_owned(), 10)]);
    }
}
