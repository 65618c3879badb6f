//! A robot or a node on a network: arguments, `--ros-args`, and the transport they open.

use super::error::CliError;
use clap::{Args, ValueEnum};
use endplate_ros2::rmw::Hashes;
use endplate_ros2::transport::Transport;
use endplate_ros2::{PlainTransport, SessionMode, SessionOptions, ZenohTransport};
use std::sync::Arc;

/// Which middleware.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransportName {
    /// Zenoh, as rmw_zenoh uses it.
    Zenoh,
    /// Zenoh without ROS: plain keys, see ros2/README.md.
    ZenohPlain,
    /// DDS, as rmw_fastrtps and rmw_cyclonedds use it.
    Dds,
}

/// Whose services are spoken on DDS.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DdsServices {
    /// As rmw_fastrtps has them.
    #[default]
    Fastdds,
    /// As rmw_cyclonedds has them.
    Cyclonedds,
}

/// Arguments of everything that is on a network.
#[derive(Args, Clone, Default)]
pub struct WireArguments {
    /// Reach the robot over this middleware, as a ROS 2 node.
    #[arg(long, value_enum)]
    pub transport: Option<TransportName>,
    /// Zenoh router to connect to; without it tcp/127.0.0.1:7447.
    #[arg(long, value_name = "ENDPOINT")]
    pub router: Option<String>,
    /// Zenoh endpoint to listen at.
    #[arg(long, value_name = "ENDPOINT")]
    pub listen: Option<String>,
    /// Allow endpoints beyond this machine: whoever reaches them can command the robot.
    #[arg(long)]
    pub allow_remote: bool,
    /// Services on DDS as this middleware has them; the two do not understand each other.
    #[arg(long, value_enum, value_name = "MIDDLEWARE")]
    pub dds_services: Option<DdsServices>,
    /// Name type hashes as ROS 2 Humble does.
    #[arg(long)]
    pub humble: bool,
    /// As every ROS 2 node takes them: `-r from:=to`, `-r __ns:=/x`, `-r __node:=x`, `-p name:=value`; last of all.
    #[arg(long, num_args = 0.., allow_hyphen_values = true, value_name = "ARGS")]
    pub ros_args: Vec<String>,
}

/// What `--ros-args` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RosArguments {
    /// Topics and services, from and to.
    pub remaps: Vec<(String, String)>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Node name.
    pub node: Option<String>,
    /// Parameters.
    pub parameters: Vec<(String, String)>,
}

impl RosArguments {
    /// Reads the words after `--ros-args`.
    pub fn parse(words: &[String]) -> Result<Self, CliError> {
        let mut read = Self::default();
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let refuse = |what: &str| CliError::Input(format!("--ros-args {word}: {what}"));
            match word {
                "-r" | "--remap" | "-p" | "--param" => {
                    let rule = words.next().ok_or_else(|| refuse("a rule from:=to must follow"))?;
                    let (from, to) = rule.split_once(":=").ok_or_else(|| refuse(&format!("{rule} is not from:=to")))?;
                    match (word, from) {
                        ("-p" | "--param", _) => read.parameters.push((from.to_owned(), to.to_owned())),
                        (_, "__ns") => read.namespace = Some(to.to_owned()),
                        (_, "__node" | "__name") => read.node = Some(to.to_owned()),
                        _ => read.remaps.push((from.to_owned(), to.to_owned())),
                    }
                }
                "--" | "--ros-args" => {}
                // What launch files give every node, and has no meaning here.
                "--log-level" | "--log-config-file" => drop(words.next()),
                "--enable-rosout-logs" | "--enable-stdout-logs" | "--disable-external-lib-logs" => {}
                _ => return Err(refuse("not known: use -r from:=to or -p name:=value")),
            }
        }
        Ok(read)
    }
}

impl WireArguments {
    /// Opens the transport as the node `name`.
    pub fn open(&self, name: &str, mode: SessionMode) -> Result<Opened, CliError> {
        let ros = RosArguments::parse(&self.ros_args)?;
        let mut options = SessionOptions::from_environment(|name| std::env::var(name).ok()).map_err(CliError::input)?;
        options.node = ros.node.clone().unwrap_or_else(|| name.to_owned());
        options.namespace = ros.namespace.clone().unwrap_or(options.namespace);
        options.remaps = ros.remaps.clone();
        options.allow_remote = self.allow_remote;
        options.mode = mode;
        if self.humble {
            options.hashes = Hashes::Humble;
        }
        if let Some(router) = &self.router {
            options.connect = vec![router.clone()];
            if mode == SessionMode::Router {
                options.mode = SessionMode::Peer;
            }
        } else if mode == SessionMode::Router {
            options.connect = Vec::new();
            options.listen = vec!["tcp/127.0.0.1:7447".into()];
        }
        if let Some(listen) = &self.listen {
            options.listen = vec![listen.clone()];
        }
        match self.transport {
            Some(TransportName::Dds) => {
                for (option, given) in [("--router", &self.router), ("--listen", &self.listen)] {
                    if given.is_some() {
                        return Err(CliError::Input(format!(
                            "{option}: DDS has no routers: only with --transport zenoh"
                        )));
                    }
                }
                open_dds(&options, self.dds_services.unwrap_or_default(), ros)
            }
            _ if self.dds_services.is_some() => {
                Err(CliError::Input("--dds-services: only with --transport dds".to_owned()))
            }
            Some(TransportName::ZenohPlain) => {
                if self.humble {
                    return Err(CliError::Input("--humble: plain keys have no type hashes".to_owned()));
                }
                let transport = PlainTransport::open(&options).map_err(CliError::input)?;
                Ok(Opened { transport: Arc::new(transport), ros, domain: options.domain })
            }
            None | Some(TransportName::Zenoh) => {
                let transport = ZenohTransport::open(&options).map_err(CliError::input)?;
                Ok(Opened { transport: Arc::new(transport), ros, domain: options.domain })
            }
        }
    }
}

#[cfg(feature = "dds")]
fn open_dds(options: &SessionOptions, services: DdsServices, ros: RosArguments) -> Result<Opened, CliError> {
    use endplate_ros2::{DdsOptions, DdsTransport, ServiceMapping};
    let of_dds = DdsOptions {
        domain: options.domain,
        namespace: options.namespace.clone(),
        node: options.node.clone(),
        remaps: options.remaps.clone(),
        allow_remote: options.allow_remote,
        mapping: match services {
            DdsServices::Fastdds => ServiceMapping::FastDds,
            DdsServices::Cyclonedds => ServiceMapping::Cyclone,
        },
        hashes: options.hashes,
    };
    let transport = DdsTransport::open(&of_dds).map_err(CliError::input)?;
    Ok(Opened { transport: Arc::new(transport), ros, domain: options.domain })
}

#[cfg(not(feature = "dds"))]
fn open_dds(_: &SessionOptions, _: DdsServices, _: RosArguments) -> Result<Opened, CliError> {
    let lacks = "--transport dds: not in this build: use zenoh, or build with the feature `dds`";
    Err(CliError::Input(lacks.to_owned()))
}

/// An open transport.
pub struct Opened {
    /// The transport.
    pub transport: Arc<dyn Transport>,
    /// What `--ros-args` said.
    pub ros: RosArguments,
    /// ROS_DOMAIN_ID.
    pub domain: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ros_arguments_are_read_and_nonsense_is_named() {
        let parse = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            RosArguments::parse(&words)
        };
        let read =
            parse("-r __ns:=/left -r __node:=vla -r /joint_states:=/left/js -p instruction:=pick --log-level info");
        let read = read.unwrap();
        assert_eq!((read.namespace.as_deref(), read.node.as_deref()), (Some("/left"), Some("vla")));
        assert_eq!(read.remaps, [("/joint_states".to_owned(), "/left/js".to_owned())]);
        assert_eq!(read.parameters, [("instruction".to_owned(), "pick".to_owned())]);
        assert!(parse("-r nonsense").unwrap_err().to_string().contains("nonsense"));
        assert!(parse("--fly").unwrap_err().to_string().contains("--fly"));
    }
}
