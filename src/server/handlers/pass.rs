//! Where tasks of a connection wait while their replies could not be written.
//!
//! A reply that a task has made waits in memory until the connection writes it. So a task goes on only
//! while its connection is below its mark: at every poll it passes here first. A function that may
//! block is looked at once, before it begins, and only a few of one connection run at a time: it
//! cannot be held up later.

use std::task::{Context, Poll, Waker};

use crate::server::{session::Session, waiting_tasks::Waiter};

/// A task's way past its connection's mark. Dropping it gives its place in the queue to the next.
#[derive(Debug)]
pub(in crate::server) struct Pass {
    session: Session,
    kind: Waiter,
    /// Its place in the queue, the same however often it has to wait.
    ticket: Option<u64>,
    is_waiting: bool,
    /// It is one of those that run on a thread.
    is_running: bool,
}

impl Pass {
    /// For a task, which passes before each poll.
    pub(in crate::server) fn of_task(session: Session) -> Self {
        Self::new(session, Waiter::Task)
    }

    /// For a function that may block, which passes once. It counts as running till the pass is
    /// dropped.
    pub(in crate::server) fn of_thread(session: Session) -> Self {
        Self::new(session, Waiter::Thread)
    }

    fn new(session: Session, kind: Waiter) -> Self {
        Self { session, kind, ticket: None, is_waiting: false, is_running: false }
    }

    /// Whether it may go on; else `cx` is woken when it may.
    pub(in crate::server) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.try_pass() {
            self.wait(cx.waker());
            if !self.try_pass() {
                return Poll::Pending;
            }
        }
        self.session.holding().pass_on();
        Poll::Ready(())
    }

    /// Counts the reply of so many bytes that came of it.
    pub(in crate::server) fn charge(&self, bytes: usize) -> Charge {
        self.session.holding().add_finished(bytes);
        Charge { session: self.session.clone(), bytes }
    }

    fn try_pass(&mut self) -> bool {
        let holding = self.session.holding();
        if !holding.is_open() {
            return false;
        }
        if let Waiter::Task = self.kind
            && !self.is_waiting
        {
            return true;
        }
        let mut queue = holding.queue().lock();
        if let Waiter::Thread = self.kind {
            if queue.running >= holding.threads() {
                return false;
            }
            queue.running += 1;
            self.is_running = true;
        }
        let known = self.ticket.and_then(|ticket| queue.of(self.kind).remove(&ticket));
        self.is_waiting = false;
        drop(queue);
        drop(known);
        true
    }

    fn wait(&mut self, waker: &Waker) {
        let waker = waker.clone();
        let mut queue = self.session.holding().queue().lock();
        queue.last += 1;
        let ticket = *self.ticket.get_or_insert(queue.last);
        let known = queue.of(self.kind).insert(ticket, waker);
        self.is_waiting = true;
        drop(queue);
        drop(known);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let holding = self.session.holding();
        if self.is_waiting || self.is_running {
            let mut queue = holding.queue().lock();
            queue.running -= usize::from(self.is_running);
            let known = self.ticket.and_then(|ticket| queue.of(self.kind).remove(&ticket));
            drop(queue);
            drop(known);
        }
        holding.pass_on();
    }
}

/// The reply of a task that has ended, as long as the connection has not taken it.
#[derive(Debug)]
pub(in crate::server) struct Charge {
    session: Session,
    bytes: usize,
}

impl Charge {
    pub(in crate::server) fn session(&self) -> &Session {
        &self.session
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.session.holding().sub_finished(self.bytes);
    }
}
