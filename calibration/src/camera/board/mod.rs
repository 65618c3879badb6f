//! A ChArUco board or a plain chessboard in images: corners to a fraction of a pixel.
//!
//! Chessboard corners are saddle points of the brightness. Saddles joined by straight edges of alternating contrast grow
//! into a lattice; markers, read in its white squares, say which corner is which. A chessboard without markers keeps the
//! lattice's own numbers, which is enough for intrinsics. Written here: the detectors there are (`aprilgrid` 0.8,
//! `kornia-apriltag` 0.2) bring some 170 to 200 crates along.

mod aruco;
mod charuco;
mod grey;
mod lattice;
mod saddle;

pub use aruco::Dictionary;
pub use charuco::{BoardError, CharucoBoard, Detection};
pub use grey::Grey;
