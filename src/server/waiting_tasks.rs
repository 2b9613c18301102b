//! The tasks of a connection that wait until their replies can be written.

use std::{collections::BTreeMap, task::Waker};

/// Functions that may block, of one connection, that run at a time.
///
/// Each may end with a reply as large as it likes, wherever the connection stands by then. The
/// runtime has 512 threads for such functions, of all connections together.
pub(super) const THREADS: usize = 16;

/// The tasks of a connection that wait, the oldest first.
#[derive(Debug, Default)]
pub(super) struct WaitingTasks {
    tasks: BTreeMap<u64, Waker>,
    threads: BTreeMap<u64, Waker>,
    /// Functions that run on the threads for such.
    pub(super) running: usize,
    pub(super) last: u64,
}

impl WaitingTasks {
    /// Takes out the next waiters: a task, and a blocking function if fewer than `threads` run.
    pub(super) fn next(&mut self, threads: usize) -> [Option<Waker>; 2] {
        let thread = match self.running < threads {
            true => self.threads.pop_first(),
            false => None,
        };
        [self.tasks.pop_first(), thread].map(|next| next.map(|(_, waker)| waker))
    }

    pub(super) fn of(&mut self, kind: Waiter) -> &mut BTreeMap<u64, Waker> {
        match kind {
            Waiter::Task => &mut self.tasks,
            Waiter::Thread => &mut self.threads,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    Task,
    Thread,
}
