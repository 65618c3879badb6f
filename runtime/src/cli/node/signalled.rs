//! Whether a signal has asked this process to end.

use crate::cli::error::CliError;
use endplate_runtime::signals::StopRequest;
use std::sync::OnceLock;

static STOP: OnceLock<StopRequest> = OnceLock::new();

/// From now on the first SIGINT, SIGTERM or SIGHUP is noted; a second SIGINT or SIGTERM ends the process at once.
pub fn install() -> Result<(), CliError> {
    let stop = StopRequest::listen().map_err(|error| CliError::Failed(format!("signal handlers: {error}")))?;
    STOP.get_or_init(|| stop);
    Ok(())
}

/// Whether one came.
pub fn is_set() -> bool {
    STOP.get().is_some_and(StopRequest::is_asked)
}
