//! Quality of service in the words of r2r.

use crate::rmw::{Durability, History, Liveliness, Qos, Reliability};
use core::time::Duration;
use r2r::QosProfile;
use r2r::qos::{DurabilityPolicy, HistoryPolicy, LivelinessPolicy, ReliabilityPolicy};

/// What rmw gives for "for ever" is decades at least, whichever middleware it is.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

pub fn to_r2r(qos: Qos) -> QosProfile {
    let span = |span: Option<Duration>| span.unwrap_or(Duration::ZERO); // as rmw says "not said"
    QosProfile {
        history: match qos.history {
            History::KeepLast => HistoryPolicy::KeepLast,
            History::KeepAll => HistoryPolicy::KeepAll,
        },
        depth: qos.depth as usize,
        reliability: match qos.reliability {
            Reliability::Reliable => ReliabilityPolicy::Reliable,
            Reliability::BestEffort => ReliabilityPolicy::BestEffort,
        },
        durability: match qos.durability {
            Durability::Volatile => DurabilityPolicy::Volatile,
            Durability::TransientLocal => DurabilityPolicy::TransientLocal,
        },
        deadline: span(qos.deadline),
        lifespan: span(qos.lifespan),
        liveliness: match qos.liveliness {
            Liveliness::Automatic => LivelinessPolicy::Automatic,
            Liveliness::ManualByTopic => LivelinessPolicy::ManualByTopic,
        },
        liveliness_lease_duration: span(qos.lease),
        avoid_ros_namespace_conventions: false,
    }
}

/// What takes part in matching; history and depth are not told in the graph.
pub fn from_r2r(profile: &QosProfile) -> Qos {
    let finite = |span: Duration| (span > Duration::ZERO && span < FOR_EVER).then_some(span);
    Qos {
        reliability: match profile.reliability {
            ReliabilityPolicy::BestEffort => Reliability::BestEffort,
            _ => Reliability::Reliable,
        },
        durability: match profile.durability {
            DurabilityPolicy::TransientLocal => Durability::TransientLocal,
            _ => Durability::Volatile,
        },
        deadline: finite(profile.deadline),
        lifespan: finite(profile.lifespan),
        liveliness: match profile.liveliness {
            LivelinessPolicy::ManualByTopic => Liveliness::ManualByTopic,
            _ => Liveliness::Automatic,
        },
        lease: finite(profile.liveliness_lease_duration),
        ..Qos::SYSTEM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_part_in_matching_comes_back_as_it_went() {
        let strict = Qos {
            deadline: Some(Duration::from_millis(50)),
            liveliness: Liveliness::ManualByTopic,
            lease: Some(Duration::from_secs(2)),
            ..Qos::LATCHED
        };
        for qos in [Qos::SYSTEM, Qos::COMMAND, Qos::LATEST, Qos::SENSOR, Qos::LATCHED, strict] {
            let (sent, back) = (to_r2r(qos), from_r2r(&to_r2r(qos)));
            assert_eq!(back.offered_below(&qos), None, "{qos:?}");
            assert_eq!(qos.offered_below(&back), None, "{qos:?}");
            assert_eq!((sent.depth, sent.history), (qos.depth as usize, HistoryPolicy::KeepLast));
        }
        let infinite = QosProfile { deadline: Duration::new(9_223_372_036, 854_775_807), ..to_r2r(Qos::DEFAULT) };
        assert_eq!(from_r2r(&infinite).deadline, None);
    }
}
