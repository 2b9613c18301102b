//! What the author of a store implements, and says of the store.

use std::time::Duration;

use crate::{
    random::Random,
    topic::{MemoryTopics, Retention, StoreLimits, TopicStore},
};

/// Opens the store that the suite tests.
///
/// The [module](crate::topic::suite) has an example.
pub trait StoreUnderTest: Send + 'static {
    /// The store.
    type Store: TopicStore;

    /// What the store can do. Cases that need more do not apply to it.
    fn capabilities(&self) -> Capabilities;

    /// How long a case may wait, and how much the random cases do.
    fn options(&self) -> Options {
        Options::new()
    }

    /// Opens a fresh and empty store with these limits. The store of the call before is not used
    /// any more.
    fn open(&mut self, limits: Limits) -> impl Future<Output = Self::Store>;

    /// Ends `store` in order, and opens it again with the same limits. Its readers and the futures
    /// of its appends are dropped before. Needed for [`Capabilities::durable`].
    fn reopen(&mut self, store: Self::Store) -> impl Future<Output = Self::Store> {
        async move { cannot(store, "reopen") }
    }

    /// Ends `store` as a crash of its process would, and opens it again with the same limits. Its
    /// readers, and the futures of appends that have not ended, are dropped before. Needed for
    /// [`Capabilities::durable`].
    ///
    /// Nothing that the store does when it is dropped may reach what is opened again. A store of
    /// files can copy them, drop the store, and open the copy.
    fn kill(&mut self, store: Self::Store) -> impl Future<Output = Self::Store> {
        async move { cannot(store, "kill") }
    }

    /// Moves the clock of the open store forward. Needed for [`Capabilities::by_age`]; does nothing
    /// by default.
    fn advance(&mut self, time: Duration) {
        let _ = time;
    }
}

fn cannot<S>(_: S, method: &str) -> S {
    panic!("a durable store under test has to implement `{method}`")
}

/// What the open store may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Topics with a log. For stores with [`Capabilities::limiting`].
    pub topics: usize,
    /// Messages that each log retains. For stores with [`Capabilities::by_count`].
    pub messages: usize,
    /// Bytes that each log retains, at least of its payloads. For stores with
    /// [`Capabilities::by_bytes`].
    pub bytes: usize,
    /// The time for which a message is retained; `None` for ever. For stores with
    /// [`Capabilities::by_age`].
    pub age: Option<Duration>,
}

impl Limits {
    /// 1,000 topics with 10,000 messages and 16 MiB each, of any age.
    pub const fn new() -> Self {
        Self { topics: 1_000, messages: 10_000, bytes: 16 << 20, age: None }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

/// What a store can do besides what every store has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub(super) by_count: bool,
    pub(super) by_bytes: bool,
    pub(super) by_age: bool,
    pub(super) extra: u64,
    pub(super) closing: bool,
    pub(super) counting: bool,
    pub(super) limiting: bool,
    pub(super) replacing: bool,
    pub(super) durable: bool,
    pub(super) anew: bool,
}

macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[must_use]
        pub const fn $name(mut self) -> Self {
            self.$name = true;
            self
        }
    )*};
}

impl Capabilities {
    /// Nothing but what every store has to do.
    pub const fn new() -> Self {
        Self {
            by_count: false,
            by_bytes: false,
            by_age: false,
            extra: 0,
            closing: false,
            counting: false,
            limiting: false,
            replacing: false,
            durable: false,
            anew: false,
        }
    }

    capabilities! {
        /// It retains at most [`Limits::messages`] of a log, and drops the oldest.
        by_count,
        /// It retains at most [`Limits::bytes`] of a log, and drops the oldest. It may count more
        /// than the payload of a message.
        by_bytes,
        /// It retains messages for [`Limits::age`]. A [sweep](TopicStore::sweep) drops older ones.
        by_age,
        /// It [closes](TopicStore::close) logs.
        closing,
        /// It [counts](TopicStore::topics) the topics with a log.
        counting,
        /// It has at most [`Limits::topics`] logs.
        limiting,
        /// It keeps the latest message of each key ([`TopicStore::append_latest`]).
        replacing,
        /// Its logs outlive its process: a message is kept once its append has ended.
        durable
    }

    /// Retention by count may keep up to this many further messages. Default: 0.
    #[must_use]
    pub const fn extra_messages(mut self, extra: u64) -> Self {
        self.extra = extra;
        self
    }

    /// After a kill, a topic may come back without messages and under a new epoch, even if its
    /// messages were acknowledged. For stores that cannot prove after a crash that nothing is lost.
    #[must_use]
    pub const fn new_epoch_after_kill(mut self) -> Self {
        self.anew = true;
        self
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::new()
    }
}

/// How long a case may wait, and how much the random cases do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub(super) bound: Duration,
    pub(super) seed: u64,
    pub(super) runs: usize,
    pub(super) steps: usize,
}

impl Options {
    /// The bound, unless it is set.
    pub const DEFAULT_BOUND: Duration = Duration::from_secs(120);

    /// 2 minutes without progress; 10 random runs of 150 steps from seed 1 on.
    pub const fn new() -> Self {
        Self { bound: Self::DEFAULT_BOUND, seed: 1, runs: 10, steps: 150 }
    }

    /// A case that makes no progress for this real time has failed. Default: 2 minutes.
    #[must_use]
    pub const fn bound(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// The seed of the first random run; the others have those after it. Default: 1. A failure
    /// names its seed.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The number of random runs of each random case. Default: 10.
    #[must_use]
    pub const fn runs(mut self, runs: usize) -> Self {
        self.runs = runs;
        self
    }

    /// The number of steps of each random run. Default: 150.
    #[must_use]
    pub const fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// The default store with these limits, for tests of stores that wrap it. It retains messages of
/// any age.
pub fn memory(limits: Limits) -> MemoryTopics {
    let topics = MemoryTopics::new(&Random::from_system());
    let retention = Retention { messages: limits.messages, bytes: limits.bytes };
    let bytes = limits.bytes.saturating_mul(limits.topics);
    topics.set_limits(retention, StoreLimits { topics: limits.topics, bytes });
    topics
}
