//! The interfaces spoken here: every message and service as one borrowed Rust type that encodes, decodes and describes
//! itself.
//!
//! A type is written once, with its fields in the order of its `.msg` text. From that follow the writer into the
//! caller's buffer, the reader that borrows from the bytes, and the description its RIHS01 hash is made of
//! ([`rihs01`]), so a hash that equals the published one proves the fields of the codec. Nothing here allocates: a
//! sequence is either the caller's slice or a checked window of the message ([`Seq`]).

pub mod catalogue;
mod common;
mod control;
mod diagnostic;
mod lifecycle;
mod parameter;
pub mod rihs01;
mod sensor;
mod seq;

pub use common::*;
pub use control::*;
pub use diagnostic::*;
pub use lifecycle::*;
pub use parameter::*;
pub use sensor::*;
pub use seq::{Bounded, Byte, Seq};

use crate::cdr::{CdrError, Reader, Writer};
use crate::message::MessageType;
use rihs01::FieldType;

/// A value of the wire: a primitive, a sequence, or a struct of these.
pub trait Wire<'a>: Sized + Copy {
    /// The fewest bytes a value takes, 1 or more: what bounds a count before it is believed.
    const MIN_BYTES: usize;

    /// Writes the value.
    ///
    /// # Errors
    /// [`CdrError::Full`], [`CdrError::TooLong`], [`CdrError::Bound`].
    ///
    /// # Real-time
    /// Does not allocate or block.
    fn put(&self, writer: &mut Writer) -> Result<(), CdrError>;

    /// Reads a value; total on any bytes.
    ///
    /// # Errors
    /// [`CdrError`].
    ///
    /// # Real-time
    /// Does not allocate or block.
    fn get(reader: &mut Reader<'a>) -> Result<Self, CdrError>;

    /// The type as a RIHS01 description has it.
    fn field_type() -> FieldType;
}

/// A message that stands on a topic of its own.
pub trait Message<'a>: Wire<'a> {
    /// How peers must name it.
    const TYPE: MessageType;
}

/// A service as peers must name it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ServiceType {
    /// ROS name, `package/srv/Type`.
    pub ros_name: &'static str,
    /// Name on Zenoh, `package::srv::dds_::Type_`.
    pub dds_name: &'static str,
    /// Type hash of the service.
    pub hash: &'static str,
}

impl ServiceType {
    /// The service as a key names it: rmw_zenoh treats it as one more type.
    pub const fn as_message(&self) -> MessageType {
        MessageType { ros_name: self.ros_name, dds_name: self.dds_name, hash: self.hash }
    }
}

/// A service: what is asked and what is answered.
pub trait Service {
    /// What is asked.
    type Request<'a>: Wire<'a>;
    /// What is answered.
    type Response<'a>: Wire<'a>;
    /// How peers must name it.
    const TYPE: ServiceType;
}

/// Encodes a message with its header into the start of `buffer`; the bytes written.
///
/// # Errors
/// [`CdrError`].
///
/// # Real-time
/// Does not allocate or block.
pub fn encode<'a, T: Wire<'a>>(value: &T, buffer: &mut [u8]) -> Result<usize, CdrError> {
    let mut writer = Writer::new(buffer)?;
    value.put(&mut writer)?;
    Ok(writer.written())
}

/// Encodes a message into a buffer that grows as needed and is kept; for side threads.
///
/// # Errors
/// [`CdrError`] other than [`CdrError::Full`].
pub fn encode_into<'b, 'a, T: Wire<'a>>(value: &T, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], CdrError> {
    if buffer.is_empty() {
        buffer.resize(256, 0);
    }
    loop {
        match encode(value, buffer) {
            Ok(written) => return Ok(&buffer[..written]),
            Err(CdrError::Full { needed, .. }) => buffer.resize(needed.max(buffer.len() * 2), 0),
            Err(error) => return Err(error),
        }
    }
}

/// Decodes a message; bytes after the last field are ignored, as peers append some.
///
/// # Errors
/// [`CdrError`]; total on any bytes.
///
/// # Real-time
/// Does not allocate or block.
pub fn decode<'a, T: Wire<'a>>(bytes: &'a [u8]) -> Result<T, CdrError> {
    T::get(&mut Reader::new(bytes)?)
}

/// Writes an interface type: `interface!(Name<'a> = "package/msg/Name" { field: Type, … })`.
macro_rules! interface {
    ($(#[$doc:meta])* $name:ident<$life:lifetime> = $ros:literal { $($(#[$fdoc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Copy, Clone, Debug, Default, PartialEq)]
        pub struct $name<$life> { $($(#[$fdoc])* pub $field: $kind,)* }
        $crate::interface::interface!(@wire [$life] [$name<$life>] $ros { $($field: $kind,)* });
    };
    ($(#[$doc:meta])* $name:ident = $ros:literal { $($(#[$fdoc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Copy, Clone, Debug, Default, PartialEq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $kind,)* }
        $crate::interface::interface!(@wire ['a] [$name] $ros { $($field: $kind,)* });
    };
    (@wire [$life:lifetime] [$name:ty] $ros:literal { $($field:ident: $kind:ty,)* }) => {
        impl<$life> $crate::interface::Wire<$life> for $name {
            const MIN_BYTES: usize = 0 $(+ <$kind as $crate::interface::Wire<$life>>::MIN_BYTES)*;

            fn put(&self, writer: &mut $crate::cdr::Writer) -> Result<(), $crate::cdr::CdrError> {
                $($crate::interface::Wire::put(&self.$field, writer)?;)*
                Ok(())
            }

            fn get(reader: &mut $crate::cdr::Reader<$life>) -> Result<Self, $crate::cdr::CdrError> {
                Ok(Self { $($field: $crate::interface::Wire::get(reader)?,)* })
            }

            fn field_type() -> $crate::interface::rihs01::FieldType {
                $crate::interface::rihs01::FieldType::nested(|| $crate::interface::rihs01::Description {
                    name: $ros.to_owned(),
                    fields: vec![$((
                        $crate::interface::rihs01::field_name(stringify!($field)),
                        <$kind as $crate::interface::Wire<$life>>::field_type(),
                    ),)*],
                })
            }
        }
    };
}
pub(crate) use interface;

/// Names a message that stands on a topic: `topic!(Name<'a>, "package", "Name", "hash")`.
macro_rules! topic {
    ($name:ty, $package:literal, $kind:literal, $hash:literal) => {
        impl<'a> $crate::interface::Message<'a> for $name {
            const TYPE: $crate::message::MessageType = $crate::message::MessageType {
                ros_name: concat!($package, "/msg/", $kind),
                dds_name: concat!($package, "::msg::dds_::", $kind, "_"),
                hash: concat!("RIHS01_", $hash),
            };
        }
    };
}
pub(crate) use topic;

/// Names a service: `service!(/// doc Name, Request, Response, "package", "Name", "hash")`.
macro_rules! service {
    ($(#[$doc:meta])* $name:ident, $request:ty, $response:ty, $package:literal, $kind:literal, $hash:literal) => {
        $(#[$doc])*
        #[derive(Copy, Clone, Debug)]
        pub struct $name;
        impl $crate::interface::Service for $name {
            type Request<'a> = $request;
            type Response<'a> = $response;
            const TYPE: $crate::interface::ServiceType = $crate::interface::ServiceType {
                ros_name: concat!($package, "/srv/", $kind),
                dds_name: concat!($package, "::srv::dds_::", $kind, "_"),
                hash: concat!("RIHS01_", $hash),
            };
        }
    };
}
pub(crate) use service;
