//! Replays what the fuzz targets do, over packets broken in every way a wire breaks them.
#![allow(clippy::unwrap_used)]

#[path = "common/fuzzed.rs"]
mod fuzzed;

use endplate_hal::servo::{Found, Protocol, Stream};

/// A small generator, so that the test needs no crate and says the same every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

const STATUSES: [(Protocol, &[u8]); 2] = [
    (Protocol::Feetech, &[0xFF, 0xFF, 1, 4, 0, 0, 8, 0xF2]),
    (Protocol::Dynamixel, &[0xFF, 0xFF, 0xFD, 0x00, 1, 7, 0, 0x55, 0, 6, 4, 0x26, 0x65, 0x5D]),
];

#[test]
fn broken_bytes_never_panic_and_never_become_more_than_they_are() {
    let mut noise = Noise(1);
    for round in 0..20_000 {
        let (_, status) = STATUSES[round % 2];
        let mut bytes = vec![noise.next(256) as u8];
        for _ in 0..noise.next(6) {
            match noise.next(4) {
                0 => bytes.extend((0..noise.next(12)).map(|_| noise.next(256) as u8)),
                1 => bytes.extend(std::iter::repeat_n(0xFF, noise.next(5) as usize)),
                2 => bytes.extend(&status[..noise.next(status.len() as u64 + 1) as usize]),
                _ => bytes.extend(status),
            }
        }
        for _ in 0..noise.next(3) {
            let at = noise.next(bytes.len() as u64) as usize;
            bytes[at] = noise.next(256) as u8;
        }
        fuzzed::servo_stream(&bytes);
        fuzzed::servo_encode(&bytes);
    }
}

#[test]
fn a_whole_status_behind_any_garbage_is_found() {
    let (mut noise, mut escapes) = (Noise(2), 0);
    for round in 0..20_000 {
        let (protocol, status) = STATUSES[round % 2];
        let garbage: Vec<u8> =
            (0..noise.next(30)).map(|_| if noise.next(3) == 0 { 0xFF } else { noise.next(256) as u8 }).collect();
        let mut stream = Stream::new(protocol);
        stream.expect(8);
        stream.push(&garbage);
        stream.push(status);
        let mut seen = Vec::new();
        while let Some(found) = stream.next().or_else(|| stream.give_up_first()) {
            seen.push(found);
        }
        let ids: Vec<u8> =
            seen.iter().filter_map(|found| if let Found::Status(s) = found { Some(s.id) } else { None }).collect();
        // One damaged packet of 256 passes an 8-bit checksum, and then it may hide what it ran over.
        escapes += usize::from(!ids.contains(&1));
        assert!(!ids.is_empty(), "{protocol:?} {garbage:02X?}");
    }
    assert!(escapes < 60, "{escapes} of 20000 statuses hidden");
}

#[cfg(feature = "mjpeg")]
#[test]
fn broken_frames_are_decoded_or_refused_the_same_every_time() {
    let frames: [&[u8]; 3] =
        [include_bytes!("jpeg/420.jpg"), include_bytes!("jpeg/422.jpg"), include_bytes!("jpeg/444.jpg")];
    // Found by fuzzing: part of the picture was left as the buffer had it.
    fuzzed::jpeg(include_bytes!("jpeg/damaged_odd_sampling.jpg"));
    let mut noise = Noise(3);
    for round in 0..3_000 {
        let mut bytes = frames[round % 3].to_vec();
        for _ in 0..noise.next(5) {
            let at = noise.next(bytes.len() as u64) as usize;
            bytes[at] = noise.next(256) as u8;
        }
        if noise.next(4) == 0 {
            bytes.truncate(noise.next(bytes.len() as u64 + 1) as usize);
        }
        fuzzed::jpeg(&bytes);
    }
}

const MODELS: [&str; 2] = [
    r#"<robot name="two"><link name="base"/><link name="upper"/><link name="hand"/>
      <joint name="a" type="revolute"><parent link="base"/><child link="upper"/><origin xyz="0 0 0.1" rpy="0 0 1.57"/><axis xyz="0 1 0"/></joint>
      <joint name="b" type="fixed"><parent link="upper"/><child link="hand"/><origin xyz="0.2 0 0"/></joint></robot>"#,
    r#"<mujoco><compiler angle="degree" eulerseq="zyx"/><default><default class="arm"><joint axis="0 1 0"/></default></default>
      <worldbody><body name="upper" childclass="arm" euler="90 0 0"><joint name="a" pos="0 0 .02"/>
      <body name="hand" quat="0 1 0 0" pos="1 0 0"><joint name="b" axis="1 0 0"/><site name="tip" zaxis="0 0 -1"/></body></body></worldbody></mujoco>"#,
];

#[test]
fn broken_model_files_never_panic_and_are_refused_with_words() {
    let mut noise = Noise(3);
    let words =
        ["\"", "<", ">", "/>", "nan", "1e400", "-", "<body>", "</body>", "name=\"hand\"", "quat=\"0 0 0 0\"", "0"];
    for round in 0..20_000 {
        let model = MODELS[round % 2];
        fuzzed::model_file(model.as_bytes());
        let mut text = model.as_bytes().to_vec();
        for _ in 0..=noise.next(3) {
            let at = noise.next(text.len() as u64) as usize;
            let end = (at + noise.next(20) as usize).min(text.len());
            match noise.next(3) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..at, words[noise.next(words.len() as u64) as usize].bytes())),
                _ => text[at] = b' ' + noise.next(90) as u8,
            }
            text.push(b' ');
        }
        fuzzed::model_file(&text);
    }
}
