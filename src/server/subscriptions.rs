//! The subscriptions of one connection: cursors into the topics' logs.

use std::task::Poll;

use crate::{
    protocol::{
        BadPosition, Code, Cursor, Epoch, Escaped, Overtaken, Pace, Position, RequestId, Terms,
        Time, Topic, Window, encode_end, encode_gap, encode_reset,
    },
    server::{source::Source, stats::Tally},
    topic::{Read, Room, Unavailable},
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
    /// Only where the client asked for other terms than the default.
    pace: Option<Box<Pace>>,
    source: Source,
    ready: bool,
}

struct Opening {
    id: RequestId,
    topic: Topic,
    from: Option<Position>,
    terms: Terms,
    source: Source,
    /// When its store has taken too long.
    deadline: Time,
}

/// What becomes of a `/subscribe`.
pub(super) struct Opened {
    pub(super) id: RequestId,
    pub(super) result: Result<(Window, Cursor), OpenError>,
}

/// Why a subscription ends while it is copied from.
enum Over {
    /// It did not keep up, and asked to be ended then.
    Slow,
    Unavailable(Unavailable),
}

impl From<Unavailable> for Over {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error)
    }
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

    /// Whether one of them is to `topic`, and stands in the log of this epoch.
    pub(super) fn reads(&self, topic: &str, epoch: Epoch) -> bool {
        let mut each = self.list.iter();
        each.any(|one| one.topic.as_str() == topic && one.cursor.position.epoch == epoch)
    }

    /// Begins a `/subscribe`; [`poll_open`](Self::poll_open) says how it ends.
    pub(super) fn open(
        &mut self,
        id: RequestId,
        topic: Topic,
        from: Option<Position>,
        terms: Terms,
        source: Source,
        deadline: Time,
    ) {
        self.opening = Some(Opening { id, topic, from, terms, source, deadline });
    }

    /// When the `/subscribe` that was begun has taken too long.
    pub(super) fn opening_deadline(&self) -> Option<Time> {
        self.opening.as_ref().map(|opening| opening.deadline)
    }

    /// Gives up the `/subscribe` that was begun; its id.
    pub(super) fn give_up_opening(&mut self) -> Option<RequestId> {
        self.opening.take().map(|opening| opening.id)
    }

    /// The end of the `/subscribe` that was begun.
    pub(super) fn poll_open(&mut self) -> Poll<Option<Opened>> {
        let Some(opening) = &mut self.opening else {
            return Poll::Ready(None);
        };
        opening.source.take_queued();
        opening.source.poll_window(None).map(|window| self.opened(window))
    }

    fn opened(&mut self, window: Result<Window, Unavailable>) -> Option<Opened> {
        let Opening { id, topic, from, terms, source, .. } = self.opening.take()?;
        let result = window.map_err(OpenError::Unavailable).and_then(|window| {
            let cursor = Cursor::start(window, from)
                .map_err(|BadPosition| OpenError::BadPosition(next_of(window)))?;
            Ok((window, cursor))
        });
        if let Ok((window, cursor)) = result {
            let pace = (terms != Terms::default()).then(|| Box::new(Pace::new(terms, window)));
            self.ready = true;
            self.list.push(Subscription { topic, cursor, pace, source, ready: true });
        }
        Some(Opened { id, result })
    }

    /// Ends a subscription; where it stood.
    pub(super) fn remove(&mut self, topic: &str) -> Option<Position> {
        let at = self.list.iter().position(|one| one.topic.as_str() == topic)?;
        Some(self.list.remove(at).cursor.position)
    }

    /// Takes an ack. One for a topic that is not subscribed to, or of another log, means nothing:
    /// it crossed what ended or changed it.
    ///
    /// # Errors
    /// The next number, when the ack is above it: nobody can have handled that.
    pub(super) fn ack(&mut self, topic: &str, ack: Position) -> Result<(), Position> {
        let Some(one) = self.list.iter_mut().find(|one| one.topic.as_str() == topic) else {
            return Ok(());
        };
        let at = one.cursor.position;
        if ack.epoch != at.epoch {
            return Ok(());
        }
        if ack.next > at.next {
            return Err(at);
        }
        if one.pace.as_mut().is_some_and(|pace| pace.acked(ack.next)) {
            one.ready = true;
            self.ready = true;
        }
        Ok(())
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
            one.ready |= one.source.take_queued();
            self.ready |= one.ready;
        }
    }

    /// Whether there may be something to copy.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Nothing can be copied since the peer leaves too much unread: whoever has something to be
    /// copied has to wait.
    pub(super) fn wait(&mut self) {
        let paces = self.list.iter_mut().filter(|one| one.ready);
        paces.filter_map(|one| one.pace.as_mut()).for_each(|pace| pace.waits());
    }

    /// Copies what is there to the end of `out`, until `room` is used up; each call begins with
    /// another topic, so that a busy one does not starve the rest.
    pub(super) fn copy(&mut self, room: Room, out: &mut Vec<u8>, tally: &mut Tally) {
        let full_at = out.len() + room.bytes;
        for _ in 0..self.list.len() {
            if out.len() >= full_at {
                return;
            }
            let page = &mut Page { out, tally };
            self.turn = (self.turn + 1) % self.list.len();
            let one = &mut self.list[self.turn];
            if let Err(over) = one.copy(full_at, room.max_line, page) {
                page.tally.store_failures += u64::from(matches!(over, Over::Unavailable(_)));
                let reason = over.reason(&one.topic);
                encode_end(page.out, &one.topic, &reason, one.cursor.position);
                self.list.remove(self.turn);
                return;
            }
        }
        self.ready = self.list.iter().any(|one| one.ready);
    }
}

/// Where a connection's lines and its counts go.
struct Page<'a> {
    out: &'a mut Vec<u8>,
    tally: &'a mut Tally,
}

impl Over {
    fn reason(self, topic: &Topic) -> Code {
        match self {
            Self::Slow => Code::SLOW,
            Self::Unavailable(error) => {
                let topic = Escaped(topic.as_str().as_bytes());
                tracing::error!(%topic, %error, "subscription ended");
                Code::CLOSED
            }
        }
    }
}

impl Subscription {
    fn copy(&mut self, full_at: usize, max_line: usize, page: &mut Page<'_>) -> Result<(), Over> {
        let (begin, before) = (page.out.len(), (self.cursor, self.pace.clone()));
        let counted = (page.tally.notifications, page.tally.gaps);
        let copied = self.copy_all(full_at, max_line, page);
        // Whoever revokes and then publishes must not be told of: if what was copied is newer than
        // an order, then the order shows here. It is copied again once the order was obeyed.
        if self.source.has_orders() {
            page.out.truncate(begin);
            (self.cursor, self.pace) = before;
            (page.tally.notifications, page.tally.gaps) = counted;
            self.ready = true;
        }
        copied
    }

    fn copy_all(
        &mut self,
        full_at: usize,
        max_line: usize,
        page: &mut Page<'_>,
    ) -> Result<(), Over> {
        while self.ready && page.out.len() < full_at {
            let lines = self.pace.as_ref().map_or(u64::MAX, |pace| pace.room());
            if lines == 0 {
                // Not registered with the log from here on: what is published wakes nobody.
                self.hold();
            } else if self.pace.as_ref().is_some_and(|pace| pace.may_skip()) {
                self.skip(page)?;
            } else {
                let room = Room { bytes: full_at - page.out.len(), lines, max_line };
                self.step(room, page)?;
            }
        }
        Ok(())
    }

    /// Waits for an ack.
    fn hold(&mut self) {
        self.ready = false;
        if let Some(pace) = &mut self.pace {
            pace.waits();
        }
    }

    /// Skips to the newest message, where there is more than one.
    fn skip(&mut self, page: &mut Page<'_>) -> Result<(), Over> {
        let Poll::Ready(log) = self.source.poll_window(Some(self.cursor.position)) else {
            self.ready = false;
            return Ok(());
        };
        let (log, cursor) = (log?, self.cursor);
        if let Some(last) = self.pace.as_mut().and_then(|pace| pace.skip(cursor, log)) {
            self.name(last, &Code::SLOW, page);
        }
        Ok(())
    }

    fn step(&mut self, room: Room, page: &mut Page<'_>) -> Result<(), Over> {
        match self.source.poll_read(&self.topic, self.cursor, room, page.out) {
            Poll::Pending => {
                self.ready = false;
                if let Some(pace) = &mut self.pace {
                    pace.caught_up();
                }
                Ok(())
            }
            Poll::Ready(read) => self.advance(read?, page),
        }
    }

    /// Moves the cursor: the step was checked, and does.
    fn advance(&mut self, read: Read, page: &mut Page<'_>) -> Result<(), Over> {
        let next = self.cursor.position.next;
        match read {
            Read::Copied { last } => {
                self.cursor = self.cursor.delivered(last);
                page.tally.notifications += self.cursor.position.next - next;
                if let Some(pace) = &mut self.pace {
                    pace.delivered(next, last);
                }
            }
            Read::Gap { last, reason } => self.gap(last, &reason, page)?,
            Read::Reset(position) => {
                encode_reset(page.out, &self.topic, position);
                self.cursor = Cursor { position };
                if let Some(pace) = &mut self.pace {
                    pace.reset();
                }
            }
        }
        Ok(())
    }

    /// The numbers up to `last` do not come.
    fn gap(&mut self, last: u64, reason: &Code, page: &mut Page<'_>) -> Result<(), Over> {
        let mut last = last;
        if let Some(pace) = self.pace.as_ref().filter(|_| *reason == Code::RETENTION) {
            match pace.overtaken(self.cursor, last) {
                Overtaken::Name(upto) => last = upto,
                Overtaken::End => return Err(Over::Slow),
            }
        }
        self.name(last, reason, page);
        Ok(())
    }

    /// Says that the numbers up to `last` do not come.
    fn name(&mut self, last: u64, reason: &Code, page: &mut Page<'_>) {
        let Position { epoch, next } = self.cursor.position;
        encode_gap(page.out, &self.topic, epoch, next..=last, reason);
        self.cursor = self.cursor.delivered(last);
        page.tally.gaps += 1;
    }
}

fn next_of(window: Window) -> Position {
    Position { epoch: window.epoch, next: window.next }
}
