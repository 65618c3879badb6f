//! Attachments of rmw_zenoh: what decodes encodes to the same bytes.
#![no_main]

use endplate_ros2::rmw::Attachment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(attachment) = Attachment::decode(bytes) {
        assert_eq!(attachment.encode(), bytes);
    }
});
