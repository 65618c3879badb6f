//! Model families: how observations become graph inputs and graph outputs become rows.

pub(crate) mod pi0_fast;

/// Families this build runs.
pub(crate) const BUILT: &[&str] = &[pi0_fast::NAME];
