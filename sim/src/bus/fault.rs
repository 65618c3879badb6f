//! What goes wrong on an emulated bus, and the count of what did.

use rand::Rng;
use rand_pcg::Pcg64;
use std::time::Duration;

/// Faults of a bus. All shares are of answers, 0 to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BusFaults {
    /// Share of answers in which bytes are changed.
    pub corrupt: f64,
    /// Share of answers that do not leave.
    pub drop: f64,
    /// Share of answers with bytes of noise before them.
    pub noise: f64,
    /// The adapter gives every request back.
    pub echo: bool,
    /// A servo that answers late: id and delay.
    pub slow: Option<(u8, Duration)>,
    /// All servos lose power so often, for so long; they come back with torque off.
    pub brown_out: Option<(Duration, Duration)>,
}

/// What an emulated bus did.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct EmulatorCounts {
    /// Requests understood.
    pub requests: u64,
    /// Answers made.
    pub answers: u64,
    /// Answers changed on their way.
    pub corrupted: u64,
    /// Of those, how many still have a right checksum, id and length: nothing but plausibility can catch them.
    pub escapes: u64,
    /// Answers that did not leave.
    pub dropped: u64,
    /// Bursts of noise.
    pub noise: u64,
    /// Brown-outs.
    pub brown_outs: u64,
    /// Bytes of no request.
    pub garbage_bytes: u64,
}

impl BusFaults {
    /// Changes an answer as a bad wire does: one to four bytes, each a bit flipped or a byte replaced. Returns false
    /// when nothing is to leave.
    pub(super) fn spoil(&self, rng: &mut Pcg64, answer: &mut Vec<u8>, counts: &mut EmulatorCounts) -> bool {
        if rng.random_bool(self.drop.clamp(0.0, 1.0)) {
            counts.dropped += 1;
            return false;
        }
        if rng.random_bool(self.corrupt.clamp(0.0, 1.0)) {
            counts.corrupted += 1;
            let before = answer.clone();
            while *answer == before {
                for _ in 0..rng.random_range(1..=4) {
                    let at = rng.random_range(0..answer.len());
                    if rng.random_bool(0.5) {
                        answer[at] ^= 1 << rng.random_range(0..8);
                    } else {
                        answer[at] = rng.random();
                    }
                }
            }
        }
        if rng.random_bool(self.noise.clamp(0.0, 1.0)) {
            counts.noise += 1;
            let noise: Vec<u8> = (0..rng.random_range(1..6)).map(|_| rng.random()).collect();
            answer.splice(0..0, noise);
        }
        true
    }
}
