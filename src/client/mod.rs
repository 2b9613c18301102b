//! The client: calls and notifications on one connection.

mod asking;
mod builder;
mod call;
mod config;
pub(crate) mod core;
pub(crate) mod driver;
mod event;
mod listening;
mod loss;
mod progress;
mod retry;
mod shared;
mod stats;
mod streaming;
mod subscription;
mod typed;

use std::{fmt, future::Future};

use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(unix)]
pub use self::driver::connector::UnixConnector;
#[cfg(feature = "json")]
pub use self::typed::JsonCodec;
pub use self::{
    asking::{Methods, OneWay, Publish},
    builder::ClientBuilder,
    call::{After, Call, Replied},
    config::ClientConfig,
    core::inbox::{Delivery, Gap, GapCause, Notification},
    driver::connection::Connection,
    driver::connector::{Connecting, Connector, Finishing, Resolving, TcpConnector},
    event::{ConnectionEvent, ConnectionEvents, ListeningEnd},
    listening::Listening,
    loss::{AfterReset, Loss},
    progress::{Progress, Seen},
    stats::ClientStats,
    streaming::{ItemCredit, Streaming, TypedStreaming},
    subscription::{Notifications, Subscribe, Subscription},
    typed::{CodecError, Decode, Encode, TypedCall},
};
use self::{core::status::Phase, shared::Shared};
use crate::{
    coop::consume_budget,
    error::{CallError, ConnectionError},
    guard::Held,
    protocol::Hello,
    sync::Arc,
};

/// A cheap handle to a client: clone it and use it from any number of tasks.
///
/// Calls are pipelined: each is one line with an id, and its reply finds it by that id, whatever
/// the order of the replies. Notifications arrive on the same connection, as streams. The
/// connection closes when the last clone and the last [`Subscription`] are dropped.
///
/// When the connection is lost or its server goes away, the client connects again, to the same
/// server or another, and everything goes on: see [`ClientBuilder`]. Only a client of
/// [`Client::new`] ends with its transport.
///
/// ```no_run
/// use bellwire::Client;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("127.0.0.1:7440").await?;
/// let number = client.call("random", "6").await?;
/// println!("{}", String::from_utf8_lossy(&number));
///
/// let mut offers = client.subscribe("offers").await?;
/// while let Some(delivery) = offers.next().await {
///     println!("{delivery:?}");
/// }
/// client.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// The last one to go closes the connection.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_close(ConnectionError::Closed);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared().phase.look(|phase| f.debug_struct("Client").field("phase", phase).finish())
    }
}

impl Client {
    /// Sets up a client: addresses, bounds, credentials, transport.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// Connects over TCP, with TCP_NODELAY, and waits for the server's hello. Spawns the driver.
    ///
    /// Short for [`Client::builder`] with one address, `HOST:PORT`.
    ///
    /// # Errors
    /// [`ConnectionError`], also when it all takes longer than
    /// [`ClientConfig::connect_timeout`] (10 s).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect(address: impl ToString) -> Result<Self, ConnectionError> {
        Self::connect_with(address, ClientConfig::default()).await
    }

    /// As [`connect`](Self::connect), with your own bounds.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(
        address: impl ToString,
        config: ClientConfig,
    ) -> Result<Self, ConnectionError> {
        Self::builder().address(address).config(config).connect().await
    }

    /// Connects to a Unix socket, as [`connect`](Self::connect) does over TCP.
    ///
    /// Short for [`Client::builder`] with a [`UnixConnector`].
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[cfg(unix)]
    pub async fn connect_unix(path: impl AsRef<std::path::Path>) -> Result<Self, ConnectionError> {
        Self::connect_unix_with(path, ClientConfig::default()).await
    }

    /// As [`connect_unix`](Self::connect_unix), with your own bounds.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[cfg(unix)]
    pub async fn connect_unix_with(
        path: impl AsRef<std::path::Path>,
        config: ClientConfig,
    ) -> Result<Self, ConnectionError> {
        let connector = driver::connector::AtPath(path.as_ref().to_owned());
        Self::builder().connector(connector).config(config).connect().await
    }

    /// Returns a client over any transport, and its driver, which has to be polled.
    ///
    /// Calls wait until the server has said hello. The client ends with this connection.
    ///
    /// ```
    /// use bellwire::{Client, ClientConfig};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let (near, far) = tokio::io::duplex(4_096);
    /// let (client, connection) = Client::new(near, ClientConfig::default());
    /// tokio::spawn(connection);
    /// # drop((client, far));
    /// # }
    /// ```
    pub fn new<T>(io: T, config: ClientConfig) -> (Self, Connection<T>)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let ways = config.auth.clone();
        let shared = Arc::new(Shared::of_one(config));
        let connection = Connection::new(Held::new(io), shared.clone(), ways);
        (Self { handle: Arc::new(Handle { shared }) }, connection)
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// What goes on without the handle: it keeps no connection open.
    fn share(&self) -> Arc<Shared> {
        self.handle.shared.clone()
    }

    /// Waits until there is a connection whose server has said hello; returns what it announced. It
    /// has no deadline: use `tokio::time::timeout` if you need one.
    ///
    /// # Errors
    /// [`ConnectionError`] when the client has ended.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn connected(&self) -> Result<Hello, ConnectionError> {
        consume_budget().await;
        match self.shared().phase.until(|phase| !matches!(phase, Phase::Connecting)).await {
            Phase::Ended(error) => Err(error),
            Phase::Open(hello) => Ok(hello),
            Phase::Connecting => Err(ConnectionError::Closed),
        }
    }

    /// What the current server announced; `None` while there is no connection.
    pub fn hello(&self) -> Option<Hello> {
        self.shared().phase.look(|phase| match phase {
            Phase::Open(hello) => Some(hello.clone()),
            Phase::Connecting | Phase::Ended(_) => None,
        })
    }

    /// Calls a method: bytes in, bytes out.
    ///
    /// The method is one of the application's. The protocol's own methods have their own functions.
    /// See [`Call`] for deadlines, errors and the effect of dropping it.
    pub fn call(&self, method: &str, payload: impl AsRef<[u8]>) -> Call<'_> {
        Call::new(self.shared(), method, payload.as_ref())
    }

    /// Calls a method with arguments and a reply in JSON.
    ///
    /// ```
    /// # async fn example(client: bellwire::Client) -> Result<(), bellwire::CallError> {
    /// let number: u32 = client.request("random", &6).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "json")]
    pub fn request<A, R>(&self, method: &str, arguments: &A) -> TypedCall<'_, JsonCodec, R>
    where
        A: serde::Serialize + ?Sized,
        R: serde::de::DeserializeOwned,
    {
        self.request_with(JsonCodec, method, arguments)
    }

    /// Calls a method with arguments and a reply in your own codec: see [`Encode`].
    pub fn request_with<C, A, R>(
        &self,
        codec: C,
        method: &str,
        arguments: &A,
    ) -> TypedCall<'_, C, R>
    where
        C: Encode<A> + Decode<R>,
        A: ?Sized,
    {
        let call = match typed::encode(&codec, arguments) {
            Ok(payload) => self.call(method, payload),
            Err(error) => Call::failed(self.shared(), error),
        };
        TypedCall::new(call, codec)
    }

    /// Calls a method that answers with a stream: bytes in, items of bytes out.
    ///
    /// See [`Streaming`] for credit, deadlines, errors and the effect of dropping it.
    pub fn stream(&self, method: &str, payload: impl AsRef<[u8]>) -> Streaming {
        Streaming::new(self.clone(), method, payload.as_ref())
    }

    /// Calls a method that answers with a stream, with arguments and items in JSON.
    ///
    /// ```
    /// # async fn example(client: bellwire::Client) -> Result<(), bellwire::CallError> {
    /// let mut numbers = client.request_stream::<_, u32>("count", &1_000);
    /// while let Some(number) = numbers.next().await {
    ///     println!("{}", number?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "json")]
    pub fn request_stream<A, R>(&self, method: &str, arguments: &A) -> TypedStreaming<JsonCodec, R>
    where
        A: serde::Serialize + ?Sized,
        R: serde::de::DeserializeOwned,
    {
        self.request_stream_with(JsonCodec, method, arguments)
    }

    /// Calls a method that answers with a stream, with arguments and items in your own codec: see
    /// [`Encode`].
    pub fn request_stream_with<C, A, R>(
        &self,
        codec: C,
        method: &str,
        arguments: &A,
    ) -> TypedStreaming<C, R>
    where
        C: Encode<A> + Decode<R>,
        A: ?Sized,
    {
        let items = match typed::encode(&codec, arguments) {
            Ok(payload) => self.stream(method, payload),
            Err(error) => Streaming::failed(self.clone(), error),
        };
        TypedStreaming::new(items, codec)
    }

    /// Sends a one-way request: the server starts it, and never answers.
    ///
    /// `Ok` only says that the line waits to be written. If the server rejects it, that is reported
    /// as [`ConnectionEvent::ServerError`]. If a connection ends before the line was offered to it,
    /// the line is written to the next connection. If there is none, it is counted by
    /// [`ConnectionEvent::OneWaysDropped`]. If the line was offered to a connection that ended, it
    /// cannot be known whether the server got it, because there is no reply.
    ///
    /// Without a connection it waits for one until its deadline, unless [`ClientConfig::fail_fast`]
    /// is set.
    ///
    /// # Errors
    /// [`NotSent`](crate::NotSent).
    ///
    /// # Cancel safety
    /// Dropping it while it waits for a connection or for room sends nothing.
    pub fn one_way(&self, method: &str, payload: impl AsRef<[u8]>) -> OneWay<'_> {
        OneWay::new(self.shared(), method, payload.as_ref())
    }

    /// Subscribes to a topic, from now on or from a position: see [`Subscribe`].
    pub fn subscribe(&self, topic: &str) -> Subscribe {
        Subscribe::new(self.clone(), topic)
    }

    /// Subscribes to a topic with a closure. The closure runs in a task of its own, for one
    /// delivery after the other. It may make calls on the same client.
    ///
    /// The closure's future must own what it uses: clone it for each delivery. To begin at a
    /// position, or with a window, use [`Subscribe::listen`]. A panic in the closure ends the
    /// [`Listening`], which leaves the topic.
    /// The task runs on the runtime of the caller. Outside a runtime it runs on that of the client.
    ///
    /// ```
    /// # async fn example(client: bellwire::Client) -> Result<(), bellwire::CallError> {
    /// let asking = client.clone();
    /// let listening = client.listen("offers", move |delivery| {
    ///     let client = asking.clone();
    ///     async move {
    ///         let Some(offer) = delivery.into_notification() else { return };
    ///         println!("{:?}", client.call("offers.get", offer.payload).await);
    ///     }
    /// });
    /// let listening = listening.await?;
    /// # drop(listening);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    /// Dropping it leaves no subscription behind.
    pub async fn listen<F, Fut>(&self, topic: &str, closure: F) -> Result<Listening, CallError>
    where
        F: FnMut(Delivery) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.subscribe(topic).listen(closure).await
    }

    /// A stream of all notifications from here on, in addition to the streams of the subscriptions.
    pub fn notifications(&self) -> Notifications {
        Notifications::new(self.shared())
    }

    /// A stream of the events of the client's connections from here on.
    pub fn events(&self) -> ConnectionEvents {
        let Shared { phase, events, config, .. } = self.shared();
        let max_events = config.held_events;
        phase.look(|phase| events.listen(max_events, matches!(phase, Phase::Ended(_))))
    }

    /// Publishes to a topic, where the server allows clients to.
    ///
    /// # Errors
    /// As a call's; [`CallError::Refused`] with `forbidden` where it is not allowed.
    ///
    /// # Cancel safety
    /// As a call's: if it is dropped after it was sent, the message may have been published.
    pub fn publish(&self, topic: &str, payload: impl AsRef<[u8]>) -> Publish<'_> {
        Publish::new(self.shared(), topic, payload.as_ref())
    }

    /// Lists the methods of the server: a name, and a line of documentation where there is one.
    ///
    /// # Errors
    /// As a call's.
    ///
    /// # Cancel safety
    /// Dropping it has no further effect.
    pub fn methods(&self) -> Methods<'_> {
        Methods::new(self.shared())
    }

    /// Connects now, if there is no connection, instead of after the current pause. Use it when the
    /// application knows more than the client does, for example that the network is back.
    ///
    /// The addresses are tried as soon as 250 ms have passed since they were tried last. An attempt
    /// that is under way is not disturbed; the next one follows it at once. Later pauses are as
    /// long as they would have been. The `retry` of a server is still obeyed. With a connection,
    /// and for a client of [`Client::new`], this does nothing.
    pub fn reconnect_now(&self) {
        self.shared().hurry();
    }

    /// Counters and gauges of this client, over all its connections. Costs a short lock and a few
    /// loads. What was reported to a caller or a stream is counted before.
    pub fn stats(&self) -> ClientStats {
        self.shared().stats()
    }

    /// Closes the connection in order: nothing new is sent, calls in flight are answered, and the
    /// server closes. Waits for all of this, for at most [`ClientConfig::close_timeout`]. Without a
    /// connection the client ends at once.
    ///
    /// # Errors
    /// [`ConnectionError`] when the client had ended in another way, or when the connection fails
    /// meanwhile.
    ///
    /// # Cancel safety
    /// Dropping it does not stop the closing.
    pub async fn close(&self) -> Result<(), ConnectionError> {
        self.shared().begin_close(ConnectionError::Closed);
        consume_budget().await;
        match self.shared().phase.until(|phase| matches!(phase, Phase::Ended(_))).await {
            Phase::Ended(error) if error != ConnectionError::Closed => Err(error),
            _ => Ok(()),
        }
    }
}
