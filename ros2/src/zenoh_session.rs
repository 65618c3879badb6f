//! A Zenoh session set up as rmw_zenoh sets up its own: found through the router, loopback only unless told otherwise.

use crate::rmw::Hashes;
use std::net::SocketAddr;
use std::path::PathBuf;
use zenoh::{Session, Wait};

/// How a session takes part in a Zenoh network.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum SessionMode {
    /// Connects to the router and, as it hears of them there, to other peers.
    #[default]
    Peer,
    /// Everything goes through the router.
    Client,
    /// Is the router of this machine, in place of `rmw_zenohd`.
    Router,
}

/// How a node reaches the robot's network and what it is called there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Its part in the network.
    pub mode: SessionMode,
    /// Endpoints to accept peers at, `tcp/<address>:<port>`; port 0 takes any free one.
    pub listen: Vec<String>,
    /// Endpoints to connect to, retried for ever: the router of rmw_zenoh.
    pub connect: Vec<String>,
    /// Whether endpoints beyond this machine are allowed. Without `zenoh-tls` there is neither encryption nor access
    /// control: whoever reaches the endpoint can read, and can command.
    pub allow_remote: bool,
    /// ROS_DOMAIN_ID; 0 to 101 where DDS nodes share it.
    pub domain: u32,
    /// The node's namespace, `/` or `/some/name`.
    pub namespace: String,
    /// The node's name.
    pub node: String,
    /// Topics and services under other names, from and to: `--ros-args -r from:=to`.
    pub remaps: Vec<(String, String)>,
    /// How type hashes are named: Humble has none.
    pub hashes: Hashes,
    /// A Zenoh configuration file (JSON5) instead of the settings rmw_zenoh uses: `ZENOH_SESSION_CONFIG_URI`. TLS and
    /// access control are set here. `listen` and `connect` are then the file's.
    pub config: Option<PathBuf>,
    /// Settings over the file or the defaults, path and JSON5 value: `ZENOH_CONFIG_OVERRIDE`.
    pub overrides: Vec<(String, String)>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            mode: SessionMode::Peer,
            listen: vec!["tcp/127.0.0.1:0".into()],
            connect: vec!["tcp/127.0.0.1:7447".into()],
            allow_remote: false,
            domain: 0,
            namespace: "/".into(),
            node: "endplate".into(),
            remaps: Vec::new(),
            hashes: Hashes::Rihs01,
            config: None,
            overrides: Vec::new(),
        }
    }
}

/// Why a session cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// An endpoint is not written as one.
    #[error("endpoint {endpoint:?} is not of the form tcp/<address>:<port>{TLS_HINT}")]
    Endpoint {
        /// The endpoint given.
        endpoint: String,
    },
    /// An endpoint leaves this machine, which was not allowed.
    #[error("endpoint {endpoint:?} is not on the loopback interface: use tcp/127.0.0.1:<port>, or allow remote peers")]
    Remote {
        /// The endpoint given.
        endpoint: String,
    },
    /// The configuration file.
    #[error("{}: not a Zenoh configuration: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Zenoh's reason.
        source: zenoh::Error,
    },
    /// Zenoh refused a setting.
    #[error("Zenoh refused the setting {key} = {value}")]
    Setting {
        /// Path of the setting.
        key: String,
        /// Its value, JSON5.
        value: String,
        /// Zenoh's reason.
        source: zenoh::Error,
    },
    /// The session could not be opened.
    #[error("no Zenoh session could be opened listening on {listen:?}: is the port taken by another process?")]
    Open {
        /// The endpoints listened on.
        listen: Vec<String>,
        /// Zenoh's reason.
        source: zenoh::Error,
    },
    /// An environment variable.
    #[error("{variable} = {value:?}: {remedy}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What to write instead.
        remedy: &'static str,
    },
}

#[cfg(feature = "zenoh-tls")]
const TLS_HINT: &str = " or tls/<name>:<port>";
#[cfg(not(feature = "zenoh-tls"))]
const TLS_HINT: &str = " (tls/ needs the feature zenoh-tls)";

impl SessionOptions {
    /// The defaults as the environment changes them: `ROS_DOMAIN_ID`, `ZENOH_SESSION_CONFIG_URI`,
    /// `ZENOH_CONFIG_OVERRIDE`. `variable` looks one up.
    ///
    /// # Errors
    /// [`SessionError::Environment`].
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SessionError> {
        let mut options = Self::default();
        if let Some(value) = variable("ROS_DOMAIN_ID").filter(|value| !value.is_empty()) {
            let remedy = "write a number from 0 to 232";
            options.domain = value.parse().ok().filter(|domain| *domain <= 232).ok_or(SessionError::Environment {
                variable: "ROS_DOMAIN_ID",
                value,
                remedy,
            })?;
        }
        options.config = variable("ZENOH_SESSION_CONFIG_URI").filter(|path| !path.is_empty()).map(PathBuf::from);
        if let Some(value) = variable("ZENOH_CONFIG_OVERRIDE") {
            let remedy = "write key=value;key=value, the values as JSON5";
            for setting in value.split(';').filter(|setting| !setting.trim().is_empty()) {
                let (key, set) = setting.split_once('=').ok_or_else(|| SessionError::Environment {
                    variable: "ZENOH_CONFIG_OVERRIDE",
                    value: value.clone(),
                    remedy,
                })?;
                options.overrides.push((key.trim().to_owned(), set.trim().to_owned()));
            }
        }
        Ok(options)
    }

    /// Whether every endpoint is one, and allowed.
    ///
    /// # Errors
    /// [`SessionError::Endpoint`], [`SessionError::Remote`].
    pub fn check(&self) -> Result<(), SessionError> {
        self.listen.iter().chain(&self.connect).try_for_each(|endpoint| check_endpoint(endpoint, self.allow_remote))
    }

    /// Opens the session. A router that is not there yet is no error: it is tried again for ever. Nothing is scouted by
    /// multicast.
    ///
    /// # Errors
    /// [`SessionError`].
    ///
    /// # Real-time
    /// Blocks and allocates.
    pub fn open(&self) -> Result<Session, SessionError> {
        self.check()?;
        let set = |config: &mut zenoh::Config, key: &str, value: &str| {
            config.insert_json5(key, value).map_err(|source| SessionError::Setting {
                key: key.to_owned(),
                value: value.to_owned(),
                source,
            })
        };
        let mut config = match &self.config {
            Some(path) => {
                zenoh::Config::from_file(path).map_err(|source| SessionError::Config { path: path.clone(), source })?
            }
            None => {
                let mut config = zenoh::Config::default();
                for (key, value) in self.settings() {
                    set(&mut config, key, &value)?;
                }
                config
            }
        };
        for (key, value) in &self.overrides {
            set(&mut config, key, value)?;
        }
        if self.config.is_some() || !self.overrides.is_empty() {
            // Whatever the file says must obey the same rule: every quoted endpoint is looked at.
            for key in ["listen/endpoints", "connect/endpoints"] {
                let json = config.get_json(key).unwrap_or_default();
                for endpoint in json.split('"').filter(|text| text.contains('/')) {
                    check_endpoint(endpoint, self.allow_remote)?;
                }
            }
            let scouts = config.get_json("scouting/multicast/enabled").is_ok_and(|json| json == "true");
            if scouts && !self.allow_remote {
                set(&mut config, "scouting/multicast/enabled", "false")?;
            }
        }
        zenoh::open(config).wait().map_err(|source| SessionError::Open { listen: self.listen.clone(), source })
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let list = |endpoints: &[String]| {
            let quoted: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
            format!("[{}]", quoted.join(", "))
        };
        let mode = match self.mode {
            SessionMode::Peer => "\"peer\"",
            SessionMode::Client => "\"client\"",
            SessionMode::Router => "\"router\"",
        };
        let listen = if self.mode == SessionMode::Client { "[]".to_owned() } else { list(&self.listen) };
        vec![
            ("mode", mode.to_owned()),
            ("listen/endpoints", listen),
            ("listen/exit_on_failure", "true".to_owned()),
            ("connect/endpoints", list(&self.connect)),
            ("connect/timeout_ms", "-1".to_owned()),
            ("connect/exit_on_failure", "false".to_owned()),
            ("scouting/multicast/enabled", "false".to_owned()),
            ("scouting/gossip/enabled", "true".to_owned()),
            ("scouting/gossip/target", "{ router: [\"router\", \"peer\"], peer: [\"router\"] }".to_owned()),
            ("scouting/gossip/autoconnect", "{ router: [], peer: [\"router\", \"peer\"] }".to_owned()),
            (
                "scouting/gossip/autoconnect_strategy",
                "{ peer: { to_router: \"always\", to_peer: \"greater-zid\" } }".to_owned(),
            ),
            ("timestamping/enabled", "true".to_owned()),
        ]
    }
}

fn check_endpoint(endpoint: &str, allow_remote: bool) -> Result<(), SessionError> {
    let malformed = || SessionError::Endpoint { endpoint: endpoint.to_owned() };
    let encrypted = endpoint.strip_prefix("tls/").filter(|_| cfg!(feature = "zenoh-tls"));
    let address = endpoint.strip_prefix("tcp/").or(encrypted).ok_or_else(malformed)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
    let is_host = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:%".contains(&byte));
    if host.is_empty() || !is_host || port.parse::<u16>().is_err() {
        return Err(malformed());
    }
    let is_loopback = host == "localhost" || address.parse().is_ok_and(|at: SocketAddr| at.ip().is_loopback());
    match is_loopback || allow_remote {
        true => Ok(()),
        false => Err(SessionError::Remote { endpoint: endpoint.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_beyond_this_machine_is_refused_unless_allowed() {
        for good in ["tcp/127.0.0.1:0", "tcp/127.9.9.9:7447", "tcp/[::1]:7447", "tcp/localhost:7447"] {
            assert!(check_endpoint(good, false).is_ok(), "{good}");
        }
        for remote in ["tcp/0.0.0.0:7447", "tcp/[::]:7447", "tcp/10.0.0.1:7447", "tcp/robot.local:7447"] {
            assert!(matches!(check_endpoint(remote, false), Err(SessionError::Remote { .. })), "{remote}");
            assert!(check_endpoint(remote, true).is_ok(), "{remote}");
        }
        for bad in ["", "tcp", "udp/127.0.0.1:1", "tcp/127.0.0.1", "tcp/:1", "tcp/a\"b:1", "tcp/127.0.0.1:1#iface=eth0"]
        {
            assert!(matches!(check_endpoint(bad, true), Err(SessionError::Endpoint { .. })), "{bad}");
        }
    }

    #[test]
    fn the_environment_is_honoured_and_nonsense_in_it_is_named() {
        let of = |pairs: &'static [(&str, &str)]| {
            SessionOptions::from_environment(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[]).unwrap(), SessionOptions::default());
        let options = of(&[
            ("ROS_DOMAIN_ID", "7"),
            ("ZENOH_SESSION_CONFIG_URI", "/etc/zenoh.json5"),
            ("ZENOH_CONFIG_OVERRIDE", "mode=\"client\";connect/endpoints=[\"tcp/10.0.0.1:7447\"]"),
        ])
        .unwrap();
        assert_eq!((options.domain, options.overrides.len()), (7, 2));
        assert_eq!(options.config.as_deref(), Some(std::path::Path::new("/etc/zenoh.json5")));
        assert!(of(&[("ROS_DOMAIN_ID", "999")]).unwrap_err().to_string().contains("ROS_DOMAIN_ID = \"999\""));
        assert!(of(&[("ZENOH_CONFIG_OVERRIDE", "mode")]).unwrap_err().to_string().contains("key=value"));
        let remote = SessionOptions {
            overrides: vec![("connect/endpoints".into(), "[\"tcp/10.0.0.1:7447\"]".into())],
            ..SessionOptions::default()
        };
        assert!(matches!(remote.open(), Err(SessionError::Remote { .. })));
    }
}
