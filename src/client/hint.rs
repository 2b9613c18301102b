//! What a server asks of those who would connect to it again, until they do.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::Mutex;

/// Until when the server of one connection asks to be left alone. It may say so at any time: before it
/// knows who this is, and long after this client has turned to another.
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
