//! Typed calls: arguments and replies through a codec of the caller's choice.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::{
    client::{
        call::{Call, Replied},
        codecs::{Decode, decode},
    },
    error::CallError,
    protocol::TraceParent,
};

/// A typed call in progress: a future of the decoded reply. Otherwise as [`Call`].
#[must_use = "a call does nothing unless it is awaited"]
pub struct TypedCall<'a, C, R> {
    call: Call<'a>,
    codec: C,
    reply: PhantomData<fn() -> R>,
}

impl<'a, C: Decode<R>, R> TypedCall<'a, C, R> {
    pub(crate) fn new(call: Call<'a>, codec: C) -> Self {
        Self { call, codec, reply: PhantomData }
    }

    /// As [`Call::deadline`].
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.call = self.call.deadline(deadline);
        self
    }

    /// As [`Call::fail_fast`].
    pub fn fail_fast(mut self) -> Self {
        self.call = self.call.fail_fast();
        self
    }

    /// As [`Call::key`].
    pub fn key(mut self, key: impl fmt::Display) -> Self {
        self.call = self.call.key(key);
        self
    }

    /// As [`Call::idempotent`].
    pub fn idempotent(mut self) -> Self {
        self.call = self.call.idempotent();
        self
    }

    /// As [`Call::trace`].
    pub fn trace(mut self, parent: TraceParent) -> Self {
        self.call = self.call.trace(parent);
        self
    }

    /// As [`Call::attribute`].
    pub fn attribute(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.call = self.call.attribute(key, value);
        self
    }
}

impl<C: Decode<R>, R> TypedCall<'_, C, R> {
    /// As [`Call::replied`].
    ///
    /// # Errors
    /// As when the call itself is awaited.
    pub async fn replied(self) -> Result<Replied<R>, CallError> {
        let Self { call, codec, .. } = self;
        let Replied { value, after } = call.replied().await?;
        let value = decode(&codec, &value)?;
        Ok(Replied { value, after })
    }
}

impl<C: Decode<R> + Unpin, R> Future for TypedCall<'_, C, R> {
    type Output = Result<R, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let payload = ready!(Pin::new(&mut this.call).poll(cx))?;
        Poll::Ready(decode(&this.codec, &payload))
    }
}

impl<C, R> fmt::Debug for TypedCall<'_, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedCall")
    }
}
