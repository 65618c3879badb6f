//! An emulated STS3215: register table, EEPROM lock, and what its manual does not say but its owners measured.

use super::plant::Plant;
use super::servo::{Reply, Request, Servo, encoder, joint_rad};

const SIZE: usize = 128;
const EEPROM_END: usize = 40;

/// One servo.
pub(super) struct Sts {
    joint: usize,
    table: [u8; SIZE],
    held_back: Option<(usize, Vec<u8>)>,
}

fn sign_magnitude(value: i32, bit: u32) -> u16 {
    let magnitude = value.unsigned_abs().min((1 << bit) - 1) as u16;
    if value < 0 { magnitude | 1 << bit } else { magnitude }
}

fn from_sign_magnitude(raw: u16, bit: u32) -> i32 {
    let magnitude = i32::from(raw & ((1 << bit) - 1));
    if raw >> bit & 1 == 1 { -magnitude } else { magnitude }
}

/// The checksum of a packet from its id on.
fn checksum(body: &[u8]) -> u8 {
    !body.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
}

/// A status packet.
pub(super) fn status(id: u8, error: u8, params: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xFF, 0xFF, id, params.len() as u8 + 2, error];
    packet.extend_from_slice(params);
    packet.push(checksum(&packet[2..]));
    packet
}

/// Whether bytes still read as a status of this id and length: a damaged answer that does escapes the checksum.
pub(super) fn is_whole(packet: &[u8], original: &[u8]) -> bool {
    packet.len() == original.len()
        && packet[..4] == original[..4]
        && checksum(&packet[2..packet.len() - 1]) == packet[packet.len() - 1]
}

/// The first request in a buffer and the bytes it and the garbage before it take; `Err(garbage)` when there is none yet.
pub(super) fn take(buffer: &[u8]) -> Result<(Request, usize, usize), usize> {
    let mut start = 0;
    while buffer.len() >= start + 4 {
        let b = &buffer[start..];
        let len = usize::from(b[3]);
        if b[0] != 0xFF || b[1] != 0xFF || b[2] == 0xFF || len < 2 {
            start += 1;
            continue;
        }
        if b.len() < len + 4 {
            return Err(start);
        }
        if checksum(&b[2..len + 3]) != b[len + 3] {
            start += 1;
            continue;
        }
        let request = Request { id: b[2], instruction: b[4], params: b[5..len + 3].to_vec() };
        return Ok((request, start, start + len + 4));
    }
    // Up to three bytes may be the begin of a header.
    Err(start.min(buffer.len()))
}

impl Sts {
    pub(super) fn new(id: u8, joint: usize) -> Self {
        let mut servo = Self { joint, table: [0; SIZE], held_back: None };
        for (address, value) in
            [(0, 3), (1, 10), (5, id), (7, 250), (8, 1), (13, 70), (14, 140), (15, 40), (18, 0x0C), (21, 32), (22, 32)]
        {
            servo.table[address] = value;
        }
        servo.set(3, 777);
        servo.set(11, 4095);
        servo.set(16, 1000);
        servo.set(28, 500);
        servo.table[30] = 1;
        servo.power_up();
        servo
    }

    fn get(&self, address: usize) -> u16 {
        u16::from_le_bytes([self.table[address], self.table[address + 1]])
    }

    fn set(&mut self, address: usize, value: u16) {
        self.table[address..address + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn offset(&self) -> i32 {
        from_sign_magnitude(self.get(31), 11)
    }

    /// Position as the register has it: the encoder less the offset, on one turn.
    fn present(&self, plant: &dyn Plant) -> i32 {
        (encoder(plant.state(self.joint).0) - self.offset()).rem_euclid(4096)
    }

    fn write(&mut self, address: usize, data: &[u8], plant: &mut dyn Plant) {
        for (index, &byte) in data.iter().enumerate() {
            let at = address + index;
            let is_kept_out = at < EEPROM_END && self.table[55] != 0;
            let is_read_only = matches!(at, 0..=4 | 56..=70);
            if at >= SIZE || is_kept_out || is_read_only {
                continue;
            }
            if at == 40 && byte == 128 {
                // The present position becomes 2048.
                let offset = (encoder(plant.state(self.joint).0) - 2048).clamp(-2047, 2047);
                self.set(31, sign_magnitude(offset, 11));
                continue;
            }
            self.table[at] = byte;
        }
        let touches = |register: usize| (address..address + data.len()).contains(&register);
        if touches(42) || touches(43) {
            // A goal switches the torque on by itself.
            self.table[40] = 1;
            let goal = from_sign_magnitude(self.get(42), 15);
            let goal = goal.clamp(i32::from(self.get(9)), i32::from(self.get(11)));
            plant.set_goal(self.joint, joint_rad(goal + self.offset()));
        }
        if touches(40) || touches(42) || touches(43) {
            plant.set_torque(self.joint, self.table[40] == 1);
        }
    }

    fn alarms(&self) -> u8 {
        let voltage = !(self.table[15]..=self.table[14]).contains(&self.table[62]);
        let hot = self.table[63] > self.table[13];
        u8::from(voltage) | u8::from(hot) << 2
    }
}

impl Servo for Sts {
    fn id(&self) -> u8 {
        self.table[5]
    }

    fn baud(&self) -> u32 {
        const RATES: [u32; 8] = [1_000_000, 500_000, 250_000, 128_000, 115_200, 76_800, 57_600, 38_400];
        RATES.get(usize::from(self.table[6])).copied().unwrap_or(0)
    }

    fn power_up(&mut self) {
        self.table[EEPROM_END..].fill(0);
        self.table[55] = 1;
        self.table[62] = 121;
        self.table[63] = 35;
        self.set(48, self.get(16));
        self.held_back = None;
    }

    fn refresh(&mut self, plant: &dyn Plant) {
        let (_, velocity) = plant.state(self.joint);
        let position = self.present(plant);
        self.set(56, sign_magnitude(position, 15));
        let speed = (velocity * 4096.0 / core::f64::consts::TAU).round() as i32;
        self.set(58, sign_magnitude(speed, 15));
        let goal = from_sign_magnitude(self.get(42), 15);
        let duty = if self.table[40] == 1 { (goal - position).clamp(-1000, 1000) } else { 0 };
        self.set(60, sign_magnitude(duty, 10));
        self.set(69, sign_magnitude(duty.abs() / 10, 15));
        self.table[66] = u8::from(speed != 0);
        self.table[64] = u8::from(self.held_back.is_some());
        self.table[65] = self.alarms();
    }

    fn handle(&mut self, request: &Request, plant: &mut dyn Plant) -> Option<Reply> {
        let id = self.id();
        let is_broadcast = request.id == 0xFE;
        if request.id != id && !is_broadcast {
            return None;
        }
        let answers_all = self.table[8] != 0;
        let p = request.params.as_slice();
        let alarms = self.alarms();
        let reply = |params: &[u8]| Some(Reply { id, bytes: status(id, alarms, params) });
        match (request.instruction, p) {
            (0x01, _) => reply(&[]),
            (0x02, &[address, count]) if !is_broadcast => {
                let (from, to) = (usize::from(address), usize::from(address) + usize::from(count));
                self.table.get(from..to).and_then(reply)
            }
            (0x03, &[address, ref data @ ..]) => {
                self.write(usize::from(address), data, plant);
                // The answer still has the id the servo was asked by.
                (answers_all && !is_broadcast).then(|| reply(&[])).flatten()
            }
            (0x04, &[address, ref data @ ..]) => {
                self.held_back = Some((usize::from(address), data.to_vec()));
                (answers_all && !is_broadcast).then(|| reply(&[])).flatten()
            }
            (0x05, _) => {
                if let Some((address, data)) = self.held_back.take() {
                    self.write(address, &data, plant);
                }
                (answers_all && !is_broadcast).then(|| reply(&[])).flatten()
            }
            (0x82, &[address, count, ref ids @ ..]) if ids.contains(&id) => {
                let (from, to) = (usize::from(address), usize::from(address) + usize::from(count));
                self.table.get(from..to).and_then(reply)
            }
            (0x83, &[address, count, ref parts @ ..]) => {
                for part in parts.chunks_exact(usize::from(count) + 1).filter(|part| part[0] == id) {
                    self.write(usize::from(address), &part[1..], plant);
                }
                None
            }
            _ => None,
        }
    }

    fn set_supply(&mut self, voltage_v: f64, temperature_c: f64) {
        self.table[62] = (voltage_v * 10.0).round().clamp(0.0, 255.0) as u8;
        self.table[63] = temperature_c.round().clamp(0.0, 255.0) as u8;
    }
}
