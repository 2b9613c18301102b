//! One step of the core: its time, and what is to be done after it.

use std::task::Waker;

use crate::{
    client::{
        core::{
            link::LinkId,
            requests::Caller,
            topics::Joined,
            waiter::{CallResult, Listed, Sent},
        },
        event::ConnectionEvent,
        stats::{Counters, Tally},
    },
    guard::{guarded, wake},
    protocol::{Time, Topic},
    sync::oneshot,
};

/// What follows from a step of the core, to be done once the lock is released: no waker is woken, no
/// one-shot is sent and no user code runs under it.
///
/// A driver keeps its own for its allocations.
#[derive(Debug, Default)]
#[must_use = "nothing happens before `run`"]
pub(crate) struct Step {
    /// The time of this step.
    pub(crate) now: Time,
    /// The connection whose driver does it. It writes after the step and needs no waking.
    pub(crate) driver: Option<LinkId>,
    /// What is counted, before anything of it is reported.
    pub(crate) tally: Tally,
    /// What becomes of calls.
    pub(crate) replies: Vec<(oneshot::Sender<CallResult>, CallResult)>,
    /// What becomes of the protocol's own lists.
    pub(crate) lists: Vec<(oneshot::Sender<Listed>, Listed)>,
    /// What becomes of one-way requests.
    pub(crate) one_ways: Vec<(oneshot::Sender<Sent>, Sent)>,
    /// What becomes of subscriptions.
    pub(crate) joined: Vec<(oneshot::Sender<Joined>, Joined)>,
    /// Tasks to be woken.
    pub(crate) wakers: Vec<Waker>,
    /// Wakers that are of no use any more. They are dropped here.
    pub(crate) unused: Vec<Waker>,
    /// Callers that are not told: they have given up. To drop a one-shot wakes its receiver.
    pub(crate) gone: Vec<Caller>,
    /// What happened. The core queues it for its streams before the lock is released.
    pub(crate) events: Vec<ConnectionEvent>,
}

impl Step {
    /// A step at `now`, by a handle.
    pub(crate) fn at(now: Time) -> Self {
        Self { now, ..Self::default() }
    }

    /// Emits an event.
    pub(crate) fn emit(&mut self, event: ConnectionEvent) {
        self.events.push(event);
    }

    /// Counts and reports a violation of the order or the window of a topic.
    pub(crate) fn violation(&mut self, topic: Topic) {
        self.tally.violations += 1;
        self.emit(ConnectionEvent::Violation(topic));
    }

    /// Counts numbers that were missed.
    pub(crate) fn missed(&mut self, first: u64, last: u64) {
        self.tally.gaps += 1;
        // A server may claim any numbers of any number of logs.
        self.tally.missed = self.tally.missed.saturating_add(last - first + 1);
    }

    /// Counts, completes and wakes. Keeps the allocations.
    pub(crate) fn run(&mut self, counters: &Counters) {
        counters.fold(&mut self.tally);
        for (joining, outcome) in self.joined.drain(..) {
            guarded(|| drop(joining.send(outcome)));
        }
        for (caller, list) in self.lists.drain(..) {
            guarded(|| drop(caller.send(list)));
        }
        for (caller, sent) in self.one_ways.drain(..) {
            guarded(|| drop(caller.send(sent)));
        }
        self.wakers.drain(..).map(Some).for_each(wake);
        for (caller, reply) in self.replies.drain(..) {
            guarded(|| drop(caller.send(reply)));
        }
        for waker in self.unused.drain(..) {
            guarded(|| drop(waker));
        }
        for caller in self.gone.drain(..) {
            guarded(|| drop(caller));
        }
    }
}
