//! The client's connections on tokio: connecting, the socket loop, TLS.

pub(crate) mod connection;
pub(crate) mod connector;
mod race;
mod round;
pub(crate) mod supervisor;
mod timer;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(feature = "ws")]
pub(crate) mod ws;
