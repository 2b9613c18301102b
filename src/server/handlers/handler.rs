//! Functions as handlers, and the three ways to run them.

use std::{
    fmt,
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::task::{JoinHandle, spawn, spawn_blocking};
use tracing::{Instrument, Span};

use crate::{
    guard::guarded,
    server::{
        handlers::{
            authorizing::Authorizing,
            extractors::RequestParts,
            function::{Arguments, AsyncFunction, Function},
            layers::Layered,
            pass::{Charge, Pass},
            reply::{IntoReply, Rejection, Reply},
            streamed::{Items, Next},
        },
        session::Session,
    },
    sync::Arc,
};

/// An async function or closure of 0 to 6 extractors, whose result implements [`IntoReply`].
///
/// It is implemented for such functions; there is no need to implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not an async function of 0 to 6 arguments",
    note = "a handler is an `async fn`, an async closure, or a closure that returns a future",
    note = "a function that is not async goes through `bellwire::blocking(function)`",
    note = "for more than 6 arguments, implement `FromRequest` for one type that takes several values"
)]
pub trait Handler<S, Args>: Send + Sync + 'static {
    /// The function's future.
    type Future: Future<Output: IntoReply> + Send + 'static;

    /// Extracts the arguments and calls the function.
    ///
    /// # Errors
    /// The refusal of an extractor.
    fn call(&self, parts: &RequestParts<'_>, state: &S) -> Result<Self::Future, Rejection>;
}

/// A function or closure of 0 to 6 extractors that may block; see [`blocking`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler that may block",
    label = "not a function of 0 to 6 arguments",
    note = "for more than 6 arguments, implement `FromRequest` for one type that takes several values"
)]
pub trait BlockingHandler<S, Args>: Send + Sync + 'static {
    /// Extracts the arguments; what then is to be run.
    ///
    /// # Errors
    /// What an extractor answered instead.
    fn prepare(
        self: Arc<Self>,
        parts: &RequestParts<'_>,
        state: &S,
    ) -> Result<impl FnOnce() -> Reply + Send + 'static, Rejection>;
}

impl<S, F, Args> Handler<S, Args> for F
where
    F: AsyncFunction<Args, Future: Future<Output: IntoReply> + Send + 'static>,
    F: Send + Sync + 'static,
    Args: Arguments<S>,
{
    type Future = F::Future;

    fn call(&self, parts: &RequestParts<'_>, state: &S) -> Result<F::Future, Rejection> {
        Ok(self.apply(Args::extract(parts, state)?))
    }
}

impl<S, F, Args> BlockingHandler<S, Args> for F
where
    F: Function<Args, Output: IntoReply> + Send + Sync + 'static,
    Args: Arguments<S> + Send + 'static,
{
    fn prepare(
        self: Arc<Self>,
        parts: &RequestParts<'_>,
        state: &S,
    ) -> Result<impl FnOnce() -> Reply + Send + 'static, Rejection> {
        let arguments = Args::extract(parts, state)?;
        Ok(move || self.apply(arguments).into_reply())
    }
}

/// A handler with its documentation and settings, for [`Router::method`](crate::Router::method).
pub struct Endpoint<S> {
    pub(in crate::server) doc: String,
    pub(in crate::server) limit: Limit,
    spawned: bool,
    start: Start<S>,
}

/// How long a method's handler may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum Limit {
    /// As the server says.
    Server,
    /// [`Duration::MAX`] for no limit.
    Own(Duration),
}

type Call<S, T> = Box<dyn Fn(&RequestParts<'_>, &S) -> Result<T, Rejection> + Send + Sync>;

enum Start<S> {
    Async(Call<S, BoxedReply>),
    Blocking(Call<S, Task>),
}

/// Wraps an async function, to give it documentation or settings.
///
/// ```
/// use bellwire::{Router, handler};
///
/// async fn get(id: String) -> String {
///     format!("offer {id}")
/// }
///
/// let router = Router::new().method("offers.get", handler(get).doc("ID: one offer").spawned());
/// # let _ = router;
/// ```
pub fn handler<S: 'static, Args>(handler: impl Handler<S, Args>) -> Endpoint<S> {
    let call: Call<S, BoxedReply> =
        Box::new(move |parts, state| Ok(Box::pin(handler.call(parts, state)?)));
    Endpoint::new(Start::Async(call))
}

/// Wraps a function that may block. It runs on the runtime's threads for blocking work.
///
/// Once it runs, it cannot be stopped. A request that is cancelled or late is answered `cut` when
/// the function has ended, and keeps its place in flight until then.
///
/// At most 16 of a connection run at a time. None begins while
/// [`ServerConfig::reply_mark`](crate::ServerConfig::reply_mark) bytes or more are unsent: finished
/// replies, and bytes that wait to be written. The others wait in their places in flight.
///
/// ```
/// use bellwire::{Router, blocking};
///
/// fn checksum(payload: String) -> String {
///     payload.bytes().map(u64::from).sum::<u64>().to_string()
/// }
///
/// let router = Router::new().method("checksum", blocking(checksum).doc("TEXT: its sum"));
/// # let _ = router;
/// ```
pub fn blocking<S: 'static, Args>(handler: impl BlockingHandler<S, Args>) -> Endpoint<S> {
    let handler = Arc::new(handler);
    let call: Call<S, Task> = Box::new(move |parts, state| {
        let work = handler.clone().prepare(parts, state)?;
        Ok(Task::blocking(Box::new(work), parts.session.clone()))
    });
    Endpoint::new(Start::Blocking(call))
}

impl<S> Endpoint<S> {
    fn new(start: Start<S>) -> Self {
        Self { doc: String::new(), limit: Limit::Server, spawned: false, start }
    }

    /// What `/methods` shows after the name; one line for people. Default none.
    #[must_use]
    pub fn doc(mut self, doc: impl Into<String>) -> Self {
        self.doc = doc.into();
        self
    }

    /// Runs the handler in a task of its own, for handlers that need much processor time. Default:
    /// within the connection's task, where it must not block. Without effect on a blocking handler.
    /// In a [`Streamed`](crate::server::Streamed) reply each item is made in a task of its own.
    ///
    /// In both modes the handler is not polled while
    /// [`ServerConfig::reply_mark`](crate::ServerConfig::reply_mark) bytes or more are unsent:
    /// replies that tasks of the connection have made, and bytes that wait to be written to it. So
    /// it should not await anything while it holds what other connections need, such as a lock.
    #[must_use]
    pub fn spawned(mut self) -> Self {
        self.spawned = true;
        self
    }

    /// How long this handler may take, instead of
    /// [`ServerConfig::handler_time`](crate::ServerConfig::handler_time); `None` for no limit.
    ///
    /// In a [`Streamed`](crate::server::Streamed) reply each item has this long. So `None` allows a
    /// stream to be silent for ever, such as one that follows a file. Other limits still apply:
    ///
    /// - A request's `ttl`, `/cancel`, and the end of the connection end it.
    /// - When the client has ended its direction of the connection, at most the server's time is
    ///   left, because a client that is gone looks the same.
    /// - When the server ends the connection, at most its [`drain`](crate::ServerConfig::drain)
    ///   time is left.
    /// - While the [`Authorizer`](crate::server::Authorizer) decides, the server's time applies.
    ///
    /// Worst case: a request that never ends holds its place in flight as long as its connection
    /// lasts. [`ServerConfig::idle`](crate::ServerConfig::idle) bounds that for a silent peer.
    ///
    /// ```
    /// use std::time::Duration;
    /// use bellwire::{Router, handler};
    ///
    /// let router = Router::new()
    ///     .method("report", handler(async || "long").handler_time(Duration::from_secs(600)))
    ///     .method("wait", handler(async || std::future::pending::<()>().await).handler_time(None));
    /// # let _ = router;
    /// ```
    #[must_use]
    pub fn handler_time(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.limit = Limit::Own(time.into().unwrap_or(Duration::MAX));
        self
    }

    /// Extracts the arguments and constructs the handler's future.
    pub(in crate::server) fn start(
        &self,
        parts: &RequestParts<'_>,
        state: &S,
    ) -> Result<Running, Rejection> {
        Ok(match &self.start {
            Start::Async(call) if self.spawned => {
                Running::Task(Task::spawn(call(parts, state)?, parts.session.clone()))
            }
            Start::Async(call) => Running::Inline(call(parts, state)?),
            Start::Blocking(call) => Running::Task(call(parts, state)?),
        })
    }
}

impl<S> fmt::Debug for Endpoint<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("doc", &self.doc).finish()
    }
}

/// A [`Handler`] or an [`Endpoint`], for [`Router::method`](crate::Router::method).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not an async function of 0 to 6 arguments",
    note = "a handler is an `async fn`, an async closure, or a closure that returns a future",
    note = "a function that is not async goes through `bellwire::blocking(function)`",
    note = "for more than 6 arguments, implement `FromRequest` for one type that takes several values"
)]
pub trait IntoEndpoint<S, Args> {
    /// The endpoint.
    fn into_endpoint(self) -> Endpoint<S>;
}

impl<S: 'static, Args, H: Handler<S, Args>> IntoEndpoint<S, (Args,)> for H {
    fn into_endpoint(self) -> Endpoint<S> {
        handler(self)
    }
}

impl<S> IntoEndpoint<S, ()> for Endpoint<S> {
    fn into_endpoint(self) -> Self {
        self
    }
}

/// A future whose output is a reply: what lets a handler's future be boxed once, as it is.
pub(in crate::server) trait ReplyFuture: Send {
    fn poll_reply(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply>;
}

impl<F: Future<Output: IntoReply> + Send> ReplyFuture for F {
    fn poll_reply(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        self.poll(cx).map(IntoReply::into_reply)
    }
}

pub(in crate::server) type BoxedReply = Pin<Box<dyn ReplyFuture>>;

/// A handler that was started.
pub(in crate::server) enum Running {
    Inline(BoxedReply),
    Task(Task),
    Layered(Box<Layered>),
    Traced(Box<Traced>),
    /// It waits to be allowed, then runs in one of the other ways.
    Authorizing(Box<Authorizing>),
    /// It answers with a stream, which is polled item by item.
    Stream(Items),
}

/// A handler in a span of its own, for a subscriber that is interested in it.
pub(in crate::server) struct Traced {
    running: Running,
    span: Span,
}

/// A handler in a task of its own; aborted when dropped.
pub(in crate::server) struct Task {
    stage: Stage,
    blocking: bool,
}

enum Stage {
    /// A function that may block, and has not begun.
    Waiting(Box<Waiting>),
    Running(JoinHandle<(Reply, Charge)>),
    /// It was told to end before it began.
    Void,
}

struct Waiting {
    work: Box<dyn FnOnce() -> Reply + Send>,
    pass: Pass,
    span: Span,
}

/// How a handler ended.
pub(in crate::server) enum Ended {
    Replied(Reply),
    /// It was not allowed to begin, or its arguments are invalid.
    Refused(Rejection),
    Panicked,
    /// Its stream needs credit when none can come any more.
    Starved,
    /// Its task was aborted, by whomever.
    Aborted {
        /// It may have run: only a blocking one is known not to have.
        started: bool,
    },
}

impl Running {
    pub(in crate::server) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        match self {
            Self::Inline(future) => future.as_mut().poll_reply(cx).map(Ended::Replied),
            Self::Task(task) => task.poll(cx),
            Self::Layered(layered) => layered.poll(cx),
            Self::Traced(traced) => {
                let Traced { running, span } = &mut **traced;
                span.in_scope(|| running.poll(cx))
            }
            Self::Authorizing(authorizing) => authorizing.poll(cx),
            // Told to end: what it still yields is of no use.
            Self::Stream(items) => items.poll(cx).map(|next| match next {
                Next::Ended(ended) => ended,
                Next::Item(_) => Ended::Aborted { started: true },
            }),
        }
    }

    /// Whether the handler was made; only one that waits to be allowed was not.
    pub(in crate::server) fn has_started(&self) -> bool {
        match self {
            Self::Authorizing(authorizing) => authorizing.has_started(),
            _ => true,
        }
    }

    /// Runs it in `span`.
    pub(in crate::server) fn traced(self, span: Span) -> Self {
        Self::Traced(Box::new(Traced { running: self, span }))
    }

    /// Asks a task to end; `false` for a handler that ends by being dropped. It is to be polled
    /// once more.
    pub(in crate::server) fn abort(&mut self) -> bool {
        match self {
            Self::Inline(_) => false,
            Self::Stream(items) => items.abort(),
            Self::Task(task) => {
                task.abort();
                true
            }
            Self::Layered(layered) => layered.abort(),
            Self::Traced(traced) => traced.running.abort(),
            Self::Authorizing(authorizing) => authorizing.abort(),
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

impl Task {
    /// It goes on only while its connection has room for replies.
    fn spawn(mut future: BoxedReply, session: Session) -> Self {
        let mut pass = Pass::of_task(session);
        let reply = poll_fn(move |cx| {
            ready!(pass.poll(cx));
            let reply = ready!(future.as_mut().poll_reply(cx));
            let charge = pass.charge(reply.bytes());
            Poll::Ready((reply, charge))
        });
        Self { stage: Stage::Running(spawn(reply.in_current_span())), blocking: false }
    }

    fn blocking(work: Box<dyn FnOnce() -> Reply + Send>, session: Session) -> Self {
        let (pass, span) = (Pass::of_thread(session), Span::current());
        Self { stage: Stage::Waiting(Box::new(Waiting { work, pass, span })), blocking: true }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Stage::Waiting(waiting) = &mut self.stage {
            ready!(waiting.pass.poll(cx));
            self.begin();
        }
        let Stage::Running(handle) = &mut self.stage else {
            return Poll::Ready(Ended::Aborted { started: false });
        };
        Pin::new(handle).poll(cx).map(|joined| match joined {
            Ok((reply, charge)) => Ended::Replied(reply.spawned(charge.session())),
            Err(error) if error.is_panic() => Ended::Panicked,
            Err(_) => Ended::Aborted { started: !self.blocking },
        })
    }

    /// Runs what has waited.
    fn begin(&mut self) {
        if let Stage::Waiting(waiting) = mem::replace(&mut self.stage, Stage::Void) {
            let Waiting { work, pass, span } = *waiting;
            let run = move || {
                let reply = span.in_scope(work).within(span);
                let charge = pass.charge(reply.bytes());
                (reply, charge)
            };
            self.stage = Stage::Running(spawn_blocking(run));
        }
    }

    fn abort(&mut self) {
        match &self.stage {
            Stage::Running(handle) => handle.abort(),
            Stage::Waiting(_) | Stage::Void => self.stage = Stage::Void,
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort();
    }
}
