//! A small recording, read back.
#![allow(clippy::unwrap_used)]
use std::path::Path;
use std::sync::Arc;

use endplate_sim::dataset::{DatasetError, Meta, RecordOptions, Studio, Summary, record};
use endplate_sim::expert::Expert;
use endplate_sim::look::Look;
use endplate_sim::model::{CUBES, Model};
use endplate_sim::physics::Physics;
use endplate_sim::scene::Scene;

/// Header text and data of a `.npy` file.
fn npy(path: &Path) -> (String, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((10 + header) % 64, 0);
    (String::from_utf8(bytes[10..10 + header].to_vec()).unwrap(), bytes[10 + header..].to_vec())
}

fn floats(path: &Path, shape: &str, n: u64) -> Vec<f32> {
    let (header, data) = npy(path);
    assert!(header.contains("'<f4'") && header.contains(&format!("({n}, {shape})")), "{header}");
    data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn a_recording_reads_back_and_does_not_depend_on_threads() {
    let base = std::env::temp_dir().join(format!("endplate-dataset-{}", std::process::id()));
    let make = |threads: usize| -> (std::path::PathBuf, Summary) {
        let out = base.join(threads.to_string());
        let mut done = 0;
        let options = RecordOptions { scenes: 3, seed: 7, threads, randomise: true, moving_share: 0.5 };
        let summary = record(&out, options, None, |progress| done = progress.scenes_done).unwrap();
        assert_eq!(done, 3);
        (out, summary)
    };
    let (one, summary) = make(1);
    let (two, same) = make(2);
    assert_eq!(summary, same);
    assert_eq!(summary.episodes + summary.dropped, 9);
    assert!(summary.episodes >= 7, "{summary:?}");
    for entry in std::fs::read_dir(&one).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(std::fs::read(one.join(&name)).unwrap() == std::fs::read(two.join(&name)).unwrap(), "{name:?} differs");
    }

    let n = summary.frames;
    let meta: Meta = serde_json::from_slice(&std::fs::read(one.join("meta.json")).unwrap()).unwrap();
    assert_eq!((meta.frames, meta.episodes, meta.format), (n, summary.episodes, 1));
    let (header, images) = npy(&one.join("images.npy"));
    assert!(header.contains(&format!("({n}, 2, 96, 96, 3, )")) && header.contains("'|u1'"));
    assert_eq!(images.len() as u64, n * 2 * 96 * 96 * 3);
    let command = floats(&one.join("command.npy"), "6, ", n);
    let state = floats(&one.join("state.npy"), "6, ", n);
    let actions = floats(&one.join("actions.npy"), "16, 6, ", n);
    let cubes = floats(&one.join("cubes.npy"), "3, 3, ", n);
    let pixels = floats(&one.join("pixels.npy"), "2, 3, 3, ", n);
    let (_, target) = npy(&one.join("target.npy"));
    let (_, phase) = npy(&one.join("phase.npy"));
    let (_, episode) = npy(&one.join("episode.npy"));
    assert_eq!(episode.len() as u64, 4 * n);
    let mut coloured = 0;
    let mut visible = 0;
    for i in 0..n as usize {
        assert_eq!(actions[i * 96..i * 96 + 6], command[i * 6..i * 6 + 6], "row 0 is the command");
        for j in 0..6 {
            assert!((state[i * 6 + j] - command[i * 6 + j]).abs() < 1.2);
        }
        assert!(phase[i] <= 4 && target[i] < 3);
        for camera in 0..2 {
            for cube in 0..3 {
                let [u, v, seen] = pixels[((i * 2 + camera) * 3 + cube) * 3..][..3] else { unreachable!() };
                if seen == 1.0 {
                    let at = (((i * 2 + camera) * 96 + v as usize) * 96 + u as usize) * 3;
                    let strongest = (0..3).max_by_key(|&channel| images[at + channel]).unwrap();
                    coloured += usize::from(strongest == cube);
                    visible += 1;
                }
            }
        }
    }
    // A pixel at a cube's edge may show what is beside it.
    assert!(visible > 2 * n as usize && coloured * 100 >= visible * 98, "{coloured} of {visible}");
    // The last frame of every episode holds its cube up.
    let episode_at = |i: usize| u32::from_le_bytes(episode[i * 4..i * 4 + 4].try_into().unwrap());
    for i in 0..n as usize {
        if i + 1 == n as usize || episode_at(i) != episode_at(i + 1) {
            assert!(cubes[(i * 3 + usize::from(target[i])) * 3 + 2] > 0.06);
        }
    }
    std::fs::remove_dir_all(&base).unwrap();
}

#[test]
fn evaluation_seeds_cannot_be_recorded() {
    let options = RecordOptions { scenes: 1, seed: 100, threads: 1, randomise: false, moving_share: 0.0 };
    let result = record(&std::env::temp_dir().join("endplate-never"), options, None, |_| {});
    assert!(matches!(result, Err(DatasetError::SeedRange { seed: 100, scenes: 1 })));
}

#[test]
fn every_cube_shows_its_colour_in_the_front_view() {
    let model = Arc::new(Model::so101_like().unwrap());
    let mut studio = Studio::new(Arc::clone(&model)).unwrap();
    let mut hidden = 0;
    for seed in 2_000_100..2_000_130 {
        let physics = Physics::new(Arc::clone(&model), &Scene::sample(seed));
        let command = physics.goal();
        let plan = Expert::new().plan(&command, &command, physics.cubes()[0].position_m);
        for look in [Look::default(), Look::sample(seed, 2)] {
            let frame = studio.frame(&physics, &look, &command, &plan, 0);
            for cube in 0..CUBES {
                let [u, v, seen] = frame.pixels[0][cube];
                assert!((0.0..96.0).contains(&u) && (0.0..96.0).contains(&v), "seed {seed}: cube outside the view");
                if seen == 0.0 {
                    hidden += 1;
                    continue;
                }
                let at = (v as usize * 96 + u as usize) * 3;
                let rgb = &frame.images[at..at + 3];
                let strongest = (0..3).max_by_key(|&channel| rgb[channel]).unwrap();
                assert_eq!(strongest, cube, "seed {seed}: {rgb:?}");
            }
        }
    }
    assert!(hidden <= 18, "{hidden} of 180 hidden by the arm");
}

/// Drives the jaw a little, then stands still: a policy whose answers are refused.
struct Stubborn {
    answers: usize,
}

impl endplate_sim::dataset::Pilot for Stubborn {
    fn begin(&mut self, instruction: &str) {
        assert!(instruction.contains("red") || instruction.contains("green") || instruction.contains("blue"));
        self.answers = 0;
    }

    fn drive(&mut self, images: &[u8], state_rad: &[f32; 6]) -> Vec<[f64; 6]> {
        assert_eq!(images.len(), 2 * 96 * 96 * 3);
        self.answers += 1;
        if self.answers > 1 {
            return Vec::new();
        }
        let stay = state_rad.map(f64::from);
        let mut shut = stay;
        shut[5] = -0.4;
        vec![stay, shut, shut]
    }
}

#[test]
fn a_pilot_drives_the_expert_labels_and_takes_over_when_nothing_moves() {
    let out = std::env::temp_dir().join(format!("endplate-pilot-{}", std::process::id()));
    let options = RecordOptions { scenes: 1, seed: 8, threads: 1, randomise: false, moving_share: 0.0 };
    let make = || -> Box<dyn endplate_sim::dataset::Pilot> { Box::new(Stubborn { answers: 0 }) };
    let summary = record(&out, options, Some(&make), |_| {}).unwrap();
    assert_eq!((summary.episodes, summary.dropped), (3, 0), "failed episodes are kept");
    let n = summary.frames;
    let command = floats(&out.join("command.npy"), "6, ", n);
    let actions = floats(&out.join("actions.npy"), "16, 6, ", n);
    let (_, episode) = npy(&out.join("episode.npy"));
    let first: Vec<usize> = (0..n as usize).filter(|i| episode[4 * i] == 0).collect();
    // The pilot's row was executed and not the expert's.
    assert!((f64::from(command[first[1] * 6 + 5]) + 0.4).abs() < 1e-6);
    // Then nothing moves, until the expert's own row 1 is executed for a while.
    let followed = first
        .windows(2)
        .filter(|w| (0..6).all(|j| (command[w[1] * 6 + j] - actions[w[0] * 96 + 6 + j]).abs() < 1e-6))
        .filter(|w| (0..6).any(|j| (command[w[1] * 6 + j] - command[w[0] * 6 + j]).abs() > 1e-4))
        .count();
    assert!(followed >= endplate_sim::dataset::TAKEOVER_TICKS, "{followed}");
    std::fs::remove_dir_all(&out).unwrap();
}
