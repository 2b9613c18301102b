//! Parts without a stable interface: they may change, or go, in any release. With the feature
//! `unstable-core`.
//!
//! They are for fuzz targets, simulations, and drivers for other runtimes.

/// The rules of both ends, as pure transitions.
pub mod rules {
    pub use crate::protocol::rules::*;
}

/// One connection of a server, without a transport and without a runtime.
///
/// With it a server can be driven by hand, by a simulation, or on another runtime than tokio. A
/// driver accepts connections and does their TLS, reads and writes, and has one timer for each
/// connection, and one for the [`Upkeep`](server::Upkeep).
/// [`Connection`](server::Connection) says in which order it calls what. Handlers that
/// are [`spawned`](crate::server::Endpoint::spawned) or [`blocking`](crate::blocking) need tokio.
pub mod server {
    pub use crate::server::core::{
        connection::Connection, environment::Environment, rounds::StopStep, state::ConnectionState,
        upkeep::Upkeep,
    };
}

/// One connection of a client, without a transport and without a runtime.
///
/// [`by_hand`](client::by_hand) makes a client with such a connection, and
/// [`dialer`](client::dialer) one that has several, one after the other.
/// [`Connection`](client::Connection) says in which order its driver calls what.
pub mod client {
    pub use crate::client::{
        by_hand::{Dial, Dialer, by_hand, dialer},
        core::{
            connection::{Connection, Output},
            pending::Pending,
            state::ConnectionState,
        },
    };
}
