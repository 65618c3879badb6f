//! What fuzzing does with bytes: used by the targets in `fuzz/` and, over the committed corpus, by an ordinary test.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use endplate_tokenizers::{FastCodec, FastTokenizer, FitOptions, Progress, Repair};
use std::sync::OnceLock;

/// Rows and dimensions of the chunks fuzzed.
const SHAPE: (usize, usize) = (4, 3);

/// A tokenizer with merges over two-byte characters and parts of characters, and its codec. Built once.
fn tokenizer() -> &'static FastTokenizer {
    static TOKENIZER: OnceLock<FastTokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        };
        let chunks: Vec<Vec<f64>> = (0..300).map(|_| (0..SHAPE.0 * SHAPE.1).map(|_| 0.2 * next()).collect()).collect();
        let options = FitOptions { scale: 200.0, vocab_size: 500, min_frequency: 2 };
        FastTokenizer::fit(chunks.iter().map(Vec::as_slice), SHAPE.0, SHAPE.1, &options).unwrap()
    })
}

/// Two bytes an id: every mode must answer, and what is `Ok` must be within the tokenizer's range.
pub fn fast_decode(data: &[u8]) {
    let tokenizer = tokenizer();
    let mut codec = tokenizer.codec(SHAPE.0, SHAPE.1).unwrap();
    let ids: Vec<u32> =
        data.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(*pair.get(1).unwrap_or(&0)) << 8).collect();
    decode_all_modes(&mut codec, tokenizer, &ids);
}

fn decode_all_modes(codec: &mut FastCodec, tokenizer: &FastTokenizer, ids: &[u32]) {
    let mut out = vec![f64::NAN; codec.horizon() * codec.dims()];
    let checked = codec.decode(ids, &mut out);
    if checked.is_ok() {
        assert_in_range(tokenizer, codec.horizon(), codec.dims(), &out);
        let mut pushed = out.clone();
        codec.reset();
        let mut progress = Progress::More { coefficients: 0 };
        for &id in ids {
            assert!(codec.allows(id));
            progress = codec.push(id).unwrap();
        }
        assert_eq!(progress, Progress::Complete);
        codec.finish(&mut pushed).unwrap();
        assert_eq!(pushed, out);
    } else {
        assert!(out.iter().all(|value| value.is_nan()));
    }
    if let Ok(anytime) = codec.decode_anytime(ids, &mut out, 0.0) {
        assert!(anytime.frequencies <= codec.horizon() && anytime.error_bound.is_finite());
        assert_in_range(tokenizer, codec.horizon(), codec.dims(), &out);
    }
    for repair in [Repair::Relaxed, Repair::Upstream] {
        let repaired = codec.decode_repaired(ids, repair, &mut out).unwrap();
        assert!(checked.is_err() || repaired == Default::default());
    }
}

/// The coefficients of a decoded chunk, computed apart from the crate, are in the tokenizer's range or zero.
fn assert_in_range(tokenizer: &FastTokenizer, horizon: usize, dims: usize, chunk: &[f64]) {
    let (low, high) = (tokenizer.min_token().min(0), tokenizer.max_token().max(0));
    for k in 0..horizon {
        let norm = (if k == 0 { 1.0 } else { 2.0 } / horizon as f64).sqrt();
        for dim in 0..dims {
            let angle = |i: usize| std::f64::consts::PI * (2 * i + 1) as f64 * k as f64 / (2 * horizon) as f64;
            let sum: f64 = (0..horizon).map(|i| chunk[i * dims + dim] * angle(i).cos()).sum();
            let coefficient = norm * sum * tokenizer.scale();
            let slack = 1e-6 * (1.0 + coefficient.abs());
            assert!(coefficient >= f64::from(low) - slack && coefficient <= f64::from(high) + slack, "{coefficient}");
        }
    }
}

/// `tokenizer.json`, a zero byte, `processor_config.json`: loading refuses or gives a tokenizer that is safe to use.
pub fn tokenizer_json(data: &[u8]) {
    let split = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    let (tokenizer, processor) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    let default = br#"{"scale": 10.0, "min_token": -5, "vocab_size": 100000}"#;
    let processor = if processor.is_empty() { &default[..] } else { processor };
    let Ok(tokenizer) = FastTokenizer::from_bytes(tokenizer, processor, "fuzz") else { return };
    let (horizon, dims) = (tokenizer.horizon().unwrap_or(4), tokenizer.dims().unwrap_or(2));
    if horizon * dims > 256 {
        return; // Only slow.
    }
    let Ok(mut codec) = tokenizer.codec(horizon, dims) else { return };
    let mut ids = Vec::new();
    let chunk: Vec<f64> = (0..horizon * dims).map(|at| (at % 5) as f64 / tokenizer.scale()).collect();
    if codec.encode(&chunk, &mut ids).is_ok() {
        let mut out = vec![0.0; chunk.len()];
        // Not finite is the one reason left: the scale may be next to nothing.
        assert!(matches!(
            codec.decode(&ids, &mut out),
            Ok(()) | Err(endplate_tokenizers::DecodeError::ActionOutOfRange { .. })
        ));
    }
    let all: Vec<u32> = (0..tokenizer.vocab_size().min(500)).collect();
    for ids in [&all[..], &ids[..], &all[..all.len().min(3)]] {
        let mut out = vec![0.0; horizon * dims];
        let _ = codec.decode(ids, &mut out);
        let _ = codec.decode_anytime(ids, &mut out, 0.0);
        let _ = codec.decode_repaired(ids, Repair::Relaxed, &mut out);
    }
    let mut mask = vec![false; tokenizer.vocab_size() as usize];
    codec.reset();
    codec.allowed(&mut mask).unwrap();
}

/// A head of options and numbers of any bit pattern: fitting refuses or gives a tokenizer that encodes what it saw.
pub fn fit(data: &[u8]) {
    let Some((head, rest)) = data.split_at_checked(8) else { return };
    let (horizon, dims) = (usize::from(head[0] % 9), usize::from(head[1] % 5));
    let options = FitOptions {
        scale: f64::from(head[2]) * if head[3].is_multiple_of(2) { 1.0 } else { 1e-3 },
        vocab_size: 200 + u32::from(head[4]) * 4,
        min_frequency: u64::from(head[5] % 5),
    };
    // Small numbers and, every now and then, whatever the bits say.
    let numbers: Vec<f64> = if head[6].is_multiple_of(4) {
        rest.chunks_exact(4).map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()))).collect()
    } else {
        rest.iter().map(|&byte| (f64::from(byte) - 128.0) / 100.0).collect()
    };
    let chunks: Vec<&[f64]> = numbers.chunks((horizon * dims).max(1)).take(200).collect();
    let own = FastTokenizer::fit(chunks.iter().copied(), horizon, dims, &options);
    let upstream = FastTokenizer::fit_upstream(chunks.iter().copied(), horizon, dims, &options);
    for tokenizer in [own, upstream].into_iter().flatten() {
        let mut codec = tokenizer.codec(horizon, dims).unwrap();
        let (mut ids, mut out) = (Vec::new(), vec![0.0; horizon * dims]);
        for chunk in &chunks {
            assert_eq!(codec.encode(chunk, &mut ids).unwrap().clamped, 0);
            codec.decode(&ids, &mut out).unwrap();
            let anytime = codec.decode_anytime(&ids[..ids.len() / 2], &mut out, 0.0).unwrap();
            for (a, b) in out.iter().zip(*chunk) {
                assert!((a - b).abs() <= anytime.error_bound * (1.0 + 1e-9) + 1e-9, "{a} {b} {anytime:?}");
            }
        }
    }
}
