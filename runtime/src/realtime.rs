//! The control thread's place on the machine: what it asks for, what it was granted, and its pace.

mod pace;
mod pages;
mod rights;

pub use pace::{Pacer, Wake};
pub use pages::LargePages;
pub use rights::{RealtimeRights, RightsReport, probe, request};
