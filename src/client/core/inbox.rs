//! The queue between the driver and one stream of notifications: it is bounded, and it names what
//! it drops.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use crate::{
    client::core::{delivery::Delivery, missed::Missed},
    protocol::Epoch,
    sync::Mutex,
};

/// The capacity that an empty queue keeps.
const KEPT: usize = 64;

/// A bounded queue of deliveries with one reader. It never blocks the driver: when it is full, it
/// drops the oldest deliveries, and names them before the others.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<Deliveries>,
    max_items: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Deliveries {
    /// Deliveries that were dropped unread. All are older than `items`.
    missed: Missed,
    items: VecDeque<Delivery>,
    /// How many of `items` are resets.
    resets: usize,
    /// Payload bytes in `items`.
    bytes: usize,
    /// The log of a reset that was taken out and is not handed over to the application yet.
    taken: Option<Epoch>,
    closed: bool,
    reader: Option<Waker>,
}

impl Inbox {
    /// A queue for one topic.
    pub(crate) fn new(max_items: usize, max_bytes: usize) -> Self {
        Self::of_topics(max_items, max_bytes, 1)
    }

    /// A queue for any number of topics. It names what it drops for at most `missed_topics` of
    /// them.
    pub(crate) fn of_topics(max_items: usize, max_bytes: usize, missed_topics: usize) -> Self {
        let queue = Deliveries {
            missed: Missed::new(missed_topics),
            items: VecDeque::new(),
            resets: 0,
            bytes: 0,
            taken: None,
            closed: false,
            reader: None,
        };
        Self { queue: Mutex::new(queue), max_items, max_bytes }
    }

    /// Queues a delivery. Returns the reader to be woken once no lock is held.
    #[must_use]
    pub(crate) fn push(&self, delivery: Delivery) -> Option<Waker> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return None;
        }
        queue.bytes += delivery.bytes();
        queue.resets += usize::from(delivery.is_reset());
        queue.items.push_back(delivery);
        while queue.items.len() > self.max_items
            || (queue.bytes > self.max_bytes && queue.items.len() > 1)
        {
            queue.drop_oldest();
        }
        queue.reader.take()
    }

    /// Ends the stream behind the queued deliveries. Returns the reader to be woken.
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
        // Dropping a waker runs code of the runtime, so it is dropped outside the lock.
        drop(queue);
        drop(unused);
        Poll::Pending
    }

    /// Whether a reset to this log is on its way to the application: queued, dropped, or taken out.
    pub(crate) fn comes_back_to(&self, epoch: Epoch) -> bool {
        let queue = self.queue.lock();
        queue.taken == Some(epoch)
            || queue.missed.has_reset_to(epoch)
            || queue.resets > 0 && queue.items.iter().any(|item| item.is_reset_to(epoch))
    }

    /// Whether any reset is on its way to the application.
    pub(crate) fn has_reset(&self) -> bool {
        let queue = self.queue.lock();
        queue.taken.is_some() || queue.resets > 0 || queue.missed.has_reset()
    }

    /// Discards what is queued, because the server delivers it again.
    pub(crate) fn discard(&self) {
        let mut queue = self.queue.lock();
        queue.missed.clear();
        queue.items.clear();
        (queue.resets, queue.bytes) = (0, 0);
    }

    /// The reset that was taken out was handed over.
    pub(crate) fn handed_over_reset(&self) {
        self.queue.lock().taken = None;
    }
}

impl Deliveries {
    fn take_next(&mut self) -> Option<Delivery> {
        let next = self.missed.take_next().or_else(|| self.pop())?;
        if self.items.is_empty() {
            self.items.shrink_to(KEPT);
        }
        if let Delivery::Reset { position, .. } = &next {
            self.taken = Some(position.epoch);
        }
        Some(next)
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.pop() {
            self.missed.drop_unread(oldest);
        }
    }

    fn pop(&mut self) -> Option<Delivery> {
        let oldest = self.items.pop_front()?;
        self.bytes -= oldest.bytes();
        self.resets -= usize::from(oldest.is_reset());
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        client::core::delivery::{Gap, GapCause, Notification, REMEMBERED},
        protocol::{Code, Position, Topic},
    };

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn notification(name: &str, position: &str, payload: &'static [u8]) -> Delivery {
        let Position { epoch, next: sequence } = at(position);
        let payload = Bytes::from_static(payload);
        Delivery::Notification(Notification::received(topic(name), epoch, sequence, payload))
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
    fn a_full_queue_reports_dropped_deliveries_per_topic() {
        let inbox = Inbox::of_topics(2, usize::MAX, 8);
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
        let inbox = Inbox::of_topics(10, 3, 8);
        fill(&inbox, [notification("a", "e:1", b"12"), notification("a", "e:2", b"3456")]);
        assert_eq!(drain(&inbox), [lagged("a", "e", 1, 1), notification("a", "e:2", b"3456")]);
    }

    /// Deliveries that were taken out no longer count, so a queue that is kept empty never lags.
    #[test]
    fn taken_deliveries_make_room_in_the_queue() {
        let inbox = Inbox::new(10, 3);
        for n in 1..=100 {
            let delivery = notification("a", &format!("e:{n}"), b"12");
            fill(&inbox, [delivery.clone()]);
            assert_eq!(drain(&inbox), [delivery]);
        }
        assert_eq!(inbox.queue.lock().bytes, 0);
        // Dropped deliveries do not count either.
        fill(&inbox, (101..=200).map(|n| notification("a", &format!("e:{n}"), b"12")));
        assert_eq!(inbox.queue.lock().bytes, 2);
        assert_eq!(drain(&inbox), [lagged("a", "e", 101, 199), notification("a", "e:200", b"12")]);
        assert_eq!(inbox.queue.lock().bytes, 0);
    }

    #[test]
    fn a_dropped_reset_is_reported_between_its_gaps() {
        let inbox = Inbox::of_topics(1, usize::MAX, 8);
        let reset = Delivery::Reset { topic: topic("a"), position: at("f:1") };
        fill(&inbox, [notification("a", "e:1", b""), reset, notification("a", "f:1", b"")]);
        fill(&inbox, [notification("a", "f:2", b"")]);
        let reset = Delivery::Reset { topic: topic("a"), position: at("f:1") };
        let lost = [lagged("a", "e", 1, 1), reset, lagged("a", "f", 1, 1)];
        assert_eq!(drain(&inbox), [&lost[..], &[notification("a", "f:2", b"")]].concat());
    }

    /// A gap is named for each log that the topic can come back to, and for no other.
    #[test]
    fn gaps_of_the_last_logs_are_reported() {
        let inbox = Inbox::of_topics(1, usize::MAX, 8);
        let log = |n: usize| format!("e{n}");
        let position = |n| at(&format!("{}:1", log(n)));
        for n in 0..20 {
            let reset = Delivery::Reset { topic: topic("a"), position: position(n) };
            fill(&inbox, [notification("b", "f:1", b""), reset]);
            fill(&inbox, [notification("a", &format!("{}:1", log(n)), b"")]);
        }
        fill(&inbox, [notification("b", "f:2", b"")]);
        let said = drain(&inbox);
        let of_b = said.iter().filter(|delivery| delivery.topic() == Some(&topic("b"))).count();
        let mut expected = Vec::new();
        for n in 20 - 1 - REMEMBERED..20 {
            expected.push(Delivery::Reset { topic: topic("a"), position: position(n) });
            expected.push(lagged("a", &log(n), 1, 1));
        }
        let of_a = said.iter().filter(|delivery| delivery.topic() == Some(&topic("a")));
        assert_eq!((of_a.cloned().collect::<Vec<_>>(), of_b), (expected, 2));
    }

    #[test]
    fn a_dropped_end_has_the_position_of_the_gap_before_it() {
        let inbox = Inbox::of_topics(2, usize::MAX, 8);
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
    fn a_dropped_end_keeps_the_reset_before_it() {
        let inbox = Inbox::of_topics(1, usize::MAX, 8);
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
        let inbox = Inbox::of_topics(4, usize::MAX, 8);
        fill(&inbox, [notification("a", "e:1", b"")]);
        assert!(inbox.close().is_none());
        assert!(inbox.push(notification("a", "e:2", b"")).is_none());
        assert_eq!(drain(&inbox), [notification("a", "e:1", b"")]);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(inbox.poll_next(&mut cx), Poll::Ready(None));
    }

    #[test]
    fn the_reader_is_woken_once() {
        let inbox = Inbox::of_topics(4, usize::MAX, 8);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(inbox.poll_next(&mut cx).is_pending());
        assert!(inbox.push(notification("a", "e:1", b"")).is_some());
        assert!(inbox.push(notification("a", "e:2", b"")).is_none());
    }

    #[test]
    fn a_reader_that_waits_is_woken_by_the_end() {
        let inbox = Inbox::new(4, usize::MAX);
        assert!(inbox.poll_next(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(inbox.close().is_some());
    }

    /// A reset to a log is pending while it is queued, dropped unread, or taken out.
    #[test]
    fn a_return_to_a_log_is_pending_until_it_is_handed_over() {
        let f = Epoch::new("f").unwrap();
        for overflows in [false, true] {
            let inbox = Inbox::new(1, usize::MAX);
            assert!(!inbox.comes_back_to(f));
            fill(&inbox, [Delivery::Reset { topic: topic("a"), position: at("f:1") }]);
            if overflows {
                fill(&inbox, [notification("a", "f:1", b"")]);
            }
            assert!(inbox.comes_back_to(f), "queued: {overflows}");
            drain(&inbox);
            assert!(inbox.comes_back_to(f), "taken out: {overflows}");
            inbox.handed_over_reset();
            assert!(!inbox.comes_back_to(f));
        }
    }

    /// Up to the limit, topics are named. What was dropped of further topics is one item, which
    /// comes first.
    #[test]
    fn dropped_deliveries_of_further_topics_are_counted() {
        let inbox = Inbox::of_topics(1, usize::MAX, 2);
        for n in 1..=3 {
            fill(
                &inbox,
                ["a", "b", "c", "d"].map(|name| notification(name, &format!("e:{n}"), b"")),
            );
        }
        let (a, b) = (lagged("a", "e", 1, 3), lagged("b", "e", 1, 3));
        let lost = Delivery::Lost { deliveries: 5 };
        let left = notification("d", "e:3", b"");
        assert_eq!(drain(&inbox), [lost, a, b, left]);
        // There is room for others now.
        fill(&inbox, [notification("c", "e:4", b""), notification("d", "e:4", b"")]);
        assert_eq!(drain(&inbox), [lagged("c", "e", 4, 4), notification("d", "e:4", b"")]);
        assert_eq!(Delivery::Lost { deliveries: 1 }.topic(), None);
    }
}
