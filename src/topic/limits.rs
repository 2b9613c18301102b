//! How much the logs keep.

/// What a topic keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Messages per topic.
    pub(crate) messages: usize,
    /// Bytes of encoded lines per topic.
    pub(crate) bytes: usize,
}

/// What all topics together keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreLimits {
    /// Topics that keep anything.
    pub(crate) topics: usize,
    /// Bytes, with what is stored beside each message.
    pub(crate) bytes: usize,
}
