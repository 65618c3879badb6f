//! What can end a command, and the exit code that says so.

use core::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The exit codes, as `--help` prints them.
pub const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed while running; 2 bad input (arguments, configuration, files); \
3 the bundle is refused, or bundle and robot do not fit; 4 the engine or its library is not usable here.";

/// Why a command ended early. The message names file, field, value and remedy.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Arguments, configuration or files: exit code 2.
    #[error("{0}")]
    Input(String),
    /// A bundle that is refused, or does not fit the robot: exit code 3.
    #[error("{0}")]
    Refused(String),
    /// An engine or library that cannot be used: exit code 4.
    #[error("{0}")]
    Engine(String),
    /// Something that went wrong while running: exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// The exit code of this error.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Input(_) => 2,
            Self::Refused(_) => 3,
            Self::Engine(_) => 4,
        })
    }

    /// Bad input, with everything an error knows.
    pub fn input(error: impl Display) -> Self {
        Self::Input(error.to_string())
    }

    /// A failure while running, with everything an error knows.
    pub fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Reads a text file; an error names it.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|error| CliError::Input(format!("{}: {error}", path.display())))
}

/// Writes a file as a whole or not at all, and into what is no file (`/dev/stdout`, a pipe) as it is; an error names it.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", path.display()));
    if is_device(path) {
        return std::fs::write(path, contents).map_err(failed);
    }
    // What a link leads to is replaced, not the link.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    beside(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, contents.as_ref()).map(|()| file))
        .and_then(|file| file.persist(path).map_err(|error| error.error))
        .map(drop)
        .map_err(failed)
}

/// Refuses, before anything has run, a file that could not be written at the end.
pub fn require_writable<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), CliError> {
    for path in paths {
        let reason = match beside(path) {
            Ok(_) if path.is_dir() => "is a folder".to_owned(),
            Ok(_) => continue,
            Err(_) if is_device(path) => continue,
            Err(error) => format!("cannot be written: {}", error.kind()),
        };
        return Err(CliError::Input(format!(
            "{}: {reason}: name a file in a folder that can be written",
            path.display()
        )));
    }
    Ok(())
}

/// Refuses to do nothing and call it done.
pub fn require_one(option: &str, count: u64) -> Result<(), CliError> {
    if count == 0 {
        return Err(CliError::Input(format!("{option} 0: run at least one")));
    }
    Ok(())
}

/// Whether there is something that is neither a file nor a folder.
fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// A file without a name yet, in the same folder.
fn beside(path: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the user's umask
    builder.tempfile_in(folder)
}
