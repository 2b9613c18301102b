//! Counts the connections whose requests may still publish, while a server stops.

use std::pin::pin;

use tokio::sync::Notify;

use crate::sync::{AtomicUsize, Ordering};

/// Counts the connections that accept requests or have requests in flight.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    connections: AtomicUsize,
    done: Notify,
}

impl Publishing {
    /// A connection begins to accept requests.
    pub(super) fn begin(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    /// A connection accepts no more requests, and those that it accepted have ended.
    pub(super) fn end(&self) {
        if self.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_waiters();
        }
    }

    /// Waits until there is no such connection.
    pub(super) async fn done(&self) {
        let mut done = pin!(self.done.notified());
        done.as_mut().enable();
        while self.connections.load(Ordering::Acquire) > 0 {
            done.as_mut().await;
            done.set(self.done.notified());
            done.as_mut().enable();
        }
    }
}
