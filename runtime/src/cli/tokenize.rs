//! `endplate tokenize`: action chunks to ids and back, JSON lines on standard input and output.

use super::error::CliError;
use clap::{Args, Subcommand, ValueEnum};
use endplate_tokenizers::{DecodeError, FastCodec, FastTokenizer, Repair, Repaired};
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
    /// How decoding treats ids that are not a whole chunk; encoding is the same in every mode.
    #[arg(long, value_enum, default_value = "checked")]
    mode: Mode,
    /// anytime: refuse a prefix with less than this share of the frequencies, 0 to 1. The default shows whatever a
    /// prefix says, even nothing; a robot declares a share.
    #[arg(long, default_value_t = 0.0)]
    min_share: f64,
}

#[derive(Copy, Clone, PartialEq, ValueEnum)]
enum Mode {
    /// Refuse them.
    Checked,
    /// Decode a prefix, low frequencies only, and state the largest possible error.
    Anytime,
    /// For comparison only: as LeRobot, cut or filled with zeros.
    Relaxed,
    /// For comparison only: as the released processor, all zeros.
    Upstream,
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
    if !(0.0..=1.0).contains(&arguments.min_share) {
        return Err(CliError::Input(format!("--min-share {}: it must be 0 to 1", arguments.min_share)));
    }
    if arguments.min_share > 0.0 && arguments.mode != Mode::Anytime {
        return Err(CliError::Input("--min-share: it belongs to --mode anytime".to_owned()));
    }
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
            TokenizeCommand::Decode(_) => decode(&mut codec, arguments, &line),
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

fn decode(codec: &mut FastCodec, arguments: &TokenizeArguments, line: &str) -> Result<Value, Refusal> {
    let line: TokenLine = serde_json::from_str(line).map_err(|error| ("json", error.to_string()))?;
    let refuse = |error: DecodeError| (error.kind(), error.to_string());
    let (ids, dims) = (&line.tokens, codec.dims());
    let mut chunk = vec![0.0; codec.horizon() * dims];
    let mut answer = json!({});
    match arguments.mode {
        Mode::Checked => codec.decode(ids, &mut chunk).map_err(refuse)?,
        Mode::Anytime => {
            let anytime = codec.decode_anytime(ids, &mut chunk, arguments.min_share).map_err(refuse)?;
            answer["frequencies"] = json!(anytime.frequencies);
            answer["share"] = json!(anytime.share);
            answer["error_bound"] = json!(anytime.error_bound);
            answer["rms_bound"] = json!(anytime.rms_bound);
            answer["ended_by"] = json!(anytime.ended_by.map(|error| error.kind()));
        }
        Mode::Relaxed => {
            answer["repaired"] = repaired(codec.decode_repaired(ids, Repair::Relaxed, &mut chunk).map_err(refuse)?)
        }
        Mode::Upstream => {
            let said = codec.decode_repaired(ids, Repair::Upstream, &mut chunk).map_err(refuse)?;
            answer["repaired"] = repaired(said);
            answer["upstream_ok"] = json!(!said.is_wrong_length());
        }
    }
    answer["chunk"] = json!(chunk.chunks_exact(dims).collect::<Vec<_>>());
    Ok(answer)
}

/// What was made up.
fn repaired(said: Repaired) -> Value {
    json!({
        "dropped_ids": said.dropped_ids,
        "replaced_characters": said.replaced_characters,
        "missing": said.missing,
        "surplus": said.surplus,
    })
}
