//! Names a request in the core.

/// Names a request from its first poll to its outcome. It is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Counted from 1.
    pub(super) serial: u64,
    /// Its place in the table.
    pub(super) slot: u32,
}
