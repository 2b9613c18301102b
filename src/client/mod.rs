//! The client: calls and notifications on one connection.

mod builder;
pub(crate) mod by_hand;
mod call;
mod clock;
mod codecs;
mod config;
pub(crate) mod core;
pub(crate) mod driver;
mod event;
mod exchange;
mod fresh_key;
mod handle;
mod loss;
mod methods;
mod one_way;
mod progress;
mod publish;
mod runtimes;
mod shared;
mod stats;
mod streaming;
mod subscription;
mod timer;
mod typed;

use std::fmt;

use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(feature = "json")]
pub use self::codecs::JsonCodec;
#[cfg(unix)]
pub use self::driver::connector::UnixConnector;
pub use self::{
    builder::ClientBuilder,
    call::{After, Call, Replied},
    codecs::{CodecError, Decode, Encode},
    config::ClientConfig,
    core::delivery::{Delivery, Gap, GapCause, Notification},
    core::topics::AfterReset,
    driver::connection::Connection,
    driver::connector::{Connecting, Connector, Finishing, Resolving, TcpConnector},
    event::{ConnectionEvent, ConnectionEvents},
    fresh_key::Key,
    loss::Loss,
    methods::Methods,
    one_way::OneWay,
    progress::{Progress, Seen},
    publish::Publish,
    stats::ClientStats,
    streaming::{ItemCredit, Streaming, TypedStreaming},
    subscription::{Notifications, Subscribe, Subscription},
    typed::TypedCall,
};
use self::{core::status::Status, handle::Handle, shared::Shared};
use crate::{
    coop::consume_budget, error::ConnectionError, guard::Held, protocol::Hello, sync::Arc,
};

/// A cheap handle to a client: clone it and use it from any number of tasks.
///
/// Calls are pipelined: each request is one line with an id, and its reply is matched by that id,
/// in whatever order the replies arrive. Notifications arrive on the same connection, as streams.
/// The connection closes when the last clone and the last [`Subscription`] are dropped.
///
/// When the connection is lost or the server sends `/bye`, the client connects again, to the same
/// server or another, and its handles and subscriptions go on: see [`ClientBuilder`]. Only a client
/// of [`Client::new`] ends with its transport. [`Client::ended`] says whether a client has ended for
/// good, and why.
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

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.shared().look(|core| core.status().clone());
        f.debug_struct("Client").field("status", &status).finish()
    }
}

impl Client {
    /// Returns a builder, which sets addresses, limits, credentials and the transport.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// Connects to a TCP address, `HOST:PORT`, and waits for the server's `/hello`. Spawns the
    /// driver. If a name has several endpoints, the client connects to the first that answers.
    ///
    /// Short for [`Client::builder`] with one address.
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

    /// As [`connect`](Self::connect), with your own limits.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect_with(
        address: impl ToString,
        config: ClientConfig,
    ) -> Result<Self, ConnectionError> {
        Self::builder().address(address).config(config).connect().await
    }

    /// Connects to a Unix socket, as [`connect`](Self::connect) does to a TCP address.
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

    /// As [`connect_unix`](Self::connect_unix), with your own limits.
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
    /// Calls wait until the server has sent `/hello`. The client ends with this connection.
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

    /// Waits until there is a connection whose server has sent `/hello`. Returns what the server
    /// announced. It has no deadline: use `tokio::time::timeout` if you need one.
    ///
    /// # Errors
    /// [`ConnectionError`] when the client has ended.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn connected(&self) -> Result<Hello, ConnectionError> {
        consume_budget().await;
        let settled = self.shared().until(|core| match core.status() {
            Status::Connecting => None,
            Status::Open(hello) => Some(Ok(hello.clone())),
            Status::Ended(error) => Some(Err(error.clone())),
        });
        settled.await
    }

    /// What the current server has announced; `None` while there is no connection.
    pub fn hello(&self) -> Option<Hello> {
        self.shared().look(|core| match core.status() {
            Status::Open(hello) => Some(hello.clone()),
            Status::Connecting | Status::Ended(_) => None,
        })
    }

    /// Why the client has ended for good; `None` while it has a connection or will make one.
    ///
    /// A client that reconnects ends when it is closed, when no attempt at any of its addresses can
    /// succeed (invalid addresses, refused credentials, another version of the protocol), and after
    /// [`ClientConfig::give_up_after`]. Its calls then fail with
    /// [`NotSent::Lost`](crate::NotSent::Lost), so make a new client. To wait for the end, read
    /// [`events`](Self::events) until [`ConnectionEvent::Ended`].
    ///
    /// ```
    /// use bellwire::{Client, ConnectionError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ConnectionError> {
    /// let client = Client::builder().address("127.0.0.1:9").connect_lazily();
    /// assert_eq!(client.ended(), None);
    /// client.close().await?;
    /// assert_eq!(client.ended(), Some(ConnectionError::Closed));
    /// # Ok(())
    /// # }
    /// ```
    pub fn ended(&self) -> Option<ConnectionError> {
        self.shared().look(|core| match core.status() {
            Status::Ended(error) => Some(error.clone()),
            Status::Connecting | Status::Open(_) => None,
        })
    }

    /// Calls a method: bytes in, bytes out.
    ///
    /// The method is one of the application. The methods of the protocol have their own functions.
    /// See [`Call`] for deadlines, errors and the effect of dropping it.
    ///
    /// Replies of at most 128 bytes that come together may share an allocation of at most 512
    /// bytes, which lives as long as one of them. To keep one for long, copy it.
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
    ///
    /// For a reply without a payload: `let () = client.request("offers.remove", &6).await?`.
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
        let call = match codecs::encode(&codec, arguments) {
            Ok(payload) => self.call(method, payload),
            Err(error) => Call::failed(self.shared(), error),
        };
        TypedCall::new(call, codec)
    }

    /// Calls a method that answers with a stream: bytes in, items of bytes out.
    ///
    /// See [`Streaming`] for credit, deadlines, errors and the effect of dropping it.
    pub fn stream(&self, method: &str, payload: impl AsRef<[u8]>) -> Streaming {
        Streaming::new(self.handle.clone(), method, payload.as_ref())
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
        let items = match codecs::encode(&codec, arguments) {
            Ok(payload) => self.stream(method, payload),
            Err(error) => Streaming::failed(self.handle.clone(), error),
        };
        TypedStreaming::new(items, codec)
    }

    /// Sends a one-way request: the server starts it, and never answers.
    ///
    /// `Ok` only says that the line waits to be written. If the server rejects it, that is reported
    /// as [`ConnectionEvent::ServerError`]. If the connection ends, or the server sends
    /// `/bye;last=N`, before the line was offered to the transport, the request is dropped, and
    /// [`ConnectionEvent::OneWaysDropped`] counts it. If the line was offered to a connection that
    /// ended, it cannot be known whether the server got it, because there is no reply. Use a
    /// [`call`](Self::call) where that matters.
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
        Subscribe::new(self.handle.clone(), topic)
    }

    /// Returns a stream of all notifications from now on, in addition to the streams of the
    /// subscriptions.
    pub fn notifications(&self) -> Notifications {
        Notifications::new(self.shared())
    }

    /// Returns a stream of the events of the client's connections from now on.
    pub fn events(&self) -> ConnectionEvents {
        self.shared().look(|core| {
            let ended = matches!(core.status(), Status::Ended(_));
            core.events.listen(core.links.config.held_events, ended)
        })
    }

    /// Publishes to a topic, where the server allows clients to.
    ///
    /// # Errors
    /// As a call's; [`CallError::Refused`](crate::CallError::Refused) with `forbidden` where it is
    /// not allowed.
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
    /// The next round of attempts begins as soon as 250 ms have passed since the last one began. An
    /// attempt that is under way is not disturbed; the next round follows it at once. Later pauses
    /// are not changed. The `retry` of a server is still obeyed. If there is a connection, and for
    /// a client of [`Client::new`], this does nothing.
    pub fn reconnect_now(&self) {
        self.shared().act(|core, step| core.hurry(step));
    }

    /// Returns the counters and gauges of this client, over all its connections. Calls that wait
    /// for the driver are included. Everything that was reported to a caller or a stream is already
    /// counted.
    pub fn stats(&self) -> ClientStats {
        self.shared().stats(self.shared().now())
    }

    /// Closes the connection in order: no request is sent any more, calls in flight are answered,
    /// and the server closes. Waits for all of this, for at most [`ClientConfig::close_timeout`].
    /// Without a connection the client ends at once.
    ///
    /// # Errors
    /// [`ConnectionError`] when the client had ended in another way, or when the connection fails
    /// meanwhile.
    ///
    /// # Cancel safety
    /// Dropping it does not stop the closing.
    pub async fn close(&self) -> Result<(), ConnectionError> {
        self.shared().act(|core, step| core.begin_close(ConnectionError::Closed, step));
        consume_budget().await;
        let ended = self.shared().until(|core| match core.status() {
            Status::Ended(error) => Some(error.clone()),
            Status::Connecting | Status::Open(_) => None,
        });
        match ended.await {
            ConnectionError::Closed => Ok(()),
            error => Err(error),
        }
    }
}
