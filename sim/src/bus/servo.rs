//! What emulated servos of every make have in common.

use super::plant::Plant;
use core::f64::consts::TAU;

/// A request as it came over the wire.
pub(super) struct Request {
    pub(super) id: u8,
    pub(super) instruction: u8,
    pub(super) params: Vec<u8>,
}

impl Request {
    /// Ids of a sync or bulk read, in the order they are to answer.
    pub(super) fn listed(&self, is_feetech: bool) -> Option<Vec<u8>> {
        match (self.instruction, is_feetech) {
            (0x82, true) => self.params.get(2..).map(<[u8]>::to_vec),
            (0x82, false) => self.params.get(4..).map(<[u8]>::to_vec),
            (0x92, false) => Some(self.params.chunks_exact(5).map(|part| part[0]).collect()),
            _ => None,
        }
    }
}

/// An answer.
pub(super) struct Reply {
    pub(super) id: u8,
    pub(super) bytes: Vec<u8>,
}

/// One emulated servo.
pub(super) trait Servo: Send {
    fn id(&self) -> u8;
    /// The baud rate it listens at, as its EEPROM says; 0 for an index of no rate.
    fn baud(&self) -> u32;
    /// RAM as after power-up.
    fn power_up(&mut self);
    /// Takes the present state of its joint into its registers.
    fn refresh(&mut self, plant: &dyn Plant);
    fn handle(&mut self, request: &Request, plant: &mut dyn Plant) -> Option<Reply>;
    fn set_supply(&mut self, voltage_v: f64, temperature_c: f64);
}

/// The encoder's count of a joint angle: 2048 at 0 rad.
pub(super) fn encoder(position_rad: f64) -> i32 {
    (position_rad * 4096.0 / TAU).round() as i32 + 2048
}

/// The joint angle of an encoder count, rad.
pub(super) fn joint_rad(count: i32) -> f64 {
    f64::from(count.saturating_sub(2048)) * TAU / 4096.0
}
