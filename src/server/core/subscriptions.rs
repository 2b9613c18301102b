//! The subscriptions of one connection: cursors into the topics' logs.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    task::Poll,
};

use crate::{
    protocol::{
        BadPosition, Code, Cursor, Epoch, Escaped, FlowControl, Overtaken, Position, RequestId,
        Terms, Time, Topic, Window, encode_end, encode_end_unread, encode_gap, encode_reset,
    },
    server::{
        core::{
            numbered::{Numbered, OfTopic},
            source::Source,
        },
        mailbox::Mailbox,
        stats::Tally,
    },
    topic::{Read, Room, Unavailable},
};

/// Found by number, by topic, or by having something to be copied: whatever is done for one of them
/// does not depend on how many there are.
#[derive(Default)]
pub(super) struct Subscriptions {
    /// By number, that is in the order of subscribing.
    list: Numbered<Subscription>,
    /// The number of the last one that was begun; none is used twice.
    last: u64,
    /// A `/subscribe` whose store has not answered: no further line is looked at meanwhile, so that
    /// protocol methods keep their order.
    opening: Option<Box<Opening>>,
    /// Those that may have more to copy, in the order of their turns; each once.
    ready: VecDeque<u64>,
    /// Those whose windows are full: they wait for acks.
    full: BTreeSet<u64>,
    /// All that are ready were told that they have to wait.
    were_told: bool,
    /// Empty: room for the numbers of those that have news.
    news: Vec<u64>,
    /// Nothing more will be published.
    is_last: bool,
}

struct Subscription {
    topic: Topic,
    cursor: Cursor,
    /// Only where the client asked for other terms than the default.
    flow: Option<Box<FlowControl>>,
    source: Source,
    /// It stands among those that are ready.
    ready: bool,
    /// It waits for an ack with messages before it, the last there are.
    is_behind: bool,
}

impl OfTopic for Subscription {
    fn topic(&self) -> &Topic {
        &self.topic
    }
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
enum CopyEnd {
    /// It did not keep up, and asked to be ended then.
    Slow,
    /// The log was closed, and it has had all of it.
    Closed,
    Unavailable(Unavailable),
}

impl From<Unavailable> for CopyEnd {
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
        self.list.number_of(topic).is_some()
    }

    fn get(&mut self, topic: &str) -> Option<(u64, &mut Subscription)> {
        let number = self.list.number_of(topic)?;
        Some((number, self.list.get_mut(number)?))
    }

    /// Whether one of them is to `topic`, and stands in the log of this epoch.
    pub(super) fn reads(&self, topic: &str, epoch: Epoch) -> bool {
        let one = self.list.number_of(topic).and_then(|number| self.list.get(number));
        one.is_some_and(|one| one.cursor.position.epoch == epoch)
    }

    /// The number of the subscription that is begun next.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
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
        self.opening = Some(Box::new(Opening { id, topic, from, terms, source, deadline }));
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
        let Opening { id, topic, from, terms, source, .. } = *self.opening.take()?;
        let result = window.map_err(OpenError::Unavailable).and_then(|window| {
            let cursor = Cursor::start(window, from)
                .map_err(|BadPosition| OpenError::BadPosition(next_of(window)))?;
            Ok((window, cursor))
        });
        if let Ok((window, cursor)) = result {
            let flow =
                (terms != Terms::default()).then(|| Box::new(FlowControl::new(terms, window)));
            let number = self.last;
            let (ready, is_behind) = (true, false);
            let one = Subscription { topic, cursor, flow, source, ready, is_behind };
            self.list.push(number, one);
            self.has_turn(number);
        }
        Some(Opened { id, result })
    }

    /// Ends a subscription; where it stood.
    pub(super) fn remove(&mut self, topic: &str) -> Option<Position> {
        let one = self.take(topic)?;
        Some(one.cursor.position)
    }

    fn take(&mut self, topic: &str) -> Option<Subscription> {
        let number = self.list.number_of(topic)?;
        let one = self.list.remove(number)?;
        self.full.remove(&number);
        if one.ready {
            self.ready.retain(|&other| other != number);
        }
        Some(one)
    }

    fn has_turn(&mut self, number: u64) {
        self.ready.push_back(number);
        self.were_told = false;
    }

    /// Takes an ack. One for a topic that is not subscribed to, or of another log, means nothing:
    /// it crossed what ended or changed it.
    ///
    /// # Errors
    /// The next number, when the ack is above it: no client can have handled that.
    pub(super) fn ack(&mut self, topic: &str, ack: Position) -> Result<(), Position> {
        let Some((number, one)) = self.get(topic) else { return Ok(()) };
        let at = one.cursor.position;
        if ack.epoch != at.epoch {
            return Ok(());
        }
        if ack.next > at.next {
            return Err(at);
        }
        let goes_on = one.flow.as_mut().is_some_and(|flow| flow.acked(ack.next));
        one.is_behind &= !goes_on;
        if goes_on && !mem::replace(&mut one.ready, true) {
            self.has_turn(number);
        }
        if goes_on {
            self.full.remove(&number);
        }
        Ok(())
    }

    /// Ends a subscription that the application takes back; its topic, and where it stood.
    pub(super) fn revoke(&mut self, topic: &str) -> Option<(Topic, Position)> {
        let one = self.take(topic)?;
        Some((one.topic, one.cursor.position))
    }

    /// Gives up the `/subscribe` that was begun, if it is to `topic`, or to any; its id.
    pub(super) fn abandon_opening(&mut self, topic: Option<&str>) -> Option<RequestId> {
        let is_it = |one: &mut Box<Opening>| topic.is_none_or(|topic| one.topic.as_str() == topic);
        self.opening.take_if(is_it).map(|opening| opening.id)
    }

    /// Nothing more will be published: each is looked at once more.
    pub(super) fn expect_last(&mut self) {
        self.is_last = true;
        for (number, one) in self.list.iter_mut() {
            if !mem::replace(&mut one.ready, true) {
                self.ready.push_back(number);
                self.were_told = false;
            }
        }
    }

    /// Whether there may be something for one of them that it has not had: until nothing more will be
    /// published, there may.
    pub(super) fn are_owed(&self) -> bool {
        let are_behind = || self.list.values().any(|one| one.is_behind);
        !self.list.is_empty() && (!self.is_last || self.is_ready() || are_behind())
    }

    /// Ends those that have not had all there is; the numbers from where each stands up to the last
    /// one are named.
    pub(super) fn end_unread(&mut self, out: &mut Vec<u8>) {
        for (_, one) in self.list.iter_mut() {
            if let Some(head) = one.unread_head() {
                encode_end_unread(out, &one.topic, one.cursor.position, head);
            }
        }
        self.forget_all();
    }

    /// Ends all, each with `/end TOPIC REASON EPOCH:NEXT`.
    pub(super) fn end_all(&mut self, reason: &Code, out: &mut Vec<u8>) {
        for one in self.list.values() {
            encode_end(out, &one.topic, reason, one.cursor.position);
        }
        self.forget_all();
    }

    fn forget_all(&mut self) {
        self.list = Numbered::default();
        self.ready = VecDeque::new();
        self.full = BTreeSet::new();
    }

    /// `TOPIC:EPOCH:NEXT` of each behind this number, as the reply to `/renew` lists them, and its own
    /// number.
    pub(super) fn positions_behind(&self, number: u64) -> impl Iterator<Item = (u64, String)> {
        let behind = self.list.behind(number);
        behind.map(|(number, one)| (number, format!("{}:{}", one.topic, one.cursor.position)))
    }

    /// News may have come for these.
    pub(super) fn look(&mut self, mailbox: &Mailbox) {
        let mut news = mem::take(&mut self.news);
        mailbox.take_news(&mut news);
        for number in news.drain(..) {
            // It may be gone, or one that is still to begin.
            let Some(one) = self.list.get_mut(number) else { continue };
            one.source.take_queued();
            if !mem::replace(&mut one.ready, true) {
                self.has_turn(number);
            }
        }
        self.news = news;
    }

    /// Gives back the room of those that had their turns.
    pub(super) fn shrink(&mut self) {
        self.ready.shrink_to_fit();
        self.news = Vec::new();
    }

    /// Whether there may be something to copy.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether the peer keeps some of them from being copied: it does not read, or does not
    /// acknowledge.
    pub(super) fn are_behind(&self) -> bool {
        !self.ready.is_empty() || !self.full.is_empty()
    }

    /// Nothing can be copied, because the peer leaves too much unread: subscriptions with something
    /// to copy have to wait.
    pub(super) fn wait(&mut self) {
        if mem::replace(&mut self.were_told, true) {
            return;
        }
        for number in &self.ready {
            let one = self.list.get_mut(*number);
            if let Some(flow) = one.and_then(|one| one.flow.as_mut()) {
                flow.waits();
            }
        }
    }

    /// Copies what is there to the end of `out`, until `room` is used up; each call begins with
    /// another topic, so that a busy one does not starve the rest.
    pub(super) fn copy(&mut self, room: Room, out: &mut Vec<u8>, tally: &mut Tally) {
        let full_at = out.len().saturating_add(room.bytes);
        for _ in 0..self.ready.len() {
            if out.len() >= full_at {
                return;
            }
            let Some(number) = self.ready.pop_front() else { return };
            let Some(one) = self.list.get_mut(number) else { continue };
            let page = &mut Page { out, tally, is_last: self.is_last };
            if let Err(over) = one.copy(full_at, room.max_line, page) {
                page.tally.store_failures += u64::from(matches!(over, CopyEnd::Unavailable(_)));
                let reason = over.reason(&one.topic);
                encode_end(page.out, &one.topic, &reason, one.cursor.position);
                one.ready = false;
                let topic = one.topic.clone();
                self.take(topic.as_str());
            } else if one.ready {
                self.has_turn(number);
            } else if one.is_full() {
                self.full.insert(number);
            }
        }
    }
}

/// Where a connection's lines and its counts go.
struct Page<'a> {
    out: &'a mut Vec<u8>,
    tally: &'a mut Tally,
    is_last: bool,
}

impl CopyEnd {
    fn reason(self, topic: &Topic) -> Code {
        match self {
            Self::Slow => Code::SLOW,
            Self::Closed => Code::CLOSED,
            Self::Unavailable(error) => {
                let topic = Escaped(topic.as_str().as_bytes());
                tracing::error!(%topic, %error, "subscription ended");
                Code::CLOSED
            }
        }
    }
}

impl Subscription {
    fn copy(
        &mut self,
        full_at: usize,
        max_line: usize,
        page: &mut Page<'_>,
    ) -> Result<(), CopyEnd> {
        let begin = page.out.len();
        // The clone allocates only where something is not acknowledged. To undo the steps instead would
        // need the runs that a reset drops.
        let before = (self.cursor, self.flow.as_deref().cloned(), self.is_behind);
        let counted = (page.tally.notifications, page.tally.gaps);
        let copied = self.copy_all(full_at, max_line, page);
        // Whoever revokes and then publishes must not be told of: if what was copied is newer than
        // a command, then the command shows here. It is copied again once the command was obeyed.
        if !self.source.has_commands() {
            return copied;
        }
        page.out.truncate(begin);
        let (cursor, flow, is_behind) = before;
        (self.cursor, self.is_behind) = (cursor, is_behind);
        self.flow.iter_mut().zip(flow).for_each(|(now, before)| **now = before);
        (page.tally.notifications, page.tally.gaps) = counted;
        self.ready = true;
        match copied {
            // The end comes again behind the lines that come again.
            Err(CopyEnd::Slow | CopyEnd::Closed) => Ok(()),
            // A reader that has failed is not polled again.
            Ok(()) | Err(CopyEnd::Unavailable(_)) => copied,
        }
    }

    fn copy_all(
        &mut self,
        full_at: usize,
        max_line: usize,
        page: &mut Page<'_>,
    ) -> Result<(), CopyEnd> {
        while self.ready && page.out.len() < full_at {
            let lines = self.flow.as_ref().map_or(u64::MAX, |flow| flow.room());
            if lines == 0 {
                // Not registered with the log from here on: a published message does not wake it.
                self.hold(page.is_last);
            } else if self.flow.as_ref().is_some_and(|flow| flow.may_skip()) {
                self.skip(page)?;
            } else {
                let room = Room { bytes: full_at - page.out.len(), lines, max_line };
                self.step(room, page)?;
            }
        }
        Ok(())
    }

    /// The number of the last message, if it has not had that.
    fn unread_head(&mut self) -> Option<u64> {
        let Position { epoch, next } = self.cursor.position;
        match self.source.poll_window(Some(self.cursor.position)) {
            Poll::Ready(Ok(log)) if log.epoch == epoch && log.next > next => Some(log.head()),
            _ => None,
        }
    }

    /// Whether nothing more may be delivered without an ack.
    fn is_full(&self) -> bool {
        self.flow.as_ref().is_some_and(|flow| flow.room() == 0)
    }

    /// Waits for an ack.
    fn hold(&mut self, is_last: bool) {
        self.is_behind = is_last && self.unread_head().is_some();
        self.ready = false;
        if let Some(flow) = &mut self.flow {
            flow.waits();
        }
    }

    /// Skips to the newest message, where there is more than one.
    fn skip(&mut self, page: &mut Page<'_>) -> Result<(), CopyEnd> {
        let Poll::Ready(log) = self.source.poll_window(Some(self.cursor.position)) else {
            self.ready = false;
            return Ok(());
        };
        let (log, cursor) = (log?, self.cursor);
        if let Some(last) = self.flow.as_mut().and_then(|flow| flow.skip(cursor, log)) {
            self.name(last, &Code::SLOW, page);
        }
        Ok(())
    }

    fn step(&mut self, room: Room, page: &mut Page<'_>) -> Result<(), CopyEnd> {
        match self.source.poll_read(&self.topic, self.cursor, room, page.out) {
            Poll::Pending => {
                self.ready = false;
                if let Some(flow) = &mut self.flow {
                    flow.caught_up();
                }
                Ok(())
            }
            Poll::Ready(read) => self.advance(read?, page),
        }
    }

    /// Moves the cursor: the step was checked, and does.
    fn advance(&mut self, read: Read, page: &mut Page<'_>) -> Result<(), CopyEnd> {
        let next = self.cursor.position.next;
        match read {
            Read::Copied { last } => {
                self.cursor = self.cursor.delivered(last);
                page.tally.notifications += self.cursor.position.next - next;
                if let Some(flow) = &mut self.flow {
                    flow.delivered(next, last);
                }
            }
            Read::Gap { last, reason } => self.gap(last, &reason, page)?,
            Read::Closed => return Err(CopyEnd::Closed),
            Read::Reset(position) => {
                encode_reset(page.out, &self.topic, position);
                self.cursor = Cursor { position };
                if let Some(flow) = &mut self.flow {
                    flow.reset();
                }
            }
        }
        Ok(())
    }

    /// The numbers up to `last` do not come.
    fn gap(&mut self, last: u64, reason: &Code, page: &mut Page<'_>) -> Result<(), CopyEnd> {
        let mut last = last;
        if let Some(flow) = self.flow.as_ref().filter(|_| *reason == Code::RETENTION) {
            match flow.overtaken(self.cursor, last) {
                Overtaken::Name(upto) => last = upto,
                Overtaken::End => return Err(CopyEnd::Slow),
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
