//! The hook around handlers, and how a handler runs within it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    protocol::Code,
    server::handlers::{
        extractors::RequestParts,
        reply::{Ended, Rejection, Reply},
        running::{Run, Running, Start, Started},
    },
    sync::{Arc, Mutex},
};

/// The future of a handler's reply, as layers pass it on.
///
/// Dropping it ends the handler. The request is answered once the handler has ended.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// A hook around the handlers of a router: [`Router::layer`](crate::Router::layer).
///
/// A layer is called for each request that has passed the checks of docs/protocol/calls.md, section
/// 12, up to its arguments. It runs within the connection's driver, so it must not block. It may
/// refuse the request, which is then answered `no` and has not run. Or it calls
/// [`next`](Next::run), and returns the handler's future, by itself or within its own. A panic in a
/// layer is answered like a handler's panic.
///
/// Closures that take a request and [`Next`] are layers. A
/// [`TestRequest`](crate::server::TestRequest) tests a layer without a server.
///
/// ```
/// use std::time::Instant;
/// use bellwire::{Router, server::{HandlerFuture, Next, Rejection, RequestParts}};
///
/// fn timed(request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
///     let (method, begin) = (request.method().to_owned(), Instant::now());
///     let handler = next.run()?;
///     Ok(Box::pin(async move {
///         let reply = handler.await;
///         println!("{method}: {} after {:?}", reply.outcome(), begin.elapsed());
///         reply
///     }))
/// }
///
/// let router = Router::new().method("echo", async |text: String| text).layer(timed);
/// # let _ = router;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer",
    label = "not a layer",
    note = "a layer is a function `fn(&RequestParts<'_>, Next<'_>) -> Result<HandlerFuture, Rejection>`",
    note = "a closure needs the types of its arguments: `|request: &RequestParts<'_>, next: Next<'_>| ...`",
    note = "layers of tower go through `Router::tower`"
)]
pub trait Layer: Send + Sync + 'static {
    /// Lets a request through, or refuses it.
    ///
    /// # Errors
    /// [`Rejection`]: the request is answered `no`, and its handler is not started. `next` returns
    /// one if an inner layer or an extractor refused.
    fn call(&self, request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection>;
}

impl<F> Layer for F
where
    F: Fn(&RequestParts<'_>, Next<'_>) -> Result<HandlerFuture, Rejection> + Send + Sync + 'static,
{
    fn call(&self, request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
        self(request, next)
    }
}

/// The next layer, or the handler. It runs at most once.
pub struct Next<'a> {
    pub(in crate::server) request: &'a RequestParts<'a>,
    pub(in crate::server) layers: &'a [Arc<dyn Layer>],
    pub(in crate::server) start: &'a Arc<Start>,
    pub(in crate::server) running: &'a Arc<Handed>,
}

impl std::fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Next").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}

impl Next<'_> {
    /// Extracts the handler's arguments and constructs its future, through the remaining layers.
    /// The body of an async function does not run before the future is polled.
    ///
    /// # Errors
    /// The refusal of a layer or an extractor.
    pub fn run(self) -> Result<HandlerFuture, Rejection> {
        let Self { request, layers, start, running: handed } = self;
        if let Some((layer, layers)) = layers.split_first() {
            return layer.call(request, Next { request, layers, start, running: handed });
        }
        // Without a waker: its body does not run before it is polled.
        let running = match start(request, None)? {
            Started::Made(running) | Started::Waiting(running) => running,
            Started::Ended(ended) => Running::ended(ended),
        };
        Ok(match running {
            Running::Inline(mut reply) => {
                Box::pin(std::future::poll_fn(move |cx| reply.as_mut().poll_reply(cx)))
            }
            apart => {
                handed.put(apart);
                Box::pin(InHand(handed.clone()))
            }
        })
    }
}

/// A handler in a task of its own, which goes on when the layers have dropped its future. The
/// request keeps its place in flight until the task has ended.
#[derive(Default)]
pub(in crate::server) struct Handed(Mutex<Option<Running>>);

impl Handed {
    fn put(&self, running: Running) {
        let before = self.0.lock().replace(running);
        drop(before);
    }

    /// Polls without holding the lock, because the poll wakes and drops wakers.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Ended>> {
        let Some(mut running) = self.take() else {
            return Poll::Ready(None);
        };
        let polled = running.poll(cx).map(Some);
        if polled.is_pending() {
            self.put(running);
        }
        polled
    }

    fn take(&self) -> Option<Running> {
        self.0.lock().take()
    }

    /// Tells the task to end. Returns whether there is one to wait for.
    fn abort(&self) -> bool {
        let Some(mut running) = self.take() else {
            return false;
        };
        let is_task = running.abort();
        self.put(running);
        is_task
    }
}

/// The future of such a handler, for the layers.
struct InHand(Arc<Handed>);

impl Future for InHand {
    type Output = Reply;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        self.0.poll(cx).map(|ended| match ended {
            Some(Ended::Replied(reply)) => reply,
            Some(Ended::Refused(rejection)) => Reply::no(rejection),
            // The same as a panic of a handler that runs within the layers. The panic hook has
            // reported it already.
            Some(Ended::Panicked) => std::panic::resume_unwind(Box::new("handler panicked")),
            Some(Ended::Aborted { .. } | Ended::Starved) | None => Reply::cut(Code::LOST),
        })
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A handler within its layers.
pub(in crate::server) struct Layered {
    future: Option<HandlerFuture>,
    handed: Arc<Handed>,
    /// The reply of the layers, while the task goes on.
    reply: Option<Reply>,
    is_aborted: bool,
}

impl Layered {
    /// Sends a request through `layers`, beginning with the first.
    pub(in crate::server) fn start(
        layers: &[Arc<dyn Layer>],
        start: &Arc<Start>,
        request: &RequestParts<'_>,
    ) -> Result<Running, Rejection> {
        let handed = Arc::default();
        let future = Next { request, layers, start, running: &handed }.run()?;
        let layered = Self { future: Some(future), handed, reply: None, is_aborted: false };
        Ok(Running::apart(layered))
    }
}

impl Run for Layered {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.is_aborted {
            self.future = None;
        }
        if let Some(future) = &mut self.future {
            let Poll::Ready(reply) = future.as_mut().poll(cx) else {
                return Poll::Pending;
            };
            self.future = None;
            self.reply = Some(reply);
        }
        match self.handed.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(ended)) if self.is_aborted => Poll::Ready(ended),
            Poll::Ready(_) => Poll::Ready(match self.reply.take() {
                Some(reply) => Ended::Replied(reply),
                None => Ended::Aborted { started: true },
            }),
        }
    }

    fn abort(&mut self) -> bool {
        self.is_aborted = self.handed.abort();
        self.is_aborted
    }
}
