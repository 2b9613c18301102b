//! Calls: a request line out, its terminal line back.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use crate::{
    client::{
        shared::{Body, SendError, Shared},
        waiter::CallResult,
    },
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{AttributeList, InvalidAttribute, Method, RequestId, TraceParent},
    sync::oneshot,
};

/// A call on its way: a future of the reply's payload. Nothing is sent before it is first polled.
///
/// Made by [`Client::call`](crate::Client::call). Implements PROTOCOL.md, section 7.
///
/// # Errors
/// [`CallError`]: its variant tells whether the handler may have run.
///
/// # Cancel safety
/// Dropping it is legal at any point. If the request was sent, the server is told to cancel it;
/// its place in flight is free again when the server's terminal line is there.
#[must_use = "a call does nothing unless it is awaited"]
pub struct Call<'a>(Exchange<'a>);

impl<'a> Call<'a> {
    pub(crate) fn new(shared: &'a Shared, method: &str, payload: &[u8]) -> Self {
        Self(match Method::new_word(method) {
            Ok(word) => Exchange::new(shared, Body::new(word, payload)),
            Err(error) => Exchange::failed(shared, NotSent::Name(error).into()),
        })
    }

    pub(crate) fn failed(shared: &'a Shared, error: CallError) -> Self {
        Self(Exchange::failed(shared, error))
    }

    /// Gives the call this long, from its first poll. The server is told what is left when the
    /// line is sent. Default: no limit but the server's own.
    ///
    /// Past it, the call ends [`Unknown::Deadline`] if it was sent, and is cancelled on the server;
    /// else [`NotSent::Deadline`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.0.deadline = Some(deadline);
        self
    }

    /// Sends a trace context with the call: on the server, the handler's span carries it.
    pub fn trace(mut self, parent: TraceParent) -> Self {
        self.0.push(|attributes| attributes.push("trace", parent));
        self
    }

    /// Sends an attribute of the application's own with the call: its key has a dot. The call ends
    /// [`NotSent::Attribute`] if it cannot be written.
    pub fn attribute(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.push(|attributes| attributes.push_application(key, value));
        self
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

impl Future for Call<'_> {
    type Output = Result<Bytes, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(self.get_mut().0.poll_reply(cx));
        Poll::Ready(reply.map(|reply| reply.payload))
    }
}

type Sent = (RequestId, oneshot::Receiver<CallResult>);
type Sending<'a> = Pin<Box<dyn Future<Output = Result<Sent, NotSent>> + Send + 'a>>;

/// A request and its terminal line, attributes and all.
pub(crate) struct Exchange<'a> {
    shared: &'a Shared,
    state: State<'a>,
    deadline: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
}

enum State<'a> {
    New(Body),
    /// Waiting for a place in flight, or for room to write.
    Waiting(Sending<'a>),
    Sent(RequestId, oneshot::Receiver<CallResult>),
    Over(Option<CallError>),
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(shared: &'a Shared, body: Body) -> Self {
        Self { shared, state: State::New(body), deadline: None, timer: None }
    }

    pub(crate) fn failed(shared: &'a Shared, error: CallError) -> Self {
        Self { shared, state: State::Over(Some(error)), deadline: None, timer: None }
    }

    fn push(&mut self, push: impl FnOnce(&mut AttributeList) -> Result<(), InvalidAttribute>) {
        let State::New(body) = &mut self.state else {
            return;
        };
        if let Err(error) = push(&mut body.attributes) {
            self.state = State::Over(Some(NotSent::Attribute(error).into()));
        }
    }

    pub(crate) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<CallResult> {
        loop {
            match &mut self.state {
                State::New(_) => self.start(),
                State::Waiting(sent) => match sent.as_mut().poll(cx) {
                    Poll::Pending => return self.poll_deadline(cx),
                    Poll::Ready(Ok((id, reply))) => self.state = State::Sent(id, reply),
                    Poll::Ready(Err(error)) => self.state = State::Over(Some(error.into())),
                },
                State::Sent(_, reply) => match Pin::new(reply).poll(cx) {
                    Poll::Pending => return self.poll_deadline(cx),
                    Poll::Ready(result) => {
                        self.state = State::Over(None);
                        return Poll::Ready(result.unwrap_or_else(|_| Err(abandoned())));
                    }
                },
                State::Over(error) => {
                    let error = error.take().unwrap_or_else(abandoned);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Sends at once if there is a place and room; else waits for both.
    fn start(&mut self) {
        let State::New(body) = std::mem::replace(&mut self.state, State::Over(None)) else {
            return;
        };
        let ttl = self.deadline;
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            self.state = State::Over(Some(NotSent::Deadline.into()));
            return;
        }
        if let Some(ttl) = ttl {
            self.timer = Some(Box::pin(tokio::time::sleep(ttl)));
        }
        let shared = self.shared;
        self.state = match shared.places.try_acquire() {
            Ok(place) => match shared.send_call(&body, ttl) {
                Ok((id, reply)) => {
                    place.forget();
                    State::Sent(id, reply)
                }
                Err(SendError::Refused(error)) => State::Over(Some(error.into())),
                Err(SendError::Full | SendError::Early) => {
                    drop(place);
                    State::Waiting(wait_to_send(shared, body, ttl))
                }
            },
            Err(_) => State::Waiting(wait_to_send(shared, body, ttl)),
        };
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<CallResult> {
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        let error = match self.state {
            State::Sent(..) => Unknown::Deadline.into(),
            _ => NotSent::Deadline.into(),
        };
        self.cancel();
        Poll::Ready(Err(error))
    }

    fn cancel(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Over(None));
        if let State::Sent(id, reply) = state {
            drop(reply);
            self.shared.cancel(id);
        }
    }
}

/// A call that was dropped takes its place with it until its terminal line (R5).
impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.cancel();
    }
}

fn abandoned() -> CallError {
    Unknown::Lost(ConnectionError::Closed).into()
}

fn wait_to_send(shared: &Shared, body: Body, ttl: Option<Duration>) -> Sending<'_> {
    Box::pin(
        async move { send_when_possible(shared, ttl, |left| shared.send_call(&body, left)).await },
    )
}

/// Waits for a place in flight and for room to write, then sends; `send` is given what is left of
/// the deadline. The place is the request's from then on, until its terminal line.
pub(crate) async fn send_when_possible<T>(
    shared: &Shared,
    ttl: Option<Duration>,
    send: impl Fn(Option<Duration>) -> Result<T, SendError>,
) -> Result<T, NotSent> {
    let expires = ttl.and_then(|ttl| Instant::now().checked_add(ttl));
    let Ok(place) = shared.places.acquire().await else {
        return Err(shared.refusal());
    };
    loop {
        let mut drained = pin!(shared.drained.notified());
        drained.as_mut().enable();
        let left = expires.map(|expires| expires.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(NotSent::Deadline);
        }
        match send(left) {
            Ok(sent) => {
                place.forget();
                return Ok(sent);
            }
            Err(SendError::Refused(error)) => return Err(error),
            Err(SendError::Full | SendError::Early) => drained.await,
        }
    }
}
