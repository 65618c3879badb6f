//! What a DDS participant says of its nodes: total on any bytes, and what is read comes back as it went.
#![no_main]

use endplate_ros2::rmw::discovery::{GidBytes, ParticipantEntities};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for gid_bytes in [GidBytes::IRON, GidBytes::HUMBLE] {
        if let Ok(info) = ParticipantEntities::decode(bytes, gid_bytes) {
            let again = info.encode(gid_bytes).expect("what was read can be written");
            assert_eq!(ParticipantEntities::decode(&again, gid_bytes).as_ref(), Ok(&info));
        }
    }
});
