//! WebSockets on both sides (docs/protocol/websocket.md, section 24), for web pages, and for
//! clients behind proxies that let nothing but HTTP through.
//!
//! A server listens with a [`WsListener`], and with [`Both`](crate::server::Both) also over TCP. A
//! client connects with a [`WsConnector`]. The lines are those of any other transport, in binary
//! messages. The limits, the deadlines and the drain of the server apply to them.
//!
//! A web page of any site can open a WebSocket to any server that its visitor's browser reaches.
//! By default a server accepts pages of its own origin only: see [`Origins`]. An HTTP server that
//! has other pages passes its upgraded connections on: see [`upgraded`].
//!
//! Messages are not compressed.

pub use crate::{
    client::driver::ws::{WsConnector, WsTransport, open},
    server::driver::{
        ws::{WsConnection, WsListener},
        ws_upgraded::{UpgradedListener, Upgrades, upgraded},
    },
    ws_stream::{
        SUBPROTOCOL,
        frame::Fault,
        limits::WsConfig,
        origin::Origins,
        request::{Accepted, Refusal},
        response::NoWebSocket,
        stream::WsStream,
    },
};
