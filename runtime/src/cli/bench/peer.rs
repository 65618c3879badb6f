//! A program that does the same with third-party code, in a process of its own: one JSON object a line, both ways.

use crate::cli::error::CliError;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The Python side; ends with the value.
pub(super) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    python: String,
}

impl Peer {
    /// Starts `script` with a Python; `needs` names the packages it must have.
    pub(super) fn start(python: &Path, script: &str, needs: &str) -> Result<Self, CliError> {
        let refuse = |error: String| {
            let python = python.display();
            CliError::Input(format!("--peer {python}: {error}; name a Python with {needs}"))
        };
        let mut child = Command::new(python)
            .args(["-u", "-c", script])
            // One thread each, as our side.
            .envs([("OMP_NUM_THREADS", "1"), ("TOKENIZERS_PARALLELISM", "false")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| refuse(error.to_string()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(refuse("its pipes could not be opened".to_owned()));
        };
        Ok(Self { child, input, output: BufReader::new(output), python: python.display().to_string() })
    }

    /// Sends a request and waits for the answer, an object.
    pub(super) fn ask(&mut self, request: &Value) -> Result<Value, CliError> {
        let refuse = |reason: String| CliError::Input(format!("--peer {}: {reason}", self.python));
        let mut line = String::new();
        // A peer that ended has said why on its output, which is read all the same.
        let sent = writeln!(self.input, "{request}").and_then(|()| self.input.flush());
        let read = self.output.read_line(&mut line);
        let answer: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(error) = answer["error"].as_str() {
            return Err(refuse(error.to_owned()));
        }
        if sent.is_err() || read.is_err() || !answer.is_object() {
            return Err(refuse(format!("it ended or answered {line:?}; its own error stands above")));
        }
        Ok(answer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
