//! One connection to ask on, and to be told on.
//!
//! bellwire is a line protocol for services whose clients both call and listen. Requests carry an
//! id and are pipelined; replies come back in any order and find their caller by that id;
//! notifications come on a reserved channel of the same connection, in order, resumable, and never
//! lost in silence.
//!
//! ```text
//!   one after the other            pipelined, and told meanwhile
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
//! // Calls and notifications share the connection; neither waits for the other.
//! assert_eq!(client.call("greet", "Ada").await?, "hello, Ada");
//! let Some(Delivery::Notification(first)) = news.next().await else { panic!("nothing is lost") };
//! assert_eq!((first.sequence, &first.payload[..]), (1, &b"it rains"[..]));
//! client.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! - [`Client`]: [`call`](Client::call), [`stream`](Client::stream),
//!   [`subscribe`](Client::subscribe), [`notifications`](Client::notifications); [`CallError`] tells "safe to retry" from "may have
//!   run".
//! - [`Server`], [`Router`] and [`Publisher`]; handlers take [extractors](server::FromRequest).
//! - [`ClientConfig`] and [`ServerConfig`]: every bound, with its default.
//! - [`protocol`]: the sans-IO core, for tools and clients of one's own.
//! - PROTOCOL.md in the repository: the wire, normative. The docs name its sections.
//!
//! # Features
//!
//! - `json` (default): typed calls and handlers by serde.
//! - `codec`: lines as a `tokio_util::codec`.
//! - `tower`: a stack of tower's around the handlers, `Router::tower`.
//! - `metrics`: statistics and the time that handlers take, for the `metrics` facade.
//! - `tls`: TLS on both sides by rustls.

mod client;
#[cfg(feature = "codec")]
pub mod codec;
mod credentials;
mod error;
mod io;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod protocol;
mod random;
pub mod server;
mod sync;
#[cfg(feature = "tls")]
pub mod tls;
pub mod topic;

#[cfg(feature = "json")]
pub use client::JsonCodec;
pub use client::{
    Call, Client, ClientConfig, ClientStats, CodecError, Connection, ConnectionEvent,
    ConnectionEvents, Decode, Delivery, Encode, Gap, GapCause, Listening, Notification,
    Notifications, Streaming, Subscribe, Subscription, TypedCall, TypedStreaming,
};
pub use credentials::Credentials;
pub use error::{CallError, ConnectionError, NotSent, Unknown};
#[cfg(feature = "json")]
pub use json::Json;
pub use protocol::Slow;
pub use random::Random;
pub use server::{
    Failure, Listener, Router, Server, ServerConfig, ServerHandle, ServerStats, Session, State,
    Streamed, blocking, handler,
};
pub use topic::{PublishError, Published, Publisher};
