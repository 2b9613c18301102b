//! The open connections of a server.

use dashmap::DashMap;
use uuid::Uuid;

use crate::server::{
    session::{Session, SessionStats},
    stats::ServerStats,
};

/// The open connections of a server.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: DashMap<Uuid, Session>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn get(&self, id: Uuid) -> Option<Session> {
        self.open.get(&id).map(|entry| entry.value().clone())
    }

    pub(super) fn insert(&self, session: Session) {
        self.open.insert(session.id(), session);
    }

    pub(super) fn remove(&self, session: &Session) {
        self.open.remove(&session.id());
    }

    /// All of them. No part of the table is locked any more when they are returned, since the clock
    /// of a foreign driver is user code.
    pub(super) fn all(&self) -> Vec<Session> {
        self.open.iter().map(|entry| entry.value().clone()).collect()
    }

    /// Adds the gauges of all connections to `stats`, one after the other.
    pub(super) fn add_to(&self, stats: &mut ServerStats) {
        for session in self.all() {
            stats.connections += 1;
            stats.in_flight += session.in_flight();
            stats.subscriptions += session.subscriptions();
            let SessionStats { held_bytes, lag, .. } = session.stats();
            stats.largest_held_bytes = stats.largest_held_bytes.max(held_bytes);
            stats.longest_lag = stats.longest_lag.max(lag);
        }
    }
}
