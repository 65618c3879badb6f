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
    let mut trainer = BpeTrainer::builder()
        .vocab_size(options.vocab_size as usize)
        .min_frequency(options.min_frequency)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
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
    merges_of(&serde_json::to_value(&model).unwrap())
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
