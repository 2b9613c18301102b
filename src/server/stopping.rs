//! How handlers learn that their connection ends.

use std::{
    fmt,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::sync::Notify;

use crate::{
    coop::poll_budgeted,
    server::{
        handlers::{
            extractors::{FromRequest, RequestParts},
            reply::Rejection,
        },
        session::Session,
    },
    sync::{Arc, Mutex},
};

/// How far a connection has ended, and the tasks that wait for that.
#[derive(Debug, Default)]
pub(super) struct Ending(Mutex<Stage>);

#[derive(Debug, Default)]
struct Stage {
    is_stopping: bool,
    is_closed: bool,
    /// Made for the first one that waits: most connections have none.
    changed: Option<Arc<Notify>>,
}

impl Ending {
    /// The connection is told to end.
    pub(super) fn stop(&self) {
        self.change(|stage| !std::mem::replace(&mut stage.is_stopping, true));
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        self.change(|stage| {
            stage.is_stopping = true;
            !std::mem::replace(&mut stage.is_closed, true)
        });
    }

    fn change(&self, change: impl FnOnce(&mut Stage) -> bool) {
        let mut stage = self.0.lock();
        let changed = change(&mut stage).then(|| stage.changed.clone()).flatten();
        drop(stage);
        changed.inspect(|changed| changed.notify_waiters());
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.0.lock().is_stopping
    }

    pub(super) async fn stopping(&self) {
        self.wait(|stage| stage.is_stopping).await;
    }

    pub(super) async fn closed(&self) {
        self.wait(|stage| stage.is_closed).await;
    }

    async fn wait(&self, is_there: impl Fn(&Stage) -> bool) {
        let changed = self.0.lock().changed.get_or_insert_default().clone();
        loop {
            let mut next = pin!(changed.notified());
            next.as_mut().enable();
            if is_there(&self.0.lock()) {
                return;
            }
            next.await;
        }
    }
}

/// Ends when the connection of a request is told to end. It is an extractor and a future.
///
/// This happens when the server begins to [stop](crate::server::Serve::with_graceful_shutdown),
/// when the application [closes](Session::close) the session, when the server turns the client
/// away, and at the latest when the connection is gone. Requests are still accepted for the
/// [`grace`](crate::ServerConfig::grace) after it, and those in flight have the
/// [`drain`](crate::ServerConfig::drain) time to finish. A client's `/quit` or half-close does not
/// count, because what it has asked for is still answered.
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

impl<S> FromRequest<S> for Stopping {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Ok(parts.session().stopping())
    }
}
