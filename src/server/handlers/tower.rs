//! A stack of tower layers around the handlers.

use std::{
    convert::Infallible,
    error::Error,
    future::poll_fn,
    sync::atomic::{AtomicU8, Ordering},
    task::{Context, Poll},
};

use tower::{Service, timeout::error::Elapsed};

use crate::{
    protocol::{Code, Word},
    server::{
        handlers::{
            extractors::{Payload, Request, RequestParts},
            layers::{Handed, HandlerFuture, Layer, Next},
            reply::{Rejection, Reply},
            router::Router,
            running::Start,
        },
        session::Session,
    },
    sync::Arc,
    topic::Publisher,
};

type BoxError = Box<dyn Error + Send + Sync>;

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// Puts a stack of tower layers around the handlers of all methods, as one
    /// [`layer`](Self::layer): for example a timeout, or a limit on how many run at once.
    ///
    /// The stack is built once, around [`HandlerService`], and cloned for each request. What its
    /// layers share, such as a limit, is shared by all connections. For tower a request begins when
    /// it enters the stack. The handler starts when the stack calls `HandlerService`, which
    /// extracts its arguments.
    ///
    /// If a service fails, the answer is chosen so that `no` always means "not started":
    ///
    /// | the error | the handler was not started | it may have run |
    /// |---|---|---|
    /// | `tower::timeout::error::Elapsed` | `no deadline` | `cut deadline` |
    /// | any other | `no busy` | `cut lost` |
    ///
    /// A call that was answered `no` can no longer be started, wherever the stack holds it. A call
    /// that is cancelled, or past the server's own limit, is answered `cut`, whether or not the
    /// stack had started it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use bellwire::Router;
    /// use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer};
    ///
    /// let stack = ServiceBuilder::new()
    ///     .timeout(Duration::from_secs(2))
    ///     .layer(GlobalConcurrencyLimitLayer::new(64));
    /// let router = Router::new().method("echo", async |text: String| text).tower(stack);
    /// # let _ = router;
    /// ```
    #[must_use]
    pub fn tower<L>(self, stack: L) -> Self
    where
        L: tower::Layer<HandlerService>,
        L::Service: Service<HandlerCall, Response = Reply, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.layer(Stack(stack.layer(HandlerService(()))))
    }
}

/// The service at the bottom of a stack: it starts the handler. It never fails, and is always
/// ready.
#[derive(Clone, Debug)]
pub struct HandlerService(());

impl Service<HandlerCall> for HandlerService {
    type Response = Reply;
    type Error = Infallible;
    type Future = HandlerReply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: HandlerCall) -> HandlerReply {
        HandlerReply(call.start())
    }
}

/// The future of [`HandlerService`].
pub struct HandlerReply(HandlerFuture);

impl std::fmt::Debug for HandlerReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HandlerReply")
    }
}

impl Future for HandlerReply {
    type Output = Result<Reply, Infallible>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

/// A request in a stack. It cannot be cloned, because a handler is started at most once.
pub struct HandlerCall {
    request: Request,
    session: Session,
    publisher: Publisher,
    layers: Vec<Arc<dyn Layer>>,
    start: Arc<Start>,
    handed: Arc<Handed>,
    ticket: Arc<Ticket>,
}

impl std::fmt::Debug for HandlerCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerCall").field("request", &self.request).finish_non_exhaustive()
    }
}

impl HandlerCall {
    fn new(parts: &RequestParts<'_>, next: Next<'_>, ticket: Arc<Ticket>) -> Self {
        Self {
            request: Request::from_parts(parts),
            session: parts.session.clone(),
            publisher: parts.publisher.clone(),
            layers: next.layers.to_vec(),
            start: next.start.clone(),
            handed: next.running.clone(),
            ticket,
        }
    }

    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The connection it came on.
    pub fn session(&self) -> &Session {
        &self.session
    }

    fn start(self) -> HandlerFuture {
        if !self.ticket.claim() {
            // The request was answered before, so nothing reads this reply.
            return Box::pin(std::future::ready(Reply::cut(Code::CANCELLED)));
        }
        match self.run() {
            Ok(handler) => handler,
            Err(rejection) => {
                self.ticket.give_back();
                Box::pin(std::future::ready(Reply::no(rejection)))
            }
        }
    }

    fn run(&self) -> Result<HandlerFuture, Rejection> {
        let Some(method) = Word::new(&self.request.method) else {
            return Err(Rejection::bad_arguments("no such method"));
        };
        let request = &RequestParts {
            id: self.request.id,
            method,
            attributes: self.request.attributes.as_attributes(),
            payload: Payload::Plain(&self.request.payload),
            session: &self.session,
            publisher: &self.publisher,
        };
        let (layers, start, running) = (&self.layers[..], &self.start, &self.handed);
        Next { request, layers, start, running }.run()
    }
}

/// Whether a call was started, or can no longer be started.
#[derive(Default)]
struct Ticket(AtomicU8);

const OPEN: u8 = 0;
const STARTED: u8 = 1;
const VOID: u8 = 2;

impl Ticket {
    /// Marks the call as started. Returns whether it was still open.
    fn claim(&self) -> bool {
        self.0.compare_exchange(OPEN, STARTED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Undoes `claim`, because the handler was refused before it started.
    fn give_back(&self) {
        self.0.store(VOID, Ordering::Release);
    }

    /// Prevents the call from being started. Returns whether it was started before.
    fn void(&self) -> bool {
        self.0.swap(VOID, Ordering::AcqRel) == STARTED
    }
}

/// Voids the ticket of a request that has ended or was dropped.
struct Voids(Arc<Ticket>);

impl Drop for Voids {
    fn drop(&mut self) {
        self.0.void();
    }
}

/// The stack as a layer.
struct Stack<S>(S);

impl<S> Layer for Stack<S>
where
    S: Service<HandlerCall, Response = Reply, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    fn call(&self, request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
        let mut service = self.0.clone();
        let voids = Voids(Arc::default());
        let call = HandlerCall::new(request, next, voids.0.clone());
        Ok(Box::pin(async move {
            let ready = poll_fn(|cx| service.poll_ready(cx).map_err(Into::into)).await;
            let result = match ready {
                Ok(()) => service.call(call).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            let has_started = voids.0.void();
            result.unwrap_or_else(|error: BoxError| failed(&*error, has_started))
        }))
    }
}

/// The answer to a request whose stack failed.
fn failed(error: &(dyn Error + Send + Sync + 'static), has_started: bool) -> Reply {
    let is_late = error.is::<Elapsed>();
    tracing::debug!(is_late, has_started, "tower stack failed");
    match (has_started, is_late) {
        (true, true) => Reply::cut(Code::DEADLINE),
        (true, false) => Reply::cut(Code::LOST),
        (false, true) => Reply::no(Rejection::deadline()),
        (false, false) => Reply::no(Rejection::busy("")),
    }
}
