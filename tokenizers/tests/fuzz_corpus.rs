//! Replays the fuzzers' committed seeds on the stable toolchain; `fuzz/` has the targets themselves.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/fuzzed.rs"]
mod fuzzed;

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 5, "{}: {count} seeds", folder.display());
}

#[test]
fn seeds_of_fast_decode_hold() {
    replay("fast_decode", fuzzed::fast_decode);
}

#[test]
fn seeds_of_tokenizer_json_hold() {
    replay("tokenizer_json", fuzzed::tokenizer_json);
}

#[test]
fn seeds_of_fit_hold() {
    replay("fit", fuzzed::fit);
}
