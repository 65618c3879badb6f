//! The process's supervisors, told the truth: systemd's notify socket and `/dev/watchdog`.
//!
//! Both are kicked only while the control loop makes progress: the control thread beats a [`Heartbeat`] after each
//! command it has sent, and the thread of the [`Watchdog`] passes a kick on only when the heart has beaten since the
//! last one. A loop that hangs in a driver, or never runs, stops the kicks, whatever the other threads do.

use core::time::Duration;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Counts the periods in which a command was sent.
#[derive(Debug, Default)]
pub struct Heartbeat(AtomicU64);

impl Heartbeat {
    /// One period is over.
    ///
    /// # Real-time
    /// One atomic addition.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// Beats so far.
    pub fn beats(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The notify socket of systemd, as `sd_notify(3)` describes it.
#[derive(Debug)]
pub struct Notifier {
    #[cfg(unix)]
    socket: std::os::unix::net::UnixDatagram,
}

impl Notifier {
    /// The socket that `NOTIFY_SOCKET` names; `None` when it is not set.
    ///
    /// # Errors
    /// The socket cannot be reached.
    pub fn from_environment() -> std::io::Result<Option<Self>> {
        std::env::var_os("NOTIFY_SOCKET").map(|name| Self::connect(&name)).transpose()
    }

    /// A socket by its name: a path, or `@name` in the abstract namespace of Linux.
    ///
    /// # Errors
    /// The socket cannot be reached.
    #[cfg(unix)]
    pub fn connect(name: &OsString) -> std::io::Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let socket = std::os::unix::net::UnixDatagram::unbound()?;
        match name.as_bytes() {
            #[cfg(target_os = "linux")]
            [b'@', abstract_name @ ..] => {
                use std::os::linux::net::SocketAddrExt;
                socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(abstract_name)?)?;
            }
            _ => socket.connect(Path::new(name))?,
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// A socket by its name: this platform has none.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(unix))]
    pub fn connect(_: &OsString) -> std::io::Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, "only Unix has notify sockets"))
    }

    /// Sends assignments, one a line, such as `READY=1`. A supervisor that does not read loses them.
    ///
    /// # Errors
    /// The supervisor has gone, or does not read.
    pub fn notify(&self, assignments: &str) -> std::io::Result<()> {
        #[cfg(unix)]
        self.socket.send(assignments.as_bytes())?;
        #[cfg(not(unix))]
        let _ = assignments;
        Ok(())
    }
}

/// Who watches this process.
#[derive(Debug, Default)]
pub struct WatchdogOptions {
    /// systemd's socket.
    pub notifier: Option<Arc<Notifier>>,
    /// systemd kills the process when no kick comes for this long (`WatchdogSec=`).
    pub interval: Option<Duration>,
    /// A hardware watchdog, such as `/dev/watchdog`: it resets the machine when no kick comes.
    pub device: Option<PathBuf>,
}

impl WatchdogOptions {
    /// What systemd told this process in its environment.
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` names a socket that cannot be reached, or `WATCHDOG_USEC` is not a number.
    pub fn from_environment() -> std::io::Result<Self> {
        let notifier = Notifier::from_environment()
            .map_err(|error| Error::new(error.kind(), format!("NOTIFY_SOCKET: {error}")))?
            .map(Arc::new);
        let for_us = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let interval = match std::env::var("WATCHDOG_USEC") {
            Ok(text) if for_us => {
                let micros = text.parse::<u64>().ok().filter(|&micros| micros > 0).ok_or_else(|| {
                    Error::new(ErrorKind::InvalidInput, format!("WATCHDOG_USEC = {text}: not a number above 0"))
                })?;
                Some(Duration::from_micros(micros))
            }
            _ => None,
        };
        Ok(Self { notifier, interval, device: None })
    }
}

/// Kicks while the heart beats, on a thread of its own; ends in order when it is dropped or [stopped](Self::stop).
pub struct Watchdog {
    notifier: Option<Arc<Notifier>>,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    withheld: Arc<AtomicU64>,
}

/// The longest time between two kicks of a device: most reset after 15 to 60 s without one.
const DEVICE_KICK: Duration = Duration::from_secs(1);

impl Watchdog {
    /// Starts to kick. The heart must beat from now on.
    ///
    /// # Errors
    /// The device cannot be opened.
    pub fn start(options: WatchdogOptions, heartbeat: Arc<Heartbeat>) -> std::io::Result<Self> {
        let WatchdogOptions { notifier, interval, device } = options;
        let mut device = device.map(|path| open(&path)).transpose()?;
        let withheld = Arc::new(AtomicU64::new(0));
        let kick_every = match (interval.filter(|_| notifier.is_some()), &device) {
            (Some(interval), Some(_)) => (interval / 2).min(DEVICE_KICK),
            (Some(interval), None) => interval / 2,
            (None, Some(_)) => DEVICE_KICK,
            (None, None) => return Ok(Self { notifier, end: None, thread: None, withheld }),
        };
        let (end, ended) = mpsc::channel::<()>();
        let (kicker, missed) = (notifier.clone().filter(|_| interval.is_some()), Arc::clone(&withheld));
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut seen = heartbeat.beats();
            while ended.recv_timeout(kick_every) == Err(mpsc::RecvTimeoutError::Timeout) {
                let beats = heartbeat.beats();
                if beats == seen {
                    if missed.fetch_add(1, Ordering::Relaxed) == 0 {
                        // Whether or not somebody reads it, this thread has to go on.
                        let said = "the control loop made no progress";
                        let _ = writeln!(std::io::stderr(), "watchdog   {said} for {kick_every:?}: not kicked");
                    }
                    continue;
                }
                seen = beats;
                // A supervisor that does not listen will act by itself.
                if let Some(notifier) = &kicker {
                    let _ = notifier.notify("WATCHDOG=1");
                }
                if let Some(device) = &mut device {
                    let _ = device.write_all(b"1").and_then(|()| device.flush());
                }
            }
            if let Some(device) = &mut device {
                // The magic letter: the end is meant, the machine is not to be reset.
                let _ = device.write_all(b"V").and_then(|()| device.flush());
            }
        })?;
        Ok(Self { notifier, end: Some(end), thread: Some(thread), withheld })
    }

    /// Tells systemd something, where there is one.
    pub fn notify(&self, assignments: &str) {
        if let Some(notifier) = &self.notifier {
            // A supervisor that does not listen loses it.
            let _ = notifier.notify(assignments);
        }
    }

    /// Kicks that were withheld because the heart had not beaten.
    pub fn withheld(&self) -> u64 {
        self.withheld.load(Ordering::Relaxed)
    }

    /// Says that the end is meant, and ends the kicks.
    pub fn stop(mut self) {
        self.notify("STOPPING=1");
        self.end();
    }

    fn end(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options()
        .write(true)
        .open(path)
        .map_err(|error| Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn received(socket: &UnixDatagram) -> Vec<String> {
        let mut messages = Vec::new();
        let mut buffer = [0; 256];
        while let Ok(length) = socket.recv(&mut buffer) {
            messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        messages
    }

    #[test]
    fn kicks_follow_the_heart_and_a_hung_loop_gets_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let device = folder.path().join("watchdog");
        std::fs::write(&device, "").unwrap();
        let heartbeat = Arc::new(Heartbeat::default());
        let options = WatchdogOptions {
            notifier: Some(Arc::new(Notifier::connect(&path.into_os_string()).unwrap())),
            interval: Some(Duration::from_millis(20)),
            device: Some(device.clone()),
        };
        let watchdog = Watchdog::start(options, Arc::clone(&heartbeat)).unwrap();
        watchdog.notify("READY=1");
        while received(&socket).iter().filter(|message| *message == "WATCHDOG=1").count() == 0 {
            heartbeat.beat();
            std::thread::sleep(Duration::from_millis(1));
        }
        // From here on the loop hangs; one kick for beats already seen may still come.
        while watchdog.withheld() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        received(&socket);
        let hung = watchdog.withheld();
        while watchdog.withheld() < hung + 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(received(&socket), Vec::<String>::new(), "a hung loop was kicked for");
        watchdog.stop();
        assert_eq!(received(&socket), ["STOPPING=1"]);
        let kicks = std::fs::read_to_string(&device).unwrap();
        assert!(kicks.starts_with('1') && kicks.ends_with('V'), "{kicks}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_in_the_abstract_namespace_is_reached() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("endplate-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notifier::connect(&format!("@{name}").into()).unwrap().notify("STATUS=here").unwrap();
        let mut buffer = [0; 32];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STATUS=here");
    }

    #[test]
    fn what_cannot_be_reached_is_named() {
        let missing: OsString = "/nowhere/notify".into();
        assert!(Notifier::connect(&missing).is_err());
        let options = WatchdogOptions { device: Some("/nowhere/watchdog".into()), ..WatchdogOptions::default() };
        let error = Watchdog::start(options, Arc::default()).err().unwrap().to_string();
        assert!(error.contains("/nowhere/watchdog"), "{error}");
    }
}
