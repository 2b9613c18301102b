//! The names of requests and connections in the core.

/// Names a request from its first poll to its outcome. It is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Counted from 1.
    pub(super) serial: u64,
    /// Its place in the table.
    pub(super) slot: u32,
}

/// Which connection of a client, counted from its first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkId(u64);

impl LinkId {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
