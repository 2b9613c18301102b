//! A hook that takes its time.

use std::{
    mem,
    task::{Context, Poll, Waker},
};

use crate::{
    guard::guarded,
    server::mailbox::{Mailbox, SlotWaker, Whom},
    sync::Arc,
    topic::BoxFuture,
};

/// The future of a hook, which is the application's: it may panic, and wakes its connection.
pub(in crate::server) struct HookFuture<T> {
    future: Option<BoxFuture<T>>,
    woken: Arc<SlotWaker>,
    waker: Waker,
    is_new: bool,
}

impl<T> HookFuture<T> {
    pub(in crate::server) fn new(future: BoxFuture<T>, mailbox: &Arc<Mailbox>) -> Self {
        let woken = SlotWaker::new(mailbox.clone(), Whom::Hook);
        let waker = Waker::from(woken.clone());
        Self { future: Some(future), woken, waker, is_new: true }
    }

    /// What the hook says, once it does; `None` if it panicked. Polls it only where it was woken.
    pub(in crate::server) fn poll(&mut self) -> Poll<Option<T>> {
        let is_due = mem::take(&mut self.is_new) | self.woken.take_queued();
        let Some(future) = self.future.as_mut().filter(|_| is_due) else {
            return Poll::Pending;
        };
        let cx = &mut Context::from_waker(&self.waker);
        let polled = guarded(|| future.as_mut().poll(cx));
        if let Some(Poll::Pending) = polled {
            return Poll::Pending;
        }
        // Apart from the poll: see where handlers are polled first.
        let dropped_well = guarded(|| drop(self.future.take())).is_some();
        match polled {
            Some(Poll::Ready(said)) if dropped_well => Poll::Ready(Some(said)),
            _ => Poll::Ready(None),
        }
    }
}

impl<T> Drop for HookFuture<T> {
    fn drop(&mut self) {
        let future = self.future.take();
        guarded(|| drop(future));
    }
}
