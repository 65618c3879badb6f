//! An emulated Dynamixel of the X series (XL330-M288), protocol 2.0.

use std::time::Instant;

use super::plant::Plant;
use super::servo::{Reply, Request, Servo, encoder, joint_rad};

const SIZE: usize = 256;
const EEPROM_END: usize = 64;
const STATUS: u8 = 0x55;
const RESULT_FAIL: u8 = 1;
const INSTRUCTION: u8 = 2;
const RANGE: u8 = 4;
const LIMIT: u8 = 6;
const ACCESS: u8 = 7;

/// One servo.
pub(super) struct Xl330 {
    joint: usize,
    table: [u8; SIZE],
    held_back: Option<(usize, Vec<u8>)>,
    spoken: Instant,
}

fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 != 0 { crc << 1 ^ 0x8005 } else { crc << 1 })
    })
}

fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for &byte in body {
        out.push(byte);
        if out.ends_with(&[0xFF, 0xFF, 0xFD]) {
            out.push(0xFD);
        }
    }
    out
}

fn unstuffed(body: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    let mut at = 0;
    while at < body.len() {
        if body[at..].starts_with(&[0xFF, 0xFF, 0xFD, 0xFD]) {
            out.extend([0xFF, 0xFF, 0xFD]);
            at += 4;
        } else {
            out.push(body[at]);
            at += 1;
        }
    }
    out
}

/// A status packet.
pub(super) fn status(id: u8, error: u8, params: &[u8]) -> Vec<u8> {
    let body = stuffed(&[&[STATUS, error], params].concat());
    let len = body.len() as u16 + 2;
    let mut packet = vec![0xFF, 0xFF, 0xFD, 0x00, id];
    packet.extend(len.to_le_bytes());
    packet.extend(body);
    packet.extend(crc(&packet).to_le_bytes());
    packet
}

/// Whether bytes still read as a status of this id and length.
pub(super) fn is_whole(packet: &[u8], original: &[u8]) -> bool {
    packet.len() == original.len()
        && packet[..7] == original[..7]
        && crc(&packet[..packet.len() - 2]).to_le_bytes() == packet[packet.len() - 2..]
}

/// See [`super::feetech::take`].
pub(super) fn take(buffer: &[u8]) -> Result<(Request, usize, usize), usize> {
    let mut start = 0;
    while buffer.len() >= start + 7 {
        let b = &buffer[start..];
        let len = usize::from(u16::from_le_bytes([b[5], b[6]]));
        if b[..4] != [0xFF, 0xFF, 0xFD, 0x00] || !(3..2000).contains(&len) {
            start += 1;
            continue;
        }
        if b.len() < len + 7 {
            return Err(start);
        }
        let packet = &b[..len + 7];
        if crc(&packet[..len + 5]).to_le_bytes() != packet[len + 5..] {
            start += 1;
            continue;
        }
        let body = unstuffed(&packet[7..len + 5]);
        let request = Request { id: packet[4], instruction: body[0], params: body[1..].to_vec() };
        return Ok((request, start, start + len + 7));
    }
    Err(start.min(buffer.len()))
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

impl Xl330 {
    pub(super) fn new(id: u8, joint: usize) -> Self {
        let mut servo = Self { joint, table: [0; SIZE], held_back: None, spoken: Instant::now() };
        servo.table[0..2].copy_from_slice(&1200u16.to_le_bytes());
        for (address, value) in [(6, 46), (7, id), (8, 3), (9, 250), (11, 3), (31, 70), (63, 53)] {
            servo.table[address] = value;
        }
        servo.table[32..34].copy_from_slice(&70u16.to_le_bytes());
        servo.table[34..36].copy_from_slice(&35u16.to_le_bytes());
        servo.table[36..38].copy_from_slice(&885u16.to_le_bytes());
        servo.table[38..40].copy_from_slice(&1750u16.to_le_bytes());
        servo.set(48, 4095);
        servo.power_up();
        servo
    }

    fn get(&self, address: usize) -> i32 {
        i32::from_le_bytes([
            self.table[address],
            self.table[address + 1],
            self.table[address + 2],
            self.table[address + 3],
        ])
    }

    fn set(&mut self, address: usize, value: i32) {
        self.table[address..address + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn offset(&self) -> i32 {
        self.get(20)
    }

    /// Writes, or the number of the error.
    fn write(&mut self, address: usize, data: &[u8], plant: &mut dyn Plant) -> u8 {
        let end = address + data.len();
        if data.is_empty() || end > SIZE {
            return RESULT_FAIL;
        }
        if address < EEPROM_END && self.table[64] != 0 {
            return ACCESS;
        }
        let read_only = |at: usize| matches!(at, 0..=6 | 69..=75 | 120..=146);
        if (address..end).all(read_only) {
            return ACCESS;
        }
        let touches = |register: usize| (address..end).contains(&register);
        if self.table[98] == 0xFF && (touches(100) || touches(102) || touches(104) || touches(116)) {
            return ACCESS;
        }
        if touches(98) && data[98 - address] > 127 {
            return RANGE;
        }
        let before = self.get(116);
        for (index, &byte) in data.iter().enumerate().filter(|(index, _)| !read_only(address + index)) {
            self.table[address + index] = byte;
        }
        if touches(64) {
            if self.table[64] == 1 {
                plant.set_goal(self.joint, plant.state(self.joint).0);
            }
            plant.set_torque(self.joint, self.table[64] == 1);
        }
        if touches(116) {
            let goal = self.get(116);
            if self.table[11] == 3 && !(self.get(52)..=self.get(48)).contains(&goal) {
                self.set(116, before);
                return LIMIT;
            }
            plant.set_goal(self.joint, joint_rad(goal.saturating_sub(self.offset())));
        }
        0
    }
}

impl Servo for Xl330 {
    fn id(&self) -> u8 {
        self.table[7]
    }

    fn baud(&self) -> u32 {
        const RATES: [u32; 7] = [9_600, 57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000];
        RATES.get(usize::from(self.table[8])).copied().unwrap_or(0)
    }

    fn power_up(&mut self) {
        self.table[EEPROM_END..].fill(0);
        self.table[68] = 2;
        self.table[144] = 50;
        self.table[146] = 30;
        self.held_back = None;
    }

    fn refresh(&mut self, plant: &dyn Plant) {
        let (position, velocity) = plant.state(self.joint);
        let present = encoder(position) + self.offset();
        self.set(132, present);
        self.set(128, (velocity * 60.0 / core::f64::consts::TAU / 0.229).round() as i32);
        let current = if self.table[64] == 1 { (self.get(116) - present).clamp(-500, 500) as i16 } else { 0 };
        self.table[126..128].copy_from_slice(&current.to_le_bytes());
        self.table[122] = u8::from(velocity.abs() > 0.01);
        let watchdog = self.table[98];
        if self.table[64] == 1
            && (1..=127).contains(&watchdog)
            && self.spoken.elapsed().as_millis() > u128::from(watchdog) * 20
        {
            self.table[98] = 0xFF;
        }
    }

    fn handle(&mut self, request: &Request, plant: &mut dyn Plant) -> Option<Reply> {
        let was_tripped = self.table[98] == 0xFF;
        self.spoken = Instant::now();
        if was_tripped {
            // The servo stops where it is.
            plant.set_goal(self.joint, plant.state(self.joint).0);
        }
        let id = self.id();
        let is_broadcast = request.id == 0xFE;
        if request.id != id && !is_broadcast {
            return None;
        }
        let level = self.table[68];
        let p = request.params.as_slice();
        let alert = if self.table[70] != 0 { 0x80 } else { 0 };
        let reply = |error: u8, params: &[u8]| Some(Reply { id, bytes: status(id, error | alert, params) });
        let read = |table: &[u8; SIZE], address: usize, len: usize| match table.get(address..address + len) {
            Some(bytes) if len > 0 => reply(0, bytes),
            _ => reply(RANGE, &[]),
        };
        let confirm = |error: u8| (level == 2 && !is_broadcast).then(|| reply(error, &[])).flatten();
        match request.instruction {
            0x01 => reply(0, &[self.table[0], self.table[1], self.table[6]]),
            0x02 if p.len() == 4 && !is_broadcast && level > 0 => read(&self.table, pair(p), pair(&p[2..])),
            0x03 if p.len() > 2 => {
                let error = self.write(pair(p), &p[2..], plant);
                confirm(error)
            }
            0x04 if p.len() > 2 => {
                self.held_back = Some((pair(p), p[2..].to_vec()));
                confirm(0)
            }
            0x05 => {
                let error = self.held_back.take().map_or(0, |(address, data)| self.write(address, &data, plant));
                confirm(error)
            }
            0x08 if !is_broadcast => {
                plant.set_torque(self.joint, false);
                self.power_up();
                reply(0, &[])
            }
            0x82 if p.len() > 4 && p[4..].contains(&id) => read(&self.table, pair(p), pair(&p[2..])),
            0x83 if p.len() > 4 => {
                let len = pair(&p[2..]);
                for part in p[4..].chunks_exact(len + 1).filter(|part| part[0] == id) {
                    self.write(pair(p), &part[1..], plant);
                }
                None
            }
            0x92 => p
                .chunks_exact(5)
                .find(|part| part[0] == id)
                .and_then(|part| read(&self.table, pair(&part[1..]), pair(&part[3..]))),
            0x93 => {
                let mut rest = p;
                while rest.len() >= 5 {
                    let (address, len) = (pair(&rest[1..]), pair(&rest[3..]));
                    let Some(data) = rest.get(5..5 + len) else { break };
                    if rest[0] == id {
                        self.write(address, data, plant);
                    }
                    rest = &rest[5 + len..];
                }
                None
            }
            _ if is_broadcast => None,
            _ => reply(INSTRUCTION, &[]),
        }
    }

    fn set_supply(&mut self, voltage_v: f64, temperature_c: f64) {
        self.table[144] = (voltage_v * 10.0).round().clamp(0.0, 255.0) as u8;
        self.table[146] = temperature_c.round().clamp(0.0, 255.0) as u8;
    }
}
