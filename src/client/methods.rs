//! The list of a server's methods.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    client::{
        core::{caller::Caller, cell::RequestCell, outcome::Listed},
        exchange::{Exchange, abandoned},
        shared::Shared,
    },
    coop::poll_budgeted,
    error::CallError,
    protocol::{Method, Word},
    sync::oneshot,
};

/// A request for the methods of the server: a future of a list of names, each with its line of
/// documentation. Nothing is sent before it is first polled.
///
/// Made by [`Client::methods`](crate::Client::methods). Implements docs/protocol/calls.md, section
/// 12.
///
/// # Errors
/// As a [`Call`](crate::Call)'s.
///
/// # Cancel safety
/// Dropping it has no further effect.
#[must_use = "nothing is asked unless it is awaited"]
pub struct Methods<'a> {
    exchange: Exchange<&'a Shared>,
    /// From the first poll on.
    list: Option<oneshot::Receiver<Listed>>,
}

impl<'a> Methods<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let word = Word::new("/methods").ok_or(CallError::Encode("no such word".into()));
        let cell = word.map(|word| RequestCell::new(word, b""));
        Self { exchange: Exchange::new(shared, cell), list: None }
    }

    /// Gives it this long, from its first poll; `None` for no limit. Default:
    /// [`ClientConfig::deadline`](crate::ClientConfig::deadline).
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.exchange.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection, and is not sent again: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this request.
    pub fn fail_fast(mut self) -> Self {
        self.exchange.fail_fast = true;
        self
    }

    fn poll_list(&mut self, cx: &mut Context<'_>) -> Poll<Listed> {
        let Self { exchange, list } = self;
        let begun = exchange.begin(|| {
            let (sender, receiver) = oneshot::channel();
            *list = Some(receiver);
            Caller::list(sender)
        });
        let (true, Some(receiver)) = (begun, list) else {
            let mut take = || exchange.take_error().unwrap_or_else(abandoned);
            return poll_budgeted(cx, |_| Poll::Ready(Err(take())));
        };
        match Pin::new(receiver).poll(cx) {
            Poll::Ready(listed) => {
                exchange.finish();
                Poll::Ready(listed.unwrap_or_else(|_| Err(abandoned())))
            }
            Poll::Pending => exchange.poll_deadline(cx).map(Err),
        }
    }
}

impl Future for Methods<'_> {
    type Output = Result<Vec<(Method, String)>, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut()
            .poll_list(cx)
            .map(|lines| lines?.iter().map(|line| method_and_doc(line)).collect())
    }
}

impl fmt::Debug for Methods<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Methods").finish_non_exhaustive()
    }
}

fn method_and_doc(line: &[u8]) -> Result<(Method, String), CallError> {
    let line = String::from_utf8_lossy(line);
    let (name, doc) = line.split_once(' ').unwrap_or((&line, ""));
    let method = Method::new(name).map_err(|error| CallError::Decode(error.to_string().into()))?;
    Ok((method, doc.to_owned()))
}
