//! Diagnostics: the state of each part, as `/diagnostics` carries it.

use crate::cdr::CdrError;
use crate::interface::{Byte, DiagnosticArray, DiagnosticStatus, Header, KeyValue, encode_into};
use crate::message::Stamp;
use serde_json::{Map, json};

/// How bad it is.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Fine = 0,
    /// Worth a look.
    Warning = 1,
    /// Not working.
    Error = 2,
    /// Not heard of.
    Stale = 3,
}

impl Level {
    /// As the status names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Stale => "stale",
        }
    }
}

/// One part of the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Which.
    pub name: &'static str,
    /// How bad it is.
    pub level: Level,
    /// For people.
    pub message: String,
    /// Numbers, as text.
    pub values: Vec<(&'static str, String)>,
}

/// The parts of a node as one JSON object:
/// `{"state": "active", "robot": …, "parts": {name: {"level": "fine", "message": …, value: …}}}`.
pub fn status_json(state: u8, robot: &str, parts: &[Part]) -> String {
    let mut shown = Map::new();
    for part in parts {
        let mut about = Map::new();
        about.insert("level".to_owned(), part.level.name().into());
        about.insert("message".to_owned(), part.message.as_str().into());
        about.extend(part.values.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())));
        // Parts of one name, such as cameras, are told apart by their own.
        let own = part.values.iter().find(|(key, _)| *key == "name").map(|(_, own)| format!("{}/{own}", part.name));
        shown.insert(own.unwrap_or_else(|| part.name.to_owned()), about.into());
    }
    json!({"state": super::label(state), "robot": robot, "parts": shown}).to_string()
}

/// Encodes the parts of a node; names become `node: part`.
///
/// # Errors
/// [`CdrError`].
pub fn encode_report<'b>(
    node: &str,
    robot: &str,
    parts: &[Part],
    stamp: Stamp,
    buffer: &'b mut Vec<u8>,
) -> Result<&'b [u8], CdrError> {
    let names: Vec<String> =
        parts.iter().map(|part| format!("{}: {}", node.trim_start_matches('/'), part.name)).collect();
    let values: Vec<Vec<KeyValue>> =
        parts.iter().map(|part| part.values.iter().map(|(key, value)| KeyValue { key, value }).collect()).collect();
    let status: Vec<DiagnosticStatus> = parts
        .iter()
        .zip(names.iter().zip(&values))
        .map(|(part, (name, values))| DiagnosticStatus {
            level: Byte(part.level as u8),
            name,
            message: &part.message,
            hardware_id: robot,
            values: values.into(),
        })
        .collect();
    encode_into(&DiagnosticArray { header: Header { stamp, frame_id: "" }, status: (&status).into() }, buffer)
}
