//! A connection as its handlers see it.

use uuid::Uuid;

use crate::{
    server::{listener::PeerAddr, mailbox::Mailbox},
    sync::Arc,
};

/// The connection a request came on; cheap to clone. An extractor.
#[derive(Clone, Debug)]
pub struct Session(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: Uuid,
    peer: PeerAddr,
    mailbox: Arc<Mailbox>,
}

impl Session {
    pub(super) fn new(id: Uuid, peer: PeerAddr) -> Self {
        let mailbox = Arc::default();
        Self(Arc::new(Shared { id, peer, mailbox }))
    }

    /// The session's id, as `/hello` announced it; unique to the connection.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Where the connection comes from.
    pub fn peer(&self) -> &PeerAddr {
        &self.0.peer
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.0.mailbox
    }
}
