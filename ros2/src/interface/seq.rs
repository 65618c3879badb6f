//! Primitives, strings and sequences of the wire.

use super::Wire;
use super::rihs01::FieldType;
use crate::cdr::{CdrError, Reader, Writer};
use core::fmt;

macro_rules! primitive {
    ($kind:ty, $bytes:literal, $method:ident, $id:literal) => {
        impl Wire<'_> for $kind {
            const MIN_BYTES: usize = $bytes;
            fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
                writer.$method(*self)
            }
            fn get(reader: &mut Reader) -> Result<Self, CdrError> {
                reader.$method()
            }
            fn field_type() -> FieldType {
                FieldType::primitive($id)
            }
        }
    };
}
primitive!(u8, 1, u8, 3);
primitive!(i32, 4, i32, 6);
primitive!(u32, 4, u32, 7);
primitive!(i64, 8, i64, 8);
primitive!(u64, 8, u64, 9);
primitive!(f64, 8, f64, 11);

impl Wire<'_> for bool {
    const MIN_BYTES: usize = 1;
    fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
        writer.u8(u8::from(*self))
    }
    /// Any byte but 0 is true.
    fn get(reader: &mut Reader) -> Result<Self, CdrError> {
        Ok(reader.u8()? != 0)
    }
    fn field_type() -> FieldType {
        FieldType::primitive(15)
    }
}

/// A `byte`: one octet, which a type hash tells from `uint8`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Byte(pub u8);

impl Wire<'_> for Byte {
    const MIN_BYTES: usize = 1;
    fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
        writer.u8(self.0)
    }
    fn get(reader: &mut Reader) -> Result<Self, CdrError> {
        reader.u8().map(Self)
    }
    fn field_type() -> FieldType {
        FieldType::primitive(16)
    }
}

impl<'a> Wire<'a> for &'a str {
    const MIN_BYTES: usize = 4;
    fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
        writer.string(self)
    }
    fn get(reader: &mut Reader<'a>) -> Result<Self, CdrError> {
        reader.string()
    }
    fn field_type() -> FieldType {
        FieldType::primitive(17)
    }
}

/// A `uint8[]`: the bytes themselves.
impl<'a> Wire<'a> for &'a [u8] {
    const MIN_BYTES: usize = 4;
    fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
        writer.bytes(self)
    }
    fn get(reader: &mut Reader<'a>) -> Result<Self, CdrError> {
        reader.bytes()
    }
    fn field_type() -> FieldType {
        u8::field_type().unbounded()
    }
}

/// A fixed array `T[N]`: no count.
impl<'a, T: Wire<'a> + Default, const N: usize> Wire<'a> for [T; N] {
    const MIN_BYTES: usize = T::MIN_BYTES * N;
    fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
        self.iter().try_for_each(|value| value.put(writer))
    }
    fn get(reader: &mut Reader<'a>) -> Result<Self, CdrError> {
        let mut array = [T::default(); N];
        for slot in &mut array {
            *slot = T::get(reader)?;
        }
        Ok(array)
    }
    fn field_type() -> FieldType {
        T::field_type().array(N as u64)
    }
}

/// A `T[]`: the caller's slice, or a window of a message whose every element has been read once.
#[derive(Copy, Clone)]
pub enum Seq<'a, T> {
    /// To be written.
    Slice(&'a [T]),
    /// As read: elements are decoded again as they are asked for.
    Window {
        /// At the first element.
        reader: Reader<'a>,
        /// Elements.
        count: usize,
    },
}

impl<T> Default for Seq<'_, T> {
    fn default() -> Self {
        Self::Slice(&[])
    }
}

impl<'a, T> From<&'a [T]> for Seq<'a, T> {
    fn from(slice: &'a [T]) -> Self {
        Self::Slice(slice)
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for Seq<'a, T> {
    fn from(slice: &'a [T; N]) -> Self {
        Self::Slice(slice)
    }
}

impl<'a, T> From<&'a Vec<T>> for Seq<'a, T> {
    fn from(slice: &'a Vec<T>) -> Self {
        Self::Slice(slice)
    }
}

impl<'a, T: Wire<'a>> Seq<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Slice(slice) => slice.len(),
            Self::Window { count, .. } => *count,
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut rest = *self;
        core::iter::from_fn(move || match &mut rest {
            Self::Slice(slice) => {
                let (first, others) = slice.split_first()?;
                *slice = others;
                Some(*first)
            }
            Self::Window { reader, count } => {
                *count = count.checked_sub(1)?;
                T::get(reader).ok() // read once before, so always there
            }
        })
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Seq<'a, T> {
    const MIN_BYTES: usize = 4;

    fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
        writer.count(self.len())?;
        self.iter().try_for_each(|value| value.put(writer))
    }

    fn get(reader: &mut Reader<'a>) -> Result<Self, CdrError> {
        let count = reader.count(T::MIN_BYTES)?;
        let window = Self::Window { reader: *reader, count };
        for _ in 0..count {
            T::get(reader)?;
        }
        Ok(window)
    }

    fn field_type() -> FieldType {
        T::field_type().unbounded()
    }
}

impl<'a, T: Wire<'a> + PartialEq> PartialEq for Seq<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: Wire<'a> + fmt::Debug> fmt::Debug for Seq<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A `T[<=N]`.
#[derive(Copy, Clone)]
pub struct Bounded<'a, T, const N: usize>(pub Seq<'a, T>);

impl<T, const N: usize> Default for Bounded<'_, T, N> {
    fn default() -> Self {
        Self(Seq::default())
    }
}

impl<'a, T: Wire<'a>, const N: usize> Wire<'a> for Bounded<'a, T, N> {
    const MIN_BYTES: usize = 4;

    fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
        match self.0.len() {
            count if count > N => Err(CdrError::Bound { at: 0, count, most: N }),
            _ => self.0.put(writer),
        }
    }

    fn get(reader: &mut Reader<'a>) -> Result<Self, CdrError> {
        let at = reader.position();
        let seq = Seq::get(reader)?;
        match seq.len() {
            count if count > N => Err(CdrError::Bound { at, count, most: N }),
            _ => Ok(Self(seq)),
        }
    }

    fn field_type() -> FieldType {
        T::field_type().bounded(N as u64)
    }
}

impl<'a, T: Wire<'a> + PartialEq, const N: usize> PartialEq for Bounded<'a, T, N> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<'a, T: Wire<'a> + fmt::Debug, const N: usize> fmt::Debug for Bounded<'a, T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
