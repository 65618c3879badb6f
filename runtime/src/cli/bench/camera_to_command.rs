//! `endplate bench camera_to_command`: our processing stages from the decoded frame to the sent command, in real time.
//!
//! Two 640 × 480 cameras at 30 Hz, the demonstration policy, the product's control thread at the built-in robot's rate.
//! For every chunk: the hand-off of its frames, taking them over and observing, the image path into the model, the
//! token path out of it, the hand-over of the chunk, and the control period that sends its first command. The model's
//! own time and the waits (for a chunk to be wanted, for the next period) stand beside.

use super::{BenchArguments, Row, Samples as Quantiles, body};
use crate::cli::bundle::open_robot;
use crate::cli::error::CliError;
use core::time::Duration;
use endplate_hal::{Clock, JointVec, MonotonicClock};
use endplate_policies::{ActionChunk, Epoch};
use endplate_runtime::drive::Sight;
use endplate_runtime::drive::control_thread::{ControlLinks, ControlThread, Shared};
use endplate_runtime::drive::realtime::next_look;
use endplate_runtime::realtime::{PageKeeper, gather_heap, request, touch_stack, use_huge_pages};
use endplate_runtime::watchdog::Heartbeat;
use endplate_runtime::{
    CommandStamps, ControlSnapshot, FaultPlan, InferenceLoop, Samples, StampReader, StepOutcome, stamp_ring,
    triple_buffer,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SIZE: (u32, u32) = (640, 480);
const RATE_HZ: f64 = 30.0;

/// The spans of one chunk, µs.
#[derive(Default)]
struct Spans {
    /// By stage of ours.
    ours: BTreeMap<&'static str, f64>,
    model: f64,
    wait_for_demand: f64,
    wait_for_period: f64,
}

/// Every row of the table.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let clock = MonotonicClock::new();
    if arguments.huge_pages {
        gather_heap();
    }
    let (bundle, loaded) = arguments.policy.load()?;
    let robot = open_robot(None)?;
    let middle = JointVec::from_fn(robot.joints.len(), |joint| {
        (robot.joints[joint].limits.lower_rad + robot.joints[joint].limits.upper_rad) / 2.0
    });
    let mut control = body::control(&robot, bundle.spec(), middle, clock.now())?;
    let (mut cameras, mut bank, watch) = body::cameras(bundle.spec(), SIZE, RATE_HZ);
    let mut inference =
        InferenceLoop::new(loaded.policy, "lift the red block", robot.control.deadline, robot.control.state_max_age);
    let hand_offs: Vec<AtomicU64> = cameras.iter().map(|_| AtomicU64::new(0)).collect();
    let shared = Shared::new(Epoch(0));
    let (estop, faults, heartbeat) = (AtomicBool::new(false), FaultPlan::default(), Heartbeat::default());
    let (mut stamps, stamp_reader) = stamp_ring(1 << 16);
    let mut lateness = Samples::with_capacity(1 << 20);
    let (mut chunk_writer, chunks) = triple_buffer(|| ActionChunk::for_spec(bundle.spec()));
    let (snapshots, mut snapshot_reader) = triple_buffer(ControlSnapshot::new);
    let (sights, _sight_reader) = triple_buffer(Sight::default);
    let keeper = arguments.huge_pages.then(use_huge_pages).transpose();
    let keeper = keeper.map_err(|reason| CliError::Failed(format!("--huge-pages: {reason}")))?;
    control.activate(clock.now(), Epoch(0)).map_err(CliError::failed)?;
    let end = clock.now().saturating_add(Duration::from_secs_f64(arguments.seconds()));
    let mut chunks_seen: Vec<(u64, Spans)> = Vec::new();
    let mut refused = 0;
    let rights = std::thread::scope(|scope| {
        for (camera, hand_off) in cameras.iter_mut().zip(&hand_offs) {
            let (shared, clock) = (&shared, &clock);
            scope.spawn(move || {
                while shared.running.load(Ordering::Relaxed) {
                    let before = camera.counts().frames;
                    let begin = clock.now();
                    camera.step(begin);
                    if camera.counts().frames > before {
                        hand_off.store(clock.now().duration_since(begin).as_nanos() as u64, Ordering::Release);
                    }
                    clock.sleep_until(clock.now().saturating_add(Duration::from_millis(2)));
                }
            });
        }
        let control_thread = scope.spawn(|| {
            let rights = request(&robot.control.realtime);
            let thread = ControlThread {
                clock: &clock,
                start: clock.now(),
                rules: &robot.control,
                control: &mut control,
                watch: &watch,
                faults: &faults,
                estop: &estop,
                orders: None,
                lateness: &mut lateness,
                heartbeat: &heartbeat,
                stamps: &mut stamps,
            };
            thread.run(&shared, &mut ControlLinks { chunks, snapshots, sights });
            rights
        });
        let mut answered = clock.now();
        while clock.now() < end {
            snapshot_reader.update();
            let snapshot = snapshot_reader.value();
            if !snapshot.wants_chunk || snapshot.now <= answered {
                if snapshot.now > answered {
                    inference.prepare(clock.now(), snapshot, bank.refresh(), &clock);
                }
                touch_stack();
                clock.sleep_until(next_look(clock.now(), snapshot));
                continue;
            }
            let hand_off = hand_offs.iter().map(|span| span.load(Ordering::Acquire)).max().unwrap_or(0);
            let begin = clock.now();
            let frames = bank.refresh();
            let outcome = inference.ask(begin, snapshot, frames, Some(&clock));
            let inferred = clock.now();
            if !matches!(outcome, StepOutcome::Answered(_)) {
                refused += 1;
                answered = clock.now();
                continue;
            }
            chunk_writer.slot().copy_from(inference.chunk());
            chunk_writer.publish();
            answered = clock.now();
            inference.account();
            let stages = inference.chunk().stages();
            let model = stages.vision + stages.prefill + stages.decode;
            let apart = model + stages.preprocess + stages.postprocess;
            let us = |span: Duration| span.as_secs_f64() * 1e6;
            let trace = inference.chunk().trace();
            chunks_seen.push((
                trace.frame.sequence,
                Spans {
                    ours: BTreeMap::from([
                        ("hand_off", hand_off as f64 / 1e3),
                        ("observe", us(trace.observed.duration_since(begin))),
                        ("between", us(inferred.duration_since(trace.observed).saturating_sub(apart))),
                        ("ahead", us(stages.ahead)),
                        ("preprocess", us(stages.preprocess)),
                        ("postprocess", us(stages.postprocess)),
                        ("hand_over", us(answered.duration_since(inferred))),
                    ]),
                    model: us(model),
                    wait_for_demand: us(begin.duration_since(trace.frame.available)),
                    wait_for_period: 0.0,
                },
            ));
        }
        shared.running.store(false, Ordering::Release);
        control_thread.join().ok()
    });
    let sent = first_commands(stamp_reader);
    let mut complete = Vec::new();
    for (sequence, mut spans) in chunks_seen {
        let Some(stamps) = sent.get(&sequence) else { continue };
        let Some(provenance) = stamps.provenance else { continue };
        let us = |span: Duration| span.as_secs_f64() * 1e6;
        spans.ours.insert("period", us(stamps.sent.duration_since(stamps.woke)));
        spans.wait_for_period = us(stamps.woke.duration_since(provenance.trace.inferred)) - spans.ours["hand_over"];
        complete.push(spans);
    }
    if complete.is_empty() {
        return Err(CliError::failed(format!("no chunk was played in {} s, {refused} refused", arguments.seconds())));
    }
    let mut rows = Vec::new();
    let mut put = |what: &str, values: Vec<f64>| {
        let mut row = Row::new();
        let mut all = Quantiles::default();
        all.extend(values);
        row.insert("what".to_owned(), what.into());
        all.put(&mut row, "span", "us");
        rows.push(row);
    };
    for stage in ["hand_off", "ahead", "observe", "preprocess", "postprocess", "between", "hand_over", "period"] {
        put(stage, complete.iter().map(|spans| spans.ours[stage]).collect());
    }
    put("all of ours", complete.iter().map(|spans| spans.ours.values().sum()).collect());
    put("beside: model", complete.iter().map(|spans| spans.model).collect());
    put("beside: wait for demand", complete.iter().map(|spans| spans.wait_for_demand).collect());
    put("beside: wait for period", complete.iter().map(|spans| spans.wait_for_period).collect());
    for row in &mut rows {
        row.insert("cameras".to_owned(), json!(format!("2 at {}x{}, {RATE_HZ} Hz", SIZE.0, SIZE.1)));
        row.insert("chunk_count".to_owned(), complete.len().into());
        row.insert("refused".to_owned(), refused.into());
        row.insert("huge_pages".to_owned(), json!(keeper.as_ref().map(PageKeeper::pages)));
        row.insert("granted".to_owned(), rights.as_ref().map(|rights| rights.describe()).into());
    }
    Ok(rows)
}

/// The first command of each chunk, by the frame it comes from.
fn first_commands(mut reader: StampReader) -> BTreeMap<u64, CommandStamps> {
    let mut sent = BTreeMap::new();
    while let Some(stamps) = reader.pop() {
        if let Some(provenance) = stamps.provenance.filter(|_| stamps.is_first) {
            sent.insert(provenance.trace.frame.sequence, stamps);
        }
    }
    sent
}
