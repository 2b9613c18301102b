//! Tells handlers that their connection ends.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{coop::poll_budgeted, server::session::Session};

/// Ends when the connection of a request is told to end. It is an extractor and a future.
///
/// This happens when the server begins to [stop](crate::server::Serve::with_graceful_shutdown),
/// when the application [closes](Session::close) the session, when the server turns the client
/// away, and at the latest when the connection is gone. Requests are still accepted for the
/// [`grace`](crate::ServerConfig::grace) after it, and those in flight have the
/// [`drain`](crate::ServerConfig::drain) time to finish. A client's `/quit` or half-close does not
/// count, because what it has asked for is still answered.
///
/// The handler of a keyed request goes on when its connection is gone. For it, this ends with the
/// connection of the first request, and not with the server.
///
/// An endless stream should end on it. Otherwise the server waits for the stream until the drain
/// time is over, and answers `cut closing`.
///
/// ```
/// use bellwire::{Router, Streamed, server::Stopping};
/// use futures::StreamExt;
///
/// async fn ticks(stopping: Stopping) -> Streamed<impl futures::Stream<Item = String>> {
///     let ticks = futures::stream::unfold(0, async |n: u64| {
///         tokio::time::sleep(std::time::Duration::from_secs(1)).await;
///         Some((n.to_string(), n + 1))
///     });
///     Streamed(ticks.take_until(stopping))
/// }
///
/// let router = Router::new().method("ticks", ticks);
/// # let _ = router;
/// ```
///
/// # Cancel safety
/// Nothing is lost when it is dropped.
pub struct Stopping {
    session: Session,
    waiting: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Stopping {
    pub(super) fn new(session: &Session) -> Self {
        let (session, waited) = (session.clone(), session.clone());
        let waiting = Box::pin(async move { waited.ending().stopping().await });
        Self { session, waiting }
    }

    /// Whether the connection was told to end. For a [`blocking`](crate::blocking) handler, which
    /// cannot wait for it.
    pub fn is_stopping(&self) -> bool {
        self.session.ending().is_stopping()
    }
}

impl Clone for Stopping {
    fn clone(&self) -> Self {
        Self::new(&self.session)
    }
}

impl Future for Stopping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_stopping() {
            return poll_budgeted(cx, |_| Poll::Ready(()));
        }
        self.waiting.as_mut().poll(cx)
    }
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stopping").field(&self.is_stopping()).finish()
    }
}

impl Session {
    /// Ends when the connection is told to end, so that its handlers can end by themselves: see
    /// [`Stopping`], which is also an extractor.
    pub fn stopping(&self) -> Stopping {
        Stopping::new(self)
    }
}
