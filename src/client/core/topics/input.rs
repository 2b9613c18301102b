//! The inputs of a topic, and the tasks to be told of the result.

use std::{borrow::Cow, task::Waker, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    client::{
        core::acks::AckHandle,
        core::inbox::{Delivery, Gap, GapCause, Notification},
        event::ConnectionEvent,
        loss::AfterReset,
        shared::Shared,
        stats::Tally,
    },
    error::CallError,
    guard::{guarded, wake},
    protocol::{Action, Code, Position, SubscriptionEvent, Terms, Topic},
    sync::oneshot,
};

pub(crate) type Joined = Result<Position, CallError>;

/// What a stream asks of its topic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) from: Option<Position>,
    pub(crate) terms: Terms,
    /// `None` where it does not say.
    pub(crate) after_reset: Option<AfterReset>,
}

/// An event, and what came with it.
pub(crate) struct Input<'a> {
    pub(crate) event: SubscriptionEvent,
    pub(crate) payload: Cow<'a, [u8]>,
    pub(crate) code: Code,
    pub(crate) failure: Option<CallError>,
    /// The number behind the last one of a log that a server has not delivered all of.
    pub(crate) tail: Option<Position>,
}

impl From<SubscriptionEvent> for Input<'_> {
    fn from(event: SubscriptionEvent) -> Self {
        Self { event, payload: Cow::Borrowed(b""), code: Code::CLOSED, failure: None, tail: None }
    }
}

/// The tasks to be told, once no lock is held.
#[derive(Debug, Default)]
#[must_use = "nobody is told before `tell`"]
pub(crate) struct Told {
    pub(super) wakers: Vec<Waker>,
    pub(super) joined: Vec<(oneshot::Sender<Joined>, Joined)>,
    pub(super) violations: Vec<Topic>,
    tally: Tally,
    /// When the driver is to ask again for what was refused for now.
    pub(crate) again: Option<Instant>,
}

impl Told {
    /// Tells them all. What is to be asked for again is left to the current connection, or to the
    /// next one, which looks for it.
    pub(crate) fn tell(mut self, shared: &Shared) {
        self.wakers.extend(self.again.take().and_then(|at| shared.ask_again_at(at)));
        self.tell_all(shared);
    }

    /// Numbers were missed.
    pub(super) fn missed(&mut self, first: u64, last: u64) {
        self.tally.gaps += 1;
        // A server may claim any numbers of any number of logs.
        self.tally.missed = self.tally.missed.saturating_add(last - first + 1);
    }

    pub(crate) fn ask_again(&mut self, at: Option<Instant>) {
        self.again = self.again.into_iter().chain(at).min();
    }

    /// Tells them all, and keeps the allocations.
    pub(crate) fn tell_all(&mut self, shared: &Shared) {
        self.tally.violations += self.violations.len() as u64;
        shared.counters.fold(&mut self.tally);
        for (joining, outcome) in self.joined.drain(..) {
            guarded(|| drop(joining.send(outcome)));
        }
        self.wakers.drain(..).map(Some).for_each(wake);
        for topic in self.violations.drain(..) {
            shared.events.emit(ConnectionEvent::Violation(topic));
        }
    }
}

impl Input<'_> {
    /// Of what was refused for now: whether it is asked for on another connection at once; and else
    /// what the server said of when.
    pub(super) fn retry(&self) -> (bool, Option<Duration>) {
        match &self.failure {
            Some(CallError::Refused { reason, retry }) => {
                (reason.code == Code::CLOSING && retry.is_none(), *retry)
            }
            _ => (false, None),
        }
    }

    /// What the streams of a topic get for `action`.
    pub(super) fn delivery(
        &self,
        topic: &Topic,
        action: Action,
        next: Option<Position>,
    ) -> Delivery {
        let topic = topic.clone();
        match action {
            Action::Deliver(Position { epoch, next: sequence }) => {
                let payload = Bytes::copy_from_slice(&self.payload);
                let ack = AckHandle::default();
                Delivery::Notification(Notification { topic, epoch, sequence, payload, ack })
            }
            Action::Missed { epoch, first, last, named } => {
                let cause = match named {
                    true => GapCause::Server(self.code.clone()),
                    false => GapCause::Lost,
                };
                Delivery::Gap(Gap { topic, epoch, first, last, cause })
            }
            Action::Reset(position) => Delivery::Reset { topic, position },
            _ => Delivery::End { topic, reason: self.code.clone(), position: next },
        }
    }
}
