//! A handler that was started.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tracing::Span;

use crate::{
    guard::guarded,
    server::handlers::{
        extractors::RequestParts,
        reply::{Ended, IntoReply, Rejection, Reply},
        streamed::{Items, NextItem},
    },
};

/// A handler that was started.
pub(in crate::server) enum Running {
    Inline(BoxedReply),
    /// The reply is a stream, which is polled item by item.
    Stream(Items),
    /// The handler runs in another way: in a task, within layers or a span, or after a verdict.
    Apart(Box<dyn Run>),
}

/// The result of starting a handler.
pub(in crate::server) enum Started {
    /// It was polled, and has ended.
    Ended(Ended),
    /// It was polled, and is pending.
    Waiting(Running),
    /// It was not polled.
    Made(Running),
}

impl Started {
    /// Whether the handler was constructed. It was not if the call still waits for the authorizer.
    pub(in crate::server) fn has_started(&self) -> bool {
        match self {
            Self::Ended(_) => true,
            Self::Waiting(running) | Self::Made(running) => running.has_started(),
        }
    }
}

/// A way in which a handler runs.
pub(in crate::server) trait Run: Send {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended>;

    /// Tells a task to end; it has to be polled once more. Returns `false` for a handler that ends
    /// by being dropped.
    fn abort(&mut self) -> bool;

    /// Whether the handler was constructed. It was not if the call still waits for the authorizer.
    fn has_started(&self) -> bool {
        true
    }
}

/// A future whose output is a reply. The trait erases the handler's type, so that its future is
/// boxed only once.
pub(in crate::server) trait ReplyFuture: Send {
    fn poll_reply(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply>;
}

/// `None` after the future was dropped, so that its box can be used again.
impl<F: Future<Output: IntoReply> + Send> ReplyFuture for Option<F> {
    fn poll_reply(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        match self.as_pin_mut() {
            Some(future) => future.poll(cx).map(IntoReply::into_reply),
            None => Poll::Pending,
        }
    }
}

pub(in crate::server) type BoxedReply = Pin<Box<dyn ReplyFuture>>;

/// Extracts a handler's arguments and constructs its future. With a waker, also polls it.
pub(in crate::server) type Start =
    dyn Fn(&RequestParts<'_>, Option<&Waker>) -> Result<Started, Rejection> + Send + Sync;

impl Running {
    pub(in crate::server) fn apart(run: impl Run + 'static) -> Self {
        Self::Apart(Box::new(run))
    }

    /// A handler that had ended when it was started.
    pub(in crate::server) fn ended(ended: Ended) -> Self {
        Self::apart(AlreadyEnded(Some(ended)))
    }

    /// Runs it in `span`.
    pub(in crate::server) fn traced(self, span: Span) -> Self {
        Self::apart(Traced { running: self, span })
    }

    pub(in crate::server) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        match self {
            Self::Inline(future) => future.as_mut().poll_reply(cx).map(Ended::Replied),
            // A stream is polled here only after it was told to end, so a further item is dropped.
            Self::Stream(items) => items.poll(cx).map(|next| match next {
                NextItem::Ended(ended) => ended,
                NextItem::Item(_) => Ended::Aborted { started: true },
            }),
            Self::Apart(run) => run.poll(cx),
        }
    }

    /// As [`Run::abort`].
    pub(in crate::server) fn abort(&mut self) -> bool {
        match self {
            Self::Inline(_) => false,
            Self::Stream(items) => items.abort(),
            Self::Apart(run) => run.abort(),
        }
    }

    /// As [`Run::has_started`].
    pub(in crate::server) fn has_started(&self) -> bool {
        match self {
            Self::Inline(_) | Self::Stream(_) => true,
            Self::Apart(run) => run.has_started(),
        }
    }

    /// Drops what is left of the handler. Returns whether that went without a panic, and the stream
    /// if it was one, which has to be told how it ended.
    pub(in crate::server) fn end(self) -> (bool, Option<Items>) {
        match self {
            Self::Stream(mut items) => (items.end(), Some(items)),
            running => (guarded(|| drop(running)).is_some(), None),
        }
    }
}

/// A handler that had ended when it was started.
struct AlreadyEnded(Option<Ended>);

impl Run for AlreadyEnded {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Ended> {
        self.0.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn abort(&mut self) -> bool {
        false
    }
}

/// A handler in a span of its own, if a subscriber wants the span.
struct Traced {
    running: Running,
    span: Span,
}

impl Run for Traced {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let Self { running, span } = self;
        span.in_scope(|| running.poll(cx))
    }

    fn abort(&mut self) -> bool {
        self.running.abort()
    }

    fn has_started(&self) -> bool {
        self.running.has_started()
    }
}
