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
    /// The ROS 2 that is sourced, with its RMW_IMPLEMENTATION; only in a build made for it, see ros2/README.md.
    R2r,
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
            Some(TransportName::R2r) => {
                for (option, is_given) in [
                    ("--router", self.router.is_some()),
                    ("--listen", self.listen.is_some()),
                    ("--dds-services", self.dds_services.is_some()),
                    ("--humble", self.humble),
                ] {
                    if is_given {
                        return Err(CliError::Input(format!(
                            "{option}: with --transport r2r that is for the ROS that is sourced to say"
                        )));
                    }
                }
                open_r2r(&options, ros)
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

#[cfg(feature = "r2r")]
fn open_r2r(options: &SessionOptions, ros: RosArguments) -> Result<Opened, CliError> {
    use endplate_ros2::{R2rOptions, R2rTransport};
    let of_r2r = R2rOptions {
        namespace: options.namespace.clone(),
        node: options.node.clone(),
        remaps: options.remaps.clone(),
        allow_remote: options.allow_remote,
    };
    let transport = R2rTransport::open(&of_r2r).map_err(CliError::input)?;
    Ok(Opened { transport: Arc::new(transport), ros, domain: options.domain })
}

#[cfg(not(feature = "r2r"))]
fn open_r2r(_: &SessionOptions, _: RosArguments) -> Result<Opened, CliError> {
    let lacks = "--transport r2r: not in this build: use zenoh or dds, which need no ROS, or source a ROS 2 (setup.bash; \
                 without one AMENT_PREFIX_PATH, ROS_DISTRO and LIBCLANG_PATH) and build with the feature `r2r`";
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

    #[test]
    fn what_r2r_cannot_be_told_and_a_build_without_it_are_refused_by_name() {
        let arguments = |words: WireArguments| {
            let refused = WireArguments { transport: Some(TransportName::R2r), ..words }.open("a", SessionMode::Peer);
            refused.err().unwrap().to_string()
        };
        let router = WireArguments { router: Some("tcp/127.0.0.1:1".to_owned()), ..Default::default() };
        assert!(arguments(router).starts_with("--router: with --transport r2r"));
        assert!(arguments(WireArguments { humble: true, ..Default::default() }).starts_with("--humble"));
        #[cfg(not(feature = "r2r"))]
        {
            let lacks = arguments(WireArguments::default());
            assert!(lacks.contains("feature `r2r`") && lacks.contains("source a ROS 2"), "{lacks}");
        }
    }
}
