//! The keys of requests and connections in the core.

/// The key of a request from its first poll to its outcome. A key is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Counted from 1.
    pub(super) serial: u64,
    /// The index in the table.
    pub(super) slot: u32,
}

/// The number of a connection of a client, counted from the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkId(u64);

impl LinkId {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
