//! What fuzzing does with bytes: used by the target in `fuzz/` and, over pseudo-random and broken packets, by an
//! ordinary test.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use endplate_hal::servo::{Found, Instruction, Protocol, Stream};
use endplate_hal::{Chain, ChainLink, Kinematics, ModelPath};

/// Any bytes, in pieces of any size: the stream ends, never holds more than it was given, and what it calls a status
/// can be found again in those bytes.
pub fn servo_stream(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    for protocol in [Protocol::Feetech, Protocol::Dynamixel] {
        let mut stream = Stream::new(protocol);
        stream.expect(usize::from(first >> 2));
        let piece = usize::from(first & 3) * 7 + 1;
        let (mut taken, mut statuses) = (0, 0);
        for part in bytes.chunks(piece) {
            stream.push(part);
            while let Some(found) = stream.next() {
                taken += 1;
                if let Found::Status(status) = found {
                    statuses += 1;
                    assert!(status.params().len() <= usize::from(first >> 2) + 44);
                    assert!(status.id < 254);
                    let least = protocol.status_len(status.params().len());
                    assert!(least <= bytes.len(), "a status of bytes that never came");
                }
            }
        }
        while stream.give_up_first().is_some() {
            taken += 1;
        }
        assert!(stream.pending().is_empty());
        assert!(taken <= bytes.len() && statuses <= bytes.len() / 6);
        assert!(stream.garbage() <= bytes.len() as u64);
    }
}

/// The bytes as the data of a write: what is encoded fits, and nothing panics.
pub fn servo_encode(data: &[u8]) {
    let mut out = [0; 300];
    let (ids, rest) = data.split_at(data.len().min(6));
    let len = rest.len().checked_div(ids.len()).unwrap_or(0);
    let even = &rest[..len * ids.len()];
    for protocol in [Protocol::Feetech, Protocol::Dynamixel] {
        for instruction in [
            Instruction::Write { address: u16::from(*data.first().unwrap_or(&0)), data: rest },
            Instruction::RegWrite { address: 300, data: rest },
            Instruction::SyncRead { address: 56, len: len as u16, ids },
            Instruction::SyncWrite { address: 42, len: len as u16, ids, data: even },
        ] {
            if let Ok(len) = protocol.encode(1, &instruction, &mut out) {
                assert!(len <= out.len() && out.starts_with(&[0xFF, 0xFF]));
            }
        }
    }
}

/// Any bytes as a camera's frame, of the size it names or of another: decoded or refused, and the same again.
#[cfg(feature = "mjpeg")]
pub fn jpeg(data: &[u8]) {
    use endplate_hal::camera::{MjpegDecoder, jpeg_size};
    let size = jpeg_size(data).unwrap_or((48, 32));
    // A header may name 65535 × 65535 pixels; a robot description does not.
    if size.0.saturating_mul(size.1) > 1 << 20 {
        return;
    }
    let (mut once, mut again) = (vec![0; (size.0 * size.1 * 3) as usize], vec![1; (size.0 * size.1 * 3) as usize]);
    let mut decoder = MjpegDecoder::default();
    let first = decoder.decode(data, size, &mut once);
    assert_eq!(first, decoder.decode(data, size, &mut again));
    if first.is_ok() {
        assert!(once == again, "what is decoded depends on the frame alone");
    }
    let mut short = [0; 12];
    assert!(decoder.decode(data, size, &mut short).is_err() || size.0 * size.1 == 4);
}

/// Any text as a URDF or MJCF: a chain that can be evaluated, or an error with words.
pub fn model_file(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    for (base, tip) in [(None, "hand"), (Some("upper"), "hand"), (None, "tip")] {
        match ModelPath::read(text, base, tip) {
            Ok(path) => {
                assert!(!path.links.is_empty());
                let links: Vec<ChainLink> = path
                    .links
                    .iter()
                    .take(16)
                    .enumerate()
                    .map(|(joint, link)| ChainLink {
                        joint,
                        origin_m: link.origin.translation.vector.into(),
                        rpy_rad: link.origin.rotation.euler_angles().into(),
                        axis: link.axis,
                    })
                    .collect();
                let chain = Chain::new(&links, path.tool.translation.vector.into()).unwrap();
                chain.forward(&[0.3; 16]).unwrap();
            }
            Err(error) => assert!(!error.element.is_empty() && !error.message.is_empty()),
        }
    }
}
