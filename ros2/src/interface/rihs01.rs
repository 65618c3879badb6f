//! What a RIHS01 type hash is made of (ROS 2 REP 2016): descriptions of types as one JSON text.
//!
//! The hash is SHA-256 of [`canonical_json`] behind `RIHS01_`. The constants of this crate are checked against it in the
//! tests; a peer compares hashes as text, so nothing is hashed while running.

use super::{Service, Wire};
use core::fmt::Write;
use std::collections::BTreeMap;

/// A type and its fields in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// `package/msg/Type`.
    pub name: String,
    /// Names and types.
    pub fields: Vec<(String, FieldType)>,
}

/// The type of a field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldType {
    /// REP 2016's number: 1 nested, 3 uint8, … plus 48 fixed array, 96 bounded sequence, 144 sequence.
    pub id: u32,
    /// N of `T[N]` and `T[<=N]`, else 0.
    pub capacity: u64,
    /// The nested type.
    pub nested: Option<Box<Description>>,
}

impl FieldType {
    /// A primitive by its number.
    pub fn primitive(id: u32) -> Self {
        Self { id, capacity: 0, nested: None }
    }

    /// A nested type.
    pub fn nested(describe: impl FnOnce() -> Description) -> Self {
        Self { id: 1, capacity: 0, nested: Some(Box::new(describe())) }
    }

    /// A fixed array of it.
    pub fn array(self, capacity: u64) -> Self {
        Self { id: self.id + 48, capacity, ..self }
    }

    /// A sequence of at most `capacity` of it.
    pub fn bounded(self, capacity: u64) -> Self {
        Self { id: self.id + 96, capacity, ..self }
    }

    /// A sequence of it.
    pub fn unbounded(self) -> Self {
        Self { id: self.id + 144, ..self }
    }
}

/// A field's name as the wire has it: Rust's raw identifiers without their mark.
pub fn field_name(name: &str) -> String {
    name.trim_start_matches("r#").to_owned()
}

/// The description of a message.
pub fn describe<'a, T: Wire<'a>>() -> Option<Description> {
    T::field_type().nested.map(|description| *description)
}

/// The description of a service: request, response and the event of service introspection.
pub fn describe_service<S: Service>() -> Option<Description> {
    let name = S::TYPE.ros_name;
    let nested = |description: Description| FieldType { id: 1, capacity: 0, nested: Some(Box::new(description)) };
    let mut request = describe::<S::Request<'_>>()?;
    let mut response = describe::<S::Response<'_>>()?;
    request.name = format!("{name}_Request");
    response.name = format!("{name}_Response");
    let info = describe::<super::ServiceEventInfo>()?;
    let event = Description {
        name: format!("{name}_Event"),
        fields: vec![
            ("info".into(), nested(info)),
            ("request".into(), nested(request.clone()).bounded(1)),
            ("response".into(), nested(response.clone()).bounded(1)),
        ],
    };
    Some(Description {
        name: name.to_owned(),
        fields: vec![
            ("request_message".into(), nested(request)),
            ("response_message".into(), nested(response)),
            ("event_message".into(), nested(event)),
        ],
    })
}

/// The text a hash is made of: the type, then every type it refers to, by name.
pub fn canonical_json(description: &Description) -> String {
    let mut referenced = BTreeMap::new();
    collect(description, &mut referenced);
    let referenced: Vec<String> = referenced.into_values().map(one).collect();
    format!(
        "{{\"type_description\": {}, \"referenced_type_descriptions\": [{}]}}",
        one(description),
        referenced.join(", ")
    )
}

fn collect<'d>(description: &'d Description, into: &mut BTreeMap<&'d str, &'d Description>) {
    for nested in description.fields.iter().filter_map(|(_, field)| field.nested.as_deref()) {
        into.insert(&nested.name, nested);
        collect(nested, into);
    }
}

fn one(description: &Description) -> String {
    let mut text = format!("{{\"type_name\": \"{}\", \"fields\": [", description.name);
    for (index, (name, field)) in description.fields.iter().enumerate() {
        let nested = field.nested.as_ref().map_or("", |nested| &nested.name);
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{comma}{{\"name\": \"{name}\", \"type\": {{\"type_id\": {}, \"capacity\": {}, \"string_capacity\": 0, \
             \"nested_type_name\": \"{nested}\"}}}}",
            field.id, field.capacity
        );
    }
    text.push_str("]}");
    text
}
