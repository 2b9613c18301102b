//! The client's bounds, all in one struct.

use std::time::Duration;

use crate::{
    credentials::Credentials,
    protocol::{Backoff, Code, DEFAULT_MAX_LINE, MAX_NUMBER, MIN_MAX_LINE},
    random::Random,
    tcp::UNSENT,
};

/// The shortest window to pause in.
const LEAST_WINDOW: Duration = Duration::from_millis(10);

/// Every bound of a client, with its default.
///
/// ```
/// use std::time::Duration;
/// use bellwire::ClientConfig;
///
/// let config = ClientConfig::new().in_flight(64).connect_timeout(Duration::from_secs(2));
/// ```
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub(crate) in_flight: usize,
    pub(crate) max_line: usize,
    pub(crate) outbound_bytes: usize,
    pub(crate) unsent_bytes: Option<usize>,
    pub(crate) control_requests: usize,
    pub(crate) inbox_items: usize,
    pub(crate) inbox_bytes: usize,
    pub(crate) missed_topics: usize,
    pub(crate) deadline: Option<Duration>,
    pub(crate) connect_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) strict: bool,
    pub(crate) probe: Duration,
    pub(crate) dead: Duration,
    pub(crate) fail_fast: bool,
    pub(crate) reconnect_base: Duration,
    pub(crate) reconnect_max: Duration,
    pub(crate) reconnect_stable: Duration,
    pub(crate) give_up_after: Option<Duration>,
    pub(crate) random: Random,
    /// In the order of preference.
    pub(crate) auth: Vec<(Code, Credentials)>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            in_flight: 1_024,
            max_line: DEFAULT_MAX_LINE,
            outbound_bytes: 256 * 1024,
            unsent_bytes: Some(UNSENT),
            control_requests: 256,
            inbox_items: 32_768,
            inbox_bytes: 1024 * 1024,
            missed_topics: 1_024,
            deadline: Some(Duration::from_secs(60)),
            connect_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(40),
            strict: false,
            probe: Duration::from_secs(10),
            dead: Duration::from_secs(20),
            fail_fast: false,
            reconnect_base: Duration::from_millis(250),
            reconnect_max: Duration::from_secs(30),
            reconnect_stable: Duration::from_secs(10),
            give_up_after: None,
            random: Random::default(),
            auth: Vec::new(),
        }
    }
}

impl ClientConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls in flight at once; further calls wait. Default 1,024, at least 1.
    ///
    /// The lesser of this and what the server announces holds. Worst case: about 200 bytes and the
    /// call's own line each.
    #[must_use]
    pub fn in_flight(mut self, calls: usize) -> Self {
        self.in_flight = calls.clamp(1, tokio::sync::Semaphore::MAX_PERMITS);
        self
    }

    /// The longest line taken from the server, LF included, in bytes. Default 65,535; 1,024 to
    /// [`MAX_NUMBER`](crate::protocol::MAX_NUMBER).
    ///
    /// Any other than the default is told to the server. Worst case: one line per connection.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line =
            bytes.clamp(MIN_MAX_LINE, usize::try_from(MAX_NUMBER).unwrap_or(usize::MAX));
        self
    }

    /// Bytes that wait to be written before further calls wait. Default 256 KiB.
    ///
    /// Worst case: twice this, since what is being written counts apart, and a line over it. Beside
    /// that, and never held back: a `/cancel` of 27 bytes for each call in flight, and a `/more` of 42
    /// for each streamed reply.
    #[must_use]
    pub fn outbound_bytes(mut self, bytes: usize) -> Self {
        self.outbound_bytes = bytes.max(1);
        self
    }

    /// Bytes that the system may hold for a connection and has not yet sent; at least 1, `None` for the
    /// system's own limit, which is several megabytes on Linux. Default 64 KiB.
    ///
    /// Past it lines wait in the client, bounded by [`outbound_bytes`](Self::outbound_bytes): what is
    /// not yet offered to the system is proven not sent when the connection is lost. It is
    /// TCP_NOTSENT_LOWAT on Linux and Android, and SO_SNDBUF of Unix sockets; TCP of other systems has
    /// no such limit here. What was sent and not yet acknowledged does not count, so it costs no
    /// throughput. Worst case: this and one segment, of 64 KiB at most, in the system's memory. Without
    /// effect on a stream of one's own that [`Client::new`](crate::Client::new) is given; a
    /// [`Connector`](crate::Connector) of one's own has to implement
    /// [`limit_unsent`](crate::Connector::limit_unsent).
    #[must_use]
    pub fn unsent_bytes(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.unsent_bytes = bytes.into();
        self
    }

    /// Requests of the protocol's own (`/subscribe`, `/unsubscribe`, `/methods`) that may be unanswered
    /// on a connection before a further [`subscribe`](crate::Client::subscribe) or
    /// [`methods`](crate::Client::methods) waits. Default 256, at least 1.
    ///
    /// A request whose caller was dropped counts until its reply, since the server may still answer it.
    /// Worst case: about 1.5 KB for each, and for each `methods` call that is waited for a list of
    /// 4 MiB. Beside these, and never held back: one for each topic that is subscribed, when it is left
    /// or subscribed anew, and four `/renew`.
    #[must_use]
    pub fn control_requests(mut self, requests: usize) -> Self {
        self.control_requests = requests.max(1);
        self
    }

    /// Notifications that each subscription, and each stream of all notifications, holds for the
    /// application; the oldest give way and are named in a gap. Default 32,768, at least 1.
    ///
    /// It bounds what each takes beside its payload. [`inbox_bytes`](Self::inbox_bytes) is the bound that
    /// matters: payloads of 32 bytes or more meet that one first.
    #[must_use]
    pub fn inbox_items(mut self, items: usize) -> Self {
        self.inbox_items = items.max(1);
        self
    }

    /// Bytes of payload that each of these holds; the oldest give way. Default 1 MiB.
    ///
    /// The driver never waits for the application, so what it reads in one turn, up to 512 KiB, has to
    /// have a place here beside what is not handled yet. Where a subscription has a
    /// [`window`](crate::Subscribe::window), that many payloads should fit; where a burst is to wait for
    /// a slow application, as much as the server retains of a topic
    /// ([`ServerConfig::retained_bytes`](crate::ServerConfig::retained_bytes), 1 MiB by default).
    ///
    /// Worst case: this, a payload over it, and about 180 bytes for each of
    /// [`inbox_items`](Self::inbox_items): 7 MiB by default for a stream that is not read.
    #[must_use]
    pub fn inbox_bytes(mut self, bytes: usize) -> Self {
        self.inbox_bytes = bytes;
        self
    }

    /// Topics for each of which a stream of all notifications
    /// ([`Client::notifications`](crate::Client::notifications)) names what it dropped unread; what it
    /// dropped of further topics is one item, [`Delivery::Lost`](crate::Delivery::Lost). Default 1,024,
    /// at least 1.
    ///
    /// Worst case: about 400 bytes for each, and 3 KB for a topic whose log is another one again and
    /// again.
    #[must_use]
    pub fn missed_topics(mut self, topics: usize) -> Self {
        self.missed_topics = topics.max(1);
        self
    }

    /// How long a request may take that was given no deadline of its own: a call, a `/publish`, a
    /// `/subscribe`, the list of methods; a one-way request and a streamed one, until they are sent.
    /// `None` for no limit. Default 60 s, at least 1 ms.
    ///
    /// Without a limit, a request of a client that cannot connect, as for a mistake in its address, would
    /// wait for ever, and nobody would learn why. The default leaves time for all that may end well: a
    /// server gives a handler 30 s, and answers by itself then; a server that is lost is noticed after
    /// 20 s ([`dead`](Self::dead)), and the windows in which another is sought are over three times in
    /// the next 40 s. Give calls more that may take longer on a server with other limits.
    ///
    /// Past it, a request ends as past its own deadline: [`NotSent::Deadline`] with why there is no
    /// connection, or [`Unknown::Deadline`] if it was sent. The server is not told of it by a `ttl`.
    /// Costs 16 bytes for each call in flight, and no timer.
    ///
    /// [`NotSent::Deadline`]: crate::NotSent::Deadline
    /// [`Unknown::Deadline`]: crate::Unknown::Deadline
    #[must_use]
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.deadline = deadline.into().map(|deadline| deadline.max(Duration::from_millis(1)));
        self
    }

    /// How long an attempt to connect may take, over all addresses of the client: until a server has
    /// said hello and knows who this is. Default 10 s. [`Client::connect`](crate::Client::connect)
    /// makes one attempt, before it fails.
    ///
    /// All addresses are raced, each 250 ms ahead of the next (RFC 8305). The first one to be connected
    /// has its share of the time that is left for TLS, `/hello` and `/auth`: all of it where it is the
    /// only one; else an equal share, or 2 s if that is more, and half at the most. If it fails, or takes longer, the race goes on with the others. A server that says
    /// hello to a client of [`Client::new`](crate::Client::new) has this long, too.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long closing waits for the server to finish what is in flight and to close. Default
    /// 40 s, which is more than a handler may take by default. Past it the connection is dropped.
    ///
    /// A server that says goodbye may be silent for as long while it finishes; past it, the
    /// connection ends with [`ConnectionError::Bye`].
    ///
    /// [`ConnectionError::Bye`]: crate::ConnectionError::Bye
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Closes the connection upon a reply to a request that was never sent, or that had had its
    /// reply (PROTOCOL.md, section 7.1). Default `false`: such a line is counted, told as a
    /// [`ConnectionEvent`](crate::ConnectionEvent) and ignored.
    ///
    /// Nothing behind that line is acted on, and everything ends with
    /// [`ConnectionError::Protocol`](crate::ConnectionError::Protocol). A reply whose caller is
    /// gone is in order, and closes nothing. Costs no memory.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// How long a server may be silent while it owes replies or notifications, before it is probed by
    /// a `/renew`. Default 10 s, at least 1 s.
    #[must_use]
    pub fn probe(mut self, silence: Duration) -> Self {
        self.probe = silence.max(Duration::from_secs(1));
        self
    }

    /// How long such a server may be silent in all, a probe that it does not answer included, before it
    /// is given up: the connection ends with [`ConnectionError::Silent`]. Default 20 s; it is at least
    /// 1 s more than [`probe`](Self::probe).
    ///
    /// A server that does not read for now, since too many requests of this client wait for a place,
    /// says so every 5 s (PROTOCOL.md, section 7.5), so it is not silent. Nor is one that goes on
    /// taking bytes of what waits to be written.
    ///
    /// [`ConnectionError::Silent`]: crate::ConnectionError::Silent
    #[must_use]
    pub fn dead(mut self, silence: Duration) -> Self {
        self.dead = silence;
        self
    }

    /// Calls neither wait for a connection while there is none, nor are sent again: while the client
    /// connects anew, be it since a server said goodbye, they end at once with [`NotSent::Lost`], and so
    /// does subscribing. Default `false`: they wait until there is a connection, or until their deadline, if they have one; and
    /// what is proven not executed is sent again within it.
    ///
    /// Proven not executed, and sent again: what was not offered to a connection that ended; what a
    /// server that stops had not begun (PROTOCOL.md, section 9.7); and what was refused with a
    /// `retry`, after that time and a pause as between attempts to connect. Until the
    /// first attempt to connect has failed, calls wait in either case.
    ///
    /// [`NotSent::Lost`]: crate::NotSent::Lost
    #[must_use]
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// The first of the windows in which the client pauses before it repeats something by itself:
    /// connects again, sends again what was refused, subscribes again, resynchronises. Default 250 ms,
    /// at least 10 ms. Each window is twice as long as the one before, up to
    /// [`reconnect_max`](Self::reconnect_max).
    ///
    /// A pause is random, from a tenth of its window to all of it, so that the clients of a server that
    /// is gone do not come back together. To connect again, there is one round through the list of
    /// addresses in each window, at the same place in all of them (PROTOCOL.md, sections 3.5 and 12.1).
    /// A server's own `retry=` comes before the pause; of a `/bye`, for that address.
    #[must_use]
    pub fn reconnect_base(mut self, window: Duration) -> Self {
        self.reconnect_base = window.max(LEAST_WINDOW);
        self
    }

    /// The longest window that the client pauses in before it repeats something by itself. Default
    /// 30 s, at least 10 ms.
    #[must_use]
    pub fn reconnect_max(mut self, window: Duration) -> Self {
        self.reconnect_max = window.max(LEAST_WINDOW);
        self
    }

    /// How long a connection has to have been open for the next window to be the first again; and a
    /// subscription, for it to be resumed without a pause. Default 10 s: a server that lets clients in
    /// and loses them at once is not flooded.
    #[must_use]
    pub fn reconnect_stable(mut self, time: Duration) -> Self {
        self.reconnect_stable = time;
        self
    }

    /// How long the client tries to connect anew before it ends, with the last error; an attempt under
    /// way then is waited for. Default `None`: as long as anybody holds it.
    #[must_use]
    pub fn give_up_after(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.give_up_after = time.into();
        self
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff {
            base: self.reconnect_base,
            max: self.reconnect_max,
            stable: self.reconnect_stable,
        }
    }

    /// Says who this client is, by `/auth`, where the server asks for it (PROTOCOL.md, section
    /// 8.11). Default: it says nothing.
    ///
    /// It is sent behind the server's hello and before anything else; calls wait until it is
    /// accepted, and the connection ends where it is refused. Called more than once, it gives
    /// several ways: the first whose scheme the server offers is used, and it alone is sent. A
    /// server that asks for none gets none. Without TLS whoever is on the way can read it.
    ///
    /// ```
    /// use bellwire::{ClientConfig, protocol::Code};
    ///
    /// let config = ClientConfig::new().auth(Code::from_static("token"), "5f1c0a3e-7d52");
    /// assert!(!format!("{config:?}").contains("5f1c"));
    /// ```
    #[must_use]
    pub fn auth(mut self, scheme: Code, credentials: impl Into<Credentials>) -> Self {
        self.auth.push((scheme, credentials.into()));
        self
    }

    /// Where jitter comes from: of renewals, and of attempts to connect. Default: the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }
}
