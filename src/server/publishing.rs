//! The connections whose requests may still publish, of a server that stops.

use std::pin::pin;

use tokio::sync::Notify;

use crate::sync::{AtomicUsize, Ordering};

/// Counts the connections that may take requests, or have some in flight.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    connections: AtomicUsize,
    done: Notify,
}

impl Publishing {
    /// A connection may take requests.
    pub(super) fn begin(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    /// A connection takes no request any more, and has finished those that it took.
    pub(super) fn end(&self) {
        if self.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_waiters();
        }
    }

    /// Waits until no connection has any.
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
