//! The open connections of a server.

use dashmap::DashMap;
use uuid::Uuid;

use crate::server::session::Session;

/// The open connections of a server.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: DashMap<Uuid, Session>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn insert(&self, session: Session) {
        self.open.insert(session.id(), session);
    }

    pub(super) fn remove(&self, session: &Session) {
        self.open.remove(&session.id());
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Session> {
        self.open.iter().map(|entry| entry.value().clone())
    }
}
