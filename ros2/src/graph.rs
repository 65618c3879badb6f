//! Who is there: the nodes and endpoints seen, and what keeps this node's own from meeting theirs.
//!
//! On the wire a mismatch is silence. Here each endpoint of this node is compared with every other endpoint on its topic,
//! and each thing amiss is named once until it changes.

use crate::rmw::{Durability, EndpointKind, EndpointToken, NO_HASH, Qos, Token};
use core::fmt;
use std::collections::BTreeMap;

/// Something amiss with one endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Nobody is at the other end.
    Unmatched {
        /// Kind of the own endpoint.
        own: &'static str,
        /// Topic or service.
        topic: String,
    },
    /// Somebody is, and never will hear or be heard.
    Mismatched {
        /// Kind of the own endpoint.
        own: &'static str,
        /// Topic or service.
        topic: String,
        /// The node at the other end.
        node: String,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmatched { own, topic } => write!(f, "{own} {topic}: nobody is at the other end"),
            Self::Mismatched { own, topic, node, reason } => {
                write!(f, "{own} {topic} and node {node} never meet: {reason}")
            }
        }
    }
}

/// The graph as the tokens tell it.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    tokens: BTreeMap<String, Token>,
    unreadable: u64,
}

impl Graph {
    /// A token appeared or went.
    pub fn update(&mut self, key: &str, is_there: bool) {
        match Token::parse(key) {
            Ok(token) if is_there => drop(self.tokens.insert(key.to_owned(), token)),
            Ok(_) => drop(self.tokens.remove(key)),
            Err(_) => self.unreadable += 1,
        }
    }

    /// Tokens that could not be read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Full names of the nodes, in order.
    pub fn nodes(&self) -> Vec<String> {
        let of_token = |token: &Token| match token {
            Token::Node(node) => Some(node.full_name()),
            Token::Endpoint(_) => None,
        };
        let mut names: Vec<String> = self.tokens.values().filter_map(of_token).collect();
        names.sort();
        names
    }

    /// Every endpoint.
    pub fn endpoints(&self) -> impl Iterator<Item = &EndpointToken> {
        self.tokens.values().filter_map(|token| match token {
            Token::Endpoint(endpoint) => Some(endpoint),
            Token::Node(_) => None,
        })
    }

    /// What is amiss with the endpoints of the session `zid`: [`findings`].
    pub fn findings(&self, zid: &str, needs_peer: impl Fn(&EndpointToken) -> bool) -> Vec<Finding> {
        findings(&self.endpoints().collect::<Vec<_>>(), zid, needs_peer)
    }
}

/// Which endpoints of a node are of no use alone: somebody must take the commands; events and reports need no reader, and a
/// latched value is taken where it is offered.
pub fn needs_peer(own: &EndpointToken) -> bool {
    match own.kind {
        EndpointKind::Subscription => own.qos.durability == Durability::Volatile,
        EndpointKind::Client => true,
        EndpointKind::Publisher => own.qos.depth == Qos::COMMAND.depth && own.qos.durability == Durability::Volatile,
        EndpointKind::Server => false,
    }
}

/// What is amiss with those of the endpoints that are of the participant `zid`. A server without a client, and a publisher
/// of what nobody need read, are as they should be: only endpoints that `needs_peer` says so are reported as unmatched.
pub fn findings(endpoints: &[&EndpointToken], zid: &str, needs_peer: impl Fn(&EndpointToken) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for own in endpoints.iter().filter(|endpoint| endpoint.node.zid == zid) {
        let mut matched = false;
        let at_topic = |other: &&&EndpointToken| {
            other.node.zid != zid && other.topic == own.topic && other.kind == own.kind.counterpart()
        };
        for other in endpoints.iter().filter(at_topic) {
            match mismatch(own, other) {
                None => matched = true,
                Some(reason) => findings.push(Finding::Mismatched {
                    own: own.kind.name(),
                    topic: own.topic.clone(),
                    node: other.node.full_name(),
                    reason,
                }),
            }
        }
        if !matched && needs_peer(own) {
            findings.push(Finding::Unmatched { own: own.kind.name(), topic: own.topic.clone() });
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

/// Why two endpoints of one topic never meet, if so.
fn mismatch(own: &EndpointToken, other: &EndpointToken) -> Option<String> {
    if own.dds_name != other.dds_name {
        return Some(format!("the type here is {} and there {}", own.dds_name, other.dds_name));
    }
    // On DDS a peer need not tell its hash.
    if own.hash != other.hash && !other.hash.is_empty() {
        let hint = if own.hash == NO_HASH || other.hash == NO_HASH { " (one side is Humble)" } else { "" };
        return Some(format!("the type hash here is {} and there {}{hint}", own.hash, other.hash));
    }
    let (offer, ask) = match own.kind {
        EndpointKind::Publisher => (own, other),
        EndpointKind::Subscription => (other, own),
        EndpointKind::Server | EndpointKind::Client => return None,
    };
    offer.qos.offered_below(&ask.qos).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(zid: &str, kind: &str, node: &str, hash: &str, qos: &str) -> String {
        format!("@ros2_lv/0/{zid}/0/3/{kind}/%/%/{node}/%joint_states/sensor_msgs::msg::dds_::JointState_/{hash}/{qos}")
    }

    #[test]
    fn every_mismatch_is_named_and_a_match_is_silent() {
        let mut graph = Graph::default();
        let needs = |_: &EndpointToken| true;
        graph.update(&token("aa", "MS", "own", "RIHS01_1", "::,1:,:,:,,"), true);
        assert_eq!(
            graph.findings("aa", needs),
            [Finding::Unmatched { own: "subscription", topic: "/joint_states".into() }]
        );
        for (hash, qos, expected) in [
            ("RIHS01_2", "::,1:,:,:,,", "the type hash here is RIHS01_1 and there RIHS01_2"),
            (NO_HASH, "::,1:,:,:,,", "(one side is Humble)"),
            ("RIHS01_1", "2::,5:,:,:,,", "reliability"),
        ] {
            let other = token("bb", "MP", "robot", hash, qos);
            graph.update(&other, true);
            let findings = graph.findings("aa", needs);
            assert_eq!(findings.len(), 2);
            assert!(findings[1].to_string().contains(expected), "{}", findings[1]);
            assert!(findings[1].to_string().contains("/robot"), "{}", findings[1]);
            graph.update(&other, false);
        }
        graph.update(&token("bb", "MP", "robot", "RIHS01_1", "::,1:,:,:,,"), true);
        assert_eq!(graph.findings("aa", needs), []);
        graph.update("@ros2_lv/what", true);
        assert_eq!(graph.unreadable(), 1);
    }
}
