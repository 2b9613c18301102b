//! A connection as its handlers see it.

use uuid::Uuid;

use crate::{
    server::{listener::PeerAddr, mailbox::Mailbox},
    sync::{Arc, AtomicUsize, Ordering},
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
}

impl Session {
    pub(super) fn new(id: Uuid, peer: PeerAddr) -> Self {
        let mailbox = Arc::default();
        let (in_flight, subscriptions) = Default::default();
        Self(Arc::new(Shared { id, peer, mailbox, in_flight, subscriptions }))
    }

    /// The session's id, as `/hello` announced it; unique to the connection.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Where the connection comes from.
    pub fn peer(&self) -> &PeerAddr {
        &self.0.peer
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

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.0.mailbox
    }
}
