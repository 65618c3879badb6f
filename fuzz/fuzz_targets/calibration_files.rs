#![no_main]

#[path = "../../calibration/tests/common/fuzzed.rs"]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::calibration_files(data));
