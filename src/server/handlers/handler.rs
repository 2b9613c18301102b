//! Functions as handlers, and the three ways to run them.

use std::{fmt, task::Waker, time::Duration};

use crate::{
    server::handlers::{
        extractors::RequestParts,
        function::{Arguments, AsyncFunction, Function},
        reply::{IntoReply, Rejection, Reply},
        running::{Running, Started},
        spare::Spare,
        task::Task,
    },
    sync::Arc,
};

/// An async function or closure of 0 to 6 extractors, whose result implements [`IntoReply`].
///
/// It is implemented for such functions; there is no need to implement it.
///
/// # Cancel safety
/// A handler is dropped at an `.await` when its caller cancels or is gone, or when its time is
/// over. (The handler of a [keyed](crate::Call::key) request goes on when its callers are gone.)
/// What must finish as a whole goes into a task, which then goes on by itself:
///
/// ```
/// use bellwire::{Failure, protocol::Code};
/// use tracing::Instrument;
///
/// # async fn take(_: &str) {}
/// # async fn give(_: &str) {}
/// async fn transfer(sum: String) -> Result<(), Failure> {
///     let both = async move {
///         take(&sum).await;
///         give(&sum).await;
///     };
///     let task = tokio::spawn(both.in_current_span()); // keeps the span of the handler
///     task.await.map_err(|_| Failure::new(Code::INTERNAL, "")) // the task panicked
/// }
/// # let _ = bellwire::Router::new().method("transfer", transfer);
/// ```
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
    /// Extracts the arguments. Returns the work that is to run.
    ///
    /// # Errors
    /// The refusal of an extractor.
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
    start: StartKind<S>,
}

/// The time limit of a method's handler.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum Limit {
    /// The limit of the server.
    Server,
    /// A limit of its own; [`Duration::MAX`] for none.
    Own(Duration),
}

type Call<S, T> = Box<dyn Fn(&RequestParts<'_>, &S) -> Result<T, Rejection> + Send + Sync>;

type AsyncCall<S> =
    Box<dyn Fn(&RequestParts<'_>, &S, Option<&Waker>) -> Result<Started, Rejection> + Send + Sync>;

enum StartKind<S> {
    Async(AsyncCall<S>),
    Blocking(Call<S, Task>),
}

/// Wraps an async function, to give it documentation or settings.
///
/// The function may be dropped at an `.await`, whatever the settings: see [`Handler`], "Cancel
/// safety".
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
    let spare = Spare::new();
    let call: AsyncCall<S> = Box::new(move |parts, state, waker| {
        let future = handler.call(parts, state)?;
        Ok(spare.begin(future, waker))
    });
    Endpoint::new(StartKind::Async(call))
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
    Endpoint::new(StartKind::Blocking(call))
}

impl<S> Endpoint<S> {
    fn new(start: StartKind<S>) -> Self {
        Self { doc: String::new(), limit: Limit::Server, spawned: false, start }
    }

    /// A description that `/methods` shows after the name, in one line. Default none.
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
    ///
    /// This does not keep the handler alive: it is dropped at an `.await` when its caller cancels
    /// or is gone, or when its time is over. What must finish as a whole goes into a task that the
    /// handler spawns: `tokio::spawn(async { .. }.in_current_span()).await`.
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
    /// - A keyed request has the server's time instead of none, because no caller can end its run.
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

    /// Extracts the arguments and constructs the handler's future. With a waker, also polls it,
    /// unless the handler runs in a task of its own.
    pub(in crate::server) fn start(
        &self,
        parts: &RequestParts<'_>,
        state: &S,
        waker: Option<&Waker>,
    ) -> Result<Started, Rejection> {
        Ok(match &self.start {
            StartKind::Async(call) => match call(parts, state, waker.filter(|_| !self.spawned))? {
                Started::Made(Running::Inline(future)) if self.spawned => {
                    Started::Made(Running::apart(Task::spawn(future, parts.session.clone())))
                }
                started => started,
            },
            StartKind::Blocking(call) => Started::Made(Running::apart(call(parts, state)?)),
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
