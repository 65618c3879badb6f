//! Camera frames become what the training-side libraries make of them, to one grey level, without touching the heap.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/counting.rs"]
mod counting;

use std::collections::BTreeMap;
use std::path::Path;

use counting::allocations;
use endplate_hal::Frame;
use endplate_policies::bundle::Arrays;
use endplate_policies::{CameraSlot, ImageLoader, Pad, Resize};
use serde_json::Value;

fn slot(width: u32, height: u32, resize: Resize, pad: Pad) -> CameraSlot {
    CameraSlot { name: "front".into(), width, height, resize, pad }
}

fn frame(width: u32, height: u32, data: Vec<u8>) -> Frame {
    Frame { data, sequence: 1, ..Frame::new(width, height) }
}

/// Compares every case of a file; prints the largest difference and the share of equal values by library.
fn compare(path: &Path) {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let arrays = Arrays::from_npz(&bytes, &path.display().to_string()).unwrap();
    let text = arrays.text("cases").unwrap();
    let mut loader = ImageLoader::new();
    let mut tables: BTreeMap<(String, String), (f64, usize, usize)> = BTreeMap::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let word = |key: &str| case[key].as_str().unwrap().to_owned();
        let side = |key: &str| u32::try_from(case[key].as_u64().unwrap()).unwrap();
        let resize = match word("resize").as_str() {
            "bilinear" => Resize::Bilinear,
            "bicubic_antialiased" => Resize::BicubicAntialiased,
            "lanczos3_antialiased" => Resize::Lanczos3Antialiased,
            resize => {
                assert_eq!(resize, "bilinear_antialiased");
                Resize::BilinearAntialiased
            }
        };
        let pad = match word("pad").as_str() {
            "none" => Pad::None,
            "centre" => Pad::Centre,
            pad => {
                assert_eq!(pad, "top_left");
                Pad::TopLeft
            }
        };
        let slot = slot(side("width"), side("height"), resize, pad);
        let (height, width) = arrays.image_size(&word("source"), 1).unwrap();
        let source = frame(width, height, arrays.bytes(&word("source"), None).unwrap());
        let plane = slot.width as usize * slot.height as usize;
        let mut ours = vec![f32::NAN; plane * 3];
        loader.load(0, &slot, &source, &mut ours).unwrap();
        let theirs = arrays.get(&word("reference"), Some(&[slot.height as usize, slot.width as usize, 3])).unwrap();
        let entry = tables.entry((word("library"), format!("{} pad {}", word("resize"), word("pad")))).or_default();
        for (index, value) in theirs.iter().enumerate() {
            let (pixel, channel) = (index / 3, index % 3);
            let got = f64::from(ours[channel * plane + pixel]) * 255.0;
            let difference = (got - value).abs();
            // 0.01: what the file's f32 references were rounded to.
            assert!(difference <= 1.01, "{line}: pixel {pixel}, channel {channel}: {got} and {value}");
            entry.0 = entry.0.max(difference);
            entry.1 += usize::from(difference < 0.51);
            entry.2 += 1;
        }
    }
    for ((library, what), (worst, equal, count)) in tables {
        let share = 100.0 * equal as f64 / count as f64;
        println!("third-party {library:44} {what:26} max {worst:.2} levels, {share:.2} % to rounding, {count} values");
    }
}

#[test]
fn frames_are_resampled_as_the_training_side_does() {
    for file in ["small.npz", "sharp.npz"] {
        compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(file));
    }
}

/// `tests/images/make.py` says how to make the file.
#[test]
#[ignore = "needs ENDPLATE_IMAGE_VECTORS, made by tests/images/make.py --camera-size"]
fn camera_size_frames_are_resampled_as_the_training_side_does() {
    compare(Path::new(&std::env::var_os("ENDPLATE_IMAGE_VECTORS").expect("ENDPLATE_IMAGE_VECTORS names the file")));
}

#[test]
fn several_cameras_are_loaded_without_touching_the_heap() {
    let slots = [
        slot(96, 96, Resize::BilinearAntialiased, Pad::None),
        slot(224, 224, Resize::Bilinear, Pad::Centre),
        slot(64, 48, Resize::None, Pad::None),
        slot(224, 224, Resize::BicubicAntialiased, Pad::None),
        slot(96, 128, Resize::Lanczos3Antialiased, Pad::None),
    ];
    let noise = |count: usize, seed: usize| (0..count).map(|i| (((i + seed) * 2_654_435_761) >> 9) as u8).collect();
    let frames = [
        frame(640, 480, noise(640 * 480 * 3, 1)),
        frame(320, 200, noise(320 * 200 * 3, 2)),
        frame(64, 48, noise(64 * 48 * 3, 3)),
        frame(640, 480, noise(640 * 480 * 3, 4)),
        frame(160, 120, noise(160 * 120 * 3, 5)),
    ];
    let mut inputs: Vec<Vec<f32>> = slots.iter().map(|s| vec![0.0; (s.width * s.height * 3) as usize]).collect();
    let mut loader = ImageLoader::new();
    let mut round = || {
        for (index, ((slot, frame), into)) in slots.iter().zip(&frames).zip(&mut inputs).enumerate() {
            loader.load(index, slot, frame, into).unwrap();
        }
    };
    let before = allocations();
    round();
    let first = allocations();
    assert!(first > before, "the counter must count: the first frame of a size makes its weights");
    for _ in 0..5 {
        round();
    }
    assert_eq!(allocations(), first);
}
