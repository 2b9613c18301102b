//! The inputs of a topic.

use std::{borrow::Cow, num::NonZeroU64, time::Duration};

use bytes::Bytes;

use crate::{
    client::core::delivery::{Delivery, Gap, GapCause, Notification},
    error::CallError,
    protocol::{Action, Code, Position, SubscriptionEvent, Terms, Topic},
};

/// Where a subscription goes on when its topic has a new log: see
/// [`Subscribe::after_reset`](crate::Subscribe::after_reset).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AfterReset {
    /// At the first message of the new log. The default.
    #[default]
    Start,
    /// After the last message that the new log has at that time.
    Head,
}

/// The wishes of a stream for its topic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) from: Option<Position>,
    /// With so many of the newest messages, if there is no position.
    pub(crate) last: Option<NonZeroU64>,
    pub(crate) terms: Terms,
    /// `None` if the stream leaves this to the other streams.
    pub(crate) after_reset: Option<AfterReset>,
}

/// An event, with the data of its line.
pub(crate) struct Input<'a> {
    pub(crate) event: SubscriptionEvent,
    pub(crate) payload: Cow<'a, [u8]>,
    pub(crate) code: Code,
    pub(crate) failure: Option<CallError>,
    /// The position behind the `head` that a stopping server has sent.
    pub(crate) tail: Option<Position>,
}

impl From<SubscriptionEvent> for Input<'_> {
    fn from(event: SubscriptionEvent) -> Self {
        Self { event, payload: Cow::Borrowed(b""), code: Code::CLOSED, failure: None, tail: None }
    }
}

impl Input<'_> {
    /// How a refused `/subscribe` is repeated: whether at once on another connection, and otherwise
    /// the server's `retry`.
    pub(super) fn retry(&self) -> (bool, Option<Duration>) {
        match &self.failure {
            Some(CallError::Refused { reason, retry }) => {
                (reason.code == Code::CLOSING && retry.is_none(), *retry)
            }
            _ => (false, None),
        }
    }

    /// The delivery for the streams of a topic after `action`.
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
                Delivery::Notification(Notification::received(topic, epoch, sequence, payload))
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
