//! What waits for a terminal line.

use crate::{client::core::key::Key, protocol::Topic};

/// What waits for a terminal line.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// An application request. It holds a place in flight.
    Request(Key),
    /// An application request whose caller is gone. It holds its place until the terminal line, which
    /// is late then.
    Tombstone,
    /// A request of the protocol's own that lists things, item by item.
    List(Key),
    /// `/subscribe`.
    Subscribe(Topic),
    /// `/unsubscribe`.
    Unsubscribe(Topic),
    /// `/renew`; whether its list was asked for in lines of its own.
    Renew { in_pages: bool },
    /// Its reply says nothing that is not known by then: `/hello`, and a list whose caller is gone.
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

/// A terminal line that is to come.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) waiter: Waiter,
    /// Where in the outbound stream the request's LF ends: what tells sent from not sent.
    pub(crate) line_end: u64,
}
