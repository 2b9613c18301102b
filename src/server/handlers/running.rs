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
    /// It answers with a stream, which is polled item by item.
    Stream(Items),
    /// It runs in some other way: in a task, within layers or a span, or once it is allowed.
    Apart(Box<dyn Run>),
}

/// A handler that was made.
pub(in crate::server) enum Started {
    /// It was polled, and has ended.
    Ended(Ended),
    /// It was polled, and is not ready.
    Waiting(Running),
    /// It was not polled.
    Made(Running),
}

impl Started {
    /// Whether the handler was made; only one that waits to be allowed was not.
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

    /// Asks a task to end; `false` for a handler that ends by being dropped. It is to be polled
    /// once more.
    fn abort(&mut self) -> bool;

    /// Whether the handler was made; only one that waits to be allowed was not.
    fn has_started(&self) -> bool {
        true
    }
}

/// A future whose output is a reply: what lets a handler's future be boxed once, as it is.
pub(in crate::server) trait ReplyFuture: Send {
    fn poll_reply(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply>;
}

/// `None` once it is dropped: so its box can be used again.
impl<F: Future<Output: IntoReply> + Send> ReplyFuture for Option<F> {
    fn poll_reply(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        match self.as_pin_mut() {
            Some(future) => future.poll(cx).map(IntoReply::into_reply),
            None => Poll::Pending,
        }
    }
}

pub(in crate::server) type BoxedReply = Pin<Box<dyn ReplyFuture>>;

/// Extracts a handler's arguments, and constructs its future; polls it, if it is given a waker.
pub(in crate::server) type Start =
    dyn Fn(&RequestParts<'_>, Option<&Waker>) -> Result<Started, Rejection> + Send + Sync;

impl Running {
    pub(in crate::server) fn apart(run: impl Run + 'static) -> Self {
        Self::Apart(Box::new(run))
    }

    /// One that has ended when it was made.
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
            // Told to end: what it still yields is of no use.
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

    /// Drops what is left of it; whether that went without a panic. The stream that it was, which has
    /// still to be told how it ended.
    pub(in crate::server) fn end(self) -> (bool, Option<Items>) {
        match self {
            Self::Stream(mut items) => (items.end(), Some(items)),
            running => (guarded(|| drop(running)).is_some(), None),
        }
    }
}

/// A handler that has ended when it was made.
struct AlreadyEnded(Option<Ended>);

impl Run for AlreadyEnded {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Ended> {
        self.0.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn abort(&mut self) -> bool {
        false
    }
}

/// A handler in a span of its own, for a subscriber that is interested in it.
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
