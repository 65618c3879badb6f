//! A middleware between two nodes of this process; what Zenoh sends passes a relay that can be told to take nothing.

use super::Disturbance;
use crate::cli::error::CliError;
use core::time::Duration;
use endplate_ros2::transport::Transport;
use endplate_ros2::{SessionMode, SessionOptions, ZenohTransport};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// ROS_DOMAIN_ID of the benchmark.
const DOMAIN: u32 = 97;
/// How often a relay looks whether it is to go on.
const LOOK: Duration = Duration::from_millis(20);

/// A middleware of this build.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    Zenoh,
    #[cfg(feature = "dds")]
    Dds,
    #[cfg(feature = "r2r")]
    R2r,
}

impl Backend {
    pub fn all() -> Vec<Self> {
        vec![
            Self::Zenoh,
            #[cfg(feature = "dds")]
            Self::Dds,
            #[cfg(feature = "r2r")]
            Self::R2r,
        ]
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Zenoh => "zenoh",
            #[cfg(feature = "dds")]
            Self::Dds => "dds",
            #[cfg(feature = "r2r")]
            Self::R2r => "r2r",
        }
    }

    /// DDS is datagrams, and what r2r has in one process is not even those: nothing of a peer's can fill up and block.
    pub fn disturbances(self) -> Vec<Disturbance> {
        match self {
            Self::Zenoh => vec![Disturbance::Blocked, Disturbance::Flooded, Disturbance::Cut],
            #[cfg(feature = "dds")]
            Self::Dds => vec![Disturbance::Flooded, Disturbance::Cut],
            #[cfg(feature = "r2r")]
            Self::R2r => vec![Disturbance::Flooded, Disturbance::Cut],
        }
    }
}

/// What joins the two nodes.
pub struct Network {
    pub backend: Backend,
    relay: Option<Relay>,
    router: String,
}

fn free_port() -> Result<u16, CliError> {
    let probe = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    probe.map(|address| address.port()).map_err(CliError::failed)
}

impl Network {
    pub fn open(backend: Backend) -> Result<Self, CliError> {
        let router = format!("127.0.0.1:{}", free_port()?);
        let relay = match backend {
            Backend::Zenoh => Some(Relay::open(&router)?),
            #[cfg(feature = "dds")]
            Backend::Dds => None,
            #[cfg(feature = "r2r")]
            Backend::R2r => None,
        };
        Ok(Self { backend, relay, router })
    }

    fn node(&self, options: SessionOptions) -> Result<Arc<dyn Transport>, CliError> {
        match self.backend {
            Backend::Zenoh => Ok(Arc::new(ZenohTransport::open(&options).map_err(CliError::failed)?)),
            #[cfg(feature = "dds")]
            Backend::Dds => {
                let of_dds = endplate_ros2::DdsOptions { domain: DOMAIN, node: options.node, ..Default::default() };
                Ok(Arc::new(endplate_ros2::DdsTransport::open(&of_dds).map_err(CliError::failed)?))
            }
            #[cfg(feature = "r2r")]
            Backend::R2r => {
                let of_r2r = endplate_ros2::R2rOptions { node: options.node, ..Default::default() };
                Ok(Arc::new(endplate_ros2::R2rTransport::open(&of_r2r).map_err(CliError::failed)?))
            }
        }
    }

    /// The robot's node; on Zenoh it is the router.
    pub fn robot(&self) -> Result<Arc<dyn Transport>, CliError> {
        self.node(SessionOptions {
            mode: SessionMode::Router,
            listen: vec![format!("tcp/{}", self.router)],
            connect: Vec::new(),
            domain: DOMAIN,
            node: "bench_robot".into(),
            ..SessionOptions::default()
        })
    }

    /// The node under test; on Zenoh it reaches the router through the relay only.
    pub fn policy(&self) -> Result<Arc<dyn Transport>, CliError> {
        let through = self.relay.as_ref().map_or_else(String::new, |relay| relay.address.to_string());
        self.node(SessionOptions {
            mode: SessionMode::Client,
            connect: vec![format!("tcp/{through}")],
            domain: DOMAIN,
            node: "bench_policy".into(),
            // A lost router is looked for again at once.
            overrides: vec![("connect/retry".into(), "{ period_init_ms: 100, period_max_ms: 200 }".into())],
            ..SessionOptions::default()
        })
    }

    /// Whether connections can be cut; otherwise a peer has to go.
    pub fn can_cut(&self) -> bool {
        self.relay.is_some()
    }

    /// Takes nothing from either side any more, while connections stay.
    pub fn block(&self, on: bool) {
        if let Some(relay) = &self.relay {
            relay.state.blocked.store(on, Ordering::Release);
        }
    }

    /// Ends every connection and takes no new one.
    pub fn cut(&self, on: bool) {
        if let Some(relay) = &self.relay {
            relay.state.cut.store(on, Ordering::Release);
        }
    }
}

#[derive(Default)]
struct RelayState {
    blocked: AtomicBool,
    cut: AtomicBool,
    ending: AtomicBool,
}

struct Relay {
    address: SocketAddr,
    state: Arc<RelayState>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn open(to: &str) -> Result<Self, CliError> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(CliError::failed)?;
        listener.set_nonblocking(true).map_err(CliError::failed)?;
        let address = listener.local_addr().map_err(CliError::failed)?;
        let state = Arc::<RelayState>::default();
        let (of_thread, to) = (Arc::clone(&state), to.to_owned());
        let run = move || {
            let mut pumps: Vec<JoinHandle<()>> = Vec::new();
            while !of_thread.ending.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((near, _)) if !of_thread.cut.load(Ordering::Acquire) => {
                        if let Ok(far) = TcpStream::connect(&to) {
                            pumps.extend(pump_both(near, far, &of_thread));
                        }
                    }
                    Ok(_) => {} // cut: dropped at once
                    Err(_) => std::thread::sleep(LOOK),
                }
            }
            pumps.into_iter().for_each(|pump| drop(pump.join()));
        };
        let thread = std::thread::Builder::new().name("bench-relay".into()).spawn(run).map_err(CliError::failed)?;
        Ok(Self { address, state, thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ending.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has been printed
        }
    }
}

fn pump_both(near: TcpStream, far: TcpStream, state: &Arc<RelayState>) -> Vec<JoinHandle<()>> {
    let _ = (near.set_nodelay(true), far.set_nodelay(true)); // a slower relay where they refuse
    let pairs = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
    let pumps = pairs.into_iter().filter_map(|(from, to)| Some((from.ok()?, to.ok()?)));
    pumps
        .map(|(from, to)| {
            let state = Arc::clone(state);
            std::thread::spawn(move || pump(from, to, &state))
        })
        .collect()
}

/// Copies one direction until an end closes or the relay does.
fn pump(mut from: TcpStream, mut to: TcpStream, state: &RelayState) {
    let mut buffer = vec![0; 1 << 16];
    let _ = from.set_read_timeout(Some(LOOK)); // without it a cut waits for the next message
    let is_over = || state.cut.load(Ordering::Acquire) || state.ending.load(Ordering::Acquire);
    while !is_over() {
        if state.blocked.load(Ordering::Acquire) {
            std::thread::sleep(LOOK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) if to.write_all(&buffer[..got]).is_err() => break,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)); // closed already, perhaps
}
