//! What must hold for every chunk and every id sequence.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Random, TemporaryDir, fit};
use endplate_tokenizers::{
    ActionTokenizer, CodecError, DecodeError, EncodeError, FastTokenizer, FitError, FitOptions, Progress,
};

/// Orthonormal DCT-II, written apart from the crate's.
fn dct(horizon: usize, dims: usize, chunk: &[f64]) -> Vec<f64> {
    let mut out = Vec::new();
    for k in 0..horizon {
        let norm = (if k == 0 { 1.0 } else { 2.0 } / horizon as f64).sqrt();
        for dim in 0..dims {
            let angle = |i: usize| std::f64::consts::PI * (2 * i + 1) as f64 * k as f64 / (2 * horizon) as f64;
            out.push(norm * (0..horizon).map(|i| chunk[i * dims + dim] * angle(i).cos()).sum::<f64>());
        }
    }
    out
}

#[test]
fn each_coefficient_comes_back_within_half_a_step() {
    let mut random = Random(1);
    for (horizon, dims, scale) in [(16, 6, 10.0), (50, 7, 10.0), (8, 1, 50.0), (1, 3, 7.3), (10, 2, 0.5)] {
        let chunks = random.chunks(300, horizon, dims);
        let options = FitOptions { scale, ..FitOptions::default() };
        let mut codec = fit(&chunks, horizon, dims, &options).codec(horizon, dims).unwrap();
        let (mut ids, mut out) = (Vec::new(), vec![0.0; horizon * dims]);
        for chunk in &chunks {
            assert_eq!(codec.encode(chunk, &mut ids).unwrap().clamped, 0);
            codec.decode(&ids, &mut out).unwrap();
            let (before, after) = (dct(horizon, dims, chunk), dct(horizon, dims, &out));
            for (a, b) in before.iter().zip(&after) {
                assert!((a - b).abs() <= 0.5 / scale + 1e-9, "{a} came back as {b}");
            }
        }
    }
}

#[test]
fn any_id_sequence_gives_a_checked_chunk_or_an_error() {
    let (horizon, dims) = (2, 2);
    let mut random = Random(2);
    let tokenizer = fit(&random.chunks(200, horizon, dims), horizon, dims, &FitOptions::default());
    let mut codec = tokenizer.codec(horizon, dims).unwrap().with_action_margin(0.1).unwrap();
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..400_000 {
        let ids: Vec<u32> = (0..random.below(6)).map(|_| random.below(tokenizer.vocab_size() + 2)).collect();
        let mut out = [f64::NAN; 4];
        let whole = codec.decode(&ids, &mut out);
        let outcome = match whole {
            Ok(()) => {
                assert!(out.iter().all(|value| value.abs() <= 1.1));
                for value in dct(horizon, dims, &out) {
                    let coefficient = (value * tokenizer.scale()).round();
                    assert!(coefficient >= f64::from(tokenizer.min_token()));
                    assert!(coefficient <= f64::from(tokenizer.max_token()));
                }
                "chunk"
            }
            Err(error) => {
                assert!(out.iter().all(|value| value.is_nan()), "written despite {error}");
                match error {
                    DecodeError::UnknownId { .. } => "unknown id",
                    DecodeError::InvalidUtf8 { .. } => "broken character",
                    DecodeError::WrongLength { .. } => "length",
                    DecodeError::CoefficientOutOfRange { .. } => "coefficient",
                    DecodeError::ActionOutOfRange { .. } => "action",
                    other => unreachable!("{other}"),
                }
            }
        };
        *seen.entry(outcome).or_insert(0) += 1;
        // Id by id it must come to the same verdict, and to the same chunk.
        codec.reset();
        let mut pushed = [f64::NAN; 4];
        let verdict = ids.iter().try_for_each(|&id| {
            let allowed = codec.allows(id);
            let pushed = codec.push(id);
            assert_eq!(allowed, pushed.is_ok(), "{id} of {ids:?}");
            pushed.map(|_| ())
        });
        let verdict = verdict.and_then(|()| codec.finish(&mut pushed));
        assert_eq!(verdict.is_ok(), whole.is_ok(), "{ids:?}: {whole:?} and {verdict:?}");
        if whole.is_ok() {
            assert_eq!(out, pushed);
        }
    }
    assert_eq!(seen.len(), 6, "not every outcome occurred: {seen:?}");
}

#[test]
fn a_saved_tokenizer_loads_as_the_same_and_encodes_the_same() {
    let (horizon, dims) = (16, 6);
    let mut random = Random(3);
    let chunks = random.chunks(500, horizon, dims);
    for options in [FitOptions::default(), FitOptions { scale: 23.7, vocab_size: 400, min_frequency: 1 }] {
        let dir = TemporaryDir::new("round-trip");
        let fitted = fit(&chunks, horizon, dims, &options);
        fitted.save(&dir.0).unwrap();
        let loaded = FastTokenizer::from_dir(&dir.0).unwrap();
        assert_eq!(loaded, fitted);
        assert_eq!((loaded.horizon(), loaded.dims()), (Some(horizon), Some(dims)));
        assert!(loaded.is_max_token_declared() && loaded.missing_bytes().is_empty());
        assert!(loaded.vocab_size() > 256 && loaded.vocab_size() <= options.vocab_size);
        let (mut before, mut after) = (fitted.codec(horizon, dims).unwrap(), loaded.codec(horizon, dims).unwrap());
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for chunk in &chunks {
            before.encode(chunk, &mut a).unwrap();
            after.encode(chunk, &mut b).unwrap();
            assert_eq!(a, b);
            assert!(a.len() < horizon * dims);
        }
        let saved = fitted.to_bytes().unwrap();
        assert_eq!(saved.0, std::fs::read(dir.0.join("tokenizer.json")).unwrap());
        assert_eq!(saved.1, std::fs::read(dir.0.join("processor_config.json")).unwrap());
    }
}

#[test]
fn the_order_of_the_chunks_does_not_matter() {
    let mut random = Random(4);
    let mut chunks = random.chunks(300, 16, 6);
    let first = fit(&chunks, 16, 6, &FitOptions::default());
    chunks.reverse();
    chunks.rotate_left(17);
    assert_eq!(fit(&chunks, 16, 6, &FitOptions::default()).to_bytes().unwrap(), first.to_bytes().unwrap());
}

#[test]
fn chunks_outside_the_fitted_range_are_refused_above_and_counted_below() {
    let chunks = vec![vec![0.5, -0.5, 0.4, -0.4]];
    let tokenizer = fit(&chunks, 4, 1, &FitOptions::default());
    let mut codec = tokenizer.codec(4, 1).unwrap();
    let mut ids = Vec::new();
    assert!(matches!(
        codec.encode(&[3.0; 4], &mut ids),
        Err(EncodeError::CoefficientOutOfRange { frequency: 0, dim: 0, value: 60.0, .. })
    ));
    assert!(ids.is_empty());
    assert_eq!(codec.encode(&[-3.0; 4], &mut ids).unwrap().clamped, 1);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(codec.encode(&[0.0, 0.0, bad, 0.0], &mut ids), Err(EncodeError::NotFinite { row: 2, dim: 0 }));
    }
    assert!(matches!(codec.encode(&[-f64::MAX; 4], &mut ids), Err(EncodeError::CoefficientOutOfRange { .. })));
    assert_eq!(codec.encode(&[0.0; 3], &mut ids), Err(EncodeError::WrongShape { needed: 4, got: 3 }));
    assert_eq!(codec.decode(&ids, &mut [0.0; 5]), Err(DecodeError::WrongLength { needed: 4, got: 0 }));
    codec.encode(&chunks[0], &mut ids).unwrap();
    assert_eq!(codec.decode(&ids, &mut [0.0; 5]), Err(DecodeError::WrongShape { needed: 4, got: 5 }));
}

#[test]
fn an_error_while_pushing_stays_until_reset() {
    let tokenizer = fit(&[vec![0.5, -0.5, 0.4, -0.4]], 4, 1, &FitOptions::default());
    let mut codec = tokenizer.codec(4, 1).unwrap();
    let mut ids = Vec::new();
    codec.encode(&[0.5, -0.5, 0.4, -0.4], &mut ids).unwrap();
    let unknown = DecodeError::UnknownId { id: 9999, vocabulary: tokenizer.vocab_size() };
    assert_eq!(codec.push(9999), Err(unknown));
    assert_eq!(codec.push(ids[0]), Err(unknown));
    assert_eq!(codec.finish(&mut [0.0; 4]), Err(unknown));
    // Through the trait, as a policy uses it.
    let codec: &mut dyn ActionTokenizer = &mut codec;
    codec.reset();
    assert_eq!(codec.finish(&mut [0.0; 4]), Err(DecodeError::WrongLength { needed: 4, got: 0 }));
    for (count, &id) in ids.iter().enumerate() {
        let progress = codec.push(id).unwrap();
        assert_eq!(progress == Progress::Complete, count + 1 == ids.len());
    }
    assert_eq!((codec.coefficients(), codec.horizon(), codec.dims()), (4, 4, 1));
    codec.finish(&mut [0.0; 4]).unwrap();
}

#[test]
fn surrogates_are_refused() {
    // One coefficient, and a declared range that spans the surrogates.
    let (tokenizer, _) = fit(&[vec![0.0]], 1, 1, &FitOptions::default()).to_bytes().unwrap();
    let processor = br#"{"scale": 1.0, "min_token": 0, "max_token": 65535, "vocab_size": 256}"#;
    let mut codec = FastTokenizer::from_bytes(&tokenizer, processor, "wide").unwrap().codec(1, 1).unwrap();
    let (mut ids, mut out) = (Vec::new(), [0.0]);
    for value in [55_295.0, 57_344.0, 65_535.0] {
        codec.encode(&[value], &mut ids).unwrap();
        codec.decode(&ids, &mut out).unwrap();
        assert_eq!(out, [value]);
    }
    for (coefficient, code) in [(55_296, 0xd800), (57_343, 0xdfff)] {
        let wanted = EncodeError::Surrogate { frequency: 0, dim: 0, coefficient, code };
        assert_eq!(codec.encode(&[f64::from(coefficient)], &mut ids), Err(wanted));
    }
}

#[test]
fn bad_training_data_is_named() {
    let refuse = |chunks: &[Vec<f64>], options: &FitOptions| {
        FastTokenizer::fit(chunks.iter().map(Vec::as_slice), 2, 2, options).unwrap_err()
    };
    let defaults = FitOptions::default();
    assert_eq!(refuse(&[], &defaults), FitError::NoData);
    let short = [vec![0.0; 4], vec![0.0; 3]];
    assert_eq!(refuse(&short, &defaults), FitError::WrongShape { chunk: 1, needed: 4, got: 3 });
    let nan = [vec![0.0, 0.0, 0.0, f64::NAN]];
    assert_eq!(refuse(&nan, &defaults), FitError::NotFinite { chunk: 0, row: 1, dim: 1 });
    assert!(matches!(refuse(&[vec![1e9; 4]], &defaults), FitError::CoefficientTooLarge { chunk: 0, .. }));
    assert!(matches!(refuse(&[vec![-50.0; 4], vec![50.0; 4]], &defaults), FitError::RangeTooWide { .. }));
    for options in [
        FitOptions { scale: 0.0, ..defaults.clone() },
        FitOptions { scale: f64::NAN, ..defaults.clone() },
        FitOptions { scale: -1.0, ..defaults.clone() },
        FitOptions { vocab_size: 255, ..defaults.clone() },
    ] {
        assert!(matches!(refuse(&[vec![0.0; 4]], &options), FitError::Option { .. }));
    }
}

#[test]
fn a_codec_of_another_shape_is_refused() {
    let tokenizer = fit(&[vec![0.0; 4]], 2, 2, &FitOptions::default());
    assert!(matches!(tokenizer.codec(4, 1), Err(CodecError::OtherShape { horizon: 4, dims: 1, .. })));
    assert!(matches!(tokenizer.codec(0, 2), Err(CodecError::Shape { .. })));
    assert!(matches!(tokenizer.codec(usize::MAX, 2), Err(CodecError::Shape { .. })));
    let codec = tokenizer.codec(2, 2).unwrap();
    assert!(matches!(codec.clone().with_action_margin(f64::NAN), Err(CodecError::Margin { .. })));
    assert!(matches!(codec.with_action_margin(-0.1), Err(CodecError::Margin { margin: -0.1 })));
}
