//! Requests that are no plain calls: to publish, one-way, and for the list of methods.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::{
    client::{
        call::Exchange,
        core::body::Body,
        core::link::SendError,
        core::waiter::{Listed as Gathered, Reply, Waiter},
        retry::Patience,
        shared::Shared,
    },
    coop::{consume_budget, poll_budgeted},
    error::{CallError, ConnectionError, NotSent, Unknown},
    guard::wake,
    protocol::{
        AttributeList, Epoch, InvalidAttribute, Method, RequestId, Topic, TraceParent, Word,
        parse_number,
    },
    sync::oneshot,
    topic::Published,
};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A message that is being published: a future of its position. Nothing is sent before it is first
/// polled.
///
/// Made by [`Client::publish`](crate::Client::publish). Implements PROTOCOL.md, section 8.5.
///
/// # Errors
/// As a [`Call`](crate::Call)'s; [`CallError::Refused`] with `forbidden` where it is not allowed.
///
/// # Cancel safety
/// As a call's: if it is dropped after it was sent, the message may have been published.
#[must_use = "nothing is published unless it is awaited"]
pub struct Publish<'a>(Exchange<'a>);

impl<'a> Publish<'a> {
    pub(super) fn new(shared: &'a Shared, topic: &str, payload: &[u8]) -> Self {
        Self(match publish_body(topic, payload) {
            Ok(body) => Exchange::new(shared, body),
            Err(error) => Exchange::failed(shared, error),
        })
    }

    /// Gives it this long, from its first poll; `None` for no limit. The server is told what is left
    /// when the line is sent. Default: [`ClientConfig::deadline`](crate::ClientConfig::deadline).
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.0.patience.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection, and is not sent again: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this request.
    pub fn fail_fast(mut self) -> Self {
        self.0.patience.fail_fast = true;
        self
    }
}

impl Future for Publish<'_> {
    type Output = Result<Published, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(self.get_mut().0.poll_reply(cx));
        Poll::Ready(reply.and_then(|reply| published(&reply)))
    }
}

fn publish_body(topic: &str, payload: &[u8]) -> Result<Body, CallError> {
    let topic = Topic::new(topic).map_err(NotSent::Name)?;
    let mut arguments = topic.as_str().as_bytes().to_vec();
    if !payload.is_empty() {
        arguments.push(b' ');
        arguments.extend_from_slice(payload);
    }
    let word = Word::new("/publish").ok_or(CallError::Encode("no such word".into()))?;
    Ok(Body::new(word, &arguments))
}

fn published(reply: &Reply) -> Result<Published, CallError> {
    let attributes = reply.attributes.as_attributes();
    let epoch = attributes.get("epoch").and_then(Epoch::new);
    let sequence = attributes.get("seq").and_then(|seq| parse_number(seq.as_bytes()));
    match (epoch, sequence) {
        (Some(epoch), Some(sequence)) => Ok(Published { epoch, sequence }),
        _ => Err(CallError::Decode("the reply names no epoch and seq".into())),
    }
}

/// A one-way request that is being sent: a future that ends when its line waits to be written.
/// Nothing is sent before it is first polled.
///
/// Made by [`Client::one_way`](crate::Client::one_way), which says more. Implements PROTOCOL.md,
/// section 7.3.
///
/// # Errors
/// [`NotSent`].
///
/// # Cancel safety
/// Dropping it while it waits for a connection or for room sends nothing.
#[must_use = "nothing is sent unless it is awaited"]
pub struct OneWay<'a> {
    shared: &'a Shared,
    state: OneWayState<'a>,
    patience: Patience,
}

enum OneWayState<'a> {
    New(Result<Body, NotSent>),
    /// Waiting for a connection, or for room to write.
    Waiting(Boxed<'a, Result<(), NotSent>>),
}

impl<'a> OneWay<'a> {
    pub(super) fn new(shared: &'a Shared, method: &str, payload: &[u8]) -> Self {
        let word = Method::new_word(method).map_err(NotSent::Name);
        let body = word.map(|word| Body::new(word, payload));
        let patience = Patience::new(&shared.config);
        Self { shared, state: OneWayState::New(body), patience }
    }

    /// Gives it this long, from its first poll, to wait for a connection and for room to write; `None`
    /// for no limit. Default: [`ClientConfig::deadline`](crate::ClientConfig::deadline).
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.patience.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this request.
    pub fn fail_fast(mut self) -> Self {
        self.patience.fail_fast = true;
        self
    }

    /// Sends a trace context with the request. The handler's span on the server carries it.
    pub fn trace(self, parent: TraceParent) -> Self {
        self.push(|attributes| attributes.push("trace", parent))
    }

    /// Sends an attribute of the application with the request; its key has a dot. If it cannot be
    /// written, the request ends with [`NotSent::Attribute`].
    pub fn attribute(self, key: &str, value: impl fmt::Display) -> Self {
        self.push(|attributes| attributes.push_application(key, value))
    }

    fn push(
        mut self,
        push: impl FnOnce(&mut AttributeList) -> Result<(), InvalidAttribute>,
    ) -> Self {
        if let OneWayState::New(Ok(body)) = &mut self.state
            && let Err(error) = push(&mut body.attributes)
        {
            self.state = OneWayState::New(Err(NotSent::Attribute(error)));
        }
        self
    }

    /// Sends at once if there is a connection and room; else waits for both.
    fn start(&mut self, body: Body) -> Poll<Result<(), NotSent>> {
        match self.shared.send_one_way(&body) {
            Ok(()) => return Poll::Ready(Ok(())),
            Err(SendError::Refused(error)) => return Poll::Ready(Err(error)),
            Err(SendError::NoPlace | SendError::Full) => {}
        }
        self.patience.begin();
        let (shared, patience) = (self.shared, std::mem::take(&mut self.patience));
        self.state = OneWayState::Waiting(Box::pin(async move {
            let sent =
                patience.within(shared, send_one_way(shared, &body, patience.fail_fast)).await;
            sent.unwrap_or_else(|| Err(shared.out_of_time()))
        }));
        Poll::Pending
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotSent>> {
        if let OneWayState::New(body) = &mut self.state {
            match std::mem::replace(body, Err(NotSent::Lost(ConnectionError::Closed))) {
                Ok(body) => {
                    if let sent @ Poll::Ready(_) = self.start(body) {
                        return sent;
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        match &mut self.state {
            OneWayState::Waiting(sending) => sending.as_mut().poll(cx),
            OneWayState::New(_) => Poll::Pending,
        }
    }
}

impl Future for OneWay<'_> {
    type Output = Result<(), NotSent>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        poll_budgeted(cx, |cx| this.poll_sent(cx))
    }
}

async fn send_one_way(shared: &Shared, body: &Body, fail_fast: bool) -> Result<(), NotSent> {
    loop {
        let mut drained = pin!(shared.drained.notified());
        drained.as_mut().enable();
        match shared.send_one_way(body) {
            Ok(()) => return Ok(()),
            Err(SendError::Refused(error)) => return Err(error),
            Err(SendError::NoPlace) => shared.wait_for_connection(fail_fast).await?,
            Err(SendError::Full) => drained.await,
        }
    }
}

/// A request for the methods of the server: a future of a list of names, each with its line of
/// documentation. Nothing is sent before it is first polled.
///
/// Made by [`Client::methods`](crate::Client::methods). Implements PROTOCOL.md, section 8.6.
///
/// # Errors
/// As a [`Call`](crate::Call)'s.
///
/// # Cancel safety
/// Dropping it has no further effect.
#[must_use = "nothing is asked unless it is awaited"]
pub struct Methods<'a> {
    shared: &'a Shared,
    patience: Patience,
    listing: Option<Boxed<'a, Listed>>,
}

type Listed = Result<Vec<(Method, String)>, CallError>;

impl<'a> Methods<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, patience: Patience::new(&shared.config), listing: None }
    }

    /// Gives it this long, from its first poll; `None` for no limit. Default:
    /// [`ClientConfig::deadline`](crate::ClientConfig::deadline).
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.patience.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection, and is not sent again: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this request.
    pub fn fail_fast(mut self) -> Self {
        self.patience.fail_fast = true;
        self
    }
}

impl Future for Methods<'_> {
    type Output = Listed;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let listing = this.listing.get_or_insert_with(|| {
            let (shared, patience) = (this.shared, std::mem::take(&mut this.patience));
            Box::pin(async move {
                let listed = list(shared, patience).await;
                if listed.is_err() {
                    // It may have been refused at once, before anything was sent.
                    consume_budget().await;
                }
                listed
            })
        });
        listing.as_mut().poll(cx)
    }
}

async fn list(shared: &Shared, mut patience: Patience) -> Listed {
    patience.begin();
    let lines = loop {
        let sent = patience.within(shared, send_methods(shared, patience.fail_fast)).await;
        let sent = sent.unwrap_or_else(|| Err(shared.out_of_time()));
        let mut listing = sent.map_err(|why| patience.last(why))?;
        let listed = patience.within(shared, &mut listing.list).await;
        let lost = |_| Err(Unknown::Lost(ConnectionError::Closed).into());
        let late = || Ok(Err(Unknown::Deadline.into()));
        match listed.unwrap_or_else(late).unwrap_or_else(lost) {
            Ok(lines) => break lines,
            Err(error) => match patience.resend(shared, listing.id, &error) {
                Some(pause) => shared.pause(pause).await,
                None => return Err(patience.last(error)),
            },
        }
    };
    lines.iter().map(|line| method_and_doc(line)).collect()
}

async fn send_methods(shared: &Shared, fail_fast: bool) -> Result<Listing<'_>, NotSent> {
    loop {
        let turn = shared.turn().await;
        let (caller, list) = oneshot::channel();
        let waiter = Waiter::List { items: Vec::new(), bytes: 0, caller };
        let (head, arguments) = (format_args!("/methods"), format_args!(""));
        let begun = shared.begin_control(waiter, head, arguments);
        drop(turn);
        match begun {
            Ok(begun) => {
                wake(begun.driver);
                return Ok(Listing { shared, id: begun.id, list });
            }
            Err(SendError::Refused(error)) => return Err(error),
            Err(_) => shared.wait_for_connection(fail_fast).await?,
        }
    }
}

/// A list on its way; what was gathered of it goes with its caller.
struct Listing<'a> {
    shared: &'a Shared,
    id: RequestId,
    list: oneshot::Receiver<Gathered>,
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        self.shared.cancel(self.id);
    }
}

fn method_and_doc(line: &[u8]) -> Result<(Method, String), CallError> {
    let line = String::from_utf8_lossy(line);
    let (name, doc) = line.split_once(' ').unwrap_or((&line, ""));
    let method = Method::new(name).map_err(|error| CallError::Decode(error.to_string().into()))?;
    Ok((method, doc.to_owned()))
}

macro_rules! opaque_debug {
    ($($name:ident),*) => {
        $(impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })*
    };
}

opaque_debug!(Publish, OneWay, Methods);
