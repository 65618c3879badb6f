//! Reference vectors of the released FAST processor's pipeline, checked down to code points and
//! pieces. `tests/data` holds a tokenizer fitted on synthetic chunks by the official processor;
//! FAST+ itself is third-party data, see `fast_plus`.

use super::FastTokenizer;
use super::Repair;
use super::pretokenize::pieces;
use crate::{DecodeError, EncodeError, Progress};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Vectors {
    scale: f64,
    min_token: i32,
    vocab: u32,
    encode: Vec<EncodeCase>,
    decode: Vec<DecodeCase>,
}

#[derive(Deserialize)]
struct EncodeCase {
    name: String,
    time_horizon: usize,
    action_dim: usize,
    /// No scaled coefficient is an exact half, so the ids do not hang on the last bit of a cosine.
    tie_free: bool,
    chunk: Vec<Vec<f64>>,
    dct: Vec<Vec<f64>>,
    quantised: Vec<Vec<i32>>,
    codepoints: Vec<u32>,
    words: Vec<Vec<u32>>,
    tokens: Vec<u32>,
    paligemma_tokens: Vec<u32>,
    decode_ok: bool,
    decoded: Option<Vec<Vec<f64>>>,
    clamped_codes: usize,
}

#[derive(Deserialize)]
struct DecodeCase {
    name: String,
    time_horizon: usize,
    action_dim: usize,
    tokens: Vec<u32>,
    raw_bytes_hex: String,
    lossy_codepoints: Vec<u32>,
    upstream_ok: bool,
    upstream_decoded: Vec<Vec<f64>>,
    relaxed_decoded: Vec<Vec<f64>>,
    checked_error: Option<String>,
    checked_decoded: Option<Vec<Vec<f64>>>,
    anytime_rows: AnytimeRows,
    anytime_decoded: Option<Vec<Vec<f64>>>,
}

/// Rows of coefficients an anytime chunk uses, or why there is none.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnytimeRows {
    Rows(usize),
    Refused(String),
}

/// How many cases were compared.
#[derive(Eq, PartialEq, Debug)]
struct Counts {
    exact: usize,
    refused: usize,
    ties: usize,
    decoded: usize,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn close(name: &str, got: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(got.len(), wanted.len(), "{name}");
    for (at, (a, b)) in got.iter().zip(wanted).enumerate() {
        assert!((a - b).abs() <= tolerance, "{name}: value {at} is {a}, reference {b}");
    }
}

fn kind(error: DecodeError) -> &'static str {
    match error {
        DecodeError::UnknownId { .. } => "unknown_id",
        DecodeError::InvalidUtf8 { .. } => "broken_utf8",
        DecodeError::WrongLength { needed, got } if got < needed => "too_short",
        DecodeError::WrongLength { .. } => "too_long",
        DecodeError::CoefficientOutOfRange { .. } => "coefficient",
        DecodeError::ActionOutOfRange { .. } => "action",
        other => other.kind(),
    }
}

fn check(tokenizer: &FastTokenizer, vectors: &Vectors) -> Counts {
    assert_eq!(tokenizer.scale(), vectors.scale);
    assert_eq!(tokenizer.min_token(), vectors.min_token);
    assert_eq!(tokenizer.vocab_size(), vectors.vocab);
    let mut counts = Counts { exact: 0, refused: 0, ties: 0, decoded: 0 };
    vectors.encode.iter().for_each(|case| check_encode(tokenizer, case, &mut counts));
    vectors.decode.iter().for_each(|case| check_decode(tokenizer, case));
    counts.decoded = vectors.decode.len();
    counts
}

fn check_encode(tokenizer: &FastTokenizer, case: &EncodeCase, counts: &mut Counts) {
    let name = &case.name;
    let mut codec = tokenizer.codec(case.time_horizon, case.action_dim).unwrap();
    let mut ids = vec![7; 3];
    let result = codec.encode(&case.chunk.concat(), &mut ids);
    close(name, &codec.spectrum(), &case.dct.concat(), 1e-12);
    if !case.decode_ok {
        // Upstream dropped bytes here and could not decode its own ids.
        assert!(matches!(result, Err(EncodeError::CoefficientOutOfRange { .. })), "{name}: {result:?}");
        assert!(ids.is_empty());
        counts.refused += 1;
        return;
    }
    let encoded = result.unwrap();
    assert_eq!(encoded.clamped, case.clamped_codes, "{name}");
    if case.tie_free {
        let quantised: Vec<i32> = codec.codes.iter().map(|&code| code as i32 + tokenizer.min_token()).collect();
        assert_eq!(quantised, case.quantised.concat(), "{name}");
        assert_eq!(codec.codes, case.codepoints, "{name}");
        let words: Vec<&[u32]> = pieces(&codec.codes).map(|piece| &codec.codes[piece]).collect();
        assert_eq!(words, case.words, "{name}");
        assert_eq!(ids, case.tokens, "{name}");
        counts.exact += 1;
    } else {
        counts.ties += 1;
    }
    let mapped: Vec<u32> = case.tokens.iter().map(|&id| crate::paligemma_from_action(id).unwrap()).collect();
    assert_eq!(mapped, case.paligemma_tokens, "{name}");
    let mut out = vec![0.0; case.time_horizon * case.action_dim];
    codec.decode(&case.tokens, &mut out).unwrap();
    close(name, &out, &case.decoded.as_ref().unwrap().concat(), 1e-9);
    check_push(tokenizer, case.time_horizon, case.action_dim, &case.tokens, &out);
}

/// Id by id: complete exactly at the last one, with the same chunk.
fn check_push(tokenizer: &FastTokenizer, horizon: usize, dims: usize, ids: &[u32], wanted: &[f64]) {
    let mut codec = tokenizer.codec(horizon, dims).unwrap();
    let mut out = vec![0.0; wanted.len()];
    for (at, &id) in ids.iter().enumerate() {
        let is_last = at + 1 == ids.len();
        assert_eq!(codec.push(id).unwrap() == Progress::Complete, is_last);
        assert_eq!(codec.finish(&mut out).is_ok(), is_last);
    }
    assert_eq!(out, wanted);
    assert!(matches!(codec.push(ids[0]), Err(DecodeError::WrongLength { .. })));
    assert!(codec.finish(&mut out).is_err());
}

fn check_decode(tokenizer: &FastTokenizer, case: &DecodeCase) {
    let name = &case.name;
    let mut codec = tokenizer.codec(case.time_horizon, case.action_dim).unwrap();
    let mut out = vec![7.0; case.time_horizon * case.action_dim];
    let result = codec.decode(&case.tokens, &mut out);
    match &case.checked_error {
        Some(wanted) => {
            assert_eq!(kind(result.unwrap_err()), wanted, "{name}");
            assert!(out.iter().all(|&value| value == 7.0), "{name}: written despite the error");
        }
        None => {
            result.unwrap();
            close(name, &out, &case.checked_decoded.as_ref().unwrap().concat(), 1e-9);
        }
    }
    let bytes: Vec<String> = case
        .tokens
        .iter()
        .flat_map(|&id| tokenizer.tables.bpe.bytes_of(id).unwrap_or_default())
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(bytes.concat(), case.raw_bytes_hex, "{name}");
    check_modes(tokenizer, case);
    // Pushed, it must not come out as a chunk either, whatever the model says next.
    codec.reset();
    let pushed = case.tokens.iter().try_for_each(|&id| codec.push(id).map(|_| ()));
    let finished = pushed.and_then(|()| codec.finish(&mut out));
    assert_eq!(finished.is_ok(), case.checked_error.is_none(), "{name}");
}

/// Anytime, relaxed and upstream decoding of one case.
fn check_modes(tokenizer: &FastTokenizer, case: &DecodeCase) {
    let name = &case.name;
    let mut codec = tokenizer.codec(case.time_horizon, case.action_dim).unwrap();
    let needed = case.time_horizon * case.action_dim;
    let mut out = vec![7.0; needed];
    let anytime = codec.decode_anytime(&case.tokens, &mut out, 0.0);
    match (&case.anytime_rows, anytime) {
        (AnytimeRows::Rows(rows), Ok(anytime)) => {
            assert_eq!(anytime.frequencies, *rows, "{name}");
            assert_eq!(anytime.share, *rows as f64 / case.time_horizon as f64, "{name}");
            close(name, &out, &case.anytime_decoded.as_ref().unwrap().concat(), 1e-9);
            // More than is there is refused, and leaves the output alone.
            out.fill(7.0);
            let more = codec.decode_anytime(&case.tokens, &mut out, anytime.share + 1e-9);
            let is_whole = *rows == case.time_horizon;
            assert!(matches!(more, Err(DecodeError::TooFew { frequencies, .. }) if frequencies == *rows), "{name}");
            assert!(out.iter().all(|&value| value == 7.0), "{name}");
            let half = codec.decode_anytime(&case.tokens, &mut out, 0.5);
            assert_eq!(half.is_ok(), is_whole || 2 * rows >= case.time_horizon, "{name}");
        }
        (AnytimeRows::Refused(wanted), Err(error)) => {
            assert_eq!(kind(error), wanted, "{name}");
            assert!(out.iter().all(|&value| value == 7.0), "{name}: written despite the error");
        }
        (_, got) => panic!("{name}: {got:?}"),
    }
    let relaxed = codec.decode_repaired(&case.tokens, Repair::Relaxed, &mut out).unwrap();
    close(name, &out, &case.relaxed_decoded.concat(), 1e-9);
    let upstream = codec.decode_repaired(&case.tokens, Repair::Upstream, &mut out).unwrap();
    close(name, &out, &case.upstream_decoded.concat(), 1e-9);
    assert_eq!(upstream, relaxed, "{name}");
    assert_eq!(!upstream.is_wrong_length(), case.upstream_ok, "{name}");
    let read = needed + upstream.surplus - upstream.missing;
    assert_eq!(read, case.lossy_codepoints.len(), "{name}");
    let replaced = case.lossy_codepoints.iter().filter(|&&code| code == 0xfffd).count();
    assert_eq!(upstream.replaced_characters, replaced, "{name}");
    // What was made up is not left behind as a chunk.
    assert!(codec.finish(&mut out).is_err(), "{name}");
}

/// The processor's wide instructions change nothing, not even the last bit.
#[test]
fn both_builds_of_the_loops_give_the_same_bits() {
    let tokenizer = FastTokenizer::from_dir(data().join("tok_synth_50x7")).unwrap();
    let vectors: Vectors = read(&data().join("synth_50x7.json"));
    for case in &vectors.encode {
        let mut wide = tokenizer.codec(case.time_horizon, case.action_dim).unwrap();
        let mut narrow = wide.clone().baseline();
        let chunk = case.chunk.concat();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        assert_eq!(wide.encode(&chunk, &mut a), narrow.encode(&chunk, &mut b));
        assert_eq!(a, b);
        assert_eq!(wide.spectrum(), narrow.spectrum());
        let (mut x, mut y) = (vec![0.0; chunk.len()], vec![0.0; chunk.len()]);
        assert_eq!(wide.decode(&a, &mut x), narrow.decode(&b, &mut y));
        assert_eq!(x, y);
    }
}

#[test]
fn trained_tokenizers_take_the_linear_encoder() {
    let tokenizer = FastTokenizer::from_dir(data().join("tok_synth_50x7")).unwrap();
    assert!(tokenizer.tables.matcher.is_some());
}

/// In f32, as a policy keeps chunks, decoding stays within 1e-5 and encoding gives the same ids.
#[test]
fn chunks_kept_in_f32_give_the_same_ids() {
    let tokenizer = FastTokenizer::from_dir(data().join("tok_synth_50x7")).unwrap();
    let vectors: Vectors = read(&data().join("synth_50x7.json"));
    let mut compared = 0;
    for case in vectors.encode.iter().filter(|case| case.tie_free && case.decode_ok) {
        let mut codec = tokenizer.codec(case.time_horizon, case.action_dim).unwrap();
        let mut out = vec![0.0; case.time_horizon * case.action_dim];
        codec.decode(&case.tokens, &mut out).unwrap();
        let rounded: Vec<f64> = out.iter().map(|&value| f64::from(value as f32)).collect();
        close(&case.name, &rounded, &case.decoded.as_ref().unwrap().concat(), 1e-5);
        let mut ids = Vec::new();
        codec.encode(&rounded, &mut ids).unwrap();
        assert_eq!(ids, case.tokens, "{}", case.name);
        compared += 1;
    }
    assert_eq!(compared, 31);
}

#[test]
fn synthetic_50x7_agrees_with_the_official_processor() {
    let tokenizer = FastTokenizer::from_dir(data().join("tok_synth_50x7")).unwrap();
    // Fitted by the official processor: the file lacks the bytes its data did not show.
    assert!(!tokenizer.missing_bytes().is_empty());
    // What its vocabulary can spell ends where its training data did.
    assert_eq!((tokenizer.is_max_token_declared(), tokenizer.max_token()), (false, 71));
    let vectors: Vectors = read(&data().join("synth_50x7.json"));
    let counts = check(&tokenizer, &vectors);
    assert_eq!(counts, Counts { exact: 31, refused: 1, ties: 1, decoded: 10 });
}

/// FAST+ is not part of this repository. `ENDPLATE_FAST_PLUS` names a directory with its
/// `tokenizer.json` and `processor_config.json`, and the vectors `fastplus_50x7.json`.
#[test]
fn fast_plus_agrees_with_the_official_processor() {
    let Some(dir) = std::env::var_os("ENDPLATE_FAST_PLUS").map(PathBuf::from) else {
        eprintln!("SKIPPED: ENDPLATE_FAST_PLUS is not set, FAST+ was not tested");
        return;
    };
    let tokenizer = FastTokenizer::from_dir(&dir).unwrap();
    assert!(tokenizer.missing_bytes().is_empty() && tokenizer.tables.matcher.is_some());
    assert_eq!(tokenizer.max_token(), -354 + 0x10_ffff);
    let vectors: Vectors = read(&dir.join("fastplus_50x7.json"));
    let counts = check(&tokenizer, &vectors);
    eprintln!("FAST+: {counts:?}");
    assert_eq!(counts.exact, vectors.encode.iter().filter(|case| case.tie_free && case.decode_ok).count());
}

#[test]
fn prompt_and_state_bins_agree_with_openpi() {
    #[derive(Deserialize)]
    struct Misc {
        state_bins: StateBins,
        prompt: Prompt,
        paligemma_map: Map,
    }
    #[derive(Deserialize)]
    struct StateBins {
        state: Vec<f64>,
        bin: Vec<i32>,
    }
    #[derive(Deserialize)]
    struct Prompt {
        instruction: String,
        state: Vec<f64>,
        fast_prefix: String,
    }
    #[derive(Deserialize)]
    struct Map {
        fast: Vec<u32>,
        paligemma: Vec<u32>,
    }
    let misc: Misc = read(&data().join("misc.json"));
    let bins: Vec<i32> = misc.state_bins.state.iter().map(|&s| crate::discretise_state(s)).collect();
    assert_eq!(bins, misc.state_bins.bin);
    let bins: Vec<i32> = misc.prompt.state.iter().map(|&s| crate::discretise_state(s)).collect();
    assert_eq!(crate::fast_prefix(&misc.prompt.instruction, &bins), misc.prompt.fast_prefix);
    for (&fast, &paligemma) in misc.paligemma_map.fast.iter().zip(&misc.paligemma_map.paligemma) {
        assert_eq!(crate::paligemma_from_action(fast), Some(paligemma));
        assert_eq!(crate::action_from_paligemma(paligemma, 2048), Some(fast));
    }
}
