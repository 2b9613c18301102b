//! Replies of many items: the stream that a handler returns, and the stream as a connection holds
//! it.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use tokio::task::{JoinHandle, spawn};
use tracing::{Instrument, Span};

use crate::{
    guard::guarded,
    protocol::Outcome,
    server::{
        handlers::{
            pass::{Charge, Pass},
            reply::{Answer, Ended, IntoReply, Reply},
        },
        session::Session,
    },
};

/// A reply of many items: what a handler returns to answer with a stream (docs/protocol/streams.md,
/// section 15).
///
/// Each item of the stream implements [`IntoReply`], and becomes a line `more`. The end of the
/// stream is answered `ok`. An item that is an error is answered `err CODE text` and ends the
/// stream. So does an item whose line would be over the client's limit (`err too-large`). The
/// stream holds the request's place in flight until then.
///
/// The connection holds the stream, and not its items. The stream is polled only while the client
/// has given credit for a further item, and while less than
/// [`ServerConfig::reply_mark`](crate::ServerConfig::reply_mark) is unwritten. Each item may take
/// [`ServerConfig::handler_time`](crate::ServerConfig::handler_time), or the method's own
/// [`handler_time`](crate::server::Endpoint::handler_time). Time in which the stream waits for the
/// client does not count. The request's `ttl` bounds the whole.
///
/// The stream is dropped when the client cancels or the connection ends. A client that has ended
/// its direction of the connection can give no further credit; where the stream needs some, it ends
/// `cut lost`. The oldest stream of a connection also ends so if the connection is no longer read
/// because too many requests wait for a place, and all places are held by streams that wait for
/// credit.
///
/// The stream is polled within the connection's task. If the handler is
/// [`spawned`](crate::server::Endpoint::spawned) or [`blocking`](crate::blocking), each item is
/// made in a task of its own, at the cost of one spawn per item. It must not block in either case.
/// For a one-way request the handler runs, and its stream is dropped unpolled. An item that is
/// itself a stream is answered `err internal`.
///
/// The stream is polled and dropped within the tracing span that was current when its handler
/// returned it: that of the handler, or of the innermost layer around it.
///
/// ```
/// use bellwire::{Failure, Router, Streamed, handler, protocol::Code};
/// use futures::stream::{self, Stream, StreamExt};
///
/// async fn count(to: String) -> Result<Streamed<impl Stream<Item = String>>, Failure> {
///     let bad = |_| Failure::new(Code::from_static("no-number"), "usage: N");
///     let to: u64 = to.parse().map_err(bad)?;
///     Ok(Streamed(stream::iter(1..=to).map(|number| number.to_string())))
/// }
///
/// let router = Router::new().method("count", handler(count).doc("N: the numbers up to N"));
/// # let _ = router;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Streamed<St>(pub St);

impl<St: Stream<Item: IntoReply> + Send + 'static> IntoReply for Streamed<St> {
    fn into_reply(self) -> Reply {
        Reply(Answer::Stream(Items::new(self.0)))
    }
}

/// A stream whose items are replies. The trait erases the stream's type, so that it is boxed only
/// once.
trait ReplyStream: Send {
    fn poll_item(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Reply>>;
}

impl<St: Stream<Item: IntoReply> + Send> ReplyStream for St {
    fn poll_item(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        self.poll_next(cx).map(|item| item.map(IntoReply::into_reply))
    }
}

type BoxedStream = Pin<Box<dyn ReplyStream>>;

/// The output of a task that made one item: the stream, the item, and the count of its bytes.
type Made = (BoxedStream, Option<Reply>, Charge);

/// The result of polling [`Items`].
pub(in crate::server) enum NextItem {
    Item(Bytes),
    Ended(Ended),
}

/// A handler's stream. Dropping it runs user code, so the drop is guarded.
///
/// Boxed, so that a reply of one line is no larger for it.
pub(in crate::server) struct Items(Box<ItemsInner>);

struct ItemsInner {
    /// `None` while its task has it, or after it was dropped.
    stream: Option<BoxedStream>,
    /// The session of its connection, if each item is made in a task of its own. The task returns
    /// the stream together with the item.
    spawned: Option<Session>,
    task: Option<JoinHandle<Made>>,
    /// The span that was current when the stream was made.
    span: Span,
    watchers: Watchers,
}

/// Functions that are called with the outcome of the reply, within the span of the stream.
#[derive(Default)]
struct Watchers(Vec<Watcher>);

type Watcher = Box<dyn FnOnce(Outcome) + Send>;

impl Items {
    fn new(items: impl Stream<Item: IntoReply> + Send + 'static) -> Self {
        let (span, watchers) = (Span::current(), Watchers::default());
        let stream: Option<BoxedStream> = Some(Box::pin(items));
        Self(Box::new(ItemsInner { stream, spawned: None, task: None, span, watchers }))
    }

    /// Makes each item in a task of its own.
    pub(in crate::server) fn spawned(mut self, session: &Session) -> Self {
        self.0.spawned = Some(session.clone());
        self
    }

    /// Makes the items within `span`, unless the stream has a span.
    pub(in crate::server) fn within(mut self, span: Span) -> Self {
        if self.0.span.is_none() {
            self.0.span = span;
        }
        self
    }

    /// Calls `watcher` with the outcome, once it is known.
    pub(in crate::server) fn watch(&mut self, watcher: Watcher) {
        self.0.watchers.0.push(watcher);
    }

    /// Calls the watchers with the outcome. If the stream is dropped before, the outcome is `cut`.
    pub(in crate::server) fn over(&mut self, outcome: Outcome) {
        let ItemsInner { span, watchers, .. } = &mut *self.0;
        span.in_scope(|| watchers.tell(outcome));
    }

    /// Polls for the next item. It may panic. After a panic or the end it must not be polled again.
    pub(in crate::server) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<NextItem> {
        let ItemsInner { stream, spawned, task, span, .. } = &mut *self.0;
        if let Some(stream) = stream
            && spawned.is_none()
        {
            return span.in_scope(|| stream.as_mut().poll_item(cx)).map(NextItem::from);
        }
        if let Some(session) = spawned
            && let Some(stream) = stream.take()
        {
            *task = Some(spawn_next(stream, session.clone(), span.clone()));
        }
        let Some(running) = task else {
            return Poll::Ready(NextItem::Ended(Ended::Panicked));
        };
        let joined = ready!(Pin::new(running).poll(cx));
        *task = None;
        Poll::Ready(match joined {
            Ok((given_back, item, _charge)) => {
                *stream = Some(given_back);
                item.into()
            }
            Err(error) if error.is_panic() => NextItem::Ended(Ended::Panicked),
            Err(_) => NextItem::Ended(Ended::Aborted { started: true }),
        })
    }

    /// Tells the task of the stream to end. Returns `false` if there is none, so that dropping ends
    /// the stream.
    pub(in crate::server) fn abort(&self) -> bool {
        self.0.task.as_ref().inspect(|task| task.abort()).is_some()
    }

    /// Drops the stream. Returns whether that went without a panic.
    pub(in crate::server) fn end(&mut self) -> bool {
        let ItemsInner { stream, span, .. } = &mut *self.0;
        let stream = stream.take();
        guarded(|| span.in_scope(|| drop(stream))).is_some()
    }
}

impl Watchers {
    fn tell(&mut self, outcome: Outcome) {
        for watcher in std::mem::take(&mut self.0) {
            guarded(|| watcher(outcome));
        }
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.abort();
        self.end();
        self.over(Outcome::Cut);
    }
}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Items")
    }
}

impl From<Option<Reply>> for NextItem {
    fn from(item: Option<Reply>) -> Self {
        match item {
            Some(Reply(Answer::Ok(payload))) => Self::Item(payload),
            Some(Reply(Answer::After(after))) => Self::Item(after.payload),
            Some(last) => Self::Ended(Ended::Replied(last)),
            None => Self::Ended(Ended::Replied(Reply::ok(Bytes::new()))),
        }
    }
}

/// Starts a task that makes the next item. Like a handler's task, it runs only while its connection
/// has room for replies.
fn spawn_next(mut stream: BoxedStream, session: Session, span: Span) -> JoinHandle<Made> {
    let next = async move {
        let mut pass = Pass::of_task(session);
        let item = poll_fn(|cx| {
            ready!(pass.poll(cx));
            stream.as_mut().poll_item(cx)
        })
        .await;
        let charge = pass.charge(item.as_ref().map_or(0, Reply::bytes));
        (stream, item, charge)
    };
    spawn(next.instrument(span))
}
