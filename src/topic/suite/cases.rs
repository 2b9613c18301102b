//! The cases, by what they are about.

pub(super) mod bounds;
pub(super) mod contents;
pub(super) mod durable;
pub(super) mod lives;
pub(super) mod numbers;
pub(super) mod random;
pub(super) mod reads;
pub(super) mod replacing;
pub(super) mod retention;
pub(super) mod watching;
