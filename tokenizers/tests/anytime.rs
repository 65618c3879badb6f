//! Anytime chunks keep their stated bounds, and constrained decoding cannot get stuck.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Random, fit};
use endplate_tokenizers::{CodecError, DecodeError, FastTokenizer, FitOptions, Progress};

/// Root mean square over time of the dimension where it is largest, and the largest error at all.
fn errors(dims: usize, a: &[f64], b: &[f64]) -> (f64, f64) {
    let rows = a.len() / dims;
    let (mut rms, mut largest) = (0.0f64, 0.0f64);
    for dim in 0..dims {
        let difference = |row: usize| a[row * dims + dim] - b[row * dims + dim];
        let squares: f64 = (0..rows).map(|row| difference(row).powi(2)).sum();
        rms = rms.max((squares / rows as f64).sqrt());
        largest = (0..rows).map(|row| difference(row).abs()).fold(largest, f64::max);
    }
    (rms, largest)
}

#[test]
fn every_prefix_of_every_chunk_is_within_the_stated_bounds() {
    let mut random = Random(21);
    let mut tightest = f64::INFINITY;
    for (horizon, dims, scale) in [(16, 6, 10.0), (50, 7, 10.0), (7, 2, 25.0), (1, 3, 10.0)] {
        let chunks = random.chunks(120, horizon, dims);
        let options = FitOptions { scale, ..FitOptions::default() };
        let tokenizer = fit(&chunks, horizon, dims, &options);
        assert_eq!(tokenizer.coefficient_limits().unwrap().len(), horizon * dims);
        let mut codec = tokenizer.codec(horizon, dims).unwrap();
        let (mut ids, mut out) = (Vec::new(), vec![0.0; horizon * dims]);
        for chunk in &chunks {
            codec.encode(chunk, &mut ids).unwrap();
            codec.reset();
            let mut last = f64::INFINITY;
            for pushed in 0..=ids.len() {
                if pushed > 0 {
                    let _ = codec.push(ids[pushed - 1]).unwrap();
                }
                let anytime = codec.finish_anytime(&mut out, 0.0).unwrap();
                assert_eq!(anytime.frequencies, codec.coefficients() / dims);
                let (rms, largest) = errors(dims, &out, chunk);
                assert!(rms <= anytime.rms_bound, "{rms} > {}", anytime.rms_bound);
                assert!(largest <= anytime.error_bound, "{largest} > {}", anytime.error_bound);
                assert!(anytime.error_bound <= last, "a longer prefix is never worth less");
                last = anytime.error_bound;
                tightest = tightest.min(anytime.error_bound / largest);
            }
            // All of it is what checked decoding says.
            let mut whole = vec![0.0; out.len()];
            codec.finish(&mut whole).unwrap();
            assert_eq!(whole, out);
        }
    }
    // The bound is one: it comes near the truth somewhere.
    assert!(tightest < 3.0, "{tightest}");
}

/// The worst case is reached: a bound that is merely large would pass the test above.
#[test]
fn the_bound_is_the_smallest_that_holds() {
    let (horizon, dims) = (8, 1);
    let tokenizer = fit(&[vec![1.0; 8], vec![-1.0; 8]], horizon, dims, &FitOptions::default());
    let limit = 20;
    let mut codec =
        tokenizer.codec(horizon, dims).unwrap().with_coefficient_limits(&[0, 0, 0, limit, 0, 0, 0, 0]).unwrap();
    let mut out = vec![0.0; 8];
    let stated = codec.finish_anytime(&mut out, 0.0).unwrap().error_bound;
    // Only frequency 3 can be missing: ±(20 + ½) steps of its cosine, and half a step of every other.
    let cosine = |k: usize, i: usize| {
        let norm = (if k == 0 { 1.0 } else { 2.0f64 } / 8.0).sqrt();
        norm * (std::f64::consts::PI * (2 * i + 1) as f64 * k as f64 / 16.0).cos()
    };
    let worst = (0..8)
        .map(|i| (0..8).map(|k| cosine(k, i).abs() * if k == 3 { 20.5 } else { 0.5 }).sum::<f64>() / 10.0)
        .fold(0.0, f64::max);
    assert!((stated - worst).abs() < 1e-6 * worst, "{stated} {worst}");
    assert_eq!(codec.error_bound(0, 0), Some(stated));
    assert_eq!((codec.error_bound(9, 0), codec.error_bound(0, 1)), (None, None));
    assert_eq!(codec.with_coefficient_limits(&[1]).unwrap_err(), CodecError::Limits { needed: 8, got: 1 });
}

#[test]
fn too_small_a_share_is_refused_and_nothing_written() {
    let mut random = Random(22);
    let chunks = random.chunks(100, 16, 6);
    let tokenizer = fit(&chunks, 16, 6, &FitOptions::default());
    let mut codec = tokenizer.codec(16, 6).unwrap();
    let mut ids = Vec::new();
    codec.encode(&chunks[0], &mut ids).unwrap();
    let mut out = vec![7.0; 96];
    for share in [0.01, 0.5, 1.0] {
        let got = codec.decode_anytime(&ids[..1], &mut out, share);
        assert!(matches!(got, Err(DecodeError::TooFew { horizon: 16, .. })), "{got:?}");
    }
    for nonsense in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(codec.decode_anytime(&ids, &mut out, nonsense), Err(DecodeError::TooFew { .. })));
    }
    assert!(out.iter().all(|&value| value == 7.0));
    // An end token is no action: it ends the prefix, and the answer says so.
    let middle = ids.len() / 2;
    ids[middle] = 9999;
    let anytime = codec.decode_anytime(&ids, &mut out, 0.0).unwrap();
    assert_eq!(anytime.ended_by, Some(DecodeError::UnknownId { id: 9999, vocabulary: tokenizer.vocab_size() }));
    // A coefficient out of range is refused like a broken character, not cut off.
    let (files, mut processor) = tokenizer.to_bytes().map(|(t, p)| (t, String::from_utf8(p).unwrap())).unwrap();
    let declared = format!("\"max_token\": {}", tokenizer.max_token());
    assert!(processor.contains(&declared));
    processor = processor.replace(&declared, &format!("\"max_token\": {}", tokenizer.max_token() - 1));
    let narrow = FastTokenizer::from_bytes(&files, processor.as_bytes(), "narrow").unwrap();
    let mut codec = narrow.codec(16, 6).unwrap();
    let mut full = tokenizer.codec(16, 6).unwrap();
    let peak = chunks.iter().find(|chunk| codec.encode(chunk, &mut ids).is_err()).unwrap();
    full.encode(peak, &mut ids).unwrap();
    let error = codec.decode_anytime(&ids, &mut out, 0.0).unwrap_err();
    assert_eq!(error.kind(), "range");
}

#[test]
fn any_walk_over_allowed_ids_completes_a_chunk() {
    let mut random = Random(23);
    // Two-byte characters, parts of characters among the ids, and a narrow range.
    let wide = fit(&random.chunks(200, 6, 2), 6, 2, &FitOptions { scale: 60.0, vocab_size: 700, min_frequency: 2 });
    let narrow = fit(&random.chunks(200, 4, 3), 4, 3, &FitOptions::default());
    let mut broken_starts = 0;
    for tokenizer in [wide, narrow] {
        let (horizon, dims) = (tokenizer.horizon().unwrap(), tokenizer.dims().unwrap());
        let mut codec = tokenizer.codec(horizon, dims).unwrap();
        let mut mask = vec![false; tokenizer.vocab_size() as usize];
        let mut out = vec![0.0; horizon * dims];
        for _ in 0..400 {
            codec.reset();
            loop {
                let count = codec.allowed(&mut mask).unwrap();
                assert_eq!(count, mask.iter().filter(|&&allowed| allowed).count());
                assert!((0u32..).zip(&mask).all(|(id, &allowed)| codec.allows(id) == allowed));
                let allowed: Vec<u32> = (0u32..).zip(&mask).filter(|(_, m)| **m).map(|(id, _)| id).collect();
                let id = allowed[random.below(allowed.len() as u32) as usize];
                // An id that is not allowed is refused.
                let forbidden = (0u32..).zip(&mask).find(|(_, m)| !**m);
                if let Some((forbidden, _)) = forbidden {
                    assert!(codec.clone().push(forbidden).is_err());
                }
                let before = codec.coefficients();
                match codec.push(id).unwrap() {
                    Progress::Complete => break,
                    Progress::More { coefficients } => broken_starts += usize::from(coefficients == before),
                }
            }
            assert_eq!(codec.allowed(&mut mask).unwrap(), 0);
            codec.finish(&mut out).unwrap();
        }
    }
    assert!(broken_starts > 10, "characters were begun and ended: {broken_starts}");
    let codec = fit(&[vec![0.0; 4]], 2, 2, &FitOptions::default()).codec(2, 2).unwrap();
    assert_eq!(codec.allowed(&mut [false; 3]), Err(DecodeError::WrongMask { needed: 257, got: 3 }));
}
