//! `tokenizer.json` and `processor_config.json`: reading with checks, writing.
//!
//! The first is Hugging Face's byte-level BPE, merges spelled `"a b"` or `["a", "b"]`. Settings
//! that would change ids are refused rather than ignored. The second carries FAST's own numbers:
//! `scale`, `min_token`, `vocab_size`, and optionally `max_token`, `time_horizon`, `action_dim`,
//! `coefficient_limits`; its other fields are not read.

use super::bpe::{Bpe, Merge};
use super::{FastTokenizer, LoadError, Parts, SaveError, Tables, is_shape};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

const TOKENIZER: &str = "tokenizer.json";
const PROCESSOR: &str = "processor_config.json";
/// Largest size of `min_token`: far beyond any use, and its sum with a code point fits an i32.
const MIN_TOKEN_SIZE: u32 = 1 << 24;
const LAST_SCALAR: u32 = 0x10_ffff;

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    truncation: Value,
    #[serde(default)]
    padding: Value,
    #[serde(default)]
    added_tokens: Vec<Value>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    model: ModelJson,
}

#[derive(Deserialize)]
struct ModelJson {
    #[serde(rename = "type", default)]
    kind: Value,
    #[serde(default)]
    dropout: Value,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
    #[serde(default)]
    fuse_unk: Value,
    #[serde(default)]
    byte_fallback: Value,
    #[serde(default)]
    ignore_merges: Value,
    vocab: Vocabulary,
    merges: Vec<MergeJson>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Text(String),
    Pair(String, String),
}

/// Entries in file order, repeated ones kept: a map would hide them.
struct Vocabulary(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map from token to id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Vocabulary(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[derive(Deserialize)]
struct ProcessorJson {
    scale: f64,
    min_token: i64,
    vocab_size: u64,
    #[serde(default)]
    max_token: Option<i64>,
    #[serde(default)]
    time_horizon: Option<usize>,
    #[serde(default)]
    action_dim: Option<usize>,
    #[serde(default)]
    coefficient_limits: Option<Vec<Vec<u32>>>,
}

pub(super) fn read_dir(dir: &Path) -> Result<FastTokenizer, LoadError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(|source| LoadError::Read { path, source })
    };
    parse(&read(TOKENIZER)?, &read(PROCESSOR)?, &dir.display().to_string())
}

pub(super) fn parse(tokenizer: &[u8], processor: &[u8], label: &str) -> Result<FastTokenizer, LoadError> {
    let file = Named(format!("{label}/{TOKENIZER}"));
    let json: TokenizerJson = file.json(tokenizer)?;
    check_settings(&json, &file)?;
    let names = vocabulary(json.model.vocab.0, &file)?;
    let merges = merges(json.model.merges, &names, &file)?;
    let bpe = Bpe::new(names, merges);

    let processor_file = Named(format!("{label}/{PROCESSOR}"));
    let json: ProcessorJson = processor_file.json(processor)?;
    let parts = check_processor(&json, bpe, &processor_file)?;
    if let Some((byte, code)) = parts.bpe.first_missing(parts.max_token.abs_diff(parts.min_token)) {
        let coefficient = parts.min_token + code as i32;
        return Err(LoadError::MissingByte { file: file.0, byte, coefficient, code });
    }
    Ok(FastTokenizer { tables: Arc::new(Tables::new(parts)) })
}

/// A file under its name in errors.
struct Named(String);

impl Named {
    fn json<'a, T: Deserialize<'a>>(&self, bytes: &'a [u8]) -> Result<T, LoadError> {
        serde_json::from_slice(bytes).map_err(|source| LoadError::Json { file: self.0.clone(), source })
    }

    fn field(&self, field: &'static str, value: impl fmt::Display, remedy: &'static str) -> LoadError {
        LoadError::Field { file: self.0.clone(), field, value: value.to_string(), remedy }
    }
}

/// Refuses what would make other ids than byte-level BPE with GPT-2's splitter.
fn check_settings(json: &TokenizerJson, file: &Named) -> Result<(), LoadError> {
    let model = &json.model;
    if model.kind != "BPE" && !model.kind.is_null() {
        return Err(file.field("model.type", &model.kind, "FAST is byte-level BPE"));
    }
    let unset = |value: &Value| value.is_null() || *value == false || *value == "" || value.as_f64() == Some(0.0);
    for (field, value) in [
        ("truncation", &json.truncation),
        ("padding", &json.padding),
        ("normalizer", &json.normalizer),
        ("model.dropout", &model.dropout),
        ("model.unk_token", &model.unk_token),
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
        ("model.fuse_unk", &model.fuse_unk),
        ("model.byte_fallback", &model.byte_fallback),
        ("model.ignore_merges", &model.ignore_merges),
    ] {
        if !unset(value) {
            return Err(file.field(field, value, "FAST does not use it; save the tokenizer without it"));
        }
    }
    if let Some(token) = json.added_tokens.first() {
        return Err(file.field("added_tokens", token, "FAST has none; save the tokenizer without added tokens"));
    }
    let splitter = &json.pre_tokenizer;
    let splits = splitter["type"] == "ByteLevel"
        && splitter["add_prefix_space"] == false
        && splitter.get("use_regex").is_none_or(|value| *value == true);
    if !splits {
        let remedy = "it must be ByteLevel with add_prefix_space false and use_regex true";
        return Err(file.field("pre_tokenizer", splitter, remedy));
    }
    if json.decoder["type"] != "ByteLevel" {
        return Err(file.field("decoder", &json.decoder, "it must be ByteLevel"));
    }
    Ok(())
}

/// Spellings in id order.
fn vocabulary(entries: Vec<(String, u32)>, file: &Named) -> Result<Vec<String>, LoadError> {
    let tokens = entries.len();
    let mut names = vec![None; tokens];
    let mut repeated = HashMap::with_capacity(tokens);
    for (token, id) in entries {
        if token.is_empty() {
            return Err(file.field("model.vocab", format!("\"\": {id}"), "a token must stand for at least one byte"));
        }
        if let Some(other) = repeated.insert(token.clone(), id) {
            let value = format!("{token:?}: {other} and {id}");
            return Err(file.field("model.vocab", value, "a token must have one id; export the file again"));
        }
        if let Some(slot) = names.get_mut(id as usize) {
            *slot = Some(token);
        }
    }
    // An id beyond the end, or used twice, leaves another one without a token.
    (0u32..)
        .zip(names)
        .map(|(id, name)| name.ok_or_else(|| LoadError::IdsNotContiguous { file: file.0.clone(), tokens, missing: id }))
        .collect()
}

fn merges(list: Vec<MergeJson>, names: &[String], file: &Named) -> Result<Vec<Merge>, LoadError> {
    let ids: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
    let mut first_rank: HashMap<(u32, u32), usize> = HashMap::with_capacity(list.len());
    let mut merges = Vec::with_capacity(list.len());
    for (rank, entry) in list.into_iter().enumerate() {
        let (left, right) = match entry {
            MergeJson::Pair(left, right) => (left, right),
            MergeJson::Text(text) => match text.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => (left.to_owned(), right.to_owned()),
                _ => {
                    let remedy = "a merge is two tokens with one space between, or a list of two";
                    return Err(file.field("model.merges", format!("[{rank}] {text:?}"), remedy));
                }
            },
        };
        let id = |token: &str| {
            let unknown = || LoadError::UnknownMergeToken { file: file.0.clone(), rank, token: token.to_owned() };
            ids.get(token).copied().ok_or_else(unknown)
        };
        let merge = Merge { left: id(&left)?, right: id(&right)?, merged: id(&format!("{left}{right}"))? };
        if let Some(first) = first_rank.insert((merge.left, merge.right), rank) {
            return Err(LoadError::DuplicateMerge { file: file.0.clone(), rank, first, left, right });
        }
        merges.push(merge);
    }
    Ok(merges)
}

fn check_processor(json: &ProcessorJson, bpe: Bpe, file: &Named) -> Result<Parts, LoadError> {
    if !(json.scale.is_normal() && json.scale > 0.0) {
        return Err(file.field("scale", json.scale, "it must be a finite number above 0 (usually 10)"));
    }
    if bpe.len() as u64 > json.vocab_size {
        let remedy = "tokenizer.json has more tokens than that; the two files are not a pair";
        return Err(file.field("vocab_size", json.vocab_size, remedy));
    }
    let (min_token, max_token) = check_range(json, &bpe, file)?;
    for (field, value) in [("time_horizon", json.time_horizon), ("action_dim", json.action_dim)] {
        if value == Some(0) {
            return Err(file.field(field, 0, "it must be at least 1, or null"));
        }
    }
    if let (Some(horizon), Some(dims)) = (json.time_horizon, json.action_dim)
        && !is_shape(horizon, dims)
    {
        let value = format!("{horizon} with action_dim = {dims}");
        let remedy = "a chunk has at most 1024 rows and 65536 values";
        return Err(file.field("time_horizon", value, remedy));
    }
    let limits = check_limits(json, file)?;
    Ok(Parts {
        bpe,
        scale: json.scale,
        min_token,
        max_token,
        is_max_declared: json.max_token.is_some(),
        horizon: json.time_horizon,
        dims: json.action_dim,
        limits,
    })
}

/// The limits, `[H, D]` of the declared shape.
fn check_limits(json: &ProcessorJson, file: &Named) -> Result<Option<Vec<u32>>, LoadError> {
    let Some(rows) = &json.coefficient_limits else { return Ok(None) };
    let shape = format!("{} rows", rows.len());
    let is_declared = json.time_horizon == Some(rows.len());
    if !is_declared || rows.iter().any(|row| Some(row.len()) != json.action_dim) {
        return Err(file.field("coefficient_limits", shape, "it must be time_horizon rows of action_dim numbers"));
    }
    Ok(Some(rows.concat()))
}

/// `min_token` and `max_token` as i32 whose sums with any code point are i32 too.
fn check_range(json: &ProcessorJson, bpe: &Bpe, file: &Named) -> Result<(i32, i32), LoadError> {
    let min_token = i32::try_from(json.min_token)
        .ok()
        .filter(|min| min.unsigned_abs() <= MIN_TOKEN_SIZE)
        .ok_or_else(|| file.field("min_token", json.min_token, "it must be within ±16777216"))?;
    let Some(declared) = json.max_token else {
        let last = highest_code(bpe).ok_or_else(|| {
            file.field("vocab_size", bpe.len(), "tokenizer.json has no token for any whole character")
        })?;
        return Ok((min_token, min_token + last as i32));
    };
    let max_token = i32::try_from(declared)
        .ok()
        .filter(|max| *max >= min_token && max.abs_diff(min_token) <= LAST_SCALAR)
        .ok_or_else(|| file.field("max_token", declared, "it must be min_token to min_token + 1114111"))?;
    Ok((min_token, max_token))
}

/// Highest code point whose UTF-8 bytes all have a token.
fn highest_code(bpe: &Bpe) -> Option<u32> {
    (0..=LAST_SCALAR).rev().find(|&code| {
        let mut buffer = [0; 4];
        char::from_u32(code)
            .is_some_and(|c| c.encode_utf8(&mut buffer).bytes().all(|byte| bpe.id_of_byte(byte).is_some()))
    })
}

/// Serialises the vocabulary in id order.
struct ById<'a>(&'a [String]);

impl Serialize for ById<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, name) in self.0.iter().enumerate() {
            map.serialize_entry(name, &id)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct ByteLevelOut {
    r#type: &'static str,
    add_prefix_space: bool,
    trim_offsets: bool,
    use_regex: bool,
}

#[derive(Serialize)]
struct ModelOut<'a> {
    r#type: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'a str>,
    end_of_word_suffix: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: ById<'a>,
    merges: Vec<(&'a str, &'a str)>,
}

#[derive(Serialize)]
struct TokenizerOut<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: [(); 0],
    normalizer: Option<()>,
    pre_tokenizer: ByteLevelOut,
    post_processor: Option<()>,
    decoder: ByteLevelOut,
    model: ModelOut<'a>,
}

#[derive(Serialize)]
struct ProcessorOut<'a> {
    processor_class: &'static str,
    scale: f64,
    min_token: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_token: Option<i32>,
    vocab_size: u32,
    time_horizon: Option<usize>,
    action_dim: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coefficient_limits: Option<Vec<&'a [u32]>>,
}

pub(super) fn to_bytes(tokenizer: &FastTokenizer) -> Result<(Vec<u8>, Vec<u8>), SaveError> {
    let tables = &*tokenizer.tables;
    let names = tables.bpe.names();
    let name = |id: u32| names.get(id as usize).map_or("", String::as_str);
    let byte_level =
        || ByteLevelOut { r#type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
    let model = TokenizerOut {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: [],
        normalizer: None,
        pre_tokenizer: byte_level(),
        post_processor: None,
        decoder: byte_level(),
        model: ModelOut {
            r#type: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: ById(names),
            merges: tables.bpe.merges().iter().map(|merge| (name(merge.left), name(merge.right))).collect(),
        },
    };
    let processor = ProcessorOut {
        processor_class: "UniversalActionProcessor",
        scale: tables.scale,
        min_token: tables.min_token,
        max_token: tables.is_max_declared.then_some(tables.max_token),
        vocab_size: tokenizer.vocab_size(),
        time_horizon: tables.horizon,
        action_dim: tables.dims,
        coefficient_limits: tables.limits.as_ref().zip(tables.dims).map(|(l, dims)| l.chunks(dims).collect()),
    };
    let files = (serde_json::to_vec_pretty(&model)?, serde_json::to_vec_pretty(&processor)?);
    if parse(&files.0, &files.1, "saved")? != *tokenizer {
        return Err(SaveError::NotIdentical { scale: tables.scale });
    }
    Ok(files)
}

pub(super) fn save(tokenizer: &FastTokenizer, dir: &Path) -> Result<(), SaveError> {
    let (model, processor) = to_bytes(tokenizer)?;
    std::fs::create_dir_all(dir).map_err(|source| SaveError::Write { path: dir.to_path_buf(), source })?;
    for (name, bytes) in [(TOKENIZER, model), (PROCESSOR, processor)] {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(|source| SaveError::Write { path, source })?;
    }
    Ok(())
}
