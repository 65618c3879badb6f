//! Records a data set: `cargo run --release -p endplate-sim --example dataset -- --out DIR
//! [--scenes 600] [--seed 1] [--threads 2] [--plain]`.
use std::path::PathBuf;
use std::time::Instant;

use endplate_sim::dataset::{RecordOptions, record};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = RecordOptions { scenes: 600, seed: 1, threads: 2, randomise: true, moving_share: 0.0 };
    let mut out = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--plain" {
            options.randomise = false;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--out" => out = Some(PathBuf::from(value)),
            "--scenes" => options.scenes = value.parse()?,
            "--seed" => options.seed = value.parse()?,
            "--threads" => options.threads = value.parse()?,
            _ => return Err(format!("unknown option {word}").into()),
        }
    }
    let out = out.ok_or("--out DIR is required")?;
    let start = Instant::now();
    let summary = record(&out, options, None, |progress| {
        if progress.scenes_done.is_multiple_of(10) || progress.scenes_done == progress.scenes {
            println!(
                "{:.0} s: {} of {} scenes, {} frames",
                start.elapsed().as_secs_f64(),
                progress.scenes_done,
                progress.scenes,
                progress.frames
            );
        }
    })?;
    println!("{summary:?} in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
