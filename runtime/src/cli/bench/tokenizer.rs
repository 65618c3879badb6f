//! `endplate bench tokenizer`: FAST against the path users have today, call by call in interleaved windows.

use super::peer::Peer;
use super::{BenchArguments, Ratio, Row, Samples, quantile, rounded};
use crate::cli::error::CliError;
use endplate_tokenizers::{FastCodec, FastTokenizer};
use serde::Deserialize;
use serde_json::json;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

/// 400 normalised chunks of the demonstration's expert, f32 little-endian `[400, 16, 6]`; see `chunks.py` beside it.
const CHUNKS: &[u8] = include_bytes!("../../../../tokenizers/bench/pick_cube_16x6.f32");
const CHUNKS_SHAPE: (usize, usize) = (16, 6);
const TOKENIZER: &[u8] = include_bytes!("../../../../policies/bundles/pick_cube_fast/tokenizer/tokenizer.json");
const PROCESSOR: &[u8] = include_bytes!("../../../../policies/bundles/pick_cube_fast/tokenizer/processor_config.json");
const PEER: &str = include_str!("../../../../tokenizers/bench/processor_peer.py");
const NEEDS: &str = "numpy, scipy and tokenizers";

/// Untimed calls before the first window.
const WARM_UP: usize = 400;

/// Chunks of one shape and the tokenizer for them.
struct Set {
    name: &'static str,
    model: String,
    tokenizer: FastTokenizer,
    shape: (usize, usize),
    chunks: Vec<Vec<f64>>,
}

/// Every row of the table.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    #[cfg_attr(not(feature = "mcap"), allow(unused_mut))]
    let mut sets = sets(arguments.fast_plus.as_deref())?;
    let mut rows = Vec::new();
    for set in &sets {
        let mut peer = arguments.peer.as_deref().map(|python| Peer::start(python, PEER, NEEDS)).transpose()?;
        rows.extend(compare(set, peer.as_mut(), arguments)?);
    }
    #[cfg(feature = "mcap")]
    if let Some(recording) = &arguments.recording {
        let chunks = answered(&sets[0], recording)?;
        let set = Set { name: "the policy's own answers", chunks, ..sets.swap_remove(0) };
        rows.extend(anytime(&set)?);
        return Ok(rows);
    }
    rows.extend(anytime(&sets[0])?);
    Ok(rows)
}

/// The chunks of every answer of a recording, normalised, decoded from its tokens.
#[cfg(feature = "mcap")]
fn answered(set: &Set, recording: &Path) -> Result<Vec<Vec<f64>>, CliError> {
    let inferences = endplate_runtime::recorder::read_inferences(recording, &[]).map_err(CliError::input)?;
    let (horizon, dims) = set.shape;
    let mut codec = set.tokenizer.codec(horizon, dims).map_err(CliError::failed)?;
    let mut chunks = Vec::new();
    for inference in inferences.iter().filter(|inference| inference.record.refused.is_none()) {
        let mut chunk = vec![0.0; horizon * dims];
        codec.decode(&inference.record.tokens, &mut chunk).map_err(|error| {
            let remedy = "give a recording of the built-in policy";
            CliError::Input(format!("{}: {error}; {remedy}", recording.display()))
        })?;
        chunks.push(chunk);
    }
    if chunks.is_empty() {
        return Err(CliError::Input(format!("{}: holds no answer", recording.display())));
    }
    Ok(chunks)
}

fn sets(fast_plus: Option<&Path>) -> Result<Vec<Set>, CliError> {
    let text = |bytes: &[u8], name: &str| {
        String::from_utf8(bytes.to_vec()).map_err(|error| CliError::Input(format!("{name}: {error}")))
    };
    let demonstration: Vec<f64> =
        CHUNKS.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
    let values = CHUNKS_SHAPE.0 * CHUNKS_SHAPE.1;
    let chunks: Vec<Vec<f64>> = demonstration.chunks_exact(values).map(<[f64]>::to_vec).collect();
    let mut sets = vec![Set {
        name: "pick_cube 16x6, its own tokenizer",
        model: text(TOKENIZER, "the built-in tokenizer.json")?,
        tokenizer: FastTokenizer::from_bytes(TOKENIZER, PROCESSOR, "the built-in bundle").map_err(CliError::input)?,
        shape: CHUNKS_SHAPE,
        chunks: chunks.clone(),
    }];
    let Some(dir) = fast_plus else {
        remark!("SKIPPED: FAST+ is not measured without --fast-plus DIR");
        return Ok(sets);
    };
    let tokenizer = FastTokenizer::from_dir(dir).map_err(CliError::input)?;
    let model = super::super::error::read_text(&dir.join("tokenizer.json"))?;
    let make = |name, shape, chunks| Set { name, model: model.clone(), tokenizer: tokenizer.clone(), shape, chunks };
    sets.push(make("pick_cube 16x6, FAST+", CHUNKS_SHAPE, chunks));
    let vectors = dir.join("fastplus_50x7.json");
    if vectors.exists() {
        let (longest, smooth) = reference_chunks(&vectors)?;
        sets.push(make("reference 50x7 of 75 tokens, FAST+", (50, 7), vec![longest]));
        sets.push(make("reference 50x7 smooth, FAST+", (50, 7), smooth));
    } else {
        remark!("SKIPPED: {} is missing, 50 x 7 chunks are not measured", vectors.display());
    }
    Ok(sets)
}

/// `smooth_0` alone, and all smooth ones.
fn reference_chunks(path: &Path) -> Result<(Vec<f64>, Vec<Vec<f64>>), CliError> {
    #[derive(Deserialize)]
    struct Vectors {
        encode: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        name: String,
        chunk: Vec<Vec<f64>>,
    }
    let name = path.display();
    let vectors: Vectors = serde_json::from_str(&super::super::error::read_text(path)?)
        .map_err(|error| CliError::Input(format!("{name}: {error}")))?;
    let smooth: Vec<Vec<f64>> =
        vectors.encode.iter().filter(|case| case.name.starts_with("smooth_")).map(|case| case.chunk.concat()).collect();
    let first = smooth.first().cloned().ok_or_else(|| CliError::Input(format!("{name}: no case smooth_0")))?;
    Ok((first, smooth))
}

/// Our side: a codec and what it has made of the chunks.
struct Ours {
    codec: FastCodec,
    ids: Vec<Vec<u32>>,
    buffer: Vec<u32>,
    out: Vec<f64>,
}

impl Ours {
    fn new(set: &Set) -> Result<Self, CliError> {
        let mut codec = set.tokenizer.codec(set.shape.0, set.shape.1).map_err(CliError::input)?;
        let mut ids = Vec::new();
        for (index, chunk) in set.chunks.iter().enumerate() {
            let mut of_chunk = Vec::new();
            codec.encode(chunk, &mut of_chunk).map_err(|e| CliError::Failed(format!("{} {index}: {e}", set.name)))?;
            ids.push(of_chunk);
        }
        let values = set.shape.0 * set.shape.1;
        Ok(Self { codec, ids, buffer: Vec::with_capacity(4 * values), out: vec![0.0; values] })
    }

    /// Nanoseconds of each call.
    fn window(&mut self, set: &Set, what: &str, count: usize, start: usize) -> Vec<f64> {
        let time = |call: &mut dyn FnMut(usize)| {
            (start..start + count)
                .map(|index| {
                    let begin = Instant::now();
                    call(index % set.chunks.len());
                    begin.elapsed().as_nanos() as f64
                })
                .collect()
        };
        let Self { codec, ids, buffer, out } = self;
        match what {
            "encode" => time(&mut |at| {
                let _ = black_box(codec.encode(black_box(&set.chunks[at]), buffer));
            }),
            "decode" => time(&mut |at| {
                let _ = black_box(codec.decode(black_box(&ids[at]), out));
            }),
            _ => time(&mut |at| {
                codec.reset();
                for &id in &ids[at] {
                    let _ = black_box(codec.push(black_box(id)));
                }
                let _ = black_box(codec.finish(out));
            }),
        }
    }

    /// Share of coefficients that are not zero.
    fn non_zero(&mut self, set: &Set) -> Result<f64, CliError> {
        // One row per frequency: a chunk of its own coefficients comes back from the ids alone.
        let (horizon, dims) = set.shape;
        let mut non_zero = 0usize;
        for ids in &self.ids {
            self.codec.decode(ids, &mut self.out).map_err(CliError::failed)?;
            for frequency in 0..horizon {
                let norm = (if frequency == 0 { 1.0 } else { 2.0 } / horizon as f64).sqrt();
                for dim in 0..dims {
                    let coefficient: f64 = (0..horizon)
                        .map(|row| {
                            let angle =
                                std::f64::consts::PI * ((2 * row + 1) * frequency) as f64 / (2 * horizon) as f64;
                            norm * self.out[row * dims + dim] * angle.cos()
                        })
                        .sum();
                    non_zero += usize::from((coefficient * set.tokenizer.scale()).abs() > 0.5);
                }
            }
        }
        Ok(non_zero as f64 / (self.ids.len() * horizon * dims) as f64)
    }
}

fn compare(set: &Set, peer: Option<&mut Peer>, arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let mut ours = Ours::new(set)?;
    let tokens = ours.ids.iter().map(Vec::len).sum::<usize>() as f64 / ours.ids.len() as f64;
    let mut about = Row::new();
    about.insert("chunks".to_owned(), set.name.into());
    about.insert("chunk_count".to_owned(), set.chunks.len().into());
    about.insert("tokens_mean".to_owned(), json!(rounded(tokens)));
    about.insert("non_zero_share".to_owned(), json!(rounded(ours.non_zero(set)?)));
    about.insert("windows".to_owned(), arguments.windows.into());
    about.insert("calls_per_window".to_owned(), arguments.calls.into());
    let mut peer = match peer {
        Some(peer) => {
            peer.load(set, &ours, &mut about)?;
            Some(peer)
        }
        None => None,
    };
    let mut rows = Vec::new();
    for what in ["encode", "decode", "push_all_then_finish"] {
        let theirs = if what == "encode" { "encode" } else { "decode" };
        let (mut our_calls, mut their_calls) = (Samples::default(), Samples::default());
        let (mut our_medians, mut their_medians) = (Vec::new(), Vec::new());
        ours.window(set, what, WARM_UP, 0);
        if let Some(peer) = peer.as_deref_mut() {
            peer.window(theirs, WARM_UP, 0)?;
        }
        for window in 0..arguments.windows {
            let start = window * arguments.calls;
            if let Some(peer) = peer.as_deref_mut() {
                let calls = peer.window(theirs, arguments.calls, start)?;
                their_medians.push(quantile(&calls, 0.5));
                their_calls.extend(calls);
            }
            let calls = ours.window(set, what, arguments.calls, start);
            our_medians.push(quantile(&calls, 0.5));
            our_calls.extend(calls);
        }
        let mut row = Row::new();
        row.insert("what".to_owned(), what.into());
        row.extend(about.clone());
        our_calls.put(&mut row, "ours", "ns");
        if !their_medians.is_empty() {
            their_calls.put(&mut row, "peer", "ns");
            let ratio = Ratio::new(&their_medians, &our_medians);
            row.insert("ratio".to_owned(), json!(rounded(ratio.median)));
            row.insert("ratio_ci95".to_owned(), json!([rounded(ratio.interval.0), rounded(ratio.interval.1)]));
            let p99 = their_calls.quantile(0.99) / our_calls.quantile(0.99);
            row.insert("ratio_of_p99".to_owned(), json!(rounded(p99)));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Root mean square error of anytime chunks by share of the tokens, over the demonstration's chunks.
fn anytime(set: &Set) -> Result<Vec<Row>, CliError> {
    let (horizon, dims) = set.shape;
    // What a fit on these chunks would declare: the largest coefficients, read from their own spectrum.
    let slices = || set.chunks.iter().map(Vec::as_slice);
    let options = endplate_tokenizers::FitOptions { scale: set.tokenizer.scale(), ..Default::default() };
    let fitted = FastTokenizer::fit(slices(), horizon, dims, &options).map_err(CliError::failed)?;
    let limits = fitted.coefficient_limits().unwrap_or_default();
    let codec = || set.tokenizer.codec(horizon, dims).map_err(CliError::input);
    let mut codec = codec()?.with_coefficient_limits(limits).map_err(CliError::failed)?;
    let mut ids = Vec::new();
    let mut out = vec![0.0; horizon * dims];
    let mut rows = Vec::new();
    for percent in (10..=100).step_by(10).chain([25, 75, 95]) {
        let (mut squares, mut worst, mut bound) = (0.0, 0.0f64, 0.0f64);
        let mut rms = Vec::new();
        let mut frequencies = 0.0;
        for chunk in &set.chunks {
            codec.encode(chunk, &mut ids).map_err(CliError::failed)?;
            let taken = (ids.len() * percent).div_ceil(100);
            let anytime = codec.decode_anytime(&ids[..taken], &mut out, 0.0).map_err(CliError::failed)?;
            let chunk_squares: f64 = out.iter().zip(chunk).map(|(a, b)| (a - b).powi(2)).sum();
            let largest = out.iter().zip(chunk).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            if largest > anytime.error_bound {
                return Err(CliError::Failed(format!("error {largest} is above its bound {}", anytime.error_bound)));
            }
            rms.push((chunk_squares / out.len() as f64).sqrt());
            squares += chunk_squares;
            worst = worst.max(largest);
            bound = bound.max(anytime.error_bound);
            frequencies += anytime.share;
        }
        let chunks = set.chunks.len() as f64;
        let mut row = Row::new();
        row.insert("what".to_owned(), "anytime".into());
        row.insert("chunks".to_owned(), set.name.into());
        row.insert("tokens_percent".to_owned(), percent.into());
        row.insert("frequencies_share".to_owned(), json!(rounded(frequencies / chunks)));
        row.insert("rmse_normalised".to_owned(), json!(rounded((squares / (chunks * out.len() as f64)).sqrt())));
        row.insert("rmse_p99_normalised".to_owned(), json!(rounded(quantile(&rms, 0.99))));
        row.insert("error_max_normalised".to_owned(), json!(rounded(worst)));
        row.insert("bound_max_normalised".to_owned(), json!(rounded(bound)));
        rows.push(row);
    }
    rows.sort_by_key(|row| row["tokens_percent"].as_u64());
    Ok(rows)
}

impl Peer {
    /// Gives it the chunks; its ids and chunks must be ours.
    fn load(&mut self, set: &Set, ours: &Ours, about: &mut Row) -> Result<(), CliError> {
        let answer = self.ask(&json!({
            "do": "load", "model": set.model, "scale": set.tokenizer.scale(), "min_token": set.tokenizer.min_token(),
            "horizon": set.shape.0, "dims": set.shape.1, "chunks": set.chunks,
        }))?;
        let theirs: Vec<Vec<u32>> = serde_json::from_value(answer["ids"].clone()).map_err(CliError::failed)?;
        let decoded: Vec<Vec<f64>> = serde_json::from_value(answer["decoded"].clone()).map_err(CliError::failed)?;
        if theirs != ours.ids {
            return Err(CliError::Failed(format!("{}: the peer's ids are not ours", set.name)));
        }
        let mut codec = ours.codec.clone();
        let mut out = vec![0.0; ours.out.len()];
        for (ids, decoded) in ours.ids.iter().zip(&decoded) {
            codec.decode(ids, &mut out).map_err(CliError::failed)?;
            if out.iter().zip(decoded).any(|(a, b)| (a - b).abs() > 1e-9) {
                return Err(CliError::Failed(format!("{}: the peer's decoded chunk is not ours", set.name)));
            }
        }
        let versions = &answer["versions"];
        let version = |name: &str| versions[name].as_str().unwrap_or("?").to_owned();
        let peer = format!(
            "third-party: scipy {} (DCT), tokenizers {} (BPE), numpy {}, Python {}; joined as the released processor does",
            version("scipy"),
            version("tokenizers"),
            version("numpy"),
            version("python"),
        );
        about.insert("peer".to_owned(), peer.into());
        about.insert("ids_equal_to_peer".to_owned(), theirs.len().into());
        Ok(())
    }

    /// Nanoseconds of each call.
    fn window(&mut self, what: &str, count: usize, start: usize) -> Result<Vec<f64>, CliError> {
        let mut answer = self.ask(&json!({"do": what, "count": count, "start": start}))?;
        serde_json::from_value(answer["ns"].take()).map_err(CliError::failed)
    }
}
