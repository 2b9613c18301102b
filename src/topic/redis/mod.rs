//! Topics in Redis or Valkey, with the feature `redis`: logs that several servers share.
//!
//! [`RedisTopics`] is a [`TopicStore`] for any number of servers. Each publishes to the same logs
//! and delivers from them, so a client may reconnect to any of them and resume.
//!
//! ```no_run
//! use bellwire::{Router, Server, topic::redis::RedisTopics};
//!
//! # async fn run(router: Router) -> Result<(), Box<dyn std::error::Error>> {
//! let topics = RedisTopics::connect("redis://127.0.0.1/").await?;
//! let server = Server::bind("127.0.0.1:7440").await?.topics(topics.clone());
//! server.serve(router).await?;
//! topics.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! Redis 7, Valkey 7.2, or later is needed: one server, perhaps with replicas. After a failover the
//! URL has to lead to the new master, or [sentinels](RedisConfig::sentinels) or the nodes of a
//! [cluster](RedisConfig::cluster) do. In a cluster all keys of a store have one hash tag, so one
//! master has them, and more nodes carry no more of its load. With the feature `tls`, URLs may begin
//! with `rediss`; if the process has no default `CryptoProvider` of rustls then, the store installs
//! that of ring.
//!
//! # What survives what
//!
//! An *epoch* ends whenever Redis may have lost messages that it had acknowledged. Clients get a
//! reset then, and no (topic, epoch, number) ever names two messages.
//!
//! | what happens | published messages | subscribers |
//! |---|---|---|
//! | a bellwire server ends or is killed | stay | resume at another one without a gap |
//! | a connection to Redis is lost | stay | get all messages once it is back |
//! | Redis stops to answer | stay; publishing is refused with [`PublishError::Busy`] | wait |
//! | Redis restarts, whether it had saved the data or not | every topic begins a new epoch | reset |
//! | a replica is promoted, whether it has all messages or not | the same | reset |
//! | the slot of the store moves to another master of the cluster | the same | reset |
//! | the first replica since the start of the master connects: Redis takes another replication id | the same | reset |
//! | no replica for the time of `repl-backlog-ttl`, if that is not 0 | the same | reset |
//! | the stream of one topic is lost: `DEL`, eviction | those of this topic are gone | an exact gap |
//! | the key `heads` is lost: `DEL`, eviction, `FLUSHALL` | all are gone | reset |
//! | another `maxmemory-policy`, and the memory is full | as one of the two rows above | a gap or a reset |
//! | a full memory, with `maxmemory-policy noeviction` | [`PublishError::Busy`] until there is room | go on |
//!
//! # How Redis has to be set up
//!
//! - `repl-backlog-ttl 0`. Redis names the history of its data by a *replication id*, and an epoch
//!   ends with it. By default a master that had no replica for an hour takes another id, although
//!   nothing is lost.
//! - `maxmemory-policy noeviction`. Any other policy may drop all topics at once.
//! - `client-output-buffer-limit pubsub` at least as large as what a server may be behind, 32 MiB by
//!   default. Redis cuts the connection of a server that is further behind; nothing is lost by
//!   that.
//! - The user of this store needs the commands `EVALSHA`, `SCRIPT`, `INFO`, `HKEYS`, `PING`,
//!   `SUBSCRIBE` and `UNSUBSCRIBE`, and those of the scripts: `EXISTS`, `HDEL`, `HGET`, `HLEN`,
//!   `HSCAN`, `HSET`, `PEXPIRE`, `PUBLISH`, `RENAME`, `TIME`, `UNLINK`, `XADD`, `XDEL`, `XLEN`,
//!   `XRANGE`, `XREVRANGE` and `XTRIM`, on keys and channels that begin with
//!   [`prefix`](RedisConfig::prefix).
//!
//! # How it works
//!
//! | key | type | content |
//! |---|---|---|
//! | `PREFIX{0}:heads` | hash | the replication id, and the epoch and next number of each log |
//! | `PREFIX{0}:notes` | hash | where topics go on that have no log now |
//! | `PREFIX{0}:log:TOPIC` | stream | the messages, under ids that begin with their number |
//! | `PREFIX{0}:latest:TOPIC` | hash | the id of the latest message of each key, if messages have keys |
//! | `PREFIX{0}:producer:ID` | hash | the last number of a producer in each topic, and where that message is |
//! | `PREFIX{0}:closed:TOPIC:EPOCH` | stream | the same for 10 min after the log was closed |
//! | `PREFIX{0}:keyed` | hash | the keyed requests of [`RedisKeys`](crate::server::keys::RedisKeys) |
//!
//! One Lua script does each operation, and Redis runs nothing else meanwhile. Messages that wait
//! are sent together, up to 1,024 or 1 MiB, and the next ones after the answer. Each script begins
//! with the replication id: if that is another one, all epochs end. The script that appends also
//! announces the messages in a channel with the name of the stream. Each server subscribes to the
//! channels of the topics that have subscribers there, and keeps the newest messages in memory.
//! Subscribers that are further behind, and holes between announcements, are read from Redis, in
//! steps of 16 KiB. Redis does not repeat announcements. So a server compares the ends of the logs
//! when it subscribes to their channels, after each loss of that connection, and every
//! [`check_every`](RedisConfig::check_every).
//!
//! A message with a key ([`Publisher::publish_latest`](crate::Publisher::publish_latest)) removes
//! the one with the same key from the stream. Only the script removes single messages, and `heads`
//! has the number up to which messages left for other reasons. So a gap has the reason `replaced`
//! only for messages that were replaced. If the hash `latest` is lost alone, older messages stay.
//! A stream consists of nodes of up to 100 messages or 4 KiB, by default, and Redis gives the memory
//! of a node back once all its messages have left.

mod census;
mod command;
mod config;
mod connection;
mod error;
mod keys;
mod link;
mod listener;
mod names;
mod notice;
mod reader;
mod remote;
mod resets;
mod source;
mod writer;

use std::fmt;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::keys::{Beat, KeyBegin, KeyScripts, KeyState, NotBegun};
use self::{
    census::Census,
    command::{Append, Command},
    connection::{Connection, Once},
    link::{Link, State, ended},
    listener::Listener,
    reader::RedisReader,
    remote::Remote,
    source::Source,
    writer::Writer,
};
pub use self::{config::RedisConfig, error::ConnectError};
use super::{
    BoxFuture, PublishError, Published, TopicReader, TopicStats, TopicStore, Unavailable,
    births::Births, limits::Retention, tail::Tail,
};
use crate::{
    coop::consume_budget,
    protocol::{DEFAULT_MAX_LINE, Position, Topic, encode},
    sync::{Arc, AtomicUsize},
};

/// A [`TopicStore`] in Redis or Valkey. Cheap to clone. See the [module](self).
///
/// Its tasks end when the last clone is dropped and all messages were sent;
/// [`shutdown`](Self::shutdown) waits for that.
#[derive(Clone)]
pub struct RedisTopics(Arc<Handle>);

/// Ends the tasks when it is dropped.
struct Handle {
    tail: Arc<Tail<Remote>>,
    queue_bytes: usize,
}

impl RedisTopics {
    /// Connects with the defaults of [`RedisConfig`]. The URL is
    /// `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`, the same with `rediss` for TLS, or
    /// `unix://[USER[:PASSWORD]@]PATH`. It has to be called within a tokio runtime, which runs the
    /// tasks of the store.
    ///
    /// # Errors
    /// [`ConnectError`]: the URL is invalid, or Redis cannot be reached, or is too old. Later losses
    /// of the connection are no errors.
    ///
    /// # Cancel safety
    /// If the future is dropped, the connection is closed.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::connect_with(url, RedisConfig::new()).await
    }

    /// Connects with these settings.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    pub async fn connect_with(url: &str, config: RedisConfig) -> Result<Self, ConnectError> {
        let source = Source::new(url, &config);
        let source = source.map_err(|error| ConnectError::Url(error.to_string()))?;
        let connection = Connection::open(&source, &config).await?;
        let unreachable = |failure: error::Failure| ConnectError::Unreachable(failure.why().into());
        let heads = connection.heads(&[]).await.map_err(unreachable)?;
        let census = Census::new(config.topics);
        let none = std::iter::empty();
        census.learn(&connection, heads.count, none, None).await.map_err(unreachable)?;
        Ok(start(Arc::new(source), config, connection, census))
    }

    /// Publishes a message once, whatever happens to the connection to Redis. `number` is the
    /// application's own number of the message, which rises with each message that `producer`
    /// publishes to `topic`. If the outcome is [`PublishError::Unavailable`], repeat the call with
    /// the same arguments: if the message was appended, the result is its number in the log, and it
    /// is not appended again.
    ///
    /// ```no_run
    /// # use bellwire::{PublishError, Published, topic::redis::RedisTopics};
    /// # async fn publish(topics: RedisTopics) -> Result<Published, PublishError> {
    /// loop {
    ///     match topics.publish_once("billing", 4711, "invoices", "paid").await {
    ///         // It may have been appended.
    ///         Err(PublishError::Unavailable(_)) => {}
    ///         // It was not, and Redis may be back soon.
    ///         Err(PublishError::Busy(_)) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
    ///         outcome => return outcome,
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// Redis knows the last number of each producer and topic, for the time
    /// [`RedisConfig::remember`], and until an epoch ends because messages may have been lost. A
    /// message that may have been lost in this way is appended again, under the new epoch. A
    /// producer is one task, or several that agree on the numbers. The messages are sent one by
    /// one, not together. Lines of up to 65,535 bytes are accepted.
    ///
    /// # Errors
    /// As [`Publisher::publish`](crate::Publisher::publish); [`PublishError::Outdated`] if the
    /// producer has published a later number to the topic.
    ///
    /// # Cancel safety
    /// Once the future was polled, the message may be published even if the future is dropped. The
    /// call may be repeated.
    pub async fn publish_once(
        &self,
        producer: &str,
        number: u64,
        topic: impl TryInto<Topic>,
        payload: impl Into<Bytes>,
    ) -> Result<Published, PublishError> {
        let topic = topic.try_into().map_err(|_| PublishError::InvalidTopic)?;
        let payload = payload.into();
        if !encode::notification_fits(&topic, &payload, DEFAULT_MAX_LINE) {
            return Err(PublishError::TooLarge { max_line: DEFAULT_MAX_LINE });
        }
        let once = Once { producer: producer.to_owned(), number };
        let published = self.queue(&topic, None, payload, Some(once)).await;
        consume_budget().await;
        published
    }

    fn queue(
        &self,
        topic: &Topic,
        key: Option<Bytes>,
        payload: Bytes,
        once: Option<Once>,
    ) -> BoxFuture<Result<Published, PublishError>> {
        let (done, published) = oneshot::channel();
        let append = Append { topic: topic.clone(), key, payload, once, done };
        match self.0.tail.archive.queue(append, self.0.queue_bytes) {
            Ok(()) => Box::pin(async {
                let lost = |_| Err(PublishError::Unavailable(ended()));
                published.await.unwrap_or_else(lost)
            }),
            Err(busy) => Box::pin(std::future::ready(Err(PublishError::Busy(busy)))),
        }
    }

    /// Sends what was published, and closes the connections. Messages that are published later are
    /// refused with [`PublishError::Busy`]. Readers go on with what is in memory.
    ///
    /// # Cancel safety
    /// The connections are closed even if the future is dropped after its first poll.
    pub async fn shutdown(&self) {
        let (done, stopped) = oneshot::channel();
        // It may have been closed before.
        let _ = self.0.tail.archive.link.send(Command::Stop(Some(done)));
        consume_budget().await;
        let _ = stopped.await;
    }
}

/// Starts the tasks.
fn start(
    source: Arc<Source>,
    config: RedisConfig,
    connection: Connection,
    census: Census,
) -> RedisTopics {
    let (commands, commanded) = mpsc::unbounded_channel();
    let (orders, ordered) = mpsc::unbounded_channel();
    let state = watch::Sender::new(State::Up(connection.clone()));
    let link = Arc::new(Link { state, commands });
    let (unknown, queued) = (config.random.next_epoch(), AtomicUsize::new(0));
    let remote = Remote { link, orders, census, unknown, queued };
    let births = Births::new(unknown, &config.random);
    let retention = Retention { messages: usize::MAX, bytes: config.tail_bytes };
    let bytes = config.tail_bytes_total;
    let tail = Arc::new(Tail::new(remote, births, retention, bytes, config.topics));
    let listener = Listener::new(tail.clone(), source.clone(), config.clone(), ordered);
    tokio::spawn(listener.run());
    let queue_bytes = config.queue_bytes;
    let writer = Writer { tail: tail.clone(), source, config, commands: commanded, next: None };
    tokio::spawn(writer.run(connection));
    RedisTopics(Arc::new(Handle { tail, queue_bytes }))
}

impl TopicStore for RedisTopics {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        self.queue(topic, None, payload, None)
    }

    fn append_latest(
        &self,
        topic: &Topic,
        key: Bytes,
        payload: Bytes,
    ) -> BoxFuture<Result<Published, PublishError>> {
        self.queue(topic, Some(key), payload, None)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        Box::new(RedisReader::new(self.0.tail.clone(), topic))
    }

    fn has_room_for(&self, topic: &Topic) -> bool {
        self.0.tail.archive.census.has_room_for(topic)
    }

    fn sweep(&self) {
        // After the end there is nothing to sweep.
        let _ = self.0.tail.archive.link.send(Command::Sweep);
    }

    fn close(&self, topic: &Topic) -> BoxFuture<Result<Option<Position>, Unavailable>> {
        let (done, closed) = oneshot::channel();
        match self.0.tail.archive.link.send(Command::Close(topic.clone(), done)) {
            Ok(()) => Box::pin(async { closed.await.unwrap_or_else(|_| Err(ended())) }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn topics(&self) -> usize {
        self.0.tail.archive.census.count()
    }

    /// Those that have subscribers at this server. Until Redis has said where a topic is, its next
    /// number is 1 here.
    fn topic_stats(&self) -> Vec<TopicStats> {
        self.0.tail.stats(|_, state| state.log.end().next > 1)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // It may have been stopped before.
        let _ = self.tail.archive.link.send(Command::Stop(None));
    }
}

impl fmt::Debug for RedisTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisTopics")
    }
}
