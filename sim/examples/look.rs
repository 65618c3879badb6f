//! Writes what both cameras see while the expert works: `cargo run --release -p endplate-sim
//! --example look -- DIR [SEED]`. Images are enlarged four times; random looks below the nominal.
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use endplate_sim::dataset::{IMAGE_SIZE, Studio};
use endplate_sim::expert::{Expert, rollout};
use endplate_sim::look::Look;
use endplate_sim::model::Model;
use endplate_sim::physics::Physics;
use endplate_sim::scene::Scene;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let directory = words.next().ok_or("a directory is required")?;
    let seed: u64 = words.next().map_or(Ok(2_000_000), |word| word.parse())?;
    std::fs::create_dir_all(&directory)?;
    let model = Arc::new(Model::so101_like()?);
    let mut studio = Studio::new(Arc::clone(&model))?;
    let target = (seed % 3) as usize;
    let mut physics = Physics::new(Arc::clone(&model), &Scene::sample(seed));
    let looks = [Look::default(), Look::sample(1, 2), Look::sample(2, 2), Look::sample(3, 2)];
    let mut tick = 0;
    let mut failure = None;
    let outcome = rollout(&mut physics, None, target, 110, 1, |physics, command, plan| {
        if tick % 6 == 0 {
            let pictures: Vec<Vec<u8>> =
                looks.iter().map(|look| studio.frame(physics, look, command, plan, target).images).collect();
            let path = Path::new(&directory).join(format!("tick_{tick:03}.png"));
            if let Err(error) = save(&path, &pictures) {
                failure = Some(error);
            }
            println!("tick {tick}: {:?}", plan.phase);
        }
        tick += 1;
        plan.rows[1]
    });
    println!("{outcome:?} after {tick} ticks");
    let plan = Expert::new().plan(&physics.goal(), &physics.joints().0, physics.cubes()[target].position_m);
    let mut times_ms: Vec<f64> = (0..500)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(studio.frame(&physics, &looks[0], &physics.goal(), &plan, target));
            start.elapsed().as_secs_f64() * 1e3 / 2.0
        })
        .collect();
    times_ms.sort_by(f64::total_cmp);
    println!("one 96x96 image: median {:.2} ms, p95 {:.2} ms", times_ms[250], times_ms[475]);
    let start = Instant::now();
    (0..5000).for_each(|_| physics.step());
    println!("one physics step: {:.1} us", start.elapsed().as_secs_f64() * 1e6 / 5000.0);
    failure.map_or(Ok(()), Err)
}

/// One picture: a row per look, the two cameras side by side.
fn save(path: &Path, pictures: &[Vec<u8>]) -> Result<(), Box<dyn std::error::Error>> {
    const ZOOM: usize = 3;
    let size = IMAGE_SIZE as usize;
    let (width, height) = (2 * size * ZOOM, pictures.len() * size * ZOOM);
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let (row, py) = (y / ZOOM / size, y / ZOOM % size);
            let (camera, px) = (x / ZOOM / size, x / ZOOM % size);
            let at = ((camera * size + py) * size + px) * 3;
            pixels.extend_from_slice(&pictures[row][at..at + 3]);
        }
    }
    let file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut encoder = png::Encoder::new(file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(())
}
