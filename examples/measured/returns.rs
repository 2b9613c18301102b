//! Which clients come back, when, and at which attempt.

use std::time::Duration;

use bellwire::{ConnectionEvent, ConnectionEvents, protocol::Backoff};
use tokio::{sync::mpsc, time::Instant};

/// A client's backoff, by default.
pub(crate) const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(250),
    max: Duration::from_secs(30),
    stable: Duration::from_secs(10),
};

/// A client is connected again.
pub(crate) struct Return {
    pub(crate) at: Instant,
    /// So many attempts after it was lost.
    pub(crate) attempt: u32,
}

impl Return {
    /// How long that took; its server may have been there a little before it was known.
    pub(crate) fn took(&self, since: Instant) -> Duration {
        self.at.saturating_duration_since(since)
    }

    /// How long it may have taken: there is one window for each attempt.
    pub(crate) fn window(&self) -> Duration {
        BACKOFF.window(self.attempt.saturating_sub(1))
    }
}

/// Tells of each time that a client is connected from here on.
pub(crate) async fn tell(mut events: ConnectionEvents, told: mpsc::UnboundedSender<Return>) {
    let mut last = 0;
    while let Some(event) = events.next().await {
        match event {
            ConnectionEvent::Connecting { attempt, .. } => last = attempt,
            ConnectionEvent::Connected(_) => {
                let _ = told.send(Return { at: Instant::now(), attempt: last });
            }
            _ => {}
        }
    }
}
