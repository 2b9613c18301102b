//! Makes the tasks of a connection wait while their replies could not be written.
//!
//! A finished reply of a task waits in memory until the connection writes it. So a task runs only
//! while its connection is below its mark, which is checked at every poll. A blocking function
//! cannot be interrupted. It is checked once before it begins, and only a few of one connection run
//! at a time.

use std::task::{Context, Poll, Waker};

use crate::server::{session::Session, waiting_tasks::Waiter};

/// Lets one task run while its connection is below the mark. Dropping it passes the turn to the
/// next task in the queue.
#[derive(Debug)]
pub(in crate::server) struct Pass {
    session: Session,
    kind: Waiter,
    /// Its number in the queue, which it keeps when it has to wait again.
    ticket: Option<u64>,
    is_waiting: bool,
    /// Whether it counts as a running blocking function.
    is_running: bool,
}

impl Pass {
    /// For a task, which is checked before each poll.
    pub(in crate::server) fn of_task(session: Session) -> Self {
        Self::new(session, Waiter::Task)
    }

    /// For a blocking function, which is checked once. It counts as running until this is dropped.
    pub(in crate::server) fn of_thread(session: Session) -> Self {
        Self::new(session, Waiter::Thread)
    }

    fn new(session: Session, kind: Waiter) -> Self {
        Self { session, kind, ticket: None, is_waiting: false, is_running: false }
    }

    /// Ready if the task may run. Otherwise `cx` is woken when it may.
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

    /// Counts the task's reply of `bytes` bytes.
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

/// The bytes of an ended task's reply. They are counted until this is dropped.
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
