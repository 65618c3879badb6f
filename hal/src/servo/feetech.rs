//! Feetech STS/SMS on the wire and in its control table.
//!
//! `FF FF ID LEN INST P1…Pn CK` and `FF FF ID LEN ERR P1…Pn CK`, `LEN = n + 2`, `CK` the complement of the low byte of
//! the sum from the id on. There is no byte stuffing, and a checksum of 8 bits lets one damaged packet in 256 pass: what
//! passes is judged again by the plausibility gate.

use super::frame::{BROADCAST, EncodeError, Instruction, Scan, Status, Writer};
use super::table::Register;

const HEADER: [u8; 2] = [0xFF, 0xFF];

fn checksum(bytes: &[u8]) -> u8 {
    !bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte))
}

fn byte(address: u16, len: u16) -> Result<[u8; 2], EncodeError> {
    match (u8::try_from(address), u8::try_from(len)) {
        (Ok(a), Ok(l)) => Ok([a, l]),
        _ => Err(EncodeError::Register { address, len }),
    }
}

/// See [`super::Protocol::encode`].
pub(super) fn encode(id: u8, instruction: &Instruction<'_>, out: &mut [u8]) -> Result<usize, EncodeError> {
    let mut w = Writer::new(out);
    w.put(&HEADER)?;
    let (to, code) = match instruction {
        Instruction::Ping => (id, 0x01),
        Instruction::Read { .. } => (id, 0x02),
        Instruction::Write { .. } => (id, 0x03),
        Instruction::RegWrite { .. } => (id, 0x04),
        Instruction::Action => (id, 0x05),
        Instruction::Reboot => (id, 0x08),
        Instruction::SyncRead { .. } => (BROADCAST, 0x82),
        Instruction::SyncWrite { .. } => (BROADCAST, 0x83),
        Instruction::BulkRead(_) | Instruction::BulkWrite(_) => return Err(EncodeError::Unsupported),
    };
    w.put(&[to, 0, code])?;
    match *instruction {
        Instruction::Read { address, len } => w.put(&byte(address, len)?)?,
        Instruction::Write { address, data } | Instruction::RegWrite { address, data } => {
            w.put(&byte(address, 0)?[..1])?;
            w.put(data)?;
        }
        Instruction::SyncRead { address, len, ids } => {
            w.put(&byte(address, len)?)?;
            w.put(ids)?;
        }
        Instruction::SyncWrite { address, len, ids, data } => {
            if data.len() != usize::from(len) * ids.len() {
                return Err(EncodeError::Shape);
            }
            w.put(&byte(address, len)?)?;
            for (at, id) in ids.iter().enumerate() {
                w.put(&[*id])?;
                w.put(&data[at * usize::from(len)..(at + 1) * usize::from(len)])?;
            }
        }
        _ => {}
    }
    let len = u8::try_from(w.len - 3).map_err(|_| EncodeError::TooLong)?;
    w.written()[3] = len;
    let sum = checksum(&w.written()[2..]);
    w.put(&[sum])?;
    Ok(w.len)
}

/// Finds the first status; see [`Scan`].
pub(super) fn scan(bytes: &[u8], most: usize) -> Scan {
    let mut at = 0;
    loop {
        let Some(found) = bytes[at..].windows(2).position(|pair| pair == HEADER) else {
            // A last FF may be half a header.
            let keep = usize::from(bytes.last() == Some(&0xFF)).min(bytes.len() - at);
            return Scan::Incomplete { garbage: bytes.len() - keep };
        };
        at += found;
        let rest = &bytes[at..];
        let (Some(&id), Some(&len)) = (rest.get(2), rest.get(3)) else { return Scan::Incomplete { garbage: at } };
        // FF is no id: a third FF belongs to the header of a packet one byte on.
        if id == 0xFF || id == BROADCAST || len < 2 || usize::from(len) - 2 > most {
            at += 1;
            continue;
        }
        let end = 4 + usize::from(len);
        let Some(packet) = rest.get(..end) else { return Scan::Incomplete { garbage: at } };
        if checksum(&packet[2..end - 1]) != packet[end - 1] {
            return Scan::Damaged { garbage: at, len: 2 };
        }
        return match Status::new(id, packet[4], &packet[5..end - 1]) {
            Some(status) => Scan::Packet { garbage: at, len: end, status },
            None => Scan::Damaged { garbage: at, len: 2 },
        };
    }
}

/// Alarm bits of the error byte and of the status register.
pub mod alarm {
    /// Voltage out of range.
    pub const VOLTAGE: u8 = 1;
    /// Encoder.
    pub const ENCODER: u8 = 1 << 1;
    /// Too hot.
    pub const TEMPERATURE: u8 = 1 << 2;
    /// Current.
    pub const CURRENT: u8 = 1 << 3;
    /// Overload.
    pub const OVERLOAD: u8 = 1 << 5;
}

/// Registers of the STS3215 and its relatives. EEPROM lies below 40; sign-magnitude where a sign bit is given.
pub mod register {
    use super::Register;
    /// Model number; 777 is the STS3215.
    pub const MODEL: Register = Register::unsigned(3, 2);
    /// Id on the bus.
    pub const ID: Register = Register::unsigned(5, 1);
    /// Index into [`super::BAUD_RATES`].
    pub const BAUD: Register = Register::unsigned(6, 1);
    /// Return delay, 2 µs units.
    pub const RETURN_DELAY: Register = Register::unsigned(7, 1);
    /// 0: only pings and reads are answered; 1: all.
    pub const RESPONSE_LEVEL: Register = Register::unsigned(8, 1);
    /// Smallest position.
    pub const MIN_POSITION: Register = Register::unsigned(9, 2);
    /// Largest position.
    pub const MAX_POSITION: Register = Register::unsigned(11, 2);
    /// Highest temperature, °C.
    pub const MAX_TEMPERATURE: Register = Register::unsigned(13, 1);
    /// Subtracted from the encoder.
    pub const HOMING_OFFSET: Register = Register::sign_magnitude(31, 2, 11);
    /// 0 position, 1 velocity, 2 PWM, 3 step.
    pub const MODE: Register = Register::unsigned(33, 1);
    /// 0 off, 1 on, 2 damping; 128 makes the present position 2048 and is never written by this crate.
    pub const TORQUE: Register = Register::unsigned(40, 1);
    /// 100 counts/s² a unit, 0 is the maximum.
    pub const ACCELERATION: Register = Register::unsigned(41, 1);
    /// Goal; writing it switches the torque on.
    pub const GOAL_POSITION: Register = Register::sign_magnitude(42, 2, 15);
    /// 0–1000.
    pub const TORQUE_LIMIT: Register = Register::unsigned(48, 2);
    /// 1: EEPROM writes are dropped and answered OK.
    pub const LOCK: Register = Register::unsigned(55, 1);
    /// Position.
    pub const POSITION: Register = Register::sign_magnitude(56, 2, 15);
    /// Velocity, counts/s.
    pub const VELOCITY: Register = Register::sign_magnitude(58, 2, 15);
    /// PWM duty, 0.1 %: not a torque.
    pub const LOAD: Register = Register::sign_magnitude(60, 2, 10);
    /// 0.1 V.
    pub const VOLTAGE: Register = Register::unsigned(62, 1);
    /// °C.
    pub const TEMPERATURE: Register = Register::unsigned(63, 1);
    /// Alarm bits.
    pub const STATUS: Register = Register::unsigned(65, 1);
    /// Moving.
    pub const MOVING: Register = Register::unsigned(66, 1);
    /// 6.5 mA units.
    pub const CURRENT: Register = Register::sign_magnitude(69, 2, 15);
}

/// Baud rates by the index in [`register::BAUD`].
pub const BAUD_RATES: [u32; 8] = [1_000_000, 500_000, 250_000, 128_000, 115_200, 76_800, 57_600, 38_400];

#[cfg(test)]
mod tests {
    use super::super::frame::{Found, Protocol, Stream};
    use super::*;

    fn encoded(id: u8, instruction: Instruction<'_>) -> Vec<u8> {
        let mut out = [0; 64];
        let len = encode(id, &instruction, &mut out).unwrap();
        out[..len].to_vec()
    }

    #[test]
    fn the_byte_vectors_tried_against_other_software_come_out_exactly() {
        let goals = [0x00, 0x08, 0xE8, 0x03];
        let cases: [(u8, Instruction<'_>, &[u8]); 7] = [
            (1, Instruction::Ping, &[0xFF, 0xFF, 1, 2, 1, 0xFB]),
            (1, Instruction::Read { address: 56, len: 8 }, &[0xFF, 0xFF, 1, 4, 2, 0x38, 8, 0xB8]),
            (1, Instruction::Write { address: 40, data: &[1] }, &[0xFF, 0xFF, 1, 4, 3, 0x28, 1, 0xCE]),
            (1, Instruction::RegWrite { address: 42, data: &[0, 8] }, &[0xFF, 0xFF, 1, 5, 4, 0x2A, 0, 8, 0xC3]),
            (0xFE, Instruction::Action, &[0xFF, 0xFF, 0xFE, 2, 5, 0xFA]),
            (
                0,
                Instruction::SyncWrite { address: 42, len: 2, ids: &[1, 2], data: &goals },
                &[0xFF, 0xFF, 0xFE, 0x0A, 0x83, 0x2A, 2, 1, 0, 8, 2, 0xE8, 3, 0x52],
            ),
            (
                0,
                Instruction::SyncRead { address: 56, len: 2, ids: &[1, 2] },
                &[0xFF, 0xFF, 0xFE, 6, 0x82, 0x38, 2, 1, 2, 0x3C],
            ),
        ];
        for (id, instruction, bytes) in cases {
            assert_eq!(encoded(id, instruction), bytes, "{instruction:?}");
        }
        let mut stream = Stream::new(Protocol::Feetech);
        stream.push(&[0xFF, 0xFF, 1, 4, 0, 0, 8, 0xF2]);
        let Some(Found::Status(status)) = stream.next() else { panic!("a status") };
        assert_eq!((status.id, status.error, status.params()), (1, 0, &[0, 8][..]));
        assert_eq!(register::POSITION.decode(status.params()), Some(2048));
    }

    #[test]
    fn a_status_is_found_behind_garbage_a_third_ff_and_a_damaged_packet() {
        let status = [0xFF, 0xFF, 1, 4, 0, 0, 8, 0xF2];
        for before in [&[1, 2, 0xFF][..], &[0xFF], &[0xFF, 0xFF, 0xFF, 0xFF], &[0xFF, 0xFF, 3, 200, 7]] {
            let mut stream = Stream::new(Protocol::Feetech);
            stream.expect(8);
            stream.push(before);
            stream.push(&status);
            let Some(Found::Status(found)) = stream.next() else { panic!("{before:?}") };
            assert_eq!(found.params(), &[0, 8]);
            assert!(stream.pending().is_empty());
            assert_eq!(stream.garbage(), before.len() as u64);
        }
        let mut damaged = [status, status].concat();
        damaged[6] ^= 0x10;
        let mut stream = Stream::new(Protocol::Feetech);
        stream.push(&damaged);
        assert_eq!(stream.next(), Some(Found::Damaged));
        assert!(matches!(stream.next(), Some(Found::Status(_))));
    }

    #[test]
    fn what_the_protocol_cannot_say_is_refused() {
        let mut out = [0; 16];
        let long = [0; 40];
        assert_eq!(encode(1, &Instruction::Write { address: 0, data: &long }, &mut out), Err(EncodeError::TooLong));
        assert_eq!(encode(1, &Instruction::BulkRead(&[]), &mut out), Err(EncodeError::Unsupported));
        let far = Instruction::Read { address: 300, len: 1 };
        assert_eq!(encode(1, &far, &mut out), Err(EncodeError::Register { address: 300, len: 1 }));
        let uneven = Instruction::SyncWrite { address: 1, len: 2, ids: &[1], data: &[1] };
        assert_eq!(encode(1, &uneven, &mut out), Err(EncodeError::Shape));
    }
}
