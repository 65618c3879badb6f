//! Every tokenizer of one value per id, through the one trait: total, exact in range, and never overrun.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::Random;
use endplate_tokenizers::{ActionTokenizer, BinCodec, DigitCodec, Fsq, Progress, VqCodec};

/// The tokenizer, first id worth trying, and half a step.
fn all() -> Vec<(Box<dyn ActionTokenizer>, u32, f64)> {
    let table: Vec<f64> = (0..64).map(|n| f64::from(n % 8) / 4.0 - 1.0 + f64::from(n / 8)).collect();
    vec![
        (Box::new(BinCodec::open_vla(32_000, 3, 2).unwrap()), 31_700, 2.0 / 255.0),
        (Box::new(BinCodec::open_pi(3, 2).unwrap()), 0, 1.0 / 256.0),
        (Box::new(DigitCodec::new(3, 2).unwrap()), 0, 0.001),
        (Box::new(Fsq::omni_jarvis().codec(2, 100).unwrap()), 90, 0.25),
        (Box::new(VqCodec::new(&table, 2, 10, 3).unwrap()), 0, f64::INFINITY),
    ]
}

#[test]
fn encoded_chunks_come_back_within_half_a_step() {
    let mut random = Random(31);
    for (mut tokenizer, _, half_step) in all() {
        let needed = tokenizer.horizon() * tokenizer.dims();
        let (mut ids, mut out) = (Vec::new(), vec![0.0; needed]);
        for _ in 0..2000 {
            // FSQ and openpi's bins end below 1.
            let chunk: Vec<f64> = (0..needed).map(|_| 0.7 * random.signed()).collect();
            tokenizer.encode(&chunk, &mut ids).unwrap();
            tokenizer.decode(&ids, &mut out).unwrap();
            for (a, b) in out.iter().zip(&chunk) {
                assert!((a - b).abs() <= half_step + 1e-9, "{a} {b}");
            }
            let again = out.clone();
            let mut ids_again = Vec::new();
            tokenizer.encode(&again, &mut ids_again).unwrap();
            assert_eq!(ids, ids_again, "decoding is a fixed point");
        }
    }
}

#[test]
fn any_ids_give_a_chunk_or_an_error_and_pushing_agrees() {
    let mut random = Random(32);
    for (mut tokenizer, first, _) in all() {
        let needed = tokenizer.horizon() * tokenizer.dims();
        let mut chunks = 0;
        for round in 0..60_000 {
            let length = random.below(8 + needed as u32);
            tokenizer.reset();
            let ids: Vec<u32> = (0..length)
                .map(|_| {
                    // Now and then what is allowed, so that whole chunks occur.
                    let mut id = first + random.below(tokenizer.vocab_size() + 2 - first);
                    for _ in 0..if round % 2 == 0 { 3000 } else { 0 } {
                        if tokenizer.allows(id) {
                            break;
                        }
                        id = first + random.below(tokenizer.vocab_size() + 2 - first);
                    }
                    let allowed = tokenizer.allows(id);
                    assert_eq!(tokenizer.push(id).is_ok(), allowed);
                    id
                })
                .collect();
            let (mut out, mut pushed) = (vec![f64::NAN; needed], vec![f64::NAN; needed]);
            let finished = tokenizer.finish(&mut pushed);
            let decoded = tokenizer.decode(&ids, &mut out);
            assert_eq!(finished, decoded);
            if decoded.is_ok() {
                assert_eq!(out, pushed);
                assert!(out.iter().all(|value| value.is_finite() && value.abs() <= 8.0));
                chunks += 1;
            } else {
                assert!(out.iter().all(|value| value.is_nan()), "written despite the error");
            }
            if round % 50 == 49 && chunks > 20 {
                break;
            }
        }
        assert!(chunks >= 5, "only {chunks} whole chunks");
    }
}

#[test]
fn the_mask_says_what_push_takes_until_the_chunk_is_complete() {
    let mut random = Random(33);
    for (mut tokenizer, ..) in all() {
        let mut mask = vec![false; tokenizer.vocab_size() as usize];
        for _ in 0..30 {
            tokenizer.reset();
            for _ in 0..200 {
                let count = tokenizer.allowed(&mut mask).unwrap();
                assert_eq!(count, mask.iter().filter(|&&allowed| allowed).count());
                if count == 0 {
                    break;
                }
                let pick = random.below(count as u32) as usize;
                let id = (0u32..).zip(&mask).filter(|(_, m)| **m).nth(pick).unwrap().0;
                if tokenizer.push(id).unwrap() == Progress::Complete {
                    break;
                }
            }
            let needed = tokenizer.horizon() * tokenizer.dims();
            tokenizer.finish(&mut vec![0.0; needed]).unwrap();
        }
        assert!(tokenizer.allowed(&mut [false; 1]).is_err());
    }
}
