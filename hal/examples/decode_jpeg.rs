//! Holds the JPEG decoder against reference pixels: `decode_jpeg NAME…` reads `NAME.jpg` and `NAME.rgb`, as
//! `hal/tests/jpeg/compare.py` writes them, and prints the largest difference and the time of this decoder and of
//! `zune-jpeg`.

use endplate_hal::camera::{MjpegDecoder, jpeg_size};
use std::error::Error;
use std::time::Instant;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Times each frame is decoded; the shortest counts, as the machine is shared.
const ROUNDS: usize = 15;

fn least_ms(mut work: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times.into_iter().fold(f64::INFINITY, f64::min))
}

fn apart(a: &[u8], b: &[u8]) -> u8 {
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut decoder = MjpegDecoder::default();
    let mut worst = [0, 0];
    for name in std::env::args().skip(1) {
        let (jpeg, reference) = (std::fs::read(format!("{name}.jpg"))?, std::fs::read(format!("{name}.rgb"))?);
        let size = jpeg_size(&jpeg)?;
        let mut ours = vec![0; reference.len()];
        let ours_ms = least_ms(|| Ok(decoder.decode(&jpeg, size, &mut ours)?))?;
        let options = DecoderOptions::new_fast().jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut zune = Vec::new();
        let zune_ms = least_ms(|| {
            zune = JpegDecoder::new_with_options(ZCursor::new(&jpeg[..]), options).decode()?;
            Ok(())
        })?;
        let found = [apart(&ours, &reference), apart(&zune, &reference)];
        println!("{name:<24} apart {} in {ours_ms:.2} ms; zune-jpeg {} in {zune_ms:.2} ms", found[0], found[1]);
        worst = [worst[0].max(found[0]), worst[1].max(found[1])];
    }
    println!("largest difference: {}; zune-jpeg {}", worst[0], worst[1]);
    if worst[0] > 0 { Err("the pixels are not the reference's".into()) } else { Ok(()) }
}
