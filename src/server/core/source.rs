//! The reader of a subscription. It is code of a topic store, which may fail like any user code.

use std::task::{Context, Poll, ready};

use crate::{
    guard::guarded,
    protocol::{Cursor, Position, Topic, Window},
    server::{
        mailbox::{Mailbox, Whom},
        user_code::UserCode,
    },
    sync::Arc,
    topic::{Publisher, Read, Room, TopicReader, Unavailable, check_read, check_window},
};

/// A reader, and the waker of its connection. A reader that panics or returns a wrong value counts
/// as unavailable, which ends only its own subscription.
///
/// **Invariant:** every value that this returns was checked. Its callers need not trust a store.
pub(super) struct Source {
    reader: UserCode<Box<dyn TopicReader>>,
    /// Whether the store is the default one, whose lines this crate has encoded.
    is_own: bool,
}

impl Source {
    /// Opens a reader for the subscription with this number.
    pub(super) fn open(
        publisher: &Publisher,
        topic: &Topic,
        number: u64,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Self, Unavailable> {
        let reader = guarded(|| publisher.store().open(topic)).ok_or_else(panicked)?;
        let reader = UserCode::new(Some(reader), mailbox, Whom::Subscription(number));
        Ok(Self { reader, is_own: publisher.is_own() })
    }

    /// Whether it was woken since the last call.
    pub(super) fn take_queued(&self) -> bool {
        self.reader.take_queued()
    }

    /// Whether the application has commands for the connection.
    pub(super) fn has_commands(&self) -> bool {
        self.reader.has_commands()
    }

    /// The window of the log, for a subscription at position `at`, or for one that begins.
    pub(super) fn poll_window(
        &mut self,
        at: Option<Position>,
    ) -> Poll<Result<Window, Unavailable>> {
        let window = ready!(self.guarded(|reader, cx| reader.poll_window(cx)));
        Poll::Ready(window.and_then(|window| check_window(window, at).map(|()| window)))
    }

    /// Takes the cursor's next step. If it fails, `out` is unchanged.
    ///
    /// A store of the application writes to a buffer of its own, because `out` has lines of other
    /// subscriptions.
    pub(super) fn poll_read(
        &mut self,
        topic: &Topic,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        let (before, is_own, mut apart) = (out.len(), self.is_own, Vec::new());
        let (lines, begin) = if is_own { (&mut *out, before) } else { (&mut apart, 0) };
        let read = self.guarded(|reader, cx| reader.poll_read(cx, cursor, room, lines));
        let lines = lines.get(begin..).unwrap_or_default();
        let read = ready!(read).and_then(|read| {
            check_read(&read, topic, cursor.position, room, lines, is_own).map(|()| read)
        });
        match &read {
            Ok(_) => out.extend_from_slice(&apart),
            Err(_) => out.truncate(before),
        }
        Poll::Ready(read)
    }

    fn guarded<T>(
        &mut self,
        poll: impl FnOnce(&mut dyn TopicReader, &mut Context<'_>) -> Poll<Result<T, Unavailable>>,
    ) -> Poll<Result<T, Unavailable>> {
        let polled = self.reader.poll(|reader, cx| poll(&mut **reader, cx));
        polled.unwrap_or_else(|| Poll::Ready(Err(panicked())))
    }
}

fn panicked() -> Unavailable {
    Unavailable("the topic store panicked".into())
}
