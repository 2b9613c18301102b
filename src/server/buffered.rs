//! The bytes that all connections hold, of the one server-wide budget for them.

use crate::sync::{AtomicUsize, Ordering};

/// What the connections hold together, as each counted itself at the end of its last poll:
/// unwritten and unread lines, unfinished ones, and the payloads of requests in flight.
///
/// A connection that holds as much as before does not touch it, and one at rest holds nothing: the
/// common exchange of a request for its reply leaves no trace here.
#[derive(Debug, Default)]
pub(super) struct Buffered(AtomicUsize);

impl Buffered {
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A connection that held `before` bytes holds `after` now.
    pub(super) fn change(&self, before: usize, after: usize) {
        match after.checked_sub(before) {
            Some(more) => self.0.fetch_add(more, Ordering::Relaxed),
            None => self.0.fetch_sub(before - after, Ordering::Relaxed),
        };
    }
}
