//! Liveliness tokens: what a ROS 2 graph on Zenoh is made of.

use super::qos::Qos;
use core::fmt;

/// What an endpoint is.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointKind {
    /// Sends messages.
    Publisher,
    /// Takes messages.
    Subscription,
    /// Answers requests.
    Server,
    /// Sends requests.
    Client,
}

impl EndpointKind {
    /// The chunk of a token.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Publisher => "MP",
            Self::Subscription => "MS",
            Self::Server => "SS",
            Self::Client => "SC",
        }
    }

    /// The kind at the other end.
    pub const fn counterpart(self) -> Self {
        match self {
            Self::Publisher => Self::Subscription,
            Self::Subscription => Self::Publisher,
            Self::Server => Self::Client,
            Self::Client => Self::Server,
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Subscription => "subscription",
            Self::Server => "service server",
            Self::Client => "service client",
        }
    }
}

/// A node in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeToken {
    /// ROS_DOMAIN_ID.
    pub domain: u32,
    /// The session's Zenoh id.
    pub zid: String,
    /// The node's number in its session.
    pub node_id: u32,
    /// The entity's number in its session.
    pub entity_id: u32,
    /// Security enclave, `/` where there is none.
    pub enclave: String,
    /// Namespace, `/` for the root.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl NodeToken {
    /// The node's full name.
    pub fn full_name(&self) -> String {
        if self.namespace == "/" { format!("/{}", self.name) } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// An endpoint in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointToken {
    /// Whose.
    pub node: NodeToken,
    /// What.
    pub kind: EndpointKind,
    /// Full name of its topic or service.
    pub topic: String,
    /// Type, `package::msg::dds_::Type_`.
    pub dds_name: String,
    /// Type hash, or [`super::NO_HASH`].
    pub hash: String,
    /// Quality of service.
    pub qos: Qos,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// There is a node.
    Node(NodeToken),
    /// There is an endpoint.
    Endpoint(EndpointToken),
}

/// Why a key is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the liveliness token has no {part}: {found:?}")]
pub struct TokenError {
    /// The part that is missing or wrong.
    pub part: &'static str,
    /// What was there.
    pub found: String,
}

fn plain(chunk: &str) -> String {
    if chunk == "%" { "/".to_owned() } else { chunk.replace('%', "/") }
}

impl Token {
    /// Parses a token; chunks behind the quality of service (`backends:…`) are skipped. Total on any text.
    ///
    /// # Errors
    /// [`TokenError`], naming the part.
    pub fn parse(key: &str) -> Result<Self, TokenError> {
        let mut chunks = key.split('/');
        let mut next = |part: &'static str| match chunks.next() {
            Some(chunk) if !chunk.is_empty() => Ok(chunk),
            other => Err(TokenError { part, found: other.unwrap_or_default().to_owned() }),
        };
        let number = |part, text: &str| text.parse().map_err(|_| TokenError { part, found: text.to_owned() });
        match next("prefix @ros2_lv")? {
            "@ros2_lv" => {}
            other => return Err(TokenError { part: "prefix @ros2_lv", found: other.to_owned() }),
        }
        let domain = number("domain", next("domain")?)?;
        let zid = next("session id")?;
        if zid.len() > 32 || !zid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(TokenError { part: "session id", found: zid.to_owned() });
        }
        let (node_id, entity_id) =
            (number("node number", next("node number")?)?, number("entity number", next("entity number")?)?);
        let kind = next("kind")?;
        let node = NodeToken {
            domain,
            zid: zid.to_owned(),
            node_id,
            entity_id,
            enclave: plain(next("enclave")?),
            namespace: plain(next("namespace")?),
            name: next("node name")?.to_owned(),
        };
        let kind = match kind {
            "NN" => return Ok(Self::Node(node)),
            "MP" => EndpointKind::Publisher,
            "MS" => EndpointKind::Subscription,
            "SS" => EndpointKind::Server,
            "SC" => EndpointKind::Client,
            other => return Err(TokenError { part: "kind", found: other.to_owned() }),
        };
        let topic = plain(next("topic")?);
        let dds_name = next("type")?.to_owned();
        let hash = next("type hash")?.to_owned();
        let qos = next("quality of service")?;
        let qos = qos.parse().map_err(|_| TokenError { part: "quality of service", found: qos.to_owned() })?;
        Ok(Self::Endpoint(EndpointToken { node, kind, topic, dds_name, hash, qos }))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, kind) = match self {
            Self::Node(node) => (node, "NN"),
            Self::Endpoint(endpoint) => (&endpoint.node, endpoint.kind.code()),
        };
        let NodeToken { domain, zid, node_id, entity_id, enclave, namespace, name } = node;
        let mangled = super::mangled;
        write!(f, "@ros2_lv/{domain}/{zid}/{node_id}/{entity_id}/{kind}/{}/", mangled(enclave))?;
        write!(f, "{}/{name}", mangled(namespace))?;
        if let Self::Endpoint(endpoint) = self {
            let EndpointToken { topic, dds_name, hash, qos, .. } = endpoint;
            write!(f, "/{}/{dds_name}/{hash}/{qos}", mangled(topic))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Observed with rmw_zenoh_cpp 0.2.10.
    const OBSERVED: [&str; 3] = [
        "@ros2_lv/7/cd152e31600f4a1f8bccc11529df5e7c/0/0/NN/%/%/robot",
        "@ros2_lv/7/cd152e31600f4a1f8bccc11529df5e7c/0/10/MP/%/%/robot/%joint_states/\
         sensor_msgs::msg::dds_::JointState_/RIHS01_a13e/2::,5:,:,:,,",
        "@ros2_lv/7/592fcd152e31600f4a1f8bccc11529d/14/24/MP/%/%arm%left/b/%arm%left%cmd/\
         std_msgs::msg::dds_::String_/RIHS01_df66/::,10:,:,:,,",
    ];

    #[test]
    fn observed_tokens_parse_and_print_as_themselves() {
        for text in OBSERVED {
            assert_eq!(Token::parse(text).unwrap().to_string(), text);
        }
        let Ok(Token::Endpoint(endpoint)) = Token::parse(OBSERVED[2]) else { panic!("an endpoint") };
        assert_eq!((endpoint.node.full_name().as_str(), endpoint.topic.as_str()), ("/arm/left/b", "/arm/left/cmd"));
        let longer = format!("{}/backends:x", OBSERVED[1]);
        assert_eq!(Token::parse(&longer), Token::parse(OBSERVED[1]), "further chunks are skipped");
    }

    #[test]
    fn what_is_no_token_is_refused_by_its_part_and_nothing_panics() {
        for (text, part) in [
            ("", "prefix @ros2_lv"),
            ("@other/7", "prefix @ros2_lv"),
            ("@ros2_lv/x", "domain"),
            ("@ros2_lv/7/XYZ/0/0/NN/%/%/a", "session id"),
            ("@ros2_lv/7/ab/0/0/QQ/%/%/a", "kind"),
            ("@ros2_lv/7/ab/0/0/NN/%/%", "node name"),
            ("@ros2_lv/7/ab/0/0/MP/%/%/a/%t/T/H/nonsense", "quality of service"),
        ] {
            assert_eq!(Token::parse(text).unwrap_err().part, part, "{text}");
        }
        let mut state = 3u64;
        for _ in 0..20_000 {
            let mut bytes = OBSERVED[1].as_bytes().to_vec();
            for _ in 0..3 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = b"/:,%@0a9"[(state >> 20) as usize % 8];
            }
            if let Ok(token) = Token::parse(core::str::from_utf8(&bytes).unwrap()) {
                assert_eq!(Token::parse(&token.to_string()), Ok(token));
            }
        }
    }
}
