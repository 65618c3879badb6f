//! Cameras behind a GStreamer pipeline: the CSI sensors of a Jetson, network cameras, whatever has a source element.

use super::OpenError;
use super::jetson_csi_pipeline;
use crate::frame::{Camera, CameraError, Frame};
use crate::spec::CameraSpec;
use crate::time::{Clock, Instant};
use core::time::Duration;
use gstreamer::prelude::*;
use gstreamer::{ClockTime, ClockType, MessageView, Pipeline, State, SystemClock};
use gstreamer_app::AppSink;
use gstreamer_video::{VideoFrameExt, VideoFrameRef, VideoInfo};
use std::path::PathBuf;
use std::sync::Arc;

/// How long a pipeline may take to come alive.
const START: ClockTime = ClockTime::from_seconds(8);
/// Name of the sink a pipeline ends in.
const SINK: &str = "sink";

/// A camera behind a pipeline that ends in `appsink name=sink` and gives RGB.
///
/// Frames carry the pipeline's own stamps: running time plus base time on GStreamer's monotonic system clock. A frame that is not looked at in time is overtaken by the next.
pub struct GstCamera {
    name: String,
    size: (u32, u32),
    pipeline: Pipeline,
    sink: AppSink,
    monotonic: gstreamer::Clock,
    clock: Arc<dyn Clock>,
    sequence: u64,
}

impl GstCamera {
    /// Starts the pipeline of the description, or that of the Jetson's CSI sensor where it has none.
    ///
    /// # Errors
    /// [`OpenError`], with the pipeline and what GStreamer says of it.
    pub fn open(spec: &CameraSpec, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let text = spec
            .device
            .pipeline
            .clone()
            .unwrap_or_else(|| jetson_csi_pipeline(spec.device.sensor, spec.width, spec.height, spec.rate_hz));
        let fail = |remedy: String| OpenError::Device { camera: spec.name.clone(), path: PathBuf::from(&text), remedy };
        gstreamer::init().map_err(|error| fail(format!("GStreamer does not start: {error}")))?;
        let parsed = gstreamer::parse::launch(&text)
            .map_err(|error| fail(format!("{error}: is the plug-in of every element installed (gst-inspect-1.0)?")))?;
        let pipeline = parsed.downcast::<Pipeline>().map_err(|_| fail("write a whole pipeline".to_owned()))?;
        let sink = pipeline.by_name(SINK).and_then(|sink| sink.downcast::<AppSink>().ok());
        let sink = sink.ok_or_else(|| fail("end it in `appsink name=sink`".to_owned()))?;
        let caps = gstreamer::Caps::builder("video/x-raw")
            .field("format", "RGB")
            .field("width", i32::try_from(spec.width).unwrap_or(i32::MAX))
            .field("height", i32::try_from(spec.height).unwrap_or(i32::MAX))
            .build();
        sink.set_caps(Some(&caps));
        sink.set_max_buffers(1);
        sink.set_drop(true);
        sink.set_sync(false);
        // The same clock as everything else here, whatever a source would rather have.
        let monotonic = SystemClock::obtain();
        monotonic.set_property("clock-type", ClockType::Monotonic);
        pipeline.use_clock(Some(&monotonic));
        let camera = Self {
            name: spec.name.clone(),
            size: (spec.width, spec.height),
            pipeline,
            sink,
            monotonic,
            clock,
            sequence: 0,
        };
        let started = camera.pipeline.set_state(State::Playing).is_ok() && camera.pipeline.state(START).0.is_ok();
        if !started {
            let (width, height) = camera.size;
            let why = camera.failure().unwrap_or_else(|| "it does not start".to_owned());
            return Err(fail(format!("{why}: does the source exist, and does it give RGB at {width}×{height}?")));
        }
        Ok(camera)
    }

    /// What the pipeline says went wrong, or that it has ended.
    fn failure(&self) -> Option<String> {
        let bus = self.pipeline.bus()?;
        while let Some(message) = bus.pop() {
            match message.view() {
                MessageView::Error(error) => return Some(error.error().to_string()),
                MessageView::Eos(_) => return Some("the stream has ended".to_owned()),
                _ => {}
            }
        }
        None
    }
}

impl Drop for GstCamera {
    fn drop(&mut self) {
        // A pipeline that does not stop ends with the process.
        let _ = self.pipeline.set_state(State::Null);
    }
}

impl Camera for GstCamera {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn capture(&mut self, _now: Instant, frame: &mut Frame) -> Result<bool, CameraError> {
        let (width, height) = self.size;
        let row = width as usize * 3;
        if (frame.width, frame.height) != self.size || frame.data.len() != row * height as usize {
            return Err(CameraError::WrongSize { width, height });
        }
        let Some(sample) = self.sink.try_pull_sample(ClockTime::ZERO) else {
            return if self.failure().is_some() { Err(CameraError::Disconnected) } else { Ok(false) };
        };
        let available = self.clock.now();
        let broken = CameraError::Io { code: 0 };
        let info = sample.caps().and_then(|caps| VideoInfo::from_caps(caps).ok()).ok_or(broken)?;
        let buffer = sample.buffer().ok_or(broken)?;
        let image = VideoFrameRef::from_buffer_ref_readable(buffer, &info).map_err(|_| broken)?;
        let stride = usize::try_from(image.plane_stride()[0]).map_err(|_| broken)?;
        let data = image.plane_data(0).map_err(|_| broken)?;
        if (image.width(), image.height()) != self.size || data.len() < stride * (height as usize - 1) + row {
            return Err(broken);
        }
        for (to, from) in frame.data.chunks_exact_mut(row).zip(data.chunks(stride)) {
            to.copy_from_slice(&from[..row]);
        }
        self.sequence += 1;
        // Both clocks run alike and count from different origins: what they share is the age. A stamp into the future is
        // passed on as such, and is the ladder's.
        let stamp = buffer.pts().zip(self.pipeline.base_time()).map(|(running, base)| (running + base).nseconds());
        let stamped = self.monotonic.time().nseconds();
        frame.captured = match stamp {
            None => available,
            Some(stamp) if stamp <= stamped => available.saturating_sub(Duration::from_nanos(stamped - stamp)),
            Some(stamp) => available.saturating_add(Duration::from_nanos(stamp - stamped)),
        };
        (frame.available, frame.sequence) = (available, self.sequence);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::robots::SO101_SIM;
    use crate::spec::RobotSpec;
    use crate::time::MonotonicClock;

    fn spec(pipeline: &str) -> CameraSpec {
        let mut spec = RobotSpec::from_toml_str(SO101_SIM, "so101_sim").unwrap().cameras[0].clone();
        // A width whose rows GStreamer pads.
        (spec.width, spec.height, spec.rate_hz) = (66, 48, 30.0);
        spec.device.pipeline = Some(pipeline.to_owned());
        spec
    }

    #[test]
    fn a_live_test_pattern_arrives_with_its_stamps_and_colours() {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let live = "videotestsrc is-live=true pattern=smpte ! video/x-raw,width=66,height=48,framerate=30/1 ! videoconvert ! \
                    appsink name=sink";
        let mut camera = GstCamera::open(&spec(live), Arc::clone(&clock)).unwrap();
        let mut frame = Frame::new(66, 48);
        let (mut stamps, begin) = (Vec::new(), clock.now());
        while stamps.len() < 12 {
            let now = clock.now();
            assert!(now.duration_since(begin) < Duration::from_secs(20), "{} frames", stamps.len());
            if camera.capture(now, &mut frame).unwrap() {
                assert!(frame.captured <= frame.available, "{frame:?}");
                assert!(frame.available.duration_since(frame.captured) < Duration::from_secs(5));
                stamps.push(frame.captured);
            }
            clock.sleep_until(now.saturating_add(Duration::from_millis(2)));
        }
        assert!(stamps.is_sorted() && stamps[11].duration_since(stamps[0]) >= Duration::from_millis(11 * 33));
        // SMPTE bars: white, yellow, cyan, green, magenta, red, blue from the left.
        let at = |x: usize, y: usize| <[u8; 3]>::try_from(&frame.data[(y * 66 + x) * 3..][..3]).unwrap();
        for (bar, wanted) in
            [(0, [255, 255, 255]), (1, [255, 255, 0]), (3, [0, 255, 0]), (5, [255, 0, 0]), (6, [0, 0, 255])]
        {
            for y in [2, 15, 29] {
                let found = at(bar * 66 / 7 + 4, y);
                let off = found.iter().zip(wanted).map(|(a, b)| a.abs_diff(b)).max().unwrap();
                assert!(off <= 6, "bar {bar}: {found:?} of {wanted:?}");
            }
        }
        let mut small = Frame::new(8, 8);
        assert!(camera.capture(clock.now(), &mut small).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_pipeline_is_said() {
        let open = |pipeline: &str| {
            let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
            GstCamera::open(&spec(pipeline), clock).err().unwrap().to_string()
        };
        let unknown = open("nosuchsource ! appsink name=sink");
        assert!(unknown.contains("nosuchsource") && unknown.contains("gst-inspect"), "{unknown}");
        assert!(open("videotestsrc ! fakesink").contains("appsink name=sink"));
        let size = open("videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=32,height=32 ! appsink name=sink");
        assert!(size.contains("RGB at 66×48"), "{size}");
        // The Jetson's own element is missing here, and is named.
        let mut csi = spec("");
        csi.device.pipeline = None;
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let error = GstCamera::open(&csi, clock).err().unwrap().to_string();
        assert!(error.contains("nvarguscamerasrc"), "{error}");
    }

    #[test]
    fn a_stream_that_ends_is_a_camera_that_is_gone() {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let short = "videotestsrc num-buffers=2 ! video/x-raw,width=66,height=48 ! videoconvert ! appsink name=sink";
        let mut camera = GstCamera::open(&spec(short), Arc::clone(&clock)).unwrap();
        let mut frame = Frame::new(66, 48);
        let begin = clock.now();
        loop {
            if camera.capture(clock.now(), &mut frame) == Err(CameraError::Disconnected) {
                return;
            }
            assert!(clock.now().duration_since(begin) < Duration::from_secs(10), "it never ended");
            clock.sleep_until(clock.now().saturating_add(Duration::from_millis(2)));
        }
    }
}
