//! A half-duplex byte port, and the serial port behind it.

use core::time::Duration;

/// Why a port failed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PortError {
    /// Nothing arrived in time.
    Timeout,
    /// The device is gone, or failed with this error code.
    Gone(i32),
}

/// A byte port that is read with a time limit.
pub trait Port: Send {
    /// Sends all bytes.
    ///
    /// # Errors
    /// [`PortError`].
    fn send(&mut self, bytes: &[u8]) -> Result<(), PortError>;

    /// Reads what has arrived, at least one byte, waiting at most `limit`.
    ///
    /// # Errors
    /// [`PortError::Timeout`] when nothing arrived.
    fn receive(&mut self, bytes: &mut [u8], limit: Duration) -> Result<usize, PortError>;

    /// Forgets what has arrived.
    ///
    /// # Errors
    /// [`PortError`].
    fn discard(&mut self) -> Result<(), PortError>;
}

#[cfg(feature = "serial")]
pub use serial::SerialPort;

#[cfg(feature = "serial")]
mod serial {
    use super::{Port, PortError};
    use core::time::Duration;
    use std::io::ErrorKind;
    use std::path::Path;

    /// A serial port: 8 data bits, no parity, 1 stop bit, no flow control.
    pub struct SerialPort {
        port: serial2::SerialPort,
        limit: Duration,
    }

    impl SerialPort {
        /// Opens a device for this process alone.
        ///
        /// # Errors
        /// The system's error.
        pub fn open(path: &Path, baud: u32) -> std::io::Result<Self> {
            let mut port = serial2::SerialPort::open(path, baud)?;
            let limit = Duration::from_millis(10);
            port.set_read_timeout(limit)?;
            port.set_write_timeout(Duration::from_millis(100))?;
            Ok(Self { port, limit })
        }

        /// Serial devices of this machine.
        pub fn list() -> Vec<std::path::PathBuf> {
            serial2::SerialPort::available_ports().unwrap_or_default()
        }
    }

    fn gone(error: &std::io::Error) -> PortError {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted => PortError::Timeout,
            _ => PortError::Gone(error.raw_os_error().unwrap_or(0)),
        }
    }

    impl Port for SerialPort {
        fn send(&mut self, bytes: &[u8]) -> Result<(), PortError> {
            self.port.write_all(bytes).map_err(|error| gone(&error))
        }

        fn receive(&mut self, bytes: &mut [u8], limit: Duration) -> Result<usize, PortError> {
            // The system waits in whole milliseconds; 0 would return at once.
            let limit = Duration::from_millis((limit.as_micros().div_ceil(1000) as u64).max(1));
            if limit != self.limit {
                self.port.set_read_timeout(limit).map_err(|error| gone(&error))?;
                self.limit = limit;
            }
            match self.port.read(bytes) {
                // The end of a file: the device was unplugged.
                Ok(0) => Err(PortError::Gone(0)),
                Ok(count) => Ok(count),
                Err(error) => Err(gone(&error)),
            }
        }

        fn discard(&mut self) -> Result<(), PortError> {
            self.port.discard_input_buffer().map_err(|error| gone(&error))
        }
    }
}
