//! A WebSocket as a byte stream (docs/protocol/websocket.md, section 24): frames, the opening
//! handshake of both ends, and the stream over a transport.
//!
//! Frames are decoded in place, as their bytes arrive. A message is never held as a whole, so the
//! bounds on lines, and on the time that they take, are those of any other transport.

#![cfg_attr(
    not(feature = "unstable-core"),
    allow(unreachable_pub, dead_code, reason = "the frames are public with `unstable-core`")
)]

pub(crate) mod decoder;
pub(crate) mod frame;
pub(crate) mod head;
pub(crate) mod limits;
pub(crate) mod opening;
pub(crate) mod origin;
mod outgoing;
mod overhead;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod stream;
pub(crate) mod url;

/// The subprotocol, which both ends name in the opening handshake.
pub const SUBPROTOCOL: &str = "bellwire.v1";
