//! What surrounds a run on its machine: signals, watchdogs, real-time rights, the account of every command, power.

use super::error::CliError;
use super::run::RunArguments;
use super::startup;
use super::view::View;
use core::time::Duration;
use endplate_hal::{Clock, ControlSpec, Instant, RobotSpec};
use endplate_runtime::drive::orders::Orders;
use endplate_runtime::power::{PowerState, SpeedWatch};
use endplate_runtime::prometheus::MetricsServer;
use endplate_runtime::realtime::{HugePages, PageKeeper, RealtimeRights, RightsReport, probe, use_huge_pages};
use endplate_runtime::signals::StopRequest;
use endplate_runtime::watchdog::{Heartbeat, Watchdog, WatchdogOptions};
use endplate_runtime::{BudgetAccount, BudgetReport, Rung, StampReader, StampWriter, Tick, stamp_ring};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Periods between two looks at the ring of stamps: 2 s at 2 kHz.
const STAMP_ROOM: usize = 4096;
/// How often the machine's speed is looked at.
const SPEED_EVERY: Duration = Duration::from_secs(1);
/// How often systemd is told the state.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// What surrounds a run.
pub struct Supervision {
    /// Signals.
    pub stop: StopRequest,
    /// Beats once a period.
    pub heartbeat: Arc<Heartbeat>,
    /// For the control thread.
    pub stamps: StampWriter,
    /// What the machine granted; `None` in simulated time.
    pub rights: Option<RealtimeRights>,
    /// Keeps what was moved to huge pages at hand; `None` when it was not asked for or not granted.
    huge_pages: Option<PageKeeper>,
    reader: StampReader,
    account: Arc<Mutex<BudgetAccount>>,
    watchdog: Option<Watchdog>,
    metrics: Option<MetricsServer>,
    power: Option<PowerState>,
    speed: SpeedWatch,
    looked: Option<Instant>,
    told: Option<Instant>,
    is_ready: bool,
}

impl Supervision {
    /// The account alone: nobody is told and nobody asks.
    pub fn quiet(rules: &ControlSpec) -> Self {
        let (stamps, reader) = stamp_ring(STAMP_ROOM);
        Self {
            stop: StopRequest::default(),
            heartbeat: Arc::default(),
            stamps,
            rights: None,
            huge_pages: None,
            reader,
            account: Arc::new(Mutex::new(BudgetAccount::new(rules.deadline))),
            watchdog: None,
            metrics: None,
            power: None,
            speed: SpeedWatch::new(),
            looked: None,
            told: None,
            is_ready: false,
        }
    }

    /// Everything that was asked for. On the real clock the machine is asked for its rights, before anything moves.
    ///
    /// # Errors
    /// Rights that are required and not granted; a supervisor, device or address that cannot be reached.
    pub fn open(arguments: &RunArguments, robot: &RobotSpec, real: bool, view: &View) -> Result<Self, CliError> {
        let mut this = Self::quiet(&robot.control);
        this.stop = StopRequest::listen().map_err(|error| CliError::Failed(format!("signal handlers: {error}")))?;
        this.power = Some(PowerState::read());
        if let Some(address) = arguments.metrics {
            let heartbeat = Arc::clone(&this.heartbeat);
            let beats = move || {
                let beats = heartbeat.beats();
                format!("# TYPE endplate_heartbeats_total counter\nendplate_heartbeats_total {beats}\n")
            };
            let server = MetricsServer::start(address, Arc::clone(&this.account), beats)
                .map_err(|error| CliError::Input(format!("--metrics {address}: {error}")))?;
            view.line(&format!("metrics    http://{}/metrics", server.address()));
            this.metrics = Some(server);
        }
        if !real {
            if arguments.require_realtime || arguments.watchdog_device.is_some() {
                let message = "--require-realtime and --watchdog-device are about the real clock: add --realtime";
                return Err(CliError::Input(message.to_owned()));
            }
            return Ok(this);
        }
        if robot.control.realtime.huge_pages {
            let moved = use_huge_pages();
            let words = match &moved {
                Ok(keeper) => keeper.pages().to_string(),
                Err(reason) => format!("not on huge pages: {reason}"),
            };
            view.line(&format!("memory     {words}"));
            if let (true, Err(reason)) = (arguments.require_realtime, &moved) {
                return Err(CliError::Failed(format!(
                    "--require-realtime: control.realtime.huge_pages: not granted: {reason}; it takes Linux 6.1 and \
                     /sys/kernel/mm/transparent_hugepage/enabled at madvise or always"
                )));
            }
            this.huge_pages = moved.ok();
            startup::mark("huge_pages");
        }
        let rights = probe(&robot.control.realtime);
        view.line(&format!("control    {}", rights.describe()));
        if arguments.require_realtime && !rights.is_granted() {
            return Err(CliError::Failed(format!(
                "--require-realtime: not granted: {}; run as root, or grant CAP_SYS_NICE and CAP_IPC_LOCK (LimitRTPRIO \
                 and LimitMEMLOCK in a systemd unit)",
                rights.describe()
            )));
        }
        this.rights = Some(rights);
        let mut options = WatchdogOptions::from_environment().map_err(CliError::input)?;
        options.device = arguments.watchdog_device.clone();
        let watchdog = Watchdog::start(options, Arc::clone(&this.heartbeat))
            .map_err(|error| CliError::Input(format!("--watchdog-device: {error}")))?;
        this.watchdog = Some(watchdog);
        startup::mark("supervised");
        Ok(this)
    }

    /// The control thread's end of the ring, its heartbeat, and the end of whoever looks on meanwhile.
    pub fn split(&mut self) -> (&mut StampWriter, Arc<Heartbeat>, Onlooker<'_>) {
        let onlooker = Onlooker {
            reader: &mut self.reader,
            account: &self.account,
            watchdog: self.watchdog.as_ref(),
            speed: &mut self.speed,
            looked: &mut self.looked,
            told: &mut self.told,
            is_ready: &mut self.is_ready,
        };
        (&mut self.stamps, Arc::clone(&self.heartbeat), onlooker)
    }

    /// Enters a period of simulated time.
    pub fn enter_simulated(&self, now: Instant, tick: &Tick) {
        let stamps = endplate_runtime::CommandStamps::of(tick, now, now, now, 0);
        self.account.lock().unwrap_or_else(PoisonError::into_inner).enter(&stamps);
    }

    /// The end of the run: supervisors are told that it is meant.
    pub fn finish(mut self) -> SupervisionReport {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        self.reader.drain(&mut account);
        let after = PowerState::read();
        let withheld = self.watchdog.as_ref().map_or(0, Watchdog::withheld);
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.stop();
        }
        SupervisionReport {
            realtime: self.rights.as_ref().map(RealtimeRights::report),
            huge_pages: self.huge_pages.as_ref().map(PageKeeper::pages),
            budget: account.report(),
            startup_ms: startup::marks(),
            throttled: self.power.as_ref().map(|before| after.throttling_since(before)).unwrap_or_default(),
            power: Some(after).filter(PowerState::is_shown),
            stopped_by: self.stop.signal(),
            watchdog_kicks_withheld: withheld,
        }
    }
}

/// Keeps the account while a real-time episode runs, on a thread that may take its time.
pub struct Onlooker<'a> {
    reader: &'a mut StampReader,
    account: &'a Mutex<BudgetAccount>,
    watchdog: Option<&'a Watchdog>,
    speed: &'a mut SpeedWatch,
    looked: &'a mut Option<Instant>,
    told: &'a mut Option<Instant>,
    is_ready: &'a mut bool,
}

impl Onlooker<'_> {
    /// Looks at the machine's speed now and then; a line when it has changed and plans change with it.
    pub fn look_at_speed(&mut self, now: Instant, orders: &Orders) -> Option<String> {
        if self.looked.is_some_and(|looked| now.duration_since(looked) < SPEED_EVERY) {
            return None;
        }
        *self.looked = Some(now);
        let change = self.speed.changed()?;
        orders.slow_down(change.slowdown());
        let percent = |share: f64| (100.0 * share).round();
        Some(format!(
            "speed      {} % of the top frequency after {} %: inferences are planned with {:.2} times the time",
            percent(change.to),
            percent(change.from),
            change.slowdown()
        ))
    }

    /// One look.
    pub fn look(&mut self, clock: &dyn Clock, episode: u64, tick: Option<&Tick>) {
        let (ages, rung) = {
            let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
            self.reader.drain(&mut account);
            let Some(newest) = account.newest() else { return };
            ((clock.now().duration_since(newest.sent), newest.provenance.is_some()), newest.rung)
        };
        let (ago, from_frame) = ages;
        startup::mark_ago("first_command", ago);
        if from_frame {
            startup::mark_ago("first_command_from_a_frame", ago);
        }
        let Some(watchdog) = self.watchdog else { return };
        if !*self.is_ready {
            *self.is_ready = true;
            watchdog.notify("READY=1");
        }
        let now = clock.now();
        if self.told.is_none_or(|told| now.duration_since(told) >= STATUS_EVERY) {
            *self.told = Some(now);
            let rung = tick.map_or(rung, |tick| tick.rung);
            watchdog.notify(&format!("STATUS=episode {}, {}", episode + 1, format!("{rung:?}").to_lowercase()));
        }
    }
}

/// Whether a controlled stop has ended: the arm rests and, where declared, its torque is off.
pub fn has_stopped(tick: &Tick, looks: &mut u32) -> bool {
    // The torque is switched in the period after the arm came to rest.
    *looks = if tick.rung == Rung::Stopped { *looks + 1 } else { 0 };
    *looks > 2
}

/// What surrounded a run, for its report.
#[derive(Clone, Debug, Serialize)]
pub struct SupervisionReport {
    /// Asked and granted; null in simulated time.
    pub realtime: Option<RightsReport>,
    /// What was moved to huge pages; null when it was not asked for or not granted.
    pub huge_pages: Option<HugePages>,
    /// The account of every command.
    pub budget: BudgetReport,
    /// From the start of the process, by step.
    pub startup_ms: BTreeMap<&'static str, f64>,
    /// What the platform shows at the end; null when it shows nothing.
    pub power: Option<PowerState>,
    /// Why the machine was slower than it can be.
    pub throttled: Vec<String>,
    /// The signal that ended the run.
    pub stopped_by: Option<&'static str>,
    /// Watchdog kicks withheld because the control loop made no progress.
    pub watchdog_kicks_withheld: u64,
}
