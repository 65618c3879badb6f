//! `endplate tokenize`: action chunks to ids and back, JSON lines on standard input and output.

use super::error::CliError;
use clap::{Args, Subcommand, ValueEnum};
use endplate_tokenizers::{FastCodec, FastTokenizer};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::path::PathBuf;

/// Which way.
#[derive(Subcommand)]
pub enum TokenizeCommand {
    /// `{"chunk": [[…], …]}` (normalised units) to `{"tokens": […]}`.
    Encode(TokenizeArguments),
    /// `{"tokens": […]}` to `{"chunk": [[…], …]}`.
    Decode(TokenizeArguments),
}

/// Arguments of both ways.
#[derive(Args)]
pub struct TokenizeArguments {
    /// Folder with `tokenizer.json` and `processor_config.json`.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Rows of a chunk.
    #[arg(long)]
    horizon: usize,
    /// Dimensions of a row.
    #[arg(long)]
    dims: usize,
    /// How to treat ids that are not a whole chunk.
    #[arg(long, value_enum, default_value = "checked")]
    mode: Mode,
}

#[derive(Copy, Clone, ValueEnum)]
enum Mode {
    /// Refuse them.
    Checked,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChunkLine {
    chunk: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenLine {
    tokens: Vec<u32>,
}

/// Answers every line; a refused line gives an error object and the next line goes on.
pub fn tokenize(command: &TokenizeCommand) -> Result<(), CliError> {
    let (TokenizeCommand::Encode(arguments) | TokenizeCommand::Decode(arguments)) = command;
    let Mode::Checked = arguments.mode;
    let tokenizer = FastTokenizer::from_dir(&arguments.tokenizer).map_err(CliError::input)?;
    let mut codec = tokenizer.codec(arguments.horizon, arguments.dims).map_err(CliError::input)?;
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| CliError::Input(format!("standard input: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = match command {
            TokenizeCommand::Encode(_) => encode(&mut codec, &line),
            TokenizeCommand::Decode(_) => decode(&mut codec, &line),
        };
        let answer = answer.unwrap_or_else(|(kind, message)| json!({"error": {"kind": kind, "message": message}}));
        if writeln!(output, "{answer}").is_err() {
            return Ok(()); // The reader of our output has gone: there is nobody left to tell.
        }
    }
    Ok(())
}

type Refusal = (&'static str, String);

fn encode(codec: &mut FastCodec, line: &str) -> Result<Value, Refusal> {
    let line: ChunkLine = serde_json::from_str(line).map_err(|error| ("json", error.to_string()))?;
    let (horizon, dims) = (codec.horizon(), codec.dims());
    if line.chunk.len() != horizon || line.chunk.iter().any(|row| row.len() != dims) {
        return Err(("shape", format!("the chunk is not {horizon} rows of {dims} numbers")));
    }
    let flat: Vec<f64> = line.chunk.into_iter().flatten().collect();
    let mut ids = Vec::new();
    codec.encode(&flat, &mut ids).map_err(|error| (error.kind(), error.to_string()))?;
    Ok(json!({ "tokens": ids }))
}

fn decode(codec: &mut FastCodec, line: &str) -> Result<Value, Refusal> {
    let line: TokenLine = serde_json::from_str(line).map_err(|error| ("json", error.to_string()))?;
    let mut chunk = vec![0.0; codec.horizon() * codec.dims()];
    codec.decode(&line.tokens, &mut chunk).map_err(|error| (error.kind(), error.to_string()))?;
    let rows: Vec<&[f64]> = chunk.chunks_exact(codec.dims()).collect();
    Ok(json!({ "chunk": rows }))
}
