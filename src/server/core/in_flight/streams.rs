//! Requests in flight that answer with a stream. They are polled in turns, while they have credit.

use std::{task::Poll, time::Duration};

use crate::{
    protocol::{MAX_NUMBER, RequestId, Time},
    server::{
        core::in_flight::{InFlight, Kept, NEVER, Over, Turn},
        handlers::{
            reply::{Ended, Failure, Reply},
            running::Running,
            streamed::{Items, NextItem},
        },
    },
};

impl InFlight {
    /// Whether a stream may be polled.
    pub(in crate::server) fn has_ready_stream(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Polls the stream whose turn it is. After an item, call [`go_on`](Self::go_on).
    ///
    /// **Invariant:** a stream is polled only here, and only with credit.
    pub(in crate::server) fn poll_stream(&mut self) -> Turn {
        let Some(slot) = self.ready.pop_front() else { return Turn::Nothing };
        let code = &mut self.slots[slot];
        let Some(kept) = &mut code.kept else { return Turn::Nothing };
        kept.is_ready = false;
        if kept.ending.is_some() {
            return self.poll(slot).map_or(Turn::Nothing, Turn::Over);
        }
        let Some(id) = kept.id else { return Turn::Nothing };
        let polled = code.poll(|kept, cx| {
            let Running::Stream(items) = &mut kept.running else { return Poll::Pending };
            let polled = items.poll(cx);
            kept.credit -= u64::from(matches!(polled, Poll::Ready(NextItem::Item(_))));
            polled
        });
        let ended = match polled {
            Some(Poll::Pending) => return Turn::Nothing,
            Some(Poll::Ready(NextItem::Item(payload))) => return Turn::Item { slot, id, payload },
            Some(Poll::Ready(NextItem::Ended(ended))) => ended,
            None => Ended::Panicked,
        };
        self.remove(slot, Some(ended)).map_or(Turn::Nothing, Turn::Over)
    }

    /// An item was written at `now`. With credit, the stream gets a turn and the time for its next
    /// item. Without credit it waits for more, or ends if none can come. Returns the request if it
    /// has ended, and the stream's deadline.
    pub(in crate::server) fn go_on(
        &mut self,
        slot: usize,
        now: Time,
        can_get_credit: bool,
    ) -> (Option<Over>, Time) {
        let Some(kept) = &mut self.slots[slot].kept else { return (None, NEVER) };
        if kept.credit > 0 {
            let deadline = kept.await_item(now);
            self.make_ready(slot);
            return (None, deadline);
        }
        kept.await_credit();
        let deadline = kept.deadline;
        match can_get_credit {
            true => (None, deadline),
            false => (self.starve(slot), NEVER),
        }
    }

    /// Ends the stream, because its item cannot be written.
    pub(in crate::server) fn fail(&mut self, slot: usize, failure: Failure) -> Option<Over> {
        self.remove(slot, Some(Ended::Replied(Reply::err(failure))))
    }

    /// Adds credit to the request `id`, if it is in flight. Returns the deadline of the next item
    /// if the stream was waiting for credit.
    pub(in crate::server) fn add_credit(
        &mut self,
        id: RequestId,
        items: u64,
        now: Time,
    ) -> Option<Time> {
        let slot = self.ids.iter().position(|&known| known == id.get())?;
        let kept = self.slots[slot].kept.as_mut()?;
        let waited = kept.credit == 0 && kept.ending.is_none();
        kept.credit = kept.credit.saturating_add(items).min(MAX_NUMBER);
        if !waited {
            return None;
        }
        let deadline = kept.await_item(now);
        self.make_ready(slot);
        Some(deadline)
    }

    /// Ends the streams that wait for credit, because none can come any more.
    pub(in crate::server) fn end_starved(&mut self) -> Vec<Over> {
        (0..self.slots.len()).filter_map(|slot| self.starve(slot)).collect()
    }

    /// Ends the oldest stream, if every request in flight is a stream that waits for credit: none
    /// of them would free its place by itself.
    pub(in crate::server) fn end_one_starved(&mut self) -> Option<Over> {
        let mut kept = self.slots.iter().filter_map(|slot| slot.kept.as_ref());
        if !kept.all(Kept::is_starved) {
            return None;
        }
        let taken = (0..self.slots.len()).filter(|&slot| self.slots[slot].kept.is_some());
        let oldest = taken.min_by_key(|&slot| self.ids[slot])?;
        self.starve(oldest)
    }

    /// Limits the time of each request that may take longer than `limit`, counted from `now`.
    /// Returns whether there was one.
    pub(in crate::server) fn shorten(&mut self, now: Time, limit: Duration) -> bool {
        let kept = self.slots.iter_mut().filter_map(|slot| slot.kept.as_mut());
        let mut longer = kept.filter(|kept| kept.limit > limit).peekable();
        let was_longer = longer.peek().is_some();
        for kept in longer {
            kept.limit = limit;
            kept.once_allowed = kept.once_allowed.min(now.after(limit));
            kept.deadline = kept.deadline.min(now.after(limit));
        }
        was_longer
    }

    /// Restarts the time for the next item of each stream, because the streams could not be polled.
    pub(in crate::server) fn put_off_streams(&mut self, now: Time) {
        let kept = self.slots.iter_mut().filter_map(|slot| slot.kept.as_mut());
        for kept in kept.filter(|kept| matches!(kept.running, Running::Stream(_))) {
            if kept.credit > 0 {
                kept.await_item(now);
            }
        }
    }

    /// Replaces a handler that has returned a stream by that stream.
    pub(in crate::server) fn begin_stream(&mut self, slot: usize, items: Items) -> Option<Over> {
        let kept = self.slots[slot].kept.as_mut()?;
        let handler = std::mem::replace(&mut kept.running, Running::Stream(items));
        let (dropped_well, _) = handler.end();
        if kept.ending.is_none() && kept.id.is_some() && dropped_well {
            self.make_ready(slot);
            return None;
        }
        let ended = match dropped_well {
            true => Ended::Replied(Reply::ok("")),
            false => Ended::Panicked,
        };
        self.remove(slot, Some(ended))
    }

    /// Puts a stream at the end of the queue, if it has credit.
    pub(in crate::server) fn make_ready(&mut self, slot: usize) {
        let Some(kept) = &mut self.slots[slot].kept else { return };
        if kept.credit > 0 && !kept.is_ready && kept.ending.is_none() {
            kept.is_ready = true;
            self.ready.push_back(slot);
        }
    }

    fn starve(&mut self, slot: usize) -> Option<Over> {
        let kept = self.slots[slot].kept.as_ref()?;
        match kept.is_starved() {
            true => self.remove(slot, Some(Ended::Starved)),
            false => None,
        }
    }
}

impl Kept {
    /// Sets the time for the next item, counted from `now`. Returns the deadline.
    fn await_item(&mut self, now: Time) -> Time {
        self.deadline = self.until.min(now.after(self.limit));
        self.once_allowed = self.deadline;
        self.deadline
    }

    /// The stream waits for credit, so only its `ttl` bounds it.
    fn await_credit(&mut self) {
        self.deadline = self.until;
    }

    /// Whether it is a stream that waits for credit.
    fn is_starved(&self) -> bool {
        let is_stream = matches!(self.running, Running::Stream(_));
        is_stream && self.credit == 0 && self.ending.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;
    use crate::{
        server::{
            core::in_flight::{Bounds, NEVER},
            handlers::{
                reply::{Answer, IntoReply},
                streamed,
            },
        },
        sync::Arc,
    };

    struct Endless;

    impl futures_core::Stream for Endless {
        type Item = &'static str;

        fn poll_next(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<&'static str>> {
            Poll::Ready(Some("item"))
        }
    }

    fn keep(in_flight: &mut InFlight, id: u64, credit: u64) -> RequestId {
        let Answer::Stream(items) = streamed::Streamed(Endless).into_reply().0 else {
            panic!("a stream");
        };
        let id = RequestId::new(id).unwrap();
        let (begun, limit, usual) = (Time::default(), Duration::MAX, Duration::MAX);
        let bounds = Bounds { begun, limit, usual, until: NEVER, credit, bytes: 0 };
        in_flight.next_waker(&Arc::default());
        in_flight.keep(Some(id), Some(id), None, Running::Stream(items), bounds);
        id
    }

    /// A stream that is cancelled before its turn leaves no entry in the queue. SECURITY.md, threat
    /// 8.
    #[test]
    fn a_cancelled_stream_leaves_no_queue_entry() {
        let mut in_flight = InFlight::default();
        let first = keep(&mut in_flight, 1, 9);
        for id in 2..1_000 {
            let id = keep(&mut in_flight, id, 9);
            assert!(in_flight.cancel(id).is_some());
        }
        assert_eq!((in_flight.len(), in_flight.ready.len(), in_flight.slots.len()), (1, 1, 2));
        assert!(matches!(in_flight.poll_stream(), Turn::Item { id, .. } if id == first));
    }

    /// [S15.2] A stream whose credit runs out leaves the queue, and returns when it gets credit.
    #[test]
    fn a_stream_without_credit_leaves_the_queue() {
        let mut in_flight = InFlight::default();
        let id = keep(&mut in_flight, 1, 2);
        for _ in 0..2 {
            let Turn::Item { slot, .. } = in_flight.poll_stream() else { panic!("an item") };
            assert!(in_flight.go_on(slot, Time::default(), true).0.is_none());
        }
        assert!(!in_flight.has_ready_stream());
        assert!(in_flight.shorten(Time::default(), Duration::from_millis(2)));
        let soon = Some(Time::from_millis(5));
        let at = Time::from_millis(3);
        assert_eq!(in_flight.add_credit(id, MAX_NUMBER, at), soon, "it waited");
        assert_eq!(in_flight.earliest_deadline(), soon);
        assert_eq!(in_flight.add_credit(id, MAX_NUMBER, at), None, "it waits no more");
        assert_eq!(in_flight.ready.len(), 1);
        assert_eq!(in_flight.slots[0].kept.as_ref().map(|kept| kept.credit), Some(MAX_NUMBER));
    }
}
