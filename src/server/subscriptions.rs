//! The subscriptions of one connection: cursors into the topics' logs.

use std::task::{Context, Poll, Waker};

use crate::{
    protocol::{
        BadPosition, Code, Cursor, Position, RequestId, Topic, Window, encode_end, encode_gap,
        encode_reset,
    },
    server::mailbox::{Mailbox, SlotWaker},
    sync::Arc,
    topic::{Read, Room, TopicReader, Unavailable},
};

/// In the order of subscribing.
#[derive(Default)]
pub(super) struct Subscriptions {
    list: Vec<Subscription>,
    /// A `/subscribe` whose store has not answered: no further line is looked at meanwhile, so that
    /// protocol methods keep their order.
    opening: Option<Opening>,
    /// Whose turn it is to be copied first.
    turn: usize,
    /// One of `list` may have more to copy.
    ready: bool,
}

struct Subscription {
    topic: Topic,
    cursor: Cursor,
    source: Source,
    ready: bool,
}

struct Source {
    reader: Box<dyn TopicReader>,
    woken: Arc<SlotWaker>,
    waker: Waker,
}

struct Opening {
    id: RequestId,
    topic: Topic,
    from: Option<Position>,
    source: Source,
}

/// What becomes of a `/subscribe`.
pub(super) struct Opened {
    pub(super) id: RequestId,
    pub(super) result: Result<(Window, Cursor), OpenError>,
}

pub(super) enum OpenError {
    BadPosition(Position),
    Unavailable(Unavailable),
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.opening.is_none()
    }

    pub(super) fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    pub(super) fn contains(&self, topic: &str) -> bool {
        self.list.iter().any(|one| one.topic.as_str() == topic)
    }

    /// Begins a `/subscribe`; [`poll_open`](Self::poll_open) says how it ends.
    pub(super) fn open(
        &mut self,
        id: RequestId,
        topic: Topic,
        from: Option<Position>,
        reader: Box<dyn TopicReader>,
        mailbox: &Arc<Mailbox>,
    ) {
        let woken = SlotWaker::new(mailbox.clone(), None);
        let waker = Waker::from(woken.clone());
        self.opening = Some(Opening { id, topic, from, source: Source { reader, woken, waker } });
    }

    /// The end of the `/subscribe` that was begun.
    pub(super) fn poll_open(&mut self) -> Poll<Option<Opened>> {
        let Some(opening) = &mut self.opening else {
            return Poll::Ready(None);
        };
        let Source { reader, woken, waker } = &mut opening.source;
        woken.take_queued();
        match reader.poll_window(&mut Context::from_waker(waker)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(window) => Poll::Ready(self.opened(window)),
        }
    }

    fn opened(&mut self, window: Result<Window, Unavailable>) -> Option<Opened> {
        let Opening { id, topic, from, source } = self.opening.take()?;
        let result = window.map_err(OpenError::Unavailable).and_then(|window| {
            let cursor = Cursor::start(window, from)
                .map_err(|BadPosition| OpenError::BadPosition(next_of(window)))?;
            Ok((window, cursor))
        });
        if let Ok((_, cursor)) = result {
            self.ready = true;
            self.list.push(Subscription { topic, cursor, source, ready: true });
        }
        Some(Opened { id, result })
    }

    /// Ends a subscription; where it stood.
    pub(super) fn remove(&mut self, topic: &str) -> Option<Position> {
        let at = self.list.iter().position(|one| one.topic.as_str() == topic)?;
        Some(self.list.remove(at).cursor.position)
    }

    /// Ends a subscription that the application takes back; its topic, and where it stood.
    pub(super) fn revoke(&mut self, topic: &str) -> Option<(Topic, Position)> {
        let at = self.list.iter().position(|one| one.topic.as_str() == topic)?;
        let one = self.list.remove(at);
        Some((one.topic, one.cursor.position))
    }

    /// Gives up the `/subscribe` that was begun, if it is to `topic`, or to any; its id.
    pub(super) fn abandon_opening(&mut self, topic: Option<&str>) -> Option<RequestId> {
        let is_it = |one: &mut Opening| topic.is_none_or(|topic| one.topic.as_str() == topic);
        self.opening.take_if(is_it).map(|opening| opening.id)
    }

    /// Ends all, each with `/end TOPIC REASON EPOCH:NEXT`.
    pub(super) fn end_all(&mut self, reason: &Code, out: &mut Vec<u8>) {
        for one in self.list.drain(..) {
            encode_end(out, &one.topic, reason, one.cursor.position);
        }
    }

    /// `TOPIC:EPOCH:NEXT` of each, as the reply to `/renew` lists them.
    pub(super) fn positions(&self) -> String {
        let each = self.list.iter();
        let each: Vec<_> =
            each.map(|one| format!("{}:{}", one.topic, one.cursor.position)).collect();
        each.join(" ")
    }

    /// News may have come for some of them.
    pub(super) fn look(&mut self) {
        for one in &mut self.list {
            one.ready |= one.source.woken.take_queued();
            self.ready |= one.ready;
        }
    }

    /// Whether there may be something to copy.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Copies what is there to the end of `out`, until `room` is used up; each call begins with
    /// another topic, so that a busy one does not starve the rest.
    pub(super) fn copy(&mut self, room: Room, out: &mut Vec<u8>) {
        let full_at = out.len() + room.bytes;
        for _ in 0..self.list.len() {
            if out.len() >= full_at {
                return;
            }
            self.turn = (self.turn + 1) % self.list.len();
            let one = &mut self.list[self.turn];
            if let Err(error) = one.copy(full_at, room.max_line, out) {
                tracing::error!(topic = %one.topic, %error, "subscription ended");
                encode_end(out, &one.topic, &Code::CLOSED, one.cursor.position);
                self.list.remove(self.turn);
                return;
            }
        }
        self.ready = self.list.iter().any(|one| one.ready);
    }
}

impl Subscription {
    fn copy(
        &mut self,
        full_at: usize,
        max_line: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Unavailable> {
        let (begin, before) = (out.len(), self.cursor);
        while self.ready && out.len() < full_at {
            let room = Room { bytes: full_at - out.len(), max_line };
            let Source { reader, waker, .. } = &mut self.source;
            let cx = &mut Context::from_waker(waker);
            match reader.poll_read(cx, self.cursor, room, out) {
                Poll::Pending => self.ready = false,
                Poll::Ready(read) => self.advance(read?, out)?,
            }
        }
        // Whoever revokes and then publishes must not be told of: if what was copied is newer than
        // an order, then the order shows here. It is copied again once the order was obeyed.
        if self.source.woken.has_orders() {
            out.truncate(begin);
            self.cursor = before;
            self.ready = true;
        }
        Ok(())
    }

    /// Moves the cursor. A store that does not move it would hold the connection for ever.
    fn advance(&mut self, read: Read, out: &mut Vec<u8>) -> Result<(), Unavailable> {
        let before = self.cursor;
        let Position { epoch, next } = before.position;
        match read {
            Read::Copied { last } => self.cursor = self.cursor.delivered(last),
            Read::Gap { last, reason } if last >= next => {
                encode_gap(out, &self.topic, epoch, next..=last, &reason);
                self.cursor = self.cursor.delivered(last);
            }
            Read::Gap { .. } => {}
            Read::Reset(position) => {
                encode_reset(out, &self.topic, position);
                self.cursor = Cursor { position };
            }
        }
        match self.cursor == before {
            true => Err(Unavailable("the log does not go on".into())),
            false => Ok(()),
        }
    }
}

fn next_of(window: Window) -> Position {
    Position { epoch: window.epoch, next: window.next }
}
