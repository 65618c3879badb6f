//! Topics and services as rmw_fastrtps and rmw_cyclonedds name them.

use crate::rmw::EndpointKind;

/// Topic of messages.
pub fn topic(full_name: &str) -> String {
    format!("rt{full_name}")
}

/// Topics of a service's requests and answers.
pub fn service(full_name: &str) -> [String; 2] {
    [format!("rq{full_name}Request"), format!("rr{full_name}Reply")]
}

/// Types of a service's requests and answers; `dds_name` is `package::srv::dds_::Type_`.
pub fn service_types(dds_name: &str) -> [String; 2] {
    [format!("{dds_name}Request_"), format!("{dds_name}Response_")]
}

/// A peer's endpoint in the words of ROS 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosEndpoint {
    /// What it is.
    pub kind: EndpointKind,
    /// Full name of its topic or service.
    pub name: String,
    /// `package::msg::dds_::Type_`, of a service without its half.
    pub dds_name: String,
}

/// A peer's reader or writer in the words of ROS 2; a service shows by its requests. `None` for what ROS 2 has no name for,
/// and for the answers of services.
pub fn ros_endpoint(topic: &str, dds_type: &str, is_reader: bool) -> Option<RosEndpoint> {
    if let Some(name) = topic.strip_prefix("rt").filter(|name| name.starts_with('/')) {
        let kind = if is_reader { EndpointKind::Subscription } else { EndpointKind::Publisher };
        return Some(RosEndpoint { kind, name: name.to_owned(), dds_name: dds_type.to_owned() });
    }
    let name = topic.strip_prefix("rq")?.strip_suffix("Request").filter(|name| name.starts_with('/'))?;
    let kind = if is_reader { EndpointKind::Server } else { EndpointKind::Client };
    let dds_name = dds_type.strip_suffix("Request_").unwrap_or(dds_type).to_owned();
    Some(RosEndpoint { kind, name: name.to_owned(), dds_name })
}

/// The type hash in an endpoint's user data, `typehash=RIHS01_…;`.
pub fn type_hash(user_data: &[u8]) -> Option<&str> {
    let text = core::str::from_utf8(user_data).ok()?;
    text.split(';').find_map(|pair| pair.trim_start_matches('\0').strip_prefix("typehash="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_other_topics_are_nobodys() {
        assert_eq!(topic("/left/joint_states"), "rt/left/joint_states");
        let [request, reply] = service("/policy/estop");
        assert_eq!((request.as_str(), reply.as_str()), ("rq/policy/estopRequest", "rr/policy/estopReply"));
        let [asked, answered] = service_types("std_srvs::srv::dds_::Trigger_");
        assert_eq!(asked, "std_srvs::srv::dds_::Trigger_Request_");
        assert_eq!(answered, "std_srvs::srv::dds_::Trigger_Response_");
        let server = ros_endpoint(&request, &asked, true).unwrap();
        assert_eq!(
            server,
            RosEndpoint {
                kind: EndpointKind::Server,
                name: "/policy/estop".into(),
                dds_name: "std_srvs::srv::dds_::Trigger_".into()
            }
        );
        assert_eq!(ros_endpoint("rt/a", "x", false).unwrap().kind, EndpointKind::Publisher);
        for other in [reply.as_str(), "rta", "Square", "ros_discovery_info", "rq/x"] {
            assert_eq!(ros_endpoint(other, "x", true), None, "{other}");
        }
        assert_eq!(type_hash(b"typehash=RIHS01_ab;"), Some("RIHS01_ab"));
        assert_eq!(type_hash(b"enclave=/;"), None);
        assert_eq!(type_hash(&[255, 0]), None);
    }
}
