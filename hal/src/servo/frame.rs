//! What both protocols share: instructions, status packets, and the stream that finds packets in bytes of any kind.

use super::{dynamixel, feetech};

/// The id every servo listens to and none has.
pub const BROADCAST: u8 = 0xFE;
/// Most bytes of one packet that this crate sends or accepts.
pub const MAX_PACKET: usize = 512;

/// The language spoken on a bus.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Feetech STS/SMS: the framing of Dynamixel's protocol 1, little-endian registers.
    Feetech,
    /// Dynamixel protocol 2.0.
    Dynamixel,
}

/// Part of a bulk read: so many bytes at an address of one servo.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BulkRead {
    /// The servo.
    pub id: u8,
    /// First register.
    pub address: u16,
    /// Bytes.
    pub len: u16,
}

/// Part of a bulk write.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BulkWrite<'a> {
    /// The servo.
    pub id: u8,
    /// First register.
    pub address: u16,
    /// What to write.
    pub data: &'a [u8],
}

/// What a servo is asked to do.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Instruction<'a> {
    /// Answer.
    Ping,
    /// Answer with `len` bytes from `address` on.
    Read {
        /// First register.
        address: u16,
        /// Bytes.
        len: u16,
    },
    /// Write.
    Write {
        /// First register.
        address: u16,
        /// What to write.
        data: &'a [u8],
    },
    /// Write when an [`Instruction::Action`] follows.
    RegWrite {
        /// First register.
        address: u16,
        /// What to write.
        data: &'a [u8],
    },
    /// Carry out what [`Instruction::RegWrite`] held back.
    Action,
    /// Start the servo anew.
    Reboot,
    /// Every servo listed answers, in order, with `len` bytes from `address` on.
    SyncRead {
        /// First register.
        address: u16,
        /// Bytes of each servo.
        len: u16,
        /// The servos, in order.
        ids: &'a [u8],
    },
    /// Every servo listed writes its part; none answers.
    SyncWrite {
        /// First register.
        address: u16,
        /// Bytes for each servo.
        len: u16,
        /// The servos.
        ids: &'a [u8],
        /// `[ids, len]` row-major.
        data: &'a [u8],
    },
    /// As [`Instruction::SyncRead`], each servo at its own registers (Dynamixel only).
    BulkRead(&'a [BulkRead]),
    /// As [`Instruction::SyncWrite`], each servo at its own registers (Dynamixel only).
    BulkWrite(&'a [BulkWrite<'a>]),
}

/// Why an instruction became no packet.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The packet is longer than the protocol or the buffer allows.
    #[error("the packet does not fit: send fewer servos or bytes at once")]
    TooLong,
    /// The address or the length is beyond what the protocol can name.
    #[error("register {address} with {len} bytes is beyond what the protocol can name")]
    Register {
        /// First register.
        address: u16,
        /// Bytes.
        len: u16,
    },
    /// The data does not have `len` bytes for each servo.
    #[error("the data of a sync write is not its length times its servos")]
    Shape,
    /// The protocol has no such instruction.
    #[error("the protocol has no such instruction")]
    Unsupported,
}

/// The answer of a servo.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who answers.
    pub id: u8,
    /// The error byte: alarm bits (Feetech), alert bit and error number (Dynamixel).
    pub error: u8,
    len: usize,
    params: [u8; MAX_PARAMS],
}

/// Most parameter bytes of a status that this crate accepts; its longest read has 21.
pub const MAX_PARAMS: usize = 128;

impl Status {
    /// An answer; `None` when the parameters are too many.
    pub(super) fn new(id: u8, error: u8, params: &[u8]) -> Option<Self> {
        let mut status = Self { id, error, len: params.len(), params: [0; MAX_PARAMS] };
        status.params.get_mut(..params.len())?.copy_from_slice(params);
        Some(status)
    }

    /// What was asked for.
    pub fn params(&self) -> &[u8] {
        &self.params[..self.len]
    }
}

/// What the bytes at the start of a buffer are.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// So many bytes belong to no packet; after them more bytes are needed.
    Incomplete {
        /// Bytes to drop.
        garbage: usize,
    },
    /// A status.
    Packet {
        /// Bytes before it.
        garbage: usize,
        /// Its own bytes.
        len: usize,
        /// What it says.
        status: Status,
    },
    /// What looked like a packet and is damaged.
    Damaged {
        /// Bytes before it.
        garbage: usize,
        /// Bytes to drop of it: its header only, since a real packet may begin inside.
        len: usize,
    },
}

impl Protocol {
    /// Writes the packet of an instruction into `out` and returns its length.
    ///
    /// # Errors
    /// [`EncodeError`]; what `out` holds then is undefined.
    ///
    /// # Real-time
    /// Does not allocate or block.
    pub fn encode(self, id: u8, instruction: &Instruction<'_>, out: &mut [u8]) -> Result<usize, EncodeError> {
        match self {
            Self::Feetech => feetech::encode(id, instruction, out),
            Self::Dynamixel => dynamixel::encode(id, instruction, out),
        }
    }

    fn scan(self, bytes: &[u8], most: usize) -> Scan {
        match self {
            Self::Feetech => feetech::scan(bytes, most),
            Self::Dynamixel => dynamixel::scan(bytes, most),
        }
    }

    /// Bytes on the wire of a status with so many parameters, stuffing apart.
    pub const fn status_len(self, params: usize) -> usize {
        match self {
            Self::Feetech => 6 + params,
            Self::Dynamixel => 11 + params,
        }
    }

    /// Bytes on the wire of a sync read of so many servos, stuffing apart.
    pub const fn sync_read_len(self, servos: usize) -> usize {
        match self {
            Self::Feetech => 8 + servos,
            Self::Dynamixel => 14 + servos,
        }
    }
}

/// What [`Stream::next`] found.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A whole status.
    Status(Status),
    /// A packet whose checksum is wrong.
    Damaged,
}

/// Received bytes and the packets in them. Garbage is skipped and counted, a packet that begins inside a damaged one
/// is found.
///
/// # Real-time
/// Does not allocate or block.
#[derive(Clone, Debug)]
pub struct Stream {
    protocol: Protocol,
    /// Most parameters of a status that is waited for: a damaged length must not wait for bytes that never come.
    most: usize,
    bytes: [u8; MAX_PACKET],
    len: usize,
    garbage: u64,
}

impl Stream {
    /// An empty stream.
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, most: MAX_PARAMS, bytes: [0; MAX_PACKET], len: 0, garbage: 0 }
    }

    /// Forgets what was received and expects answers of up to `most` parameters from now on.
    pub fn expect(&mut self, most: usize) {
        self.most = most.min(MAX_PARAMS);
        self.len = 0;
    }

    /// Takes bytes over; what does not fit pushes the oldest out, as garbage.
    pub fn push(&mut self, received: &[u8]) {
        let fresh = &received[received.len().saturating_sub(MAX_PACKET)..];
        let excess = (self.len + fresh.len()).saturating_sub(MAX_PACKET);
        self.garbage += (received.len() - fresh.len()) as u64;
        self.discard(excess);
        self.bytes[self.len..self.len + fresh.len()].copy_from_slice(fresh);
        self.len += fresh.len();
    }

    fn drop_front(&mut self, count: usize) {
        self.bytes.copy_within(count..self.len, 0);
        self.len -= count;
    }

    fn discard(&mut self, count: usize) {
        self.garbage += count as u64;
        self.drop_front(count);
    }

    /// Drops the leading bytes when they are `echo`, what an adapter gives back of a request; whether they were.
    pub fn strip_echo(&mut self, echo: &[u8]) -> bool {
        let is_echo = self.len >= echo.len() && self.bytes[..echo.len()] == *echo;
        if is_echo {
            self.drop_front(echo.len());
        }
        is_echo
    }

    /// The bytes not yet taken.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The next status or damaged packet, or `None` until more bytes arrive.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Found> {
        match self.protocol.scan(&self.bytes[..self.len], self.most) {
            Scan::Incomplete { garbage } => {
                self.discard(garbage);
                None
            }
            Scan::Packet { garbage, len, status } => {
                self.discard(garbage);
                self.drop_front(len);
                Some(Found::Status(status))
            }
            Scan::Damaged { garbage, len } => {
                self.discard(garbage + len);
                Some(Found::Damaged)
            }
        }
    }

    /// When nothing more arrives: gives up the packet under way and looks behind its header.
    pub fn give_up_first(&mut self) -> Option<Found> {
        while self.len > 0 {
            self.discard(1);
            if let Some(found) = self.next() {
                return Some(found);
            }
        }
        None
    }

    /// Bytes so far that belonged to no packet.
    pub fn garbage(&self) -> u64 {
        self.garbage
    }
}

/// Appends to a byte buffer that may be too short.
pub(super) struct Writer<'a> {
    out: &'a mut [u8],
    pub(super) len: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        let end = self.len + bytes.len();
        self.out.get_mut(self.len..end).ok_or(EncodeError::TooLong)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    pub(super) fn written(&mut self) -> &mut [u8] {
        &mut self.out[..self.len]
    }
}
