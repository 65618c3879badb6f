//! What the loader refuses, and how it says so.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Random, fit};
use endplate_tokenizers::{FastTokenizer, FitOptions, LoadError};
use serde_json::{Value, json};

fn files() -> (Value, Value) {
    let (tokenizer, processor) =
        fit(&Random(5).chunks(50, 8, 3), 8, 3, &FitOptions { vocab_size: 300, ..FitOptions::default() })
            .to_bytes()
            .unwrap();
    (serde_json::from_slice(&tokenizer).unwrap(), serde_json::from_slice(&processor).unwrap())
}

fn load(tokenizer: &Value, processor: &Value) -> Result<FastTokenizer, LoadError> {
    FastTokenizer::from_bytes(tokenizer.to_string().as_bytes(), processor.to_string().as_bytes(), "bundle")
}

fn refused(edit: impl FnOnce(&mut Value, &mut Value)) -> LoadError {
    let (mut tokenizer, mut processor) = files();
    load(&tokenizer, &processor).unwrap();
    edit(&mut tokenizer, &mut processor);
    load(&tokenizer, &processor).unwrap_err()
}

#[test]
fn both_spellings_of_merges_give_the_same_tokenizer() {
    let (mut tokenizer, processor) = files();
    let pairs = load(&tokenizer, &processor).unwrap();
    for merge in tokenizer["model"]["merges"].as_array_mut().unwrap() {
        *merge = format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
    }
    assert_eq!(load(&tokenizer, &processor).unwrap(), pairs);
    tokenizer["model"]["merges"][3] = "a b c".into();
    let error = load(&tokenizer, &processor).unwrap_err();
    assert!(matches!(error, LoadError::Field { field: "model.merges", .. }), "{error}");
}

#[test]
fn numbers_that_cannot_be_used_name_file_field_and_value() {
    for scale in [0.0, -10.0, 1e-320] {
        let error = refused(|_, processor| processor["scale"] = scale.into());
        assert!(matches!(error, LoadError::Field { field: "scale", .. }));
        assert!(error.to_string().starts_with("bundle/processor_config.json: scale = "), "{error}");
    }
    for (field, value) in [
        ("min_token", json!(20_000_000)),
        ("max_token", json!(-10_000)),
        ("max_token", json!(2_000_000)),
        ("vocab_size", json!(200)),
        ("time_horizon", json!(0)),
        ("action_dim", json!(0)),
    ] {
        match refused(|_, processor| processor[field] = value.clone()) {
            LoadError::Field { field: named, .. } => assert_eq!(named, field),
            other => panic!("{field} = {value}: {other}"),
        }
    }
    assert!(matches!(refused(|_, processor| processor["scale"] = Value::Null), LoadError::Json { .. }));
    assert!(matches!(refused(|_, processor| processor["min_token"] = json!(1.5)), LoadError::Json { .. }));
}

#[test]
fn contradictions_of_vocabulary_and_merges_are_refused() {
    let error = refused(|tokenizer, _| tokenizer["model"]["vocab"]["!"] = json!(1));
    assert!(matches!(error, LoadError::IdsNotContiguous { tokens: 300, missing: 0, .. }), "{error}");
    let error = refused(|tokenizer, _| tokenizer["model"]["vocab"]["!"] = json!(4_000_000_000u32));
    assert!(matches!(error, LoadError::IdsNotContiguous { missing: 0, .. }), "{error}");
    let error = refused(|tokenizer, _| tokenizer["model"]["merges"][5] = json!(["!", "absent"]));
    assert!(matches!(&error, LoadError::UnknownMergeToken { rank: 5, token, .. } if token == "absent"), "{error}");
    let error = refused(|tokenizer, _| tokenizer["model"]["merges"][5] = json!(["!", "Ń"]));
    assert!(matches!(&error, LoadError::UnknownMergeToken { rank: 5, token, .. } if token == "!Ń"), "{error}");
    let error = refused(|tokenizer, _| {
        let first = tokenizer["model"]["merges"][2].clone();
        tokenizer["model"]["merges"].as_array_mut().unwrap().push(first);
    });
    assert!(matches!(error, LoadError::DuplicateMerge { first: 2, rank: 44, .. }), "{error}");
    let error = refused(|tokenizer, _| tokenizer["model"]["vocab"][""] = json!(300));
    assert!(matches!(error, LoadError::Field { field: "model.vocab", .. }), "{error}");
}

#[test]
fn a_token_listed_twice_is_refused() {
    let (tokenizer, processor) = files();
    let text = tokenizer.to_string().replacen("\"vocab\":{", "\"vocab\":{\"!\":0,", 1);
    let error = FastTokenizer::from_bytes(text.as_bytes(), processor.to_string().as_bytes(), "bundle").unwrap_err();
    assert!(matches!(error, LoadError::Field { field: "model.vocab", .. }), "{error}");
}

#[test]
fn settings_that_would_change_ids_are_refused() {
    let settings: [(&str, Value); 12] = [
        ("/model/type", json!("WordPiece")),
        ("/model/dropout", json!(0.1)),
        ("/model/unk_token", json!("<unk>")),
        ("/model/continuing_subword_prefix", json!("##")),
        ("/model/end_of_word_suffix", json!("</w>")),
        ("/model/byte_fallback", json!(true)),
        ("/model/ignore_merges", json!(true)),
        ("/normalizer", json!({"type": "NFC"})),
        ("/pre_tokenizer/add_prefix_space", json!(true)),
        ("/pre_tokenizer/use_regex", json!(false)),
        ("/decoder", Value::Null),
        ("/added_tokens", json!([{"id": 300, "content": "<s>"}])),
    ];
    for (place, value) in settings {
        let error = refused(|tokenizer, _| *tokenizer.pointer_mut(place).unwrap() = value.clone());
        assert!(matches!(error, LoadError::Field { .. }), "{place} = {value}: {error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = FastTokenizer::from_dir("no/such/directory").unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn a_byte_that_a_coefficient_in_range_needs_must_have_a_token() {
    // The last id's token goes, and with it its byte; the printable name of 0xad is the last of the alphabet.
    let error = refused(|tokenizer, processor| {
        let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        vocab.retain(|_, id| id.as_u64().unwrap() < 256);
        let hole = vocab.remove("A").unwrap();
        let last = vocab.iter_mut().find(|(_, id)| **id == 255).unwrap();
        *last.1 = hole;
        tokenizer["model"]["merges"] = json!([]);
        processor["min_token"] = json!(-100);
        processor["max_token"] = json!(100);
    });
    assert!(matches!(&error, LoadError::MissingByte { byte: b'A', coefficient: -35, code: 0x41, .. }), "{error}");
    assert!(error.to_string().contains("bundle/tokenizer.json") && error.to_string().contains("0x41"), "{error}");
}

#[test]
fn shapes_and_limits_that_cannot_be_held_are_refused_at_load() {
    for (horizon, dims) in [(1u64 << 33, 1u64 << 33), (65_536, 1), (1024, 65), (u64::MAX, 2)] {
        let error = refused(|_, processor| {
            processor["time_horizon"] = json!(horizon);
            processor["action_dim"] = json!(dims);
            processor["coefficient_limits"] = Value::Null;
        });
        assert!(matches!(error, LoadError::Field { field: "time_horizon", .. }), "{error}");
        assert!(error.to_string().contains(&horizon.to_string()), "{error}");
    }
    for limits in [json!([[1, 2, 3]]), json!([[1], [2], [3], [4], [5], [6], [7], [8]])] {
        let error = refused(|_, processor| processor["coefficient_limits"] = limits);
        assert!(matches!(error, LoadError::Field { field: "coefficient_limits", .. }), "{error}");
    }
    let (tokenizer, mut processor) = files();
    processor.as_object_mut().unwrap().remove("coefficient_limits");
    assert_eq!(load(&tokenizer, &processor).unwrap().coefficient_limits(), None);
}
