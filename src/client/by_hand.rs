//! A client whose connections are driven by hand: without a runtime, a transport or a clock.

#![cfg_attr(
    not(feature = "unstable-core"),
    allow(unreachable_pub, dead_code, reason = "public with `unstable-core`")
)]

use std::{fmt, task::Waker};

use crate::{
    client::{
        Client,
        clock::pass_time,
        config::ClientConfig,
        core::{
            Core, connection::Connection, key::LinkId, links::MAX_LEAVING, status::Status,
            step::Step,
        },
        handle::Handle,
        shared::Shared,
    },
    error::ConnectionError,
    protocol::Time,
    sync::Arc,
};

/// Returns a client and its one connection, which the caller has to drive. The client ends with
/// that connection. The client's time begins at 0. It is the time that the driver passed to the
/// connection last.
///
/// The client's futures can be polled by any executor, or by hand. No runtime is needed: a deadline
/// passes when the driver passes a later time to the connection.
///
/// ```
/// use std::{pin::pin, task::{Context, Poll, Waker}};
///
/// use bellwire::{ClientConfig, protocol::Time, unstable::client::{Output, by_hand}};
///
/// let (client, mut connection) = by_hand(ClientConfig::new());
/// let (now, waker) = (Time::from_millis(1), Waker::noop());
/// let mut call = pin!(client.call("random", "6"));
/// assert!(call.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
///
/// let hello = b"* /hello;version=1;session=00000000-0000-4000-8000-000000000001;max-line=65535;\
/// in-flight=1024;lease=60 bellwire\n";
/// connection.handle_input(hello, now)?;
/// connection.finish_input()?;
/// assert_eq!(connection.poll_output(false, waker, now)?, Output::Write);
/// assert_eq!(connection.output(), b"1 random 6\n");
/// connection.handle_written(connection.output().len(), now);
/// connection.handle_flushed();
///
/// connection.handle_input(b"1 ok 4\n", now)?;
/// connection.finish_input()?;
/// let reply = call.as_mut().poll(&mut Context::from_waker(waker));
/// assert!(matches!(reply, Poll::Ready(Ok(number)) if number == "4"));
/// # Ok::<(), bellwire::ConnectionError>(())
/// ```
pub fn by_hand(config: ClientConfig) -> (Client, Connection) {
    let shared = Shared::by_hand(config, false);
    let connection = connection(&shared, Time::default());
    (Client { handle: Arc::new(Handle { shared }) }, connection)
}

/// Returns a client that has one connection after the other, and the [`Dialer`] that makes them.
/// Otherwise as [`by_hand`].
///
/// The client goes on when a connection ends. It resumes its subscriptions on the next connection,
/// and sends again the requests that are proven not executed.
///
/// ```
/// use std::task::Waker;
///
/// use bellwire::{ClientConfig, ConnectionError, protocol::Time, unstable::client::{Dial, dialer}};
///
/// let (client, mut dialer) = dialer(ClientConfig::new());
/// let (now, waker) = (Time::from_millis(1), Waker::noop());
/// assert_eq!(dialer.poll(waker, now), Dial::Connect);
/// let mut first = dialer.connect(now).expect("there is none");
/// assert_eq!(dialer.poll(waker, now), Dial::Nothing);
/// assert!(dialer.connect(now).is_none());
///
/// first.end(&ConnectionError::ClosedByPeer, now);
/// assert_eq!(dialer.poll(waker, now), Dial::Connect);
/// drop(client);
/// assert_eq!(dialer.poll(waker, now), Dial::Ended);
/// ```
pub fn dialer(config: ClientConfig) -> (Client, Dialer) {
    let shared = Shared::by_hand(config, true);
    let dialer = Dialer { shared: shared.clone(), link: None, timeout: None };
    (Client { handle: Arc::new(Handle { shared }) }, dialer)
}

/// Makes the connection of the current link.
fn connection(shared: &Shared, now: Time) -> Connection {
    let config = &shared.config;
    let greeting = now.after(config.connect_timeout);
    let (locked, credentials) = (shared.locked.clone(), config.auth.clone());
    let mut connection = Connection::new(locked, credentials, Some(greeting), now);
    connection.time = shared.clock.by_hand().cloned();
    connection
}

/// What a driver has to do about the connections of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dial {
    /// Nothing. There is a connection on which requests begin, or the driver is making one. Or some
    /// connections have to end first: the client is closing, or is leaving four connections.
    Nothing,
    /// There is no connection: call [`Dialer::connect`], now or after a pause.
    Connect,
    /// The client has ended.
    Ended,
}

/// Makes the connections of a client that is driven by hand, one after the other. It replaces the
/// task that connects for a client with a runtime. The driver decides where to connect to, and
/// when.
///
/// Whenever the waker of [`poll`](Self::poll) is woken, or the time has come, the driver:
///
/// 1. calls [`handle_timeout`](Self::handle_timeout), if it is due at
///    [`next_timeout`](Self::next_timeout);
/// 2. calls [`poll`](Self::poll), which says what to do.
///
/// Once there is a transport, the driver calls [`connect`](Self::connect) and drives the
/// [`Connection`] at once. The previous connection may go on: a server that has sent `/bye`
/// finishes what it has accepted, while new requests begin on the next connection. The driver has
/// to drive the previous connection to its end.
///
/// The driver waits for the pause before an attempt (docs/protocol/reconnecting.md, section 14),
/// and for the time of [`Connection::retry_after`]. [`Client::reconnect_now`] only wakes the
/// driver. The events of attempts ([`ConnectionEvent::Connecting`], `ConnectFailed`,
/// `Disconnected`) are not emitted, because the driver makes the attempts.
///
/// [`ClientConfig::give_up_after`] has no effect. While the client is leaving four connections,
/// [`poll`](Self::poll) returns no [`Dial::Connect`].
///
/// Dropping it ends the client. Its connections send `/quit`, and the driver has to drive them to
/// their end. Calls in flight there keep their outcomes.
///
/// [`ConnectionEvent::Connecting`]: crate::ConnectionEvent::Connecting
pub struct Dialer {
    shared: Arc<Shared>,
    /// The link of the last connection.
    link: Option<LinkId>,
    /// When the timers of the client are due, while no connection handles them.
    timeout: Option<Time>,
}

impl Dialer {
    /// Returns what to do at `now`. `waker` is woken when that may have changed, or when
    /// [`next_timeout`](Self::next_timeout) has become earlier.
    pub fn poll(&mut self, waker: &Waker, now: Time) -> Dial {
        let link = self.link;
        let (dial, timeout) = self.act(now, |core, step| {
            // The first call may take news; the second one registers the waker.
            while core.take_news(waker, step) {}
            let dial = dial(core, link, step);
            (dial, is_awaited(core, link).then(|| core.next_timeout(waker, step)).flatten())
        });
        self.timeout = timeout;
        dial
    }

    /// Begins the next connection, whose transport is ready at `now`. `None` unless
    /// [`poll`](Self::poll) returns [`Dial::Connect`].
    pub fn connect(&mut self, now: Time) -> Option<Connection> {
        let link = self.link;
        if self.act(now, |core, step| dial(core, link, step)) != Dial::Connect {
            return None;
        }
        self.timeout = None;
        let connection = connection(&self.shared, now);
        self.link = Some(connection.link);
        Some(connection)
    }

    /// Reports that an attempt to connect failed at `now`, before there was a transport. Requests
    /// with `fail_fast` end with `error`. Requests that wait for a connection keep `error`, so that
    /// they can say why there is none.
    pub fn handle_failure(&mut self, error: &ConnectionError, now: Time) {
        let link = self.link;
        self.act(now, |core, step| {
            if is_awaited(core, link) {
                core.lose(core.links.current.id, error, step);
            }
        });
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due. While there is a connection, its own
    /// [`handle_timeout`](Connection::handle_timeout) does the same.
    pub fn next_timeout(&self) -> Option<Time> {
        self.timeout
    }

    /// Does what is due at `now`: ends requests whose deadline has passed, and wakes tasks.
    pub fn handle_timeout(&mut self, now: Time) {
        self.timeout = None;
        self.act(now, |core, step| core.handle_timeout(step));
    }

    fn act<R>(&self, now: Time, f: impl FnOnce(&mut Core, &mut Step) -> R) -> R {
        let time = self.shared.clock.by_hand();
        self.shared.locked.update(time.map_or(now, |time| pass_time(time, now)), f)
    }
}

/// Whether there is no connection on which requests begin, and none that is being made. `last` is
/// the link of the last connection.
fn is_awaited(core: &Core, last: Option<LinkId>) -> bool {
    last.is_none_or(|link| !core.links.is_current(link))
}

fn dial(core: &mut Core, last: Option<LinkId>, step: &mut Step) -> Dial {
    if let Status::Ended(_) = core.status() {
        return Dial::Ended;
    }
    let is_awaited = is_awaited(core, last);
    match core.links.closing.clone() {
        None if is_awaited && core.links.leaving.len() < MAX_LEAVING => Dial::Connect,
        Some(why) if is_awaited && core.links.leaving.is_empty() => {
            core.end(&why, step);
            Dial::Ended
        }
        _ => Dial::Nothing,
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.shared.act(|core, step| {
            core.begin_close(ConnectionError::Closed, step);
            core.end(&ConnectionError::Closed, step);
        });
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("link", &self.link).finish_non_exhaustive()
    }
}
