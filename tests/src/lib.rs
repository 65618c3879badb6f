//! Behaviour across crates.
//!
//! The tests are files of this folder and targets of `endplate-runtime`, which builds the binary they run:
//!
//! | target | proves |
//! |---|---|
//! | `ladder` | every fault walks the failure ladder, judged by the commands really sent |
//! | `allocation` | the control path allocates nothing after activation |
//! | `replay` | a simulated run replays bit for bit, on each engine; the report's shape |
//! | `cli` | bad input gives one clear error and the documented exit code |
//!
//! `common/` holds the rig they share. Run one with `cargo test --release -p endplate-runtime --test ladder`.
