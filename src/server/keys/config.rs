//! The settings and bounds of a table of keys.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::sync::Arc;

/// The settings and bounds of a table of keys: [`MemoryKeys`](super::MemoryKeys),
#[cfg_attr(feature = "sqlite", doc = "[`SqliteKeys`](super::SqliteKeys) or")]
#[cfg_attr(not(feature = "sqlite"), doc = "`SqliteKeys` or")]
#[cfg_attr(feature = "redis", doc = "[`RedisKeys`](super::RedisKeys).")]
#[cfg_attr(not(feature = "redis"), doc = "`RedisKeys`.")]
/// Each method replaces a default.
///
/// ```
/// use bellwire::server::keys::KeysConfig;
///
/// let config = KeysConfig::new().seconds(60).entries(1_000_000).bytes(1 << 30);
/// ```
#[derive(Clone)]
pub struct KeysConfig {
    pub(super) seconds: u64,
    pub(super) bounds: Bounds,
    /// If it is not the usual one.
    pub(super) clock: Option<Clock>,
}

/// How much a table, or the runs in progress, may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Bounds {
    pub(in crate::server) entries: usize,
    pub(in crate::server) bytes: usize,
}

/// The time since a fixed moment.
#[derive(Clone)]
pub(super) struct Clock(pub(super) Arc<dyn Fn() -> Duration + Send + Sync>);

impl KeysConfig {
    /// The defaults.
    pub fn new() -> Self {
        let bounds = Bounds { entries: 65_536, bytes: 64 * 1024 * 1024 };
        Self { seconds: 300, bounds, clock: None }
    }

    /// How long a client may repeat a request, in seconds; at least 1. Default 300. Outcomes are
    /// kept 60 s longer than that, counted from the end of the run.
    #[must_use]
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = seconds.max(1);
        self
    }

    /// The most entries. Default 65,536, which is enough for about 180 keyed requests a second, for
    /// ever. Past it, new keys are refused `no busy`.
    ///
    /// They are also refused to an owner that already has more entries than are free: half of them
    /// is for a single owner, and a third for each of two. An owner is a principal, or all
    /// anonymous peers of one address.
    #[must_use]
    pub fn entries(mut self, entries: usize) -> Self {
        self.bounds.entries = entries;
        self
    }

    /// The most bytes of all entries together. Default 64 MiB. Each entry counts with its names,
    /// its outcome and 320 bytes; while the run is in progress, with the longest line of the server
    /// instead of the outcome. Past it, new keys are refused `no busy`. They are shared among
    /// owners as [`entries`](Self::entries) are.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bounds.bytes = bytes;
        self
    }

    /// Another clock, for simulations: the time since any fixed moment. It must not go backwards.
    /// Servers that share a table have to share it, too. Default: the clock of the runtime, and for a
    /// table in Redis that of Redis.
    #[must_use]
    pub fn clock(mut self, now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.clock = Some(Clock(Arc::new(now)));
        self
    }
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// The given one, or else that of the runtime.
    pub(super) fn or_of_runtime(given: Option<Self>) -> Self {
        let start = Instant::now();
        let clock = move || Instant::now().saturating_duration_since(start);
        given.unwrap_or_else(|| Self(Arc::new(clock)))
    }

    pub(super) fn now(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for KeysConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeysConfig")
            .field("seconds", &self.seconds)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}
