//! A pseudo-terminal pair: the emulator holds one end, a driver opens the other by its path as if it were a serial port.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The emulator's end. The other end is held open as well, so that a driver may come and go.
pub(super) struct Pty {
    master: File,
    _slave: OwnedFd,
    path: PathBuf,
}

impl Pty {
    pub(super) fn open() -> io::Result<Self> {
        // SAFETY: plain system calls; the descriptor that succeeds is owned by nobody else.
        let master = unsafe {
            let fd = check(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC))?;
            File::from_raw_fd(fd)
        };
        let fd = master.as_raw_fd();
        let mut name = [0 as libc::c_char; 128];
        // SAFETY: `fd` is open, and `name` is as long as said.
        let path = unsafe {
            check(libc::grantpt(fd))?;
            check(libc::unlockpt(fd))?;
            match libc::ptsname_r(fd, name.as_mut_ptr(), name.len()) {
                0 => PathBuf::from(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()),
                code => return Err(io::Error::from_raw_os_error(code)),
            }
        };
        let slave = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
        raw_mode(fd)?;
        raw_mode(slave.as_raw_fd())?;
        Ok(Self { master, _slave: slave.into(), path })
    }

    /// Where a driver opens it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits at most `limit` for bytes; how many came.
    pub(super) fn read(&self, bytes: &mut [u8], limit: Duration) -> io::Result<usize> {
        use std::io::Read;
        let mut poll = libc::pollfd { fd: self.master.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one descriptor, owned by `self`.
        match unsafe { libc::poll(&mut poll, 1, limit) } {
            0 => Ok(0),
            1.. => (&self.master).read(bytes),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The baud rate that the driver set at its end, where it is known.
    pub(super) fn baud(&self) -> Option<u32> {
        baud(self.master.as_raw_fd())
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        use std::io::Write;
        (&self.master).write_all(bytes)
    }
}

/// No echo, no line editing, no translation.
fn raw_mode(fd: libc::c_int) -> io::Result<()> {
    // SAFETY: `termios` is plain data that the first call fills.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        check(libc::tcgetattr(fd, &mut settings))?;
        libc::cfmakeraw(&mut settings);
        check(libc::tcsetattr(fd, libc::TCSANOW, &settings))?;
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Both ends of a pseudo-terminal share one set of terminal settings.
#[cfg(target_os = "linux")]
fn baud(fd: libc::c_int) -> Option<u32> {
    // SAFETY: `termios2` is plain data that the call fills.
    unsafe {
        let mut settings: libc::termios2 = std::mem::zeroed();
        check(libc::ioctl(fd, libc::TCGETS2, &raw mut settings)).ok()?;
        Some(settings.c_ospeed)
    }
}

#[cfg(not(target_os = "linux"))]
fn baud(_: libc::c_int) -> Option<u32> {
    None
}
