//! How much the logs retain.

/// The bytes that are stored beside each line: its end and its age.
pub(super) const NOTED: usize = 16;

/// What one topic retains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Messages per topic.
    pub(crate) messages: usize,
    /// Bytes of encoded lines per topic.
    pub(crate) bytes: usize,
}

/// What all topics retain together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreLimits {
    /// Topics that have a log.
    pub(crate) topics: usize,
    /// Bytes, including the bookkeeping of each message.
    pub(crate) bytes: usize,
}
