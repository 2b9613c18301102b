//! A connection, as its handlers see it.

use std::{fmt, time::Duration};

use uuid::Uuid;

use crate::{
    coop::consume_budget,
    protocol::{Code, Time},
    server::{
        access::principal::{ANONYMOUS, Principal},
        buffered::{Buffered, Holding},
        config::ServerConfig,
        ending::Ending,
        mailbox::Mailbox,
        peer_addr::PeerAddr,
    },
    sync::{Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, OnceLock, Ordering},
};

/// The state of one connection, from [`Session::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// How long ago the connection was accepted.
    pub connected: Duration,
    /// Bytes that it holds, which count against
    /// [`buffered_bytes_total`](crate::ServerConfig::buffered_bytes_total): unread, waiting and
    /// unwritten lines, payloads in flight, and finished replies.
    pub held_bytes: usize,
    /// Bytes that wait to be written because the client does not read, beyond those that the two
    /// systems hold.
    pub unwritten_bytes: usize,
    /// Requests that have a place in flight, one-ways and `/publish` included.
    pub in_flight: usize,
    /// Its subscriptions.
    pub subscriptions: usize,
    /// How long notifications have been waiting for the client without a break, because it does not
    /// read as fast as they come, or because a window is full and it does not acknowledge. Zero for
    /// a client that keeps up.
    pub lag: Duration,
    /// How long bytes have been waiting while the client took none of them. Zero for a client that
    /// takes some.
    pub stuck: Duration,
}

/// The connection that a request came on; cheap to clone. An extractor.
///
/// It does not keep the connection open. It may be kept, and stays valid after the connection has
/// closed.
#[derive(Clone, Debug)]
pub struct Session(Arc<SessionInner>);

/// The clock for the durations that the application asks for. The driver provides it. By default
/// the time stands still.
#[derive(Clone, Default)]
pub(super) struct SessionClock(Option<Arc<dyn Fn() -> Time + Send + Sync>>);

impl SessionClock {
    pub(super) fn new(now: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(now)))
    }

    fn now(&self) -> Option<Time> {
        self.0.as_ref().map(|now| now())
    }
}

impl fmt::Debug for SessionClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionClock")
    }
}

#[derive(Debug)]
struct SessionInner {
    id: Uuid,
    peer: PeerAddr,
    mailbox: Arc<Mailbox>,
    in_flight: AtomicUsize,
    subscriptions: AtomicUsize,
    holding: Holding,
    clock: SessionClock,
    /// When the connection began.
    begun: Time,
    /// Since when its subscriptions are behind, in milliseconds of the server's time plus 1; 0 if
    /// they are not.
    behind: AtomicU64,
    /// Set once, by the transport's handshake or by `/auth`.
    principal: OnceLock<Principal>,
    /// The number of the table of keys that `/hello` announced; 0 for none.
    key_store: AtomicU32,
    /// Whether its requests may still publish.
    may_publish: AtomicBool,
    ending: Ending,
}

impl Session {
    pub(super) fn new(
        id: Uuid,
        peer: PeerAddr,
        server: &Arc<Buffered>,
        reply_mark: usize,
        clock: SessionClock,
        begun: Time,
    ) -> Self {
        let mailbox = Arc::default();
        let holding = Holding::new(server.clone(), reply_mark);
        let (in_flight, subscriptions, behind, principal) = Default::default();
        let (key_store, may_publish, ending) = Default::default();
        Self(Arc::new(SessionInner {
            id,
            peer,
            mailbox,
            in_flight,
            subscriptions,
            holding,
            clock,
            begun,
            behind,
            principal,
            key_store,
            may_publish,
            ending,
        }))
    }

    /// A session without a connection.
    pub(super) fn detached(peer: PeerAddr) -> Self {
        let (mailbox, in_flight, subscriptions, behind, principal) = Default::default();
        let (begun, key_store, may_publish, ending) = Default::default();
        Self(Arc::new(SessionInner {
            id: Uuid::new_v4(),
            peer,
            mailbox,
            in_flight,
            subscriptions,
            holding: Holding::new(Arc::default(), ServerConfig::default().reply_mark),
            clock: SessionClock::default(),
            begun,
            behind,
            principal,
            key_store,
            may_publish,
            ending,
        }))
    }

    /// The session's id, which `/hello` announced; unique to the connection.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Where the connection comes from.
    pub fn peer(&self) -> &PeerAddr {
        &self.0.peer
    }

    /// Who the peer is. Anonymous until the peer has authenticated.
    pub fn principal(&self) -> &Principal {
        self.0.principal.get().unwrap_or(&ANONYMOUS)
    }

    pub(super) fn set_principal(&self, principal: Principal) {
        // A connection has one principal, so a second one has no effect.
        let _ = self.0.principal.set(principal);
    }

    /// The number of the table of keys that `/hello` announced; 0 for none.
    pub(super) fn key_store(&self) -> u32 {
        self.0.key_store.load(Ordering::Relaxed)
    }

    pub(super) fn set_key_store(&self, number: u32) {
        self.0.key_store.store(number, Ordering::Relaxed);
    }

    /// Ends the connection's subscription to `topic`, from any task. The client is sent `/end` with
    /// the reason `revoked` and its position (PROTOCOL.md, section 4).
    ///
    /// What is published after this has returned does not reach the connection through that
    /// subscription; what was published before may. A `/subscribe` to the topic that is being
    /// processed is refused with `forbidden`, whatever the
    /// [`Authorizer`](crate::server::Authorizer) said. For a later one the authorizer is called
    /// again, so make it deny first. Without such a subscription, this has no effect.
    ///
    /// ```
    /// use bellwire::ServerHandle;
    ///
    /// fn expel(server: &ServerHandle, name: &str) {
    ///     for session in server.sessions_of(name) {
    ///         session.revoke("members");
    ///     }
    /// }
    /// ```
    pub fn revoke(&self, topic: &str) {
        self.0.mailbox.command_revoke(topic);
    }

    /// Closes the connection, from any task. The client is sent `/bye` with the last id and
    /// `reason`. No request above that id is executed, and subscriptions end at once. Requests in
    /// flight are finished and answered, within the time of a
    /// [`drain`](crate::ServerConfig::drain). What still runs after that is answered `cut closing`
    /// (docs/protocol/leaving.md, section 18).
    ///
    /// What is published after this has returned does not reach the connection. If it is called
    /// several times, the first reason counts.
    pub fn close(&self, reason: Code) {
        self.0.mailbox.command_close(reason);
    }

    /// Waits until the connection is gone: closed by either side, or lost. A connection that is
    /// told to end finishes its requests first: see [`stopping`](Self::stopping).
    ///
    /// This is for tasks that outlive their request. The handlers of a lost connection are dropped.
    ///
    /// ```
    /// use bellwire::Session;
    ///
    /// async fn watch(session: Session) {
    ///     tokio::spawn(async move {
    ///         session.closed().await;
    ///         println!("{} has gone", session.id());
    ///     });
    /// }
    /// # let _ = bellwire::Router::new().method("watch", watch);
    /// ```
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn closed(&self) {
        consume_budget().await;
        self.ending().closed().await;
    }

    pub(super) fn ending(&self) -> &Ending {
        &self.0.ending
    }

    /// Sets whether its requests may still publish. Returns whether that changed.
    pub(super) fn set_may_publish(&self, may_publish: bool) -> bool {
        self.0.may_publish.swap(may_publish, Ordering::Relaxed) != may_publish
    }

    /// The state of the connection, for finding clients that are slow or hold much memory. After
    /// the connection has closed, everything except its age is zero.
    ///
    /// The connection updates these figures at the end of each poll. Reading them delays nothing.
    /// Durations are computed when they are read.
    ///
    /// ```
    /// use std::{cmp::Reverse, time::Duration};
    /// use bellwire::ServerHandle;
    ///
    /// fn who_is_slow(server: &ServerHandle) {
    ///     for session in server.sessions() {
    ///         let stats = session.stats();
    ///         if stats.lag.max(stats.stuck) > Duration::from_secs(5) {
    ///             println!("{} ({:?}): {stats:?}", session.peer(), session.principal());
    ///         }
    ///     }
    /// }
    ///
    /// fn who_holds_memory(server: &ServerHandle) {
    ///     let mut sessions = server.sessions();
    ///     sessions.sort_by_key(|session| Reverse(session.stats().held_bytes));
    ///     for session in sessions.iter().take(10) {
    ///         println!("{} ({:?}): {:?}", session.peer(), session.principal(), session.stats());
    ///     }
    /// }
    /// ```
    pub fn stats(&self) -> SessionStats {
        let SessionInner { clock, begun, behind, holding, .. } = &*self.0;
        let now = clock.now().unwrap_or(*begun);
        let since = |millis: u64| Time::from_millis(millis).until(now);
        let behind = behind.load(Ordering::Relaxed).checked_sub(1);
        SessionStats {
            connected: begun.until(now),
            held_bytes: holding.bytes(),
            unwritten_bytes: holding.unwritten(),
            in_flight: self.in_flight(),
            subscriptions: self.subscriptions(),
            lag: behind.map_or(Duration::ZERO, since),
            stuck: holding.stuck().map_or(Duration::ZERO, since),
        }
    }

    /// Sets whether the peer keeps subscriptions waiting. `now` is called only if that has changed.
    pub(super) fn set_behind(&self, is_behind: bool, now: impl FnOnce() -> Time) {
        let behind = &self.0.behind;
        match (is_behind, behind.load(Ordering::Relaxed)) {
            (true, 0) => behind.store(now().as_millis().saturating_add(1), Ordering::Relaxed),
            (false, 1..) => behind.store(0, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Clears the figures of a connection that has closed.
    pub(super) fn forget(&self) {
        self.set_gauges(0, 0);
        self.0.holding.set_unwritten(0);
        self.0.holding.set_stuck(None);
        self.0.behind.store(0, Ordering::Relaxed);
    }

    /// Requests in flight, as of the connection's last poll.
    pub(super) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Acquire)
    }

    /// Subscriptions, as of the connection's last poll.
    pub(super) fn subscriptions(&self) -> usize {
        self.0.subscriptions.load(Ordering::Relaxed)
    }

    pub(super) fn set_gauges(&self, in_flight: usize, subscriptions: usize) {
        self.0.subscriptions.store(subscriptions, Ordering::Relaxed);
        self.0.in_flight.store(in_flight, Ordering::Release);
    }

    /// The bytes that the connection holds.
    pub(super) fn holding(&self) -> &Holding {
        &self.0.holding
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.0.mailbox
    }
}
