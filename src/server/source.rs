//! A subscription's reader: a store's code, which may fail as any user's may.

use std::task::{Context, Poll, Waker};

use crate::{
    protocol::{Cursor, Topic, Window},
    server::{
        in_flight::guarded,
        mailbox::{Mailbox, SlotWaker},
    },
    sync::Arc,
    topic::{Read, Room, TopicReader, TopicStore, Unavailable},
};

/// A reader and what wakes its connection. One that panics is unavailable from then on, which ends
/// its subscription and no other.
pub(super) struct Source {
    /// Taken out only to be dropped.
    reader: Option<Box<dyn TopicReader>>,
    woken: Arc<SlotWaker>,
    waker: Waker,
}

impl Source {
    pub(super) fn open(
        store: &dyn TopicStore,
        topic: &Topic,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Self, Unavailable> {
        let reader = Some(guarded(|| store.open(topic)).ok_or_else(panicked)?);
        let woken = SlotWaker::new(mailbox.clone(), None);
        let waker = Waker::from(woken.clone());
        Ok(Self { reader, woken, waker })
    }

    /// Whether it was woken since the last call.
    pub(super) fn take_queued(&self) -> bool {
        self.woken.take_queued()
    }

    /// Whether the application has orders for the connection.
    pub(super) fn has_orders(&self) -> bool {
        self.woken.has_orders()
    }

    pub(super) fn poll_window(&mut self) -> Poll<Result<Window, Unavailable>> {
        self.guarded(|reader, cx| reader.poll_window(cx))
    }

    /// What a reader appended to `out` before it panicked may be half a line, and is taken back.
    pub(super) fn poll_read(
        &mut self,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        let before = out.len();
        let read = self.guarded(|reader, cx| reader.poll_read(cx, cursor, room, out));
        if let Poll::Ready(Err(_)) = read {
            out.truncate(before);
        }
        read
    }

    fn guarded<T>(
        &mut self,
        poll: impl FnOnce(&mut dyn TopicReader, &mut Context<'_>) -> Poll<Result<T, Unavailable>>,
    ) -> Poll<Result<T, Unavailable>> {
        let Self { reader, waker, .. } = self;
        let Some(reader) = reader else { return Poll::Ready(Err(panicked())) };
        let polled = guarded(|| poll(&mut **reader, &mut Context::from_waker(waker)));
        polled.unwrap_or_else(|| Poll::Ready(Err(panicked())))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let reader = self.reader.take();
        guarded(|| drop(reader));
    }
}

fn panicked() -> Unavailable {
    Unavailable("it panicked".into())
}
