//! The account of a run as a Prometheus text endpoint on loopback.
//!
//! A thread of its own answers one request at a time: `GET /metrics` in text format 0.0.4. Nothing the control path
//! holds is touched: the account is kept by whoever drains the ring of stamps.

use crate::metrics::{BudgetAccount, Percentiles, Rung, WINDOW, Windowed};
use core::fmt::Write as _;
use core::time::Duration;
use std::io::{Error, ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A request must have come and its answer must have gone within this time.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest request that is read.
const LONGEST: usize = 8192;
/// How often the thread looks whether it is to end.
const POLL: Duration = Duration::from_millis(50);

/// Serves until it is dropped.
pub struct MetricsServer {
    address: SocketAddr,
    running: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Serves `account` and the lines of `extra` at `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is not a loopback address, or cannot be bound.
    pub fn start(
        address: SocketAddr,
        account: Arc<Mutex<BudgetAccount>>,
        extra: impl Fn() -> String + Send + 'static,
    ) -> std::io::Result<Self> {
        if !address.ip().is_loopback() {
            let message = "metrics are served on loopback only: write 127.0.0.1:PORT or [::1]:PORT";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let running = Arc::new(AtomicBool::new(true));
        let alive = Arc::clone(&running);
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            while alive.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        // A client that went away is its own affair.
                        let _ = answer(stream, &account, &extra);
                    }
                    Err(_) => std::thread::sleep(POLL),
                }
            }
        })?;
        Ok(Self { address, running, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, account: &Mutex<BudgetAccount>, extra: &impl Fn() -> String) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let started = std::time::Instant::now();
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut part)?;
        if length == 0 || request.len() + length > LONGEST || started.elapsed() > PATIENCE {
            return respond(&mut stream, "400 Bad Request", "not an HTTP request\n", false);
        }
        request.extend_from_slice(&part[..length]);
    }
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => {
            // Copied out, so that the text is made without the lock.
            let copy = account.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let body = text(&copy) + &extra();
            respond(&mut stream, "200 OK", &body, method == b"HEAD")
        }
        (b"GET" | b"HEAD", _) => respond(&mut stream, "404 Not Found", "look at /metrics\n", method == b"HEAD"),
        _ => respond(&mut stream, "405 Method Not Allowed", "GET or HEAD only\n", false),
    }
}

fn respond(stream: &mut TcpStream, status: &str, body: &str, only_head: bool) -> std::io::Result<()> {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    if !only_head {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

/// The account in Prometheus text format 0.0.4. Times are seconds. Summaries give quantiles of the newest window, sum
/// and count of the whole run, as the format means them.
pub fn text(account: &BudgetAccount) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(account, &mut out);
    out
}

fn write_text(account: &BudgetAccount, out: &mut String) -> core::fmt::Result {
    for (name, count) in account.counters() {
        writeln!(out, "# TYPE endplate_{name}_total counter\nendplate_{name}_total {count}")?;
    }
    let ladder = account.ladder();
    writeln!(out, "# HELP endplate_periods_total Control periods by rung of the failure ladder.")?;
    writeln!(out, "# TYPE endplate_periods_total counter")?;
    let rungs = [
        ("fresh", ladder.fresh),
        ("continued", ladder.continued),
        ("posed", ladder.posed),
        ("decelerated", ladder.decelerated),
        ("held", ladder.held),
        ("stopped", ladder.stopped),
    ];
    for (rung, count) in rungs {
        writeln!(out, "endplate_periods_total{{rung=\"{rung}\"}} {count}")?;
    }
    writeln!(out, "# HELP endplate_stage_seconds From the stage before (capture first) to this one, per chunk.")?;
    writeln!(out, "# TYPE endplate_stage_seconds summary")?;
    for (stage, spans) in account.stages() {
        summary(out, "endplate_stage_seconds", &format!("stage=\"{stage}\""), spans)?;
    }
    let seconds = WINDOW.as_secs();
    for (name, help, spans) in [
        ("capture_to_command", "Capture to the first command of each chunk.", account.capture_to_command()),
        ("information_age", "Age of the frame behind every command that follows from one.", account.age()),
        ("lateness", "How late each control period began.", account.lateness()),
        ("period", "From the beginning of a control period to its command sent.", account.period()),
    ] {
        writeln!(out, "# HELP endplate_{name}_seconds {help} Quantiles of the newest {seconds} s.")?;
        writeln!(out, "# TYPE endplate_{name}_seconds summary")?;
        summary(out, &format!("endplate_{name}_seconds"), "", spans)?;
    }
    if let Some(newest) = account.newest() {
        writeln!(out, "# HELP endplate_command_from_frame Whether the newest command follows from a frame.")?;
        writeln!(out, "# TYPE endplate_command_from_frame gauge")?;
        let playing = matches!(newest.rung, Rung::Fresh | Rung::Continued);
        writeln!(out, "endplate_command_from_frame {}", u8::from(playing))?;
        if let Some(provenance) = newest.provenance {
            let frame = provenance.trace.frame;
            writeln!(out, "# HELP endplate_frame_sequence Sequence number of the frame of the newest command.")?;
            writeln!(out, "# TYPE endplate_frame_sequence gauge")?;
            writeln!(out, "endplate_frame_sequence{{camera=\"{}\"}} {}", frame.camera, frame.sequence)?;
        }
    }
    Ok(())
}

fn summary(out: &mut String, name: &str, labels: &str, spans: &Windowed) -> core::fmt::Result {
    let joined = |more: &str| match (labels, more) {
        ("", "") => String::new(),
        ("", more) => format!("{{{more}}}"),
        (labels, "") => format!("{{{labels}}}"),
        (labels, more) => format!("{{{labels},{more}}}"),
    };
    if let Some(Percentiles { p50, p99, p999, max }) = spans.window(Duration::from_secs(1)) {
        for (quantile, value) in [("0.5", p50), ("0.99", p99), ("0.999", p999), ("1", max)] {
            writeln!(out, "{name}{} {value}", joined(&format!("quantile=\"{quantile}\"")))?;
        }
    }
    writeln!(out, "{name}_sum{} {}", joined(""), spans.sum_s())?;
    writeln!(out, "{name}_count{} {}", joined(""), spans.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{CommandStamps, Provenance};
    use endplate_hal::{FrameStamp, Instant};
    use endplate_policies::Trace;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_plain_client_reads_the_account() {
        let ms = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let mut account = BudgetAccount::new(Duration::from_millis(50));
        let frame = FrameStamp { camera: 0, sequence: 42, captured: ms(10), available: ms(20) };
        let trace = Trace { frame, observed: ms(21), inferred: ms(80) };
        account.enter(&CommandStamps {
            due: ms(90),
            woke: ms(91),
            sent: ms(92),
            missed: 2,
            rung: Rung::Fresh,
            provenance: Some(Provenance { trace, scheduled: ms(91) }),
            is_first: true,
        });
        let account = Arc::new(Mutex::new(account));
        let extra = || "endplate_extra 1\n".to_owned();
        let server = MetricsServer::start("127.0.0.1:0".parse().unwrap(), account, extra).unwrap();
        let answer = ask(server.address(), "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        for line in [
            "endplate_overruns_total 2",
            "endplate_deadline_misses_total 1",
            "endplate_periods_total{rung=\"fresh\"} 1",
            "endplate_stage_seconds_count{stage=\"inferred\"} 1",
            "endplate_frame_sequence{camera=\"0\"} 42",
            "endplate_extra 1",
        ] {
            assert!(body.lines().any(|found| found == line), "{line} is missing in\n{body}");
        }
        let metric = |line: &str| line.starts_with('#') || line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok();
        assert!(body.lines().all(metric), "{body}");
        assert!(ask(server.address(), "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(server.address(), "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(ask(server.address(), &"x".repeat(9000)).starts_with("HTTP/1.1 400"));
    }

    #[test]
    fn only_loopback_is_served() {
        let account = Arc::new(Mutex::new(BudgetAccount::new(Duration::from_millis(50))));
        let refused = MetricsServer::start("0.0.0.0:0".parse().unwrap(), account, String::new).err().unwrap();
        assert!(refused.to_string().contains("loopback"), "{refused}");
    }
}
