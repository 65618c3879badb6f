//! `bench faults`: random fault plans on a kinematic robot, judged by every command made; and the fault matrix.

use super::kinematic::{Draw, START, Trial, WARM_UP};
use super::{BenchArguments, Row};
use crate::cli::bundle::{PolicyArguments, open_robot};
use crate::cli::error::{CliError, write};
use crate::cli::simulation::runtime_faults;
use core::time::Duration;
use endplate_hal::{Instant, RobotSpec};
use endplate_policies::PolicySpec;
use endplate_runtime::handover::Handover;
use endplate_runtime::{Rung, TickRecord};
use endplate_sim::fault::{Fault, FaultKind, FaultPlan as BodyFaults};
use indicatif::ProgressBar;
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Arc;

const LENGTH: Duration = Duration::from_secs(5);
const HANDOVERS: [&str; 5] = ["switch", "blend", "ensemble", "rtc:ask=every", "switch:project"];

/// Runs the seeds asked for, or the matrix.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let robot = open_robot(None)?;
    let policy = PolicyArguments::default().open()?.spec().clone();
    if arguments.matrix { matrix(arguments, &robot, &policy) } else { seeds(arguments, &robot, &policy) }
}

fn seeds(arguments: &BenchArguments, robot: &RobotSpec, policy: &PolicySpec) -> Result<Vec<Row>, CliError> {
    let bar = ProgressBar::new(arguments.seeds);
    let mut broken = Vec::new();
    let mut commands = 0u64;
    let mut rungs = [0u64; 5];
    for seed in arguments.first_seed..arguments.first_seed.saturating_add(arguments.seeds) {
        let mut judge = Judge::new(robot);
        run(robot, policy, seed, &mut judge)?;
        commands += judge.commands;
        for (sum, count) in rungs.iter_mut().zip(judge.rungs) {
            *sum += count;
        }
        if let Some(what) = judge.broken {
            bar.println(format!("seed {seed}: {what}\n  replay: endplate bench faults --first-seed {seed} --seeds 1"));
            broken.push(seed);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(seed) = broken.first() {
        let (count, seeds) = (broken.len(), arguments.seeds);
        return Err(CliError::Failed(format!(
            "{count} of {seeds} seeds broke a property; replay the first: endplate bench faults --first-seed {seed} --seeds 1"
        )));
    }
    let mut row = Row::new();
    row.insert("what".to_owned(), "random fault plans, kinematic arm".into());
    row.insert("seeds".to_owned(), json!(arguments.seeds));
    row.insert("first_seed".to_owned(), json!(arguments.first_seed));
    row.insert("broken".to_owned(), json!(0));
    row.insert("commands".to_owned(), json!(commands));
    for (name, count) in ["fresh", "continued", "decelerated", "held", "stopped"].into_iter().zip(rungs) {
        row.insert(name.to_owned(), json!(count));
    }
    Ok(vec![row])
}

/// Runs the plan of a seed.
fn run(robot: &RobotSpec, policy: &PolicySpec, seed: u64, judge: &mut Judge) -> Result<(), CliError> {
    let cameras: Vec<&str> = robot.cameras.iter().map(|camera| camera.name.as_str()).collect();
    let faults = Fault::sample(seed, &cameras, LENGTH);
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
    trial.run(|record| judge.watch(record)).map_err(CliError::failed)
}

/// Checks what must hold of every command, whatever fails.
struct Judge<'a> {
    robot: &'a RobotSpec,
    estop: Option<Instant>,
    last: Option<TickRecord>,
    velocity: Vec<f64>,
    acceleration: Vec<f64>,
    braking_since: Option<Instant>,
    commands: u64,
    rungs: [u64; 5],
    broken: Option<String>,
}

impl<'a> Judge<'a> {
    fn new(robot: &'a RobotSpec) -> Self {
        let joints = robot.joints.len();
        Self {
            robot,
            estop: None,
            last: None,
            velocity: vec![0.0; joints],
            acceleration: vec![0.0; joints],
            braking_since: None,
            commands: 0,
            rungs: [0; 5],
            broken: None,
        }
    }

    fn expect(&mut self, faults: &[Fault]) {
        // One that is let go again before activation is no business of the control loop's.
        let is_seen = |fault: &&Fault| {
            fault.kind == FaultKind::Estop && fault.duration.is_none_or(|duration| fault.start + duration > WARM_UP)
        };
        let pressed = faults.iter().filter(is_seen).map(|fault| fault.start).min();
        self.estop = pressed.map(|start| START.saturating_add(start.max(WARM_UP)));
    }

    fn watch(&mut self, record: &TickRecord) {
        self.commands += 1;
        self.rungs[record.rung as usize] += 1;
        let broken = self.motion(record).or_else(|| self.ladder(record)).or_else(|| self.age(record));
        if let (None, Some(what)) = (&self.broken, broken) {
            let at = record.now.seconds_since(START);
            self.broken = Some(format!("at {at:.2} s on {:?} because of {:?}: {what}", record.rung, record.cause));
        }
        self.last = Some(*record);
    }

    /// Finite, inside the limits, continuous to the jerk.
    fn motion(&mut self, record: &TickRecord) -> Option<String> {
        let dt = self.robot.control.period.as_secs_f64();
        let mut broken = None;
        for (joint, described) in self.robot.joints.iter().enumerate() {
            let limits = &described.limits;
            let p = record.command.position_rad()[joint];
            let before = self.last.as_ref().map_or(p, |last| last.command.position_rad()[joint]);
            let v = (p - before) / dt;
            let a = (v - self.velocity[joint]) / dt;
            let j = (a - self.acceleration[joint]) / dt;
            let checks = [
                (p.is_finite(), "is not finite", p),
                (p >= limits.lower_rad - 1e-9 && p <= limits.upper_rad + 1e-9, "is outside its limits", p),
                (v.abs() <= limits.velocity_rad_s + 1e-6, "is too fast, rad/s", v),
                (a.abs() <= limits.acceleration_rad_s2 + 1e-3, "accelerates too hard, rad/s²", a),
                (j.abs() <= limits.jerk_rad_s3 + 1.0, "jerks, rad/s³", j),
            ];
            let wrong = checks.into_iter().find(|(holds, _, _)| !holds);
            broken = broken.or_else(|| wrong.map(|(_, what, value)| format!("{} {what}: {value}", described.name)));
            (self.velocity[joint], self.acceleration[joint]) = (v, a);
        }
        broken
    }

    /// One command a period; down one way only; a stop latches, ends in time, and an e-stop is seen in its period.
    fn ladder(&mut self, record: &TickRecord) -> Option<String> {
        let plays = matches!(record.rung, Rung::Fresh | Rung::Continued);
        if plays {
            self.braking_since = None;
        } else if record.rung == Rung::Decelerated {
            let since = *self.braking_since.get_or_insert(record.now);
            if record.now.duration_since(since) > self.robot.control.stop_time {
                return Some("brakes longer than the declared stop time".to_owned());
            }
        }
        if self.estop.is_some_and(|estop| record.now >= estop) && plays {
            return Some("plays on after the e-stop".to_owned());
        }
        let last = self.last.as_ref()?;
        if record.now.duration_since(last.now) != self.robot.control.period {
            return Some("a period without a command".to_owned());
        }
        match (last.rung, record.rung) {
            (Rung::Held | Rung::Stopped, Rung::Decelerated) => Some("moves again without a chunk".to_owned()),
            (Rung::Stopped, rung) if rung != Rung::Stopped => Some("left a latched stop".to_owned()),
            (Rung::Fresh | Rung::Continued, Rung::Held | Rung::Stopped)
                if self.velocity.iter().any(|v| v.abs() > 1e-9) =>
            {
                Some("holds while moving".to_owned())
            }
            _ => None,
        }
    }

    /// What is played was seen recently enough, and the command may still be sent.
    fn age(&self, record: &TickRecord) -> Option<String> {
        if record.command.valid_until() < record.now {
            return Some("the command had expired when it was made".to_owned());
        }
        let captured = record.captured?;
        let age = record.now.duration_since(captured);
        if age > self.robot.control.max_chunk_age {
            return Some(format!("follows from a frame {age:?} old"));
        }
        let state = record.state.map(|state| record.now.duration_since(state.stamp));
        if state.is_none_or(|age| age > self.robot.control.state_max_age) {
            return Some(format!("plays on a joint state {state:?} old"));
        }
        None
    }
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
