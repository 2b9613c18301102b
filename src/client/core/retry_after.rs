//! The `retry` of a server: until when clients should not connect to it again.

use std::time::Duration;

use crate::{protocol::Time, sync::Mutex};

/// Until when the server of one connection asks not to be contacted. It may ask at any time: before
/// it has accepted the credentials, and long after this client has moved to another server.
#[derive(Debug, Default)]
pub(crate) struct RetryAfter(Mutex<Option<Time>>);

impl RetryAfter {
    /// The server asks for so long, from `now` on.
    pub(crate) fn give(&self, retry: Option<Duration>, now: Time) {
        let until = retry.map(|retry| now.after(retry));
        let mut own = self.0.lock();
        *own = until.max(*own);
    }

    pub(crate) fn until(&self) -> Option<Time> {
        *self.0.lock()
    }
}
