//! What r2r tells of the graph: publishers of a topic with their nodes; of subscriptions only how many a publisher has; of
//! servers whether one is there. Its list of topics and types is not used: where a topic has two types it reads the types of
//! the next one, and past the end at the last.

use super::quality;
use crate::message::MessageType;
use crate::rmw::{EndpointKind, EndpointToken, NodeToken, Qos};
use crate::transport::Source;
use core::cell::RefCell;
use core::time::Duration;
use r2r::{Node, PublisherUntyped};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A node that r2r has no name for.
const NAMELESS: &str = "(r2r names no subscribers and no servers)";
/// The publishers of a topic are looked up at most this often.
const LOOK: Duration = Duration::from_millis(5);

/// Whether a server is there, now.
pub type IsServed = Box<dyn FnMut(&RefCell<Node>) -> bool>;

/// How the other ends of an endpoint are found.
pub enum Others {
    Publishers,
    Subscriptions(PublisherUntyped),
    Servers(IsServed),
    /// Nobody asks for them.
    Clients,
}

/// An endpoint of this node.
pub struct Own {
    pub kind: EndpointKind,
    pub name: String,
    pub type_: MessageType,
    pub qos: Qos,
    pub others: Others,
}

/// The endpoints of this node, by number.
#[derive(Default)]
pub struct Owned {
    all: BTreeMap<u64, Own>,
    last: u64,
}

impl Owned {
    pub fn add(&mut self, own: Own) -> u64 {
        self.last += 1;
        self.all.insert(self.last, own);
        self.last
    }

    pub fn remove(&mut self, key: u64) -> Option<Own> {
        self.all.remove(&key)
    }

    /// Whether the client `key` has a server, now.
    pub fn is_served(&mut self, key: u64, node: &RefCell<Node>) -> bool {
        match self.all.get_mut(&key) {
            Some(Own { others: Others::Servers(is_served), .. }) => is_served(node),
            _ => false,
        }
    }

    /// Every endpoint of this node, and what is known of those at their other ends. Who is who is told by the full name:
    /// r2r tells no identity of our own endpoints, so another node of this name is taken for this one.
    pub fn endpoints(&mut self, node: &RefCell<Node>, me: &NodeToken) -> Vec<EndpointToken> {
        let mut all = Vec::new();
        for own in self.all.values_mut() {
            let token = |node: NodeToken, kind, dds_name: String, hash: &str, qos| EndpointToken {
                node,
                kind,
                topic: own.name.clone(),
                dds_name,
                hash: hash.to_owned(),
                qos,
            };
            all.push(token(me.clone(), own.kind, own.type_.dds_name.into(), own.type_.hash, own.qos));
            let other = own.kind.counterpart();
            let nameless = || {
                let node =
                    NodeToken { zid: NAMELESS.into(), name: NAMELESS.into(), namespace: "/".into(), ..me.clone() };
                token(node, other, own.type_.dds_name.into(), "", own.qos)
            };
            match &mut own.others {
                Others::Publishers => {
                    for one in publishers(&node.borrow(), &own.name) {
                        let of =
                            NodeToken { zid: one.node.clone(), namespace: one.namespace, name: one.name, ..me.clone() };
                        all.push(token(of, other, dds_name(&one.ros_name), "", one.qos));
                    }
                }
                Others::Subscriptions(publisher) => {
                    if publisher.get_inter_process_subscription_count().is_ok_and(|count| count > 0) {
                        all.push(nameless());
                    }
                }
                Others::Servers(is_served) => {
                    if is_served(node) {
                        all.push(nameless());
                    }
                }
                Others::Clients => {}
            }
        }
        all
    }
}

/// A peer's publisher.
struct Peer {
    /// Full name of its node.
    node: String,
    namespace: String,
    name: String,
    ros_name: String,
    gid: Source,
    qos: Qos,
}

fn publishers(node: &Node, topic: &str) -> Vec<Peer> {
    // No such topic and no publishers are the same here.
    let told = node.get_publishers_info_by_topic(topic, false).unwrap_or_default();
    let peers = told.into_iter().map(|one| {
        let mut gid = Source::default();
        let bytes = gid.len().min(one.endpoint_gid.len()); // 24 before Iron, the last of them zero
        gid[..bytes].copy_from_slice(&one.endpoint_gid[..bytes]);
        let (namespace, name) = (one.node_namespace, one.node_name);
        let node = format!("{}/{name}", namespace.trim_end_matches('/'));
        Peer { node, namespace, name, ros_name: one.topic_type, gid, qos: quality::from_r2r(&one.qos_profile) }
    });
    peers.collect()
}

/// `package::msg::dds_::Type_` of `package/msg/Type`.
fn dds_name(ros_name: &str) -> String {
    match ros_name.rsplit_once('/') {
        Some((package, name)) => format!("{}::dds_::{name}_", package.replace('/', "::")),
        None => ros_name.to_owned(),
    }
}

/// Where nodes of rclcpp, rclpy and rcl are publishers, whatever else they do.
const EVERY_NODE: [&str; 2] = ["/parameter_events", "/rosout"];

/// Full names of the nodes that publish there or to this node, in order.
pub fn nodes(node: &Node, owned: &Owned, me: String) -> Vec<String> {
    let own = owned.all.values().map(|own| own.name.as_str());
    let topics: BTreeSet<&str> = EVERY_NODE.into_iter().chain(own).collect();
    let mut names = BTreeSet::from([me]);
    for topic in topics {
        // What has a namespace of no ROS 2 is no node, or one not yet announced.
        names.extend(
            publishers(node, topic).into_iter().filter(|one| one.namespace.starts_with('/')).map(|one| one.node),
        );
    }
    names.into_iter().collect()
}

/// Who sends on one topic. r2r hands out messages without their publisher, so it is the graph that says: the publisher that
/// appeared last, while it is there. One that takes another's place is seen; of two at a time the messages are not told
/// apart.
pub struct Sender {
    topic: String,
    type_: MessageType,
    qos: Qos,
    there: BTreeSet<Source>,
    sends: Source,
    looked: Option<Instant>,
}

impl Sender {
    pub fn new(topic: String, type_: MessageType, qos: Qos) -> Self {
        Self { topic, type_, qos, there: BTreeSet::new(), sends: Source::default(), looked: None }
    }

    /// The publisher of a message that has just come.
    pub fn of_message(&mut self, node: &Node) -> Source {
        if self.looked.is_none_or(|at| at.elapsed() > LOOK) {
            self.looked = Some(Instant::now());
            let meets = |one: &Peer| one.ros_name == self.type_.ros_name && one.qos.offered_below(&self.qos).is_none();
            let there =
                publishers(node, &self.topic).into_iter().filter(meets).map(|one| one.gid).collect::<BTreeSet<_>>();
            self.sends = newest(&self.there, &there, self.sends);
            if !there.is_empty() {
                self.there = there;
            }
        }
        self.sends
    }
}

/// Who sends, of those there before and now. A publisher that left with nobody in its place still has messages under way.
fn newest(before: &BTreeSet<Source>, now: &BTreeSet<Source>, sends: Source) -> Source {
    match now.difference(before).last() {
        Some(came) => *came,
        None if now.contains(&sends) => sends,
        None => now.first().copied().unwrap_or(sends),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sender_is_the_publisher_that_came_last_while_it_is_there() {
        let (a, b) = ([1; 16], [2; 16]);
        let set = |all: &[Source]| all.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(newest(&set(&[]), &set(&[]), [0; 16]), [0; 16], "nobody is known yet");
        assert_eq!(newest(&set(&[]), &set(&[b]), [0; 16]), b);
        assert_eq!(newest(&set(&[b]), &set(&[a, b]), b), a, "another came");
        assert_eq!(newest(&set(&[a, b]), &set(&[a]), a), a, "the one before is forgotten only now");
        assert_eq!(newest(&set(&[a, b]), &set(&[b]), a), b, "the last one left, and the other is still there");
        assert_eq!(newest(&set(&[a]), &set(&[]), a), a, "its last messages");
    }

    #[test]
    fn a_ros_name_is_told_as_dds_has_it() {
        for kind in [crate::message::JOINT_STATE, crate::message::IMAGE] {
            assert_eq!(dds_name(kind.ros_name), kind.dds_name);
        }
    }
}
