//! A future that runs inside a tracing span.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tracing::Span;

use crate::guard::{InSpan, guarded};

/// A future that is polled and dropped inside a span. It is smaller than tracing's `Instrumented`:
/// the span is boxed, and a disabled span takes no memory.
pub(in crate::server) struct Spanned<F> {
    /// `None` once it was dropped.
    future: Option<F>,
    span: Option<Box<Span>>,
}

impl<F> Spanned<F> {
    pub(in crate::server) fn new(future: F, span: Span) -> Self {
        Self { future: Some(future), span: (!span.is_none()).then(|| Box::new(span)) }
    }
}

impl<F: Future<Output = ()> + Unpin> Future for Spanned<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { future, span } = self.get_mut();
        let _entered = span.as_deref().map(InSpan::enter);
        future.as_mut().map_or(Poll::Ready(()), |future| Pin::new(future).poll(cx))
    }
}

impl<F> Drop for Spanned<F> {
    fn drop(&mut self) {
        let entered = self.span.as_deref().map(InSpan::enter);
        self.future = None;
        drop(entered);
        let span = self.span.take();
        guarded(|| drop(span));
    }
}
