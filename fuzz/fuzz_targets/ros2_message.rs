//! The first byte chooses the interface, the rest is the message: what decodes must encode, and decode to the same.
#![no_main]

use endplate_ros2::interface::catalogue::CATALOGUE;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((selector, message)) = input.split_first() else { return };
    let entry = &CATALOGUE[usize::from(*selector) % CATALOGUE.len()];
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    if let Ok(written) = (entry.recode)(message, &mut once) {
        once.truncate(written);
        let again = (entry.recode)(&once, &mut twice).expect("what was encoded decodes");
        assert_eq!(once, &twice[..again]);
    }
});
