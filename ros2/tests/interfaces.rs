//! The published byte vectors, both byte orders, bad counts and fuzzed bytes, for every interface.
#![allow(clippy::unwrap_used)]

use endplate_ros2::cdr::CdrError;
use endplate_ros2::interface::catalogue::CATALOGUE;
use endplate_ros2::interface::*;
use endplate_ros2::message::Stamp;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

const JOINT_STATE: &str = "0001000000f1536515cd5b070a000000626173655f6c696e6b00000003000000030000006a3100000a0000006a\
    6f696e745f74776f000000030000006a33000003000000000000000000f03f00000000000004c00000000000000a400300000000000000\
    9a9999999999b93f9a9999999999c93f333333333333d33f00000000";
const FLOATS: &str = "0001000000000000000000000200000000000000000000000000f03f00000000000000c0";
const NO_FLOATS: &str = "00010000000000000000000000000000";
const IMAGE: &str = "0001000001000000020000000400000063616d000200000002000000060000006d6f6e6f3800000002000000040000000\
    1020304";
const COMPRESSED: &str = "0001000001000000020000000400000063616d00050000006a7065670000000002000000ffd8";
const TRAJECTORY: &str = "000100000000000000000000010000000000000002000000030000006a310000030000006a320000020000000200\
    000000000000000000000000e03f000000000000f03f00000000000000000000000000000000002d310102000000333333333333e33f9a\
    9999999999f13f00000000000000000000000000000000005a6202";
const DIAGNOSTICS: &str = "000100000100000002000000010000000000000001000000010000000d000000706f6c6963793a206c6f6f7000\
    00000010000000646561646c696e65206d6973736564000500000061726d300000000001000000070000006d69737365730000020000003300";
const TRIGGER_REQUEST: &str = "0001000000";
const TRIGGER_RESPONSE: &str = "00010000010000000800000073746f7070656400";

fn header<'a>(seconds: i32, nanoseconds: u32, frame_id: &'a str) -> Header<'a> {
    Header { stamp: Stamp { seconds, nanoseconds }, frame_id }
}

/// Padding bytes that the published vectors leave arbitrary are zero here.
fn assert_encodes<'a, T: Wire<'a> + PartialEq + core::fmt::Debug>(value: &T, vector: &'a [u8], arbitrary: &[usize]) {
    let mut buffer = vec![0xee; 512];
    let written = encode(value, &mut buffer).unwrap();
    let mut expected = vector.to_vec();
    for &at in arbitrary {
        expected[at] = 0;
    }
    assert_eq!(&buffer[..written], expected);
    assert_eq!(&decode::<T>(vector).unwrap(), value);
    for short in 0..written {
        assert!(matches!(encode(value, &mut buffer[..short]), Err(CdrError::Full { .. })));
    }
}

#[test]
fn every_published_vector_is_written_and_read() {
    let [joint_state, floats, no_floats, image, compressed, trajectory, diagnostics, request, response] =
        [JOINT_STATE, FLOATS, NO_FLOATS, IMAGE, COMPRESSED, TRAJECTORY, DIAGNOSTICS, TRIGGER_REQUEST, TRIGGER_RESPONSE]
            .map(bytes);
    let value = JointState {
        header: header(1_700_000_000, 123_456_789, "base_link"),
        name: (&["j1", "joint_two", "j3"]).into(),
        position: (&[1.0, -2.5, 3.25]).into(),
        velocity: (&[0.1, 0.2, 0.3]).into(),
        effort: Seq::default(),
    };
    assert_encodes(&value, &joint_state, &[]);
    let value = Float64MultiArray { data: (&[1.0, -2.0]).into(), ..Default::default() };
    assert_encodes(&value, &floats, &[]);
    assert_encodes(&Float64MultiArray::default(), &no_floats, &[]);
    let value = Image {
        header: header(1, 2, "cam"),
        height: 2,
        width: 2,
        encoding: "mono8",
        is_bigendian: 0,
        step: 2,
        data: &[1, 2, 3, 4],
    };
    assert_encodes(&value, &image, &[]);
    let value = CompressedImage { header: header(1, 2, "cam"), format: "jpeg", data: &[0xff, 0xd8] };
    assert_encodes(&value, &compressed, &[]);
    let point = |positions, millis: u64| JointTrajectoryPoint {
        positions,
        time_from_start: Duration::from_span(std::time::Duration::from_millis(millis)),
        ..Default::default()
    };
    let points = [point((&[0.5, 1.0]).into(), 20), point((&[0.6, 1.1]).into(), 40)];
    let value =
        JointTrajectory { header: header(0, 0, ""), joint_names: (&["j1", "j2"]).into(), points: (&points).into() };
    assert_encodes(&value, &trajectory, &[]);
    let values = [KeyValue { key: "misses", value: "3" }];
    let status = [DiagnosticStatus {
        level: Byte(1),
        name: "policy: loop",
        message: "deadline missed",
        hardware_id: "arm0",
        values: (&values).into(),
    }];
    assert_encodes(&DiagnosticArray { header: header(1, 2, ""), status: (&status).into() }, &diagnostics, &[]);
    assert_encodes(&Empty, &request, &[]);
    assert_encodes(&Outcome { success: true, message: "stopped" }, &response, &[]);
    assert_eq!(decode::<Empty>(&[0, 1, 0, 0]), Ok(Empty), "an empty request without its byte");
}

#[test]
fn big_endian_messages_are_read() {
    let mut message = vec![0, 0, 0, 0];
    for word in [7u32, 9, 2] {
        message.extend(word.to_be_bytes());
    }
    message.extend(b"a\0\0\0");
    message.extend(1u32.to_be_bytes());
    message.extend(3u32.to_be_bytes());
    message.extend(b"j1\0\0");
    message.extend(1u32.to_be_bytes());
    // Byte 32 behind the header: aligned to 8 already.
    message.extend(1.5f64.to_be_bytes());
    message.extend([0; 8]); // no velocity, no effort
    let value: JointState = decode(&message).unwrap();
    assert_eq!(value.header, header(7, 9, "a"));
    assert_eq!(value.name.iter().collect::<Vec<_>>(), ["j1"]);
    assert_eq!(value.position.iter().collect::<Vec<_>>(), [1.5]);
}

#[test]
fn absurd_counts_are_refused_with_numbers_and_without_allocation() {
    let mut message = bytes(FLOATS);
    message[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        decode::<Float64MultiArray>(&message).unwrap_err(),
        CdrError::Count { at: 16, count: u32::MAX, room: 2 }
    );
    let mut message = bytes(IMAGE);
    let at = message.len() - 8;
    message[at..at + 4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    assert!(matches!(decode::<Image>(&message), Err(CdrError::Count { count: 0x7fff_ffff, room: 4, .. })));
    let mut message = bytes(JOINT_STATE);
    message[28..32].copy_from_slice(&1_000_000u32.to_le_bytes());
    assert!(matches!(decode::<JointState>(&message), Err(CdrError::Count { count: 1_000_000, .. })));
    let ranges = [IntegerRange::default(); 2];
    let descriptor = ParameterDescriptor { integer_range: Bounded((&ranges).into()), ..Default::default() };
    assert_eq!(encode(&descriptor, &mut [0; 256]), Err(CdrError::Bound { at: 0, count: 2, most: 1 }));
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
}

/// What the fuzz target `ros2_message` does with one input: what decodes must encode, and decode to the same again.
fn replay(input: &[u8]) {
    let Some((selector, message)) = input.split_first() else { return };
    let entry = &CATALOGUE[usize::from(*selector) % CATALOGUE.len()];
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    if let Ok(written) = (entry.recode)(message, &mut once) {
        once.truncate(written);
        let again = (entry.recode)(&once, &mut twice).unwrap_or_else(|error| panic!("{}: {error}", entry.ros_name));
        assert_eq!(once, &twice[..again], "{}", entry.ros_name);
        assert!(written <= 16 * message.len() + 64, "{}: {written} bytes from {}", entry.ros_name, message.len());
    }
}

#[test]
fn seeds_and_their_mutations_never_panic_and_recode_to_themselves() {
    let vectors =
        [JOINT_STATE, FLOATS, NO_FLOATS, IMAGE, COMPRESSED, TRAJECTORY, DIAGNOSTICS, TRIGGER_REQUEST, TRIGGER_RESPONSE];
    let mut random = Random(5);
    for vector in vectors.map(bytes) {
        for selector in 0..CATALOGUE.len() as u8 {
            replay(&[&[selector], &vector[..]].concat());
            for _ in 0..120 {
                let mut input = [&[selector], &vector[..]].concat();
                for _ in 0..1 + random.next() % 5 {
                    let at = 5 + random.next() as usize % (input.len() - 4).max(1);
                    if let Some(byte) = input.get_mut(at) {
                        *byte = [0, 1, 2, 0xff, random.next() as u8][random.next() as usize % 5];
                    }
                }
                if random.next().is_multiple_of(3) {
                    input.truncate(1 + random.next() as usize % input.len());
                }
                replay(&input);
            }
        }
    }
}
