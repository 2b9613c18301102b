//! A step of the core: its time, and its effects.

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

/// The effects of a step of the core, which run once the lock is released. While the core is
/// locked, no waker is woken, no one-shot is sent and no user code runs.
///
/// A driver keeps its step for the allocations. An empty step costs almost nothing, so each call of
/// a handle makes its own.
#[derive(Debug, Default)]
#[must_use = "nothing happens before `run`"]
pub(crate) struct Step {
    /// The time of this step.
    pub(crate) now: Time,
    /// The connection whose driver runs the step. The driver writes after the step and need not be
    /// woken.
    pub(crate) driver: Option<LinkId>,
    /// The number of calls that have ended.
    pub(crate) completed: usize,
    /// The first task to be woken. It is separate from the others because most steps wake one task.
    first_waker: Option<Waker>,
    wakers: Vec<Waker>,
    /// Effects that few steps have.
    rare: Option<Box<Rare>>,
    tally: Tally,
    is_counted: bool,
}

#[derive(Debug, Default)]
struct Rare {
    after: Vec<Effect>,
    events: Vec<ConnectionEvent>,
}

/// An effect of a step.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The outcome of a call.
    Call(Arc<RequestCell>, CallResult),
    /// The outcome of a list of the protocol itself.
    List(oneshot::Sender<Listed>, Listed),
    /// The outcome of a one-way request.
    OneWay(oneshot::Sender<Sent>, Sent),
    /// The outcome of a subscription.
    Joined(oneshot::Sender<Joined>, Joined),
    /// A waker to be dropped.
    Drop(Waker),
    /// A caller that has gone, and gets no outcome. It is dropped outside the lock, because
    /// dropping a one-shot wakes its receiver.
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
    /// A step of a handle at `now`.
    pub(crate) fn at(now: Time) -> Self {
        Self { now, ..Self::default() }
    }

    /// The step of a driver. The first one is at `now`.
    pub(crate) fn of_driver(link: LinkId, now: Time) -> Self {
        Self { now, driver: Some(link), ..Self::default() }
    }

    /// Emits an event. The core queues it for the event streams before the lock is released.
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

    /// The counters of this step. The core adds them to its sums before the lock is released, so a
    /// reply is counted before its caller gets it.
    pub(crate) fn tally(&mut self) -> &mut Tally {
        self.is_counted = true;
        &mut self.tally
    }

    /// The counters of this step, if one of them has changed.
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
        // Saturates, because a server may name any numbers of any number of logs.
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

    /// Runs an effect after the step.
    pub(crate) fn then(&mut self, effect: Effect) {
        self.rare.get_or_insert_default().after.push(effect);
    }

    /// Runs the effects and wakes the tasks. Keeps the allocations.
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
