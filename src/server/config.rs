//! What a server allows: every bound in one struct.

use std::time::Duration;

use crate::{
    protocol::{DEFAULT_MAX_LINE, MAX_NUMBER, MIN_MAX_LINE},
    topic::Retention,
};

/// The limits of a server (PROTOCOL.md, section 12).
///
/// ```
/// use std::time::Duration;
/// use bellwire::ServerConfig;
///
/// let config = ServerConfig::new()
///     .lease(Duration::from_secs(20))
///     .in_flight(256)
///     .allow_publish(true);
/// # let _ = config;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    pub(super) max_line: usize,
    pub(super) in_flight: usize,
    pub(super) handler_time: Duration,
    pub(super) reply_mark: usize,
    pub(super) notification_mark: usize,
    pub(super) lease: Duration,
    pub(super) subscriptions: usize,
    pub(super) retained_messages: usize,
    pub(super) retained_bytes: usize,
    pub(super) topics: usize,
    pub(super) idle_log: Duration,
    pub(super) connections: usize,
    pub(super) drain: Duration,
    pub(super) allow_publish: bool,
    pub(super) auth_time: Duration,
    pub(super) auth_tries: u32,
    pub(super) max_line_before_auth: usize,
    pub(super) handshake_time: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_line: DEFAULT_MAX_LINE,
            in_flight: 1_024,
            handler_time: Duration::from_secs(30),
            reply_mark: 256 * 1024,
            notification_mark: 64 * 1024,
            lease: Duration::from_secs(60),
            subscriptions: 128,
            retained_messages: 1_024,
            retained_bytes: 1024 * 1024,
            topics: 65_536,
            idle_log: Duration::from_secs(600),
            connections: 10_000,
            drain: Duration::from_secs(10),
            allow_publish: false,
            auth_time: Duration::from_secs(10),
            auth_tries: 3,
            max_line_before_auth: 8 * 1024,
            handshake_time: Duration::from_secs(10),
        }
    }
}

impl ServerConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The longest line read and written, LF included, in bytes; 1,024 to
    /// [`MAX_NUMBER`](crate::protocol::MAX_NUMBER). Default 65,535.
    ///
    /// Worst case: twice as much per connection, one unfinished line and one that waits for a place.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = announced(bytes, MIN_MAX_LINE);
        self
    }

    /// Application requests in flight per connection, one-ways included; 1 to
    /// [`MAX_NUMBER`](crate::protocol::MAX_NUMBER). Default 1,024.
    ///
    /// Past it the connection is not read on until one has ended. Worst case: this many handlers,
    /// each with a payload of up to `max_line`.
    #[must_use]
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.in_flight = announced(requests, 1);
        self
    }

    /// How long a handler may take; a request's `ttl` may shorten it. Default 30 s.
    ///
    /// Past it the handler is dropped and the request is answered `cut deadline`.
    #[must_use]
    pub fn handler_time(mut self, time: Duration) -> Self {
        self.handler_time = time;
        self
    }

    /// Unwritten bytes per connection past which no application request is started and finished
    /// replies wait in their places. Default 256 KiB.
    ///
    /// Worst case: as much per connection, and one line more.
    #[must_use]
    pub fn reply_mark(mut self, bytes: usize) -> Self {
        self.reply_mark = bytes.max(1);
        self
    }

    /// Unwritten bytes per connection past which its subscriptions wait. Default 64 KiB.
    ///
    /// Below the mark for replies, notifications never hold up replies.
    #[must_use]
    pub fn notification_mark(mut self, bytes: usize) -> Self {
        self.notification_mark = bytes.max(1);
        self
    }

    /// How long subscriptions live without `/renew`; whole seconds, 1 to
    /// [`MAX_NUMBER`](crate::protocol::MAX_NUMBER). Default 60 s.
    #[must_use]
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = Duration::from_secs(time.as_secs().clamp(1, MAX_NUMBER));
        self
    }

    /// Subscriptions per connection. Default 128; past it `no too-many`.
    #[must_use]
    pub fn subscriptions(mut self, subscriptions: usize) -> Self {
        self.subscriptions = subscriptions;
        self
    }

    /// Messages retained per topic, at least 1. Default 1,024; past it the oldest leave.
    #[must_use]
    pub fn retained_messages(mut self, messages: usize) -> Self {
        self.retained_messages = messages.max(1);
        self
    }

    /// Bytes retained per topic, as encoded lines; one message always stays. Default 1 MiB.
    ///
    /// Worst case: twice as much per topic, since the ring grows by doubling.
    #[must_use]
    pub fn retained_bytes(mut self, bytes: usize) -> Self {
        self.retained_bytes = bytes;
        self
    }

    /// Topics with a log. Default 65,536; past it the publisher gets
    /// [`PublishError::TooMany`](crate::PublishError::TooMany).
    #[must_use]
    pub fn topics(mut self, topics: usize) -> Self {
        self.topics = topics;
        self
    }

    /// How long a log is kept that has neither subscribers nor new messages; at least 1 s. Default
    /// 10 min.
    ///
    /// Past it, and within half as much again, the log is dropped with all it retained. The topic
    /// comes back under a new epoch, which a subscriber that resumes is told (PROTOCOL.md, sections
    /// 11.1 and 11.2). Worst case meanwhile: [`topics`](Self::topics) logs, each of
    /// [`retained_bytes`](Self::retained_bytes).
    #[must_use]
    pub fn idle_log(mut self, time: Duration) -> Self {
        self.idle_log = time.max(Duration::from_secs(1));
        self
    }

    /// Connections at once. Default 10,000; past it a connection is told `busy` and closed.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How long a graceful shutdown lets handlers and writes finish. Default 10 s; past it what
    /// still runs is answered `cut closing`.
    #[must_use]
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// Whether clients may `/publish`. Default no: `no forbidden`. Without effect on a server with
    /// an [`Authorizer`](crate::server::Authorizer), which decides then.
    #[must_use]
    pub fn allow_publish(mut self, allow: bool) -> Self {
        self.allow_publish = allow;
        self
    }

    /// How long a peer has to `/auth`, from when it connected, where an
    /// [`Authenticator`](crate::server::Authenticator) is set. Default 10 s; past it the connection
    /// is told `/bye;last=0 unauthenticated` and closed, whatever the authenticator is about.
    #[must_use]
    pub fn auth_time(mut self, time: Duration) -> Self {
        self.auth_time = time;
        self
    }

    /// How many `/auth` of a connection may be refused, for whatever reason; at least 1. Default 3;
    /// with the last of them the connection is told `/bye;last=0 unauthenticated` and closed.
    #[must_use]
    pub fn auth_tries(mut self, tries: u32) -> Self {
        self.auth_tries = tries.max(1);
        self
    }

    /// The longest line read from a peer that has still to `/auth`, LF included, in bytes; at least
    /// 1,024. Default 8 KiB; the lesser of this and [`max_line`](Self::max_line) holds.
    ///
    /// Worst case: twice as much per connection that is not authenticated.
    #[must_use]
    pub fn max_line_before_auth(mut self, bytes: usize) -> Self {
        self.max_line_before_auth = bytes.max(MIN_MAX_LINE);
        self
    }

    /// How long the handshake of a [`Listener`](crate::Listener)'s transport may take, as that of
    /// TLS. Default 10 s; past it the connection is dropped. It counts as a connection meanwhile.
    #[must_use]
    pub fn handshake_time(mut self, time: Duration) -> Self {
        self.handshake_time = time;
        self
    }

    pub(super) fn retention(&self) -> Retention {
        Retention { messages: self.retained_messages, bytes: self.retained_bytes }
    }
}

/// A limit that `/hello` announces is a number of the protocol.
fn announced(limit: usize, least: usize) -> usize {
    limit.clamp(least, usize::try_from(MAX_NUMBER).unwrap_or(usize::MAX))
}
