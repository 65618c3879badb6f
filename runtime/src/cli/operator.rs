//! The operator's desk: keys on the terminal, or requests on a control socket, made into orders for the control loop.
//!
//! Nothing here touches an arm: requests become [`Order`]s in a queue, one after the other, each when the control loop
//! has shown that the one before is done.

use super::error::CliError;
use super::report::UNJUDGED;
use clap::{Args, ValueEnum};
use core::time::Duration;
use endplate_hal::{Instant, JointVec, RobotSpec};
use endplate_runtime::{Operation, Order, Rung, Tick};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};

/// Arguments of `run` that are the operator's.
#[derive(Args, Default)]
pub struct OperatorArguments {
    /// On hardware: the serial device of an arm, instead of the one described: PATH, or ARM=PATH where there are several.
    #[arg(long, value_name = "[ARM=]PATH")]
    pub port: Vec<String>,
    /// On hardware: the arm stands in its park pose ([poses] park); refuse torque where its joints read otherwise.
    #[arg(long)]
    pub parked: bool,
    /// On hardware: go to the home pose ([poses] home) before the policy is followed.
    #[arg(long)]
    pub home: bool,
    /// On hardware: at the end (`quit`, `--seconds`) go to the park pose, then switch the torque off.
    #[arg(long)]
    pub park: bool,
    /// On hardware: take the operator's requests at this Unix socket: see `endplate operator`.
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
}

impl OperatorArguments {
    /// The first option given, where there is one.
    pub fn given(&self) -> Option<&'static str> {
        let options = [
            ("--port", !self.port.is_empty()),
            ("--parked", self.parked),
            ("--home", self.home),
            ("--park", self.park),
            ("--control", self.control.is_some()),
        ];
        options.iter().find(|(_, given)| *given).map(|(name, _)| *name)
    }
}

/// What an operator may ask for.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub enum Request {
    /// Brake and hold, torque on.
    Pause,
    /// Follow the policy again.
    Resume,
    /// Go to the home pose and hold.
    Home,
    /// Go to the park pose and hold.
    Park,
    /// End the episode without judging it: home where it is described, then hold until `resume`.
    Next,
    /// End the episode as a success; else as `next`.
    Success,
    /// End the episode as a failure; else as `next`.
    Failure,
    /// End the run: with `run --park` by way of the park pose, torque off; else stop and hold.
    Quit,
    /// Stop now, under the limits, and end: what an interrupt does.
    Stop,
    /// Say how it stands.
    Status,
}

/// The keys of a terminal, each followed by Enter.
const KEYS: [(&str, Request); 10] = [
    ("p", Request::Pause),
    ("r", Request::Resume),
    ("h", Request::Home),
    ("k", Request::Park),
    ("n", Request::Next),
    ("s", Request::Success),
    ("f", Request::Failure),
    ("q", Request::Quit),
    ("x", Request::Stop),
    ("?", Request::Status),
];

/// What the keys do, in one line.
const HELP: &str = "keys, then Enter: p pause, r resume, h home, k park, n next episode, s success, f failure, q quit, x stop now, ? status";

impl Request {
    /// A key, or a request's name.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let key = KEYS.iter().find(|(key, _)| *key == text).map(|(_, request)| *request);
        key.or_else(|| Self::from_str(text, false).ok())
    }
}

/// One thing to do, and to wait for.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Step {
    Pause,
    GoTo(&'static str, JointVec),
    /// Reset the policy, then follow it.
    Resume,
    Release,
    End,
}

/// What the caller of [`Desk::look`] is to do.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    None,
    /// Forget what the policy remembers: another episode begins.
    Reset,
    /// Stop now.
    Stop,
    /// The run is over: the torque is off.
    End,
}

/// An episode that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// How it was judged.
    pub outcome: &'static str,
    /// How long it was in the policy's hands.
    pub lasted: Duration,
}

/// A pose is given up after this time: something in the way, or a fault that stays.
const PATIENCE: Duration = Duration::from_secs(60);

/// The desk.
pub struct Desk {
    requests: Receiver<(Request, Option<Sender<String>>)>,
    orders: rtrb::Producer<Order>,
    sent: u64,
    steps: VecDeque<Step>,
    /// Since when the first step has been under way; `None` before its order is sent.
    begun: Option<Instant>,
    home: Option<JointVec>,
    park: Option<JointVec>,
    parks_at_end: bool,
    following_since: Option<Instant>,
    followed: Duration,
    ended: Vec<Ended>,
    seen: Option<(Operation, Rung)>,
    socket: Option<PathBuf>,
}

impl Desk {
    /// A desk that sends orders into `orders`; it listens where the arguments say, and to a terminal.
    ///
    /// # Errors
    /// Poses that are asked for and not described; a socket that cannot be made.
    pub fn open(
        arguments: &OperatorArguments,
        robot: &RobotSpec,
        orders: rtrb::Producer<Order>,
    ) -> Result<Self, CliError> {
        for (option, given, name, pose) in [
            ("--home", arguments.home, "home", &robot.poses.home),
            ("--park", arguments.park, "park", &robot.poses.park),
        ] {
            if given && pose.is_none() {
                return Err(CliError::Input(format!(
                    "{}: {option} needs the pose: describe [poses.{name}]",
                    robot.source
                )));
            }
        }
        let (sender, requests) = mpsc::channel();
        if let Some(path) = &arguments.control {
            listen(path, sender.clone())?;
        }
        if std::io::stdin().is_terminal() {
            say!("operator   {HELP}");
            read_keys(sender.clone());
        }
        let mut desk = Self {
            requests,
            orders,
            sent: 0,
            steps: VecDeque::new(),
            begun: None,
            home: robot.poses.home,
            park: robot.poses.park,
            parks_at_end: arguments.park,
            following_since: None,
            followed: Duration::ZERO,
            ended: Vec::new(),
            seen: None,
            socket: arguments.control.clone(),
        };
        if let (true, Some(home)) = (arguments.home, desk.home) {
            desk.steps.extend([Step::Pause, Step::GoTo("home", home), Step::Resume]);
            // Before the first period: nothing of the policy is followed on the way.
            desk.advance(Instant::ZERO, None);
        }
        Ok(desk)
    }

    /// Ends the run in the declared way, as `quit` does; whether that takes more than a stop.
    pub fn quit(&mut self) -> bool {
        let Some(park) = self.park.filter(|_| self.parks_at_end) else { return false };
        if !self.steps.contains(&Step::End) {
            (self.steps, self.begun) = ([Step::Pause, Step::GoTo("park", park), Step::Release, Step::End].into(), None);
        }
        true
    }

    /// One look, once a period: takes requests, sends the next order.
    pub fn look(&mut self, now: Instant, tick: Option<&Tick>) -> Wish {
        if let Some(tick) = tick {
            self.keep_time(now, tick);
        }
        while let Ok((request, reply)) = self.requests.try_recv() {
            let (answer, wish) = self.take(request, now);
            match reply {
                // Who asked and hung up gets no answer.
                Some(reply) => drop(reply.send(answer)),
                None => say!("operator   {answer}"),
            }
            if wish != Wish::None {
                return wish;
            }
        }
        self.advance(now, tick)
    }

    fn keep_time(&mut self, now: Instant, tick: &Tick) {
        if self.seen.is_none_or(|(operation, _)| operation != tick.operation) {
            if let Some(since) = self.following_since.take() {
                self.followed += now.duration_since(since);
            }
            if tick.operation == Operation::Following {
                self.following_since = Some(now);
            }
        }
        self.seen = Some((tick.operation, tick.rung));
    }

    /// Time in the policy's hands in this episode.
    fn lasted(&self, now: Instant) -> Duration {
        self.followed + self.following_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// The episodes that have ended, the last one with the run.
    pub fn finish(mut self, now: Instant) -> Vec<Ended> {
        let lasted = self.lasted(now);
        if lasted > Duration::ZERO {
            self.ended.push(Ended { outcome: UNJUDGED, lasted });
        }
        core::mem::take(&mut self.ended)
    }

    fn take(&mut self, request: Request, now: Instant) -> (String, Wish) {
        let accepted = |what: &str| (format!("ok: {what}"), Wish::None);
        let missing = |name: &str| (format!("refused: the robot description has no [poses.{name}]"), Wish::None);
        if self.steps.contains(&Step::End) && !matches!(request, Request::Stop | Request::Status) {
            return ("refused: the run is ending; `stop` stops it where it stands".to_owned(), Wish::None);
        }
        match request {
            Request::Status => (self.status(now), Wish::None),
            Request::Stop => ("ok: stopping under the limits".to_owned(), Wish::Stop),
            Request::Quit => match self.quit() {
                true => accepted("parking, then torque off"),
                false => ("ok: stopping under the limits".to_owned(), Wish::Stop),
            },
            Request::Pause => {
                self.script([Step::Pause]);
                accepted("pausing")
            }
            Request::Resume => {
                self.script([Step::Resume]);
                accepted("following the policy")
            }
            Request::Home => match self.home {
                Some(home) => {
                    self.script([Step::Pause, Step::GoTo("home", home)]);
                    accepted("going home")
                }
                None => missing("home"),
            },
            Request::Park => match self.park {
                Some(park) => {
                    self.script([Step::Pause, Step::GoTo("park", park)]);
                    accepted("going to the park pose")
                }
                None => missing("park"),
            },
            Request::Next | Request::Success | Request::Failure => {
                let outcome = match request {
                    Request::Success => "success",
                    Request::Failure => "failure",
                    _ => UNJUDGED,
                };
                let lasted = self.lasted(now);
                self.ended.push(Ended { outcome, lasted });
                (self.followed, self.following_since) = (Duration::ZERO, None);
                self.script([Step::Pause]);
                self.steps.extend(self.home.map(|home| Step::GoTo("home", home)));
                accepted(&format!(
                    "episode {} ended ({outcome}, {:.1} s); `resume` begins the next",
                    self.ended.len(),
                    lasted.as_secs_f64()
                ))
            }
        }
    }

    fn script<const N: usize>(&mut self, steps: [Step; N]) {
        (self.steps, self.begun) = (steps.into(), None);
    }

    fn status(&self, now: Instant) -> String {
        let (operation, rung) = match self.seen {
            Some((operation, rung)) => (format!("{operation:?}").to_lowercase(), format!("{rung:?}").to_lowercase()),
            None => ("starting".to_owned(), "none".to_owned()),
        };
        serde_json::json!({
            "operation": operation,
            "rung": rung,
            "episode": self.ended.len() + 1,
            "following_s": self.lasted(now).as_secs_f64(),
            "busy": !self.steps.is_empty(),
        })
        .to_string()
    }

    /// Sends the order of the first step, and goes on to the next once it is done.
    fn advance(&mut self, now: Instant, tick: Option<&Tick>) -> Wish {
        let Some(&step) = self.steps.front() else { return Wish::None };
        let Some(begun) = self.begun else {
            let (order, wish) = match step {
                Step::Pause => (Order::Pause, Wish::None),
                Step::GoTo(_, pose) => (Order::GoTo(pose), Wish::None),
                Step::Resume => (Order::Resume, Wish::Reset),
                Step::Release => (Order::Release, Wish::None),
                Step::End => return Wish::End,
            };
            // A queue of eight that is drained every period; a full one is tried again.
            if self.orders.push(order).is_ok() {
                self.sent += 1;
                self.begun = Some(now);
                return wish;
            }
            return Wish::None;
        };
        let Some(tick) = tick.filter(|tick| tick.orders >= self.sent) else { return Wish::None };
        let is_done = match step {
            Step::Pause => tick.operation == Operation::Paused && tick.rung == Rung::Held,
            Step::GoTo(..) => tick.operation == Operation::Paused && tick.rung == Rung::Held,
            Step::Resume => tick.operation == Operation::Following,
            Step::Release => tick.operation == Operation::Released,
            Step::End => true,
        };
        if is_done {
            if let Step::GoTo(name, _) = step {
                say!("operator   at the {name} pose");
            }
            self.steps.pop_front();
            self.begun = None;
        } else if now.duration_since(begun) > PATIENCE {
            let what = match step {
                Step::Release => "the torque is not confirmed off: support the arm and cut its power".to_owned(),
                Step::GoTo(name, _) => format!("the {name} pose was not reached; the arm holds"),
                step => format!("{step:?} was not done; the arm holds"),
            };
            say!("operator   given up after {} s: {what}", PATIENCE.as_secs());
            let was_last = self.steps.contains(&Step::End);
            self.script([Step::Pause]);
            // A run that was to end ends, with torque on: it must not drop the arm where it is.
            return if was_last { Wish::Stop } else { Wish::None };
        }
        Wish::None
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some(path) = &self.socket {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn read_keys(sender: Sender<(Request, Option<Sender<String>>)>) {
    // Ends with the process: a thread that waits for a line cannot be woken.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match Request::parse(&line) {
                Some(request) if sender.send((request, None)).is_err() => return,
                Some(_) => {}
                None => say!("operator   {HELP}"),
            }
        }
    });
}

/// Serves one request a line, one answer a line, to whoever may open the socket.
fn listen(path: &Path, sender: Sender<(Request, Option<Sender<String>>)>) -> Result<(), CliError> {
    let fail = |error: std::io::Error| CliError::Input(format!("--control {}: {error}", path.display()));
    if UnixStream::connect(path).is_ok() {
        return Err(CliError::Input(format!("--control {}: another run listens there", path.display())));
    }
    if path.exists() {
        use std::os::unix::fs::FileTypeExt as _;
        if !std::fs::symlink_metadata(path).map_err(fail)?.file_type().is_socket() {
            return Err(CliError::Input(format!("--control {}: there is a file that is no socket", path.display())));
        }
        // Left by a run that was killed.
        std::fs::remove_file(path).map_err(fail)?;
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || serve(&stream, &sender));
        }
    });
    Ok(())
}

fn serve(stream: &UnixStream, sender: &Sender<(Request, Option<Sender<String>>)>) {
    let mut out = stream;
    // Longer lines than any request are cut, so that nobody can fill the memory.
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        match std::io::Read::take(&mut lines, 256).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let (reply, answer) = mpsc::channel();
        let text = match Request::parse(&line) {
            None => "refused: no such request; pause, resume, home, park, next, success, failure, quit, stop or status"
                .to_owned(),
            Some(request) => match sender.send((request, Some(reply))) {
                Ok(()) => answer
                    .recv_timeout(Duration::from_secs(2))
                    .unwrap_or_else(|_| "refused: the run does not answer".to_owned()),
                Err(_) => "refused: the run has ended".to_owned(),
            },
        };
        if writeln!(out, "{text}").is_err() {
            return;
        }
    }
}

/// Arguments of `endplate operator`.
#[derive(Args)]
pub struct AskArguments {
    /// What to ask for.
    #[arg(value_enum)]
    request: Request,
    /// The control socket of the run.
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// Wait until it has been done.
    #[arg(long)]
    wait: bool,
}

/// Asks a running robot for something, and prints its answer.
pub fn ask(arguments: &AskArguments) -> Result<(), CliError> {
    let path = arguments.control.display();
    let fail = |error: std::io::Error| CliError::Failed(format!("--control {path}: {error}: does a run listen there?"));
    let stream = UnixStream::connect(&arguments.control).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(fail)?;
    let mut lines = BufReader::new(&stream);
    let mut say = |request: Request| -> Result<String, CliError> {
        let name = request.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        writeln!(&stream, "{name}").map_err(fail)?;
        let mut answer = String::new();
        lines.read_line(&mut answer).map_err(fail)?;
        Ok(answer.trim_end().to_owned())
    };
    let answer = say(arguments.request)?;
    if answer.is_empty() || answer.starts_with("refused") {
        return Err(CliError::Failed(answer));
    }
    say!("{answer}");
    // A run that has ended is done with everything.
    let is_busy = |status: Result<String, CliError>| status.is_ok_and(|status| status.contains("\"busy\":true"));
    while arguments.wait && is_busy(say(Request::Status)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_a_key_and_a_name() {
        for request in Request::value_variants() {
            let name = request.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(Request::parse(&name), Some(*request));
            assert!(KEYS.iter().any(|(key, of)| of == request && HELP.contains(&format!("{key} "))), "{name}");
        }
        assert_eq!(Request::parse("now"), None);
    }
}
