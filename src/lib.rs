//! bellwire
mod client;
mod error;
mod io;
#[cfg(feature = "json")]
mod json;
pub mod protocol;
mod random;
pub mod server;
mod sync;
pub mod topic;

#[cfg(feature = "json")]
pub use client::JsonCodec;
pub use client::{
    Call, Client, ClientConfig, ClientStats, CodecError, Connection, ConnectionEvent,
    ConnectionEvents, Decode, Delivery, Encode, Gap, GapCause, Listening, Notification,
    Notifications, Subscribe, Subscription, TypedCall,
};
pub use error::{CallError, ConnectionError, NotSent, Unknown};
#[cfg(feature = "json")]
pub use json::Json;
pub use random::Random;
pub use server::{
    Failure, Listener, Router, Server, ServerConfig, ServerHandle, ServerStats, Session, State,
    blocking, handler,
};
pub use topic::{PublishError, Published, Publisher};
