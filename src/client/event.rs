//! Events of a client's connections, as a stream.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use uuid::Uuid;

use crate::{
    coop::poll_budgeted,
    error::ConnectionError,
    protocol::{Epoch, Hello, Reason, RequestId, Topic},
    sync::{Arc, Mutex, Weak},
};

/// An event of a client's connection, other than replies and notifications.
///
/// - A client of one connection ([`Client::new`](crate::Client::new)) emits `Connected` once, at
///   its beginning.
/// - A client that reconnects emits `Connecting` for each address that it tries, several of which
///   may be in progress at once. It emits `ConnectFailed` for each that fails, and `Connected` for
///   the first that succeeds. When that connection is over, it emits `Disconnected`, and then
///   `Connecting` again, after a pause ([`reconnect_base`](crate::ClientConfig::reconnect_base)).
/// - When the server sends `/bye`, `Leaving` comes first. The client connects elsewhere, after the
///   same pause, while the server finishes the requests in flight. So the `Disconnected` of that
///   connection may come after the next `Connected`. The session tells them apart.
/// - `Ended` comes once, as the last event.
/// - The others come any number of times, in the order in which their lines were read. This
///   includes `Bye`, because a server may send `/bye` more than once.
///
/// [`ClientStats`](crate::ClientStats) counts the unmatched replies and the violations, whether or
/// not these events are read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// An attempt to connect to an address begins. No event says that it ended if another address
    /// is connected first.
    Connecting {
        /// The address that is tried.
        address: String,
        /// Attempts since there was a connection, from 1.
        attempt: u32,
    },
    /// An attempt to connect failed. The client goes on, unless `Ended` follows.
    ConnectFailed {
        /// The address that was tried.
        address: String,
        /// Why.
        error: ConnectionError,
    },
    /// The server has sent `/hello`, and has accepted the credentials if it asked for them. Calls
    /// are sent now.
    Connected(Hello),
    /// A connection is over. The client goes on, unless `Ended` follows.
    Disconnected {
        /// The session, as its `Connected` named it.
        session: Uuid,
        /// Why.
        error: ConnectionError,
    },
    /// This number of one-way requests was dropped, because the connection ended, or the server
    /// sent `/bye;last=N`, before their lines were offered to the transport.
    OneWaysDropped(u64),
    /// A reply arrived after its caller had gone, because the call was dropped or its deadline had
    /// passed. This is not an error; the reply was discarded.
    LateReply(RequestId),
    /// A line arrived for a request that already had its terminal line. It was ignored. In [strict
    /// mode](crate::ClientConfig::strict) it ends the connection.
    DoubledReply(RequestId),
    /// A reply arrived for a request that was never sent. Otherwise as `DoubledReply`.
    UnaskedReply(RequestId),
    /// The server's reply to a `/renew` did not list the positions of the topics, for this reason.
    /// Without the list, this client cannot notice a loss that the server does not name.
    RenewalFailed(Reason),
    /// The server reports an error with `/error`, which belongs to no request.
    ServerError {
        /// The id of the line at fault, where the server could read one.
        id: Option<RequestId>,
        /// The code and the text.
        reason: Reason,
    },
    /// The server broke the order of a topic's numbers, and the line was ignored. Or it sent a
    /// notification beyond the topic's window, which was delivered anyway.
    Violation(Topic),
    /// A notification has stayed unacknowledged for longer than
    /// [`ack_within`](crate::Subscribe::ack_within). It is the lowest one of a subscription that is
    /// acknowledged by hand, and is reported once.
    Unacknowledged {
        /// The topic.
        topic: Topic,
        /// The topic's log.
        epoch: Epoch,
        /// Its number in the log.
        sequence: u64,
    },
    /// The server has sent `/bye`. No call and no subscription begins on this connection any more.
    /// Calls in flight and subscriptions go on until the connection is over.
    Leaving(Reason),
    /// The server has sent `/bye` with `last`. No request is sent to it any more, and it finishes
    /// what it has accepted.
    Bye(Reason),
    /// A [`resync`](crate::Subscribe::resync) callback or its future panicked: that attempt failed.
    ResyncPanicked {
        /// The topic.
        topic: Topic,
        /// The message of the panic.
        message: String,
    },
    /// The client has ended.
    Ended(ConnectionError),
    /// This number of events was dropped, the oldest first, because this stream was not read in
    /// time. A stream holds [`held_events`](crate::ClientConfig::held_events) of them.
    Missed(u64),
}

/// The streams that get events.
#[derive(Debug, Default)]
pub(crate) struct Events {
    listeners: Vec<Weak<Mutex<EventQueue>>>,
}

#[derive(Debug)]
pub(crate) struct EventQueue {
    events: VecDeque<ConnectionEvent>,
    max_events: usize,
    missed: u64,
    ended: bool,
    reader: Option<Waker>,
}

impl Events {
    /// Queues the events of a step. Returns the tasks to be woken.
    pub(crate) fn queue(&mut self, events: Vec<ConnectionEvent>) -> Vec<Waker> {
        self.listeners.retain(|listener| listener.strong_count() > 0);
        let mut readers = Vec::new();
        for event in events {
            for queue in self.listeners.iter().filter_map(Weak::upgrade) {
                readers.extend(queue.lock().push(event.clone()));
            }
        }
        readers
    }

    /// Creates a stream of the events from now on, which holds up to `max_events` unread events.
    /// `ended` says that no event follows.
    pub(crate) fn listen(&mut self, max_events: usize, ended: bool) -> ConnectionEvents {
        let (events, reader) = Default::default();
        let queue = EventQueue { events, max_events, missed: 0, ended, reader };
        let queue = Arc::new(Mutex::new(queue));
        if !ended {
            self.listeners.retain(|listener| listener.strong_count() > 0);
            self.listeners.push(Arc::downgrade(&queue));
        }
        ConnectionEvents(queue)
    }
}

impl EventQueue {
    fn push(&mut self, event: ConnectionEvent) -> Option<Waker> {
        if self.ended {
            return None;
        }
        self.ended = matches!(event, ConnectionEvent::Ended(_));
        if self.events.len() >= self.max_events {
            self.events.pop_front();
            self.missed += 1;
        }
        self.events.push_back(event);
        self.reader.take()
    }
}

/// The events of a client from when this stream was made:
/// [`Client::events`](crate::Client::events).
///
/// Holds up to [`held_events`](crate::ClientConfig::held_events) unread events (256), each with at
/// most one line of the server. Then the oldest are dropped, and [`ConnectionEvent::Missed`] says
/// how many. Ends after [`ConnectionEvent::Ended`].
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct ConnectionEvents(Arc<Mutex<EventQueue>>);

impl ConnectionEvents {
    /// The next event; `None` after [`ConnectionEvent::Ended`].
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<ConnectionEvent> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for ConnectionEvents {
    type Item = ConnectionEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        poll_budgeted(cx, |cx| self.poll_event(cx))
    }
}

impl ConnectionEvents {
    fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        let mut queue = self.0.lock();
        if queue.missed > 0 {
            return Poll::Ready(Some(ConnectionEvent::Missed(std::mem::take(&mut queue.missed))));
        }
        match queue.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.ended => Poll::Ready(None),
            None => {
                let unused = queue.reader.replace(cx.waker().clone());
                drop(queue);
                drop(unused);
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_listeners_do_not_accumulate() {
        let mut events = Events::default();
        let kept = events.listen(2, false);
        (0..100).for_each(|_| drop(events.listen(2, false)));
        assert_eq!(events.listeners.len(), 2, "the one that is kept, and the last");
        assert!(events.queue(vec![ConnectionEvent::Missed(1)]).is_empty());
        assert_eq!(events.listeners.len(), 1);
        drop(kept);
        drop(events.listen(2, true));
        assert!(events.queue(vec![ConnectionEvent::Missed(2)]).is_empty());
        assert!(events.listeners.is_empty());
    }
}
