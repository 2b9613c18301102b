//! Parts without a stable interface. They may change, or be removed, in any release. Feature
//! `unstable-core`.
//!
//! They are for fuzz targets, simulations, and drivers for other runtimes.

/// The rules of both ends, as pure transitions.
pub mod rules {
    pub use crate::protocol::rules::*;
}

/// One connection of a server, without a transport and without a runtime.
///
/// With it a server can be driven by hand, by a simulation, or on a runtime other than tokio. A
/// driver accepts connections, does the TLS handshake, and reads and writes. It has one timer for
/// each connection, and one for the [`Upkeep`](server::Upkeep). [`Connection`](server::Connection)
/// documents the order of the driver's calls. Handlers that are
/// [`spawned`](crate::server::Endpoint::spawned) or [`blocking`](crate::blocking) need tokio.
pub mod server {
    pub use crate::server::{
        core::{
            connection::Connection, environment::Environment, rounds::StopStep,
            state::ConnectionState, upkeep::Upkeep,
        },
        keys::runs::DetachedRun,
    };
}

/// Frames of WebSockets, without a transport and without what bellwire puts into them.
#[cfg(feature = "ws")]
pub mod ws {
    pub use crate::ws_stream::{
        decoder::{Decoder, Step},
        frame::{Opcode, Role, encode},
    };
}

/// One connection of a client, without a transport and without a runtime.
///
/// [`by_hand`](client::by_hand) makes a client with one such connection. [`dialer`](client::dialer)
/// makes a client with several, one after the other. [`Connection`](client::Connection) documents
/// the order of the driver's calls.
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
