//! Type hashes computed from message text, and from the codec's own fields, equal the constants peers are told.
//!
//! `interfaces/definitions.txt` holds the fields of every interface as its `.msg` or `.srv` file has them; the constants
//! are those that ROS 2 Jazzy and Kilted ship.
#![allow(clippy::unwrap_used)]

use endplate_ros2::interface::catalogue::CATALOGUE;
use endplate_ros2::interface::rihs01::{Description, FieldType, canonical_json};
use endplate_ros2::message::{IMAGE, JOINT_STATE};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

fn hash(description: &Description) -> String {
    let digest = Sha256::digest(canonical_json(description));
    format!("RIHS01_{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Reads `.msg` and `.srv` text as rosidl does, as far as these need it.
struct Definitions(BTreeMap<String, Vec<String>>);

impl Definitions {
    fn load() -> Self {
        let mut all = BTreeMap::new();
        let mut current = String::new();
        for line in include_str!("interfaces/definitions.txt").lines() {
            match line.strip_prefix("== ") {
                Some(name) => {
                    current = name.to_owned();
                    all.insert(current.clone(), Vec::new());
                }
                None => all.get_mut(&current).unwrap().push(line.to_owned()),
            }
        }
        Self(all)
    }

    fn message(&self, name: &str) -> Description {
        self.describe(name, name, &self.0[name])
    }

    fn service(&self, name: &str) -> Description {
        let lines = &self.0[name];
        let split = lines.iter().position(|line| line == "---").unwrap();
        let nested = |description| FieldType { id: 1, capacity: 0, nested: Some(Box::new(description)) };
        let request = nested(self.describe(name, &format!("{name}_Request"), &lines[..split]));
        let response = nested(self.describe(name, &format!("{name}_Response"), &lines[split + 1..]));
        let event = Description {
            name: format!("{name}_Event"),
            fields: vec![
                ("info".into(), nested(self.message("service_msgs/msg/ServiceEventInfo"))),
                ("request".into(), request.clone().bounded(1)),
                ("response".into(), response.clone().bounded(1)),
            ],
        };
        let fields = [("request_message", request), ("response_message", response), ("event_message", nested(event))];
        Description { name: name.into(), fields: fields.map(|(name, kind)| (name.to_owned(), kind)).into() }
    }

    fn describe(&self, of: &str, name: &str, lines: &[String]) -> Description {
        let package = of.split('/').next().unwrap();
        let mut fields = Vec::new();
        for line in lines.iter().filter(|line| !line.contains('=') || line.contains("<=")) {
            let mut words = line.split_whitespace();
            let (kind, field) = (words.next().unwrap(), words.next().unwrap());
            fields.push((field.to_owned(), self.kind(package, kind)));
        }
        if fields.is_empty() {
            fields.push(("structure_needs_at_least_one_member".into(), FieldType::primitive(3)));
        }
        Description { name: name.to_owned(), fields }
    }

    fn kind(&self, package: &str, text: &str) -> FieldType {
        let (base, array) = match text.split_once('[') {
            Some((base, array)) => (base, Some(array.trim_end_matches(']'))),
            None => (text, None),
        };
        let primitives = [
            ("uint8", 3),
            ("char", 3),
            ("int32", 6),
            ("uint32", 7),
            ("int64", 8),
            ("uint64", 9),
            ("float64", 11),
            ("bool", 15),
            ("byte", 16),
            ("string", 17),
        ];
        let kind = match primitives.iter().find(|(name, _)| *name == base) {
            Some((_, id)) => FieldType::primitive(*id),
            None => {
                let (package, name) = base.split_once('/').unwrap_or((package, base));
                FieldType { id: 1, capacity: 0, nested: Some(Box::new(self.message(&format!("{package}/msg/{name}")))) }
            }
        };
        match array {
            None => kind,
            Some("") => kind.unbounded(),
            Some(text) => match text.strip_prefix("<=") {
                Some(most) => kind.bounded(most.parse().unwrap()),
                None => kind.array(text.parse().unwrap()),
            },
        }
    }
}

#[test]
fn every_hash_follows_from_the_message_text_and_from_the_codecs_own_fields() {
    let definitions = Definitions::load();
    for entry in CATALOGUE {
        let from_codec = (entry.describe)().unwrap();
        let from_text = match from_codec.name.contains("/srv/") {
            true => definitions.service(&from_codec.name),
            false => definitions.message(&from_codec.name),
        };
        assert_eq!(hash(&from_text), entry.hash, "{} from its text", entry.ros_name);
        assert_eq!(hash(&from_codec), entry.hash, "{} from the codec", entry.ros_name);
    }
    for kind in [JOINT_STATE, IMAGE] {
        assert_eq!(hash(&definitions.message(kind.ros_name)), kind.hash);
    }
}

#[test]
fn the_published_example_of_rep_2016_is_met() {
    let string = Definitions::load().message("std_msgs/msg/String");
    assert_eq!(
        canonical_json(&string),
        "{\"type_description\": {\"type_name\": \"std_msgs/msg/String\", \"fields\": [{\"name\": \"data\", \"type\": \
         {\"type_id\": 17, \"capacity\": 0, \"string_capacity\": 0, \"nested_type_name\": \"\"}}]}, \
         \"referenced_type_descriptions\": []}"
    );
}
