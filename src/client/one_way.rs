//! One-way requests: sent, and never answered.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    client::{
        core::{caller::Caller, cell::RequestCell, outcome::Sent},
        exchange::Exchange,
        shared::Shared,
    },
    coop::poll_budgeted,
    error::{CallError, ConnectionError, NotSent},
    protocol::{Method, TraceParent},
    sync::oneshot,
};

/// A one-way request that is being sent: a future that ends when its line waits to be written.
/// Nothing is sent before it is first polled.
///
/// Made by [`Client::one_way`](crate::Client::one_way), which has the details. Implements
/// docs/protocol/calls.md, section 12.
///
/// # Errors
/// [`NotSent`].
///
/// # Cancel safety
/// Dropping it while it waits for a connection or for room sends nothing.
#[must_use = "nothing is sent unless it is awaited"]
pub struct OneWay<'a> {
    exchange: Exchange<&'a Shared>,
    /// The outcome, while the request waits.
    sent: Option<oneshot::Receiver<Sent>>,
}

impl<'a> OneWay<'a> {
    pub(super) fn new(shared: &'a Shared, method: &str, payload: &[u8]) -> Self {
        let word = Method::new_word(method).map_err(|error| NotSent::Name(error).into());
        let cell = word.map(|word| RequestCell::new(word, payload));
        Self { exchange: Exchange::new(shared, cell), sent: None }
    }

    /// Gives it this long, from its first poll, to wait for a connection and for room to write;
    /// `None` for no limit. Default: [`ClientConfig::deadline`](crate::ClientConfig::deadline).
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.exchange.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this request.
    pub fn fail_fast(mut self) -> Self {
        self.exchange.fail_fast = true;
        self
    }

    /// Sends a trace context with the request. The handler's span on the server carries it.
    pub fn trace(mut self, parent: TraceParent) -> Self {
        self.exchange.push(|attributes| attributes.push("trace", parent));
        self
    }

    /// Sends an attribute of the application with the request; its key has a dot. If it cannot be
    /// written, the request ends with [`NotSent::Attribute`].
    pub fn attribute(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.exchange.push(|attributes| attributes.push_application(key, value));
        self
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotSent>> {
        let Self { exchange, sent } = self;
        if exchange.send_one_way() {
            return Poll::Ready(Ok(()));
        }
        let begun = exchange.begin(|| {
            let (sender, receiver) = oneshot::channel();
            *sent = Some(receiver);
            Caller::OneWay(sender)
        });
        let (true, Some(receiver)) = (begun, sent) else {
            return Poll::Ready(Err(not_sent(exchange.take_error())));
        };
        match Pin::new(receiver).poll(cx) {
            Poll::Ready(sent) => {
                exchange.finish();
                Poll::Ready(sent.unwrap_or_else(|_| Err(not_sent(None))))
            }
            Poll::Pending => exchange.poll_deadline(cx).map(|error| Err(not_sent(Some(error)))),
        }
    }
}

/// The error of a one-way request, which can fail only before it is sent.
fn not_sent(error: Option<CallError>) -> NotSent {
    match error {
        Some(CallError::NotSent(error)) => error,
        _ => NotSent::Lost(ConnectionError::Closed),
    }
}

impl Future for OneWay<'_> {
    type Output = Result<(), NotSent>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        poll_budgeted(cx, |cx| this.poll_sent(cx))
    }
}

impl fmt::Debug for OneWay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneWay").finish_non_exhaustive()
    }
}
