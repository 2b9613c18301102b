//! The future of a hook.

use std::{mem, task::Poll};

use crate::{
    server::{
        mailbox::{Mailbox, Whom},
        user_code::UserCode,
    },
    sync::Arc,
    topic::BoxFuture,
};

/// The future of a hook. It is user code: it may panic, and it wakes its connection.
pub(in crate::server) struct HookFuture<T> {
    future: UserCode<BoxFuture<T>>,
    is_new: bool,
}

impl<T> HookFuture<T> {
    pub(in crate::server) fn new(future: BoxFuture<T>, mailbox: &Arc<Mailbox>) -> Self {
        Self { future: UserCode::new(Some(future), mailbox, Whom::Hook), is_new: true }
    }

    /// Polls the future if it was woken. Returns its output; `None` if it panicked.
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
