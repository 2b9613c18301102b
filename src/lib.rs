//! bellwire
mod client;
mod error;
mod io;
pub mod protocol;
mod random;
mod sync;

#[cfg(feature = "json")]
pub use client::JsonCodec;
pub use client::{
    Call, Client, ClientConfig, ClientStats, CodecError, Connection, ConnectionEvent,
    ConnectionEvents, Decode, Delivery, Encode, Gap, GapCause, Listening, Notification,
    Notifications, Published, Subscribe, Subscription, TypedCall,
};
pub use error::{CallError, ConnectionError, NotSent, Unknown};
pub use random::Random;
