//! Plain CDR (XCDR1): the byte form of every ROS 2 message, on Zenoh and on DDS alike.
//!
//! A message is a 4-byte encapsulation header and then the fields in the order of the `.msg` file. A primitive of 2, 4
//! or 8 bytes is aligned to its size, counted from the byte *after* the header (OMG DDS-XTypes 1.3, §7.4.1; OMG CORBA
//! 3.3 part 2, §9.3).
//!
//! The writer is little endian and fills the caller's buffer. The reader takes both byte orders and is total: any bytes
//! give a value or a [`CdrError`], never a panic, and no count is believed before the bytes behind it are there. Peers
//! leave garbage in padding and append a few bytes, so neither is looked at.

/// Bytes of the encapsulation header in front of every message.
pub const HEADER_BYTES: usize = 4;

/// Header of plain CDR, little endian, without options.
const HEADER_LITTLE: [u8; HEADER_BYTES] = [0, 1, 0, 0];

/// Why bytes are not the message, or a message does not fit the bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CdrError {
    /// The header names another representation than plain CDR.
    #[error("encapsulation {0:02x?} is not plain CDR (00 00 or 00 01): ask the peer for XCDR1")]
    Encapsulation([u8; 2]),
    /// The message ends inside a field.
    #[error("the message ends at byte {len}, and the field at byte {at} needs {needed}")]
    Short {
        /// Offset of the field.
        at: usize,
        /// Bytes the field needs.
        needed: usize,
        /// Length of the message.
        len: usize,
    },
    /// A sequence claims more elements than the rest of the message can hold.
    #[error("the sequence at byte {at} claims {count} elements, and {room} at most fit in the rest")]
    Count {
        /// Offset of the first element.
        at: usize,
        /// Elements claimed.
        count: u32,
        /// Elements that could fit.
        room: usize,
    },
    /// A string without its terminating zero.
    #[error("the string at byte {at} has no terminating zero")]
    Unterminated {
        /// Offset of the text.
        at: usize,
    },
    /// A string that is not UTF-8.
    #[error("the string at byte {at} is not UTF-8")]
    Utf8 {
        /// Offset of the text.
        at: usize,
    },
    /// The buffer is too small.
    #[error("the message needs {needed} bytes and the buffer has {capacity}")]
    Full {
        /// Bytes needed so far.
        needed: usize,
        /// Bytes of the buffer.
        capacity: usize,
    },
    /// A sequence longer than its type allows.
    #[error("the sequence at byte {at} has {count} elements, and its type allows {most}")]
    Bound {
        /// Offset of the first element, or 0 when writing.
        at: usize,
        /// Elements claimed.
        count: usize,
        /// Elements allowed.
        most: usize,
    },
    /// A string or sequence longer than a 32-bit count can say.
    #[error("{0} elements are more than a CDR count can say")]
    TooLong(usize),
}

/// Writes little-endian plain CDR into the caller's buffer.
///
/// # Real-time
/// No method allocates or blocks.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// A writer that has put the header at the start of `buffer`.
    ///
    /// # Errors
    /// [`CdrError::Full`] for a buffer below [`HEADER_BYTES`].
    pub fn new(buffer: &'a mut [u8]) -> Result<Self, CdrError> {
        let mut writer = Self { buffer, at: 0 };
        writer.raw(&HEADER_LITTLE)?;
        Ok(writer)
    }

    /// Bytes written, header included.
    pub fn written(&self) -> usize {
        self.at
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), CdrError> {
        let capacity = self.buffer.len();
        let needed = self.at.saturating_add(bytes.len());
        self.buffer.get_mut(self.at..needed).ok_or(CdrError::Full { needed, capacity })?.copy_from_slice(bytes);
        self.at = needed;
        Ok(())
    }

    fn align(&mut self, size: usize) -> Result<(), CdrError> {
        self.raw(&[0; 8][..padding(self.at, size)])
    }

    /// A `uint8`, `byte` or (as 0 or 1) `bool`.
    ///
    /// # Errors
    /// [`CdrError::Full`], as for every method below.
    pub fn u8(&mut self, value: u8) -> Result<(), CdrError> {
        self.raw(&[value])
    }

    /// A `uint32`.
    ///
    /// # Errors
    /// [`CdrError::Full`].
    pub fn u32(&mut self, value: u32) -> Result<(), CdrError> {
        self.align(4)?;
        self.raw(&value.to_le_bytes())
    }

    /// An `int32`.
    ///
    /// # Errors
    /// [`CdrError::Full`].
    pub fn i32(&mut self, value: i32) -> Result<(), CdrError> {
        self.align(4)?;
        self.raw(&value.to_le_bytes())
    }

    /// An `int64`.
    ///
    /// # Errors
    /// [`CdrError::Full`].
    pub fn i64(&mut self, value: i64) -> Result<(), CdrError> {
        self.align(8)?;
        self.raw(&value.to_le_bytes())
    }

    /// A `uint64`.
    ///
    /// # Errors
    /// [`CdrError::Full`].
    pub fn u64(&mut self, value: u64) -> Result<(), CdrError> {
        self.i64(value.cast_signed())
    }

    /// A `float64`.
    ///
    /// # Errors
    /// [`CdrError::Full`].
    pub fn f64(&mut self, value: f64) -> Result<(), CdrError> {
        self.align(8)?;
        self.raw(&value.to_le_bytes())
    }

    /// The number of elements in front of a sequence.
    ///
    /// # Errors
    /// [`CdrError::TooLong`] above `u32::MAX`, [`CdrError::Full`].
    pub fn count(&mut self, elements: usize) -> Result<(), CdrError> {
        self.u32(u32::try_from(elements).map_err(|_| CdrError::TooLong(elements))?)
    }

    /// A `string`: length with the terminating zero, text, zero.
    ///
    /// # Errors
    /// [`CdrError::TooLong`], [`CdrError::Full`].
    pub fn string(&mut self, text: &str) -> Result<(), CdrError> {
        self.count(text.len().saturating_add(1))?;
        self.raw(text.as_bytes())?;
        self.raw(&[0])
    }

    /// A `float64[]`; an empty one is its count alone, without padding.
    ///
    /// # Errors
    /// [`CdrError::TooLong`], [`CdrError::Full`].
    pub fn f64_sequence(&mut self, values: &[f64]) -> Result<(), CdrError> {
        self.count(values.len())?;
        values.iter().try_for_each(|&value| self.f64(value))
    }
}

impl Writer<'_> {
    /// A `uint8[]`.
    ///
    /// # Errors
    /// [`CdrError::TooLong`], [`CdrError::Full`].
    pub fn bytes(&mut self, values: &[u8]) -> Result<(), CdrError> {
        self.count(values.len())?;
        self.raw(values)
    }
}

/// Reads plain CDR of either byte order; total on any bytes.
///
/// # Real-time
/// No method allocates or blocks.
#[derive(Copy, Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl<'a> Reader<'a> {
    /// A reader behind the header of `bytes`.
    ///
    /// # Errors
    /// [`CdrError::Short`] or [`CdrError::Encapsulation`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, CdrError> {
        let mut reader = Self { bytes, at: 0, little: true };
        let [high, low, _, _] = reader.array::<HEADER_BYTES>()?;
        match (high, low) {
            (0, 0 | 1) => reader.little = low == 1,
            _ => return Err(CdrError::Encapsulation([high, low])),
        }
        Ok(reader)
    }

    /// Offset of the next byte, header included.
    pub fn position(&self) -> usize {
        self.at
    }

    fn align(&mut self, size: usize) {
        self.at += padding(self.at, size);
    }

    fn take(&mut self, needed: usize) -> Result<&'a [u8], CdrError> {
        let short = CdrError::Short { at: self.at, needed, len: self.bytes.len() };
        let end = self.at.checked_add(needed).ok_or(short)?;
        let taken = self.bytes.get(self.at..end).ok_or(short)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CdrError> {
        let short = CdrError::Short { at: self.at, needed: N, len: self.bytes.len() };
        self.take(N)?.try_into().map_err(|_| short)
    }

    /// A `uint8` or `byte`.
    ///
    /// # Errors
    /// [`CdrError::Short`], as for every method below.
    pub fn u8(&mut self) -> Result<u8, CdrError> {
        self.array().map(|[byte]| byte)
    }

    /// A `uint32`.
    ///
    /// # Errors
    /// [`CdrError::Short`].
    pub fn u32(&mut self) -> Result<u32, CdrError> {
        self.align(4);
        let bytes = self.array()?;
        Ok(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    /// An `int32`.
    ///
    /// # Errors
    /// [`CdrError::Short`].
    pub fn i32(&mut self) -> Result<i32, CdrError> {
        self.u32().map(u32::cast_signed)
    }

    /// A `uint64`.
    ///
    /// # Errors
    /// [`CdrError::Short`].
    pub fn u64(&mut self) -> Result<u64, CdrError> {
        self.align(8);
        let bytes = self.array()?;
        Ok(if self.little { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
    }

    /// An `int64`.
    ///
    /// # Errors
    /// [`CdrError::Short`].
    pub fn i64(&mut self) -> Result<i64, CdrError> {
        self.u64().map(u64::cast_signed)
    }

    /// Whether nothing is left.
    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// A `float64`; any bit pattern is one, NaN included.
    ///
    /// # Errors
    /// [`CdrError::Short`].
    pub fn f64(&mut self) -> Result<f64, CdrError> {
        self.align(8);
        let bytes = self.array()?;
        Ok(if self.little { f64::from_le_bytes(bytes) } else { f64::from_be_bytes(bytes) })
    }

    /// The number of elements of a sequence, each of at least `smallest` bytes (1 or more): never more than the rest of
    /// the message could hold, so it may size an allocation.
    ///
    /// # Errors
    /// [`CdrError::Short`], [`CdrError::Count`].
    pub fn count(&mut self, smallest: usize) -> Result<usize, CdrError> {
        let count = self.u32()?;
        let room = self.bytes.len().saturating_sub(self.at) / smallest.max(1);
        match usize::try_from(count) {
            Ok(elements) if elements <= room => Ok(elements),
            _ => Err(CdrError::Count { at: self.at, count, room }),
        }
    }

    /// A `string`. A length of 0, which some writers use for the empty string, is accepted.
    ///
    /// # Errors
    /// [`CdrError::Short`], [`CdrError::Count`], [`CdrError::Unterminated`], [`CdrError::Utf8`].
    pub fn string(&mut self) -> Result<&'a str, CdrError> {
        let length = self.count(1)?;
        let at = self.at;
        if length == 0 {
            return Ok("");
        }
        match self.take(length)?.split_last() {
            Some((0, text)) => core::str::from_utf8(text).map_err(|_| CdrError::Utf8 { at }),
            _ => Err(CdrError::Unterminated { at }),
        }
    }

    /// A `uint8[]`.
    ///
    /// # Errors
    /// [`CdrError::Short`], [`CdrError::Count`].
    pub fn bytes(&mut self) -> Result<&'a [u8], CdrError> {
        let count = self.count(1)?;
        self.take(count)
    }

    /// The number of elements of a `float64[]`, each of which [`Self::f64`] then reads.
    ///
    /// # Errors
    /// [`CdrError::Short`], [`CdrError::Count`].
    pub fn f64_count(&mut self) -> Result<usize, CdrError> {
        self.count(8)
    }
}

/// Bytes from `at` to the next multiple of `size`, counted behind the header.
fn padding(at: usize, size: usize) -> usize {
    (size - at.saturating_sub(HEADER_BYTES) % size) % size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_aligned_from_behind_the_header_and_come_back() {
        let mut buffer = [0xaa; 64];
        let mut writer = Writer::new(&mut buffer).unwrap();
        writer.u8(7).unwrap();
        writer.i32(-2).unwrap();
        writer.string("abcd").unwrap();
        writer.f64_sequence(&[]).unwrap();
        writer.f64_sequence(&[1.5]).unwrap();
        let written = writer.written();
        let expected: &[u8] = &[
            0, 1, 0, 0, // header
            7, 0, 0, 0, // u8, padding
            0xfe, 0xff, 0xff, 0xff, // -2
            5, 0, 0, 0, b'a', b'b', b'c', b'd', 0, 0, 0, 0, // "abcd", zero, padding
            0, 0, 0, 0, // no element
            1, 0, 0, 0, 0, 0, 0, 0, // one element, padding to 8
            0, 0, 0, 0, 0, 0, 0xf8, 0x3f, // 1.5
        ];
        assert_eq!(&buffer[..written], expected);
        let mut reader = Reader::new(&buffer[..written]).unwrap();
        assert_eq!((reader.u8(), reader.i32(), reader.string()), (Ok(7), Ok(-2), Ok("abcd")));
        assert_eq!((reader.f64_count(), reader.f64_count(), reader.f64()), (Ok(0), Ok(1), Ok(1.5)));
        assert_eq!(reader.position(), written);
    }

    #[test]
    fn big_endian_is_read() {
        let mut reader = Reader::new(&[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, b'x', 0]).unwrap();
        assert_eq!((reader.u32(), reader.string()), (Ok(9), Ok("x")));
    }

    #[test]
    fn what_is_not_plain_cdr_is_refused_with_numbers() {
        assert_eq!(Reader::new(&[0, 1, 0]).err(), Some(CdrError::Short { at: 0, needed: 4, len: 3 }));
        assert_eq!(Reader::new(&[0, 7, 0, 0]).err(), Some(CdrError::Encapsulation([0, 7])));
        let string = |bytes: &[u8]| {
            let message = [&HEADER_LITTLE[..], bytes].concat();
            Reader::new(&message).unwrap().string().map(str::to_owned)
        };
        assert_eq!(string(&[0, 0, 0, 0]), Ok(String::new()));
        assert_eq!(string(&[1, 0, 0, 0, 0]), Ok(String::new()));
        assert_eq!(string(&[1, 0, 0, 0, b'x']), Err(CdrError::Unterminated { at: 8 }));
        assert_eq!(string(&[2, 0, 0, 0, 0xff, 0]), Err(CdrError::Utf8 { at: 8 }));
        assert_eq!(string(&[255, 255, 255, 255, 0]), Err(CdrError::Count { at: 8, count: u32::MAX, room: 1 }));
        assert_eq!(string(&[1, 0]), Err(CdrError::Short { at: 4, needed: 4, len: 6 }));
        let mut small = [0; 6];
        assert_eq!(Writer::new(&mut small).unwrap().u32(1), Err(CdrError::Full { needed: 8, capacity: 6 }));
    }
}
