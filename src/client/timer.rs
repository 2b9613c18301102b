//! The timer of a task that uses a client.

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

/// A timer.
///
/// The core has timers too, for the deadlines that all requests have in common. The task that
/// drives the client handles those. A request with its own deadline has a timer in the task that
/// polls the request. That timer fires even if the driver is not polled, or its runtime stands
/// still.
pub(crate) enum Timer {
    /// In a runtime, usually that of the task.
    Runtime(Pin<Box<Sleep>>),
    /// In the core of a client that is driven by hand, without a runtime.
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

/// A timer in the core. `handle_timeout` of a [`Connection`](super::core::connection::Connection) or
/// a [`Dialer`](super::by_hand::Dialer) wakes its task.
pub(crate) struct TaskTimer {
    locked: Arc<Locked>,
    /// The time that the driver passed last, in milliseconds.
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
