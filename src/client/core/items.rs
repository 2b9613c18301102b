//! The queue between the driver and the reader of one streamed reply. Its length is bounded by the
//! credit.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use crate::{error::CallError, sync::Mutex};

/// Items of a streamed reply that were not taken yet.
///
/// **Invariant:** four counts add up to the window: items that the server may still send, items in
/// this queue, items whose credit the application holds, and released items whose credit was not
/// given back to the server. So the queue never holds more than the window, and the driver never
/// waits for the reader.
#[derive(Debug)]
pub(crate) struct ItemQueue {
    window: u64,
    queue: Mutex<Items>,
}

#[derive(Debug, Default)]
struct Items {
    items: VecDeque<Bytes>,
    /// Items that the server may still send.
    credit: u64,
    /// Released items whose credit was not given back to the server yet.
    released: u64,
    /// At least one item has arrived.
    has_begun: bool,
    end: Option<Result<(), CallError>>,
    reader: Option<Waker>,
}

/// The server sent an item without credit.
#[derive(Debug)]
pub(crate) struct Overrun;

/// An item that was taken out.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) item: Bytes,
    /// The credit to be given back to the server now, or 0.
    pub(crate) grant: u64,
}

impl ItemQueue {
    /// Creates the queue of a reply whose request gives a credit of `window`.
    pub(crate) fn new(window: u64) -> Self {
        Self { window, queue: Mutex::new(Items { credit: window, ..Items::default() }) }
    }

    /// Queues an item. Returns the reader to be woken once no lock is held.
    pub(crate) fn push(&self, item: Bytes) -> Result<Option<Waker>, Overrun> {
        let mut queue = self.queue.lock();
        queue.credit = queue.credit.checked_sub(1).ok_or(Overrun)?;
        queue.items.push_back(item);
        queue.has_begun = true;
        Ok(queue.reader.take())
    }

    /// Ends the reply behind the queued items and perhaps one last item. Returns the reader to be
    /// woken.
    pub(crate) fn finish(&self, last: Option<Bytes>, end: Result<(), CallError>) -> Option<Waker> {
        let mut queue = self.queue.lock();
        queue.items.extend(last);
        queue.end.get_or_insert(end);
        queue.reader.take()
    }

    /// Releases an item that was taken without its credit. Returns the credit to be given back now.
    pub(crate) fn release(&self) -> u64 {
        self.queue.lock().release_one(self.window)
    }

    /// Whether the terminal line has arrived, even if items are still queued.
    pub(crate) fn is_over(&self) -> bool {
        self.queue.lock().end.is_some()
    }

    /// Whether an item has arrived.
    pub(crate) fn has_begun(&self) -> bool {
        self.queue.lock().has_begun
    }

    /// Takes the next item, and the credit to be given back for it if `gives_back`. At the end it
    /// returns `None`, or the error once.
    pub(crate) fn poll_next(
        &self,
        cx: &mut Context<'_>,
        gives_back: bool,
    ) -> Poll<Option<Result<Taken, CallError>>> {
        let mut queue = self.queue.lock();
        if let Some(item) = queue.items.pop_front() {
            let grant = if gives_back { queue.release_one(self.window) } else { 0 };
            return Poll::Ready(Some(Ok(Taken { item, grant })));
        }
        if let Some(end) = &mut queue.end {
            let end = std::mem::replace(end, Ok(()));
            return Poll::Ready(end.err().map(Err));
        }
        if !queue.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            let before = queue.reader.replace(cx.waker().clone());
            drop(queue);
            drop(before);
        }
        Poll::Pending
    }
}

impl Items {
    /// Credit is given back by the half window: that needs few lines, and the server still has
    /// credit when a line arrives. If the server has no credit and the queue is empty, credit is
    /// given back at once, because the application may hold the rest of the window.
    fn release_one(&mut self, window: u64) -> u64 {
        self.released += 1;
        let is_dry = self.credit == 0 && self.items.is_empty();
        if self.end.is_some() || self.released < window.div_ceil(2) && !is_dry {
            return 0;
        }
        self.credit += self.released;
        std::mem::take(&mut self.released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Unknown;

    fn take(flow: &ItemQueue) -> Option<u64> {
        match flow.poll_next(&mut Context::from_waker(Waker::noop()), true) {
            Poll::Ready(Some(Ok(taken))) => Some(taken.grant),
            _ => None,
        }
    }

    #[test]
    fn credit_is_returned_by_half_windows() {
        for (window, grants) in [(1, [1, 1, 1, 1]), (2, [1, 1, 1, 1]), (4, [0, 2, 0, 2])] {
            let flow = ItemQueue::new(window);
            for grant in grants {
                assert!(flow.push(Bytes::new()).is_ok());
                assert_eq!(take(&flow), Some(grant), "window {window}");
            }
        }
    }

    #[test]
    fn items_beyond_the_window_are_rejected() {
        let flow = ItemQueue::new(5);
        let mut granted = 5;
        for round in 0..100 {
            while flow.push(Bytes::new()).is_ok() {
                granted -= 1;
            }
            assert_eq!(granted, 0, "round {round}");
            assert!(flow.queue.lock().items.len() <= 5);
            granted += (0..=round % 5).filter_map(|_| take(&flow)).sum::<u64>();
        }
    }

    /// Credit that the application holds is not returned. Released credit is returned by the half
    /// window, or at once if the server has none left.
    #[test]
    fn held_credit_is_returned_when_released() {
        let flow = ItemQueue::new(4);
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..4 {
            assert!(flow.push(Bytes::new()).is_ok());
        }
        assert!(flow.push(Bytes::new()).is_err());
        for _ in 0..3 {
            let Poll::Ready(Some(Ok(taken))) = flow.poll_next(cx, false) else { panic!("an item") };
            assert_eq!(taken.grant, 0);
        }
        assert_eq!((flow.release(), flow.release()), (0, 2), "one is queued: by the half window");
        assert!(flow.push(Bytes::new()).is_ok() && flow.push(Bytes::new()).is_ok());
        while let Poll::Ready(Some(Ok(_))) = flow.poll_next(cx, false) {}
        assert_eq!(flow.release(), 1, "nothing else can come");
    }

    #[test]
    fn the_error_comes_once_after_the_items() {
        let flow = ItemQueue::new(2);
        assert!(flow.push(Bytes::new()).is_ok());
        assert!(flow.finish(None, Err(Unknown::Deadline.into())).is_none());
        let cx = &mut Context::from_waker(Waker::noop());
        assert_eq!(take(&flow), Some(0), "nothing is given back behind the end");
        assert!(matches!(flow.poll_next(cx, true), Poll::Ready(Some(Err(_)))));
        assert!(matches!(flow.poll_next(cx, true), Poll::Ready(None)));
    }
}
