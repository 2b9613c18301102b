//! Tasks that wait for a change of the client, in the order in which they came.

use std::{collections::BTreeMap, task::Waker};

/// The waiting tasks. Each has a ticket, which it keeps until it leaves.
///
/// The functions return wakers that the caller wakes or drops once the lock is released.
#[derive(Debug, Default)]
pub(crate) struct WaitList {
    last: u64,
    /// `None` after the task was woken, until it is polled again.
    waiting: BTreeMap<u64, Option<Waker>>,
}

impl WaitList {
    /// Registers a task, under its ticket or a new one. Returns the waker that this replaces.
    #[must_use]
    pub(crate) fn wait(&mut self, ticket: &mut Option<u64>, waker: Waker) -> Option<Waker> {
        let ticket = *ticket.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        self.waiting.insert(ticket, Some(waker)).flatten()
    }

    /// Removes a task that no longer waits.
    #[must_use]
    pub(crate) fn leave(&mut self, ticket: Option<u64>) -> Option<Waker> {
        self.waiting.remove(&ticket?).flatten()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the task with this ticket is the first. Without a ticket, whether no task waits.
    pub(crate) fn is_first(&self, ticket: Option<u64>) -> bool {
        let first = self.waiting.keys().next();
        first.is_none_or(|first| ticket == Some(*first))
    }

    /// The waker of the first task.
    #[must_use]
    pub(crate) fn wake_first(&mut self) -> Option<Waker> {
        self.waiting.values_mut().next().and_then(Option::take)
    }

    /// The wakers of all tasks, in their order.
    pub(crate) fn wake_all(&mut self) -> impl Iterator<Item = Waker> {
        self.waiting.values_mut().filter_map(Option::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_list_is_first_in_first_out() {
        let mut list = WaitList::default();
        assert!(list.is_first(None));
        let (mut one, mut two) = (None, None);
        assert!(list.wait(&mut one, Waker::noop().clone()).is_none());
        assert!(list.wait(&mut two, Waker::noop().clone()).is_none());
        assert!(list.is_first(one) && !list.is_first(two) && !list.is_first(None));
        assert!(list.wake_first().is_some());
        assert!(list.wake_first().is_none(), "it is woken once");
        assert!(list.wait(&mut one, Waker::noop().clone()).is_none());
        assert!(list.is_first(one), "it has kept its place");
        assert!(list.leave(one).is_some());
        assert!(list.is_first(two));
        assert_eq!(list.wake_all().count(), 1);
        assert!(list.leave(two).is_none());
        assert!(list.waiting.is_empty());
    }
}
