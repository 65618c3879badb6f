//! `bench faults`: random fault plans, judged by every command made; and the fault matrix.
//!
//! Thousands of plans run with drawn chunks on a kinematic arm; with `--trained`, hundreds with the bundle's own policy on
//! the simulated robot.

use super::judge::Judge;
use super::kinematic::{Draw, START, Trial};
use super::{BenchArguments, Row};
use crate::cli::bundle::{PolicyArguments, open_robot};
use crate::cli::error::{CliError, require_one, write};
use crate::cli::run::{RunArguments, Seed, Task};
use crate::cli::simulation::{Bench, runtime_faults};
use crate::cli::view::View;
use core::time::Duration;
use endplate_hal::RobotSpec;
use endplate_policies::PolicySpec;
use endplate_runtime::Rung;
use endplate_runtime::handover::Handover;
use endplate_sim::fault::{Fault, FaultPlan as BodyFaults};
use indicatif::ProgressBar;
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Arc;

const LENGTH: Duration = Duration::from_secs(5);
/// Periods of the longest episode, and some.
const RECORDS: usize = 1 << 14;
const HANDOVERS: [&str; 7] = [
    "switch",
    "blend",
    "ensemble",
    "rtc:ask=every",
    "switch:project",
    "switch:catch_up=0.5",
    "switch:lead=150ms:catch_up=0.25",
];

/// Runs the seeds asked for, or the matrix.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    require_one("--seeds", arguments.seeds)?;
    let robot = open_robot(None)?;
    if arguments.trained {
        return seeds(arguments, "random fault plans, trained policy", |seed| trained(arguments, &robot, seed));
    }
    let policy = PolicyArguments::default().open()?.spec().clone();
    if arguments.matrix {
        matrix(arguments, &robot, &policy)
    } else {
        seeds(arguments, "random fault plans, kinematic arm", |seed| drawn(&robot, &policy, seed))
    }
}

/// Runs the seeds asked for, each judged by `run`.
fn seeds<'a>(
    arguments: &BenchArguments,
    what: &str,
    mut run: impl FnMut(u64) -> Result<Judge<'a>, CliError>,
) -> Result<Vec<Row>, CliError> {
    let replay = |seed: u64| {
        let trained = if arguments.trained { " --trained" } else { "" };
        let bundle =
            arguments.policy.bundle.as_ref().map_or(String::new(), |path| format!(" --bundle {}", path.display()));
        format!("endplate bench faults{trained}{bundle} --first-seed {seed} --seeds 1")
    };
    let bar = ProgressBar::new(arguments.seeds);
    let mut broken = Vec::new();
    let mut commands = 0u64;
    let mut rungs = [0u64; 5];
    for seed in arguments.first_seed..arguments.first_seed.saturating_add(arguments.seeds) {
        let judge = run(seed)?;
        commands += judge.commands;
        for (sum, count) in rungs.iter_mut().zip(judge.rungs) {
            *sum += count;
        }
        if let Some(what) = judge.broken {
            bar.println(format!("seed {seed}: {what}\n  replay: {}", replay(seed)));
            broken.push(seed);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(seed) = broken.first() {
        let (count, seeds) = (broken.len(), arguments.seeds);
        return Err(CliError::Failed(format!(
            "{count} of {seeds} seeds broke a property; replay the first: {}",
            replay(*seed)
        )));
    }
    let mut row = Row::new();
    row.insert("what".to_owned(), what.into());
    row.insert("seeds".to_owned(), json!(arguments.seeds));
    row.insert("first_seed".to_owned(), json!(arguments.first_seed));
    row.insert("broken".to_owned(), json!(0));
    row.insert("commands".to_owned(), json!(commands));
    for (name, count) in ["fresh", "continued", "decelerated", "held", "stopped"].into_iter().zip(rungs) {
        row.insert(name.to_owned(), json!(count));
    }
    Ok(vec![row])
}

/// The plan of a seed with drawn chunks on a kinematic arm.
fn drawn<'a>(robot: &'a RobotSpec, policy: &PolicySpec, seed: u64) -> Result<Judge<'a>, CliError> {
    let cameras: Vec<&str> = robot.cameras.iter().map(|camera| camera.name.as_str()).collect();
    let faults = Fault::sample(seed, &cameras, LENGTH);
    let mut judge = Judge::new(robot);
    judge.expect(&faults);
    let mut draw = Draw(seed ^ 0x5eed);
    let handover = HANDOVERS[(draw.unit() * HANDOVERS.len() as f64) as usize];
    let slowest = draw.between(0.02, 0.7);
    let trial = Trial {
        robot,
        policy,
        seed,
        handover: Handover::parse(handover).map_err(CliError::failed)?,
        latencies: (0..64).map(|_| Duration::from_secs_f64(draw.between(0.0, slowest))).collect(),
        body: Arc::new(BodyFaults::new(faults.clone())),
        inner: runtime_faults(&faults),
        length: LENGTH,
    };
    trial.run(|record| judge.watch(record)).map_err(CliError::failed)?;
    Ok(judge)
}

/// The plan of a seed with the policy of `--bundle` on the simulated robot: an episode, and one of the handovers that go
/// with the policy.
fn trained<'a>(arguments: &BenchArguments, robot: &'a RobotSpec, seed: u64) -> Result<Judge<'a>, CliError> {
    let (bundle, loaded) = arguments.policy.load()?;
    let mut draw = Draw(seed ^ 0x5eed);
    let fitting: Vec<Handover> = HANDOVERS
        .iter()
        .filter_map(|text| Handover::parse(text).ok())
        .filter(|handover| handover.check(bundle.spec()).is_ok())
        .collect();
    let Some(handover) = fitting.get((draw.unit() * fitting.len() as f64) as usize) else {
        return Err(CliError::Failed(format!("no handover goes with {}", bundle.spec().name)));
    };
    let run = RunArguments {
        episodes: Some(1),
        seed: Seed(500_000 + seed),
        latency: Some(format!("{:.0}ms", 1e3 * draw.between(0.0, 0.4))),
        handover: Some(handover.to_string()),
        fault_plan: Some(format!("random:{seed}")),
        task: if draw.unit() < 0.5 { Task::Static } else { Task::Moving },
        ..RunArguments::default()
    };
    let mut bench = Bench::new(&run, robot, &bundle, loaded, View::quiet())?;
    let mut judge = Judge::new(robot);
    judge.expect(&bench.planned_faults());
    let mut records = bench.watch_records(RECORDS);
    bench.simulated_episode(0)?;
    while let Ok(record) = records.pop() {
        judge.watch(&record);
    }
    Ok(judge)
}

/// Every fault with the lowest rung the design gives it, and for how long it strikes.
const MATRIX: &[(&str, &str, Rung, &str)] = &[
    ("camera_drop:front@2+1.5", "newest frame older than max_age", Rung::Held, "recovers"),
    ("camera_freeze:wrist@2+1.5", "same sequence: frame grows old", Rung::Held, "recovers"),
    ("camera_duplicate:front@2+1.5", "every other frame is no news", Rung::Continued, "goes on"),
    ("camera_future_stamp:wrist@2+1.5", "stamp in the future", Rung::Held, "recovers"),
    ("state_loss@2+1.5", "joint state older than max_age", Rung::Held, "recovers"),
    ("state_jump@2+1.5", "a step no joint can make", Rung::Held, "recovers"),
    ("bus_error@2+0.03", "writes fail, fewer than write_failures", Rung::Decelerated, "recovers"),
    ("bus_error@2+1.5", "write_failures in a row: latched", Rung::Stopped, "latched"),
    ("inference_stall@2+3", "old chunk, then no rows", Rung::Held, "recovers"),
    ("latency_drift@2+1.5", "the old chunk covers it", Rung::Continued, "goes on"),
    ("output_nan@2+2.5", "refused; repeated: hold", Rung::Held, "recovers"),
    ("output_inf@2+2.5", "refused; repeated: hold", Rung::Held, "recovers"),
    ("output_huge@2+2.5", "joint limits clamp what is finite", Rung::Continued, "goes on"),
    ("tokens_garbage@2+2.5", "refused; repeated: hold", Rung::Held, "recovers"),
    ("tokens_truncated@2+2.5", "refused; repeated: hold", Rung::Held, "recovers"),
    ("clock_step@2+1.5", "device stamps step back", Rung::Held, "recovers"),
    ("instruction_change@2", "chunks asked before are refused", Rung::Held, "recovers"),
    ("estop@2+0.5", "controlled stop, torque on", Rung::Stopped, "latched"),
];

fn matrix(arguments: &BenchArguments, robot: &RobotSpec, policy: &PolicySpec) -> Result<Vec<Row>, CliError> {
    let mut text = String::from(
        "| fault | why | lowest rung expected | observed | first step down after | at rest after | afterwards |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for &(fault, why, expected, afterwards) in MATRIX {
        let parsed = Fault::parse(fault).map_err(CliError::failed)?;
        let onset = START.saturating_add(parsed.start);
        let faults = vec![parsed];
        let mut judge = Judge::new(robot);
        judge.expect(&faults);
        let (mut lowest, mut down, mut rest, mut end) = (Rung::Fresh, None, None, Rung::Fresh);
        let trial = Trial {
            robot,
            policy,
            seed: 1,
            handover: Handover::default(),
            latencies: vec![Duration::from_millis(60)],
            body: Arc::new(BodyFaults::new(faults.clone())),
            inner: runtime_faults(&faults),
            length: Duration::from_secs(8),
        };
        trial
            .run(|record| {
                judge.watch(record);
                end = record.rung;
                if record.now >= onset {
                    let since = record.now.duration_since(onset);
                    lowest = lowest.max(record.rung);
                    down = down.or_else(|| (record.rung > Rung::Continued).then_some(since));
                    rest = rest.or_else(|| (record.rung > Rung::Decelerated).then_some(since));
                }
            })
            .map_err(CliError::failed)?;
        let became = match (end, lowest) {
            (Rung::Stopped, _) => "latched",
            (_, Rung::Fresh | Rung::Continued) => "goes on",
            (Rung::Fresh | Rung::Continued, _) => "recovers",
            _ => "stays down",
        };
        // Never lower than the design says; a brake may end before the arm is at rest.
        let fits = judge.broken.is_none() && became == afterwards && lowest <= expected;
        if !fits {
            wrong.push(format!("{fault}: {lowest:?}, {became}, {:?}", judge.broken));
        }
        let millis = |span: Option<Duration>| span.map_or("–".to_owned(), |span| format!("{} ms", span.as_millis()));
        let word = |rung: Rung| format!("{rung:?}").to_lowercase();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| `{fault}` | {why} | {} | {} | {} | {} | {became} |",
            word(expected),
            word(lowest),
            millis(down),
            millis(rest)
        );
        let mut row = Row::new();
        row.insert("what".to_owned(), fault.into());
        row.insert("expected".to_owned(), word(expected).into());
        row.insert("observed".to_owned(), word(lowest).into());
        row.insert("first_step_down_ms".to_owned(), json!(down.map(|span| span.as_millis() as u64)));
        row.insert("at_rest_ms".to_owned(), json!(rest.map(|span| span.as_millis() as u64)));
        row.insert("afterwards".to_owned(), became.into());
        rows.push(row);
    }
    if let Some(path) = &arguments.markdown {
        write(path, &text)?;
    }
    if wrong.is_empty() { Ok(rows) } else { Err(CliError::Failed(format!("not as designed: {}", wrong.join("; ")))) }
}
