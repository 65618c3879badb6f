//! The `endplate` binary: the only place that knows every crate.
#![cfg_attr(test, allow(clippy::unwrap_used))]
// A build without the simulator or a transport leaves helpers of theirs without a caller.
#![cfg_attr(
    not(all(feature = "sim", feature = "serial", feature = "zenoh", feature = "mcap")),
    allow(dead_code, unused_macros)
)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod cli;

use clap::{Parser, Subcommand};
use endplate_runtime::realtime::LargePages;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: LargePages = LargePages;

/// The on-robot runtime for vision-language-action policies.
///
/// Without a command: `run`, the built-in demonstration.
#[derive(Parser)]
#[command(name = "endplate", version, after_help = cli::error::EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a policy on a robot; with no arguments the demonstration, in simulation, on the real clock.
    Run(Box<cli::run::RunArguments>),
    /// Compare bundles, engines and tasks on the same seeds: success with intervals, paired bounds, a table.
    #[cfg(feature = "sim")]
    Evaluate(Box<cli::evaluate::EvaluateArguments>),
    /// Validate a robot description and a bundle together; nothing moves.
    Check(cli::check::CheckArguments),
    /// Do what can be done for a robot whose process is gone: for systemd's `ExecStopPost=`.
    Stop(cli::stop::StopArguments),
    /// Ask a running robot to pause, resume, go home, park, begin the next episode, or end.
    #[cfg(feature = "serial")]
    Operator(cli::operator::AskArguments),
    /// Say what this machine, its engines and a bundle can do: one line each, with the fix.
    Doctor(cli::doctor::DoctorArguments),
    /// Run a bundle open loop on recorded inputs: `.npz` in, `.npz` out.
    Infer(cli::infer::InferArguments),
    /// Run a bundle on the observations of a recording and compare with what was answered then.
    #[cfg(feature = "mcap")]
    Replay(cli::replay::ReplayArguments),
    /// Write what goes into the graphs of a bundle on the observations of a recording: calibration data.
    #[cfg(feature = "mcap")]
    Capture(cli::capture::CaptureArguments),
    /// Compare two bundles, or two engines, on the observations of a recording: actions, tokens, speed.
    #[cfg(feature = "mcap")]
    Compare(cli::compare::CompareArguments),
    /// Calibrate servos, cameras and latencies, and check calibrations.
    #[command(subcommand)]
    Calibrate(cli::calibrate::CalibrateCommand),
    /// Encode and decode action chunks: JSON lines on standard input and output.
    #[command(subcommand)]
    Tokenize(cli::tokenize::TokenizeCommand),
    /// Measure: tables with p50, p99, p99.9 and max.
    Bench(Box<cli::bench::BenchArguments>),
    /// Find servos on a bus, read them, and set their ids and baud rates.
    #[cfg(feature = "serial")]
    #[command(subcommand)]
    Servo(cli::servo::ServoCommand),
    /// Serve the simulated robot: on a network in the form ROS 2 gives a robot (`--transport`), or as a servo bus on a
    /// pseudo-terminal (`--bus`).
    #[cfg(all(feature = "sim", feature = "zenoh"))]
    Sim(Box<cli::sim::SimArguments>),
    /// Record expert episodes and fit statistics and tokenizer: what the trainer reads.
    #[cfg(feature = "sim")]
    Dataset(cli::dataset::DatasetArguments),
}

fn main() -> ExitCode {
    cli::startup::begin();
    let arguments = Arguments::parse();
    let result = match arguments.command.unwrap_or_else(|| Command::Run(Box::default())) {
        Command::Run(arguments) => cli::run::run(&arguments),
        #[cfg(feature = "sim")]
        Command::Evaluate(arguments) => cli::evaluate::evaluate(&arguments),
        Command::Check(arguments) => cli::check::check(&arguments),
        Command::Stop(arguments) => cli::stop::stop(&arguments),
        #[cfg(feature = "serial")]
        Command::Operator(arguments) => cli::operator::ask(&arguments),
        Command::Doctor(arguments) => cli::doctor::doctor(&arguments),
        Command::Infer(arguments) => cli::infer::infer(&arguments),
        #[cfg(feature = "mcap")]
        Command::Replay(arguments) => cli::replay::replay(&arguments),
        #[cfg(feature = "mcap")]
        Command::Capture(arguments) => cli::capture::capture(&arguments),
        #[cfg(feature = "mcap")]
        Command::Compare(arguments) => cli::compare::compare(&arguments),
        Command::Calibrate(command) => cli::calibrate::calibrate(&command),
        Command::Tokenize(command) => cli::tokenize::tokenize(&command),
        Command::Bench(arguments) => cli::bench::bench(&arguments),
        #[cfg(feature = "serial")]
        Command::Servo(command) => cli::servo::servo(&command),
        #[cfg(all(feature = "sim", feature = "zenoh"))]
        Command::Sim(arguments) => cli::sim::sim(&arguments),
        #[cfg(feature = "sim")]
        Command::Dataset(arguments) => cli::dataset::dataset(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            remark!("error: {error}");
            error.exit_code()
        }
    }
}
