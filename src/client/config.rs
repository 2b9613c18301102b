//! The configuration of a client: all of its limits.

use std::time::Duration;

use crate::{
    credentials::Credentials,
    protocol::{Backoff, Code, DEFAULT_MAX_LINE, MAX_NUMBER, MIN_MAX_LINE},
    random::Random,
    tcp::UNSENT,
};

/// The shortest backoff window.
const LEAST_WINDOW: Duration = Duration::from_millis(10);

/// The least time that a server has to answer a probe.
const LEAST_ANSWER_TIME: Duration = Duration::from_secs(1);

/// The limits of a client, each with its default.
///
/// Each setter has a getter, whose name is `get_` and the setter's name. It returns the value in
/// use, which the setter may have raised or lowered into its range.
///
/// # Settings that belong together
///
/// - [`deadline`](Self::deadline) and [`fail_fast`](Self::fail_fast): how long a call waits for its
///   reply, and whether it waits for a connection at all.
/// - [`reconnect_base`](Self::reconnect_base), [`reconnect_max`](Self::reconnect_max) and
///   [`reconnect_stable`](Self::reconnect_stable): the windows in which the client reconnects.
///   [`give_up_after`](Self::give_up_after) ends the client, and
///   [`connect_timeout`](Self::connect_timeout) bounds each round of attempts.
/// - [`probe`](Self::probe) and [`dead`](Self::dead): when the client probes a silent server, and
///   when it closes the connection.
/// - [`inbox_items`](Self::inbox_items) and [`inbox_bytes`](Self::inbox_bytes): how much a
///   subscription that is not read holds. At the limit that is reached first, the oldest are
///   dropped.
/// - [`in_flight`](Self::in_flight) and [`outbound_bytes`](Self::outbound_bytes): how many calls
///   may be in flight, and how many of their bytes may be unwritten. Further calls wait.
///
/// ```
/// use std::time::Duration;
/// use bellwire::ClientConfig;
///
/// let config = ClientConfig::new().in_flight(0).connect_timeout(Duration::from_secs(2));
/// assert_eq!(config.get_in_flight(), 1);
/// assert_eq!(config.get_deadline(), Some(Duration::from_secs(60)));
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
    pub(crate) held_events: usize,
    pub(crate) deadline: Option<Duration>,
    pub(crate) ack_within: Option<Duration>,
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
            held_events: 256,
            deadline: Some(Duration::from_secs(60)),
            ack_within: None,
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
    /// The lower of this and the server's own limit applies. Worst case: about 350 bytes and the
    /// call's own line each.
    #[must_use]
    pub fn in_flight(mut self, calls: usize) -> Self {
        self.in_flight = calls.max(1);
        self
    }

    /// The longest line that is accepted from the server, LF included, in bytes. Default 65,535;
    /// 1,024 to [`MAX_NUMBER`](crate::protocol::MAX_NUMBER).
    ///
    /// The client sends a value other than the default to the server. Worst case: one line per
    /// connection.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line =
            bytes.clamp(MIN_MAX_LINE, usize::try_from(MAX_NUMBER).unwrap_or(usize::MAX));
        self
    }

    /// Unwritten bytes beyond which further calls wait. Default 256 KiB.
    ///
    /// Worst case: twice this, because the bytes that are being written count separately, and one
    /// line more. Two kinds of lines never wait: a `/cancel` of 27 bytes for each call in flight,
    /// and a `/more` of 42 bytes for each streamed reply.
    #[must_use]
    pub fn outbound_bytes(mut self, bytes: usize) -> Self {
        self.outbound_bytes = bytes.max(1);
        self
    }

    /// Unsent bytes of a connection that the operating system may hold; at least 1. `None` leaves
    /// the system's own limit, which is several megabytes on Linux. Default 64 KiB.
    ///
    /// Beyond it, lines wait in the client, within [`outbound_bytes`](Self::outbound_bytes). If the
    /// connection is lost, lines that were not passed to the system are proven not sent. The limit
    /// is TCP_NOTSENT_LOWAT on Linux and Android, and SO_SNDBUF for Unix sockets. For TCP on other
    /// systems there is no such limit. Bytes that were sent and are not yet acknowledged do not
    /// count, so the limit costs no throughput. Worst case: this and one segment of at most 64 KiB,
    /// in the system's memory.
    ///
    /// It has no effect on a transport that is given to [`Client::new`](crate::Client::new). Your
    /// own [`Connector`](crate::Connector) has to implement
    /// [`limit_unsent`](crate::Connector::limit_unsent).
    #[must_use]
    pub fn unsent_bytes(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.unsent_bytes = bytes.into().map(|bytes| bytes.max(1));
        self
    }

    /// Requests of the protocol itself (`/subscribe`, `/unsubscribe`, `/methods`) that may be
    /// unanswered on a connection before a further [`subscribe`](crate::Client::subscribe) or
    /// [`methods`](crate::Client::methods) waits. Default 256, at least 1.
    ///
    /// A request whose caller was dropped counts until its reply, because the server may still
    /// answer it. Worst case: about 1.5 KB for each, and a list of up to 4 MiB for each `methods`
    /// call that is awaited. Some requests never wait: one for each subscribed topic, to leave it
    /// or to subscribe again, and four `/renew`.
    #[must_use]
    pub fn control_requests(mut self, requests: usize) -> Self {
        self.control_requests = requests.max(1);
        self
    }

    /// Notifications that each subscription, and each stream of all notifications, holds for the
    /// application. Beyond it the oldest are dropped and named in a gap. Default 32,768, at least
    /// 1.
    ///
    /// This bounds the memory beside the payloads. [`inbox_bytes`](Self::inbox_bytes) is the bound
    /// that matters: payloads of 32 bytes or more reach that one first.
    #[must_use]
    pub fn inbox_items(mut self, items: usize) -> Self {
        self.inbox_items = items.max(1);
        self
    }

    /// Bytes of payload that each of these streams holds. Beyond it the oldest notifications are
    /// dropped and named in a gap. Default 1 MiB.
    ///
    /// The driver never waits for the application. So there has to be room for what the driver
    /// reads in one turn, up to 512 KiB, beside what the application has not handled yet. If a
    /// subscription has a [`window`](crate::Subscribe::window), that many payloads should fit. If
    /// bursts should wait for a slow application, use as much as the server retains of a topic
    /// ([`ServerConfig::retained_bytes`](crate::ServerConfig::retained_bytes), 1 MiB by default).
    ///
    /// Worst case: twice this, one payload more, and about 200 bytes for each of
    /// [`inbox_items`](Self::inbox_items): 8 MiB by default for a stream that is not read. It is
    /// twice this because short payloads share allocations.
    #[must_use]
    pub fn inbox_bytes(mut self, bytes: usize) -> Self {
        self.inbox_bytes = bytes;
        self
    }

    /// Topics for which an unread stream of all notifications
    /// ([`Client::notifications`](crate::Client::notifications)) names what it dropped. Dropped
    /// deliveries of further topics are reported as one item,
    /// [`Delivery::Lost`](crate::Delivery::Lost). Default 1,024, at least 1.
    ///
    /// Worst case: about 400 bytes for each, and 3 KB for a topic whose log is replaced again and
    /// again.
    #[must_use]
    pub fn missed_topics(mut self, topics: usize) -> Self {
        self.missed_topics = topics.max(1);
        self
    }

    /// Events that each stream of [`Client::events`](crate::Client::events) holds for the
    /// application. Beyond it the oldest are dropped, and their number is reported as
    /// [`ConnectionEvent::Missed`](crate::ConnectionEvent::Missed). Default 256, at least 1.
    ///
    /// Worst case: about 200 bytes for each, and one line of the server.
    #[must_use]
    pub fn held_events(mut self, events: usize) -> Self {
        self.held_events = events.max(1);
        self
    }

    /// The deadline of requests that have no deadline of their own: calls, `/publish`, `/subscribe`
    /// and the list of methods. One-way requests and streams only have to be sent by then. `None`
    /// for no limit. Default 60 s, at least 1 ms.
    ///
    /// Without a limit, a request of a client that cannot connect would wait for ever, and never
    /// report why. The default leaves enough time for everything that can still succeed. A server
    /// answers a handler that runs longer than 30 s with `cut deadline`. The client notices a lost
    /// server after 20 s ([`dead`](Self::dead)), and the remaining 40 s are enough for several
    /// attempts to reach another one. Give calls more time if the server's limits are longer.
    ///
    /// When it has passed, the request ends with [`NotSent::Deadline`], which says why there is no
    /// connection, or with [`Unknown::Deadline`] if it was sent. The server is not told this
    /// deadline. It costs 16 bytes for each call in flight, and no timer.
    ///
    /// [`NotSent::Deadline`]: crate::NotSent::Deadline
    /// [`Unknown::Deadline`]: crate::Unknown::Deadline
    #[must_use]
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.deadline = deadline.into().map(|deadline| deadline.max(Duration::from_millis(1)));
        self
    }

    /// How long a notification that is acknowledged by hand may stay unacknowledged before
    /// [`ConnectionEvent::Unacknowledged`](crate::ConnectionEvent::Unacknowledged) reports it, for
    /// subscriptions without a limit of their own
    /// ([`Subscribe::ack_within`](crate::Subscribe::ack_within)). `None` for no limit. Default
    /// `None`, at least 1 ms.
    ///
    /// Worst case: 3 KiB for each such subscription.
    #[must_use]
    pub fn ack_within(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.ack_within = limit.into().map(|limit| limit.max(Duration::from_millis(1)));
        self
    }

    /// How long one attempt to connect may take, over all addresses of the client. It ends with the
    /// server's `/hello` or, if the server asks for authentication, when it has accepted the
    /// credentials. Default 10 s. [`Client::connect`](crate::Client::connect) makes one attempt
    /// before it fails.
    ///
    /// All addresses are raced, each 250 ms ahead of the next (RFC 8305). The first endpoint that
    /// is connected gets a share of the remaining time for TLS, `/hello` and `/auth`. If only one
    /// endpoint is left, it gets all of that time. Otherwise the share is equal for all, or 2 s if
    /// that is more, but never more than half. If the endpoint fails or takes longer, the race goes
    /// on with the others.
    ///
    /// For a client of [`Client::new`](crate::Client::new), this is the time for the server's
    /// `/hello`.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long closing waits for the server to finish the requests in flight and to close. Default
    /// 40 s, which is more than a handler may take by default. After that the client drops the
    /// connection.
    ///
    /// After a `/bye` with `last`, the server may be silent for as long while it finishes. After
    /// that the connection ends with [`ConnectionError::Bye`].
    ///
    /// [`ConnectionError::Bye`]: crate::ConnectionError::Bye
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Whether the client closes the connection at a reply to a request that was never sent, or
    /// that already had its reply (docs/protocol/calls.md, section 12). Default `false`: such a
    /// line is counted, reported as a [`ConnectionEvent`](crate::ConnectionEvent) and ignored.
    ///
    /// With `true`, no line after it is processed, and everything ends with
    /// [`ConnectionError::Protocol`](crate::ConnectionError::Protocol). A late reply, whose caller
    /// has gone, is allowed and does not close the connection. Costs no memory.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// How long a server may be silent while a reply is due or something is subscribed, before the
    /// client probes it with a `/renew`. Default 10 s, at least 1 s.
    #[must_use]
    pub fn probe(mut self, silence: Duration) -> Self {
        self.probe = silence.max(Duration::from_secs(1));
        self
    }

    /// How long such a server may be silent in all, including an unanswered probe, before the
    /// client closes the connection. The connection then ends with [`ConnectionError::Silent`].
    /// Default 20 s; it is at least 1 s more than [`probe`](Self::probe).
    ///
    /// A server that stops reading because too many requests of this client wait for a place is not
    /// silent: it sends `/hold` every 5 s (docs/protocol/calls.md, section 12). A server that still
    /// takes unwritten bytes is not silent either.
    ///
    /// [`ConnectionError::Silent`]: crate::ConnectionError::Silent
    #[must_use]
    pub fn dead(mut self, silence: Duration) -> Self {
        self.dead = silence;
        self
    }

    /// Whether requests fail at once while there is no connection. Default `false`: calls and
    /// subscriptions wait for a connection until their deadline, and requests that are proven not
    /// executed are sent again.
    ///
    /// With `true`, requests end at once with [`NotSent::Lost`] while the client reconnects, also
    /// after a `/bye`, and none is sent again. Until the first attempt to connect has failed, they
    /// wait in either case.
    ///
    /// These requests are proven not executed: those that were not offered to a connection that
    /// ended, those above the `last` of a `/bye` (docs/protocol/leaving.md, section 18), and those
    /// that were refused with a `retry`. The client sends the last kind again after the `retry` and
    /// a pause, as between attempts to connect.
    ///
    /// [`NotSent::Lost`]: crate::NotSent::Lost
    #[must_use]
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// The first backoff window. The client pauses within a window before it repeats something by
    /// itself: before it connects again, sends a refused request again, subscribes again or
    /// resynchronises. Default 250 ms, at least 10 ms. Each window is twice as long as the one
    /// before, up to [`reconnect_max`](Self::reconnect_max).
    ///
    /// A pause is random, from a tenth of its window to all of it, so that the clients of a lost
    /// server do not come back together. When the client reconnects, it makes one round through the
    /// addresses in each window, at the same place in each (docs/protocol/reconnecting.md, section
    /// 14). If the server sent a `retry`, the client waits for that first, and then for the pause.
    /// The `retry` of a `/bye` applies to that address.
    #[must_use]
    pub fn reconnect_base(mut self, window: Duration) -> Self {
        self.reconnect_base = window.max(LEAST_WINDOW);
        self
    }

    /// The longest backoff window. Default 30 s, at least 10 ms.
    #[must_use]
    pub fn reconnect_max(mut self, window: Duration) -> Self {
        self.reconnect_max = window.max(LEAST_WINDOW);
        self
    }

    /// How long a connection must have been open before the windows begin again with the first.
    /// Also how long a subscription must have lived to be resumed without a pause. Default 10 s.
    /// This protects a server that accepts clients and loses them at once from a flood of attempts.
    #[must_use]
    pub fn reconnect_stable(mut self, time: Duration) -> Self {
        self.reconnect_stable = time;
        self
    }

    /// How long the client tries to reconnect before it ends with the last error. An attempt that
    /// is under way is finished first. Default `None`: it tries for as long as there is a handle.
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

    /// Authenticates by `/auth` if the server asks for it (docs/protocol/access.md, section 19).
    /// Default: no credentials.
    ///
    /// The client sends the credentials after the server's `/hello` and before anything else. Calls
    /// wait until the server has accepted them. If it refuses them, the connection ends. Call this
    /// several times to offer several schemes: the client uses the first that the server offers,
    /// and sends no other. If the server does not ask, the client sends no credentials. Without
    /// TLS, the network can read them.
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

    /// The source of jitter for renewals and attempts to connect. Default: the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }
}

macro_rules! getters {
    ($($getter:ident = $setter:ident: $kind:ty,)*) => {
        /// The values in use. The setters document what each one means.
        impl ClientConfig {
            $(
                #[doc = concat!("The value of [`", stringify!($setter), "`](Self::", stringify!($setter), ").")]
                pub fn $getter(&self) -> $kind {
                    self.$setter
                }
            )*

            /// The value of [`dead`](Self::dead).
            pub fn get_dead(&self) -> Duration {
                self.dead.max(self.probe.saturating_add(LEAST_ANSWER_TIME))
            }

            /// The schemes of [`auth`](Self::auth) with their credentials, in the order of
            /// preference.
            pub fn get_auth(&self) -> impl ExactSizeIterator<Item = (&Code, &Credentials)> {
                self.auth.iter().map(|(scheme, credentials)| (scheme, credentials))
            }

            /// The value of [`random`](Self::random).
            pub fn get_random(&self) -> &Random {
                &self.random
            }
        }
    };
}

getters! {
    get_in_flight = in_flight: usize,
    get_max_line = max_line: usize,
    get_outbound_bytes = outbound_bytes: usize,
    get_unsent_bytes = unsent_bytes: Option<usize>,
    get_control_requests = control_requests: usize,
    get_inbox_items = inbox_items: usize,
    get_inbox_bytes = inbox_bytes: usize,
    get_missed_topics = missed_topics: usize,
    get_held_events = held_events: usize,
    get_deadline = deadline: Option<Duration>,
    get_ack_within = ack_within: Option<Duration>,
    get_connect_timeout = connect_timeout: Duration,
    get_close_timeout = close_timeout: Duration,
    get_strict = strict: bool,
    get_probe = probe: Duration,
    get_fail_fast = fail_fast: bool,
    get_reconnect_base = reconnect_base: Duration,
    get_reconnect_max = reconnect_max: Duration,
    get_reconnect_stable = reconnect_stable: Duration,
    get_give_up_after = give_up_after: Option<Duration>,
}
