//! Cameras of the kernel's Video4Linux 2: streaming by memory map, the driver's own stamps.

use super::OpenError;
use super::decode::{DecodeError, decode_yuyv};
use super::mjpeg::MjpegDecoder;
use crate::frame::{Camera, CameraError, Frame};
use crate::spec::{CameraSpec, PixelFormat};
use crate::time::{Clock, Instant};
use core::time::Duration;
use moq_v4l::buffer::{Flags, Type};
use moq_v4l::control::{Control, Value};
use moq_v4l::io::mmap::Stream;
use moq_v4l::io::traits::CaptureStream;
use moq_v4l::video::Capture;
use moq_v4l::video::capture::Parameters;
use moq_v4l::{Device, Format, FourCC};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BUFFERS: u32 = 4;
/// The first frame of a USB camera takes its time.
const FIRST_FRAME: Duration = Duration::from_secs(3);
/// Between two looks for a camera that is gone.
const REOPEN: Duration = Duration::from_millis(500);

// Controls of linux/v4l2-controls.h.
const EXPOSURE_AUTO: u32 = 0x009A_0901;
const EXPOSURE_ABSOLUTE: u32 = 0x009A_0902;
const EXPOSURE_MANUAL: i64 = 1;
const AUTO_WHITE_BALANCE: u32 = 0x0098_090C;
const WHITE_BALANCE_TEMPERATURE: u32 = 0x0098_091A;

/// What happened at a V4L2 camera.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct V4l2Counts {
    /// Frames that the driver marked as damaged, or that did not decode.
    pub damaged: u64,
    /// Frames overtaken by newer ones before they were looked at.
    pub overtaken: u64,
    /// Frames stamped into the future. Up to a frame's period ahead the stamp is taken for the arrival; further ahead it is
    /// passed on as it is, and a fault of the camera.
    pub future: u64,
    /// Times the device was lost.
    pub lost: u64,
}

/// A streaming device.
struct Open {
    device: Device,
    stream: Stream<'static>,
    stride: usize,
    is_started: bool,
}

/// A V4L2 camera. A device that is unplugged is looked for again; until then it gives [`CameraError::Disconnected`].
pub struct V4l2Camera {
    spec: CameraSpec,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    open: Option<Open>,
    retry: Instant,
    decoder: MjpegDecoder,
    counts: V4l2Counts,
}

impl V4l2Camera {
    /// Opens the device with the size, rate and format of the description.
    ///
    /// # Errors
    /// [`OpenError`], naming the device and what it offers instead.
    pub fn open(spec: &CameraSpec, path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let open = start(spec, path)?;
        Ok(Self {
            spec: spec.clone(),
            path: path.to_owned(),
            clock,
            open: Some(open),
            retry: Instant::ZERO,
            decoder: MjpegDecoder::default(),
            counts: V4l2Counts::default(),
        })
    }

    /// What happened so far.
    pub fn counts(&self) -> V4l2Counts {
        self.counts
    }
}

fn fourcc(format: PixelFormat) -> FourCC {
    FourCC::new(match format {
        PixelFormat::Mjpeg => b"MJPG",
        PixelFormat::Yuyv => b"YUYV",
    })
}

fn start(spec: &CameraSpec, path: &Path) -> Result<Open, OpenError> {
    let fail = |remedy: String| OpenError::Device { camera: spec.name.clone(), path: path.to_owned(), remedy };
    let device = Device::with_path(path).map_err(|error| {
        fail(format!("{error}: is it plugged in, and may this user open it (on Debian: group video)?"))
    })?;
    let wanted = Format::new(spec.width, spec.height, fourcc(spec.device.format));
    let got =
        device.set_format(&wanted).map_err(|error| fail(format!("it takes no format ({error}): is it a camera?")))?;
    if (got.width, got.height, got.fourcc) != (wanted.width, wanted.height, wanted.fourcc) {
        let offered = device.enum_formats().unwrap_or_default();
        let offered: Vec<String> = offered.iter().map(|format| format.fourcc.to_string()).collect();
        return Err(fail(format!(
            "it gives {}×{} {} instead of {}×{} {}: write what it offers (formats {})",
            got.width,
            got.height,
            got.fourcc,
            wanted.width,
            wanted.height,
            wanted.fourcc,
            offered.join(", ")
        )));
    }
    let rate = Parameters::with_fps(spec.rate_hz.round() as u32);
    if let Ok(set) = device.set_params(&rate)
        && set.interval.denominator != 0
    {
        let rate_hz = f64::from(set.interval.denominator) / f64::from(set.interval.numerator.max(1));
        if (rate_hz - spec.rate_hz).abs() > 0.1 * spec.rate_hz {
            return Err(fail(format!("it runs at {rate_hz:.1} Hz instead of {}: write that rate", spec.rate_hz)));
        }
    }
    lock_controls(spec, &device).map_err(fail)?;
    let mut stream = Stream::with_buffers(&device, Type::VideoCapture, BUFFERS)
        .map_err(|error| fail(format!("{error}: does another program use it?")))?;
    stream.set_timeout(FIRST_FRAME);
    Ok(Open { device, stream, stride: got.stride as usize, is_started: false })
}

/// Exposure and white balance as the description fixes them; what is not fixed stays automatic.
fn lock_controls(spec: &CameraSpec, device: &Device) -> Result<(), String> {
    let set = |what: &str, id: u32, value: Value| {
        device
            .set_control(Control { id, value })
            .map_err(|error| format!("it does not let {what} be set ({error}): remove the key"))
    };
    if let Some(exposure) = spec.device.exposure {
        set("the exposure mode", EXPOSURE_AUTO, Value::Integer(EXPOSURE_MANUAL))?;
        set("the exposure", EXPOSURE_ABSOLUTE, Value::Integer(exposure))?;
    }
    if let Some(kelvin) = spec.device.white_balance_k {
        set("the white balance mode", AUTO_WHITE_BALANCE, Value::Boolean(false))?;
        set("the white balance", WHITE_BALANCE_TEMPERATURE, Value::Integer(kelvin))?;
    }
    Ok(())
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which drivers stamp with.
fn monotonic_nanos() -> i128 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// The driver's stamp on our clock, which may lie in the future. Stamps of other clocks are of no use: the arrival
/// less the declared lag stands in.
fn captured(spec: &CameraSpec, now: Instant, flags: Flags, stamp: Duration) -> Instant {
    if flags.bits() & Flags::TIMESTAMP_MASK.bits() != Flags::TIMESTAMP_MONOTONIC.bits() {
        return now.saturating_sub(spec.lag);
    }
    let age = monotonic_nanos() - stamp.as_nanos() as i128;
    let span = Duration::from_nanos(u64::try_from(age.unsigned_abs()).unwrap_or(u64::MAX));
    if age >= 0 { now.saturating_sub(span) } else { now.saturating_add(span) }
}

impl Camera for V4l2Camera {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn size(&self) -> (u32, u32) {
        (self.spec.width, self.spec.height)
    }

    fn capture(&mut self, now: Instant, frame: &mut Frame) -> Result<bool, CameraError> {
        let (width, height) = self.size();
        if (frame.width, frame.height) != (width, height) {
            return Err(CameraError::WrongSize { width, height });
        }
        if self.open.is_none() {
            if now < self.retry {
                return Err(CameraError::Disconnected);
            }
            self.retry = now.saturating_add(REOPEN);
            self.open = Some(start(&self.spec, &self.path).map_err(|_| CameraError::Disconnected)?);
        }
        let result = self.newest(frame);
        if matches!(result, Err(CameraError::Disconnected | CameraError::Io { .. })) {
            self.counts.lost += 1;
            self.open = None;
        }
        result
    }
}

impl V4l2Camera {
    /// The newest of the frames that are ready.
    fn newest(&mut self, frame: &mut Frame) -> Result<bool, CameraError> {
        let Self { open: Some(open), spec, clock, decoder, counts, .. } = self else {
            return Err(CameraError::Disconnected);
        };
        for round in 0..BUFFERS {
            let is_ready = !open.is_started || open.device.handle().poll(libc::POLLIN, 0).map_err(|e| failed(&e))? > 0;
            if !is_ready {
                return Ok(false);
            }
            let (bytes, meta) = open.stream.next().map_err(|error| failed(&error))?;
            open.is_started = true;
            let now = clock.now();
            let is_damaged = meta.flags.contains(Flags::ERROR) || meta.bytesused == 0;
            // Decoding takes longer than looking: take the last one that is ready.
            let is_overtaken =
                round + 1 < BUFFERS && open.device.handle().poll(libc::POLLIN, 0).map_err(|e| failed(&e))? > 0;
            if is_overtaken {
                counts.overtaken += 1;
                continue;
            }
            let data = &bytes[..(meta.bytesused as usize).min(bytes.len())];
            let size = (spec.width, spec.height);
            let decoded = match spec.device.format {
                _ if is_damaged => Err(DecodeError::Damaged),
                PixelFormat::Mjpeg => decoder.decode(data, size, &mut frame.data),
                PixelFormat::Yuyv => decode_yuyv(data, size, open.stride, &mut frame.data),
            };
            if decoded.is_err() {
                // The buffer is of no use any more; its number says so.
                counts.damaged += 1;
                frame.sequence = 0;
                return Ok(false);
            }
            frame.captured = captured(spec, now, meta.flags, meta.timestamp.into());
            if frame.captured > now {
                // `vivid` stamps with the end of the frame's slot. Further ahead the stamp is wrong, and the ladder's.
                counts.future += 1;
                if frame.captured.seconds_since(now) <= 1.0 / spec.rate_hz {
                    frame.captured = now;
                }
            }
            frame.available = now;
            // The driver counts from 0, and 0 means that there is nothing.
            frame.sequence = u64::from(meta.sequence) + 1;
            return Ok(true);
        }
        Ok(false)
    }
}

fn failed(error: &std::io::Error) -> CameraError {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => CameraError::Disconnected,
        code => CameraError::Io { code: code.unwrap_or(libc::ETIMEDOUT) },
    }
}
