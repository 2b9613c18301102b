//! Calls: a request line out, its terminal line back.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    client::{
        core::body::Body,
        core::link::SendError,
        core::waiter::CallResult,
        retry::{Patience, left},
        shared::{Shared, Timer},
    },
    coop::poll_budgeted,
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{AttributeList, InvalidAttribute, Method, Position, RequestId, Topic, TraceParent},
    sync::{Arc, oneshot},
};

/// A call in progress: a future of the reply's payload. Nothing is sent before it is first polled.
///
/// Made by [`Client::call`](crate::Client::call). Implements PROTOCOL.md, section 7.
///
/// # Errors
/// [`CallError`]: its variant tells whether the handler may have run.
///
/// # Cancel safety
/// It may be dropped at any point. If the request was sent, the server is told to cancel it. Its
/// place in flight becomes free when the server's terminal line arrives.
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

    /// The time for the call, from its first poll; `None` for no limit but the server's own. The
    /// server is told what is left of it when the line is sent. Default:
    /// [`ClientConfig::deadline`](crate::ClientConfig::deadline), which the server is not told.
    ///
    /// When it has passed, a call that was sent ends with [`Unknown::Deadline`], and is cancelled
    /// on the server. A call that was not sent ends with [`NotSent::Deadline`], which says why
    /// there is no connection.
    ///
    /// The timer belongs to the runtime that polls the call. The call may be polled outside a tokio
    /// runtime, too. The timer then belongs to the runtime in which the client's driver runs, or the
    /// client was made. While there is none, the deadline does not fire.
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.0.patience.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection, and is not sent again: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this call.
    pub fn fail_fast(mut self) -> Self {
        self.0.patience.fail_fast = true;
        self
    }

    /// Sends a trace context with the call. The handler's span on the server carries it.
    pub fn trace(mut self, parent: TraceParent) -> Self {
        self.0.push(|attributes| attributes.push("trace", parent));
        self
    }

    /// Sends an attribute of the application with the call; its key has a dot. If it cannot be
    /// written, the call ends with [`NotSent::Attribute`].
    pub fn attribute(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.push(|attributes| attributes.push_application(key, value));
        self
    }
}

impl Call<'_> {
    /// The whole reply: its payload, and where its effect shows, if the server says so.
    ///
    /// # Errors
    /// As when the call itself is awaited.
    ///
    /// # Cancel safety
    /// As when the call itself is dropped.
    pub async fn replied(mut self) -> Result<Replied, CallError> {
        let reply = poll_fn(|cx| self.0.poll_reply(cx)).await?;
        let after = reply.attributes.as_attributes().get("after").and_then(After::parse);
        Ok(Replied { value: reply.payload, after })
    }
}

/// A reply, and where its effect shows: see [`Call::replied`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replied<T = Bytes> {
    /// The payload, or what it decodes to.
    pub value: T,
    /// Set if the server says so, and this connection is subscribed to the topic.
    pub after: Option<After>,
}

impl<T> Replied<T> {
    /// A reply, for tests of code that handles them.
    pub fn new(value: T, after: Option<After>) -> Self {
        Self { value, after }
    }
}

/// Where the effect of a request shows: in the notifications of `topic` below `position`, which
/// names the *next* number (PROTOCOL.md, section 11.8; guarantee N4).
///
/// Wait for it with [`Subscription::seen`](crate::Subscription::seen).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct After {
    /// The topic.
    pub topic: Topic,
    /// The effect is seen once everything below this was handed over.
    pub position: Position,
}

impl After {
    /// Where an effect shows, for tests of code that waits for it.
    pub fn new(topic: Topic, position: Position) -> Self {
        Self { topic, position }
    }

    fn parse(text: &str) -> Option<Self> {
        let (topic, position) = text.split_once(':')?;
        Some(Self { topic: Topic::new(topic).ok()?, position: position.parse().ok()? })
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
type Sending<'a> = Pin<Box<dyn Future<Output = Result<(Sent, Body), NotSent>> + Send + 'a>>;

/// A request and its terminal line, attributes and all. Sent again as long as it is proven not
/// executed and there is time.
pub(crate) struct Exchange<'a> {
    shared: &'a Shared,
    state: State<'a>,
    pub(crate) patience: Patience,
    timer: Option<Timer>,
}

enum State<'a> {
    New(Body),
    /// Waiting for a connection, for a place in flight, or for room to write.
    Waiting(Sending<'a>),
    Sent(Sent, Body),
    Over(Option<CallError>),
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(shared: &'a Shared, body: Body) -> Self {
        Self::with_state(shared, State::New(body))
    }

    pub(crate) fn failed(shared: &'a Shared, error: CallError) -> Self {
        Self::with_state(shared, State::Over(Some(error)))
    }

    fn with_state(shared: &'a Shared, state: State<'a>) -> Self {
        let patience = Patience::new(&shared.config);
        Self { shared, state, patience, timer: None }
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
                    Poll::Ready(Ok((sent, body))) => self.state = State::Sent(sent, body),
                    Poll::Ready(Err(why)) => {
                        self.state = State::Over(Some(self.patience.last(why)));
                    }
                },
                State::Sent((_, reply), _) => match Pin::new(reply).poll(cx) {
                    Poll::Pending => return self.poll_deadline(cx),
                    Poll::Ready(result) => {
                        let result = result.unwrap_or_else(|_| Err(abandoned()));
                        if let Some(result) = self.end_or_send_again(result) {
                            return Poll::Ready(result);
                        }
                    }
                },
                // A reply has taken its unit of the budget as a one-shot; this is ready at once.
                State::Over(error) => {
                    let mut take = || error.take().unwrap_or_else(abandoned);
                    return poll_budgeted(cx, |_| Poll::Ready(Err(take())));
                }
            }
        }
    }

    /// Sends at once if there is a place and room; else waits for both.
    fn start(&mut self) {
        let State::New(body) = std::mem::replace(&mut self.state, State::Over(None)) else {
            return;
        };
        let ttl = self.patience.ttl();
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            self.state = State::Over(Some(self.shared.out_of_time().into()));
            return;
        }
        self.patience.begin();
        self.timer = ttl.and_then(|ttl| self.shared.timer(ttl));
        // The driver looks after the deadline that all calls have: a timer each would cost more.
        let expires = self.patience.default_expires();
        self.state = match self.shared.send_call(&body, ttl, None, expires) {
            Ok(sent) => State::Sent(sent, body),
            Err(SendError::Refused(error)) => State::Over(Some(error.into())),
            Err(SendError::Full | SendError::NoPlace) => self.wait(body, Duration::ZERO),
        };
    }

    fn wait(&mut self, body: Body, pause: Duration) -> State<'a> {
        let (shared, expires) = (self.shared, self.patience.ttl_expires());
        self.timer = self.timer.take().or_else(|| self.patience.timer(shared));
        let fail_fast = self.patience.fail_fast;
        State::Waiting(Box::pin(async move {
            if !pause.is_zero() {
                shared.pause(pause).await;
            }
            let send = |left, places: &_| shared.send_call(&body, left, Some(places), None);
            let sent = send_when_possible(shared, expires, fail_fast, send).await?;
            Ok((sent, body))
        }))
    }

    /// The request's outcome is known; `None` if it is sent again.
    fn end_or_send_again(&mut self, result: CallResult) -> Option<CallResult> {
        let State::Sent((id, _), body) = std::mem::replace(&mut self.state, State::Over(None))
        else {
            return Some(result);
        };
        let Err(error) = result else { return Some(result) };
        let Some(pause) = self.patience.resend(self.shared, id, &error) else {
            return Some(Err(self.patience.last(error)));
        };
        self.state = self.wait(body, pause);
        None
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<CallResult> {
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(match self.cancel() {
            true => self.patience.last(self.shared.out_of_time()),
            false => Unknown::Deadline.into(),
        }))
    }

    /// Gives it up; whether it is proven that it was not sent.
    fn cancel(&mut self) -> bool {
        let state = std::mem::replace(&mut self.state, State::Over(None));
        let State::Sent((id, reply), _) = state else { return true };
        drop(reply);
        self.shared.cancel(id)
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

/// Waits for a connection, for a place in flight and for room to write, then sends; `send` is given
/// what is left of the deadline, and where the place is. The place is the request's from then on,
/// until its terminal line.
pub(crate) async fn send_when_possible<T>(
    shared: &Shared,
    expires: Option<Instant>,
    fail_fast: bool,
    send: impl Fn(Option<Duration>, &Arc<Semaphore>) -> Result<T, SendError>,
) -> Result<T, NotSent> {
    loop {
        let places = shared.places(fail_fast)?;
        // A closed gate is that of a connection that is over or left: there is another by now.
        let Ok(place) = places.acquire().await else { continue };
        loop {
            let mut drained = pin!(shared.drained.notified());
            drained.as_mut().enable();
            let left = left(expires);
            if left.is_some_and(|left| left.is_zero()) {
                return Err(shared.out_of_time());
            }
            match send(left, &places) {
                Ok(sent) => {
                    place.forget();
                    return Ok(sent);
                }
                Err(SendError::Refused(error)) => return Err(error),
                Err(SendError::Full) => drained.await,
                Err(SendError::NoPlace) => break,
            }
        }
    }
}
