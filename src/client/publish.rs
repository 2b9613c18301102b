//! Publishing to a topic.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::{
    client::{
        core::{cell::RequestCell, outcome::Reply},
        exchange::Exchange,
        shared::Shared,
    },
    error::{CallError, NotSent},
    protocol::{Epoch, Topic, Word, parse_number},
    sync::Arc,
    topic::Published,
};

/// A message that is being published: a future of its position. Nothing is sent before it is first
/// polled.
///
/// Made by [`Client::publish`](crate::Client::publish). Implements docs/protocol/subscriptions.md,
/// section 13.
///
/// # Errors
/// As a [`Call`](crate::Call)'s; [`CallError::Refused`] with `forbidden` where it is not allowed.
///
/// # Cancel safety
/// As a call's: if it is dropped after it was sent, the message may have been published.
#[must_use = "nothing is published unless it is awaited"]
pub struct Publish<'a>(Exchange<&'a Shared>);

impl<'a> Publish<'a> {
    pub(super) fn new(shared: &'a Shared, topic: &str, payload: &[u8]) -> Self {
        Self(Exchange::new(shared, publish_line(topic, payload)))
    }

    /// Gives it this long, from its first poll; `None` for no limit. The line carries the remaining
    /// time as `ttl`. Default: [`ClientConfig::deadline`](crate::ClientConfig::deadline).
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.0.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection, and is not sent again: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this request.
    pub fn fail_fast(mut self) -> Self {
        self.0.fail_fast = true;
        self
    }

    /// Publishes at most once, however often the line is sent: as [`Call::key`](crate::Call::key).
    pub fn key(mut self, key: impl fmt::Display) -> Self {
        self.0.set_key(key);
        self
    }

    /// Says that the message may be published twice: as [`Call::idempotent`](crate::Call::idempotent).
    pub fn idempotent(mut self) -> Self {
        self.0.set_idempotent();
        self
    }
}

impl Future for Publish<'_> {
    type Output = Result<Published, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(self.get_mut().0.poll_reply(cx));
        Poll::Ready(reply.map_err(|error| *error).and_then(|reply| published(&reply)))
    }
}

fn publish_line(topic: &str, payload: &[u8]) -> Result<Arc<RequestCell>, CallError> {
    let topic = Topic::new(topic).map_err(NotSent::Name)?;
    let mut arguments = topic.as_str().as_bytes().to_vec();
    if !payload.is_empty() {
        arguments.push(b' ');
        arguments.extend_from_slice(payload);
    }
    let word = Word::new("/publish").ok_or(CallError::Encode("no such word".into()))?;
    Ok(RequestCell::new(word, &arguments))
}

fn published(reply: &Reply) -> Result<Published, CallError> {
    let attributes = reply.attributes.as_attributes();
    let epoch = attributes.get("epoch").and_then(Epoch::new);
    let sequence = attributes.get("seq").and_then(|seq| parse_number(seq.as_bytes()));
    match (epoch, sequence) {
        (Some(epoch), Some(sequence)) => Ok(Published { epoch, sequence }),
        _ => Err(CallError::Decode("the reply names no epoch and seq".into())),
    }
}

impl fmt::Debug for Publish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").finish_non_exhaustive()
    }
}
