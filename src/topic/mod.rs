//! Topics: each is a log, and a subscription is a cursor into it (PROTOCOL.md, section 4).
//!
//! [`TopicStore`] is the one trait behind the topics, so that a file or a distributed engine can
//! store the logs; [`MemoryTopics`] is the default. [`Publisher`] is the handle that appends.

mod births;
mod budget;
mod checked;
mod compacted;
mod confirmations;
mod ended;
mod entry;
mod gate;
mod limits;
mod log;
mod memory;
mod publisher;
mod readers;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "store-suite")]
pub mod suite;
#[cfg(any(feature = "redis", feature = "sqlite"))]
mod tail;

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::protocol::{Code, Cursor, Epoch, Position, Topic, Window};

pub(crate) use self::{
    checked::{check_read, check_window, checked_end, checked_published},
    confirmations::{Confirmations, Subscriber},
    limits::{Retention, StoreLimits},
};
pub use self::{memory::MemoryTopics, publisher::Publisher};

/// A boxed future, which keeps [`TopicStore`] object-safe.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Owns the logs of all topics.
///
/// With the feature `store-suite`,
#[cfg_attr(feature = "store-suite", doc = "[`topic::suite`](crate::topic::suite)")]
#[cfg_attr(not(feature = "store-suite"), doc = "`topic::suite`")]
/// checks a store of your own against this contract.
///
/// No method may block. A method that takes time returns a pending future. The server checks what a
/// store returns, once. A wrong value, such as an invalid number or a line that is not a
/// notification of the topic, counts as [`Unavailable`] and ends only the subscription that read
/// it. A server calls [`append`](Self::append) for each message, and [`open`](Self::open) for each
/// subscription.
pub trait TopicStore: Send + Sync + 'static {
    /// Adds a message to the log of `topic`; the first message creates the log.
    ///
    /// Messages of one topic are numbered from 1 on without a hole, in the order of the calls, not
    /// of the futures' first polls. The future ends once the message is as durable as the store
    /// promises. Readers must not get its number before that (identity). From then on every window
    /// holds the message. Dropping the future, even before its first poll, does not take the
    /// message back.
    ///
    /// A log may drop its oldest messages. The newest message stays, whatever its size: a subscriber
    /// that keeps up gets it.
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>>;

    /// As [`append`](Self::append), and the message takes the place of the one with the same `key`:
    /// the log holds the latest message of each key, besides messages without a key. Readers get a
    /// gap with the reason `replaced` for numbers whose messages are not held any more because of
    /// that. For [`Publisher::publish_latest`].
    ///
    /// # Errors
    /// [`PublishError::Unsupported`] if the store does not know keys, which is the default.
    fn append_latest(
        &self,
        topic: &Topic,
        key: Bytes,
        payload: Bytes,
    ) -> BoxFuture<Result<Published, PublishError>> {
        let (_, _, _) = (topic, key, payload);
        Box::pin(std::future::ready(Err(PublishError::Unsupported)))
    }

    /// Returns a reader of the log of `topic`. Dropping the reader deregisters it.
    ///
    /// A topic without a log can be opened, too, and costs nothing once the reader is dropped. Its
    /// window names the epoch that the log will have. That epoch should stay the same until the
    /// first message is published, because a subscriber that resumes under another epoch gets a
    /// reset.
    fn open(&self, topic: &Topic) -> Box<dyn TopicReader>;

    /// Whether `topic` has a log, or the limit on logs leaves room for one. It must be cheap.
    /// Default: true.
    ///
    /// A `/subscribe` to any other topic is refused with `no busy`, because nothing could be
    /// published to it.
    fn has_room_for(&self, topic: &Topic) -> bool {
        let _ = topic;
        true
    }

    /// Drops unused logs: those without readers. A running server calls it every half of
    /// [`ServerConfig::idle_log`](crate::ServerConfig::idle_log). It must not block.
    ///
    /// A log that is dropped must go on with its next number, or come back under a new epoch
    /// (identity). Does nothing by default.
    fn sweep(&self) {}

    /// Ends the log of `topic`, for [`Publisher::close`]. Returns where it ended; `None` if there
    /// was no log.
    ///
    /// Readers get the remaining messages, and then [`Read::Closed`]. Those that wait at the head
    /// are woken. The log no longer counts among the [`topics`](Self::topics), and a later message
    /// begins a new one under a new epoch, from number 1 on. Readers of the closed log get nothing
    /// of the new one.
    ///
    /// # Errors
    /// [`Unavailable`] if the store does not close logs, which is the default.
    fn close(&self, topic: &Topic) -> BoxFuture<Result<Option<Position>, Unavailable>> {
        let _ = topic;
        let cannot = Unavailable("it does not close logs".into());
        Box::pin(std::future::ready(Err(cannot)))
    }

    /// How many topics have a log, for [`ServerStats`](crate::ServerStats). It must be cheap.
    /// Default: 0, for a store that does not count.
    fn topics(&self) -> usize {
        0
    }

    /// The topics that have a log, in no particular order, for
    /// [`ServerHandle::topics`](crate::ServerHandle::topics). It may take time in proportion to
    /// them, and must not block. Default: none, for a store that does not list them.
    ///
    /// A store whose logs are shared by several servers may list only those that this server
    /// follows.
    fn topic_stats(&self) -> Vec<TopicStats> {
        Vec::new()
    }
}

/// What a store holds of one topic, from [`ServerHandle::topics`](crate::ServerHandle::topics).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicStats {
    /// The topic, which has a log.
    pub topic: Topic,
    /// The position after the last message that this server knows of. Within an epoch, the number
    /// grows by one with each message.
    pub end: Position,
    /// Bytes of the log that this process holds in memory: encoded lines, and 16 bytes for each.
    pub retained_bytes: usize,
    /// How many readers the log has: the subscriptions at this server.
    pub subscribers: usize,
}

impl TopicStats {
    /// A value for your own store to return.
    pub const fn new(
        topic: Topic,
        end: Position,
        retained_bytes: usize,
        subscribers: usize,
    ) -> Self {
        Self { topic, end, retained_bytes, subscribers }
    }
}

/// A subscription's view of one log.
///
/// A reader that panics counts as [`Unavailable`], and is not polled again.
pub trait TopicReader: Send {
    /// Returns what the log holds now. The server calls it when a subscription begins, and again
    /// before a subscription to the [latest](crate::Slow::Latest) message goes on.
    ///
    /// A server waits for it as long as for a handler
    /// ([`ServerConfig::handler_time`](crate::ServerConfig::handler_time)), and then refuses the
    /// subscription.
    ///
    /// # Errors
    /// [`Unavailable`] if the store cannot tell. The subscription is refused, or ends.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>>;

    /// Does the cursor's next step. `Pending` at the head of the log; the next message then wakes
    /// `cx`. Only the waker of the last poll has to be woken, and once is enough.
    ///
    /// A cursor of another epoch gets [`Read::Reset`]. A cursor that the log has not reached yet
    /// gets neither lines nor a gap: the reader is pending, or unavailable.
    ///
    /// The reader either copies encoded lines from `cursor` on to the end of `out`, until `room` is
    /// used up, or returns why it cannot and appends nothing. It may exceed the bytes of `room` by
    /// one line, but never its lines. Each step moves the cursor. A reader has failed if its step
    /// does not move the cursor, or if it copies more lines than it may, or other lines than the
    /// next ones.
    ///
    /// # Errors
    /// [`Unavailable`] if the log cannot be read any more. The subscription ends.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>>;
}

/// How much a reader may copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Room {
    /// The reader begins no line after it has appended this many bytes.
    pub bytes: usize,
    /// The reader appends at most this many lines; at least 1.
    pub lines: u64,
    /// The longest line that the subscriber accepts, LF included, in bytes.
    pub max_line: usize,
}

impl Room {
    /// Room of this size, for tests of stores.
    pub const fn new(bytes: usize, lines: u64, max_line: usize) -> Self {
        Self { bytes, lines, max_line }
    }
}

/// What one call of [`TopicReader::poll_read`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Read {
    /// The lines from the cursor up to this number were appended.
    Copied {
        /// The last number appended.
        last: u64,
    },
    /// Nothing was appended: the numbers from the cursor up to this one cannot be delivered.
    Gap {
        /// The last number to be named.
        last: u64,
        /// The reason: `retention`, `replaced` or `too-large`.
        reason: Code,
    },
    /// Nothing was appended: the topic has another log, of another epoch, which begins here. It is
    /// number 1, so that a gap names what the log has dropped.
    Reset(Position),
    /// Nothing was appended: the cursor is at the end of a log that was closed. The subscription
    /// ends.
    Closed,
}

/// The number of a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Published {
    /// The identity of the topic's log.
    pub epoch: Epoch,
    /// The message's own number in it.
    pub sequence: u64,
}

impl Published {
    /// A value for your own store to return.
    pub const fn new(epoch: Epoch, sequence: u64) -> Self {
        Self { epoch, sequence }
    }

    /// The position behind the message, which is that of a reader that has received it. `None`
    /// after the last number of an epoch, because no position follows it.
    ///
    /// [`Subscribe::from`](crate::Subscribe::from) takes it, to read what is published later, and
    /// [`Progress::seen`](crate::Progress::seen) waits until a subscription has received the
    /// message.
    ///
    /// ```
    /// use bellwire::{Published, protocol::Epoch};
    ///
    /// let published = Published::new(Epoch::new("k3f9").unwrap(), 17);
    /// assert_eq!(published.position().unwrap().to_string(), "k3f9:18");
    /// ```
    pub fn position(self) -> Option<Position> {
        let next = self.sequence.saturating_add(1);
        Some(Position { epoch: self.epoch, next }).filter(|position| position.is_sendable())
    }
}

/// What is known of a message that [`Publisher::publish_confirmed`] has published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Confirmed {
    /// The message's number.
    pub published: Published,
    /// How many of the subscribers have acknowledged it.
    pub acknowledged: usize,
    /// How many subscribers with a window the topic had when the call began.
    pub subscribers: usize,
}

/// Why a message was not published.
///
/// | error | was it appended? | answer to `/publish` |
/// |---|---|---|
/// | [`InvalidTopic`](Self::InvalidTopic) | no | `no bad-arguments` |
/// | [`TooLarge`](Self::TooLarge) | no | `no too-large` |
/// | [`TooMany`](Self::TooMany) | no | `no too-many` |
/// | [`Busy`](Self::Busy) | no; try again later | `no busy` |
/// | [`Closed`](Self::Closed) | no | `no closing` |
/// | [`Outdated`](Self::Outdated) | perhaps, by an earlier call | does not occur; `cut lost` |
/// | [`Unsupported`](Self::Unsupported) | no | does not occur; `no busy` |
/// | [`Unavailable`](Self::Unavailable) | perhaps | `cut lost` |
///
/// A handler that publishes turns it into a failure with a code of the application. The text of
/// `Unavailable` is for your logs, so do not send it:
///
/// ```
/// use bellwire::{Failure, PublishError, Publisher, protocol::Code};
///
/// fn failure(error: PublishError) -> Failure {
///     let (code, text) = match error {
///         PublishError::InvalidTopic => ("bad-topic", "not a topic"), // the caller's mistake
///         PublishError::TooLarge { .. } => ("too-large", "the message is too long"), // likewise
///         PublishError::TooMany => ("too-many", "no room for the topic"), // perhaps later
///         PublishError::Busy(_) => ("busy", "the store is busy"), // try again later
///         PublishError::Closed => ("stopping", "the server stops"), // try again elsewhere
///         _ => ("unknown", "it may have been published"), // find out before you try again
///     };
///     Failure::new(Code::from_static(code), text)
/// }
///
/// async fn add(publisher: Publisher, offer: String) -> Result<(), Failure> {
///     publisher.publish("offers", offer).await.map_err(failure)?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic's name is invalid.
    InvalidTopic,
    /// The notification's line would be over `max-line`.
    TooLarge {
        /// The limit, LF included, in bytes.
        max_line: usize,
    },
    /// The number of topics with a log has reached the server's limit, or the log of this topic has
    /// used up its numbers, which end at 2^53-2. Such a topic accepts messages again after
    /// [`Publisher::close`], under a new epoch.
    TooMany,
    /// The server has stopped, so no subscriber would get the message.
    Closed,
    /// The store did not accept the message now, and it was not appended. Try again later. A store
    /// returns it only if it can prove that: a message that may still be appended is
    /// [`Unavailable`](Self::Unavailable).
    Busy(Unavailable),
    /// The producer has published a later number to the topic. This message may have been appended
    /// before, and was not appended now. Do not repeat the call. Only
    /// `RedisTopics::publish_once` returns it.
    Outdated,
    /// The store cannot keep the latest message of each key
    /// ([`Publisher::publish_latest`]). The stores of this crate can.
    Unsupported,
    /// The store failed.
    Unavailable(Unavailable),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidTopic => f.write_str(Topic::INVALID),
            Self::TooLarge { max_line } => {
                write!(f, "the notification would exceed the limit of {max_line} bytes")
            }
            Self::TooMany => f.write_str(
                "the server has too many topics, or this one has no number left until it is closed",
            ),
            Self::Closed => f.write_str("the server has stopped"),
            Self::Outdated => f.write_str("the producer has published a later number"),
            Self::Unsupported => {
                f.write_str("the topic store cannot keep the latest message of each key")
            }
            Self::Busy(Unavailable(why)) => write!(f, "not published, try again later: {why}"),
            Self::Unavailable(unavailable) => unavailable.fmt(f),
        }
    }
}

impl std::error::Error for PublishError {
    /// The store's error, if the store failed or was busy.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Busy(unavailable) | Self::Unavailable(unavailable) => Some(unavailable),
            _ => None,
        }
    }
}

/// A store failed. The text says why. It is logged, and peers do not see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic store unavailable: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}
