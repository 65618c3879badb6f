//! Quality of service, and the form it has in a liveliness token.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

/// Whether a lost message is sent again.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reliability {
    /// It is.
    Reliable,
    /// It is not.
    BestEffort,
}

/// Whether a late reader gets what was sent before.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// It does not.
    Volatile,
    /// It does, from the writer.
    TransientLocal,
}

/// How much is kept for a slow reader.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum History {
    /// The last `depth`.
    KeepLast,
    /// Everything.
    KeepAll,
}

/// Who asserts that a writer is alive.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Liveliness {
    /// The middleware.
    Automatic,
    /// The writer, topic by topic.
    ManualByTopic,
}

/// Quality of service of an endpoint; `None` is infinite.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Qos {
    /// Whether a lost message is sent again.
    pub reliability: Reliability,
    /// Whether a late reader gets what was sent before.
    pub durability: Durability,
    /// How much is kept for a slow reader.
    pub history: History,
    /// Messages kept with [`History::KeepLast`].
    pub depth: u32,
    /// Longest time between messages.
    pub deadline: Option<Duration>,
    /// A message is worth nothing after this.
    pub lifespan: Option<Duration>,
    /// Who asserts that a writer is alive.
    pub liveliness: Liveliness,
    /// How often at least.
    pub lease: Option<Duration>,
}

/// Depth that rmw_zenoh leaves out of a token.
const DEFAULT_DEPTH: u32 = 42;

impl Qos {
    /// System default, as ros2_control uses it: reliable, volatile, keep last 42.
    pub const SYSTEM: Self = Self {
        reliability: Reliability::Reliable,
        durability: Durability::Volatile,
        history: History::KeepLast,
        depth: DEFAULT_DEPTH,
        deadline: None,
        lifespan: None,
        liveliness: Liveliness::Automatic,
        lease: None,
    };
    /// Joint commands: reliable, the last one only. A reliable publisher matches every subscription.
    pub const COMMAND: Self = Self { depth: 1, ..Self::SYSTEM };
    /// What is sensed: best effort, the last one only. A best-effort subscription matches every publisher.
    pub const LATEST: Self = Self { reliability: Reliability::BestEffort, depth: 1, ..Self::SYSTEM };
    /// Sensor data: best effort, keep last 5.
    pub const SENSOR: Self = Self { reliability: Reliability::BestEffort, depth: 5, ..Self::SYSTEM };
    /// Events and diagnostics: reliable, keep last 10.
    pub const DEFAULT: Self = Self { depth: 10, ..Self::SYSTEM };
    /// Parameter services and /parameter_events.
    pub const PARAMETERS: Self = Self { depth: 1000, ..Self::SYSTEM };
    /// A value that a late reader gets: transient local, keep last 1.
    pub const LATCHED: Self = Self { durability: Durability::TransientLocal, depth: 1, ..Self::SYSTEM };

    /// Why a publisher of this quality never serves a subscription of `asked`, if so: offered must be at least asked.
    pub fn offered_below(&self, asked: &Self) -> Option<&'static str> {
        let is_short = |offered: Option<Duration>, asked: Option<Duration>| match (offered, asked) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(offered), Some(asked)) => offered > asked,
        };
        if asked.reliability == Reliability::Reliable && self.reliability == Reliability::BestEffort {
            return Some("reliability: best effort is offered and reliable is asked for");
        }
        if asked.durability == Durability::TransientLocal && self.durability == Durability::Volatile {
            return Some("durability: volatile is offered and transient local is asked for");
        }
        if is_short(self.deadline, asked.deadline) {
            return Some("deadline: a longer one is offered than is asked for");
        }
        if asked.liveliness == Liveliness::ManualByTopic && self.liveliness == Liveliness::Automatic {
            return Some("liveliness: automatic is offered and manual by topic is asked for");
        }
        is_short(self.lease, asked.lease).then_some("liveliness lease: a longer one is offered than is asked for")
    }
}

/// The token's last chunk: a value equal to rmw_zenoh's default (reliable, volatile, keep last 42, no deadline,
/// lifespan or lease) is left empty.
impl fmt::Display for Qos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |span: Option<Duration>| {
            span.map_or_else(|| ",".to_owned(), |span| format!("{},{}", span.as_secs(), span.subsec_nanos()))
        };
        let code = |is_default: bool, code: &'static str| if is_default { "" } else { code };
        let depth = if self.depth == DEFAULT_DEPTH { String::new() } else { self.depth.to_string() };
        write!(
            f,
            "{}:{}:{},{depth}:{}:{}:{},{}",
            code(self.reliability == Reliability::Reliable, "2"),
            code(self.durability == Durability::Volatile, "1"),
            code(self.history == History::KeepLast, "2"),
            span(self.deadline),
            span(self.lifespan),
            code(self.liveliness == Liveliness::Automatic, "3"),
            span(self.lease),
        )
    }
}

/// Why text is not a quality of service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} is not a quality of service as rmw_zenoh writes it")]
pub struct QosError {
    /// Which part.
    pub field: &'static str,
    /// What was there.
    pub value: String,
}

impl FromStr for Qos {
    type Err = QosError;

    fn from_str(text: &str) -> Result<Self, QosError> {
        let parts: Vec<&str> = text.split(':').collect();
        let bad = |field, value: &str| QosError { field, value: value.to_owned() };
        let [reliability, durability, history, deadline, lifespan, liveliness] = parts[..] else {
            return Err(bad("the whole", text));
        };
        let pick = |field, value: &str, default: u8, known: [u8; 2]| match value {
            "" => Ok(default),
            value => value.parse().ok().filter(|code| known.contains(code)).ok_or_else(|| bad(field, value)),
        };
        let span = |field, value: &str| -> Result<Option<Duration>, QosError> {
            let (seconds, nanos) = value.split_once(',').ok_or_else(|| bad(field, value))?;
            if seconds.is_empty() && nanos.is_empty() {
                return Ok(None);
            }
            let number = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u64>() };
            match (number(seconds), number(nanos)) {
                (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Some(Duration::new(seconds, nanos as u32))),
                _ => Err(bad(field, value)),
            }
        };
        let (history, depth) = history.split_once(',').ok_or_else(|| bad("history", history))?;
        let (liveliness, lease) = liveliness.split_once(',').ok_or_else(|| bad("liveliness", liveliness))?;
        Ok(Self {
            reliability: match pick("reliability", reliability, 1, [1, 2])? {
                1 => Reliability::Reliable,
                _ => Reliability::BestEffort,
            },
            durability: match pick("durability", durability, 2, [1, 2])? {
                1 => Durability::TransientLocal,
                _ => Durability::Volatile,
            },
            history: match pick("history", history, 1, [1, 2])? {
                1 => History::KeepLast,
                _ => History::KeepAll,
            },
            depth: if depth.is_empty() { DEFAULT_DEPTH } else { depth.parse().map_err(|_| bad("depth", depth))? },
            deadline: span("deadline", deadline)?,
            lifespan: span("lifespan", lifespan)?,
            liveliness: match pick("liveliness", liveliness, 1, [1, 3])? {
                1 => Liveliness::Automatic,
                _ => Liveliness::ManualByTopic,
            },
            lease: span("lease", lease)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Profiles and the tokens rmw_zenoh_cpp 0.2.10 showed for them.
    #[test]
    fn every_observed_token_is_written_and_read() {
        let deadline = Qos { depth: 3, deadline: Some(Duration::from_millis(50)), ..Qos::SYSTEM };
        let rosout = Qos { depth: 1000, lifespan: Some(Duration::from_secs(10)), ..Qos::LATCHED };
        for (qos, token) in [
            (Qos::DEFAULT, "::,10:,:,:,,"),
            (Qos::SENSOR, "2::,5:,:,:,,"),
            (Qos::SYSTEM, "::,:,:,:,,"),
            (Qos::LATCHED, ":1:,1:,:,:,,"),
            (Qos { history: History::KeepAll, ..Qos::DEFAULT }, "::2,10:,:,:,,"),
            (deadline, "::,3:0,50000000:,:,,"),
            (rosout, ":1:,1000:,:10,0:,,"),
            (Qos::PARAMETERS, "::,1000:,:,:,,"),
            (Qos::COMMAND, "::,1:,:,:,,"),
        ] {
            assert_eq!(qos.to_string(), token);
            assert_eq!(token.parse(), Ok(qos));
        }
        for bad in ["", "::", "7::,:,:,:,,", "::,x:,:,:,,", "::,:,2000000000:,:,,", "::,:-1,0:,:,,", "::,:,:,:,,:"] {
            assert!(bad.parse::<Qos>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_offer_below_what_is_asked_names_what_is_missing() {
        assert_eq!(Qos::COMMAND.offered_below(&Qos::SENSOR), None);
        assert!(Qos::SENSOR.offered_below(&Qos::COMMAND).unwrap().contains("reliability"));
        assert!(Qos::COMMAND.offered_below(&Qos::LATCHED).unwrap().contains("durability"));
        let strict = Qos { deadline: Some(Duration::from_millis(50)), ..Qos::COMMAND };
        assert!(Qos::COMMAND.offered_below(&strict).unwrap().contains("deadline"));
        assert_eq!(strict.offered_below(&strict), None);
    }
}
