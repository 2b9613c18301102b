//! The tasks of a connection that wait until their replies can be written.

use std::{collections::BTreeMap, task::Waker};

/// How many blocking functions of one connection run at a time.
///
/// Each may end with a reply of any size, however much the connection holds by then. The runtime
/// has 512 threads for such functions, for all connections together.
pub(super) const THREADS: usize = 16;

/// The waiting tasks of a connection, the oldest first.
#[derive(Debug, Default)]
pub(super) struct WaitingTasks {
    tasks: BTreeMap<u64, Waker>,
    threads: BTreeMap<u64, Waker>,
    /// Blocking functions that run.
    pub(super) running: usize,
    pub(super) last: u64,
}

impl WaitingTasks {
    /// Removes the next waiters: a task, and a blocking function if fewer than `threads` run.
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
