//! The limits and settings of a server.

use std::time::Duration;

use crate::{
    io::SCRATCH,
    protocol::{DEFAULT_MAX_LINE, LineTime, MAX_NUMBER, MIN_MAX_LINE},
    server::buffered::LITTLE,
    tcp::UNSENT,
    topic::{Retention, StoreLimits},
};

/// A connection's own memory: its task, its session, its entries in tables.
const CONNECTION: usize = 1_536;
/// The memory of a subscription with the longest name and terms: its cursor, its waker and its
/// entries in tables; a window with the most runs, or a topic without a log; and its `/end` in a
/// buffer that grows by doubling. `worst_case_bytes_covers_the_measured_memory` in tests/memory.rs measures all
/// three.
const SUBSCRIPTION: usize = 2_304;
/// The memory of a log: its name, its line prefix, and the spare room of its rings.
const TOPIC: usize = 3 * 1024;

/// Every bound of a server, with its default (docs/protocol/limits.md, section 20).
///
/// Each setter has a getter, whose name is `get_` and the setter's name. It returns the value in
/// use, which the setter may have raised or lowered into its range.
///
/// # Settings that belong together
///
/// - [`lease`](Self::lease) and [`idle`](Self::idle): clients renew before 80 % of the lesser of
///   the two has passed. A short `idle` makes a long `lease` pointless.
/// - [`in_flight`](Self::in_flight), [`payload_bytes`](Self::payload_bytes) and
///   [`parked_bytes`](Self::parked_bytes): what one client may have running, by count and by bytes,
///   and what may wait behind that.
/// - [`reply_mark`](Self::reply_mark), [`notification_mark`](Self::notification_mark) and
///   [`write_progress`](Self::write_progress): what a client that reads slowly may have unread, and
///   how long it may read nothing.
/// - [`retained_bytes`](Self::retained_bytes) and
///   [`retained_bytes_total`](Self::retained_bytes_total): how far back a client can resume. With
///   many topics, the total decides.
/// - [`connections`](Self::connections), [`buffered_bytes_total`](Self::buffered_bytes_total) and
///   `retained_bytes_total` bound the memory of the server: see
///   [`worst_case_bytes`](Self::worst_case_bytes).
/// - [`grace`](Self::grace) and [`drain`](Self::drain): a graceful stop takes at most both plus
///   1 s. [`handler_time`](Self::handler_time) should be below `drain`, or the stop cuts handlers.
/// - [`auth_time`](Self::auth_time), [`auth_tries`](Self::auth_tries) and
///   [`max_line_before_auth`](Self::max_line_before_auth) apply only with an authenticator.
///
/// ```
/// use std::time::Duration;
/// use bellwire::ServerConfig;
///
/// let config = ServerConfig::new()
///     .lease(Duration::from_millis(20_500))
///     .in_flight(256)
///     .allow_publish(true);
/// assert_eq!(config.get_lease(), Duration::from_secs(20));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    pub(super) max_line: usize,
    pub(super) first_line: Duration,
    pub(super) line_time: LineTime,
    pub(super) write_progress: Duration,
    pub(super) idle: Option<Duration>,
    pub(super) tcp_user_timeout: Option<Duration>,
    pub(super) unsent_bytes: Option<usize>,
    pub(super) violations: u32,
    pub(super) violation_return: Duration,
    pub(super) in_flight: usize,
    pub(super) payload_bytes: usize,
    pub(super) parked_bytes: usize,
    pub(super) handler_time: Duration,
    pub(super) reply_mark: usize,
    pub(super) notification_mark: usize,
    pub(super) lease: Duration,
    pub(super) subscriptions: usize,
    pub(super) retained_messages: usize,
    pub(super) retained_bytes: usize,
    pub(super) retained_bytes_total: usize,
    pub(super) buffered_bytes_total: usize,
    pub(super) topics: usize,
    pub(super) idle_log: Duration,
    pub(super) keys: usize,
    pub(super) keys_bytes: usize,
    pub(super) key_time: Duration,
    pub(super) keyed_runs: usize,
    pub(super) connections: usize,
    pub(super) connections_per_address: Option<usize>,
    pub(super) grace: Duration,
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
            first_line: Duration::from_secs(10),
            line_time: LineTime { base: Duration::from_secs(10), bytes_per_second: 16 * 1024 },
            write_progress: Duration::from_secs(20),
            idle: Some(Duration::from_secs(120)),
            tcp_user_timeout: Some(Duration::from_secs(20)),
            unsent_bytes: Some(UNSENT),
            violations: 32,
            violation_return: Duration::from_secs(10),
            in_flight: 1_024,
            payload_bytes: 4 * 1024 * 1024,
            parked_bytes: 64 * 1024,
            handler_time: Duration::from_secs(30),
            reply_mark: 256 * 1024,
            notification_mark: 64 * 1024,
            lease: Duration::from_secs(60),
            subscriptions: 128,
            retained_messages: 65_536,
            retained_bytes: 1024 * 1024,
            retained_bytes_total: 256 * 1024 * 1024,
            buffered_bytes_total: 512 * 1024 * 1024,
            topics: 65_536,
            idle_log: Duration::from_secs(600),
            keys: 65_536,
            keys_bytes: 64 * 1024 * 1024,
            key_time: Duration::from_secs(300),
            keyed_runs: 1_024,
            connections: 10_000,
            connections_per_address: None,
            grace: Duration::from_secs(1),
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

    /// The longest line that is read and written, LF included, in bytes; 1,024 to
    /// [`MAX_NUMBER`](crate::protocol::MAX_NUMBER). Default 65,535.
    ///
    /// Worst case: twice as much per connection, for an unfinished line and for one at which
    /// reading has stopped.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = announced(bytes, MIN_MAX_LINE);
        self
    }

    /// The time until a client's first line is complete, from when the connection was accepted.
    /// Default 10 s.
    ///
    /// After that the connection is closed, and nothing is written. Worst case meanwhile:
    /// `max_line` bytes of that line.
    #[must_use]
    pub fn first_line(mut self, time: Duration) -> Self {
        self.first_line = time;
        self
    }

    /// The time for any later line, from its first byte until it is complete.
    /// [`line_rate`](Self::line_rate) adds to it for long lines. Default 10 s.
    ///
    /// After that the connection is closed, once what is in flight is answered. Time in which the
    /// server itself does not read does not count. Worst case meanwhile: `max_line` bytes.
    #[must_use]
    pub fn line_time(mut self, time: Duration) -> Self {
        self.line_time.base = time;
        self
    }

    /// A line gets one more second each time that this many bytes of it were received; at least 1.
    /// Default 16 KiB.
    ///
    /// Worst case: a line of the default `max_line` may take 14 s.
    #[must_use]
    pub fn line_rate(mut self, bytes_per_second: usize) -> Self {
        self.line_time.bytes_per_second = bytes_per_second.max(1);
        self
    }

    /// How long bytes may wait for a client that takes none of them. Default 20 s.
    ///
    /// After that the connection is dropped, and its handlers with it. This also applies while a
    /// connection finishes, drains and closes. Worst case meanwhile: twice `reply_mark`, and a
    /// line.
    ///
    /// A client that reads slowly takes bytes in steps, because its system reports free space only
    /// when there is enough of it: at least one segment, and a sixteenth of its receive buffer.
    /// Over Ethernet a step is a few KiB. Over loopback a segment has 64 KiB, and a step is up to
    /// 128 KiB: a client that reads 10 KB/s takes nothing for 13 s. The default is above that. For
    /// slower clients, raise this and [`tcp_user_timeout`](Self::tcp_user_timeout). Without
    /// [`unsent_bytes`](Self::unsent_bytes) a step is a third of everything that the system holds.
    #[must_use]
    pub fn write_progress(mut self, time: Duration) -> Self {
        self.write_progress = time;
        self
    }

    /// How long a client may send nothing at all; announced in `/hello`. In whole seconds, rounded
    /// down, from 1 to [`MAX_NUMBER`](crate::protocol::MAX_NUMBER); `None` for no limit. Default
    /// 120 s.
    ///
    /// After that the server sends `/bye idle`, and closes the connection once what is in flight is
    /// answered, within the time of a [`drain`](Self::drain). This limit does not save memory: an
    /// idle connection has no buffers.
    #[must_use]
    pub fn idle(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.idle = time.into().map(whole_seconds);
        self
    }

    /// How long the system of a TCP peer may leave unanswered what it is sent, and the probes of an
    /// idle connection. The probes begin after half of this time, and come at every quarter. In
    /// whole seconds, rounded down, from 4 to 65,534. `None` leaves it to the server's system,
    /// which may take hours. Default 20 s.
    ///
    /// After that the connection is lost, and its handlers with it. On Linux and Android this also
    /// happens when the peer's system answers, but takes none of the waiting bytes, so a longer
    /// [`write_progress`](Self::write_progress) has no effect there. Linux counts this time on
    /// while the peer's receive window is smaller than a waiting segment, even if the peer takes
    /// some bytes: a client that reads slowly through a receive buffer of a few KiB needs `None`
    /// here. On other systems it applies to the probes only. Worst case meanwhile: what any
    /// connection may hold. Your own [`Listener`](crate::Listener) has to
    /// [`prepare`](crate::Listener::prepare) its connections.
    #[must_use]
    pub fn tcp_user_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.tcp_user_timeout = time.into();
        self
    }

    /// Bytes of a connection that the system may hold unsent; at least 1. `None` leaves the
    /// system's own limit, which is several megabytes on Linux. Default 64 KiB.
    ///
    /// Beyond it, bytes wait in the connection, where [`reply_mark`](Self::reply_mark) and
    /// [`notification_mark`](Self::notification_mark) bound them, and where the newest state is
    /// known. So a reply does not wait behind megabytes of notifications. The limit is
    /// TCP_NOTSENT_LOWAT on Linux and Android, and SO_SNDBUF for Unix sockets. TCP on other systems
    /// has no such limit here. Bytes that were sent and are not yet acknowledged do not count, so
    /// the limit costs no throughput. Worst case: this and one segment of at most 64 KiB per
    /// connection, in the system's memory. Your own [`Listener`](crate::Listener) has to implement
    /// [`limit_unsent`](crate::Listener::limit_unsent).
    #[must_use]
    pub fn unsent_bytes(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.unsent_bytes = bytes.into().map(|bytes| bytes.max(1));
        self
    }

    /// Violations of the protocol that a connection may have: malformed lines, falling ids, faulty
    /// acks, faulty one-way requests, requests before `/auth` (docs/protocol/limits.md, section
    /// 20). Default 32.
    ///
    /// Beyond it the server sends `/bye violations`, and closes the connection once what is in
    /// flight is answered, within the time of a [`drain`](Self::drain). It takes 8 bytes per
    /// connection.
    #[must_use]
    pub fn violations(mut self, violations: u32) -> Self {
        self.violations = violations;
        self
    }

    /// The time after which one violation is forgiven; at least 1 s. Default 10 s.
    #[must_use]
    pub fn violation_return(mut self, time: Duration) -> Self {
        self.violation_return = time.max(Duration::from_secs(1));
        self
    }

    /// Application requests in flight per connection, one-ways included; 1 to
    /// [`MAX_NUMBER`](crate::protocol::MAX_NUMBER). Default 1,024.
    ///
    /// Beyond it application lines wait, within [`parked_bytes`](Self::parked_bytes). Worst case:
    /// this many handlers, each with a payload of up to `max_line`.
    #[must_use]
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.in_flight = announced(requests, 1);
        self
    }

    /// Bytes of payload in flight per connection, counted as they came over the wire, for as long
    /// as their requests run; at least 1. Default 4 MiB.
    ///
    /// Beyond it application lines wait, within [`parked_bytes`](Self::parked_bytes). Worst case:
    /// as much per connection, and one line more. A single larger request runs alone.
    #[must_use]
    pub fn payload_bytes(mut self, bytes: usize) -> Self {
        self.payload_bytes = bytes.max(1);
        self
    }

    /// Bytes of application lines per connection that were read and wait for a place in flight: the
    /// lines as they came over the wire, and about 100 bytes for each. Default 64 KiB.
    ///
    /// Within this bound the protocol's own lines pass those that wait: `/cancel`, `/renew`,
    /// `/ack`, `/more`, `/subscribe` and the others are obeyed at once. Beyond it the connection is
    /// not read until a line has left. One line may always wait, whatever its length.
    ///
    /// Worst case: as much per connection, or one `max_line` if that is more. These bytes count
    /// among the [buffered bytes](Self::buffered_bytes_total) of the server. When that limit is
    /// reached, no further line waits: it is refused with `no busy`.
    #[must_use]
    pub fn parked_bytes(mut self, bytes: usize) -> Self {
        self.parked_bytes = bytes;
        self
    }

    /// How long a handler may take; a request's `ttl` may shorten it. Default 30 s.
    ///
    /// After that the handler is dropped and the request is answered `cut deadline`. In a
    /// [`Streamed`](crate::Streamed) reply each item has this long, while there is credit for it. A
    /// reply that waits for credit holds its place until its `ttl` or its connection ends. A method
    /// may have [its own time](crate::server::Endpoint::handler_time), or no limit. Your own store
    /// has as long to open a topic; after that the `/subscribe` is answered `no busy`.
    #[must_use]
    pub fn handler_time(mut self, time: Duration) -> Self {
        self.handler_time = time;
        self
    }

    /// Unsent bytes per connection beyond which no application request is started, no stream is
    /// asked for an item, and no handler is polled, in its own task or not. Unsent are the bytes
    /// that wait to be written, and the replies of tasks that have ended. Default 256 KiB.
    ///
    /// Worst case: twice as much per connection, and one line more. Up to there the protocol's own
    /// methods are answered; beyond it no line is processed. Tasks may exceed it by the replies of
    /// those that run at the same moment: one for each thread of the runtime, and 16 of
    /// [`blocking`](crate::blocking) handlers. For a peer that has not yet authenticated, no line
    /// is processed beyond 4 KiB.
    #[must_use]
    pub fn reply_mark(mut self, bytes: usize) -> Self {
        self.reply_mark = bytes.max(1);
        self
    }

    /// Unwritten bytes per connection beyond which its subscriptions wait. Default 64 KiB.
    ///
    /// If this is below the mark for replies, notifications never hold up replies.
    #[must_use]
    pub fn notification_mark(mut self, bytes: usize) -> Self {
        self.notification_mark = bytes.max(1);
        self
    }

    /// How long subscriptions live without `/renew`; whole seconds, 1 to
    /// [`MAX_NUMBER`](crate::protocol::MAX_NUMBER). Default 60 s.
    #[must_use]
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = whole_seconds(time);
        self
    }

    /// Subscriptions per connection. Default 128; past it `no too-many`.
    #[must_use]
    pub fn subscriptions(mut self, subscriptions: usize) -> Self {
        self.subscriptions = subscriptions;
        self
    }

    /// Messages retained per topic, at least 1. Beyond it the oldest are dropped. Default 65,536.
    ///
    /// This bounds the memory beside the lines: 16 bytes for each, so 1 MiB by default.
    /// [`retained_bytes`](Self::retained_bytes) is the bound that matters: lines of 16 bytes or
    /// more reach that one first.
    #[must_use]
    pub fn retained_messages(mut self, messages: usize) -> Self {
        self.retained_messages = messages.max(1);
        self
    }

    /// Bytes retained per topic, as encoded lines; one message always stays. Default 1 MiB.
    ///
    /// Messages that are published faster than a subscriber is served wait here: for the
    /// connection's turn, for room below [`notification_mark`](Self::notification_mark), and for
    /// the network. So this is how far a subscriber may be behind without a gap. The default holds
    /// 20,000 messages of 32 bytes. With a larger notification mark, or payloads of many kilobytes,
    /// use a multiple of these. A client has its own bound for what it holds for its application,
    /// [`inbox_bytes`](crate::ClientConfig::inbox_bytes), which is as large as this by default.
    ///
    /// Worst case: twice as much per topic, because the ring grows by doubling, and 32 bytes for
    /// each of [`retained_messages`](Self::retained_messages): 4 MiB by default.
    /// [`retained_bytes_total`](Self::retained_bytes_total) counts both, and bounds all topics
    /// together.
    #[must_use]
    pub fn retained_bytes(mut self, bytes: usize) -> Self {
        self.retained_bytes = bytes;
        self
    }

    /// Bytes retained by all topics together, as encoded lines and 16 bytes for each. Beyond it the
    /// oldest of all topics are dropped, except for the one just published. A subscriber that has
    /// not read them gets a gap, as for messages that its own topic dropped. Default 256 MiB.
    ///
    /// Worst case: twice as much, because the rings grow by doubling. This applies to the default
    /// topics; your own store has its own limits.
    #[must_use]
    pub fn retained_bytes_total(mut self, bytes: usize) -> Self {
        self.retained_bytes_total = bytes;
        self
    }

    /// Topics with a log. Default 65,536. Beyond it the publisher gets
    /// [`PublishError::TooMany`](crate::PublishError::TooMany), and a subscription to a topic
    /// without a log is refused with `no busy`, because nothing could be published to it. Below the
    /// limit such a subscription needs no log. Topics that are over, such as those of finished
    /// jobs, should be [closed](crate::Publisher::close).
    ///
    /// The ends of as many dropped logs are remembered. Worst case: 256 bytes for each.
    #[must_use]
    pub fn topics(mut self, topics: usize) -> Self {
        self.topics = topics;
        self
    }

    /// How long a log is kept that has neither subscribers nor new messages; at least 1 s. Default
    /// 10 min.
    ///
    /// After that, and within half as much again, the log is dropped with everything that it
    /// retained. Its end is remembered, for as many topics as [`topics`](Self::topics) says, or
    /// half of them. The topic goes on there, and a subscriber that resumes is told exactly what it
    /// missed (docs/protocol/subscriptions.md, section 13). Worst case meanwhile:
    /// [`topics`](Self::topics) logs, and
    /// [`retained_bytes_total`](Self::retained_bytes_total) in them.
    #[must_use]
    pub fn idle_log(mut self, time: Duration) -> Self {
        self.idle_log = time.max(Duration::from_secs(1));
        self
    }

    /// The keys of the default table ([`MemoryKeys`](crate::server::keys::MemoryKeys)), those that
    /// run included; 0 for no keyed requests: `/hello` then announces no `keys`. Default 65,536,
    /// which is enough for about 180 keyed requests a second, and half of that for a single owner.
    /// Past it, requests with new keys are refused `no busy`; and those of an owner that has more
    /// keys than are free. An owner is a principal, or all anonymous peers of one address. Without effect on a table of your own, which has its own bounds.
    #[must_use]
    pub fn keys(mut self, keys: usize) -> Self {
        self.keys = keys;
        self
    }

    /// Bytes of the default table of keys, and of the requests of the runs in progress, each.
    /// Default 64 MiB. Past it, requests with new keys are refused `no busy`, and those of an owner
    /// as with [`keys`](Self::keys).
    ///
    /// A key counts with its outcome; while it runs, with [`max_line`](Self::max_line) instead.
    #[must_use]
    pub fn keys_bytes(mut self, bytes: usize) -> Self {
        self.keys_bytes = bytes;
        self
    }

    /// How long a client may repeat a keyed request, counted from its first sending; in whole
    /// seconds, at least 1. Default 300 s. It is what `/hello` announces with the default table of
    /// keys. An outcome is kept 60 s longer, counted from the end of the run.
    #[must_use]
    pub fn key_time(mut self, time: Duration) -> Self {
        self.key_time = Duration::from_secs(time.as_secs().clamp(1, MAX_NUMBER));
        self
    }

    /// The keyed runs in progress, of all connections together and whether or not their callers are
    /// still there. Default 1,024. Past it, requests with new keys are refused `no busy`, and those
    /// of an owner as with [`keys`](Self::keys).
    ///
    /// A run ends with [`handler_time`](Self::handler_time), or with the limit of its method.
    #[must_use]
    pub fn keyed_runs(mut self, runs: usize) -> Self {
        self.keyed_runs = runs;
        self
    }

    /// Bytes that all connections together hold: unwritten, unread and unfinished lines, the
    /// payloads of requests in flight, and the replies of tasks that have ended. Default 512 MiB.
    ///
    /// Beyond it each connection has a share: what the connections that hold 32 KiB or less leave
    /// of the limit, divided by the number of the others, and at least 32 KiB. A connection below
    /// its share is served as before. On a connection above its share, application requests are
    /// refused with `no busy`, notifications are sent one at a time, and the share replaces its
    /// marks. The protocol's own methods are still answered, if the client reads the answers.
    ///
    /// Connections above their share that take none of their waiting bytes for 2 s (or
    /// [`write_progress`](Self::write_progress), if that is less) are closed, the largest first,
    /// until the others are within the limit. What such a connection holds is dropped, including
    /// its handlers, and it is sent `/bye` with the reason `slow`. These are counted by
    /// [`ServerStats::shed`](crate::ServerStats::shed) and logged.
    ///
    /// The bytes are counted at the end of each poll of a connection, and when a task ends. Worst
    /// case: see [`worst_case_bytes`](Self::worst_case_bytes).
    #[must_use]
    pub fn buffered_bytes_total(mut self, bytes: usize) -> Self {
        self.buffered_bytes_total = bytes;
        self
    }

    /// Connections at once. Default 10,000. A connection beyond it is told `busy` and closed.
    ///
    /// Over TCP and Unix sockets, the soft limit of open files lowers it, less a reserve for
    /// everything else: a sixteenth of the limit, at least 32 and at most 2,048. The server logs
    /// this when it begins to serve.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Connections of one TCP peer's address at once; for IPv6, a network of 64 bits is one
    /// address. Default: no limit. A connection beyond it is treated as one beyond
    /// [`connections`](Self::connections).
    #[must_use]
    pub fn connections_per_address(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.connections_per_address = connections.into();
        self
    }

    /// How long a graceful shutdown still accepts requests after `/bye`, because clients may have
    /// sent them before they read it (docs/protocol/leaving.md, section 18). Default 1 s, which is
    /// the least that clients may count on; use less only in tests. A shutdown without connections
    /// does not wait for it.
    #[must_use]
    pub fn grace(mut self, time: Duration) -> Self {
        self.grace = time;
        self
    }

    /// How long a connection that the server ends may take to finish its handlers, streams and
    /// writes. In a graceful shutdown this begins when the [`grace`](Self::grace) is over.
    /// Otherwise it begins with the `/bye`: if the client was idle, broke the protocol, did not
    /// authenticate, or its session was [closed](crate::Session::close). Default 10 s. After that,
    /// what still runs is answered `cut closing`, and a client that has not read it 1 s later is
    /// dropped.
    #[must_use]
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// Whether clients may `/publish`. Default no: `no forbidden`. Without effect on a server with
    /// an [`Authorizer`](crate::server::Authorizer), which decides instead.
    #[must_use]
    pub fn allow_publish(mut self, allow: bool) -> Self {
        self.allow_publish = allow;
        self
    }

    /// How long a peer has to authenticate, from when it connected, if an
    /// [`Authenticator`](crate::server::Authenticator) is set. Default 10 s. After that the
    /// connection is sent `/bye;last=0 unauthenticated` and closed, even if the authenticator is
    /// still working.
    #[must_use]
    pub fn auth_time(mut self, time: Duration) -> Self {
        self.auth_time = time;
        self
    }

    /// How many `/auth` of a connection may be refused, for whatever reason; at least 1. Default 3.
    /// With the last of them the connection is sent `/bye;last=0 unauthenticated` and closed.
    #[must_use]
    pub fn auth_tries(mut self, tries: u32) -> Self {
        self.auth_tries = tries.max(1);
        self
    }

    /// The longest line that is read from a peer that has not yet authenticated, LF included, in
    /// bytes; at least 1,024. Default 8 KiB, or [`max_line`](Self::max_line) if that is less.
    ///
    /// Worst case: twice as much per connection that is not authenticated.
    #[must_use]
    pub fn max_line_before_auth(mut self, bytes: usize) -> Self {
        self.max_line_before_auth = bytes.max(MIN_MAX_LINE);
        self
    }

    /// How long the handshake of a [`Listener`](crate::Listener)'s transport, such as TLS, may
    /// take. Default 10 s. After that the connection is dropped. It counts as a connection
    /// meanwhile.
    #[must_use]
    pub fn handshake_time(mut self, time: Duration) -> Self {
        self.handshake_time = time;
        self
    }

    /// The memory that a server with these limits may take, in bytes. It does not include what
    /// handlers and your own store keep for themselves, the buffers of TLS and WebSockets, or what
    /// the system keeps for its sockets, which [`unsent_bytes`](Self::unsent_bytes) bounds. A server
    /// logs it when it begins to serve.
    ///
    /// It is the sum of
    ///
    /// - [`connections`](Self::connections), each with 1,536 bytes of its own, 2,304 bytes for each of
    ///   its [`subscriptions`](Self::subscriptions), and 64 KiB that it has read and not processed.
    ///   When the server's buffers are full, each also has five lines of
    ///   [`max_line`](Self::max_line) and 64 KiB. The five lines are an unfinished one and one to
    ///   be written, both in buffers that grow by doubling, and one that waits;
    /// - [`buffered_bytes_total`](Self::buffered_bytes_total);
    /// - twice [`retained_bytes_total`](Self::retained_bytes_total), because rings grow by
    ///   doubling, and 3 KiB for each of the [`topics`](Self::topics).
    ///
    /// What handlers keep for themselves includes the replies of tasks that end at the same moment:
    /// one for each thread of the runtime, and 16 for the [`blocking`](crate::blocking) handlers of
    /// each connection, or 1 when the server's buffers are full.
    ///
    /// Nearly all of it is for peers that do not read. An idle connection takes about 1 KiB.
    ///
    /// ```
    /// use bellwire::ServerConfig;
    ///
    /// let small = ServerConfig::new()
    ///     .connections(100)
    ///     .buffered_bytes_total(32 << 20)
    ///     .topics(1_000)
    ///     .retained_bytes_total(16 << 20)
    ///     .keys_bytes(4 << 20);
    /// assert!(small.worst_case_bytes() < 150 << 20);
    /// ```
    pub fn worst_case_bytes(&self) -> usize {
        let connection = CONNECTION
            .saturating_add(self.subscriptions.saturating_mul(SUBSCRIPTION))
            .saturating_add(SCRATCH)
            .saturating_add(self.max_line.saturating_mul(5))
            .saturating_add(2 * LITTLE);
        let topics = self.topics.saturating_mul(TOPIC);
        self.connections
            .saturating_mul(connection)
            .saturating_add(self.buffered_bytes_total)
            .saturating_add(self.retained_bytes_total.saturating_mul(2))
            .saturating_add(topics)
            .saturating_add(if self.keys == 0 { 0 } else { self.keys_bytes.saturating_mul(2) })
    }

    pub(super) fn retention(&self) -> Retention {
        Retention { messages: self.retained_messages, bytes: self.retained_bytes }
    }

    pub(super) fn store_limits(&self) -> StoreLimits {
        StoreLimits { topics: self.topics, bytes: self.retained_bytes_total }
    }
}

macro_rules! getters {
    ($($getter:ident = $setter:ident: $kind:ty,)*) => {
        /// The values in use. The setters document what each one means.
        impl ServerConfig {
            $(
                #[doc = concat!("The value of [`", stringify!($setter), "`](Self::", stringify!($setter), ").")]
                pub fn $getter(&self) -> $kind {
                    self.$setter
                }
            )*

            /// The value of [`line_time`](Self::line_time).
            pub fn get_line_time(&self) -> Duration {
                self.line_time.base
            }

            /// The value of [`line_rate`](Self::line_rate).
            pub fn get_line_rate(&self) -> usize {
                self.line_time.bytes_per_second
            }
        }
    };
}

getters! {
    get_max_line = max_line: usize,
    get_first_line = first_line: Duration,
    get_write_progress = write_progress: Duration,
    get_idle = idle: Option<Duration>,
    get_tcp_user_timeout = tcp_user_timeout: Option<Duration>,
    get_unsent_bytes = unsent_bytes: Option<usize>,
    get_violations = violations: u32,
    get_violation_return = violation_return: Duration,
    get_in_flight = in_flight: usize,
    get_payload_bytes = payload_bytes: usize,
    get_parked_bytes = parked_bytes: usize,
    get_handler_time = handler_time: Duration,
    get_reply_mark = reply_mark: usize,
    get_notification_mark = notification_mark: usize,
    get_lease = lease: Duration,
    get_subscriptions = subscriptions: usize,
    get_retained_messages = retained_messages: usize,
    get_retained_bytes = retained_bytes: usize,
    get_retained_bytes_total = retained_bytes_total: usize,
    get_buffered_bytes_total = buffered_bytes_total: usize,
    get_topics = topics: usize,
    get_idle_log = idle_log: Duration,
    get_keys = keys: usize,
    get_keys_bytes = keys_bytes: usize,
    get_key_time = key_time: Duration,
    get_keyed_runs = keyed_runs: usize,
    get_connections = connections: usize,
    get_connections_per_address = connections_per_address: Option<usize>,
    get_grace = grace: Duration,
    get_drain = drain: Duration,
    get_allow_publish = allow_publish: bool,
    get_auth_time = auth_time: Duration,
    get_auth_tries = auth_tries: u32,
    get_max_line_before_auth = max_line_before_auth: usize,
    get_handshake_time = handshake_time: Duration,
}

/// A time that `/hello` announces: whole seconds, as a number of the protocol.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().clamp(1, MAX_NUMBER))
}

/// A limit that `/hello` announces, as a number of the protocol.
fn announced(limit: usize, least: usize) -> usize {
    limit.clamp(least, usize::try_from(MAX_NUMBER).unwrap_or(usize::MAX))
}
