//! A timer of a task that uses a client.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::Sleep;

use crate::{
    client::core::locked::Locked,
    protocol::Time,
    sync::{Arc, AtomicU64, Ordering},
};

/// Waits for a time.
///
/// The core has timers too, for what all requests have in common. Those belong to the task that drives
/// the client. A deadline that a request brings itself has a timer of its own, in the task that polls
/// the request: it has to fire although the driver is not polled, or its runtime stands still.
pub(crate) enum Timer {
    /// In a runtime, as a rule that of the task.
    Runtime(Pin<Box<Sleep>>),
    /// Of a client that is driven by hand, without a runtime.
    ByHand(Box<TaskTimer>),
}

impl Timer {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Runtime(sleep) => sleep.as_mut().poll(cx),
            Self::ByHand(timer) => timer.poll(cx),
        }
    }
}

/// A timer in the core: its task is woken by
/// [`handle_timeout`](super::core::connection::Connection::handle_timeout).
pub(crate) struct TaskTimer {
    locked: Arc<Locked>,
    /// The time that the driver was told last, in milliseconds.
    time: Arc<AtomicU64>,
    at: Time,
    ticket: Option<u64>,
}

impl TaskTimer {
    pub(crate) fn new(locked: Arc<Locked>, time: Arc<AtomicU64>, at: Time) -> Self {
        Self { locked, time, at, ticket: None }
    }

    fn now(&self) -> Time {
        Time::from_millis(self.time.load(Ordering::Relaxed))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (now, at) = (self.now(), self.at);
        if at <= now {
            return Poll::Ready(());
        }
        let (locked, ticket) = (&self.locked, &mut self.ticket);
        locked.update(now, |core, step| {
            step.drop_later(core.alarms.wait(at, ticket, cx.waker().clone()));
        });
        Poll::Pending
    }
}

impl Drop for TaskTimer {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let (now, at) = (self.now(), self.at);
            self.locked.update(now, |core, step| step.drop_later(core.alarms.leave(at, ticket)));
        }
    }
}
