//! The timers of a client that is driven by hand: it has no runtime with timers.

use std::{collections::BTreeMap, task::Waker};

use crate::protocol::Time;

/// The waiting tasks, by deadline and ticket.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    waiting: BTreeMap<(Time, u64), Waker>,
    last_ticket: u64,
}

impl Alarms {
    /// Registers the waker of a task. Returns the waker that it replaces, to be dropped outside the
    /// lock.
    pub(crate) fn wait(
        &mut self,
        at: Time,
        ticket: &mut Option<u64>,
        waker: Waker,
    ) -> Option<Waker> {
        let ticket = *ticket.get_or_insert_with(|| {
            self.last_ticket += 1;
            self.last_ticket
        });
        self.waiting.insert((at, ticket), waker)
    }

    /// Removes the waker of a task. It is returned, to be dropped outside the lock.
    pub(crate) fn leave(&mut self, at: Time, ticket: u64) -> Option<Waker> {
        self.waiting.remove(&(at, ticket))
    }

    /// The first deadline.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.waiting.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Takes out all tasks. A task that still has to wait registers again.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Waker> {
        std::mem::take(&mut self.waiting).into_values()
    }

    /// Takes out the tasks whose deadline has come, in the order of the deadlines.
    pub(crate) fn take_due(&mut self, now: Time) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(first) = self.waiting.first_entry().filter(|first| first.key().0 <= now) {
            due.push(first.remove());
        }
        due
    }
}
