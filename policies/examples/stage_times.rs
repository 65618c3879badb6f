//! Where the time of an inference goes, on every engine that runs here.
//!
//! `cargo run --release -p endplate-policies --example stage_times -- BUNDLE [RUNS]` replays the bundle's first golden
//! sample and prints p50, p99 and the maximum of each stage in ms; engines take turns, run by run.

use std::time::Duration;

use endplate_policies::bundle::Arrays;
use endplate_policies::{
    Bundle, BundleSource, EngineChoice, Loaded, OpenLoopInputs, OrtOptions, Stages, infer_open_loop, load_policy,
};

/// A stage's name and its time in one inference.
type Stage = (&'static str, fn(&Stages) -> Duration);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("give the bundle's folder")?;
    let runs: usize = arguments.next().map_or(Ok(200), |n| n.parse())?;
    let bundle = Bundle::open(BundleSource::Directory(path.into()))?;
    let golden = Arrays::from_npz(bundle.file("golden.npz")?, "golden.npz")?;
    let images = golden.bytes("images_0", None)?;
    let slots = &bundle.spec().cameras;
    let frames = images.chunks_exact(images.len() / slots.len()).zip(slots);
    let inputs = OpenLoopInputs {
        frames: frames
            .map(|(data, slot)| endplate_hal::Frame {
                data: data.to_vec(),
                sequence: 1,
                ..endplate_hal::Frame::new(slot.width, slot.height)
            })
            .collect(),
        state: golden.get("state_0", None)?.to_vec(),
        instruction: golden.text("instruction_0")?,
        noise: None,
    };

    let mut policies: Vec<Loaded> = Vec::new();
    for choice in [EngineChoice::Tract, EngineChoice::Ort(OrtOptions::default())] {
        let start = std::time::Instant::now();
        match load_policy(&bundle, choice) {
            Ok(loaded) => {
                println!(
                    "{} {} {}: loaded in {:.0?}, {:?}",
                    loaded.engine.name,
                    loaded.engine.version,
                    loaded.engine.library,
                    start.elapsed(),
                    loaded.golden
                );
                policies.push(loaded);
            }
            Err(error) => println!("skipped: {error}"),
        }
    }
    let mut times: Vec<Vec<Stages>> = vec![Vec::new(); policies.len()];
    for run in 0..runs + 10 {
        for (loaded, times) in policies.iter_mut().zip(&mut times) {
            let output = infer_open_loop(&mut *loaded.policy, &inputs)?;
            if run >= 10 {
                times.push(*output.chunk.stages());
            }
        }
    }
    let stages: [Stage; 7] = [
        ("preprocess", |s| s.preprocess),
        ("vision", |s| s.vision),
        ("prefill", |s| s.prefill),
        ("decode", |s| s.decode),
        ("per token", |s| s.decode.div_f64(s.passes.max(1.0))),
        ("postprocess", |s| s.postprocess),
        ("total", Stages::total),
    ];
    println!("{:8} {:12} {:>9} {:>9} {:>9}   ms, {runs} runs", "engine", "stage", "p50", "p99", "max");
    for (loaded, times) in policies.iter().zip(&times) {
        for (name, of) in stages {
            let mut values: Vec<f64> = times.iter().map(|s| of(s).as_secs_f64() * 1e3).collect();
            values.sort_by(f64::total_cmp);
            let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
            println!("{:8} {name:12} {:9.3} {:9.3} {:9.3}", loaded.engine.name, at(0.5), at(0.99), at(1.0));
        }
        println!("{:8} tokens {}", loaded.engine.name, times.first().map_or(0, |s| s.tokens));
    }
    Ok(())
}
