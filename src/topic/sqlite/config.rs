//! The settings and bounds of a store in a file.

use std::{fmt, time::Duration, time::SystemTime};

use crate::{random::Random, sync::Arc};

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// A published message survives a power failure and a crash of the system: each commit waits
    /// for the disk (`synchronous=FULL`). The default.
    #[default]
    Power,
    /// A published message survives the end of the process, even by SIGKILL. A power failure or a
    /// crash of the system may lose the last messages. Every log then comes back under a new epoch,
    /// so that no number names two messages. Commits do not wait for the disk
    /// (`synchronous=NORMAL`). A crash of the system is recognized on Linux only; on other systems
    /// every start that does not follow an orderly end begins new epochs.
    Process,
}

/// The settings and bounds of [`SqliteTopics`](super::SqliteTopics). Each method replaces a
/// default.
///
/// ```
/// use std::time::Duration;
/// use bellwire::topic::sqlite::{Durability, SqliteConfig};
///
/// let config = SqliteConfig::new()
///     .durability(Durability::Process)
///     .retained_bytes(256 << 20)
///     .retained_age(Duration::from_secs(7 * 24 * 3600));
/// ```
#[derive(Clone)]
pub struct SqliteConfig {
    pub(super) durability: Durability,
    pub(super) retained_messages: u64,
    pub(super) retained_bytes: u64,
    pub(super) retained_age: Option<Duration>,
    pub(super) topics: usize,
    pub(super) file_bytes: u64,
    pub(super) tail_bytes: usize,
    pub(super) tail_bytes_total: usize,
    pub(super) queue_bytes: usize,
    pub(super) check: bool,
    pub(super) new_epochs: bool,
    pub(super) random: Random,
    pub(super) clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl SqliteConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            durability: Durability::default(),
            retained_messages: 1 << 20,
            retained_bytes: 64 << 20,
            retained_age: None,
            topics: 65_536,
            file_bytes: 16 << 30,
            tail_bytes: 256 << 10,
            tail_bytes_total: 64 << 20,
            queue_bytes: 16 << 20,
            check: true,
            new_epochs: false,
            random: Random::default(),
            clock: Arc::new(SystemTime::now),
        }
    }

    /// What a commit survives. Default: [`Durability::Power`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Messages that the file keeps per topic, at least 1. The oldest leave first. Default:
    /// 1,048,576.
    #[must_use]
    pub fn retained_messages(mut self, messages: u64) -> Self {
        self.retained_messages = messages.max(1);
        self
    }

    /// Bytes of payload, and of the keys of messages, that the file keeps per topic; the newest
    /// message always stays. Default: 64 MiB.
    #[must_use]
    pub fn retained_bytes(mut self, bytes: u64) -> Self {
        self.retained_bytes = bytes;
        self
    }

    /// How long the file keeps a message. Older ones leave at the latest a tenth of that time, or
    /// 1 s, later. Default: for ever.
    #[must_use]
    pub fn retained_age(mut self, age: Duration) -> Self {
        self.retained_age = Some(age);
        self
    }

    /// Topics with a log. The first message of a further topic is refused with
    /// [`PublishError::TooMany`](crate::PublishError::TooMany). Default: 65,536. Each takes about
    /// 500 bytes of memory.
    #[must_use]
    pub fn topics(mut self, topics: usize) -> Self {
        self.topics = topics;
        self
    }

    /// The size of the file, in bytes, rounded to pages of 4 KiB. At the limit, messages are
    /// refused with [`PublishError::Busy`](crate::PublishError::Busy), and requests with new keys
    /// with `no busy`, until older ones have left.
    /// The write-ahead log beside it may take 64 MiB more. Default: 16 GiB.
    #[must_use]
    pub fn file_bytes(mut self, bytes: u64) -> Self {
        self.file_bytes = bytes;
        self
    }

    /// Bytes of the newest messages that are kept in memory, per topic. Subscribers that are not
    /// further behind do not read the file. Default: 256 KiB.
    #[must_use]
    pub fn tail_bytes(mut self, bytes: usize) -> Self {
        self.tail_bytes = bytes;
        self
    }

    /// The same for all topics together. The oldest of all leave the memory first. Default:
    /// 64 MiB.
    #[must_use]
    pub fn tail_bytes_total(mut self, bytes: usize) -> Self {
        self.tail_bytes_total = bytes;
        self
    }

    /// Bytes of messages, with 128 bytes for each, that wait to be written. Further ones are refused with
    /// [`PublishError::Busy`](crate::PublishError::Busy). Default: 16 MiB.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Whether opening reads the whole file to check its structure, at some hundred MiB/s. Without
    /// it, damage is found when it is met. Payloads are verified when they are read, in any case.
    /// Default: true.
    #[must_use]
    pub fn check(mut self, check: bool) -> Self {
        self.check = check;
        self
    }

    /// Whether every log begins a new epoch, with the messages that it has. Set it once after the
    /// file was restored from a backup: messages that were published after the backup are gone,
    /// and their numbers must not be given out again. The table of keys gets another identity.
    /// Default: false.
    #[must_use]
    pub fn new_epochs(mut self, new_epochs: bool) -> Self {
        self.new_epochs = new_epochs;
        self
    }

    /// The source of epochs and identities. Default: the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// The time by which messages age, for tests. Default: the system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The time now, in milliseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        let since = (self.clock)().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Messages from before this time are to leave.
    pub(super) fn oldest(&self) -> Option<i64> {
        let age = i64::try_from(self.retained_age?.as_millis()).unwrap_or(i64::MAX);
        Some(self.now().saturating_sub(age))
    }
}

impl Default for SqliteConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SqliteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteConfig")
            .field("durability", &self.durability)
            .field("retained_messages", &self.retained_messages)
            .field("retained_bytes", &self.retained_bytes)
            .field("retained_age", &self.retained_age)
            .finish_non_exhaustive()
    }
}
