//! A hook that takes its time.

use std::{mem, task::Poll};

use crate::{
    server::{
        mailbox::{Mailbox, Whom},
        user_code::UserCode,
    },
    sync::Arc,
    topic::BoxFuture,
};

/// The future of a hook, which is the application's: it may panic, and wakes its connection.
pub(in crate::server) struct HookFuture<T> {
    future: UserCode<BoxFuture<T>>,
    is_new: bool,
}

impl<T> HookFuture<T> {
    pub(in crate::server) fn new(future: BoxFuture<T>, mailbox: &Arc<Mailbox>) -> Self {
        Self { future: UserCode::new(Some(future), mailbox, Whom::Hook), is_new: true }
    }

    /// The answer of the hook, once there is one; `None` if it panicked. Polls it only where it was
    /// woken.
    pub(in crate::server) fn poll(&mut self) -> Poll<Option<T>> {
        let is_due = mem::take(&mut self.is_new) | self.future.take_queued();
        if !is_due || self.future.kept.is_none() {
            return Poll::Pending;
        }
        let polled = self.future.poll(|future, cx| future.as_mut().poll(cx));
        if let Some(Poll::Pending) = polled {
            return Poll::Pending;
        }
        let dropped_well = self.future.discard();
        match polled {
            Some(Poll::Ready(said)) if dropped_well => Poll::Ready(Some(said)),
            _ => Poll::Ready(None),
        }
    }
}
