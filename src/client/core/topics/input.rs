//! The inputs of a topic.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;

use crate::{
    client::core::{
        delivery::{Delivery, Gap, GapCause, Notification},
        reader::AckHandle,
    },
    error::CallError,
    protocol::{Action, Code, Position, SubscriptionEvent, Terms, Topic},
};

/// Where a subscription goes on when its topic has a new log: see
/// [`Subscribe::after_reset`](crate::Subscribe::after_reset).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AfterReset {
    /// With the first message of the new log. The default.
    #[default]
    Start,
    /// After the last message that the new log has at that time.
    Head,
}

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
