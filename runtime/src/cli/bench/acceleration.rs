//! `endplate bench acceleration`: ways of decoding on the observations of a recording, each beside plain decoding.
//!
//! Every observation is answered twice, plain and accelerated, one right after the other, in the recording's order and
//! with its motion times, so that guesses from the chunk before are worth what they are worth on the robot. What the
//! ways cost in success, `endplate evaluate --decoding` says.

use super::super::bundle::PolicyArguments;
use super::super::error::CliError;
use super::super::recorded::{Replayed, replayed};
use super::{BenchArguments, Row, Samples, rounded};
use endplate_hal::Instant;
use endplate_policies::{ActionChunk, Budget, Committed, Decoding, Epoch, Observation, Policy, PolicyError};
use serde_json::json;

/// Measured when no `--decodings` is given: each source of guesses alone, then what adds up.
const LOSSLESS: [&str; 5] = ["plain", "previous", "trigram", "jacobi", "previous+trigram+jacobi"];
/// For bins beside those.
const LOSSY: [&str; 3] =
    ["previous+jacobi+bin_distance:2", "previous+jacobi+early_exit:4", "previous+jacobi+early_exit:2"];

/// One side of a comparison.
struct Side {
    policy: Box<dyn Policy>,
    chunk: ActionChunk,
    answers: usize,
    refused: usize,
    tokens: f64,
    passes: f64,
    latency_ms: Vec<f64>,
}

impl Side {
    fn load(policy: &PolicyArguments, decoding: Decoding) -> Result<Self, CliError> {
        let (bundle, loaded) = PolicyArguments { decoding: Some(decoding), ..policy.clone() }.load()?;
        Ok(Self {
            policy: loaded.policy,
            chunk: ActionChunk::for_spec(bundle.spec()),
            answers: 0,
            refused: 0,
            tokens: 0.0,
            passes: 0.0,
            latency_ms: Vec::new(),
        })
    }

    fn answer(&mut self, observation: &Observation<'_>, epoch: Epoch) -> Result<(), CliError> {
        let budget = Budget::unlimited(Instant::ZERO);
        match self.policy.infer(observation, &Committed::none(epoch), budget, &mut self.chunk) {
            Ok(_) => {
                let stages = self.chunk.stages();
                self.answers += 1;
                self.tokens += f64::from(stages.tokens);
                self.passes += stages.passes;
                self.latency_ms.push(stages.total().as_secs_f64() * 1e3);
                Ok(())
            }
            Err(PolicyError::Undecodable(_) | PolicyError::NonFinite { .. } | PolicyError::OutOfRange { .. }) => {
                self.refused += 1;
                Ok(())
            }
            Err(error) => Err(CliError::Failed(format!("{}: {error}", error.kind()))),
        }
    }

    fn per_chunk(&self, total: f64) -> f64 {
        rounded(total / self.answers.max(1) as f64)
    }

    fn mean_ms(&self) -> f64 {
        self.latency_ms.iter().sum::<f64>() / self.latency_ms.len().max(1) as f64
    }
}

/// One row a way of decoding.
pub(super) fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let Some(path) = &arguments.recording else {
        return Err(CliError::Input("bench acceleration: give --recording FILE of `endplate run --record`".to_owned()));
    };
    let policy = PolicyArguments { decoding: None, ..arguments.policy.clone() };
    let bundle = policy.open()?;
    let spec = bundle.spec();
    let recorded = replayed(path, spec, arguments.observations.unwrap_or(usize::MAX))?;
    let parse = |names: &[&str]| names.iter().filter_map(|name| name.parse().ok()).collect::<Vec<Decoding>>();
    let decodings = if arguments.decodings.is_empty() {
        let fits = |decoding: &Decoding| decoding.check(&spec.family).is_ok();
        parse(&[&LOSSLESS[..], &LOSSY[..]].concat()).into_iter().filter(fits).collect()
    } else {
        arguments.decodings.clone()
    };
    let mut rows = Vec::new();
    for decoding in decodings {
        let (mut plain, mut fast) = (Side::load(&policy, Decoding::default())?, Side::load(&policy, decoding)?);
        let (same, with_tokens) = compare(&recorded, &mut plain, &mut fast)?;
        let mut row = Row::new();
        row.insert("what".to_owned(), json!(decoding.to_string()));
        row.insert("bundle".to_owned(), json!(spec.name));
        row.insert("precision".to_owned(), json!(spec.precision.name()));
        row.insert("engine".to_owned(), json!(format!("{:?}", arguments.policy.engine).to_lowercase()));
        row.insert("observations".to_owned(), json!(recorded.len()));
        row.insert("same_tokens".to_owned(), json!(same));
        row.insert("with_tokens".to_owned(), json!(with_tokens));
        row.insert("refused_plain".to_owned(), json!(plain.refused));
        row.insert("refused".to_owned(), json!(fast.refused));
        row.insert("tokens_per_chunk".to_owned(), json!(fast.per_chunk(fast.tokens)));
        row.insert("passes_per_chunk_plain".to_owned(), json!(plain.per_chunk(plain.passes)));
        row.insert("passes_per_chunk".to_owned(), json!(fast.per_chunk(fast.passes)));
        for (side, prefix) in [(&plain, "plain"), (&fast, "chunk")] {
            let mut samples = Samples::default();
            samples.extend(side.latency_ms.iter().copied());
            samples.put(&mut row, prefix, "ms");
        }
        row.insert("mean_latency_ratio".to_owned(), json!(rounded(plain.mean_ms() / fast.mean_ms())));
        rows.push(row);
    }
    Ok(rows)
}

/// Answers everything on both sides; how many answers have the same tokens, of how many with tokens.
fn compare(recorded: &[Replayed], plain: &mut Side, fast: &mut Side) -> Result<(usize, usize), CliError> {
    let (mut same, mut with_tokens) = (0, 0);
    for each in recorded {
        let observation = each.observation();
        plain.answer(&observation, each.epoch)?;
        fast.answer(&observation, each.epoch)?;
        with_tokens += usize::from(!plain.policy.tokens().is_empty());
        same += usize::from(!plain.policy.tokens().is_empty() && plain.policy.tokens() == fast.policy.tokens());
    }
    Ok((same, with_tokens))
}
