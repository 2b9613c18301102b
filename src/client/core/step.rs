//! One step of the core: its time, and what is to be done after it.

use std::task::Waker;

use crate::{
    client::{
        core::{
            caller::Caller,
            cell::RequestCell,
            key::LinkId,
            outcome::{CallResult, Joined, Listed, Sent},
        },
        event::ConnectionEvent,
        stats::Tally,
    },
    guard::{guarded, wake},
    protocol::{Time, Topic},
    sync::{Arc, oneshot},
};

/// What follows from a step of the core, to be done once the lock is released: no waker is woken, no
/// one-shot is sent and no user code runs under it.
///
/// A driver keeps its own for its allocations. That of a handle costs next to nothing while it is
/// empty.
#[derive(Debug, Default)]
#[must_use = "nothing happens before `run`"]
pub(crate) struct Step {
    /// The time of this step.
    pub(crate) now: Time,
    /// The connection whose driver does it. It writes after the step and needs no waking.
    pub(crate) driver: Option<LinkId>,
    /// Calls that have ended.
    pub(crate) completed: usize,
    /// The first task to be woken, and the others: most steps wake one.
    first_waker: Option<Waker>,
    wakers: Vec<Waker>,
    /// What few steps have.
    rare: Option<Box<Rare>>,
    tally: Tally,
    is_counted: bool,
}

#[derive(Debug, Default)]
struct Rare {
    after: Vec<Effect>,
    events: Vec<ConnectionEvent>,
}

/// Something to be done after a step.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The outcome of a call.
    Call(Arc<RequestCell>, CallResult),
    /// What becomes of a list of the protocol's own.
    List(oneshot::Sender<Listed>, Listed),
    /// What becomes of a one-way request.
    OneWay(oneshot::Sender<Sent>, Sent),
    /// What becomes of a subscription.
    Joined(oneshot::Sender<Joined>, Joined),
    /// A waker that is of no use any more.
    Drop(Waker),
    /// A caller that has given up, and is not told. To drop a one-shot wakes its receiver.
    Forget(Caller),
}

impl Effect {
    fn run(self) {
        match self {
            Self::Call(cell, result) => wake(cell.set(result.map_err(Box::new))),
            Self::List(caller, list) => drop(caller.send(list)),
            Self::OneWay(caller, sent) => drop(caller.send(sent)),
            Self::Joined(joining, joined) => drop(joining.send(joined)),
            Self::Drop(waker) => drop(waker),
            Self::Forget(caller) => drop(caller),
        }
    }
}

impl Step {
    /// A step at `now`, by a handle.
    pub(crate) fn at(now: Time) -> Self {
        Self { now, ..Self::default() }
    }

    /// The steps of a driver, the next one at `now`.
    pub(crate) fn of_driver(link: LinkId, now: Time) -> Self {
        Self { now, driver: Some(link), ..Self::default() }
    }

    /// Emits an event. The core queues it for its streams before the lock is released.
    pub(crate) fn emit(&mut self, event: ConnectionEvent) {
        self.rare.get_or_insert_default().events.push(event);
    }

    /// Whether events were emitted.
    pub(crate) fn has_events(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.events.is_empty())
    }

    /// The events that were emitted.
    pub(crate) fn take_events(&mut self) -> Vec<ConnectionEvent> {
        self.rare.as_mut().map_or(Vec::new(), |rare| std::mem::take(&mut rare.events))
    }

    /// Where to count. The core takes it before the lock is released, so before it is reported.
    pub(crate) fn tally(&mut self) -> &mut Tally {
        self.is_counted = true;
        &mut self.tally
    }

    /// What was counted, if something was.
    pub(crate) fn counted(&mut self) -> Option<&mut Tally> {
        std::mem::take(&mut self.is_counted).then_some(&mut self.tally)
    }

    /// Counts and reports a violation of the order or the window of a topic.
    pub(crate) fn violation(&mut self, topic: Topic) {
        self.tally().violations += 1;
        self.emit(ConnectionEvent::Violation(topic));
    }

    /// Counts numbers that were missed.
    pub(crate) fn missed(&mut self, first: u64, last: u64) {
        let tally = self.tally();
        tally.gaps += 1;
        // A server may claim any numbers of any number of logs.
        tally.missed = tally.missed.saturating_add(last - first + 1);
    }

    /// Wakes tasks after the step.
    pub(crate) fn wake(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        for waker in wakers {
            match &self.first_waker {
                None => self.first_waker = Some(waker),
                Some(_) => self.wakers.push(waker),
            }
        }
    }

    /// Drops wakers after the step.
    pub(crate) fn drop_later(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        wakers.into_iter().for_each(|waker| self.then(Effect::Drop(waker)));
    }

    /// Does something after the step.
    pub(crate) fn then(&mut self, effect: Effect) {
        self.rare.get_or_insert_default().after.push(effect);
    }

    /// Completes and wakes. Keeps the allocations.
    pub(crate) fn run(&mut self) {
        if let Some(rare) = self.rare.as_mut().filter(|rare| !rare.after.is_empty()) {
            for after in std::mem::take(&mut rare.after) {
                guarded(|| after.run());
            }
        }
        if self.first_waker.is_some() {
            wake(self.first_waker.take());
            self.wakers.drain(..).map(Some).for_each(wake);
        }
    }
}
