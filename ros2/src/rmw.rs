//! How rmw_zenoh names things on Zenoh: topic keys, liveliness tokens, quality of service, attachments.
//!
//! A ROS 2 node sees another only through its liveliness tokens, and takes a message only with an attachment. The forms
//! here are those of rmw_zenoh_cpp 0.2 (Jazzy) to 0.6 (Kilted); see its `docs/design.md`.

use crate::message::MessageType;
use crate::xxh3::xxh3_128;

pub mod discovery;
mod qos;
mod token;

pub use qos::{Durability, History, Liveliness, Qos, QosError, Reliability};
pub use token::{EndpointKind, EndpointToken, NodeToken, Token, TokenError};

/// What stands for a type hash where a distribution has none: Humble.
pub const NO_HASH: &str = "TypeHashNotSupported";

/// How a session names type hashes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Hashes {
    /// RIHS01, from Iron on.
    #[default]
    Rihs01,
    /// The literal [`NO_HASH`]: Humble.
    Humble,
}

/// Why a name is not one of ROS 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {name:?} is not a ROS 2 name: use letters, digits and '_', no digit first{}",
    if *.what == "node name" { "" } else { ", parts separated by '/'" }
)]
pub struct NameError {
    /// What the name was for: `node name`, `namespace` or `topic`.
    pub what: &'static str,
    /// The name given.
    pub name: String,
}

fn is_part(part: &str) -> bool {
    let mut characters = part.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|other| other.is_ascii_alphanumeric() || other == '_')
}

/// A node of one Zenoh session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    domain: u32,
    zid: String,
    namespace: String,
    name: String,
    hashes: Hashes,
}

impl Node {
    /// The session's only node.
    ///
    /// `domain` is ROS_DOMAIN_ID. `zid` is the session's Zenoh id as Zenoh prints it (lower-case hexadecimal, no leading
    /// zeros). `namespace` is `/` or `/some/name`.
    ///
    /// # Errors
    /// [`NameError`] for a namespace or name that ROS 2 would refuse.
    pub fn new(domain: u32, zid: String, namespace: &str, name: &str) -> Result<Self, NameError> {
        let is_namespace = namespace == "/" || namespace.strip_prefix('/').is_some_and(|n| n.split('/').all(is_part));
        if !is_namespace {
            return Err(NameError { what: "namespace", name: namespace.to_owned() });
        }
        if !is_part(name) {
            return Err(NameError { what: "node name", name: name.to_owned() });
        }
        Ok(Self { domain, zid, namespace: namespace.to_owned(), name: name.to_owned(), hashes: Hashes::Rihs01 })
    }

    /// The same node, naming type hashes in another way.
    pub fn with_hashes(self, hashes: Hashes) -> Self {
        Self { hashes, ..self }
    }

    /// The node's full name, `/namespace/name`.
    pub fn full_name(&self) -> String {
        let namespace = if self.namespace == "/" { "" } else { &self.namespace };
        format!("{namespace}/{}", self.name)
    }

    /// ROS_DOMAIN_ID.
    pub fn domain(&self) -> u32 {
        self.domain
    }

    /// The node's liveliness token.
    pub fn token(&self) -> String {
        let Self { domain, zid, namespace, name, .. } = self;
        format!("@ros2_lv/{domain}/{zid}/0/0/NN/%/{}/{name}", mangled(namespace))
    }

    /// The topic's full name: a relative one lies in the node's namespace, `~/x` under the node, `/x` is full.
    ///
    /// # Errors
    /// [`NameError`] for a topic that ROS 2 would refuse.
    pub fn topic(&self, topic: &str) -> Result<String, NameError> {
        let namespace = if self.namespace == "/" { "" } else { &self.namespace };
        let (prefix, relative) = match (topic.strip_prefix("~/"), topic.strip_prefix('/')) {
            (Some(private), _) => (format!("{namespace}/{}", self.name), private),
            (_, Some(full)) => (String::new(), full),
            _ => (namespace.to_owned(), topic),
        };
        match relative.split('/').all(is_part) {
            true => Ok(format!("{prefix}/{relative}")),
            false => Err(NameError { what: "topic", name: topic.to_owned() }),
        }
    }

    /// A publisher of the node: `entity` is its number in the session, 1 or more and never used twice.
    ///
    /// # Errors
    /// [`NameError`] for a topic that ROS 2 would refuse.
    pub fn publisher(&self, entity: u32, topic: &str, kind: MessageType, qos: Qos) -> Result<Publication, NameError> {
        self.endpoint(EndpointKind::Publisher, entity, topic, kind, qos)
    }

    /// An endpoint of the node: a service is one more type on a topic of its own.
    ///
    /// # Errors
    /// [`NameError`] for a topic that ROS 2 would refuse.
    pub fn endpoint(
        &self,
        endpoint: EndpointKind,
        entity: u32,
        topic: &str,
        kind: MessageType,
        qos: Qos,
    ) -> Result<Publication, NameError> {
        let topic = self.topic(topic)?;
        let Self { domain, zid, namespace, name, hashes } = self;
        let MessageType { dds_name, hash, .. } = kind;
        let hash = if *hashes == Hashes::Humble { NO_HASH } else { hash };
        let token = format!(
            "@ros2_lv/{domain}/{zid}/0/{entity}/{}/%/{}/{name}/{}/{dds_name}/{hash}/{qos}",
            endpoint.code(),
            mangled(namespace),
            mangled(&topic),
        );
        let key = format!("{domain}{topic}/{dds_name}/{hash}");
        Ok(Publication { gid: gid(&token), key, token })
    }
}

fn mangled(name: &str) -> String {
    name.replace('/', "%")
}

/// What one publisher is called on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Key expression its messages are put on.
    pub key: String,
    /// Key expression of its liveliness token.
    pub token: String,
    /// Its identity in every attachment.
    pub gid: [u8; 16],
}

/// An endpoint's identity: XXH3-128 of its liveliness token, little endian.
pub fn gid(token: &str) -> [u8; 16] {
    xxh3_128(token.as_bytes()).to_le_bytes()
}

/// What travels beside every message; a subscription drops a message without it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Number of the message at its publisher, from 1.
    pub sequence: i64,
    /// Wall-clock time of the publication, ns since the Unix epoch.
    pub source_time_ns: i64,
    /// Identity of the publisher.
    pub gid: [u8; 16],
}

impl Attachment {
    /// Bytes of an attachment: two integers, the length of the identity, the identity.
    pub const BYTES: usize = 33;

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.source_time_ns.to_le_bytes());
        bytes[16] = 16;
        bytes[17..].copy_from_slice(&self.gid);
        bytes
    }

    /// The attachment in `bytes`, or `None` where they are not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (sequence, rest) = bytes.split_first_chunk()?;
        let (source_time, rest) = rest.split_first_chunk()?;
        let (length, gid) = rest.split_first()?;
        (*length == 16).then_some(Self {
            sequence: i64::from_le_bytes(*sequence),
            source_time_ns: i64::from_le_bytes(*source_time),
            gid: gid.try_into().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::JOINT_STATE;

    const FLOATS: MessageType = MessageType {
        ros_name: "std_msgs/msg/Float64MultiArray",
        dds_name: "std_msgs::msg::dds_::Float64MultiArray_",
        hash: "RIHS01_1025ddc6b9552d191f89ef1a8d2f60f3d373e28b283d8891ddcc974e8c55397f",
    };

    fn node(namespace: &str) -> Node {
        Node::new(7, "2f2ab9b0701a4057dd394a3ecad33237".into(), namespace, "policy_node").unwrap()
    }

    /// Names that rmw_zenoh_cpp 0.2.10 showed as a node and a publisher, with its own identity for them.
    #[test]
    fn a_publisher_is_named_as_rmw_zenoh_names_it() {
        let qos = Qos { depth: 10, ..Qos::SYSTEM };
        let made = node("/").publisher(1, "/position_controller/commands", FLOATS, qos).unwrap();
        assert_eq!(
            made.token,
            "@ros2_lv/7/2f2ab9b0701a4057dd394a3ecad33237/0/1/MP/%/%/policy_node/%position_controller%commands/\
             std_msgs::msg::dds_::Float64MultiArray_/\
             RIHS01_1025ddc6b9552d191f89ef1a8d2f60f3d373e28b283d8891ddcc974e8c55397f/::,10:,:,:,,"
        );
        assert_eq!(made.gid.map(|byte| format!("{byte:02x}")).concat(), "c3b22c8ea434fa047a2369c8705a777f");
        let attachment = Attachment { sequence: 1, source_time_ns: 0x18ea_cc66_c1c2_e250, gid: made.gid };
        assert_eq!(
            attachment.encode().map(|byte| format!("{byte:02x}")).concat(),
            "010000000000000050e2c2c166ccea1810c3b22c8ea434fa047a2369c8705a777f"
        );
        assert_eq!(Attachment::decode(&attachment.encode()), Some(attachment));
        assert_eq!(Attachment::decode(&attachment.encode()[..32]), None);
        assert_eq!(node("/").token(), "@ros2_lv/7/2f2ab9b0701a4057dd394a3ecad33237/0/0/NN/%/%/policy_node");
    }

    #[test]
    fn names_resolve_as_in_ros_and_anything_else_is_refused() {
        let key = |namespace, topic| node(namespace).publisher(3, topic, JOINT_STATE, Qos::COMMAND).map(|p| p.key);
        let tail = format!("{}/{}", JOINT_STATE.dds_name, JOINT_STATE.hash);
        assert_eq!(key("/", "a/b"), Ok(format!("7/a/b/{tail}")));
        assert_eq!(key("/arm", "a"), Ok(format!("7/arm/a/{tail}")));
        assert_eq!(key("/arm", "~/a"), Ok(format!("7/arm/policy_node/a/{tail}")));
        assert_eq!(key("/arm", "/a"), Ok(format!("7/a/{tail}")));
        for bad in ["", "/", "a//b", "a/", "1a", "a*", "**", "a b", "a%b", "$a", "~", "~/"] {
            assert_eq!(key("/", bad), Err(NameError { what: "topic", name: bad.into() }), "{bad:?}");
        }
        for bad in ["", "arm", "/arm/", "//", "/*"] {
            assert!(Node::new(0, "1".into(), bad, "n").is_err(), "{bad:?}");
        }
        assert!(Node::new(0, "1".into(), "/", "a/b").is_err());
    }
}
