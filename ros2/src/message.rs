//! ROS 2 messages over the [`cdr`](crate::cdr) codec: fields, type names and type hashes.

use crate::cdr::{CdrError, Reader, Writer};

/// A message type as peers must name it: a wrong hash means silence, not an error.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MessageType {
    /// ROS name, `package/msg/Type`.
    pub ros_name: &'static str,
    /// Name on the wire, `package::msg::dds_::Type_`.
    pub dds_name: &'static str,
    /// Type hash, `RIHS01_` and 64 hexadecimal digits (ROS 2 REP 2016).
    pub hash: &'static str,
}

/// `sensor_msgs/msg/JointState`; the hash is the same in Jazzy and Kilted.
pub const JOINT_STATE: MessageType = MessageType {
    ros_name: "sensor_msgs/msg/JointState",
    dds_name: "sensor_msgs::msg::dds_::JointState_",
    hash: "RIHS01_a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e",
};

/// `sensor_msgs/msg/Image`; the hash is the same in Jazzy and Kilted.
pub const IMAGE: MessageType = MessageType {
    ros_name: "sensor_msgs/msg/Image",
    dds_name: "sensor_msgs::msg::dds_::Image_",
    hash: "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47",
};

/// `builtin_interfaces/msg/Time`: wall-clock time since the Unix epoch.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Seconds.
    pub seconds: i32,
    /// Nanoseconds, below 10⁹.
    pub nanoseconds: u32,
}

impl Stamp {
    /// The stamp of a time since the Unix epoch, or `None` past what 32 bits of seconds can say (January 2038).
    pub fn since_epoch(time: core::time::Duration) -> Option<Self> {
        Some(Self { seconds: i32::try_from(time.as_secs()).ok()?, nanoseconds: time.subsec_nanos() })
    }
}

impl Stamp {
    /// Nanoseconds since the Unix epoch; 0 before it.
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.seconds).unwrap_or(0) * 1_000_000_000 + u64::from(self.nanoseconds)
    }
}

/// Why a joint state cannot be encoded or decoded.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The bytes, or the buffer.
    #[error(transparent)]
    Cdr(#[from] CdrError),
    /// An image's data is not its rows times the bytes of a row.
    #[error("an image of {height} rows of {step} bytes has {got} bytes of data")]
    Image {
        /// Rows.
        height: u32,
        /// Bytes of a row.
        step: u32,
        /// Bytes of data.
        got: usize,
    },
    /// An array is neither empty nor as long as the names.
    #[error("{field} has {got} values for {names} joint names: send one value a name, or none")]
    Length {
        /// The array: `position`, `velocity` or `effort`.
        field: &'static str,
        /// Joint names in the message.
        names: usize,
        /// Values in the array.
        got: usize,
    },
}

/// A borrowed `sensor_msgs/msg/JointState`, to be encoded.
#[derive(Copy, Clone, Debug)]
pub struct JointStateView<'a, S> {
    /// Wall-clock time of the values.
    pub stamp: Stamp,
    /// Coordinate frame; empty for joint values.
    pub frame_id: &'a str,
    /// `[D]` joint names.
    pub names: &'a [S],
    /// `[D]` rad (m for prismatic joints), or empty.
    pub position: &'a [f64],
    /// `[D]` rad/s, or empty.
    pub velocity: &'a [f64],
    /// `[D]` N·m, or empty.
    pub effort: &'a [f64],
}

impl<S: AsRef<str>> JointStateView<'_, S> {
    /// Encodes into the start of `buffer` and returns the bytes written, at most [`joint_state_capacity`].
    ///
    /// # Errors
    /// [`MessageError::Length`] before anything is written; [`CdrError::Full`] when the buffer is too small.
    ///
    /// # Real-time
    /// Does not allocate or block.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, MessageError> {
        check_lengths(self.names.len(), self.position.len(), self.velocity.len(), self.effort.len())?;
        let mut writer = Writer::new(buffer)?;
        writer.i32(self.stamp.seconds)?;
        writer.u32(self.stamp.nanoseconds)?;
        writer.string(self.frame_id)?;
        writer.count(self.names.len())?;
        for name in self.names {
            writer.string(name.as_ref())?;
        }
        writer.f64_sequence(self.position)?;
        writer.f64_sequence(self.velocity)?;
        writer.f64_sequence(self.effort)?;
        Ok(writer.written())
    }
}

/// An upper bound of the bytes of a joint state with this frame and these names, every array full.
pub fn joint_state_capacity<S: AsRef<str>>(frame_id: &str, names: &[S]) -> usize {
    // A string: padding, count, text, zero. A sequence: padding, count, padding, values.
    let string = |text: &str| 3 + 4 + text.len() + 1;
    let strings: usize = names.iter().map(|name| string(name.as_ref())).sum();
    crate::cdr::HEADER_BYTES + 8 + string(frame_id) + 7 + strings + 3 * (3 + 4 + 7 + 8 * names.len())
}

/// A decoded `sensor_msgs/msg/JointState`.
///
/// Values are as the peer sent them: a joint without a value may be NaN. Each array is empty or as long as `names`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JointStateMessage {
    /// Wall-clock time of the values.
    pub stamp: Stamp,
    /// Coordinate frame.
    pub frame_id: String,
    /// `[D]` joint names, in the sender's order: map by name, never by index.
    pub names: Vec<String>,
    /// `[D]` rad (m for prismatic joints), or empty.
    pub position: Vec<f64>,
    /// `[D]` rad/s, or empty.
    pub velocity: Vec<f64>,
    /// `[D]` N·m, or empty.
    pub effort: Vec<f64>,
}

impl JointStateMessage {
    /// Decodes a message; bytes after the last field are ignored, as peers append some.
    ///
    /// # Errors
    /// [`MessageError`]; total on any bytes, and what it allocates is bounded by a small multiple of their number.
    ///
    /// # Real-time
    /// Allocates: for side threads.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes)?;
        let stamp = Stamp { seconds: reader.i32()?, nanoseconds: reader.u32()? };
        let frame_id = reader.string()?.to_owned();
        let joints = reader.count(4)?;
        let mut names = Vec::with_capacity(joints);
        for _ in 0..joints {
            names.push(reader.string()?.to_owned());
        }
        let mut array = || -> Result<Vec<f64>, CdrError> {
            let count = reader.f64_count()?;
            (0..count).map(|_| reader.f64()).collect()
        };
        let (position, velocity, effort) = (array()?, array()?, array()?);
        check_lengths(names.len(), position.len(), velocity.len(), effort.len())?;
        Ok(Self { stamp, frame_id, names, position, velocity, effort })
    }

    /// The same message, borrowed, to be encoded.
    pub fn view(&self) -> JointStateView<'_, String> {
        JointStateView {
            stamp: self.stamp,
            frame_id: &self.frame_id,
            names: &self.names,
            position: &self.position,
            velocity: &self.velocity,
            effort: &self.effort,
        }
    }
}

/// A borrowed `sensor_msgs/msg/Image`, to be encoded or as decoded.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct ImageView<'a> {
    /// Capture time.
    pub stamp: Stamp,
    /// Optical frame of the camera.
    pub frame_id: &'a str,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// Pixel form, for example `rgb8`.
    pub encoding: &'a str,
    /// Bytes of a row.
    pub step: u32,
    /// `[height, step]`.
    pub data: &'a [u8],
}

impl<'a> ImageView<'a> {
    /// Encodes into the start of `buffer` and returns the bytes written, at most [`image_capacity`].
    ///
    /// # Errors
    /// [`MessageError::Image`] before anything is written; [`CdrError::Full`] when the buffer is too small.
    ///
    /// # Real-time
    /// Does not allocate or block.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, MessageError> {
        self.check()?;
        let mut writer = Writer::new(buffer)?;
        writer.i32(self.stamp.seconds)?;
        writer.u32(self.stamp.nanoseconds)?;
        writer.string(self.frame_id)?;
        writer.u32(self.height)?;
        writer.u32(self.width)?;
        writer.string(self.encoding)?;
        writer.u8(0)?; // little-endian pixels
        writer.u32(self.step)?;
        writer.bytes(self.data)?;
        Ok(writer.written())
    }

    /// Decodes a message; bytes after the last field are ignored, as peers append some.
    ///
    /// # Errors
    /// [`MessageError`]; total on any bytes.
    ///
    /// # Real-time
    /// Does not allocate or block.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes)?;
        let stamp = Stamp { seconds: reader.i32()?, nanoseconds: reader.u32()? };
        let frame_id = reader.string()?;
        let (height, width) = (reader.u32()?, reader.u32()?);
        let encoding = reader.string()?;
        let _is_big_endian = reader.u8()?;
        let step = reader.u32()?;
        let image = Self { stamp, frame_id, height, width, encoding, step, data: reader.bytes()? };
        image.check()?;
        Ok(image)
    }

    fn check(&self) -> Result<(), MessageError> {
        let (height, step, got) = (self.height, self.step, self.data.len());
        if u64::from(height) * u64::from(step) != got as u64 {
            return Err(MessageError::Image { height, step, got });
        }
        Ok(())
    }
}

/// An upper bound of the bytes of an image with this frame, encoding and number of bytes.
pub fn image_capacity(frame_id: &str, encoding: &str, bytes: usize) -> usize {
    let string = |text: &str| 3 + 4 + text.len() + 1;
    crate::cdr::HEADER_BYTES + 8 + string(frame_id) + 3 + 8 + string(encoding) + 1 + 3 + 4 + 4 + bytes
}

fn check_lengths(names: usize, position: usize, velocity: usize, effort: usize) -> Result<(), MessageError> {
    for (field, got) in [("position", position), ("velocity", velocity), ("effort", effort)] {
        if got != 0 && got != names {
            return Err(MessageError::Length { field, names, got });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepted by rclpy (Jazzy), rosbags, pycdr2 and mcap-ros2-support; rosbags and pycdr2 re-encode it byte for byte.
    const GOLDEN: &str = "0001000000f1536515cd5b070a000000626173655f6c696e6b00000003000000030000006a310000\
        0a0000006a6f696e745f74776f000000030000006a33000003000000000000000000f03f00000000000004c0000000000000\
        0a4003000000000000009a9999999999b93f9a9999999999c93f333333333333d33f00000000";

    /// `sensor_msgs/msg/Image`: stamp 1.000000002, frame `cam`, 2 × 2 `mono8`, data 1 2 3 4.
    const IMAGE_GOLDEN: &str = "0001000001000000020000000400000063616d0002000000020000000600\
        00006d6f6e6f38000000020000000400000001020304";

    fn golden() -> Vec<u8> {
        (0..GOLDEN.len() / 2).map(|i| u8::from_str_radix(&GOLDEN[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    fn message() -> JointStateMessage {
        JointStateMessage {
            stamp: Stamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 },
            frame_id: "base_link".into(),
            names: ["j1", "joint_two", "j3"].map(String::from).into(),
            position: vec![1.0, -2.5, 3.25],
            velocity: vec![0.1, 0.2, 0.3],
            effort: vec![],
        }
    }

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            self.0 >> 33
        }
    }

    #[test]
    fn a_joint_state_is_the_golden_bytes_and_comes_back() {
        let mut buffer = [0xee; 256];
        let written = message().view().encode(&mut buffer).unwrap();
        assert_eq!(&buffer[..written], golden());
        assert_eq!(JointStateMessage::decode(&golden()), Ok(message()));
        let trailing = [golden(), vec![1, 2, 3]].concat();
        assert_eq!(JointStateMessage::decode(&trailing), Ok(message()));
    }

    #[test]
    fn the_capacity_is_enough_for_every_length_of_names_and_an_empty_message_is_valid() {
        for joints in 0..17 {
            let names: Vec<String> = (0..joints).map(|j| "n".repeat(j)).collect();
            let values = vec![0.5; joints];
            for frame_id in ["", "a", "base"] {
                let mut buffer = vec![0; joint_state_capacity(frame_id, &names)];
                let (stamp, full) = (Stamp::default(), &values[..]);
                let view =
                    JointStateView { stamp, frame_id, names: &names, position: full, velocity: full, effort: full };
                let written = view.encode(&mut buffer).unwrap();
                let decoded = JointStateMessage::decode(&buffer[..written]).unwrap();
                assert_eq!((decoded.names, decoded.effort), (names.clone(), values.clone()));
            }
        }
    }

    #[test]
    fn an_array_of_another_length_than_the_names_is_refused_both_ways() {
        let mut wrong = message();
        wrong.velocity.pop();
        let refusal = MessageError::Length { field: "velocity", names: 3, got: 2 };
        assert_eq!(wrong.view().encode(&mut [0; 256]), Err(refusal));
        let mut bytes = golden();
        let last = bytes.len() - 4;
        bytes[last] = 1;
        bytes.extend([0; 12]);
        let refusal = MessageError::Length { field: "effort", names: 3, got: 1 };
        assert_eq!(JointStateMessage::decode(&bytes), Err(refusal));
    }

    #[test]
    fn every_cut_of_a_message_is_an_error_and_no_bytes_panic_the_reader() {
        let golden = golden();
        for length in 0..golden.len() {
            assert!(JointStateMessage::decode(&golden[..length]).is_err(), "cut at {length}");
        }
        let mut random = Random(11);
        for _ in 0..20_000 {
            let mut bytes = golden.clone();
            for _ in 0..1 + random.next() % 6 {
                let at = random.next() as usize % bytes.len();
                bytes[at] = random.next() as u8;
            }
            bytes.truncate(random.next() as usize % (bytes.len() + 1));
            let _ = JointStateMessage::decode(&bytes);
            let mut noise: Vec<u8> = (0..random.next() % 200).map(|_| random.next() as u8).collect();
            for (slot, value) in noise.iter_mut().zip([0, random.next() as u8 & 1]) {
                *slot = value;
            }
            let _ = JointStateMessage::decode(&noise);
        }
    }

    #[test]
    fn an_image_is_the_bytes_of_its_fields_and_comes_back_or_is_refused() {
        let image = ImageView {
            stamp: Stamp { seconds: 1, nanoseconds: 2 },
            frame_id: "cam",
            height: 2,
            width: 2,
            encoding: "mono8",
            step: 2,
            data: &[1, 2, 3, 4],
        };
        let mut buffer = vec![0xee; image_capacity("cam", "mono8", 4)];
        let written = image.encode(&mut buffer).unwrap();
        let hex: String = buffer[..written].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, IMAGE_GOLDEN);
        assert_eq!(ImageView::decode(&buffer[..written]), Ok(image));
        for length in 0..written {
            assert!(ImageView::decode(&buffer[..length]).is_err(), "cut at {length}");
        }
        let refusal = Err(MessageError::Image { height: 3, step: 2, got: 4 });
        assert_eq!(ImageView { height: 3, ..image }.encode(&mut buffer), refusal.map(|()| 0));
    }

    /// REP 2016: SHA-256 over the type descriptions as JSON.
    #[test]
    fn the_type_hash_is_that_of_the_fields() {
        use sha2::{Digest, Sha256};
        use std::fmt::Write;
        let field = |name: &str, id: u32, nested: &str| {
            format!(
                "{{\"name\": \"{name}\", \"type\": {{\"type_id\": {id}, \"capacity\": 0, \"string_capacity\": 0, \
                 \"nested_type_name\": \"{nested}\"}}}}"
            )
        };
        let describe = |name: &str, fields: &[String]| {
            format!("{{\"type_name\": \"{name}\", \"fields\": [{}]}}", fields.join(", "))
        };
        let (nested, int32, uint32, string, strings, doubles) = (1, 6, 7, 17, 161, 155);
        let time = "builtin_interfaces/msg/Time";
        let header = "std_msgs/msg/Header";
        let joint_state = describe(
            JOINT_STATE.ros_name,
            &[
                field("header", nested, header),
                field("name", strings, ""),
                field("position", doubles, ""),
                field("velocity", doubles, ""),
                field("effort", doubles, ""),
            ],
        );
        let referenced = [
            describe(time, &[field("sec", int32, ""), field("nanosec", uint32, "")]),
            describe(header, &[field("stamp", nested, time), field("frame_id", string, "")]),
        ];
        let json = format!(
            "{{\"type_description\": {joint_state}, \"referenced_type_descriptions\": [{}]}}",
            referenced.join(", ")
        );
        let mut hash = String::from("RIHS01_");
        for byte in Sha256::digest(json) {
            write!(hash, "{byte:02x}").unwrap();
        }
        assert_eq!(hash, JOINT_STATE.hash);
    }
}
