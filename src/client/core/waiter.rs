//! The waiters of terminal lines.

use crate::{client::core::key::Key, protocol::Topic};

/// A waiter of a terminal line.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// An application request. It holds a place in flight.
    Request(Key),
    /// An application request whose caller has gone. It holds its place in flight until the
    /// terminal line arrives.
    Tombstone,
    /// A request of the protocol itself whose reply is a list, item by item.
    List(Key),
    /// `/subscribe`.
    Subscribe(Topic),
    /// `/unsubscribe`.
    Unsubscribe(Topic),
    /// `/renew`. `in_pages` says whether it asked for `list=more`.
    Renew { in_pages: bool },
    /// A request whose reply has no effect: `/hello`, or a list whose caller has gone.
    Ignored,
    /// `/auth`: nothing else is sent before its reply.
    Auth,
    /// `/quit`: its reply is the last line of the connection.
    Quit,
}

impl Waiter {
    /// Whether it holds one of the places in flight.
    pub(crate) fn holds_place(&self) -> bool {
        matches!(self, Self::Request(_) | Self::Tombstone)
    }
}

/// A waiter with the place of its request in the outbound stream.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) waiter: Waiter,
    /// The offset of the end of the request's line. It tells whether the line was offered to the
    /// transport.
    pub(crate) line_end: u64,
}
