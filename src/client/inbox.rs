//! The queue between the driver and one stream of notifications: bounded, and never silent.

use std::{
    collections::VecDeque,
    fmt,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

#[cfg(feature = "json")]
use crate::client::{CodecError, Decode, JsonCodec};
use crate::{
    client::{acks::AckHandle, topics::REMEMBERED},
    protocol::{Code, Epoch, Position, Topic},
    sync::Mutex,
};

/// One notification.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notification {
    /// The topic.
    pub topic: Topic,
    /// The topic's log.
    pub epoch: Epoch,
    /// Its number in the log, from 1, without holes.
    pub sequence: u64,
    /// What was published.
    pub payload: Bytes,
    /// Set where it is acknowledged by hand.
    pub(crate) ack: AckHandle,
}

impl Notification {
    /// The payload as JSON; an absent one is read as `null` (PROTOCOL.md, section 7.12).
    ///
    /// ```
    /// use bellwire::{CodecError, Notification};
    ///
    /// fn rent(news: &Notification) -> Result<u32, CodecError> {
    ///     news.json()
    /// }
    /// ```
    ///
    /// # Errors
    /// What the payload has that the type does not take.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, CodecError> {
        JsonCodec.decode(&self.payload)
    }

    /// Acknowledges this notification, and none but this: it is handled.
    ///
    /// For subscriptions that are acknowledged [by hand](crate::Subscribe::ack_by_hand); on any
    /// other, a second time, and once the [`Subscription`](crate::Subscription) is gone, it does
    /// nothing. May be called in any order, from anywhere. The server is told the lowest number that
    /// is not acknowledged, once that has risen by half the window.
    ///
    /// Implements PROTOCOL.md, section 11.7.
    pub fn ack(&self) {
        self.ack.ack(self.epoch, self.sequence);
    }
}

/// Numbers that did not come, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The topic.
    pub topic: Topic,
    /// The topic's log.
    pub epoch: Epoch,
    /// The first number missed.
    pub first: u64,
    /// The last number missed.
    pub last: u64,
    /// Who missed them.
    pub cause: GapCause,
}

/// Why numbers did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapCause {
    /// The server named them, for this reason.
    Server(Code),
    /// They went missing without a word from the server.
    Lost,
    /// The application read too slowly: this stream's queue was full.
    Lagged,
}

/// What a stream of notifications yields. Nothing is left out without one of these saying so
/// (guarantee N3).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// A notification.
    Notification(Notification),
    /// Numbers that will not come.
    Gap(Gap),
    /// The topic's log is another one now; what was missed of the old one is unknown.
    Reset {
        /// The topic.
        topic: Topic,
        /// The new log, and the number that comes next.
        position: Position,
    },
    /// The subscription is over. It may be resumed from the position.
    End {
        /// The topic.
        topic: Topic,
        /// Why: the server's reason (`closed`, `revoked`, `slow`), or that of the refusal to go on; or
        /// `lost`, if the client has ended, [`Client::close`](crate::Client::close) included, or if the
        /// subscription was to end upon a loss.
        reason: Code,
        /// Where to resume; `None` if it never began.
        position: Option<Position>,
    },
}

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(code) => code.fmt(f),
            Self::Lost => f.write_str("lost"),
            Self::Lagged => f.write_str("lagged"),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, first, last, cause, .. } = self;
        write!(f, "missed {first} to {last} of {topic}: {cause}")
    }
}

impl Delivery {
    /// The topic it is about.
    pub fn topic(&self) -> &Topic {
        match self {
            Self::Notification(Notification { topic, .. })
            | Self::Gap(Gap { topic, .. })
            | Self::Reset { topic, .. }
            | Self::End { topic, .. } => topic,
        }
    }

    /// The notification, if it is one.
    pub fn into_notification(self) -> Option<Notification> {
        match self {
            Self::Notification(notification) => Some(notification),
            _ => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Notification(notification) => notification.payload.len(),
            _ => 0,
        }
    }
}

/// A bounded queue of deliveries with one reader. Never blocks the driver: when it is full, the
/// oldest leave, and what left is named first.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    max_items: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// What left unread, merged, all older than `items`. Of each topic an end at most, and a gap and a
    /// reset for each of the last logs.
    missed: VecDeque<Delivery>,
    items: VecDeque<Delivery>,
    /// Payload bytes in `items`.
    bytes: usize,
    /// A log that was taken out, and that the application has not heard of yet.
    taken: Option<Epoch>,
    closed: bool,
    reader: Option<Waker>,
}

impl Inbox {
    pub(crate) fn new(max_items: usize, max_bytes: usize) -> Self {
        Self { queue: Mutex::default(), max_items, max_bytes }
    }

    /// Queues a delivery; the reader to wake, once no lock is held.
    #[must_use]
    pub(crate) fn push(&self, delivery: Delivery) -> Option<Waker> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return None;
        }
        queue.bytes += delivery.bytes();
        queue.items.push_back(delivery);
        while queue.items.len() > self.max_items
            || (queue.bytes > self.max_bytes && queue.items.len() > 1)
        {
            queue.drop_oldest();
        }
        queue.reader.take()
    }

    /// Lets the stream end behind what is queued; the reader to wake.
    #[must_use]
    pub(crate) fn close(&self) -> Option<Waker> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.reader.take()
    }

    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let mut queue = self.queue.lock();
        if let Some(delivery) = queue.take_next() {
            return Poll::Ready(Some(delivery));
        }
        if queue.closed {
            return Poll::Ready(None);
        }
        let unused = match &mut queue.reader {
            Some(reader) if reader.will_wake(cx.waker()) => None,
            reader => reader.replace(cx.waker().clone()),
        };
        // A waker is the runtime's code: it is not dropped under the lock.
        drop(queue);
        drop(unused);
        Poll::Pending
    }

    /// Whether the application has still to hear that its topic is in this log again.
    pub(crate) fn comes_back_to(&self, epoch: Epoch) -> bool {
        let is_reset = |delivery: &Delivery| matches!(delivery, Delivery::Reset { position, .. } if position.epoch == epoch);
        let queue = self.queue.lock();
        queue.taken == Some(epoch) || queue.missed.iter().chain(&queue.items).any(is_reset)
    }

    /// It has heard of the one that was taken out.
    pub(crate) fn handed_over_reset(&self) {
        self.queue.lock().taken = None;
    }
}

impl Queue {
    fn take_next(&mut self) -> Option<Delivery> {
        let next = self.missed.pop_front().or_else(|| {
            self.items.pop_front().inspect(|item| {
                self.bytes -= item.bytes();
            })
        })?;
        if self.items.is_empty() {
            self.items.shrink_to(16);
        }
        if let Delivery::Reset { position, .. } = &next {
            self.taken = Some(position.epoch);
        }
        Some(next)
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.items.pop_front() else {
            return;
        };
        self.bytes -= oldest.bytes();
        let topic = oldest.topic().clone();
        let (epoch, first, last) = match oldest {
            Delivery::Notification(Notification { epoch, sequence, .. }) => {
                (epoch, sequence, sequence)
            }
            Delivery::Gap(Gap { epoch, first, last, .. }) => (epoch, first, last),
            Delivery::Reset { .. } => return self.miss_reset(oldest),
            Delivery::End { topic, reason, position } => {
                return self.miss_end(topic, reason, position);
            }
        };
        let cause = GapCause::Lagged;
        match self.missed.iter_mut().rfind(|missed| *missed.topic() == topic) {
            Some(Delivery::Gap(gap)) if gap.epoch == epoch => {
                (gap.last, gap.cause) = (last, cause);
            }
            _ if matches!(oldest, Delivery::Gap(_)) => self.missed.push_back(oldest),
            _ => self.missed.push_back(Delivery::Gap(Gap { topic, epoch, first, last, cause })),
        }
    }

    /// Another log: what was lost of the one before is named all the same, since the topic may come
    /// back to it, behind that. What it cannot come back to any more is not.
    fn miss_reset(&mut self, reset: Delivery) {
        let topic = reset.topic().clone();
        self.missed.push_back(reset);
        let is_reset = |missed: &Delivery| {
            matches!(missed, Delivery::Reset { .. }) && *missed.topic() == topic
        };
        let places = self.missed.iter().enumerate().rev();
        let mut resets = places.filter(|(_, missed)| is_reset(missed)).map(|(at, _)| at);
        if let Some(at) = resets.nth(REMEMBERED) {
            self.forget(&topic, at);
        }
    }

    /// Nothing behind a hole was handed over: resuming at the hole gets it all. An end that was to be
    /// said before is covered by this one.
    fn miss_end(&mut self, topic: Topic, reason: Code, position: Option<Position>) {
        let position = self.take_hole(&topic).or(position);
        let is_end =
            |missed: &Delivery| matches!(missed, Delivery::End { .. }) && *missed.topic() == topic;
        if let Some(at) = self.missed.iter().rposition(is_end) {
            self.forget(&topic, at + 1);
        }
        self.missed.push_back(Delivery::End { topic, reason, position });
    }

    /// Where the numbers begin that left unread of the log that a topic is in; they are not named.
    fn take_hole(&mut self, topic: &Topic) -> Option<Position> {
        let at = self.missed.iter().rposition(|missed| missed.topic() == topic)?;
        match self.missed.get(at) {
            Some(&Delivery::Gap(Gap { epoch, first, .. })) => {
                self.missed.remove(at);
                Some(Position { epoch, next: first })
            }
            _ => None,
        }
    }

    /// Says nothing of a topic that stands before this place in what was to be said.
    fn forget(&mut self, topic: &Topic, before: usize) {
        let mut at = 0..;
        self.missed.retain(|missed| at.next() >= Some(before) || missed.topic() != topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn notification(name: &str, position: &str, payload: &'static [u8]) -> Delivery {
        let Position { epoch, next: sequence } = at(position);
        let payload = Bytes::from_static(payload);
        let (topic, ack) = (topic(name), AckHandle::default());
        Delivery::Notification(Notification { topic, epoch, sequence, payload, ack })
    }

    fn lagged(name: &str, epoch: &str, first: u64, last: u64) -> Delivery {
        let epoch = Epoch::new(epoch).unwrap();
        Delivery::Gap(Gap { topic: topic(name), epoch, first, last, cause: GapCause::Lagged })
    }

    fn drain(inbox: &Inbox) -> Vec<Delivery> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Some(delivery)) = inbox.poll_next(&mut cx) {
            all.push(delivery);
        }
        all
    }

    fn fill(inbox: &Inbox, deliveries: impl IntoIterator<Item = Delivery>) {
        for delivery in deliveries {
            let _ = inbox.push(delivery);
        }
    }

    #[test]
    fn a_full_queue_names_what_it_dropped_per_topic() {
        let inbox = Inbox::new(2, usize::MAX);
        fill(&inbox, (1..=4).map(|n| notification("a", &format!("e:{n}"), b"")));
        fill(&inbox, [notification("b", "f:1", b"")]);
        assert_eq!(
            drain(&inbox),
            [lagged("a", "e", 1, 3), notification("a", "e:4", b""), notification("b", "f:1", b"")]
        );
        fill(&inbox, [notification("b", "f:2", b"")]);
        assert_eq!(drain(&inbox), [notification("b", "f:2", b"")]);
    }

    #[test]
    fn bytes_are_bounded_too_but_one_item_always_fits() {
        let inbox = Inbox::new(10, 3);
        fill(&inbox, [notification("a", "e:1", b"12"), notification("a", "e:2", b"3456")]);
        assert_eq!(drain(&inbox), [lagged("a", "e", 1, 1), notification("a", "e:2", b"3456")]);
    }

    /// What was taken counts no more: a queue that is kept empty never lags.
    #[test]
    fn what_is_taken_makes_room() {
        let inbox = Inbox::new(10, 3);
        for n in 1..=100 {
            let delivery = notification("a", &format!("e:{n}"), b"12");
            fill(&inbox, [delivery.clone()]);
            assert_eq!(drain(&inbox), [delivery]);
        }
        assert_eq!(inbox.queue.lock().bytes, 0);
        // The same of what was dropped.
        fill(&inbox, (101..=200).map(|n| notification("a", &format!("e:{n}"), b"12")));
        assert_eq!(inbox.queue.lock().bytes, 2);
        assert_eq!(drain(&inbox), [lagged("a", "e", 101, 199), notification("a", "e:200", b"12")]);
        assert_eq!(inbox.queue.lock().bytes, 0);
    }

    #[test]
    fn a_reset_that_is_dropped_is_kept_in_what_is_said() {
        let inbox = Inbox::new(1, usize::MAX);
        let reset = Delivery::Reset { topic: topic("a"), position: at("f:1") };
        fill(&inbox, [notification("a", "e:1", b""), reset, notification("a", "f:1", b"")]);
        fill(&inbox, [notification("a", "f:2", b"")]);
        let reset = Delivery::Reset { topic: topic("a"), position: at("f:1") };
        let lost = [lagged("a", "e", 1, 1), reset, lagged("a", "f", 1, 1)];
        assert_eq!(drain(&inbox), [&lost[..], &[notification("a", "f:2", b"")]].concat());
    }

    /// Of as many as a topic can come back to, at its place in each; and no more than that is kept.
    #[test]
    fn a_log_that_was_left_is_named_as_far_as_it_was_lost() {
        let inbox = Inbox::new(1, usize::MAX);
        let log = |n: usize| format!("e{n}");
        let position = |n| at(&format!("{}:1", log(n)));
        for n in 0..20 {
            let reset = Delivery::Reset { topic: topic("a"), position: position(n) };
            fill(&inbox, [notification("b", "f:1", b""), reset]);
            fill(&inbox, [notification("a", &format!("{}:1", log(n)), b"")]);
        }
        fill(&inbox, [notification("b", "f:2", b"")]);
        let said = drain(&inbox);
        let of_b = said.iter().filter(|delivery| *delivery.topic() == topic("b")).count();
        let mut expected = Vec::new();
        for n in 20 - 1 - REMEMBERED..20 {
            expected.push(Delivery::Reset { topic: topic("a"), position: position(n) });
            expected.push(lagged("a", &log(n), 1, 1));
        }
        let of_a = said.iter().filter(|delivery| *delivery.topic() == topic("a"));
        assert_eq!((of_a.cloned().collect::<Vec<_>>(), of_b), (expected, 2));
    }

    #[test]
    fn an_end_that_is_dropped_says_where_the_hole_began() {
        let inbox = Inbox::new(2, usize::MAX);
        let end = |position| {
            let position = Some(at(position));
            Delivery::End { topic: topic("a"), reason: Code::CLOSED, position }
        };
        fill(&inbox, [notification("a", "e:1", b""), notification("a", "e:2", b""), end("e:3")]);
        fill(&inbox, [notification("b", "f:1", b""), notification("b", "f:2", b"")]);
        let left = [notification("b", "f:1", b""), notification("b", "f:2", b"")];
        assert_eq!(drain(&inbox), [&[end("e:1")], &left[..]].concat());
    }

    #[test]
    fn an_end_that_is_dropped_does_not_hide_the_reset_before_it() {
        let inbox = Inbox::new(1, usize::MAX);
        let reset = || Delivery::Reset { topic: topic("a"), position: at("f:1") };
        let end =
            || Delivery::End { topic: topic("a"), reason: Code::CLOSED, position: Some(at("f:1")) };
        fill(&inbox, [notification("a", "e:1", b""), reset(), notification("a", "f:1", b"")]);
        fill(&inbox, [end(), notification("b", "f:1", b"")]);
        let lost = lagged("a", "e", 1, 1);
        assert_eq!(drain(&inbox), [lost, reset(), end(), notification("b", "f:1", b"")]);
    }

    #[test]
    fn a_closed_queue_is_read_to_its_end() {
        let inbox = Inbox::new(4, usize::MAX);
        fill(&inbox, [notification("a", "e:1", b"")]);
        assert!(inbox.close().is_none());
        assert!(inbox.push(notification("a", "e:2", b"")).is_none());
        assert_eq!(drain(&inbox), [notification("a", "e:1", b"")]);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(inbox.poll_next(&mut cx), Poll::Ready(None));
    }

    #[test]
    fn the_reader_is_woken_once() {
        let inbox = Inbox::new(4, usize::MAX);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(inbox.poll_next(&mut cx).is_pending());
        assert!(inbox.push(notification("a", "e:1", b"")).is_some());
        assert!(inbox.push(notification("a", "e:2", b"")).is_none());
    }
}
