//! Recordings: MCAP files with ROS 2 messages and JSON, written outside the loops.
//!
//! | topic | message | when |
//! |---|---|---|
//! | `/joint_states` | `sensor_msgs/msg/JointState` (CDR): measured rad and rad/s | every control period |
//! | `/joint_commands` | the same: the positions sent | every control period |
//! | `/<camera>/image_raw` | `sensor_msgs/msg/Image` (CDR, `rgb8`) | every observation a policy was given |
//! | `/endplate/ladder` | JSON: rung, cause, and the frame a command follows from (camera, sequence number, capture time) | when one of them changes |
//! | `/endplate/inference` | JSON: instruction, joints, tokens, rows and stage times, or why the answer was refused | every inference |
//!
//! Times are nanoseconds: of the Unix epoch on a real clock, of the simulation in simulated time. Loops never wait for
//! a recorder: what does not fit is dropped and counted, and the counts stand in the file's metadata `endplate`.

use crate::metrics::{Cause, Rung};
use crate::record::{InferenceTap, Inferred, TickRecord};
use core::time::Duration;
use endplate_hal::{FrameStamp, Instant};
use endplate_ros2::message::{IMAGE, ImageView, JOINT_STATE, JointStateView, MessageError, Stamp};
use endplate_ros2::message::{image_capacity, joint_state_capacity};
use mcap::records::{MessageHeader, Metadata};
use mcap::{McapError, WriteOptions, Writer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

/// Periods between two looks of the writer: 40 s at 100 Hz.
const TICK_ROOM: usize = 4096;
/// Inferences between two looks of the writer.
const INFERENCE_ROOM: usize = 64;
/// Topic of the inferences.
pub const INFERENCE_TOPIC: &str = "/endplate/inference";
const LADDER_TOPIC: &str = "/endplate/ladder";
/// Name of the metadata record.
pub const METADATA: &str = "endplate";

/// Why a recording cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The container.
    #[error("{}: {source}", path.display())]
    Mcap {
        /// The file.
        path: PathBuf,
        /// Why.
        source: McapError,
    },
    /// A message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A time that a ROS stamp cannot say.
    #[error("{nanos} ns is past what a ROS time stamp can say")]
    Stamp {
        /// The time.
        nanos: u64,
    },
}

/// What is recorded.
#[derive(Clone, Debug)]
pub struct RecorderOptions {
    /// The file to write; replaced if it is there.
    pub path: PathBuf,
    /// Joint names, in order.
    pub joints: Vec<String>,
    /// Camera names, in the order of the policy's slots.
    pub cameras: Vec<String>,
    /// Added to an instant to give its time: the Unix time of instant 0, or zero in simulated time.
    pub epoch: Duration,
    /// What the file says about itself: bundle, robot, seed and so on.
    pub metadata: BTreeMap<String, String>,
}

/// One inference as it stands in a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferenceRecord {
    /// What the policy was told.
    pub instruction: String,
    /// `[S]`, interpolated at the observation's instant, rad.
    pub state_rad: Vec<f64>,
    /// Capture instant of the oldest frame, ns.
    pub captured_ns: u64,
    /// Capture instant of each frame, ns: the stamps of its images in the recording.
    pub frames_ns: Vec<u64>,
    /// Motion time of row 0, ns.
    pub motion_ns: u64,
    /// Why it stopped; `None` for a refused answer.
    pub stop: Option<String>,
    /// Why it was refused: kind and message.
    pub refused: Option<(String, String)>,
    /// Action tokens.
    pub tokens: Vec<u32>,
    /// `[H][D]` absolute joint rows, rad; empty for a refused answer.
    pub rows_rad: Vec<Vec<f64>>,
    /// Time between rows, s.
    pub row_period_s: f64,
    /// Largest error of a row in normalised units, when generation stopped early.
    pub error_bound: Option<f64>,
    /// Wall time of each stage, ms.
    pub stages_ms: BTreeMap<String, f64>,
}

struct Answer {
    now: Instant,
    record: InferenceRecord,
    images: Vec<Image>,
}

struct Image {
    captured: Instant,
    width: u32,
    height: u32,
    data: Vec<u8>,
}

/// The inference loop's end of a recorder: copies what it is shown, or drops and counts it.
struct Tap {
    answers: mpsc::SyncSender<Answer>,
    dropped: Arc<AtomicU64>,
    epoch: Duration,
}

impl InferenceTap for Tap {
    fn inferred(&mut self, inferred: &Inferred<'_>) {
        let Inferred { now, observation, result, tokens } = inferred;
        let nanos = |instant: Instant| unix_nanos(self.epoch, instant);
        let mut record = InferenceRecord {
            instruction: observation.instruction.to_owned(),
            state_rad: observation.state.position_rad.to_vec(),
            captured_ns: nanos(observation.anchor.captured),
            frames_ns: observation.frames.iter().map(|frame| nanos(frame.captured)).collect(),
            motion_ns: observation.anchor.motion.as_nanos(),
            stop: None,
            refused: None,
            tokens: tokens.to_vec(),
            rows_rad: Vec::new(),
            row_period_s: 0.0,
            error_bound: None,
            stages_ms: BTreeMap::new(),
        };
        match result {
            Ok((stop, chunk)) => {
                record.stop = Some(stop.to_string());
                record.rows_rad = chunk.rows().chunks_exact(chunk.dims()).map(<[f64]>::to_vec).collect();
                record.row_period_s = chunk.period().as_secs_f64();
                record.error_bound = chunk.error_bound();
                let named = crate::inference::STAGES.iter().zip(crate::inference::stage_spans(chunk.stages()));
                record.stages_ms = named.map(|(name, span)| ((*name).to_owned(), span.as_secs_f64() * 1e3)).collect();
            }
            Err(error) => record.refused = Some((error.kind().to_owned(), error.to_string())),
        }
        let images = observation.frames.iter().map(|frame| Image {
            captured: frame.captured,
            width: frame.width,
            height: frame.height,
            data: frame.data.clone(),
        });
        let answer = Answer { now: *now, record, images: images.collect() };
        if self.answers.try_send(answer).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn unix_nanos(epoch: Duration, instant: Instant) -> u64 {
    u64::try_from(epoch.as_nanos()).unwrap_or(u64::MAX).saturating_add(instant.as_nanos())
}

struct Channel {
    id: u16,
    sequence: u32,
}

/// Writes one recording. An outer driver calls [`pump`](Self::pump) beside the loops and [`finish`](Self::finish) last.
pub struct Recorder {
    options: RecorderOptions,
    writer: Writer<BufWriter<File>>,
    states: Channel,
    commands: Channel,
    ladder: Channel,
    inferences: Channel,
    images: Vec<Channel>,
    ticks: rtrb::Consumer<TickRecord>,
    answers: mpsc::Receiver<Answer>,
    answers_dropped: Arc<AtomicU64>,
    last: Option<Present>,
    buffer: Vec<u8>,
}

/// The ends that the loops hold: the control loop's ring and the inference loop's tap.
pub struct RecorderEnds {
    /// For [`ControlLoop::set_records`](crate::ControlLoop::set_records).
    pub ticks: rtrb::Producer<TickRecord>,
    /// For [`InferenceLoop::set_tap`](crate::InferenceLoop::set_tap).
    pub tap: Box<dyn InferenceTap>,
}

/// What a line about the ladder is written for when it changes.
type Present = (Rung, Option<Cause>, Option<Instant>, Option<FrameStamp>);

#[derive(Serialize)]
struct LadderLine {
    rung: String,
    cause: Option<&'static str>,
    /// Capture time of the frame the command follows from, ns.
    frame_captured_ns: Option<u64>,
    /// Its camera, by slot, and its sequence number.
    frame_camera: Option<u8>,
    frame_sequence: Option<u64>,
}

const LADDER_SCHEMA: &str = r#"{"title": "endplate.Ladder", "type": "object", "properties": {"rung": {"type": "string"},
"cause": {"type": ["string", "null"]}, "frame_captured_ns": {"type": ["integer", "null"]},
"frame_camera": {"type": ["integer", "null"]}, "frame_sequence": {"type": ["integer", "null"]}}}"#;
const INFERENCE_SCHEMA: &str = r#"{"title": "endplate.Inference", "type": "object", "properties": {
"instruction": {"type": "string"}, "state_rad": {"type": "array", "items": {"type": "number"}},
"captured_ns": {"type": "integer"}, "frames_ns": {"type": "array", "items": {"type": "integer"}},
"motion_ns": {"type": "integer"}, "stop": {"type": ["string", "null"]},
"refused": {"type": ["array", "null"], "items": {"type": "string"}}, "tokens": {"type": "array", "items": {"type": "integer"}},
"rows_rad": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, "row_period_s": {"type": "number"},
"error_bound": {"type": ["number", "null"]}, "stages_ms": {"type": "object"}}}"#;

/// The definition of a message with those of the messages in it, as ROS 2 bags hold it.
const JOINT_STATE_DEFINITION: &str = "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\n\
float64[] effort\n================================================================================\n\
MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n\
================================================================================\n\
MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n";
const IMAGE_DEFINITION: &str = "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n\
uint8 is_bigendian\nuint32 step\nuint8[] data\n\
================================================================================\n\
MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n\
================================================================================\n\
MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n";

impl Recorder {
    /// Creates the file and the ends for the loops.
    ///
    /// # Errors
    /// [`RecorderError`] naming the file.
    pub fn create(options: RecorderOptions) -> Result<(Self, RecorderEnds), RecorderError> {
        let io = |source| RecorderError::Io { path: options.path.clone(), source };
        let file = File::create(&options.path).map_err(io)?;
        let created = (|| {
            let mut writer = WriteOptions::new()
                .compression(None)
                .profile("ros2")
                .library("endplate")
                .create(BufWriter::new(file))?;
            let joint_state = writer.add_schema(JOINT_STATE.ros_name, "ros2msg", JOINT_STATE_DEFINITION.as_bytes())?;
            let image = writer.add_schema(IMAGE.ros_name, "ros2msg", IMAGE_DEFINITION.as_bytes())?;
            let ladder = writer.add_schema("endplate.Ladder", "jsonschema", LADDER_SCHEMA.as_bytes())?;
            let inference = writer.add_schema("endplate.Inference", "jsonschema", INFERENCE_SCHEMA.as_bytes())?;
            let mut channel = |schema, topic: &str, encoding: &str| {
                let id = writer.add_channel(schema, topic, encoding, &BTreeMap::new())?;
                Ok::<_, McapError>(Channel { id, sequence: 0 })
            };
            let states = channel(joint_state, "/joint_states", "cdr")?;
            let commands = channel(joint_state, "/joint_commands", "cdr")?;
            let ladder = channel(ladder, LADDER_TOPIC, "json")?;
            let inferences = channel(inference, INFERENCE_TOPIC, "json")?;
            let images = options
                .cameras
                .iter()
                .map(|camera| channel(image, &image_topic(camera), "cdr"))
                .collect::<Result<Vec<_>, _>>()?;
            Ok((writer, states, commands, ladder, inferences, images))
        })();
        let (writer, states, commands, ladder, inferences, images) =
            created.map_err(|source| RecorderError::Mcap { path: options.path.clone(), source })?;
        let (producer, ticks) = rtrb::RingBuffer::new(TICK_ROOM);
        let (sender, answers) = mpsc::sync_channel(INFERENCE_ROOM);
        let answers_dropped = Arc::new(AtomicU64::new(0));
        let tap = Tap { answers: sender, dropped: Arc::clone(&answers_dropped), epoch: options.epoch };
        let ends = RecorderEnds { ticks: producer, tap: Box::new(tap) };
        let buffer = Vec::new();
        let recorder = Self {
            options,
            writer,
            states,
            commands,
            ladder,
            inferences,
            images,
            ticks,
            answers,
            answers_dropped,
            last: None,
            buffer,
        };
        Ok((recorder, ends))
    }

    /// Writes what the loops have left since the last call.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn pump(&mut self) -> Result<(), RecorderError> {
        while let Ok(tick) = self.ticks.pop() {
            self.tick(&tick)?;
        }
        while let Ok(answer) = self.answers.try_recv() {
            self.answer(&answer)?;
        }
        Ok(())
    }

    /// Writes the rest and the counts of what was dropped (`ticks_dropped` is the control loop's count), and closes the
    /// file; the counts.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn finish(mut self, ticks_dropped: u64) -> Result<BTreeMap<String, String>, RecorderError> {
        self.pump()?;
        let mut metadata = std::mem::take(&mut self.options.metadata);
        metadata.insert("control_periods_dropped".to_owned(), ticks_dropped.to_string());
        let answers = self.answers_dropped.load(Ordering::Relaxed);
        metadata.insert("inferences_dropped".to_owned(), answers.to_string());
        let record = Metadata { name: METADATA.to_owned(), metadata: metadata.clone() };
        let written = self.writer.write_metadata(&record).and_then(|()| self.writer.finish().map(drop));
        written.map_err(|source| RecorderError::Mcap { path: self.options.path.clone(), source })?;
        Ok(metadata)
    }

    fn tick(&mut self, tick: &TickRecord) -> Result<(), RecorderError> {
        let at = unix_nanos(self.options.epoch, tick.now);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(joint_state_capacity("", &self.options.joints), 0);
        if let Some(state) = &tick.state {
            let stamped = unix_nanos(self.options.epoch, state.stamp);
            let effort = state.effort_nm.as_ref().map_or(&[][..], |effort| &effort[..]);
            let view = JointStateView {
                stamp: stamp(stamped)?,
                frame_id: "",
                names: &self.options.joints,
                position: &state.position_rad,
                velocity: &state.velocity_rad_s,
                effort,
            };
            let length = view.encode(&mut buffer)?;
            self.write(|this| &mut this.states, at, stamped, &buffer[..length])?;
        }
        let view = JointStateView {
            stamp: stamp(at)?,
            frame_id: "",
            names: &self.options.joints,
            position: tick.command.position_rad(),
            velocity: &[],
            effort: &[],
        };
        let length = view.encode(&mut buffer)?;
        self.write(|this| &mut this.commands, at, at, &buffer[..length])?;
        self.buffer = buffer;
        let source = tick.command.source();
        let present = (tick.rung, tick.cause, tick.captured, source);
        if self.last != Some(present) {
            self.last = Some(present);
            let line = LadderLine {
                rung: format!("{:?}", tick.rung).to_lowercase(),
                cause: tick.cause.map(Cause::name),
                frame_captured_ns: tick.captured.map(|captured| unix_nanos(self.options.epoch, captured)),
                frame_camera: source.map(|frame| frame.camera),
                frame_sequence: source.map(|frame| frame.sequence),
            };
            let json = serde_json::to_vec(&line).unwrap_or_default();
            self.write(|this| &mut this.ladder, at, at, &json)?;
        }
        Ok(())
    }

    fn answer(&mut self, answer: &Answer) -> Result<(), RecorderError> {
        let at = unix_nanos(self.options.epoch, answer.now);
        for (index, image) in answer.images.iter().enumerate().take(self.images.len()) {
            let captured = unix_nanos(self.options.epoch, image.captured);
            let view = ImageView {
                stamp: stamp(captured)?,
                frame_id: &self.options.cameras[index],
                height: image.height,
                width: image.width,
                encoding: "rgb8",
                step: image.width * 3,
                data: &image.data,
            };
            let mut buffer = vec![0; image_capacity(view.frame_id, view.encoding, image.data.len())];
            let length = view.encode(&mut buffer)?;
            self.write(|this| &mut this.images[index], at, captured, &buffer[..length])?;
        }
        let json = serde_json::to_vec(&answer.record).unwrap_or_default();
        self.write(|this| &mut this.inferences, at, at, &json)
    }

    fn write(
        &mut self,
        channel: impl Fn(&mut Self) -> &mut Channel,
        log_time: u64,
        publish_time: u64,
        data: &[u8],
    ) -> Result<(), RecorderError> {
        let channel = channel(self);
        let header = MessageHeader { channel_id: channel.id, sequence: channel.sequence, log_time, publish_time };
        channel.sequence = channel.sequence.wrapping_add(1);
        self.writer
            .write_to_known_channel(&header, data)
            .map_err(|source| RecorderError::Mcap { path: self.options.path.clone(), source })
    }
}

fn image_topic(camera: &str) -> String {
    format!("/{camera}/image_raw")
}

fn stamp(nanos: u64) -> Result<Stamp, RecorderError> {
    Stamp::since_epoch(Duration::from_nanos(nanos)).ok_or(RecorderError::Stamp { nanos })
}

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not an MCAP file, or cut off.
    #[error("{}: {source}; give a file that `endplate run --record` wrote and closed", path.display())]
    Mcap {
        /// The file.
        path: PathBuf,
        /// Why.
        source: McapError,
    },
    /// A message that is not what its topic says.
    #[error("{}: {topic}, message {sequence}: {message}", path.display())]
    Message {
        /// The file.
        path: PathBuf,
        /// The topic.
        topic: String,
        /// Number of the message.
        sequence: u32,
        /// What is wrong.
        message: String,
    },
    /// An inference whose image is not in the file.
    #[error("{}: inference {sequence}: the image of camera `{camera}` at {stamp_ns} ns is not in the file", path.display())]
    MissingImage {
        /// The file.
        path: PathBuf,
        /// Number of the inference.
        sequence: u32,
        /// The camera.
        camera: String,
        /// Its stamp.
        stamp_ns: u64,
    },
}

/// A recorded image.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedImage {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[height, width, 3]` RGB.
    pub data: Vec<u8>,
}

/// One inference with the images the policy saw, in the order of the cameras asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedInference {
    /// What was asked and answered.
    pub record: InferenceRecord,
    /// One image a camera.
    pub images: Vec<RecordedImage>,
}

/// Reads every inference of a recording, with the images of `cameras`.
///
/// # Errors
/// [`RecordingError`] naming file, topic and message; nothing is skipped.
pub fn read_inferences(path: &Path, cameras: &[String]) -> Result<Vec<RecordedInference>, RecordingError> {
    let bytes = std::fs::read(path).map_err(|source| RecordingError::Io { path: path.to_owned(), source })?;
    let broken = |source| RecordingError::Mcap { path: path.to_owned(), source };
    let mut images: BTreeMap<(usize, u64), RecordedImage> = BTreeMap::new();
    let mut inferences = Vec::new();
    for message in mcap::MessageStream::new(&bytes).map_err(broken)? {
        let message = message.map_err(broken)?;
        let topic = &message.channel.topic;
        let bad = |text: String| RecordingError::Message {
            path: path.to_owned(),
            topic: topic.clone(),
            sequence: message.sequence,
            message: text,
        };
        if let Some(camera) = cameras.iter().position(|camera| *topic == image_topic(camera)) {
            let view = ImageView::decode(&message.data).map_err(|error| bad(error.to_string()))?;
            if view.encoding != "rgb8" || view.step != view.width.saturating_mul(3) {
                return Err(bad(format!(
                    "encoding {} with rows of {} bytes is not packed rgb8",
                    view.encoding, view.step
                )));
            }
            let image = RecordedImage { width: view.width, height: view.height, data: view.data.to_vec() };
            images.insert((camera, message.publish_time), image);
        } else if topic == INFERENCE_TOPIC {
            let record: InferenceRecord =
                serde_json::from_slice(&message.data).map_err(|error| bad(error.to_string()))?;
            // Its images were written before it.
            let mut seen = Vec::with_capacity(cameras.len());
            for (index, camera) in cameras.iter().enumerate() {
                let stamp_ns = record.frames_ns.get(index).copied().unwrap_or_default();
                let image = images.get(&(index, stamp_ns)).cloned();
                seen.push(image.ok_or_else(|| RecordingError::MissingImage {
                    path: path.to_owned(),
                    sequence: message.sequence,
                    camera: camera.clone(),
                    stamp_ns,
                })?);
            }
            inferences.push(RecordedInference { record, images: seen });
        }
    }
    Ok(inferences)
}
