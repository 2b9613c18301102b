//! Which clients reconnect, when, and at which attempt.

use std::time::Duration;

use bellwire::{ConnectionEvent, ConnectionEvents, protocol::Backoff};
use tokio::{sync::mpsc, time::Instant};

/// The default backoff of a client.
pub(crate) const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(250),
    max: Duration::from_secs(30),
    stable: Duration::from_secs(10),
};

/// A client has reconnected.
pub(crate) struct Return {
    pub(crate) at: Instant,
    /// The number of attempts since the loss.
    pub(crate) attempt: u32,
}

impl Return {
    /// How long it took. The server may have been up for a while before the test noticed it.
    pub(crate) fn took(&self, since: Instant) -> Duration {
        self.at.saturating_duration_since(since)
    }

    /// How long it may have taken: each attempt has one window.
    pub(crate) fn window(&self) -> Duration {
        BACKOFF.window(self.attempt.saturating_sub(1))
    }
}

/// Reports each further time that a client connects.
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
