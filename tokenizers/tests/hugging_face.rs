//! Against Hugging Face `tokenizers`: it loads what is saved, encodes and decodes the same ids, and
//! its trainer learns the same merges from the same data.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Random, fit};
use endplate_tokenizers::{FastTokenizer, FitOptions};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};
use tokenizers::{AddedToken, Tokenizer};

/// The text of each chunk, as Hugging Face decodes our ids; checks that it encodes to them again.
fn texts(ours: &FastTokenizer, theirs: &Tokenizer, chunks: &[Vec<f64>]) -> Vec<String> {
    let (horizon, dims) = (ours.horizon().unwrap(), ours.dims().unwrap());
    let mut codec = ours.codec(horizon, dims).unwrap();
    let mut ids = Vec::new();
    chunks
        .iter()
        .map(|chunk| {
            codec.encode(chunk, &mut ids).unwrap();
            let text = theirs.decode(&ids, false).unwrap();
            assert_eq!(text.chars().count(), horizon * dims);
            assert_eq!(theirs.encode(text.as_str(), false).unwrap().get_ids(), ids);
            text
        })
        .collect()
}

/// Merges of Hugging Face's trainer, spelled "left right".
fn their_merges(texts: &[String], options: &FitOptions) -> Vec<String> {
    let alphabet = ByteLevel::alphabet().into_iter().collect();
    merges_of(&their_model(texts, options, alphabet, None))
}

/// What Hugging Face's trainer makes of these texts.
fn their_model(
    texts: &[String],
    options: &FitOptions,
    alphabet: std::collections::HashSet<char>,
    max_token_length: Option<usize>,
) -> serde_json::Value {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(options.vocab_size as usize)
        .min_frequency(options.min_frequency)
        .show_progress(false)
        .initial_alphabet(alphabet)
        .max_token_length(max_token_length)
        .build();
    let splitter = ByteLevel::new(false, true, true);
    let split = |text: &str| {
        let mut pieces = PreTokenizedString::from(text);
        splitter.pre_tokenize(&mut pieces)?;
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(splits.into_iter().map(|(piece, _, _)| piece.to_owned()).collect())
    };
    trainer.feed(texts.iter(), split).unwrap();
    let mut model = BPE::default();
    let _: Vec<AddedToken> = trainer.train(&mut model).unwrap();
    serde_json::to_value(&model).unwrap()
}

fn merges_of(model: &serde_json::Value) -> Vec<String> {
    let spelled = |merge: &serde_json::Value| match merge.as_str() {
        Some(text) => text.to_owned(),
        None => format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()),
    };
    model["merges"].as_array().unwrap().iter().map(spelled).collect()
}

#[test]
fn ids_and_learned_merges_agree() {
    for (seed, horizon, dims, options) in [
        (6, 16, 6, FitOptions::default()),
        (7, 16, 6, FitOptions { scale: 25.0, vocab_size: 700, min_frequency: 2 }),
        (8, 50, 7, FitOptions { scale: 10.0, vocab_size: 600, min_frequency: 3 }),
        (9, 4, 2, FitOptions { scale: 40.0, vocab_size: 2048, min_frequency: 2 }),
    ] {
        let chunks = Random(seed).chunks(400, horizon, dims);
        let ours = fit(&chunks, horizon, dims, &options);
        let (json, _) = ours.to_bytes().unwrap();
        let theirs = Tokenizer::from_bytes(&json).unwrap();
        assert_eq!(theirs.get_vocab_size(true), ours.vocab_size() as usize);
        let texts = texts(&ours, &theirs, &chunks);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(merges_of(&json["model"]), their_merges(&texts, &options), "seed {seed}");
    }
}

#[test]
fn texts_full_of_boundaries_split_the_same() {
    // One row at scale 1: the coefficients are the chunk's own numbers, so the text can be chosen.
    let alphabet: Vec<u32> =
        "'''''streeevlllmdSD019 (+!\t\n\r\u{0}\u{8}\u{1c}\u{1f}\u{7f}\u{85}\u{a0}\u{ad}ªµº²¼×÷ſʰ˂˯\u{300}"
            .chars()
            .map(u32::from)
            .collect();
    let mut random = Random(10);
    let mut chunks: Vec<Vec<f64>> = (0..1500)
        .map(|_| (0..60).map(|_| f64::from(alphabet[random.below(alphabet.len() as u32) as usize])).collect())
        .collect();
    chunks.push(vec![0.0; 60]);
    let options = FitOptions { scale: 1.0, vocab_size: 1024, min_frequency: 2 };
    let ours = fit(&chunks, 1, 60, &options);
    assert_eq!((ours.min_token(), ours.max_token()), (0, 0x300));
    let theirs = Tokenizer::from_bytes(ours.to_bytes().unwrap().0).unwrap();
    let texts = texts(&ours, &theirs, &chunks);
    for (text, chunk) in texts.iter().zip(&chunks) {
        assert!(text.chars().map(|c| f64::from(u32::from(c))).eq(chunk.iter().copied()));
    }
    // The cases that are easy to get wrong did occur.
    for rare in ["'s", "'ll", "'re", "'S", " '", "  ", " \t", "\t ", "\u{1f} ", " \u{1f}", " 1", "\n\n", "\u{a0}²"] {
        assert!(texts.iter().any(|text| text.contains(rare)), "no text with {rare:?}");
    }
}

/// The released processor's `fit`: its alphabet, its trainer, the same vocabulary id by id.
#[test]
fn the_upstream_fit_learns_the_same_vocabulary_and_merges() {
    for (seed, horizon, dims, scale, vocab_size) in
        [(12, 16, 6, 10.0, 1024), (13, 50, 7, 10.0, 600), (14, 4, 2, 60.0, 700)]
    {
        let options = FitOptions { scale, vocab_size, min_frequency: 2 };
        let mut chunks = Random(seed).chunks(400, horizon, dims);
        // Every coefficient in range once, so that every byte is seen: one row per value.
        let range = fit(&chunks, horizon, dims, &options);
        for value in range.min_token()..=range.max_token() {
            let constant = f64::from(value) / scale / (horizon as f64).sqrt();
            chunks.push(vec![constant; horizon * dims]);
        }
        let slices = || chunks.iter().map(Vec::as_slice);
        let ours = FastTokenizer::fit_upstream(slices(), horizon, dims, &options).unwrap();
        // Its own texts, by the byte-complete fit: code points are the same.
        let texts = {
            let full = fit(&chunks, horizon, dims, &options);
            let theirs = Tokenizer::from_bytes(full.to_bytes().unwrap().0).unwrap();
            texts(&full, &theirs, &chunks)
        };
        let alphabet = (0..=ours.max_token().abs_diff(ours.min_token())).filter_map(char::from_u32).collect();
        let theirs = their_model(&texts, &options, alphabet, Some(10_000));
        let saved: serde_json::Value = serde_json::from_slice(&ours.to_bytes().unwrap().0).unwrap();
        assert_eq!(saved["model"]["vocab"], theirs["vocab"], "seed {seed}");
        assert_eq!(merges_of(&saved["model"]), merges_of(&theirs), "seed {seed}");
        assert_eq!(ours.coefficient_limits().unwrap().len(), horizon * dims);
    }
    // A byte the data does not show leaves a coefficient in range without spelling: refused, by name.
    let chunks = [vec![0.0; 4], vec![12.8; 4]];
    let got = FastTokenizer::fit_upstream(chunks.iter().map(Vec::as_slice), 4, 1, &FitOptions::default());
    assert!(matches!(got, Err(endplate_tokenizers::FitError::Unspellable { .. })), "{got:?}");
}

/// The linear encoder against Hugging Face on text it was not trained on.
#[test]
fn chunks_unlike_the_training_data_get_the_same_ids() {
    let mut random = Random(15);
    for (horizon, dims, scale) in [(50, 7, 10.0), (16, 6, 40.0)] {
        let mut chunks = random.chunks(300, horizon, dims);
        chunks.push(vec![2.5; horizon * dims]);
        chunks.push(vec![-2.5; horizon * dims]);
        let ours = fit(&chunks, horizon, dims, &FitOptions { scale, vocab_size: 2048, min_frequency: 2 });
        let theirs = Tokenizer::from_bytes(ours.to_bytes().unwrap().0).unwrap();
        let noise: Vec<Vec<f64>> = (0..400)
            .map(|round| {
                let size = [0.02, 0.1, 0.4, 1.0][round % 4];
                (0..horizon * dims).map(|_| size * random.signed()).collect()
            })
            .collect();
        texts(&ours, &theirs, &noise);
    }
}
