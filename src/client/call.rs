//! Calls: a request line out, its terminal line back.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    client::{core::cell::RequestCell, exchange::Exchange, shared::Shared},
    error::{CallError, NotSent},
    protocol::{Method, Position, Topic, TraceParent},
};

/// A call in progress: a future of the reply's payload. Nothing is sent before it is first polled.
///
/// Made by [`Client::call`](crate::Client::call). Implements PROTOCOL.md, section 3.
///
/// It borrows its client, so that a call costs no reference count. To spawn it, move a clone of the
/// client into an `async move` block. A [`Streaming`](crate::Streaming) owns its client instead.
///
/// ```
/// use bellwire::Client;
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let calling = client.clone();
/// let call = tokio::spawn(async move { calling.call("random", "6").await });
/// println!("{:?}", call.await??);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CallError`]: its variant tells whether the handler may have run.
///
/// # Cancel safety
/// It may be dropped at any point. If the request was sent, the client cancels it on the server.
/// Its place in flight becomes free when the server's terminal line arrives.
#[must_use = "a call does nothing unless it is awaited"]
pub struct Call<'a>(pub(super) Exchange<&'a Shared>);

impl<'a> Call<'a> {
    pub(crate) fn new(shared: &'a Shared, method: &str, payload: &[u8]) -> Self {
        let word = Method::new_word(method).map_err(|error| NotSent::Name(error).into());
        Self(Exchange::new(shared, word.map(|word| RequestCell::new(word, payload))))
    }

    pub(crate) fn failed(shared: &'a Shared, error: CallError) -> Self {
        Self(Exchange::new(shared, Err(error)))
    }

    /// Gives the call this long, from its first poll; `None` for no limit but the server's own. The
    /// line carries the remaining time as `ttl`. Default:
    /// [`ClientConfig::deadline`](crate::ClientConfig::deadline), which is not sent to the server.
    ///
    /// When it has passed, a call that was sent ends with
    /// [`Unknown::Deadline`](crate::Unknown::Deadline), and is cancelled on the server. A call that
    /// was not sent ends with [`NotSent::Deadline`], which says why there is no connection.
    ///
    /// The timer belongs to the runtime that polls the call. The call may be polled outside a tokio
    /// runtime, too. The timer then belongs to the runtime in which the client's driver runs, or
    /// the client was made. While there is none, the deadline does not fire. A client that is driven by
    /// hand (`unstable::client`) needs no runtime: its driver passes the time.
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.0.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection, and is not sent again: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this call.
    pub fn fail_fast(mut self) -> Self {
        self.0.fail_fast = true;
        self
    }

    /// Sends the call with a key: the server runs it at most once, however often it is sent
    /// (docs/protocol/keyed.md, section 23).
    ///
    /// If the connection is lost after the call was sent, the client sends it again on the next
    /// one, within its deadline, and gets the outcome of the first run. It does so only where the
    /// key is known: on a server that announces the same table of keys, and within the time that
    /// the server announces, counted from the first sending. Otherwise the call ends as
    /// [`Unknown`](crate::Unknown). If the server announces no keys, it ends with
    /// [`NotSent::NoKeys`]. A `cut` is the outcome of the run, so it is not sent again.
    ///
    /// A key must be new: no other call of the same principal may have it, nor the same call with
    /// another payload, which is refused `key-mismatch`. A [`Key`](crate::Key) is random. To go on
    /// after a restart of the program, store the key before the call, and call again with it. The
    /// value is 1 to 255 bytes of printable ASCII without `;`, or the call ends with
    /// [`NotSent::Attribute`].
    ///
    /// Dropping the call, and its deadline, do not end the run on the server.
    ///
    /// ```
    /// use std::time::Duration;
    /// use bellwire::{CallError, Client, Key};
    ///
    /// # async fn example(client: Client) -> Result<(), CallError> {
    /// let pay = client.call("pay", r#"{"sum":40}"#).key(Key::random());
    /// let receipt = pay.deadline(Duration::from_secs(60)).await?;
    /// # let _ = receipt;
    /// # Ok(())
    /// # }
    /// ```
    pub fn key(mut self, key: impl fmt::Display) -> Self {
        self.0.set_key(key);
        self
    }

    /// Says that the call may run twice, for example because it only reads.
    ///
    /// If the connection is lost after the call was sent, or the server stops before the call has
    /// ended (`cut closing`), the client sends it again on the next connection, within its
    /// deadline. Without this it ends as [`Unknown`](crate::Unknown). Nothing on the wire shows it.
    /// With a [`key`](Self::key), too, it is sent again even where the key is not known.
    pub fn idempotent(mut self) -> Self {
        self.0.set_idempotent();
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
    /// Returns the whole reply: its payload and, if the server says so, the position of its effect.
    ///
    /// # Errors
    /// As when the call itself is awaited.
    ///
    /// # Cancel safety
    /// As when the call itself is dropped.
    pub async fn replied(mut self) -> Result<Replied, CallError> {
        let reply = poll_fn(|cx| self.0.poll_reply(cx)).await.map_err(|error| *error)?;
        let after = reply.attributes.as_attributes().get("after").and_then(After::parse);
        Ok(Replied { value: reply.payload, after })
    }
}

/// A reply, and the position of its effect: see [`Call::replied`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replied<T = Bytes> {
    /// The payload, or what it decodes to.
    pub value: T,
    /// The position of the effect. Set if the server sent one, and this connection is subscribed to
    /// the topic.
    pub after: Option<After>,
}

impl<T> Replied<T> {
    /// Creates a reply, for tests of code that handles replies.
    pub fn new(value: T, after: Option<After>) -> Self {
        Self { value, after }
    }
}

/// The position of the effect of a request: the effect is in the notifications of `topic` below
/// `position`, which names the *next* number (docs/protocol/after.md, section 17).
///
/// Wait for it with [`Subscription::seen`](crate::Subscription::seen).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct After {
    /// The topic.
    pub topic: Topic,
    /// The effect is visible once everything below this position was handed over.
    pub position: Position,
}

impl After {
    /// Creates a position of an effect, for tests of code that waits for it.
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
        let reply = self.get_mut().0.poll_reply(cx);
        reply.map(|reply| reply.map(|reply| reply.payload).map_err(|error| *error))
    }
}
