//! Registers of a servo's control table: where a number lies and how its sign is written.

/// How a register writes a number.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// No sign.
    Unsigned,
    /// The bit given holds the sign and those below it the magnitude: not two's complement.
    SignMagnitude(u8),
    /// Two's complement.
    TwosComplement,
}

/// A little-endian number of 1, 2 or 4 bytes in a control table.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Address of its first byte.
    pub address: u16,
    /// Bytes.
    pub len: u16,
    /// How its sign is written.
    pub encoding: Encoding,
}

impl Register {
    /// Without sign.
    pub const fn unsigned(address: u16, len: u16) -> Self {
        Self { address, len, encoding: Encoding::Unsigned }
    }

    /// Sign in `bit`.
    pub const fn sign_magnitude(address: u16, len: u16, bit: u8) -> Self {
        Self { address, len, encoding: Encoding::SignMagnitude(bit) }
    }

    /// Two's complement.
    pub const fn signed(address: u16, len: u16) -> Self {
        Self { address, len, encoding: Encoding::TwosComplement }
    }

    /// The number in the first bytes of `bytes`; `None` when they are too few.
    pub fn decode(self, bytes: &[u8]) -> Option<i32> {
        let len = usize::from(self.len);
        let mut raw = [0; 4];
        raw.get_mut(..len)?.copy_from_slice(bytes.get(..len)?);
        let raw = u32::from_le_bytes(raw);
        Some(match self.encoding {
            Encoding::Unsigned => raw as i32,
            Encoding::SignMagnitude(bit) => {
                let magnitude = (raw & ((1 << bit) - 1)) as i32;
                if raw >> bit & 1 == 1 { -magnitude } else { magnitude }
            }
            Encoding::TwosComplement => {
                let unused = 32 - 8 * u32::from(self.len);
                ((raw << unused) as i32) >> unused
            }
        })
    }

    /// The number where this register lies in a block that was read from `base` on.
    pub fn decode_in(self, base: u16, block: &[u8]) -> Option<i32> {
        let at = usize::from(self.address.checked_sub(base)?);
        self.decode(block.get(at..)?)
    }

    /// The bytes of a number, of which the first `len` count; `None` when it does not fit.
    pub fn encode(self, value: i32) -> Option<[u8; 4]> {
        let bits = 8 * u32::from(self.len);
        let raw = match self.encoding {
            Encoding::Unsigned => u32::try_from(value).ok()?,
            Encoding::SignMagnitude(bit) => {
                let magnitude = value.unsigned_abs();
                if magnitude >> bit != 0 {
                    return None;
                }
                magnitude | u32::from(value < 0) << bit
            }
            Encoding::TwosComplement => {
                let half = 1i64 << (bits - 1);
                if !(-half..half).contains(&i64::from(value)) {
                    return None;
                }
                value as u32 & (u32::MAX >> (32 - bits))
            }
        };
        (bits == 32 || raw >> bits == 0).then(|| raw.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_written_as_the_servos_write_them() {
        let offset = Register::sign_magnitude(31, 2, 11);
        assert_eq!(offset.encode(-53), Some([0x35, 0x08, 0, 0]));
        let position = Register::sign_magnitude(56, 2, 15);
        assert_eq!(position.encode(-10), Some([0x0A, 0x80, 0, 0]));
        assert_eq!(position.decode(&[0x01, 0x80]), Some(-1));
        let signed = Register::signed(132, 4);
        assert_eq!(signed.decode(&[0xFF; 4]), Some(-1));
        assert_eq!(Register::signed(126, 2).decode(&[0xFE, 0xFF]), Some(-2));
    }

    #[test]
    fn every_number_that_fits_survives_and_no_other_is_written() {
        for register in [
            Register::unsigned(0, 1),
            Register::unsigned(0, 2),
            Register::sign_magnitude(0, 2, 10),
            Register::sign_magnitude(0, 2, 15),
            Register::signed(0, 2),
            Register::signed(0, 4),
        ] {
            for value in (-70_000..70_000).step_by(7).chain([i32::MIN, i32::MAX, -1, 0, 1, -2047, 32_767, -32_768]) {
                if let Some(bytes) = register.encode(value) {
                    assert_eq!(register.decode(&bytes), Some(value), "{register:?}");
                }
            }
        }
        assert_eq!(Register::unsigned(0, 1).encode(256), None);
        assert_eq!(Register::unsigned(0, 1).encode(-1), None);
        assert_eq!(Register::sign_magnitude(0, 2, 11).encode(2048), None);
        assert_eq!(Register::signed(0, 2).encode(32_768), None);
        assert_eq!(Register::signed(0, 2).decode(&[1]), None);
    }
}
