//! Topics: each is a log, and a subscription is a cursor into it (PROTOCOL.md, section 4).
//!
//! [`TopicStore`] is the one trait behind the topics, so that a file or a distributed engine can
//! own the logs; [`MemoryTopics`] is the default. [`Publisher`] is the handle that appends.

mod budget;
mod checked;
mod ended;
mod entry;
mod gate;
mod limits;
mod log;
mod memory;
mod publisher;
mod readers;

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::protocol::{Code, Cursor, Epoch, Position, Topic, Window};

pub(crate) use self::{
    checked::{check_read, check_window, checked_end, checked_published},
    limits::{Retention, StoreLimits},
};
pub use self::{memory::MemoryTopics, publisher::Publisher};

/// A boxed future, as the object-safe [`TopicStore`] needs it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Owns the logs of all topics.
///
/// No method may block; what takes time returns a pending future. What a store returns is checked
/// once. A wrong value, such as an invalid number or a line that is not a notification of the
/// topic, counts as [`Unavailable`]. It ends the subscription that read it, and no other. A server
/// calls [`append`](Self::append) for each message, and [`open`](Self::open) for each subscription.
pub trait TopicStore: Send + Sync + 'static {
    /// Adds a message to the log of `topic`; the first message creates the log.
    ///
    /// Messages of one topic are numbered in the order of the calls, not of the futures' first
    /// polls. The future ends once the message is as durable as the store promises. Its number is
    /// not given to a reader before that (identity). Dropping the future does not take the message
    /// back.
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>>;

    /// Returns a reader of the log of `topic`; dropping it deregisters it.
    ///
    /// A topic without a log can be opened, too, and costs nothing once the reader is gone. Its
    /// window names the epoch that the log will have. That epoch should stay the same for as long
    /// as nothing is published to the topic, because a subscriber that resumes under another epoch
    /// gets a reset.
    fn open(&self, topic: &Topic) -> Box<dyn TopicReader>;

    /// Whether `topic` has a log, or the limit on logs leaves room for one. Must be cheap. Default:
    /// yes.
    ///
    /// A `/subscribe` to any other topic is refused with `no busy`, because nothing could be
    /// published to it.
    fn has_room_for(&self, topic: &Topic) -> bool {
        let _ = topic;
        true
    }

    /// Drops what is not used. A server that serves calls it every half of
    /// [`ServerConfig::idle_log`](crate::ServerConfig::idle_log). It must not block.
    ///
    /// A log that is dropped has to go on with its next number, or come back under a new epoch
    /// (identity). Does nothing by default.
    fn sweep(&self) {}

    /// Ends the log of `topic`, for [`Publisher::close`]. Returns where it ended; `None` if there
    /// was no log.
    ///
    /// Readers get the remaining messages, and then [`Read::Closed`]. The log no longer counts
    /// among the [`topics`](Self::topics), and a later message begins a new one under a new epoch.
    ///
    /// # Errors
    /// [`Unavailable`], when the store does not close logs, as by default.
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
}

/// A subscription's view of one log.
///
/// A reader that panics counts as [`Unavailable`], and is not polled again.
pub trait TopicReader: Send {
    /// What the log holds now. The server asks when a subscription begins, and again before a
    /// subscription to the [latest](crate::Slow::Latest) message goes on.
    ///
    /// A server waits for it as long as for a handler
    /// ([`ServerConfig::handler_time`](crate::ServerConfig::handler_time)), and then refuses the
    /// subscription.
    ///
    /// # Errors
    /// [`Unavailable`] when the store cannot say: the subscription is refused, or ends.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>>;

    /// Does the cursor's next step. `Pending` at the head of the log; the next message then wakes
    /// `cx`.
    ///
    /// Either copies encoded lines from `cursor` on to the end of `out`, until `room` is used up
    /// (its bytes may be exceeded by one line, its lines by none). Or says why it cannot, and
    /// appends nothing. Each step moves the cursor. A reader has failed if its step does not move
    /// the cursor, or if it copies more lines than it may, or other lines than the next ones.
    ///
    /// # Errors
    /// [`Unavailable`] when the log cannot be read any more: the subscription ends.
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
    /// No line is begun once this many bytes were appended.
    pub bytes: usize,
    /// No more lines than this are appended; at least 1.
    pub lines: u64,
    /// The longest line the subscriber takes, LF included, in bytes.
    pub max_line: usize,
}

impl Room {
    /// Room for so much, for tests of stores.
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
        /// Why: `retention` or `too-large`.
        reason: Code,
    },
    /// Nothing was appended: the topic has another log, of another epoch, which begins here.
    Reset(Position),
    /// Nothing was appended: the cursor is at the end of a log that was closed. The subscription
    /// ends.
    Closed,
}

/// The number of a message that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Published {
    /// The identity of the topic's log.
    pub epoch: Epoch,
    /// The message's own number in it.
    pub sequence: u64,
}

impl Published {
    /// What your own store returns.
    pub const fn new(epoch: Epoch, sequence: u64) -> Self {
        Self { epoch, sequence }
    }

    /// The position of a reader that has seen it; `None` after the last number of an epoch.
    pub(crate) fn seen(self) -> Option<Position> {
        let next = self.sequence.saturating_add(1);
        Some(Position { epoch: self.epoch, next }).filter(|position| position.is_sendable())
    }
}

/// Why a message was not published. Nothing was appended, except after
/// [`Unavailable`](Self::Unavailable), where it may have been.
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
    /// As many topics have a log as the server's limit allows, or the log of this topic has used up
    /// its numbers, which end at 2^53-2.
    TooMany,
    /// The server has stopped: no subscriber would get it.
    Closed,
    /// The store failed.
    Unavailable(Unavailable),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidTopic => f.write_str("not a topic name"),
            Self::TooLarge { max_line } => {
                write!(f, "notification would be longer than {max_line} bytes")
            }
            Self::TooMany => f.write_str("too many topics, or no number left in this one"),
            Self::Closed => f.write_str("the server has stopped"),
            Self::Unavailable(unavailable) => unavailable.fmt(f),
        }
    }
}

impl std::error::Error for PublishError {
    /// What the store said, if it was the store that failed.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unavailable(unavailable) => Some(unavailable),
            _ => None,
        }
    }
}

/// A store failed. The text says why; it is for the log, and peers do not see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic store unavailable: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}
