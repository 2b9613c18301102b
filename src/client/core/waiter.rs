//! The waiters for terminal lines, and what the line brings each of them.

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    client::{core::items::Flow, shared::wake},
    error::CallError,
    guard::guarded,
    protocol::{AttributeList, Topic},
    sync::{Arc, oneshot},
};

/// What `ok` brought.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) attributes: AttributeList,
    pub(crate) payload: Bytes,
}

pub(crate) type CallResult = Result<Reply, CallError>;

/// What a list of the protocol's own brought, line by line.
pub(crate) type Listed = Result<Vec<Bytes>, CallError>;

/// Who waits for a terminal line.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// An application call. It holds a place in flight.
    Call(oneshot::Sender<CallResult>),
    /// An application call whose reply is streamed. It holds a place in flight.
    Stream(Arc<Flow>),
    /// A dropped application call: its place is held until the terminal line, which is late then.
    Tombstone,
    /// A request of the protocol's own that lists things, item by item.
    List { items: Vec<Bytes>, bytes: usize, caller: oneshot::Sender<Listed> },
    /// `/subscribe`.
    Subscribe(Topic),
    /// `/unsubscribe`.
    Unsubscribe(Topic),
    /// `/renew`; whether its list was asked for in lines of its own.
    Renew { in_pages: bool },
    /// `/hello`: the reply says nothing that is not known by then. Also a list whose caller is
    /// gone.
    Hello,
    /// `/auth`: nothing else is sent before its reply.
    Auth,
    /// `/quit`: its reply is the last line of the connection.
    Quit,
}

impl Waiter {
    /// Whether it holds one of the places in flight.
    pub(crate) fn holds_place(&self) -> bool {
        matches!(self, Self::Call(_) | Self::Stream(_) | Self::Tombstone)
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Tells the waiter that there will be no terminal line.
    pub(crate) fn fail(self, error: CallError) {
        match self {
            Self::Call(caller) => drop(guarded(|| caller.send(Err::<Reply, _>(error)))),
            Self::List { caller, .. } => drop(guarded(|| caller.send(Err(error)))),
            Self::Stream(flow) => wake(flow.finish(None, Err(error))),
            // What waits for a subscription hears it from the topics.
            _ => {}
        }
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) waiter: Waiter,
    /// Where in the outbound stream the request's LF ends: what tells sent from not sent.
    pub(crate) line_end: u64,
    /// When the driver ends it, if its caller does not.
    pub(crate) expires: Option<Instant>,
}

impl Entry {
    /// The caller is gone: leaves a tombstone of a call. Whether there was one to leave. Of a list, what
    /// was gathered goes; the rest of it is passed over.
    ///
    /// What waited is dropped here, under the lock of the table: a one-shot whose receiver is gone,
    /// or a share of a [`Flow`] whose reader holds another.
    pub(crate) fn cancel(&mut self) -> bool {
        let is_call = matches!(self.waiter, Waiter::Call(_) | Waiter::Stream(_));
        if is_call {
            self.waiter = Waiter::Tombstone;
        } else if matches!(self.waiter, Waiter::List { .. }) {
            self.waiter = Waiter::Hello;
        }
        is_call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_call_holds_its_place() {
        let (sender, _receiver) = oneshot::channel();
        let mut entry = Entry { waiter: Waiter::Call(sender), line_end: 0, expires: None };
        assert!(entry.cancel());
        assert!(!entry.cancel());
        assert!(entry.waiter.holds_place());
        assert!(!Waiter::Renew { in_pages: false }.holds_place());
    }
}
