//! `endplate bench start`: from starting the process to its first command, as a supervisor sees it.
//!
//! This binary is started again and again with a notify socket of ours, which it tells `READY=1` after its first
//! command; then it is asked to stop. The steps come from its own report.

use super::{BenchArguments, Row, Samples as Quantiles};
use crate::cli::error::CliError;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A start that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every row of the table.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let folder = tempfile::tempdir().map_err(CliError::failed)?;
    let program = std::env::current_exe().map_err(CliError::failed)?;
    let mut spans: Vec<(String, Vec<f64>)> = vec![("process start to READY".to_owned(), Vec::new())];
    for _ in 0..arguments.windows {
        let path = folder.path().join("notify");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).map_err(CliError::failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(CliError::failed)?;
        let json = folder.path().join("run.json");
        let started = Instant::now();
        let mut child = Command::new(&program)
            .args(["run", "--realtime", "--episodes", "1", "--json"])
            .arg(&json)
            .env("NOTIFY_SOCKET", &path)
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(CliError::failed)?;
        let ready = wait_for_ready(&socket);
        spans[0].1.push(started.elapsed().as_secs_f64() * 1e3);
        // Far enough for the first command that follows from a frame.
        std::thread::sleep(Duration::from_millis(300));
        // SAFETY: the process is our child and has not been waited for.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        let status = child.wait().map_err(CliError::failed)?;
        ready?;
        if !status.success() {
            return Err(CliError::Failed(format!("the run ended with {status}")));
        }
        let text = crate::cli::error::read_text(&json)?;
        let report: serde_json::Value = serde_json::from_str(&text).map_err(CliError::failed)?;
        for (step, millis) in report["startup_ms"].as_object().into_iter().flatten() {
            let Some(millis) = millis.as_f64() else { continue };
            match spans.iter_mut().find(|(name, _)| name == step) {
                Some((_, values)) => values.push(millis),
                None => spans.push((step.clone(), vec![millis])),
            }
        }
    }
    spans[1..].sort_by(|(_, a), (_, b)| super::quantile(a, 0.5).total_cmp(&super::quantile(b, 0.5)));
    Ok(spans
        .into_iter()
        .map(|(what, values)| {
            let mut row = Row::new();
            row.insert("starts".to_owned(), values.len().into());
            row.insert("what".to_owned(), what.into());
            let mut all = Quantiles::default();
            all.extend(values);
            all.put(&mut row, "after_start", "ms");
            row
        })
        .collect())
}

fn wait_for_ready(socket: &UnixDatagram) -> Result<(), CliError> {
    let mut buffer = [0; 256];
    loop {
        let length = socket
            .recv(&mut buffer)
            .map_err(|error| CliError::Failed(format!("no READY=1 within {PATIENCE:?}: {error}")))?;
        if &buffer[..length] == b"READY=1" {
            return Ok(());
        }
    }
}
