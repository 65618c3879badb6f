//! The node's owner: carries out orders, watches links, and says how it goes.

use super::super::report::Episode;
use super::episodes::{Episodes, Next};
use super::{FRESH, Links, signalled};
use core::time::Duration;
use endplate_hal::{Instant, RobotSpec};
use endplate_ros2::graph::Finding;
use endplate_ros2::node::{Level, Order, Part, Reply, Step, Value};
use endplate_runtime::Rung;
use endplate_runtime::drive::Flow;
use endplate_runtime::drive::Sight;
use endplate_runtime::drive::orders::{Change, Orders};
use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;

const UNCONFIGURED: u8 = 1;
const INACTIVE: u8 = 2;
const ACTIVE: u8 = 3;
const FINALIZED: u8 = 4;
/// How long the control thread may take to carry out a change.
const PATIENCE: Duration = Duration::from_millis(200);

/// A controlled stop under way.
struct Stopping {
    step: Step,
    until: Instant,
    reply: Option<Reply>,
}

/// The node's owner.
pub struct Owner<'a> {
    spec: &'a RobotSpec,
    links: Links,
    inbox: Receiver<Order>,
    orders: &'a Orders,
    instruction: String,
    seconds: Option<f64>,
    started: Option<Instant>,
    episodes: Option<Episodes>,
    /// The control loop has been configured once; from then on it reads.
    reads: bool,
    stopping: Option<Stopping>,
    ending: bool,
    enable_wanted: bool,
    reported: Instant,
    looked: Instant,
    level: Level,
    known: BTreeSet<Finding>,
    sight: Sight,
    rates: Vec<u64>,
}

impl<'a> Owner<'a> {
    /// An owner of an unconfigured node.
    pub fn new(
        spec: &'a RobotSpec,
        links: Links,
        inbox: Receiver<Order>,
        orders: &'a Orders,
        instruction: String,
        seconds: Option<f64>,
        episodes: Option<Episodes>,
    ) -> Self {
        let rates = vec![0; links.cameras.len() + 1];
        Self {
            spec,
            links,
            inbox,
            orders,
            instruction,
            seconds,
            started: None,
            episodes,
            reads: false,
            stopping: None,
            ending: false,
            enable_wanted: false,
            reported: Instant::ZERO,
            looked: Instant::ZERO,
            level: Level::Stale,
            known: BTreeSet::new(),
            sight: Sight::default(),
            rates,
        }
    }

    /// Enable as soon as the robot is there.
    pub fn enable_at_once(&mut self) {
        self.enable_wanted = true;
    }

    /// What became of the episodes, if any; the node leaves the graph.
    pub fn finish(self) -> Vec<Episode> {
        self.episodes.map_or_else(Vec::new, Episodes::finish)
    }

    fn state(&self) -> u8 {
        self.links.server.state()
    }

    /// One look at everything; called once a period.
    pub fn look(&mut self, now: Instant, sight: &Sight) -> Flow {
        let start = *self.started.get_or_insert(now);
        self.sight.clone_from(sight);
        while let Ok(order) = self.inbox.try_recv() {
            self.carry_out(order, now);
        }
        self.watch(now);
        self.proceed(now);
        if self.enable_wanted && self.stopping.is_none() && self.enable(now).is_ok() {
            self.enable_wanted = false;
        }
        self.run_episodes(now);
        let over = self.seconds.is_some_and(|seconds| now.seconds_since(start) > seconds);
        if (signalled::is_set() || over) && !self.ending {
            self.ending = true;
            self.shut_down(now, None);
        }
        if now.duration_since(self.looked) > Duration::from_millis(100) {
            self.looked = now;
            self.report(now);
        }
        if self.state() == FINALIZED { Flow::Stop } else { Flow::Continue }
    }

    fn say(&self, level: u8, line: &str) {
        remark!("node       {line}");
        self.links.server.log(level, line);
    }

    fn carry_out(&mut self, order: Order, now: Instant) {
        match order {
            Order::Step(step, reply) if self.stopping.is_some() || step.from != self.state() => {
                reply(false, "another step is being taken");
            }
            Order::Step(step, reply) => match step.id {
                1 => self.answer(reply, |owner| owner.configure(now)),
                2 => self.answer(reply, |owner| owner.clean_up()),
                3 => self.answer(reply, |owner| owner.activate(now)),
                4 => self.begin_stop(step, Some(reply), now),
                _ => self.shut_down(now, Some(reply)),
            },
            Order::Estop(reply) => {
                self.orders.estop(true);
                self.say(40, "e-stop: a controlled stop, latched until ~/reset");
                reply(true, "stopping; latched until reset");
            }
            Order::Reset(reply) => {
                self.orders.estop(false);
                match self.orders.change(Change::ClearFault, PATIENCE) {
                    Some(Ok(true)) => reply(true, "the latched stop was left"),
                    Some(Ok(false)) if self.sight.latched => reply(false, "the arm is still stopping"),
                    Some(Ok(false)) => reply(true, "nothing was latched"),
                    Some(Err(error)) => reply(false, &error.to_string()),
                    None => reply(false, "the control thread did not answer"),
                }
            }
            Order::Enable(true, reply) => match self.stopping.is_some() {
                true => reply(false, "a stop is under way"),
                false => self.answer(reply, |owner| owner.enable(now)),
            },
            Order::Enable(false, reply) => match self.state() {
                ACTIVE if self.stopping.is_none() => self.begin_stop(Step::ALL[3], Some(reply), now),
                ACTIVE => reply(true, "already stopping"),
                _ => reply(true, "not enabled"),
            },
            Order::Instruct(text) => self.instruct(text),
            Order::Set("instruction", Value::Text(text)) => self.instruct(text),
            Order::Set("use_sim_time", Value::Bool(simulated)) => {
                if let Err(error) = self.links.time.follow(simulated, &*self.links.transport) {
                    self.say(40, &error.to_string());
                }
            }
            Order::Set(..) => {}
        }
    }

    fn answer(&mut self, reply: Reply, act: impl FnOnce(&mut Self) -> Result<(), String>) {
        match act(self) {
            Ok(()) => reply(true, "done"),
            Err(reason) => {
                self.say(40, &reason);
                reply(false, &reason);
            }
        }
    }

    fn instruct(&mut self, text: String) {
        self.say(20, &format!("instruction {text:?}"));
        self.orders.instruct(&text);
        self.links.server.show("instruction", Value::Text(text.clone()));
        self.instruction = text;
    }

    fn is_heard(&self, now: Instant) -> Result<(), String> {
        let heard = self.links.arm.heard();
        match heard > Instant::ZERO && now.duration_since(heard) <= FRESH {
            true => Ok(()),
            false => Err(format!("no usable joint state within {FRESH:?}: is the robot there, and in this domain?")),
        }
    }

    fn change(&self, change: Change) -> Result<(), String> {
        match self.orders.change(change, PATIENCE) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the control thread did not answer".to_owned()),
        }
    }

    fn configure(&mut self, now: Instant) -> Result<(), String> {
        self.is_heard(now)?;
        self.links.description.allows(&self.spec.joints)?;
        if !self.reads {
            self.change(Change::Configure)?;
            self.reads = true;
        }
        self.links.server.enter(Step::ALL[0]);
        Ok(())
    }

    fn clean_up(&mut self) -> Result<(), String> {
        self.links.server.enter(Step::ALL[1]);
        Ok(())
    }

    fn activate(&mut self, now: Instant) -> Result<(), String> {
        self.is_heard(now)?;
        self.links.description.allows(&self.spec.joints)?;
        if self.instruction.is_empty() && self.episodes.is_none() {
            return Err("there is no instruction yet: publish one on ~/instruction".to_owned());
        }
        for (camera, link) in self.spec.cameras.iter().zip(&self.links.cameras) {
            let age = link.captured().map(|captured| now.duration_since(captured));
            if age.is_none_or(|age| age > camera.max_age) {
                return Err(format!("camera {}: no image within {:?}", camera.name, camera.max_age));
            }
        }
        self.orders.stand(false);
        // Opened first: the first command belongs to the period of the activation.
        self.links.arm.open();
        if let Err(reason) = self.change(Change::Activate) {
            self.links.arm.close();
            return Err(reason);
        }
        self.links.server.enter(Step::ALL[2]);
        Ok(())
    }

    /// All the way to active; what an explicit enable means.
    fn enable(&mut self, now: Instant) -> Result<(), String> {
        match self.state() {
            ACTIVE => return Ok(()),
            UNCONFIGURED => self.configure(now)?,
            _ => {}
        }
        self.activate(now)
    }

    /// Decelerates, holds, and only then leaves active.
    fn begin_stop(&mut self, step: Step, reply: Option<Reply>, now: Instant) {
        self.orders.stand(true);
        let until = now.saturating_add(self.spec.control.stop_time + 5 * self.spec.control.period);
        self.stopping = Some(Stopping { step, until, reply });
    }

    fn shut_down(&mut self, now: Instant, reply: Option<Reply>) {
        self.ending = true;
        match self.state() {
            ACTIVE => self.begin_stop(Step::ALL[6], reply, now),
            INACTIVE => self.end(Step::ALL[5], reply),
            _ => self.end(Step::ALL[4], reply),
        }
    }

    fn end(&mut self, step: Step, reply: Option<Reply>) {
        self.links.server.enter(step);
        if let Some(reply) = reply {
            reply(true, "done");
        }
    }

    /// Goes on with a controlled stop.
    fn proceed(&mut self, now: Instant) {
        let rests =
            self.sight.at_rest && self.sight.tick.is_some_and(|tick| matches!(tick.rung, Rung::Held | Rung::Stopped));
        if self.stopping.as_ref().is_none_or(|stopping| !rests && now < stopping.until) {
            return;
        }
        let Some(Stopping { step, reply, .. }) = self.stopping.take() else { return };
        let outcome = self.change(Change::Deactivate);
        // The last command again, explicitly: the controller holds what it already holds.
        let commanded = self.sight.commanded_rad;
        self.links.arm.stop(&commanded);
        if let Err(reason) = outcome {
            self.say(40, &reason);
        }
        self.end(step, reply);
    }

    /// What may have gone wrong on the network.
    fn watch(&mut self, _: Instant) {
        if let Some(lost) = self.links.arm.lost()
            && self.state() == ACTIVE
        {
            self.orders.stand(true);
            let deactivated = self.change(Change::Deactivate);
            self.links.arm.close();
            let reply = self.stopping.take().and_then(|stopping| stopping.reply);
            self.links.server.enter(Step::ALL[3]);
            if let Some(reply) = reply {
                reply(deactivated.is_ok(), "the robot was lost");
            }
            self.say(40, &format!("{lost}: deactivated, motion needs an explicit enable"));
        }
    }

    fn run_episodes(&mut self, now: Instant) {
        let active = self.state() == ACTIVE;
        let Some(episodes) = &mut self.episodes else { return };
        if self.ending {
            return;
        }
        match episodes.look(now, active) {
            Next::Wait => {}
            Next::Instruct(text) => self.instruct(text),
            Next::Enable => self.enable_wanted = true,
            Next::Disable if self.stopping.is_none() && active => self.begin_stop(Step::ALL[3], None, now),
            Next::Disable => self.enable_wanted = false,
            Next::Done => self.shut_down(now, None),
        }
    }

    /// Prints what is new amiss, and publishes diagnostics once a second or when the level changes.
    fn report(&mut self, now: Instant) {
        let findings: BTreeSet<Finding> = self.links.transport.findings().into_iter().collect();
        // A graph takes a moment to be seen.
        if self.started.is_some_and(|start| now.duration_since(start) > Duration::from_secs(2)) {
            for finding in findings.difference(&self.known) {
                self.say(30, &finding.to_string());
            }
            self.known.clone_from(&findings);
        }
        let hz = match self.links.server.parameter("diagnostics_hz") {
            Some(Value::Double(hz)) if (0.1..=50.0).contains(&hz) => hz,
            _ => 1.0,
        };
        let since = now.duration_since(self.reported);
        let parts = self.parts(now, since, &findings);
        let level = parts.iter().map(|part| part.level).max().unwrap_or(Level::Fine);
        if level == self.level && since.as_secs_f64() < 1.0 / hz {
            return;
        }
        for (slot, count) in self.rates.iter_mut().zip(
            [self.links.arm.counts().states].into_iter().chain(self.links.cameras.iter().map(|link| link.counts().0)),
        ) {
            *slot = count;
        }
        (self.reported, self.level) = (now, level);
        if let Err(error) = self.links.server.report(&self.spec.name, &parts) {
            remark!("node       {error}");
        }
    }

    fn parts(&self, now: Instant, since: Duration, findings: &BTreeSet<Finding>) -> Vec<Part> {
        let rate = |count: u64, before: u64| {
            format!("{:.1}", count.saturating_sub(before) as f64 / since.as_secs_f64().max(1e-3))
        };
        let millis = |span: Duration| format!("{:.1}", span.as_secs_f64() * 1e3);
        let mut parts = Vec::new();
        let ladder = self.sight.tick.map(|tick| tick.ladder).unwrap_or_default();
        let cause = self.sight.tick.and_then(|tick| tick.cause);
        let (level, message) = match (self.sight.latched, cause) {
            (true, _) => (Level::Error, "a stop is latched: call ~/reset".to_owned()),
            (false, Some(cause)) => (Level::Warning, format!("{cause:?}")),
            (false, None) => (Level::Fine, endplate_ros2::node::label(self.state()).to_owned()),
        };
        parts.push(Part {
            name: "control",
            level,
            message,
            values: vec![
                ("overruns", self.sight.overruns.to_string()),
                ("deadline_misses", self.sight.deadline_misses.to_string()),
                ("fresh", ladder.fresh.to_string()),
                ("continued", ladder.continued.to_string()),
                ("decelerated", ladder.decelerated.to_string()),
                ("held", ladder.held.to_string()),
                ("stopped", ladder.stopped.to_string()),
                ("chunks", self.sight.chunks.to_string()),
            ],
        });
        let counts = self.links.arm.counts();
        let age = now.duration_since(self.links.arm.heard());
        let complaint = self.links.arm.complaint();
        let stale = age > self.spec.control.state_max_age;
        parts.push(Part {
            name: "joint_states",
            level: match (&complaint, stale) {
                (Some(_), _) => Level::Error,
                (None, true) => Level::Stale,
                (None, false) => Level::Fine,
            },
            message: complaint.unwrap_or_else(|| if stale { "not heard of".into() } else { "coming".into() }),
            values: vec![
                ("rate_hz", rate(counts.states, self.rates[0])),
                ("age_ms", millis(age)),
                ("refused", counts.refused.to_string()),
            ],
        });
        parts.push(Part {
            name: "commands",
            level: if counts.failed > 0 { Level::Error } else { Level::Fine },
            message: "as handed over".to_owned(),
            values: vec![
                ("sent", counts.sent.to_string()),
                ("superseded", counts.superseded.to_string()),
                ("expired", counts.expired.to_string()),
                ("full", counts.full.to_string()),
                ("failed", counts.failed.to_string()),
                ("stops", counts.stops.to_string()),
            ],
        });
        for ((link, camera), before) in self.links.cameras.iter().zip(&self.spec.cameras).zip(&self.rates[1..]) {
            let (frames, refused) = link.counts();
            let age = link.captured().map_or(Duration::MAX, |captured| now.duration_since(captured));
            let complaint = link.complaint();
            let stale = age > camera.max_age;
            parts.push(Part {
                name: "camera",
                level: match (&complaint, stale) {
                    (Some(_), _) => Level::Error,
                    (None, true) => Level::Stale,
                    (None, false) => Level::Fine,
                },
                message: complaint.unwrap_or_else(|| if stale { "not heard of".into() } else { "coming".into() }),
                values: vec![
                    ("name", link.name().to_owned()),
                    ("rate_hz", rate(frames, *before)),
                    ("age_ms", if age == Duration::MAX { "never".into() } else { millis(age) }),
                    ("refused", refused.to_string()),
                ],
            });
        }
        parts.push(Part {
            name: "graph",
            level: if findings.is_empty() { Level::Fine } else { Level::Warning },
            message: findings.iter().next().map_or_else(|| "everybody meets".to_owned(), ToString::to_string),
            values: vec![
                ("nodes", self.links.transport.nodes().len().to_string()),
                ("findings", findings.len().to_string()),
                ("without_attachment", self.links.transport.malformed().to_string()),
            ],
        });
        parts
    }
}
