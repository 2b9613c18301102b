//! The `retry` of a server: until when clients must not connect to it again.

use std::time::Duration;

use crate::{protocol::Time, sync::Mutex};

/// Until when the server of one connection asks clients not to connect again. It may say so when it
/// refuses credentials, or in a `/bye` long after this client has moved to another server.
#[derive(Debug, Default)]
pub(crate) struct RetryAfter(Mutex<Option<Time>>);

impl RetryAfter {
    /// Takes in a `retry`, which counts from `now`.
    pub(crate) fn give(&self, retry: Option<Duration>, now: Time) {
        let until = retry.map(|retry| now.after(retry));
        let mut own = self.0.lock();
        *own = until.max(*own);
    }

    pub(crate) fn until(&self) -> Option<Time> {
        *self.0.lock()
    }
}
