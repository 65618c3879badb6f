//! Types that others are made of, and the small ones: time, header, string, clock, Trigger, SetBool.

use super::{Wire, interface, rihs01::FieldType, service, topic};
use crate::cdr::{CdrError, Reader, Writer};
use crate::message::Stamp;

/// `builtin_interfaces/msg/Time` on the wire is [`Stamp`].
impl Wire<'_> for Stamp {
    const MIN_BYTES: usize = 8;
    fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
        writer.i32(self.seconds)?;
        writer.u32(self.nanoseconds)
    }
    fn get(reader: &mut Reader) -> Result<Self, CdrError> {
        Ok(Self { seconds: reader.i32()?, nanoseconds: reader.u32()? })
    }
    fn field_type() -> FieldType {
        Time::field_type()
    }
}

interface!(
    /// The fields behind [`Stamp`].
    Time = "builtin_interfaces/msg/Time" {
        /// Seconds.
        sec: i32,
        /// Nanoseconds, below 10⁹.
        nanosec: u32,
    }
);

interface!(
    /// A span of time.
    Duration = "builtin_interfaces/msg/Duration" {
        /// Seconds.
        sec: i32,
        /// Nanoseconds, below 10⁹.
        nanosec: u32,
    }
);

impl Duration {
    /// The span, held at what 32 bits of seconds can say.
    pub fn from_span(span: core::time::Duration) -> Self {
        Self { sec: i32::try_from(span.as_secs()).unwrap_or(i32::MAX), nanosec: span.subsec_nanos() }
    }

    /// The span, or `None` for one below zero or with more than 10⁹ ns.
    pub fn to_span(self) -> Option<core::time::Duration> {
        let seconds = u64::try_from(self.sec).ok()?;
        (self.nanosec < 1_000_000_000).then(|| core::time::Duration::new(seconds, self.nanosec))
    }
}

interface!(
    /// When and where.
    Header<'a> = "std_msgs/msg/Header" {
        /// Time of the data.
        stamp: Stamp,
        /// Coordinate frame.
        frame_id: &'a str,
    }
);

interface!(
    /// One string.
    Text<'a> = "std_msgs/msg/String" {
        /// The string.
        data: &'a str,
    }
);
topic!(Text<'a>, "std_msgs", "String", "df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18");

interface!(
    /// Simulated time.
    ClockMessage = "rosgraph_msgs/msg/Clock" {
        /// Now.
        clock: Stamp,
    }
);
topic!(ClockMessage, "rosgraph_msgs", "Clock", "692f7a66e93a3c83e71765d033b60349ba68023a8c689a79e48078bcb5c58564");

/// A request without fields: one byte nobody looks at, which may be missing.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Empty;

impl Wire<'_> for Empty {
    const MIN_BYTES: usize = 1;
    fn put(&self, writer: &mut Writer) -> Result<(), CdrError> {
        writer.u8(0)
    }
    fn get(reader: &mut Reader) -> Result<Self, CdrError> {
        if !reader.is_at_end() {
            reader.u8()?;
        }
        Ok(Self)
    }
    fn field_type() -> FieldType {
        FieldType::nested(|| super::rihs01::Description {
            name: String::new(), // a service gives it its own
            fields: vec![("structure_needs_at_least_one_member".into(), u8::field_type())],
        })
    }
}

interface!(
    /// Whether it worked, and what there is to say.
    Outcome<'a> = "std_srvs/srv/Trigger_Response" {
        /// Whether it worked.
        success: bool,
        /// For people.
        message: &'a str,
    }
);

interface!(
    /// A switch.
    SetBoolRequest = "std_srvs/srv/SetBool_Request" {
        /// On or off.
        data: bool,
    }
);

service!(
    /// Do it.
    Trigger, Empty, Outcome<'a>, "std_srvs", "Trigger",
    "eeff2cd6fa5ad9d27cdf4dec64818317839b62f212a91e6b5304b634b2062c5f"
);
service!(
    /// Switch it.
    SetBool, SetBoolRequest, Outcome<'a>, "std_srvs", "SetBool",
    "abe9e4bb6b41b40e6789712c00ec8871923e089af3f667a79992a428cff2da0a"
);

interface!(
    /// Part of every service's description; not sent here.
    ServiceEventInfo = "service_msgs/msg/ServiceEventInfo" {
        /// Request or response, sent or received.
        event_type: u8,
        /// When.
        stamp: Stamp,
        /// Who asked.
        client_gid: [u8; 16],
        /// Which question.
        sequence_number: i64,
    }
);
