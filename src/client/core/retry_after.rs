//! The `retry` of a server: until when clients should not connect to it again.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::Mutex;

/// Until when the server of one connection asks not to be contacted. It may ask at any time: before
/// it has accepted the credentials, and long after this client has moved to another server.
#[derive(Debug, Default)]
pub(crate) struct Hint(Mutex<Option<Instant>>);

impl Hint {
    /// The server asks for so long, from now on.
    pub(crate) fn give(&self, retry: Option<Duration>) {
        let until = retry.and_then(|retry| Instant::now().checked_add(retry));
        let mut own = self.0.lock();
        *own = until.max(*own);
    }

    pub(crate) fn until(&self) -> Option<Instant> {
        *self.0.lock()
    }
}
