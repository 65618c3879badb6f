//! The control thread's place on the machine: what it asks for, what it was granted, and its pace.

mod huge;
mod pace;
mod pages;
mod rights;

pub use huge::{HugePages, PageKeeper, gather_heap, touch_after_rest, use_huge_pages};
pub use pace::{Pacer, Wake};
pub use pages::LargePages;
pub use rights::{RealtimeRights, RightsReport, probe, request, touch_stack};
