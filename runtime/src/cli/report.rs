//! What a run says about itself: the JSON of `--json` and the summary on the terminal.

use super::statistics::wilson;
use super::supervision::SupervisionReport;
use core::time::Duration;
use endplate_hal::{JointSpec, Limit};
use endplate_policies::EngineInfo;
use endplate_runtime::{
    CauseCounts, ControlCounts, InferenceCounts, LadderCounts, Percentiles, PlanCounts, STAGES, Samples,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// One episode.
#[derive(Clone, Debug, Serialize)]
pub struct Episode {
    /// Seed of scene and phrasing.
    pub seed: u64,
    /// What the policy was told.
    pub instruction: String,
    /// The colour meant.
    pub target: String,
    /// `success`, `wrong_pick`, `failure`, or [`INTERRUPTED`].
    pub outcome: String,
    /// Simulated or real seconds.
    pub duration_s: f64,
}

/// The outcome of an episode that a signal ended; it does not count as an episode.
pub const INTERRUPTED: &str = "interrupted";
/// The outcome of an episode on hardware that the operator did not judge; it does not count either.
pub const UNJUDGED: &str = "unjudged";

/// The control side of the report.
#[derive(Clone, Debug, Serialize)]
pub struct ControlReport {
    rate_hz: f64,
    periods: u64,
    commands: u64,
    overruns: u64,
    limited: u64,
    limited_by: BTreeMap<String, u64>,
    lateness_us: Option<Percentiles>,
    camera_to_command_ms: Option<Percentiles>,
}

/// The inference side of the report.
#[derive(Clone, Debug, Serialize)]
pub struct InferenceReport {
    engine: String,
    engine_version: String,
    library: String,
    providers: Vec<String>,
    /// Nodes of each graph by the provider that holds them.
    nodes: BTreeMap<String, BTreeMap<String, usize>>,
    /// Preferred providers that could not start.
    providers_left_out: Vec<String>,
    precision: String,
    chunks: u64,
    latency_ms: Option<Percentiles>,
    stages_ms: BTreeMap<&'static str, Percentiles>,
    deadline_ms: f64,
    deadline_misses: u64,
    visual_tokens_per_chunk: f64,
    tokens_per_chunk: f64,
    constrained_tokens: u64,
    exited_tokens: u64,
    passes_per_chunk: f64,
    actions_per_compute_s: f64,
    blocks_per_chunk: f64,
    plans: PlanCounts,
    /// Times the machine changed its speed, and plans with it.
    replanned: u64,
    /// Of answers that were cut off, normalised units.
    largest_error_bound: f64,
    stop_reasons: BTreeMap<String, u64>,
    last_refusal: Option<String>,
}

/// The whole report; its shape is fixed, its fields only grow.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    version: &'static str,
    mode: &'static str,
    clock: &'static str,
    latency_model: String,
    seed: u64,
    bundle_digest: String,
    episodes: usize,
    successes: usize,
    wrong_picks: usize,
    per_episode: Vec<Episode>,
    control: ControlReport,
    inference: InferenceReport,
    ladder: LadderCounts,
    faults: BTreeMap<String, u64>,
    command_digest: String,
    /// Servo buses, where there are any.
    #[cfg(feature = "serial")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    buses: Vec<super::bus_figures::BusFigures>,
    #[serde(flatten)]
    supervision: SupervisionReport,
}

/// What a report is made from.
pub struct RunFacts<'a> {
    /// Whether a simulated robot was driven.
    pub simulated_robot: bool,
    /// Whether time was simulated.
    pub simulated_time: bool,
    /// The latency model, as given.
    pub latency_model: String,
    /// First seed.
    pub seed: u64,
    /// Digest of the bundle.
    pub bundle_digest: &'a str,
    /// Episodes, in order.
    pub episodes: Vec<Episode>,
    /// Names of the joints.
    pub joints: &'a [JointSpec],
    /// Control period.
    pub period: Duration,
    /// Control counters.
    pub control: &'a ControlCounts,
    /// Lateness of every period in real time.
    pub lateness: Option<&'a Samples>,
    /// The engine.
    pub engine: &'a EngineInfo,
    /// Inference counters.
    pub inference: &'a InferenceCounts,
    /// Time between rows.
    pub row_period: Duration,
    /// Capture to command.
    pub deadline: Duration,
    /// Faults injected, by name.
    pub injected: BTreeMap<String, u64>,
    /// What surrounded the run.
    pub supervision: SupervisionReport,
}

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

impl RunReport {
    /// Puts a report together.
    pub fn new(facts: RunFacts) -> Self {
        let RunFacts { control, inference, engine, .. } = facts;
        let per_chunk = |sum: f64| if inference.chunks == 0 { 0.0 } else { sum / inference.chunks as f64 };
        let compute_s = inference.latency.sum().as_secs_f64();
        let rows = control.motion_s / facts.row_period.as_secs_f64();
        let mut causes = CauseCounts::default();
        causes.add(&control.causes);
        causes.add(&inference.causes);
        let mut faults: BTreeMap<String, u64> =
            causes.by_name().into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        for (name, count) in facts.injected {
            faults.insert(format!("injected:{name}"), count);
        }
        let outcome = |name: &str| facts.episodes.iter().filter(|episode| episode.outcome == name).count();
        let stage = |index: usize| Some((STAGES[index], inference.stages[index].percentiles(MS)?));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            mode: if facts.simulated_robot { "sim" } else { "real" },
            clock: if facts.simulated_time { "simulated" } else { "real" },
            latency_model: facts.latency_model,
            seed: facts.seed,
            bundle_digest: facts.bundle_digest.to_owned(),
            episodes: facts.episodes.len() - outcome(INTERRUPTED) - outcome(UNJUDGED),
            successes: outcome("success"),
            wrong_picks: outcome("wrong_pick"),
            control: ControlReport {
                rate_hz: 1.0 / facts.period.as_secs_f64(),
                periods: control.periods,
                commands: control.commands,
                overruns: control.overruns,
                limited: control.limited,
                limited_by: limited_by(control, facts.joints),
                lateness_us: facts.lateness.and_then(|samples| samples.percentiles(US)),
                camera_to_command_ms: control.camera_to_command.percentiles(MS),
            },
            inference: InferenceReport {
                engine: engine.name.to_owned(),
                engine_version: engine.version.clone(),
                library: engine.library.clone(),
                providers: engine.providers.clone(),
                nodes: engine.placements.iter().map(|p| (p.graph.clone(), p.nodes.clone())).collect(),
                providers_left_out: engine.skipped.clone(),
                precision: engine.precision.to_owned(),
                chunks: inference.chunks,
                latency_ms: inference.latency.percentiles(MS),
                stages_ms: (0..STAGES.len()).filter_map(stage).collect(),
                deadline_ms: facts.deadline.as_secs_f64() * 1e3,
                deadline_misses: control.deadline_misses,
                visual_tokens_per_chunk: per_chunk(inference.visual_tokens as f64),
                tokens_per_chunk: per_chunk(inference.tokens as f64),
                constrained_tokens: inference.constrained,
                exited_tokens: inference.exited,
                passes_per_chunk: per_chunk(inference.passes),
                actions_per_compute_s: if compute_s > 0.0 { rows / compute_s } else { 0.0 },
                blocks_per_chunk: per_chunk(inference.blocks as f64),
                plans: inference.plans,
                replanned: inference.replanned,
                largest_error_bound: inference.error_bound,
                stop_reasons: inference.stop_reasons.clone(),
                last_refusal: inference.last_refusal.clone(),
            },
            per_episode: facts.episodes,
            ladder: control.ladder,
            faults,
            command_digest: control.digest.hex(),
            #[cfg(feature = "serial")]
            buses: Vec::new(),
            supervision: facts.supervision,
        }
    }

    /// With what the robot's servo buses did.
    #[cfg(feature = "serial")]
    pub fn with_buses(mut self, reporters: &super::devices::Reporters, joints: &[JointSpec]) -> Self {
        self.buses =
            reporters.iter().map(|(arm, report)| super::bus_figures::BusFigures::new(arm, &report(), joints)).collect();
        self
    }

    /// The JSON that programs read.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The summary that people read.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_summary(&mut text);
        text
    }

    fn write_summary(&self, text: &mut String) -> std::fmt::Result {
        let (control, inference) = (&self.control, &self.inference);
        if self.per_episode.len() <= 10 {
            for episode in &self.per_episode {
                writeln!(text, "  {:<28} {:<11} {:5.1} s", episode.instruction, episode.outcome, episode.duration_s)?;
            }
        }
        let (low, high) = wilson(self.successes, self.episodes);
        writeln!(
            text,
            "episodes   {} of {} successful (95 % interval {:.0}–{:.0} %), {} wrong picks",
            self.successes,
            self.episodes,
            low * 100.0,
            high * 100.0,
            self.wrong_picks
        )?;
        writeln!(
            text,
            "control    {} commands in {} periods at {:.0} Hz, {} overruns, {} limited{}",
            control.commands,
            control.periods,
            control.rate_hz,
            control.overruns,
            control.limited,
            control.limited_by.iter().map(|(by, count)| format!(", {by} {count}")).collect::<String>()
        )?;
        if let Some(lateness) = &control.lateness_us {
            writeln!(text, "lateness   {} µs", quantiles(lateness, 0))?;
        }
        writeln!(
            text,
            "inference  {} chunks on {} {} ({}, {}), {:.1} tokens a chunk, {} constrained",
            inference.chunks,
            inference.engine,
            inference.engine_version,
            inference.precision,
            inference.providers.join(", "),
            inference.tokens_per_chunk,
            inference.constrained_tokens
        )?;
        let PlanCounts { planned, drafted, shortened, unfit } = inference.plans;
        if drafted + shortened + unfit > 0 {
            writeln!(
                text,
                "planned    {planned} inferences: {drafted} with blocks of guesses, {shortened} with fewer steps, {unfit} that \
                 would not fit at worst"
            )?;
        }
        if inference.stop_reasons.keys().any(|reason| reason != "complete") {
            let reasons: Vec<String> = inference.stop_reasons.iter().map(|(name, n)| format!("{name} {n}")).collect();
            writeln!(text, "ended      {}", reasons.join(", "))?;
        }
        if let Some(latency) = &inference.latency_ms {
            writeln!(text, "latency    {} ms", quantiles(latency, 1))?;
        }
        for (stage, spans) in inference.stages_ms.iter().filter(|(_, spans)| spans.max > 0.0) {
            writeln!(text, "  {stage:<11} {} ms", quantiles(spans, 2))?;
        }
        if let Some(span) = &control.camera_to_command_ms {
            writeln!(text, "capture to first command  {} ms", quantiles(span, 1))?;
        }
        writeln!(
            text,
            "deadline   {:.0} ms from capture to command: {} misses",
            inference.deadline_ms, inference.deadline_misses
        )?;
        let LadderCounts { fresh, continued, posed, decelerated, held, stopped } = self.ladder;
        let posed = if posed > 0 { format!(", posed {posed}") } else { String::new() };
        writeln!(
            text,
            "ladder     fresh {fresh}, continued {continued}{posed}, decelerated {decelerated}, held {held}, stopped {stopped}"
        )?;
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
        for reason in &self.supervision.throttled {
            writeln!(text, "throttled  {reason}: latencies are not this machine's best")?;
        }
        if let Some(signal) = self.supervision.stopped_by {
            writeln!(text, "stopped    by {signal}")?;
        }
        writeln!(text, "faults     {}", if faults.is_empty() { "none".to_owned() } else { faults.join(", ") })?;
        if let Some(refusal) = &inference.last_refusal {
            writeln!(text, "last refusal of an answer or an observation: {refusal}")?;
        }
        Ok(())
    }
}

fn limited_by(control: &ControlCounts, joints: &[JointSpec]) -> BTreeMap<String, u64> {
    let of_joint = |(joint, counts): (&JointSpec, &[u64; Limit::ALL.len()])| {
        let named =
            |(limit, &count): (&Limit, &u64)| (count > 0).then(|| (format!("{}:{}", joint.name, limit.name()), count));
        Limit::ALL.iter().zip(counts).filter_map(named).collect::<Vec<_>>()
    };
    let of_joints = joints.iter().zip(&control.limited_by).flat_map(of_joint);
    let workspace = control.limited_by_workspace;
    of_joints.chain((workspace > 0).then(|| (Limit::Workspace.name().to_owned(), workspace))).collect()
}

fn quantiles(p: &Percentiles, digits: usize) -> String {
    format!("p50 {:.digits$}, p99 {:.digits$}, p99.9 {:.digits$}, max {:.digits$}", p.p50, p.p99, p.p999, p.max)
}
