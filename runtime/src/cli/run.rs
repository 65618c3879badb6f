//! `endplate run`: the main job.

use super::bundle::{PolicyArguments, open_robot, require_fit};
use super::error::{CliError, require_one, require_writable, write};
use super::feasibility::require_time;
use super::report::RunReport;
#[cfg(feature = "sim")]
use super::simulation;
use clap::{Args, ValueEnum};
use core::time::Duration;
use endplate_hal::RobotSpec;
use std::path::PathBuf;

/// Arguments of `endplate run`.
#[derive(Args, Default)]
pub struct RunArguments {
    #[command(flatten)]
    pub policy: PolicyArguments,
    /// Robot description: a file, or the name of a built-in one (`so101_sim`, `so101_emulated`, `so100`, `so101`, `koch`, `viperx`); without it, the built-in
    /// simulated robot.
    #[arg(long)]
    pub robot: Option<PathBuf>,
    /// Episodes to run, in simulated time unless `--realtime`; without it three, one per colour, on the real clock.
    #[arg(long)]
    pub episodes: Option<u64>,
    /// Seed of the first episode: scene and phrasing follow from it.
    #[arg(long, default_value_t)]
    pub seed: Seed,
    /// On hardware: stop after so many seconds; without it, when interrupted.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// What to tell the policy, instead of each episode's own sentence.
    #[arg(long)]
    pub instruction: Option<String>,
    /// Name the colour that many places further on (red, green, blue): the same seeds with another cube meant.
    #[arg(long, default_value_t)]
    pub shift_colour: u64,
    /// Run on the real clock.
    #[arg(long)]
    pub realtime: bool,
    /// Refuse to start on the real clock unless the machine grants everything `[control.realtime]` asks for.
    #[arg(long)]
    pub require_realtime: bool,
    /// Serve counters and quantiles in Prometheus text format at this loopback address, such as 127.0.0.1:9464.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<std::net::SocketAddr>,
    /// Kick this hardware watchdog while the control loop makes progress, such as /dev/watchdog. systemd's watchdog is
    /// found by its environment.
    #[arg(long, value_name = "DEVICE")]
    pub watchdog_device: Option<PathBuf>,
    /// How long an inference takes in simulated time: `60ms`, `measured`, or `trace:FILE`.
    #[arg(long, default_value = "60ms")]
    pub latency: Option<String>,
    /// Write the latencies charged, one a line in ms, for `--latency trace:FILE`; with `--latency measured` and `--json`
    /// they are written beside the report even without this.
    #[arg(long, value_name = "FILE")]
    pub write_trace: Option<PathBuf>,
    /// How chunks are handed over, instead of the bundle's own or `switch`: MODE[:OPTION]…, such as `rtc:ask=every`
    /// (`runtime/HANDOVER.md`).
    #[arg(long, value_name = "MODE")]
    pub handover: Option<String>,
    /// Inject a fault: NAME@START_S or NAME@START_S+DURATION_S, in every episode; may be given again.
    #[arg(long, value_name = "FAULT")]
    pub fault: Vec<String>,
    /// Inject the faults of a file, one `--fault` a line (`#` begins a comment), or the one to five faults that
    /// `random:SEED` draws, in every episode.
    #[arg(long, value_name = "FILE|random:SEED")]
    pub fault_plan: Option<String>,
    /// What happens on the table.
    #[arg(long, value_enum, default_value_t)]
    pub task: Task,
    /// What the policy sees.
    #[arg(long, value_enum, default_value_t)]
    pub images: Images,
    /// Random light, colours and camera displacement in every episode.
    #[arg(long)]
    pub randomise: bool,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Record joints, commands, every observation and every answer as MCAP, for any ROS 2 tool and for `replay`.
    #[cfg(feature = "mcap")]
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Save what the cameras see, as PNG, twice a second.
    #[arg(long, value_name = "DIR")]
    pub save_frames: Option<PathBuf>,
    #[cfg(feature = "serial")]
    #[command(flatten)]
    pub operator: super::operator::OperatorArguments,
    /// Publish every command over Zenoh, as a ROS 2 node on rmw_zenoh does: connect to this router, for example
    /// `tcp/127.0.0.1:7447`.
    #[cfg(feature = "zenoh")]
    #[arg(long, value_name = "ENDPOINT")]
    pub zenoh: Option<String>,
    #[cfg(feature = "zenoh")]
    #[command(flatten)]
    pub node: super::node::NodeArguments,
}

/// A seed; episodes of an evaluation start at 1,000,000, where no training scene lies.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Default for Seed {
    fn default() -> Self {
        Self(1_000_000)
    }
}

impl core::fmt::Display for Seed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl core::str::FromStr for Seed {
    type Err = core::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What happens on the table.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// The cubes stay where they are until they are touched.
    #[default]
    Static,
    /// The named cube drifts, or is shoved to another place, while the arm is on its way, as the seed says; 12 s instead
    /// of 20.
    Moving,
}

/// What the policy sees.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Images {
    /// What the cameras see.
    #[default]
    Camera,
    /// Black: an ablation; a policy that still succeeds does not look.
    Black,
}

/// The default of `--latency` when `RunArguments` is made without the parser.
pub const DEFAULT_LATENCY: &str = "60ms";

/// Refuses what a robot that is not simulated in this process would silently do without; `supervised` where signals,
/// watchdogs, rights and metrics are looked after as in simulation.
pub fn refuse_foreign(arguments: &RunArguments, what: &str, supervised: bool) -> Result<(), CliError> {
    let mut given = vec![
        ("--fault", !arguments.fault.is_empty()),
        ("--fault-plan", arguments.fault_plan.is_some()),
        ("--save-frames", arguments.save_frames.is_some()),
        ("--write-trace", arguments.write_trace.is_some()),
    ];
    #[cfg(feature = "mcap")]
    given.push(("--record", arguments.record.is_some()));
    #[cfg(feature = "zenoh")]
    given.push(("--zenoh", arguments.zenoh.is_some()));
    if !supervised {
        given.push(("--require-realtime", arguments.require_realtime));
        given.push(("--metrics", arguments.metrics.is_some()));
        given.push(("--watchdog-device", arguments.watchdog_device.is_some()));
    }
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => Err(CliError::Input(format!("{name}: not built for {what} yet: leave it out"))),
    }
}

/// Prints a report, and writes it where `--json` says.
pub fn publish_report(arguments: &RunArguments, report: &RunReport) -> Result<(), CliError> {
    say_part!("{}", report.summary());
    match &arguments.json {
        Some(path) => write(path, report.to_json()),
        None => Ok(()),
    }
}

/// Runs the job and prints its summary.
pub fn run(arguments: &RunArguments) -> Result<(), CliError> {
    arguments.episodes.map_or(Ok(()), |episodes| require_one("--episodes", episodes))?;
    require_writable(arguments.json.iter().chain(&arguments.write_trace))?;
    #[allow(unused_mut)] // without servo buses
    let mut robot = open_robot(arguments.robot.as_ref())?;
    if robot.control.realtime.huge_pages {
        endplate_runtime::realtime::gather_heap();
    }
    #[cfg(feature = "serial")]
    super::robot_file::set_ports(&mut robot, &arguments.operator.port)?;
    #[cfg(feature = "zenoh")]
    if arguments.node.wire.transport.is_some() {
        let (bundle, loaded) = arguments.policy.load()?;
        require_time(&loaded, &robot)?;
        return super::node::run(arguments, &robot, &bundle, loaded);
    }
    let is_real = is_real(&robot);
    if let Some(camera) = robot.cameras.iter().find(|camera| (camera.driver == "sim") == is_real) {
        let (driver, other) = if is_real { ("\"sim\"", "a servo bus") } else { ("a real one", "no servo bus") };
        return Err(CliError::Input(format!(
            "{}: cameras[{}].driver is {driver} and the arm has {other}: describe devices of one world",
            robot.source, camera.name
        )));
    }
    #[cfg(feature = "serial")]
    if let (false, Some(option)) = (is_real, arguments.operator.given()) {
        return Err(CliError::Input(format!("{option}: this is for arms on a servo bus, and the robot is simulated")));
    }
    #[cfg(feature = "serial")]
    if is_real {
        // Seconds before anything else is loaded, and before torque.
        super::before_torque::require_sound(&robot, arguments.operator.parked)?;
    }
    let (bundle, loaded) = arguments.policy.load()?;
    require_fit(&bundle, &robot)?;
    if is_real || arguments.realtime || arguments.episodes.is_none() {
        require_time(&loaded, &robot)?;
    }
    #[cfg(feature = "serial")]
    if is_real {
        return super::real::run(arguments, &robot, &bundle, loaded);
    }
    #[cfg(not(feature = "sim"))]
    {
        let _ = loaded;
        Err(CliError::Input(format!(
            "{}: this robot is simulated, and the simulator is not in this build: name a robot on a bus (--robot), or build \
             with the feature `sim`",
            robot.source
        )))
    }
    #[cfg(feature = "sim")]
    {
        let report = simulation::run(arguments, &robot, &bundle, loaded)?;
        publish_report(arguments, &report)
    }
}

/// Whether the description is of hardware: an arm on a bus that is not emulated.
#[cfg(feature = "serial")]
fn is_real(robot: &RobotSpec) -> bool {
    super::robot_file::has_buses(robot) && !super::devices::is_emulated(robot)
}

#[cfg(not(feature = "serial"))]
fn is_real(_: &RobotSpec) -> bool {
    false
}

/// Parses a span such as `60ms`, `1.5ms` or `0.2s`.
pub fn parse_span(text: &str) -> Option<Duration> {
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s')?, 1.0),
    };
    let seconds: f64 = number.trim().parse().ok()?;
    (seconds.is_finite() && (0.0..=60.0).contains(&(seconds * scale))).then(|| Duration::from_secs_f64(seconds * scale))
}

#[cfg(test)]
mod tests {
    use super::parse_span;
    use core::time::Duration;

    #[test]
    fn spans_are_read_in_ms_and_s() {
        assert_eq!(parse_span("60ms"), Some(Duration::from_millis(60)));
        assert_eq!(parse_span("0.2s"), Some(Duration::from_millis(200)));
        for bad in ["60", "-1ms", "nanms", "ms", "1e9s"] {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
    }
}
