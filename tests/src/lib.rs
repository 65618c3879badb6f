//! Behaviour across crates.
//!
//! The tests are files of this folder and targets of `endplate-runtime`, which builds the binary they run:
//!
//! | target | proves |
//! |---|---|
//! | `faults` | every fault walks the failure ladder, judged by the commands really sent |
//! | `ladder` | short and long windows of every fault, recovery, clearing and mixtures, with a chunk source as the policy |
//! | `no_allocation` | the control path allocates nothing after activation |
//! | `bit_for_bit` | a simulated run replays bit for bit, on each engine; the report's shape |
//! | `command_line` | bad input gives one clear error and the documented exit code |
//!
//! `rig/` (with the demonstration policy) and `common/` (with a chunk source) hold what they share. Run one with `cargo test --release -p endplate-runtime --test faults`.
