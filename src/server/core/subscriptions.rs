//! The subscriptions of one connection: cursors into the topics' logs.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    ops::{Deref, DerefMut},
    task::Poll,
};

use crate::{
    protocol::{
        BadPosition, Begin, Code, Cursor, Epoch, Escaped, FlowControl, Overtaken, Position,
        RequestId, Terms, Time, Topic, Window, encode_end, encode_end_unread, encode_gap,
        encode_reset,
    },
    server::{
        core::{
            numbered::{Numbered, OfTopic},
            source::Source,
        },
        mailbox::Mailbox,
        stats::Tally,
    },
    sync::Arc,
    topic::{Confirmations, Read, Room, Subscriber, Unavailable},
};

/// Subscriptions are found by number, by topic, or by being ready. The cost for one of them does
/// not depend on how many there are.
#[derive(Default)]
pub(super) struct Subscriptions {
    /// By number, which is the order of subscribing.
    list: Numbered<Subscription>,
    /// The number of the subscription that began last. No number is used twice.
    last: u64,
    /// A `/subscribe` whose store has not answered. Later protocol requests wait meanwhile, so that
    /// they keep their order.
    opening: Option<Box<Opening>>,
    /// Subscriptions that may have more to copy, in the order of their turns. Each is in it once.
    ready: VecDeque<u64>,
    /// Subscriptions whose windows are full, and that wait for acks.
    full: BTreeSet<u64>,
    /// Whether all ready subscriptions were told that they have to wait.
    were_told: bool,
    /// An empty vector, kept for the numbers of subscriptions that have news.
    news: Vec<u64>,
    /// Nothing more will be published.
    is_last: bool,
}

struct Subscription {
    topic: Topic,
    cursor: Cursor,
    /// Set only if the client asked for terms other than the default.
    flow: Option<Box<Flow>>,
    source: Source,
    /// Whether it is in the queue of ready subscriptions.
    ready: bool,
    /// Whether it waits for an ack although nothing more will be published, and has more to
    /// deliver.
    is_behind: bool,
}

/// What a subscription with other terms than the default has in addition.
struct Flow {
    control: FlowControl,
    /// Set if the client acknowledges.
    subscriber: Option<Subscriber>,
}

impl Deref for Flow {
    type Target = FlowControl;

    fn deref(&self) -> &FlowControl {
        &self.control
    }
}

impl DerefMut for Flow {
    fn deref_mut(&mut self) -> &mut FlowControl {
        &mut self.control
    }
}

impl OfTopic for Subscription {
    fn topic(&self) -> &Topic {
        &self.topic
    }
}

/// A `/subscribe` that waits for its store.
pub(super) struct Opening {
    pub(super) id: RequestId,
    pub(super) topic: Topic,
    pub(super) begin: Begin,
    pub(super) terms: Terms,
    pub(super) source: Source,
    pub(super) confirmations: Arc<Confirmations>,
    /// When the store has taken too long.
    pub(super) deadline: Time,
}

/// The result of a `/subscribe`.
pub(super) struct Opened {
    pub(super) id: RequestId,
    pub(super) result: Result<(Window, Cursor), OpenError>,
}

/// Why a subscription ends while its log is copied.
enum CopyEnd {
    /// The client did not keep up, and asked for an end in that case.
    Slow,
    /// The log was closed, and everything was delivered.
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

    /// Whether a subscription reads `topic` in the log of this epoch.
    pub(super) fn reads(&self, topic: &str, epoch: Epoch) -> bool {
        let one = self.list.number_of(topic).and_then(|number| self.list.get(number));
        one.is_some_and(|one| one.cursor.position.epoch == epoch)
    }

    /// The number of the subscription that is begun next.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Begins a `/subscribe`. [`poll_open`](Self::poll_open) returns its result.
    pub(super) fn open(&mut self, opening: Opening) {
        self.opening = Some(Box::new(opening));
    }

    /// When the store of the open `/subscribe` has taken too long.
    pub(super) fn opening_deadline(&self) -> Option<Time> {
        self.opening.as_ref().map(|opening| opening.deadline)
    }

    /// Gives up the open `/subscribe`. Returns its id.
    pub(super) fn give_up_opening(&mut self) -> Option<RequestId> {
        self.opening.take().map(|opening| opening.id)
    }

    /// Polls the open `/subscribe`. Returns its result.
    pub(super) fn poll_open(&mut self) -> Poll<Option<Opened>> {
        let Some(opening) = &mut self.opening else {
            return Poll::Ready(None);
        };
        opening.source.take_queued();
        opening.source.poll_window(None).map(|window| self.opened(window))
    }

    fn opened(&mut self, window: Result<Window, Unavailable>) -> Option<Opened> {
        let Opening { id, topic, begin, terms, source, confirmations, .. } =
            *self.opening.take()?;
        let result = window.map_err(OpenError::Unavailable).and_then(|window| {
            let cursor = begin
                .cursor(window)
                .map_err(|BadPosition| OpenError::BadPosition(next_of(window)))?;
            Ok((window, cursor))
        });
        if let Ok((window, cursor)) = result {
            let flow = (terms != Terms::default()).then(|| {
                // It is counted from now on: it gets every message after this window.
                let subscriber = terms.window.map(|_| confirmations.join(&topic));
                Box::new(Flow { control: FlowControl::new(terms, window), subscriber })
            });
            let number = self.last;
            let (ready, is_behind) = (true, false);
            let one = Subscription { topic, cursor, flow, source, ready, is_behind };
            self.list.push(number, one);
            self.has_turn(number);
        }
        Some(Opened { id, result })
    }

    /// Ends a subscription. Returns its position.
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

    /// Takes an ack. It has no effect if it is for a topic without subscription, or for another
    /// epoch: the client sent it before it learned of the change.
    ///
    /// # Errors
    /// The next number, if the ack is above it: the client cannot have handled that message.
    pub(super) fn ack(&mut self, topic: &str, ack: Position) -> Result<(), Position> {
        let Some((number, one)) = self.get(topic) else { return Ok(()) };
        let at = one.cursor.position;
        if ack.epoch != at.epoch {
            return Ok(());
        }
        if ack.next > at.next {
            return Err(at);
        }
        if let Some(subscriber) = one.subscriber() {
            subscriber.acknowledged(ack);
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

    /// Ends a subscription that the application revokes. Returns its topic and its position.
    pub(super) fn revoke(&mut self, topic: &str) -> Option<(Topic, Position)> {
        let one = self.take(topic)?;
        Some((one.topic, one.cursor.position))
    }

    /// Gives up the open `/subscribe`, if it is for `topic`, or for any topic if that is `None`.
    /// Returns its id.
    pub(super) fn abandon_opening(&mut self, topic: Option<&str>) -> Option<RequestId> {
        let is_it = |one: &mut Box<Opening>| topic.is_none_or(|topic| one.topic.as_str() == topic);
        self.opening.take_if(is_it).map(|opening| opening.id)
    }

    /// Nothing more will be published. Each subscription gets one more turn.
    pub(super) fn expect_last(&mut self) {
        self.is_last = true;
        for (number, one) in self.list.iter_mut() {
            if !mem::replace(&mut one.ready, true) {
                self.ready.push_back(number);
                self.were_told = false;
            }
        }
    }

    /// Whether a subscription may still have something to deliver. That is so as long as messages
    /// may be published.
    pub(super) fn are_owed(&self) -> bool {
        let are_behind = || self.list.values().any(|one| one.is_behind);
        !self.list.is_empty() && (!self.is_last || self.is_ready() || are_behind())
    }

    /// Ends all subscriptions. For those that have more to deliver, an `/end` with the last number
    /// of the log is written.
    pub(super) fn end_unread(&mut self, out: &mut Vec<u8>) {
        for (_, one) in self.list.iter_mut() {
            if let Some(head) = one.unread_head() {
                encode_end_unread(out, &one.topic, one.cursor.position, head);
            }
        }
        self.forget_all();
    }

    /// Ends all subscriptions, each with `/end TOPIC REASON EPOCH:NEXT`.
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

    /// The number of each subscription above `number`, and its `TOPIC:EPOCH:NEXT` as `/renew` lists
    /// it.
    pub(super) fn positions_behind(&self, number: u64) -> impl Iterator<Item = (u64, String)> {
        let behind = self.list.behind(number);
        behind.map(|(number, one)| (number, format!("{}:{}", one.topic, one.cursor.position)))
    }

    /// Takes the news from `mailbox`, and makes the subscriptions that have some ready.
    pub(super) fn look(&mut self, mailbox: &Mailbox) {
        let mut news = mem::take(&mut self.news);
        mailbox.take_news(&mut news);
        for number in news.drain(..) {
            // The subscription may have ended, or may not have begun.
            let Some(one) = self.list.get_mut(number) else { continue };
            one.source.take_queued();
            if !mem::replace(&mut one.ready, true) {
                self.has_turn(number);
            }
        }
        self.news = news;
    }

    /// Frees the room of subscriptions that had their turns.
    pub(super) fn shrink(&mut self) {
        self.ready.shrink_to_fit();
        self.news = Vec::new();
    }

    /// Whether there may be something to copy.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether the peer keeps subscriptions waiting, because it does not read or does not
    /// acknowledge.
    pub(super) fn are_behind(&self) -> bool {
        !self.ready.is_empty() || !self.full.is_empty()
    }

    /// Nothing can be copied, because the peer leaves too much unread. The ready subscriptions are
    /// told that they have to wait.
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

    /// Copies from the logs to `out`, until `room` is used up. Each call begins with another topic,
    /// so that a busy topic does not starve the others.
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
        // This allocates only if something is not acknowledged. The steps cannot be undone one by
        // one, because a reset drops the runs of the window.
        let before =
            (self.cursor, self.flow.as_ref().map(|flow| flow.control.clone()), self.is_behind);
        let counted = (page.tally.notifications, page.tally.gaps);
        let copied = self.copy_all(full_at, max_line, page);
        // A message published after `revoke` must not be delivered. If a copied one is newer than
        // a command, then the command shows here. It is copied again once the command was obeyed.
        if !self.source.has_commands() {
            return copied;
        }
        page.out.truncate(begin);
        let (cursor, flow, is_behind) = before;
        (self.cursor, self.is_behind) = (cursor, is_behind);
        self.flow.iter_mut().zip(flow).for_each(|(now, before)| now.control = before);
        (page.tally.notifications, page.tally.gaps) = counted;
        self.ready = true;
        match copied {
            // The end is found again after the lines are copied again.
            Err(CopyEnd::Slow | CopyEnd::Closed) => Ok(()),
            // A reader that has failed must not be polled again, so its end is not undone.
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
                // The reader is not polled, so a published message does not wake it.
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

    /// The number of the log's last message, if that is still to be delivered.
    fn unread_head(&mut self) -> Option<u64> {
        let Position { epoch, next } = self.cursor.position;
        match self.source.poll_window(Some(self.cursor.position)) {
            Poll::Ready(Ok(log)) if log.epoch == epoch && log.next > next => Some(log.head()),
            _ => None,
        }
    }

    /// Whether nothing more may be delivered before an ack.
    fn is_full(&self) -> bool {
        self.flow.as_ref().is_some_and(|flow| flow.room() == 0)
    }

    /// Makes the subscription wait for an ack.
    fn hold(&mut self, is_last: bool) {
        self.is_behind = is_last && self.unread_head().is_some();
        self.ready = false;
        if let Some(flow) = &mut self.flow {
            flow.waits();
        }
    }

    /// Skips to the newest message, if there is more than one.
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

    /// Applies a step of the reader. `Source` has checked it.
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

    /// The numbers up to `last` will not be delivered.
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

    /// Its place among those whose acks a publisher may wait for.
    fn subscriber(&self) -> Option<&Subscriber> {
        self.flow.as_ref()?.subscriber.as_ref()
    }

    /// Writes a `/gap` for the numbers up to `last`.
    fn name(&mut self, last: u64, reason: &Code, page: &mut Page<'_>) {
        let Position { epoch, next } = self.cursor.position;
        encode_gap(page.out, &self.topic, epoch, next..=last, reason);
        if let Some(subscriber) = self.subscriber() {
            subscriber.missed(epoch, next, last);
        }
        self.cursor = self.cursor.delivered(last);
        page.tally.gaps += 1;
    }
}

fn next_of(window: Window) -> Position {
    Position { epoch: window.epoch, next: window.next }
}
