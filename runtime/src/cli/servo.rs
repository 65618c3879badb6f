//! `endplate servo`: find servos, and set their ids and baud rates.

use super::devices::BusMake;
use super::error::CliError;
use clap::{Args, Subcommand};
use endplate_hal::servo::{Master, Protocol, SerialPort, Timing, dynamixel, feetech, model_name};
use std::path::PathBuf;
use std::time::Duration;

/// What to do with servos.
#[derive(Subcommand)]
pub enum ServoCommand {
    /// List serial ports and, on the port given, every servo at every baud rate.
    Scan(PortArguments),
    /// Show what one servo says of itself.
    Read {
        /// The bus.
        #[command(flatten)]
        port: PortArguments,
        /// The servo.
        #[arg(long)]
        id: u8,
    },
    /// Give a servo another id: connect it alone.
    SetId {
        /// The bus.
        #[command(flatten)]
        port: PortArguments,
        /// Its present id.
        #[arg(long)]
        id: u8,
        /// Its new id.
        #[arg(long)]
        to: u8,
    },
    /// Set a servo's baud rate.
    SetBaud {
        /// The bus.
        #[command(flatten)]
        port: PortArguments,
        /// The servo.
        #[arg(long)]
        id: u8,
        /// Its new baud rate.
        #[arg(long)]
        to: u32,
    },
    /// Switch the torque of servos off; support the arm first. Also for a service's `ExecStopPost`.
    TorqueOff {
        /// The bus.
        #[command(flatten)]
        port: PortArguments,
        /// Ids; without it, all that answer.
        #[arg(long, value_delimiter = ',')]
        ids: Vec<u8>,
    },
}

/// Which bus.
#[derive(Args)]
pub struct PortArguments {
    /// Serial device; without it, `scan` lists the devices.
    #[arg(long)]
    port: Option<PathBuf>,
    /// Make of the servos.
    #[arg(long, value_enum, default_value = "feetech")]
    make: BusMake,
    /// Baud rate; without it 1 Mbaud, and `scan` tries all.
    #[arg(long)]
    baud: Option<u32>,
}

impl PortArguments {
    fn protocol(&self) -> Protocol {
        match self.make {
            BusMake::Feetech => Protocol::Feetech,
            BusMake::Dynamixel => Protocol::Dynamixel,
        }
    }

    fn rates(&self) -> &'static [u32] {
        match self.make {
            BusMake::Feetech => &feetech::BAUD_RATES,
            BusMake::Dynamixel => &dynamixel::BAUD_RATES,
        }
    }

    fn master(&self, baud: u32) -> Result<Master<SerialPort>, CliError> {
        let path = self.port.as_ref().ok_or_else(|| {
            CliError::Input("--port: name the serial device; `endplate servo scan` lists them".to_owned())
        })?;
        let port = SerialPort::open(path, baud).map_err(|error| {
            CliError::Input(format!(
                "--port {}: {error}: is it plugged in, and may this user open it (on Debian: group dialout)?",
                path.display()
            ))
        })?;
        // USB adapters may hold an answer back for 16 ms.
        Ok(Master::new(self.protocol(), port, Timing { baud, reply: Duration::from_millis(20), retries: 2 }))
    }

    fn open(&self) -> Result<Master<SerialPort>, CliError> {
        self.master(self.baud.unwrap_or(1_000_000))
    }
}

/// Runs the command.
pub fn servo(command: &ServoCommand) -> Result<(), CliError> {
    match command {
        ServoCommand::Scan(port) => scan(port),
        ServoCommand::Read { port, id } => read(port, *id),
        ServoCommand::SetId { port, id, to } => set_id(port, *id, *to),
        ServoCommand::SetBaud { port, id, to } => set_baud(port, *id, *to),
        ServoCommand::TorqueOff { port, ids } => torque_off(port, ids),
    }
}

fn scan(arguments: &PortArguments) -> Result<(), CliError> {
    if arguments.port.is_none() {
        for port in SerialPort::list() {
            say!("{}", port.display());
        }
        return Ok(());
    }
    let rates = arguments.baud.map_or_else(|| arguments.rates().to_vec(), |baud| vec![baud]);
    let (mut found, mut dropped) = (0, Vec::new());
    for baud in rates {
        let Ok(mut master) = arguments.master(baud) else {
            dropped.push(baud);
            continue;
        };
        let (seen, damaged) = master.broadcast_ping(Duration::from_millis(400)).map_err(CliError::failed)?;
        for (id, answers) in &seen {
            let model = master.ping(*id).map(|present| present.model);
            let model = model.map_or_else(|error| error.to_string(), |model| name(arguments.protocol(), model));
            let twice = if *answers > 1 { "  answers more than once: two servos share this id" } else { "" };
            say!("{baud:>8} baud  id {id:>3}  {model}{twice}");
        }
        if damaged > 0 {
            say!("{baud:>8} baud  {damaged} damaged answers: two servos may share an id, or the wiring is noisy");
        }
        found += seen.len();
    }
    if !dropped.is_empty() {
        say!("not tried, the port does not offer them: {dropped:?} baud");
    }
    match found {
        0 => Err(CliError::Failed("no servo answered: is the supply on, and the cable in?".to_owned())),
        _ => Ok(()),
    }
}

fn name(protocol: Protocol, model: u16) -> String {
    model_name(protocol, model).map_or_else(|| format!("model {model}"), str::to_owned)
}

fn read(arguments: &PortArguments, id: u8) -> Result<(), CliError> {
    let mut master = arguments.open()?;
    let model = master.ping(id).map_err(CliError::failed)?.model;
    say!("model        {}", name(arguments.protocol(), model));
    let registers: &[(&str, _, f64, &str)] = match arguments.protocol() {
        Protocol::Feetech => {
            use feetech::register as r;
            &[
                ("position", r::POSITION, 1.0, "counts"),
                ("range from", r::MIN_POSITION, 1.0, "counts"),
                ("range to", r::MAX_POSITION, 1.0, "counts"),
                ("offset", r::HOMING_OFFSET, 1.0, "counts"),
                ("torque", r::TORQUE, 1.0, ""),
                ("mode", r::MODE, 1.0, ""),
                ("lock", r::LOCK, 1.0, ""),
                ("load", r::LOAD, 0.1, "%"),
                ("current", r::CURRENT, 6.5, "mA"),
                ("voltage", r::VOLTAGE, 0.1, "V"),
                ("temperature", r::TEMPERATURE, 1.0, "°C"),
                ("alarms", r::STATUS, 1.0, "(1 voltage, 2 encoder, 4 temperature, 8 current, 32 overload)"),
            ]
        }
        Protocol::Dynamixel => {
            use dynamixel::register as r;
            &[
                ("position", r::POSITION, 1.0, "counts"),
                ("range from", r::MIN_POSITION, 1.0, "counts"),
                ("range to", r::MAX_POSITION, 1.0, "counts"),
                ("offset", r::HOMING_OFFSET, 1.0, "counts"),
                ("torque", r::TORQUE, 1.0, ""),
                ("mode", r::OPERATING_MODE, 1.0, ""),
                ("watchdog", r::BUS_WATCHDOG, 20.0, "ms"),
                ("voltage", r::VOLTAGE, 0.1, "V"),
                ("temperature", r::TEMPERATURE, 1.0, "°C"),
                ("alarms", r::HARDWARE_ERROR, 1.0, "(1 voltage, 4 temperature, 8 encoder, 16 shock, 32 overload)"),
            ]
        }
    };
    for (name, register, scale, unit) in registers {
        let value = master.read(id, *register).map_err(CliError::failed)?;
        say!("{name:<12} {} {unit}", (f64::from(value) * scale * 10.0).round() / 10.0);
    }
    Ok(())
}

fn set_id(arguments: &PortArguments, id: u8, to: u8) -> Result<(), CliError> {
    if to > 252 {
        return Err(CliError::Input(format!("--to {to}: ids reach from 0 to 252")));
    }
    let mut master = arguments.open()?;
    let (whole, damaged) = master.count_answers(id).map_err(CliError::failed)?;
    if whole > 1 || damaged > 0 {
        return Err(CliError::Failed(format!(
            "more than one servo answers to id {id}: connect the one to change alone"
        )));
    }
    if id != to && master.count_answers(to).map_err(CliError::failed)? != (0, 0) {
        return Err(CliError::Failed(format!("id {to} is taken by another servo on this bus: choose a free one")));
    }
    master.set_id(id, to).map_err(CliError::failed)?;
    say!("servo {id} is now {to}");
    Ok(())
}

fn set_baud(arguments: &PortArguments, id: u8, to: u32) -> Result<(), CliError> {
    let Some(index) = arguments.rates().iter().position(|&rate| rate == to) else {
        return Err(CliError::Input(format!("--to {to}: one of {:?}", arguments.rates())));
    };
    let mut master = arguments.open()?;
    master.ping(id).map_err(CliError::failed)?;
    master.set_baud(id, index as u8).map_err(CliError::failed)?;
    drop(master);
    let mut master = arguments.master(to)?;
    master.close_setup(id).map_err(|error| {
        CliError::Failed(format!(
            "{error}: the servo does not answer at {to} baud; scan, then switch its power off and on"
        ))
    })?;
    say!("servo {id} speaks at {to} baud");
    Ok(())
}

fn torque_off(arguments: &PortArguments, ids: &[u8]) -> Result<(), CliError> {
    let mut master = arguments.open()?;
    let register = match arguments.protocol() {
        Protocol::Feetech => feetech::register::TORQUE,
        Protocol::Dynamixel => dynamixel::register::TORQUE,
    };
    let ids = match ids {
        [] => master
            .broadcast_ping(Duration::from_millis(400))
            .map_err(CliError::failed)?
            .0
            .into_iter()
            .map(|(id, _)| id)
            .collect(),
        ids => ids.to_vec(),
    };
    let failed: Vec<String> = ids
        .iter()
        .filter_map(|&id| master.write_checked(id, register, 0).err())
        .map(|error| error.to_string())
        .collect();
    if ids.is_empty() || !failed.is_empty() {
        return Err(CliError::Failed(format!("torque is not off everywhere: {}; cut the power", failed.join("; "))));
    }
    say!("torque off: {ids:?}");
    Ok(())
}
