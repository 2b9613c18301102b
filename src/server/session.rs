//! A connection as its handlers see it.

use uuid::Uuid;

use crate::{
    protocol::Code,
    server::{
        Shared as Server,
        buffered::Holding,
        listener::PeerAddr,
        mailbox::Mailbox,
        principal::{ANONYMOUS, Principal},
        stopping::{Ending, Stopping},
    },
    sync::{Arc, AtomicBool, AtomicUsize, OnceLock, Ordering},
};

/// The connection a request came on; cheap to clone. An extractor.
///
/// It names the connection and does not hold it: it may be kept, and it says the same after the
/// connection has closed.
#[derive(Clone, Debug)]
pub struct Session(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: Uuid,
    peer: PeerAddr,
    mailbox: Arc<Mailbox>,
    in_flight: AtomicUsize,
    subscriptions: AtomicUsize,
    holding: Holding,
    /// Set once, by the transport's handshake or by `/auth`.
    principal: OnceLock<Principal>,
    /// What was asked for on the connection may still publish.
    may_publish: AtomicBool,
    ending: Ending,
}

impl Session {
    pub(super) fn new(id: Uuid, peer: PeerAddr, server: &Server) -> Self {
        let mailbox = Arc::default();
        let holding = Holding::new(server.buffered.clone(), server.config.reply_mark);
        let (in_flight, subscriptions, principal) = Default::default();
        let (may_publish, ending) = Default::default();
        Self(Arc::new(Shared {
            id,
            peer,
            mailbox,
            in_flight,
            subscriptions,
            holding,
            principal,
            may_publish,
            ending,
        }))
    }

    /// The session's id, as `/hello` announced it; unique to the connection.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Where the connection comes from.
    pub fn peer(&self) -> &PeerAddr {
        &self.0.peer
    }

    /// Who the peer is; anonymous as long as nobody knows.
    pub fn principal(&self) -> &Principal {
        self.0.principal.get().unwrap_or(&ANONYMOUS)
    }

    pub(super) fn set_principal(&self, principal: Principal) {
        // Whoever was known first stays: a connection has one principal.
        let _ = self.0.principal.set(principal);
    }

    /// Ends the connection's subscription to `topic`, from any task: the client is told `/end`,
    /// `revoked`, and its position (PROTOCOL.md, section 9.4).
    ///
    /// What is published after this has returned does not reach the connection through that
    /// subscription; what was on its way before may. A `/subscribe` to the topic that is under way
    /// is refused `forbidden`, whatever the [`Authorizer`](crate::server::Authorizer) had said;
    /// a later one is asked for anew, so have the authoriser deny first. Without effect where there
    /// is no such subscription.
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
        self.0.mailbox.order_revoke(topic);
    }

    /// Closes the connection, from any task: the client is told `/bye` with the last id and
    /// `reason`; no request above that id is executed; subscriptions end at once; what runs is
    /// finished and answered, and takes no longer than handlers may (PROTOCOL.md, section 9.7).
    ///
    /// What is published after this has returned does not reach the connection. Of several reasons
    /// the first counts.
    pub fn close(&self, reason: Code) {
        self.0.mailbox.order_close(reason);
    }

    /// Ends when the connection is told to end, so that what runs on it can end by itself: see
    /// [`Stopping`], which is an extractor, too.
    pub fn stopping(&self) -> Stopping {
        Stopping::new(self)
    }

    /// Waits until the connection is gone: closed by either side, or lost. A connection that is told
    /// to end first finishes what runs on it: [`stopping`](Self::stopping).
    ///
    /// The handlers of a connection that is lost are dropped. This is for tasks that outlive their
    /// request.
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
        self.ending().closed().await;
    }

    pub(super) fn ending(&self) -> &Ending {
        &self.0.ending
    }

    /// Notes whether what was asked for may publish; whether that is new.
    pub(super) fn set_may_publish(&self, may_publish: bool) -> bool {
        self.0.may_publish.swap(may_publish, Ordering::Relaxed) != may_publish
    }

    /// Requests that run, as the connection counted them last.
    pub(super) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Acquire)
    }

    /// Subscriptions, as the connection counted them last.
    pub(super) fn subscriptions(&self) -> usize {
        self.0.subscriptions.load(Ordering::Relaxed)
    }

    pub(super) fn set_gauges(&self, in_flight: usize, subscriptions: usize) {
        self.0.subscriptions.store(subscriptions, Ordering::Relaxed);
        self.0.in_flight.store(in_flight, Ordering::Release);
    }

    /// What the connection holds.
    pub(super) fn holding(&self) -> &Holding {
        &self.0.holding
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.0.mailbox
    }
}
