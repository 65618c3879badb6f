#![no_main]

#[path = "../../tokenizers/tests/common/fuzzed.rs"]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::fit(data));
