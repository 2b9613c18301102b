//! Listeners, and the tasks that run connections on the runtime.

pub(in crate::server) mod accept;
pub(in crate::server) mod both;
pub(in crate::server) mod clock;
pub(in crate::server) mod handshake;
pub(in crate::server) mod listener;
pub(crate) mod memory;
#[cfg(test)]
mod mixtures;
mod prepared;
pub(in crate::server) mod runs;
pub(in crate::server) mod serving;
pub(in crate::server) mod socket;
mod spanned;
pub(in crate::server) mod timers;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(unix)]
mod unix;
#[cfg(feature = "ws")]
pub(crate) mod ws;
#[cfg(feature = "ws")]
pub(crate) mod ws_upgraded;
