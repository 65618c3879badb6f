//! Quality of service, to DDS and back.

use crate::rmw::{Durability, History, Liveliness, Qos, Reliability};
use core::time::Duration;
use rustdds::{Duration as Span, QosPolicies, QosPolicyBuilder, policy};

/// How long a reliable writer may wait for room before it gives up; publishers are never on the control thread.
const WAIT_FOR_ROOM: Duration = Duration::from_millis(100);

fn span(span: Option<Duration>) -> Span {
    span.map_or(Span::INFINITE, Span::from)
}

/// As DDS has it.
pub fn to_dds(qos: Qos) -> QosPolicies {
    let lease_duration = span(qos.lease);
    let mut builder = QosPolicyBuilder::new()
        .reliability(match qos.reliability {
            Reliability::Reliable => policy::Reliability::Reliable { max_blocking_time: WAIT_FOR_ROOM.into() },
            Reliability::BestEffort => policy::Reliability::BestEffort,
        })
        .durability(match qos.durability {
            Durability::Volatile => policy::Durability::Volatile,
            Durability::TransientLocal => policy::Durability::TransientLocal,
        })
        .history(match qos.history {
            History::KeepLast => policy::History::KeepLast { depth: i32::try_from(qos.depth).unwrap_or(i32::MAX) },
            History::KeepAll => policy::History::KeepAll,
        })
        .liveliness(match qos.liveliness {
            Liveliness::Automatic => policy::Liveliness::Automatic { lease_duration },
            Liveliness::ManualByTopic => policy::Liveliness::ManualByTopic { lease_duration },
        });
    if qos.deadline.is_some() {
        builder = builder.deadline(policy::Deadline(span(qos.deadline)));
    }
    if qos.lifespan.is_some() {
        builder = builder.lifespan(policy::Lifespan { duration: span(qos.lifespan) });
    }
    builder.build()
}

/// As a peer announced it; history is not announced and plays no part in matching. What a peer leaves out is the default
/// of DDS: `reliable_by_default` for a writer, best effort for a reader.
pub fn from_dds(policies: &QosPolicies, reliable_by_default: bool) -> Qos {
    // DDS counts in 2⁻³² s: what comes back may be a nanosecond off what was said, and nobody says less than ten.
    let nearest = |span: Duration| Duration::from_nanos((span.as_nanos() as u64).saturating_add(5) / 10 * 10);
    let finite = |span: Span| (span < Span::INFINITE).then(|| nearest(span.to_std()));
    let reliable = match policies.reliability() {
        Some(policy::Reliability::Reliable { .. }) => true,
        Some(policy::Reliability::BestEffort) => false,
        None => reliable_by_default,
    };
    let (liveliness, lease) = match policies.liveliness() {
        Some(policy::Liveliness::ManualByTopic { lease_duration }) => {
            (Liveliness::ManualByTopic, finite(lease_duration))
        }
        Some(other) => (Liveliness::Automatic, finite(other.duration())),
        None => (Liveliness::Automatic, None),
    };
    Qos {
        reliability: if reliable { Reliability::Reliable } else { Reliability::BestEffort },
        durability: match policies.durability() {
            None | Some(policy::Durability::Volatile) => Durability::Volatile,
            Some(_) => Durability::TransientLocal,
        },
        deadline: policies.deadline().and_then(|deadline| finite(deadline.0)),
        lifespan: policies.lifespan().and_then(|lifespan| finite(lifespan.duration)),
        liveliness,
        lease,
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
            let back = from_dds(&to_dds(qos), true);
            assert_eq!(back.offered_below(&qos), None, "{qos:?}");
            assert_eq!(qos.offered_below(&back), None, "{qos:?}");
            assert_eq!((back.reliability, back.durability), (qos.reliability, qos.durability));
        }
        let left_out = QosPolicyBuilder::new().build();
        assert_eq!(from_dds(&left_out, true).reliability, Reliability::Reliable);
        assert_eq!(from_dds(&left_out, false).reliability, Reliability::BestEffort);
    }
}
