//! What a node says of itself: diagnostics and its log.

use super::{Byte, Header, Seq, interface, topic};
use crate::message::Stamp;

interface!(
    /// A named value.
    KeyValue<'a> = "diagnostic_msgs/msg/KeyValue" {
        /// Name.
        key: &'a str,
        /// Value, as text.
        value: &'a str,
    }
);

interface!(
    /// The state of one part.
    DiagnosticStatus<'a> = "diagnostic_msgs/msg/DiagnosticStatus" {
        /// 0 fine, 1 warning, 2 error, 3 stale.
        level: Byte,
        /// `node: part`.
        name: &'a str,
        /// For people.
        message: &'a str,
        /// Which device.
        hardware_id: &'a str,
        /// Numbers.
        values: Seq<'a, KeyValue<'a>>,
    }
);

interface!(
    /// The states of several parts.
    DiagnosticArray<'a> = "diagnostic_msgs/msg/DiagnosticArray" {
        /// When.
        header: Header<'a>,
        /// The parts.
        status: Seq<'a, DiagnosticStatus<'a>>,
    }
);
topic!(
    DiagnosticArray<'a>,
    "diagnostic_msgs",
    "DiagnosticArray",
    "5a8a36efb05fb25070fa0fb3810290c0e6cd4862b54a8fb975a1ee8dc55a333e"
);

interface!(
    /// A line of the log.
    Log<'a> = "rcl_interfaces/msg/Log" {
        /// When.
        stamp: Stamp,
        /// 10 debug, 20 info, 30 warning, 40 error, 50 fatal.
        level: u8,
        /// Logger.
        name: &'a str,
        /// Line.
        msg: &'a str,
        /// Source file.
        file: &'a str,
        /// Function.
        function: &'a str,
        /// Source line.
        line: u32,
    }
);
topic!(Log<'a>, "rcl_interfaces", "Log", "e28ce254ca8abc06abf92773b74602cdbf116ed34fbaf294fb9f81da9f318eac");
