//! Dynamixel protocol 2.0 on the wire and the control table of the X series.
//!
//! `FF FF FD 00 ID LENL LENH INST P… CRCL CRCH`. Inside instruction and parameters `FF FF FD` is sent as
//! `FF FF FD FD`; length and CRC are those of the stuffed form (ROBOTIS e-Manual, "Protocol 2.0").

use super::frame::{BROADCAST, EncodeError, Instruction, MAX_PARAMS, Scan, Status, Writer};
use super::table::Register;

const HEADER: [u8; 4] = [0xFF, 0xFF, 0xFD, 0x00];
const STATUS: u8 = 0x55;

/// CRC-16 with polynomial 0x8005, initial 0, not reflected.
const CRC: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x8005 } else { crc << 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| crc << 8 ^ CRC[usize::from((crc >> 8) as u8 ^ byte)])
}

/// Appends with byte stuffing.
struct Stuffed<'a> {
    writer: Writer<'a>,
    /// The last bytes of instruction and parameters, newest lowest.
    tail: u32,
}

impl Stuffed<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        for &byte in bytes {
            self.writer.put(&[byte])?;
            self.tail = self.tail << 8 | u32::from(byte);
            if self.tail & 0xFF_FFFF == 0xFF_FFFD {
                self.writer.put(&[0xFD])?;
                self.tail = 0;
            }
        }
        Ok(())
    }

    fn put_pair(&mut self, a: u16, b: u16) -> Result<(), EncodeError> {
        self.put(&a.to_le_bytes())?;
        self.put(&b.to_le_bytes())
    }
}

/// See [`super::Protocol::encode`].
pub(super) fn encode(id: u8, instruction: &Instruction<'_>, out: &mut [u8]) -> Result<usize, EncodeError> {
    let (to, code) = match instruction {
        Instruction::Ping => (id, 0x01),
        Instruction::Read { .. } => (id, 0x02),
        Instruction::Write { .. } => (id, 0x03),
        Instruction::RegWrite { .. } => (id, 0x04),
        Instruction::Action => (id, 0x05),
        Instruction::Reboot => (id, 0x08),
        Instruction::SyncRead { .. } => (BROADCAST, 0x82),
        Instruction::SyncWrite { .. } => (BROADCAST, 0x83),
        Instruction::BulkRead(_) => (BROADCAST, 0x92),
        Instruction::BulkWrite(_) => (BROADCAST, 0x93),
    };
    let mut writer = Writer::new(out);
    writer.put(&HEADER)?;
    writer.put(&[to, 0, 0])?;
    let mut w = Stuffed { writer, tail: 0 };
    w.put(&[code])?;
    match *instruction {
        Instruction::Read { address, len } => w.put_pair(address, len)?,
        Instruction::Write { address, data } | Instruction::RegWrite { address, data } => {
            w.put(&address.to_le_bytes())?;
            w.put(data)?;
        }
        Instruction::SyncRead { address, len, ids } => {
            w.put_pair(address, len)?;
            w.put(ids)?;
        }
        Instruction::SyncWrite { address, len, ids, data } => {
            if data.len() != usize::from(len) * ids.len() {
                return Err(EncodeError::Shape);
            }
            w.put_pair(address, len)?;
            for (at, id) in ids.iter().enumerate() {
                w.put(&[*id])?;
                w.put(&data[at * usize::from(len)..(at + 1) * usize::from(len)])?;
            }
        }
        Instruction::BulkRead(parts) => {
            for part in parts {
                w.put(&[part.id])?;
                w.put_pair(part.address, part.len)?;
            }
        }
        Instruction::BulkWrite(parts) => {
            for part in parts {
                let len = u16::try_from(part.data.len()).map_err(|_| EncodeError::TooLong)?;
                w.put(&[part.id])?;
                w.put_pair(part.address, len)?;
                w.put(part.data)?;
            }
        }
        Instruction::Ping | Instruction::Action | Instruction::Reboot => {}
    }
    let mut writer = w.writer;
    let len = u16::try_from(writer.len - 7 + 2).map_err(|_| EncodeError::TooLong)?;
    writer.written()[5..7].copy_from_slice(&len.to_le_bytes());
    let crc = crc(writer.written());
    writer.put(&crc.to_le_bytes())?;
    Ok(writer.len)
}

/// Finds the first status; see [`Scan`].
pub(super) fn scan(bytes: &[u8], most: usize) -> Scan {
    let mut at = 0;
    loop {
        let Some(found) = bytes[at..].windows(4).position(|part| part == HEADER) else {
            let keep = (1..4).rev().find(|&keep| bytes[at..].ends_with(&HEADER[..keep])).unwrap_or(0);
            return Scan::Incomplete { garbage: bytes.len() - keep };
        };
        at += found;
        let rest = &bytes[at..];
        let Some(fixed) = rest.get(4..7) else { return Scan::Incomplete { garbage: at } };
        let len = usize::from(u16::from_le_bytes([fixed[1], fixed[2]]));
        // Instruction, error and CRC at least; at most one stuffed byte for every three parameters.
        if fixed[0] >= BROADCAST || len < 4 || len - 4 > most + most.div_ceil(3) {
            at += HEADER.len();
            continue;
        }
        let end = 7 + len;
        let Some(packet) = rest.get(..end) else { return Scan::Incomplete { garbage: at } };
        let damaged = Scan::Damaged { garbage: at, len: HEADER.len() };
        if crc(&packet[..end - 2]).to_le_bytes() != packet[end - 2..] {
            return damaged;
        }
        if packet[7] != STATUS {
            // An instruction: the echo of a request.
            at += end;
            continue;
        }
        let mut params = [0; MAX_PARAMS];
        return match unstuff(&packet[8..end - 2], &mut params) {
            Some([error, params @ ..]) => match Status::new(fixed[0], *error, params) {
                Some(status) => Scan::Packet { garbage: at, len: end, status },
                None => damaged,
            },
            _ => damaged,
        };
    }
}

/// Removes the byte stuffed after every `FF FF FD`; `None` when the result does not fit.
fn unstuff<'a>(stuffed: &[u8], out: &'a mut [u8]) -> Option<&'a [u8]> {
    let (mut len, mut tail, mut skip) = (0, 0u32, false);
    for &byte in stuffed {
        if core::mem::take(&mut skip) {
            tail = 0;
            if byte == 0xFD {
                continue;
            }
        }
        *out.get_mut(len)? = byte;
        len += 1;
        tail = tail << 8 | u32::from(byte);
        skip = tail & 0xFF_FFFF == 0xFF_FFFD;
    }
    Some(&out[..len])
}

/// Bit of the error byte that asks to read [`register::HARDWARE_ERROR`].
pub const ALERT: u8 = 0x80;

/// What the number in the error byte's low bits means; `None` for 0.
pub const fn error_text(error: u8) -> Option<&'static str> {
    Some(match error & !ALERT {
        0 => return None,
        1 => "the instruction failed",
        2 => "unknown instruction",
        3 => "the request arrived damaged",
        4 => "the value is out of range",
        5 => "the data has the wrong length",
        6 => "the value is beyond a limit register",
        7 => "the register cannot be accessed now",
        _ => "an error this crate does not know",
    })
}

/// Alarm bits of [`register::HARDWARE_ERROR`].
pub mod alarm {
    /// Voltage out of range.
    pub const VOLTAGE: u8 = 1;
    /// Too hot.
    pub const TEMPERATURE: u8 = 1 << 2;
    /// Encoder.
    pub const ENCODER: u8 = 1 << 3;
    /// Electrical shock.
    pub const SHOCK: u8 = 1 << 4;
    /// Overload.
    pub const OVERLOAD: u8 = 1 << 5;
}

/// Registers of the X series. EEPROM lies below 64 and is writable with torque off only.
pub mod register {
    use super::Register;
    /// Model number.
    pub const MODEL: Register = Register::unsigned(0, 2);
    /// Id on the bus.
    pub const ID: Register = Register::unsigned(7, 1);
    /// Index into [`super::BAUD_RATES`].
    pub const BAUD: Register = Register::unsigned(8, 1);
    /// Return delay, 2 µs units.
    pub const RETURN_DELAY: Register = Register::unsigned(9, 1);
    /// 3 position, 4 extended position, …
    pub const OPERATING_MODE: Register = Register::unsigned(11, 1);
    /// Added to the encoder.
    pub const HOMING_OFFSET: Register = Register::signed(20, 4);
    /// Largest position.
    pub const MAX_POSITION: Register = Register::unsigned(48, 4);
    /// Smallest position.
    pub const MIN_POSITION: Register = Register::unsigned(52, 4);
    /// 0 off, 1 on.
    pub const TORQUE: Register = Register::unsigned(64, 1);
    /// 0 ping, 1 ping and read, 2 all.
    pub const STATUS_RETURN_LEVEL: Register = Register::unsigned(68, 1);
    /// Alarm bits.
    pub const HARDWARE_ERROR: Register = Register::unsigned(70, 1);
    /// 20 ms units; 0 off; reads −1 once tripped, and goals are refused until 0 is written.
    pub const BUS_WATCHDOG: Register = Register::signed(98, 1);
    /// Goal.
    pub const GOAL_POSITION: Register = Register::signed(116, 4);
    /// Model-dependent units: 1 mA (XL330), 2.69 mA (XM430).
    pub const CURRENT: Register = Register::signed(126, 2);
    /// 0.229 rev/min units.
    pub const VELOCITY: Register = Register::signed(128, 4);
    /// Position.
    pub const POSITION: Register = Register::signed(132, 4);
    /// 0.1 V.
    pub const VOLTAGE: Register = Register::unsigned(144, 2);
    /// °C.
    pub const TEMPERATURE: Register = Register::unsigned(146, 1);
}

/// Baud rates by the index in [`register::BAUD`].
pub const BAUD_RATES: [u32; 7] = [9_600, 57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000];

#[cfg(test)]
mod tests {
    use super::super::frame::{BulkRead, BulkWrite, Found, Protocol, Stream};
    use super::*;

    fn encoded(id: u8, instruction: Instruction<'_>) -> Vec<u8> {
        let mut out = [0; 64];
        let len = encode(id, &instruction, &mut out).unwrap();
        out[..len].to_vec()
    }

    fn status(id: u8, params: &[u8]) -> Vec<u8> {
        // A status is an instruction with another code: borrow the encoder, then name it a status.
        let mut out = [0; 256];
        let mut writer = Writer::new(&mut out);
        writer.put(&HEADER).unwrap();
        writer.put(&[id, 0, 0]).unwrap();
        let mut stuffed = Stuffed { writer, tail: 0 };
        stuffed.put(&[STATUS, 0]).unwrap();
        stuffed.put(params).unwrap();
        let mut writer = stuffed.writer;
        let len = (writer.len - 5) as u16;
        writer.written()[5..7].copy_from_slice(&len.to_le_bytes());
        let crc = crc(writer.written());
        writer.put(&crc.to_le_bytes()).unwrap();
        writer.written().to_vec()
    }

    #[test]
    fn the_byte_vectors_tried_against_other_software_come_out_exactly() {
        assert_eq!(crc(b"123456789"), 0xFEE8);
        let goals = [0, 8, 0, 0, 0, 4, 0, 0];
        let hex = |text: &str| -> Vec<u8> {
            text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
        };
        let cases = [
            (1, Instruction::Ping, "FF FF FD 00 01 03 00 01 19 4E"),
            (1, Instruction::Read { address: 132, len: 4 }, "FF FF FD 00 01 07 00 02 84 00 04 00 1D 15"),
            (1, Instruction::Write { address: 64, data: &[1] }, "FF FF FD 00 01 06 00 03 40 00 01 DB 66"),
            (
                0,
                Instruction::SyncRead { address: 132, len: 4, ids: &[1, 2] },
                "FF FF FD 00 FE 09 00 82 84 00 04 00 01 02 CE FA",
            ),
            (
                0,
                Instruction::SyncWrite { address: 116, len: 4, ids: &[1, 2], data: &goals },
                "FF FF FD 00 FE 11 00 83 74 00 04 00 01 00 08 00 00 02 00 04 00 00 98 4C",
            ),
        ];
        for (id, instruction, bytes) in cases {
            assert_eq!(encoded(id, instruction), hex(bytes), "{instruction:?}");
        }
    }

    #[test]
    fn a_header_inside_the_parameters_is_stuffed_and_comes_back() {
        let goal = 0x00FD_FFFFu32.to_le_bytes();
        let bytes = encoded(1, Instruction::Write { address: 116, data: &goal });
        assert!(bytes.windows(4).any(|part| part == [0xFF, 0xFF, 0xFD, 0xFD]), "{bytes:02X?}");
        for params in [&goal[..], &[0xFF, 0xFF, 0xFD, 0xFD, 0xFF, 0xFF, 0xFD], &[0xFF, 0xFF, 0xFF, 0xFD, 0x00], &[]] {
            let mut stream = Stream::new(Protocol::Dynamixel);
            stream.expect(params.len());
            stream.push(&[0xFF, 0xFF, 0xFD]);
            stream.push(&status(7, params));
            let Some(Found::Status(found)) = stream.next() else { panic!("{params:02X?}") };
            assert_eq!((found.id, found.params()), (7, params));
        }
    }

    #[test]
    fn an_echo_is_no_status_and_a_damaged_packet_hides_none() {
        let mut bytes = encoded(1, Instruction::Read { address: 132, len: 4 });
        bytes.extend(status(1, &[0, 8, 0, 0]));
        let mut damaged = status(1, &[0, 8, 0, 0]);
        damaged[10] ^= 1;
        bytes.extend(damaged);
        bytes.extend(status(2, &[1, 2, 3, 4]));
        let mut stream = Stream::new(Protocol::Dynamixel);
        stream.push(&bytes);
        assert!(matches!(stream.next(), Some(Found::Status(found)) if found.id == 1));
        assert_eq!(stream.next(), Some(Found::Damaged));
        assert!(matches!(stream.next(), Some(Found::Status(found)) if found.id == 2));
        assert_eq!(stream.next(), None);
    }

    #[test]
    fn bulk_packets_name_each_servo_and_its_registers() {
        let read = [BulkRead { id: 1, address: 144, len: 2 }, BulkRead { id: 2, address: 146, len: 1 }];
        let bytes = encoded(0, Instruction::BulkRead(&read));
        assert_eq!(&bytes[4..18], &[0xFE, 13, 0, 0x92, 1, 144, 0, 2, 0, 2, 146, 0, 1, 0]);
        let write = [BulkWrite { id: 1, address: 32, data: &[160, 0] }, BulkWrite { id: 2, address: 31, data: &[80] }];
        let bytes = encoded(0, Instruction::BulkWrite(&write));
        assert_eq!(&bytes[4..21], &[0xFE, 16, 0, 0x93, 1, 32, 0, 2, 0, 160, 0, 2, 31, 0, 1, 0, 80]);
    }
}
