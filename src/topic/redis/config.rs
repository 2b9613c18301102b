//! The settings and bounds of a store in Redis.

use std::{fmt, time::Duration};

use crate::random::Random;

/// The longest time of a setting, because Redis and timers know no end.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The most messages of a setting: numbers of a script have 53 bits.
const MOST: usize = (usize::MAX >> 11) + 1;

/// The settings and bounds of [`RedisTopics`](super::RedisTopics). Each method replaces a default.
/// All servers that share topics should have the same limits, because each append enforces those of
/// its server.
///
/// ```
/// use std::time::Duration;
/// use bellwire::topic::redis::RedisConfig;
///
/// let config = RedisConfig::new()
///     .prefix("shop")
///     .retained_bytes(4 << 20)
///     .expiry(Some(Duration::from_secs(24 * 3600)));
/// ```
#[derive(Clone)]
pub struct RedisConfig {
    pub(super) prefix: String,
    pub(super) retained_messages: usize,
    pub(super) retained_bytes: usize,
    pub(super) expiry: Option<Duration>,
    pub(super) topics: usize,
    pub(super) tail_bytes: usize,
    pub(super) tail_bytes_total: usize,
    pub(super) queue_bytes: usize,
    pub(super) answer_within: Duration,
    pub(super) check_every: Duration,
    pub(super) reset_every: Duration,
    pub(super) remember: Duration,
    /// The URLs of sentinels, and their name for the master.
    pub(super) sentinels: (Vec<String>, String),
    /// In PEM.
    #[cfg(feature = "tls")]
    pub(super) roots: Option<Vec<u8>>,
    /// A certificate and its key, in PEM.
    #[cfg(feature = "tls")]
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) random: Random,
}

impl RedisConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            prefix: "bellwire".into(),
            retained_messages: 65_536,
            retained_bytes: 1 << 20,
            expiry: Some(Duration::from_secs(7 * 24 * 3600)),
            topics: 65_536,
            tail_bytes: 256 << 10,
            tail_bytes_total: 64 << 20,
            queue_bytes: 16 << 20,
            answer_within: Duration::from_secs(5),
            check_every: Duration::from_secs(5),
            reset_every: Duration::from_millis(1),
            remember: Duration::from_secs(24 * 3600),
            sentinels: Default::default(),
            #[cfg(feature = "tls")]
            roots: None,
            #[cfg(feature = "tls")]
            identity: None,
            random: Random::default(),
        }
    }

    /// What the names of all keys and channels begin with. Stores with different prefixes share
    /// nothing. It must not contain braces. Default: `bellwire`.
    ///
    /// Do not tell stores apart by the number of the database: channels belong to no database.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Messages that Redis keeps per topic, at least 1. The oldest leave first. Default: 65,536.
    #[must_use]
    pub fn retained_messages(mut self, messages: usize) -> Self {
        self.retained_messages = messages.clamp(1, MOST);
        self
    }

    /// Bytes of payload, and of the keys of messages, that Redis keeps per topic; the newest message
    /// always stays. Redis needs about 20 bytes more for each message, and for each key its bytes
    /// twice and about 80 more. Default: 1 MiB.
    #[must_use]
    pub fn retained_bytes(mut self, bytes: usize) -> Self {
        self.retained_bytes = bytes;
        self
    }

    /// After this time without a new message, all messages of a topic leave. `None` keeps them for
    /// ever; messages of epochs that have ended then stay, too, unless something new is published
    /// to their topics. Default: 7 days.
    #[must_use]
    pub fn expiry(mut self, expiry: Option<Duration>) -> Self {
        self.expiry = expiry.map(|expiry| expiry.clamp(Duration::from_millis(1), LONGEST));
        self
    }

    /// Topics with a log, of all servers together. The first message of a further topic is refused
    /// with [`PublishError::TooMany`](crate::PublishError::TooMany). Default: 65,536.
    #[must_use]
    pub fn topics(mut self, topics: usize) -> Self {
        self.topics = topics;
        self
    }

    /// Bytes of the newest messages that are kept in memory, for each topic with subscribers at
    /// this server. Subscribers that are not further behind do not read from Redis. Default:
    /// 256 KiB.
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

    /// Bytes of messages, with 128 bytes more for each, that wait to be sent to Redis. Further ones
    /// are refused with [`PublishError::Busy`](crate::PublishError::Busy). Default: 16 MiB.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// The time in which Redis has to answer. After that the connection is replaced, and messages
    /// without an answer are [`PublishError::Unavailable`](crate::PublishError::Unavailable). A
    /// connection has to be there within this time, or within 5 s if it is shorter. Default: 5 s.
    #[must_use]
    pub fn answer_within(mut self, time: Duration) -> Self {
        self.answer_within = time.min(LONGEST);
        self
    }

    /// How often the ends of all logs that have subscribers at this server are compared with what
    /// Redis has announced. A message whose announcement was lost arrives up to two such intervals
    /// later. Default: 5 s.
    #[must_use]
    pub fn check_every(mut self, interval: Duration) -> Self {
        self.check_every = interval.clamp(Duration::from_millis(1), LONGEST);
        self
    }

    /// The time between the resets of two topics. After a failover of Redis the subscribers of all
    /// topics are reset, and the clients may fetch the state of each topic again. So this happens to
    /// one topic after the other, in random order. A topic does not wait if it is subscribed to or
    /// resumed meanwhile. Default: 1 ms.
    #[must_use]
    pub fn reset_every(mut self, time: Duration) -> Self {
        self.reset_every = time.clamp(Duration::from_micros(1), LONGEST);
        self
    }

    /// For how long after its last message Redis knows the numbers of a producer; see
    /// [`publish_once`](super::RedisTopics::publish_once). Default: 1 day.
    #[must_use]
    pub fn remember(mut self, time: Duration) -> Self {
        self.remember = time.clamp(Duration::from_millis(1), LONGEST);
        self
    }

    /// Asks Redis Sentinel for the master each time that a connection is made. `urls` lead to the
    /// sentinels, which are asked in this order until one knows the master by `name`. Its host and
    /// port replace those of the URL that is given to
    /// [`connect_with`](super::RedisTopics::connect_with). Default: no sentinels.
    ///
    /// ```
    /// use bellwire::topic::redis::RedisConfig;
    ///
    /// let sentinels = ["redis://10.0.0.1:26379", "redis://10.0.0.2:26379"];
    /// let config = RedisConfig::new().sentinels(sentinels, "shop");
    /// ```
    #[must_use]
    pub fn sentinels(
        mut self,
        urls: impl IntoIterator<Item = impl Into<String>>,
        name: impl Into<String>,
    ) -> Self {
        self.sentinels = (urls.into_iter().map(Into::into).collect(), name.into());
        self
    }

    /// The certificates, in PEM, one of which has to have signed that of Redis, for URLs with
    /// `rediss`. Default: those of the system.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// The certificate and the key of this client, in PEM, for URLs with `rediss`. Default: none.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The source of epochs and jitter. Servers that share topics must not have the same seed.
    /// Default: the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("prefix", &self.prefix)
            .field("retained_messages", &self.retained_messages)
            .field("retained_bytes", &self.retained_bytes)
            .field("expiry", &self.expiry)
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}
