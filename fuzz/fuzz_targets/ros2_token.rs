//! Liveliness tokens of rmw_zenoh: what parses prints as itself, less the chunks that are skipped.
#![no_main]

use endplate_ros2::rmw::Token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(token) = Token::parse(text) {
        let printed = token.to_string();
        assert_eq!(Token::parse(&printed).as_ref(), Ok(&token));
    }
});
