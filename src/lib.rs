//! Pipelined RPC and resumable pub/sub on one connection.
//!
//! bellwire is a line protocol for services whose clients both call and listen. Requests carry an
//! id and are pipelined. Replies come back in any order and are matched by id. Notifications arrive
//! on the same connection, in order. They can be resumed, and every loss is reported.
//!
//! ```text
//!   one after the other            pipelined, with a notification
//!
//!   client      server             client                     server
//!     | 1 a        |                 | 1 a  2 b  3 c             |
//!     |----------->|                 |-------------------------->|
//!     |       1 ok |                 |         2 ok  * t 18  1 ok|
//!     |<-----------|                 |<--------------------------|
//!     | 2 b        |                 |                       3 ok|
//!     |----------->|                 |<--------------------------|
//!     |       2 ok |
//!     |<-----------|
//! ```
//!
//! # A server and a client
//!
//! ```
//! use bellwire::{Client, Delivery, Router, Server};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0").await?;
//! let address = server.local_addr()?.to_string();
//! let publisher = server.publisher();
//! let router = Router::new().method("greet", async |name: String| format!("hello, {name}"));
//! tokio::spawn(server.serve(router).into_future());
//!
//! let client = Client::connect(address).await?;
//! let mut news = client.subscribe("news").await?;
//! publisher.publish("news", "it rains").await?;
//!
//! // Calls and notifications share the connection, and do not wait for each other.
//! assert_eq!(client.call("greet", "Ada").await?, "hello, Ada");
//! let Some(Delivery::Notification(first)) = news.next().await else { panic!("nothing is lost") };
//! assert_eq!((first.sequence, &first.payload[..]), (1, &b"it rains"[..]));
//! client.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # When the connection is lost
//!
//! A client of [`Client::connect`] or [`Client::builder`] connects again. Handles, subscriptions and
//! streams of events live on. A call in progress ends by what can be proven: see [`CallError`]. If it
//! is proven not executed, it is sent again within its deadline. A subscription resumes from its own
//! position. A client that can never connect again, for example because its credentials are
//! refused, has ended for good: see [`Client::ended`].
//!
//! ```
//! use std::time::Duration;
//! use bellwire::{Client, Delivery, Router, Server, protocol::Code};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0").await?;
//! let (address, publisher) = (server.local_addr()?.to_string(), server.publisher());
//! let (sessions, router) = (server.handle(), Router::new().method("echo", async |text: String| text));
//! tokio::spawn(server.serve(router).into_future());
//!
//! let client = Client::builder().addresses([&address, "127.0.0.1:9"]).connect().await?;
//! let mut news = client.subscribe("news").await?;
//! sessions.sessions().iter().for_each(|session| session.close(Code::from_static("maintenance")));
//! publisher.publish("news", "it rains").await?;
//!
//! match client.call("echo", "again").deadline(Duration::from_secs(5)).await {
//!     Ok(reply) => assert_eq!(reply, "again"),
//!     Err(error) if error.is_safe_to_retry() => println!("it has not run: {error}"),
//!     Err(error) => println!("it may have run, try again only if that does no harm: {error}"),
//! }
//! // What was published meanwhile is delivered once, in order. A gap would name what is gone.
//! let Some(Delivery::Notification(first)) = news.next().await else { panic!("nothing is lost") };
//! assert_eq!(first.payload, "it rains");
//! # client.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Subscribe::resync`] registers a callback that fetches the state again after a loss.
//! [`Subscribe::fail_on_loss`] ends the stream at a loss. [`Progress::seen`] waits for the effect of
//! your own call:
//!
//! ```
//! use std::time::Duration;
//! use bellwire::{Client, Delivery, server::TokenAuthenticator};
//!
//! # async fn fresh_token() -> Result<bellwire::Credentials, std::io::Error> {
//! #     Ok("secret".into())
//! # }
//! # async fn fetch_all(client: Client) -> Result<(), bellwire::CallError> {
//! #     client.call("offers.list", "").await.map(drop)
//! # }
//! # fn show(_: Delivery) {}
//! # async fn example(offer: String) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .addresses(["offers-1.example:7440", "offers-2.example:7440"])
//!     .authenticate(TokenAuthenticator::SCHEME, fresh_token) // called before each connection
//!     .connect() // fails without a server; `connect_lazily` waits for one
//!     .await?;
//!
//! let fetching = client.clone();
//! let mut offers = client
//!     .subscribe("offers")
//!     .resync(move |_loss| fetch_all(fetching.clone())) // after a gap or a reset
//!     .await?;
//! let progress = offers.progress();
//! tokio::spawn(async move { while let Some(delivery) = offers.next().await { show(delivery) } });
//!
//! let added = client.call("offers.add", offer).deadline(Duration::from_secs(5)).replied().await?;
//! if let Some(after) = added.after {
//!     progress.seen(after.position).await; // the new offer was shown
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Streams and acks
//!
//! A handler that returns [`Streamed`] answers with many items. The next item is made only when the
//! client has given credit for it. A subscription with a [window](Subscribe::window) has at most that
//! many unacknowledged notifications. So a slow side never makes data pile up at the other.
//!
//! ```
//! use bellwire::{Client, Delivery, Router, Server, Slow, Streamed};
//! use futures::stream;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0").await?;
//! let (address, publisher) = (server.local_addr()?.to_string(), server.publisher());
//! let count = async |_: String| Streamed(stream::iter((1..=100).map(|n| n.to_string())));
//! tokio::spawn(server.serve(Router::new().method("count", count)).into_future());
//!
//! let client = Client::connect(address).await?;
//! let mut numbers = client.stream("count", "").window(8);
//! while let Some(number) = numbers.next().await {
//!     println!("{}", number?.escape_ascii());
//! }
//!
//! let news = client.subscribe("news").window(8).slow(Slow::Latest).ack_by_hand();
//! let mut news = news.await?;
//! publisher.publish("news", "it rains").await?;
//! if let Some(Delivery::Notification(first)) = news.next().await {
//!     first.ack(); // handled, and not only read
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Authentication and authorization
//!
//! An [`Authenticator`](server::Authenticator) finds out who a client is, from `/auth`. Under TLS the
//! client's certificate can say so, too. An [`Authorizer`](server::Authorizer) is called before each
//! call, subscription and publish. By default there is none of these, so that every client that
//! reaches the address may call and listen. A server that listens beyond loopback with neither TLS nor
//! an authenticator logs a warning.
//!
//! ```
//! use bellwire::{
//!     Client, ClientConfig, Router, Server,
//!     server::{Action, Principal, TokenAuthenticator},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tokens = TokenAuthenticator::new().token("5f1c0a3e-7d52", Principal::new("ada"));
//! let may = |who: &Principal, action: Action<'_>| match action {
//!     Action::Subscribe(topic) => who.name() == Some(topic),
//!     _ => true,
//! };
//! let server = Server::bind("127.0.0.1:0").await?.authenticator(tokens).authorizer(may);
//! let address = server.local_addr()?.to_string();
//! tokio::spawn(server.serve(Router::<()>::new()).into_future());
//!
//! let config = ClientConfig::new().auth(TokenAuthenticator::SCHEME, "5f1c0a3e-7d52");
//! let ada = Client::connect_with(address, config).await?;
//! ada.subscribe("ada").await?;
//! let refused = ada.subscribe("bob").await.unwrap_err();
//! assert_eq!(refused.code().unwrap(), "forbidden");
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! - [`Client`]: [`call`](Client::call), [`stream`](Client::stream),
//!   [`subscribe`](Client::subscribe), [`notifications`](Client::notifications); [`CallError`] tells
//!   "safe to retry" from "may have run". [`ClientBuilder`]: addresses, transport and credentials.
//! - [`Server`], [`Router`] and [`Publisher`]; handlers take [extractors](server::FromRequest), and
//!   [layers](server::Layer) wrap them.
//! - [`TestRequest`](server::TestRequest): tests your extractors, layers and handlers without a
//!   server. [`Notification::new`] and [`Gap::new`] do the same for code that listens.
//! - [`ServerHandle`] and [`Session`]: what a server does now, and how to end one connection.
//! - [`ClientConfig`] and [`ServerConfig`]: every bound, with its default.
//! - [`protocol`]: lines and names, for your own tools and clients.
//! - In the repository, and in the source of the package: PROTOCOL.md (sections 1 to 10) and
//!   docs/protocol/ (sections 11 to 24) specify the wire. These docs name their sections, and an id
//!   such as `S3.4` is the fourth rule for servers in section 3. SECURITY.md says what peers may do,
//!   and how each threat is held off.
//!
//! # Testing a service
//!
//! [`memory::pair`] connects clients and a server within a test: no port, and tokio's clock may be
//! paused, so that deadlines cost no time. [`TestRequest`](server::TestRequest) runs one handler or
//! extractor with its layers, without a connection. [`Notification::new`], [`Gap::new`] and
//! [`Replied::new`] make values for code that receives them.
//!
//! ```
//! use bellwire::{Client, Router, Server, memory};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), bellwire::CallError> {
//! let (listener, connector) = memory::pair();
//! let router = Router::new().method("greet", async |name: String| format!("hello, {name}"));
//! tokio::spawn(Server::new(listener).serve(router).into_future());
//!
//! let client = Client::builder().address("any").connector(connector).connect_lazily();
//! assert_eq!(client.call("greet", "Ada").await?, "hello, Ada");
//! # Ok(())
//! # }
//! ```
//!
//! # What is logged
//!
//! The crate logs with `tracing`. Nothing is logged per request or message above `debug`, and no text
//! holds raw bytes of a peer.
//!
//! | span | target | level | fields |
//! |---|---|---|---|
//! | `connection` | `bellwire::server::…` | info | `session`, `peer` |
//! | `client` | `bellwire::client::…` | info | `session`, once the server has said it |
//! | `handler` | `bellwire::handler` | debug | `method`, `id`, `trace` |
//!
//! | level | events |
//! |---|---|
//! | error | your code panicked (a handler, a listener, a connector, a store, a handshake), a store or an authorizer failed or does not answer, connections cannot be accepted |
//! | warn | a server listens beyond loopback with neither TLS nor an authenticator; the limit of open files lowers the number of connections |
//! | info | a server begins to serve; a client is closed because the server's buffers are full |
//! | debug | connections that open, close or fail; the principal of a connection; malformed lines; refused credentials; attempts to connect |
//!
//! The span `connection` does not name the client's principal, because it begins before the client
//! is known. Two events at `debug` in this span do, in the field `principal`: `authenticated` after
//! an `/auth`, and `client identified by its transport`, for example by a TLS certificate. Neither
//! contains the credentials. The event `handler panicked` has the fields `method` and `id`, and
//! `serving` has `connections` and `worst_case_bytes`.
//!
//! A filter such as `RUST_LOG=bellwire=info,bellwire::handler=debug` shows the handlers' spans, too.
//! [`Client::events`] reports what happens to a client's connection to the application itself, and
//! [`Client::ended`] says whether the client has ended for good, and why.
//!
//! # Panics of your code
//!
//! Handlers, layers, hooks, stores, listeners, connectors, transports of clients, codecs of calls, and
//! callbacks that resynchronise run under a guard. A panic ends the request, the subscription,
//! the connection or the attempt that it belongs to, and nothing else. The guard needs panics that
//! unwind, which is the default. With `panic = "abort"` in the profile of the program, each panic ends
//! the process.
//!
//! # Features
//!
//! - `json` (default): typed calls and handlers with serde.
//! - `codec`: lines as a `tokio_util::codec`.
//! - `tls`: TLS on both sides, with rustls and ring: `tls::TlsListener`, `ClientBuilder::tls`.
//! - `redis`: topics in Redis or Valkey that several servers share, [`topic::redis`].
//! - `sqlite`: topics in a file that survive restarts, [`topic::sqlite`].
//! - `tower`: a stack of tower layers around the handlers, `Router::tower`.
//! - `metrics`: statistics and handler times, for the `metrics` facade.
//! - `stats-method`: the method `bellwire.stats`, which `bellwire top` calls, `Server::stats_method`.
//! - `store-suite`: the suite that a topic store of your own has to pass, `topic::suite`.
//! - `ws`: WebSockets on both sides, for web pages, `ws`; with `tls` also `wss`.
//! - `unstable-core`: the parts in `unstable`, which may change in any release.

mod client;
#[cfg(feature = "codec")]
pub mod codec;
mod coop;
mod credentials;
mod error;
mod guard;
mod io;
#[cfg(feature = "json")]
mod json;
pub mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
mod outbound;
pub mod protocol;
mod random;
pub mod server;
mod sync;
mod tcp;
#[cfg(feature = "tls")]
pub mod tls;
pub mod topic;
#[cfg(feature = "unstable-core")]
pub mod unstable;
#[cfg(feature = "ws")]
pub mod ws;
#[cfg(feature = "ws")]
mod ws_stream;

#[cfg(feature = "json")]
pub use client::JsonCodec;
#[cfg(unix)]
pub use client::UnixConnector;
pub use client::{
    After, AfterReset, Call, Client, ClientBuilder, ClientConfig, ClientStats, CodecError,
    Connecting, Connection, ConnectionEvent, ConnectionEvents, Connector, Decode, Delivery, Encode,
    Finishing, Gap, GapCause, ItemCredit, Key, Loss, Methods, Notification, Notifications, OneWay,
    Progress, Publish, Replied, Resolving, Seen, Streaming, Subscribe, Subscription, TcpConnector,
    TypedCall, TypedStreaming,
};
pub use credentials::Credentials;
pub use error::{CallError, Cause, ConnectionError, NotSent, Unknown};
#[cfg(feature = "json")]
pub use json::Json;
#[doc(inline)]
pub use protocol::Slow;
pub use random::Random;
#[doc(inline)]
pub use server::{
    Failure, Listener, Router, Server, ServerConfig, ServerHandle, ServerStats, Session,
    SessionStats, State, Streamed, blocking, handler,
};
#[doc(inline)]
pub use topic::{Confirmed, PublishError, Published, Publisher};
