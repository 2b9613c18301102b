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

use crate::server::{
    handler::Ended,
    in_flight::guarded,
    pass::{Charge, Pass},
    reply::{Answer, IntoReply, Reply},
    session::Session,
};

/// A reply of many items: what a handler returns to answer with a stream (PROTOCOL.md, section
/// 7.8).
///
/// Each item of the stream is what [`IntoReply`] takes, and becomes a line `more`. The end of the
/// stream is answered `ok`; an item that is an error is answered `err CODE text` and ends it, as
/// does one whose line would be over the client's limit (`err too-large`). It holds the request's
/// place in flight until then.
///
/// The connection holds the stream, not its items: it is polled only while the client has given
/// credit for a further item, and while less than
/// [`ServerConfig::reply_mark`](crate::ServerConfig::reply_mark) stands unwritten. Each next item
/// may take [`ServerConfig::handler_time`](crate::ServerConfig::handler_time); the time in which the
/// stream waits for the client does not count. The request's `ttl` bounds the whole. A client that
/// cancels, and a connection that ends, drop the stream; a client that ends its direction of the
/// connection can give no further credit, and the stream ends `cut lost` where it would need some. So
/// does the oldest of a connection's streams when so many requests wait for a place that the
/// connection is not read on, and all places are held by streams that wait for credit.
///
/// It is polled within the connection's task. Of a handler that is
/// [`spawned`](crate::server::Endpoint::spawned) or [`blocking`](crate::blocking), each item is made
/// in a task of its own, which costs a spawn an item. In neither it may block. Of a one-way request
/// the handler runs, and its stream is dropped unpolled: nobody could read the items. An item that
/// is a stream itself is answered `err internal`.
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

/// A stream whose items are replies: what lets it be boxed once, as it is.
trait ReplyStream: Send {
    fn poll_item(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Reply>>;
}

impl<St: Stream<Item: IntoReply> + Send> ReplyStream for St {
    fn poll_item(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        self.poll_next(cx).map(|item| item.map(IntoReply::into_reply))
    }
}

type BoxedStream = Pin<Box<dyn ReplyStream>>;

/// What a task has made of a stream.
type Made = (BoxedStream, Option<Reply>, Charge);

/// What a poll of [`Items`] found.
pub(super) enum Next {
    Item(Bytes),
    Ended(Ended),
}

/// A handler's stream. Dropping it is user code, and harmless wherever it happens.
pub(super) struct Items {
    /// `None` while it is in its task, or was dropped.
    stream: Option<BoxedStream>,
    /// Whose connection it is of, where each item is made in a task of its own, which gives the
    /// stream back with it.
    spawned: Option<Session>,
    task: Option<JoinHandle<Made>>,
}

impl Items {
    fn new(items: impl Stream<Item: IntoReply> + Send + 'static) -> Self {
        Self { stream: Some(Box::pin(items)), spawned: None, task: None }
    }

    /// Makes each item in a task of its own.
    pub(super) fn spawned(mut self, session: &Session) -> Self {
        self.spawned = Some(session.clone());
        self
    }

    /// Polls for the next item. It may panic; it is not to be polled again once it has, or has
    /// ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Some(stream) = &mut self.stream
            && self.spawned.is_none()
        {
            return stream.as_mut().poll_item(cx).map(Next::from);
        }
        if let Some(session) = &self.spawned
            && let Some(stream) = self.stream.take()
        {
            self.task = Some(spawn_next(stream, session.clone()));
        }
        let Some(task) = &mut self.task else {
            return Poll::Ready(Next::Ended(Ended::Panicked));
        };
        let joined = ready!(Pin::new(task).poll(cx));
        self.task = None;
        Poll::Ready(match joined {
            Ok((stream, item, _charge)) => {
                self.stream = Some(stream);
                item.into()
            }
            Err(error) if error.is_panic() => Next::Ended(Ended::Panicked),
            Err(_) => Next::Ended(Ended::Aborted { started: true }),
        })
    }

    /// Asks its task to end; `false` where there is none, and dropping ends it.
    pub(super) fn abort(&self) -> bool {
        self.task.as_ref().inspect(|task| task.abort()).is_some()
    }

    /// Drops the stream; whether that went without a panic.
    pub(super) fn end(mut self) -> bool {
        let stream = self.stream.take();
        guarded(|| drop(stream)).is_some()
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.abort();
        let stream = self.stream.take();
        guarded(|| drop(stream));
    }
}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Items")
    }
}

impl From<Option<Reply>> for Next {
    fn from(item: Option<Reply>) -> Self {
        match item {
            Some(Reply(Answer::Ok(payload))) => Self::Item(payload),
            Some(Reply(Answer::After(after))) => Self::Item(after.payload),
            Some(last) => Self::Ended(Ended::Replied(last)),
            None => Self::Ended(Ended::Replied(Reply::ok(Bytes::new()))),
        }
    }
}

/// As a handler's task, it goes on only while its connection has room for replies.
fn spawn_next(mut stream: BoxedStream, session: Session) -> JoinHandle<Made> {
    spawn(async move {
        let mut pass = Pass::of_task(session);
        let item = poll_fn(|cx| {
            ready!(pass.poll(cx));
            stream.as_mut().poll_item(cx)
        })
        .await;
        let charge = pass.charge(item.as_ref().map_or(0, Reply::bytes));
        (stream, item, charge)
    })
}
