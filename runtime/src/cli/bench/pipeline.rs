//! `endplate bench pipeline`: what an inference costs beside the engine, stage by stage, and the image path alone.
//!
//! On a machine that does other work, an inference from which the kernel took the processor away says nothing about us:
//! those are counted, and the total is given with and without them.

use super::scene::{CAMERA, Inference, Scene};
use super::{BenchArguments, Row, Samples};
use crate::cli::error::CliError;
use endplate_hal::Frame;
use endplate_policies::{CameraSlot, EngineRun, ImageLoader, Pad, Resize, Stages};
use serde_json::json;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Untimed inferences before the first.
const WARM_UP: usize = 10;
/// What everything beside the engine may take at p99 for two cameras, µs.
const AIM_US: f64 = 1000.0;

/// A stage and its time in one inference.
type Stage = (&'static str, fn(&Stages) -> Duration);

/// In the order they run.
const STAGES: [Stage; 5] = [
    ("preprocess", |s| s.preprocess),
    ("vision", |s| s.vision),
    ("prefill", |s| s.prefill),
    ("decode", |s| s.decode),
    ("postprocess", |s| s.postprocess),
];

/// Every row of the table.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let mut rows = inference(arguments)?;
    rows.extend(images(arguments.calls)?);
    Ok(rows)
}

/// Microseconds beside the engine and in it.
#[derive(Default)]
struct Split {
    host: Samples,
    engine: Samples,
}

impl Split {
    fn add(&mut self, whole: Duration, engine: Duration) {
        self.host.extend([micros(whole.saturating_sub(engine))]);
        self.engine.extend([micros(engine)]);
    }
}

fn inference(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let mut scene = Scene::open(arguments, false)?;
    let (mut stages, mut total) = (STAGES.map(|_| Split::default()), Split::default());
    let mut undisturbed = Samples::default();
    let (mut refused, mut preempted, mut tokens) = (0usize, 0usize, 0u64);
    for index in 0..WARM_UP + arguments.calls {
        scene.runs.take();
        let before = preemptions();
        let inference = scene.infer(index);
        let after = preemptions();
        let runs = scene.runs.take();
        if index < WARM_UP {
            continue;
        }
        if !inference.is_answered {
            refused += 1;
            continue;
        }
        let engine = runs.iter().map(|run| run.time).sum();
        total.add(inference.wall, engine);
        if before == after {
            undisturbed.extend([micros(inference.wall.saturating_sub(engine))]);
        } else {
            preempted += 1;
        }
        let times = *scene.chunk().stages();
        tokens += u64::from(times.tokens);
        for ((split, (_, of)), engine) in stages.iter_mut().zip(STAGES).zip(by_stage(&inference, &times, &runs)) {
            split.add(of(&times), engine);
        }
    }
    let answered = arguments.calls - refused;
    if answered == 0 {
        return Err(CliError::Failed(format!("{}: no inference was answered", scene.bundle.source())));
    }
    let engine = &scene.loaded.engine;
    let mut about = Row::new();
    about.insert("bundle".to_owned(), scene.bundle.spec().name.clone().into());
    about.insert("engine".to_owned(), format!("{} {}", engine.name, engine.version).into());
    about.insert("cameras".to_owned(), scene.cameras().into());
    about.insert("inferences".to_owned(), answered.into());
    about.insert("refused".to_owned(), refused.into());
    about.insert("tokens_mean".to_owned(), json!(super::rounded(tokens as f64 / answered as f64)));
    let named = STAGES.iter().map(|(name, _)| *name).zip(&stages).chain([("total", &total)]);
    Ok(named
        .map(|(name, split)| {
            let mut row = Row::new();
            row.insert("what".to_owned(), name.into());
            row.extend(about.clone());
            split.host.put(&mut row, "host", "us");
            split.engine.put(&mut row, "engine", "us");
            if name == "total" {
                undisturbed.put(&mut row, "host_not_preempted", "us");
                row.insert("preempted".to_owned(), preempted.into());
                row.insert("host_p99_aim_us".to_owned(), json!(AIM_US));
            }
            row
        })
        .collect())
}

/// How often the kernel has taken the processor away from this thread; `None` where it does not say.
fn preemptions() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?.trim().parse().ok()
}

/// Engine time inside each stage: a run belongs to the stage its middle lies in.
fn by_stage(inference: &Inference, times: &Stages, runs: &[EngineRun]) -> [Duration; STAGES.len()] {
    let mut end = inference.start;
    let ends = STAGES.map(|(_, of)| {
        end += of(times);
        end
    });
    let mut sums = [Duration::ZERO; STAGES.len()];
    for run in runs {
        let middle = run.start + run.time / 2;
        let stage = ends.iter().position(|end| middle < *end).unwrap_or(STAGES.len() - 1);
        sums[stage] += run.time;
    }
    sums
}

/// The image path alone, two cameras a call.
fn images(calls: usize) -> Result<Vec<Row>, CliError> {
    let slot = |width, height, resize, pad| CameraSlot { name: "camera".to_owned(), width, height, resize, pad };
    let cases = [
        ("antialiased stretched", slot(96, 96, Resize::BilinearAntialiased, Pad::None)),
        ("antialiased centred", slot(224, 224, Resize::BilinearAntialiased, Pad::Centre)),
        ("bicubic stretched", slot(224, 224, Resize::BicubicAntialiased, Pad::None)),
        ("Lanczos stretched", slot(224, 224, Resize::Lanczos3Antialiased, Pad::None)),
        ("bilinear centred", slot(224, 224, Resize::Bilinear, Pad::Centre)),
        ("bilinear top left", slot(512, 512, Resize::Bilinear, Pad::TopLeft)),
        ("not resampled", slot(CAMERA.0, CAMERA.1, Resize::None, Pad::None)),
    ];
    let mut state = 1u32;
    let mut camera = || {
        let mut frame = Frame { sequence: 1, ..Frame::new(CAMERA.0, CAMERA.1) };
        frame.data.clear();
        frame.data.extend((0..CAMERA.0 * CAMERA.1 * 3).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }));
        frame
    };
    let frames = [camera(), camera()];
    let mut rows = Vec::new();
    for (name, slot) in cases {
        let mut loader = ImageLoader::new();
        let values = slot.width as usize * slot.height as usize * 3;
        let mut input = vec![0.0f32; values * frames.len()];
        let mut times = Samples::default();
        for call in 0..WARM_UP + calls {
            let start = Instant::now();
            for (index, (frame, into)) in frames.iter().zip(input.chunks_exact_mut(values)).enumerate() {
                loader.load(index, &slot, black_box(frame), into).map_err(CliError::failed)?;
            }
            if call >= WARM_UP {
                times.extend([micros(start.elapsed())]);
            }
            black_box(&input);
        }
        let mut row = Row::new();
        row.insert("what".to_owned(), name.into());
        row.insert("cameras".to_owned(), format!("2 of {}x{}", CAMERA.0, CAMERA.1).into());
        row.insert("slot".to_owned(), format!("{}x{}", slot.width, slot.height).into());
        times.put(&mut row, "images", "us");
        rows.push(row);
    }
    Ok(rows)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_runs_are_counted_in_the_stage_they_lie_in() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let times = Stages { preprocess: ms(10), vision: ms(20), prefill: ms(0), decode: ms(30), ..Stages::default() };
        let run = |from, time| EngineRun {
            graph: "graph".into(),
            start: start + ms(from),
            time: ms(time),
            is_repeated: false,
        };
        let inference = Inference { start, wall: ms(61), is_answered: true };
        let runs = [run(11, 18), run(31, 10), run(45, 14)];
        let sums = by_stage(&inference, &times, &runs);
        assert_eq!(sums, [ms(0), ms(18), ms(0), ms(24), ms(0)]);
    }
}
