//! `endplate sim --bus`: an emulated servo bus on a pseudo-terminal, for any driver.

use super::devices::BusMake;
use super::error::CliError;
use super::run::parse_span;
use clap::Args;
use endplate_sim::bus::{BusFaults, BusOptions, EmulatedBus, FreeJoints, Make};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of `endplate sim --bus`.
#[derive(Args)]
pub struct SimBusArguments {
    /// Emulate a servo bus and print the path a driver opens.
    #[arg(long, value_enum, conflicts_with = "transport")]
    pub bus: Option<BusMake>,
    /// Servos, with ids from 1 on.
    #[arg(long, default_value_t = 6)]
    pub servos: u8,
    /// Make a link to the bus here, so that its path stays the same.
    #[arg(long, value_name = "PATH")]
    pub link: Option<PathBuf>,
    /// Servos are deaf to a port whose baud rate is not that of their registers (1 Mbaud at first), as real ones are.
    #[arg(long)]
    pub minds_baud: bool,
    /// Share of answers with changed bytes, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub corrupt: f64,
    /// Share of answers that are lost, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub drop: f64,
    /// Share of answers with noise before them, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub noise: f64,
    /// Give every request back, as some adapters do.
    #[arg(long)]
    pub echo: bool,
    /// A servo that answers late: ID:DELAY, such as 3:5ms.
    #[arg(long, value_name = "ID:DELAY")]
    pub slow: Option<String>,
    /// All servos lose power: EVERY:FOR, such as 10s:0.5s.
    #[arg(long, value_name = "EVERY:FOR")]
    pub brown_out: Option<String>,
}

/// Serves a bus of this make, with faults from `seed`, for so many seconds or until interrupted.
pub fn sim_bus(arguments: &SimBusArguments, make: BusMake, seed: u64, seconds: Option<f64>) -> Result<(), CliError> {
    let bad = |key: &str, text: &str, form: &str| CliError::Input(format!("--{key} {text}: write {form}"));
    for (key, share) in [("corrupt", arguments.corrupt), ("drop", arguments.drop), ("noise", arguments.noise)] {
        if !(0.0..=1.0).contains(&share) {
            return Err(bad(key, &share.to_string(), "a share from 0 to 1"));
        }
    }
    if !(1..=16).contains(&arguments.servos) {
        return Err(bad("servos", &arguments.servos.to_string(), "1 to 16"));
    }
    let slow = arguments.slow.as_deref().map(|text| {
        let parts = text.split_once(':').and_then(|(id, delay)| Some((id.parse().ok()?, parse_span(delay)?)));
        parts.ok_or_else(|| bad("slow", text, "an id and a delay, such as 3:5ms"))
    });
    let brown_out = arguments.brown_out.as_deref().map(|text| {
        let parts = text.split_once(':').and_then(|(every, lasting)| Some((parse_span(every)?, parse_span(lasting)?)));
        parts.filter(|(every, lasting)| every > lasting).ok_or_else(|| bad("brown-out", text, "spans such as 10s:0.5s"))
    });
    let make = match make {
        BusMake::Feetech => Make::Feetech,
        BusMake::Dynamixel => Make::Dynamixel,
    };
    let mut options = BusOptions::new(make, usize::from(arguments.servos));
    options.seed = seed;
    options.minds_baud = arguments.minds_baud;
    options.faults = BusFaults {
        corrupt: arguments.corrupt,
        drop: arguments.drop,
        noise: arguments.noise,
        echo: arguments.echo,
        slow: slow.transpose()?,
        brown_out: brown_out.transpose()?,
    };
    let joints = FreeJoints::new(usize::from(arguments.servos), 4.6);
    let bus = EmulatedBus::start(options, Box::new(joints)).map_err(CliError::failed)?;
    if let Some(link) = &arguments.link {
        if link.is_symlink() {
            std::fs::remove_file(link).map_err(|error| CliError::Input(format!("{}: {error}", link.display())))?;
        }
        std::os::unix::fs::symlink(bus.path(), link)
            .map_err(|error| CliError::Input(format!("{}: {error}", link.display())))?;
    }
    say!("{}", bus.path().display());
    std::io::stdout().flush().map_err(CliError::failed)?;
    let start = Instant::now();
    let limit = seconds.map_or(Duration::MAX, Duration::from_secs_f64);
    while start.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
    remark!("{:?}", bus.counts());
    Ok(())
}
